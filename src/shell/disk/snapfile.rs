//! The format of a snapshot file, `DATADIR/snapshot/INDEX.snap`, and the names in its folder.
//!
//! | part | bytes |
//! |---|---|
//! | head, 32 bytes | `TERNSNAP`, format version (4), zeros (4), index (8), CRC-32 of the first 24
//! bytes (4), zeros (4) |
//! | chunk, repeated | length (4), checksum (4), content |
//! | end, 24 bytes | length 0 (4), checksum of the rest (4), number of chunks (8), bytes of all
//! chunks (8) |
//!
//! Numbers are little-endian. The first chunk is the snapshot's `SnapshotMeta`. A checksum covers
//! the snapshot's index, the number of the chunk and the content, so that a chunk is valid only in
//! its own place. A file is synced before it is renamed to its final name, so a file of that name
//! is whole unless the disk has damaged it.
//!
//! Start with [`SnapshotFileWriter`] and [`SnapshotFileReader`].
use super::files::{self, DataDir};
use crate::core::raft::snapshot_head::{decode_meta, encode_meta};
use crate::core::raft::{Index, SnapshotMeta};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use wal::fs::{Access, FileSystem, OpenFile};

/// The name of the folder in the data directory.
pub const FOLDER: &str = "snapshot";
const MAGIC: &[u8; 8] = b"TERNSNAP";
const VERSION: u32 = 3;
/// The length of the head in bytes.
const HEAD_BYTES: usize = 32;
/// The longest chunk in bytes. The core makes chunks of a fraction of it, so a longer one is
/// damage.
const CHUNK_BYTES_MAX: u32 = 64 * 1024 * 1024;
/// Bytes that are read from the disk at once.
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// The folder of the snapshots.
pub fn folder<F: FileSystem>(data_dir: &DataDir<F>) -> PathBuf {
    data_dir.join(FOLDER)
}

/// A name in the folder. The index has 20 digits, so that names sort by it.
fn name(index: Index, suffix: &str) -> String {
    format!("{:020}.{suffix}", index.0)
}

/// The path of a whole snapshot.
pub fn file_of<F: FileSystem>(data_dir: &DataDir<F>, index: Index) -> PathBuf {
    folder(data_dir).join(name(index, "snap"))
}

/// The path of a snapshot that is being written.
pub fn unfinished<F: FileSystem>(data_dir: &DataDir<F>, index: Index) -> PathBuf {
    folder(data_dir).join(name(index, "tmp"))
}

/// The indexes of the snapshots in the folder, newest first.
///
/// # Errors
///
/// A system call failed.
pub fn list<F: FileSystem>(data_dir: &DataDir<F>) -> io::Result<Vec<Index>> {
    let mut found = Vec::new();
    for name in data_dir.fs().list(&folder(data_dir))? {
        let index = name.strip_suffix(".snap");
        found.extend(index.and_then(|n| n.parse().ok()).map(Index));
    }
    found.sort_by(|a, b| b.cmp(a));
    Ok(found)
}

/// Removes all snapshots except the `keep` newest, and all unfinished ones. Returns the indexes of
/// those that stay, newest first.
///
/// # Errors
///
/// A system call failed.
pub fn prune<F: FileSystem>(data_dir: &DataDir<F>, keep: usize) -> io::Result<Vec<Index>> {
    let mut all = list(data_dir)?;
    for index in all.drain(keep.min(all.len())..) {
        remove_file(data_dir, &file_of(data_dir, index))?;
    }
    let folder = folder(data_dir);
    for name in data_dir.fs().list(&folder)? {
        if name.ends_with(".tmp") {
            remove_file(data_dir, &folder.join(name))?;
        }
    }
    Ok(all)
}

/// Removes a file; the text of the error names it.
fn remove_file<F: FileSystem>(data_dir: &DataDir<F>, path: &Path) -> io::Result<()> {
    let removed = data_dir.fs().unlink(path);
    removed.map_err(|e| io::Error::new(e.kind(), format!("cannot remove {}: {e}", path.display())))
}

fn checksum(index: Index, number: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&index.0.to_le_bytes());
    hasher.update(&number.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// A snapshot that is being written.
pub struct SnapshotFileWriter<F: FileSystem> {
    file: F::File,
    data_dir: DataDir<F>,
    /// The length of the file so far, in bytes.
    length: u64,
    /// The index of the last entry that the snapshot covers; never changes.
    index: Index,
    /// Chunks written so far, the first one included.
    chunks: u64,
    /// The length of their content in bytes.
    bytes: u64,
    /// Bytes written since the last sync; below [`files::UNSYNCED_BYTES_MAX`].
    unsynced: usize,
}

impl<F: FileSystem> SnapshotFileWriter<F> {
    /// Makes the file under a temporary name and writes its head and the first chunk.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn new(data_dir: &DataDir<F>, meta: &SnapshotMeta) -> io::Result<SnapshotFileWriter<F>> {
        let mut head = [0; HEAD_BYTES];
        head[..8].copy_from_slice(MAGIC);
        head[8..12].copy_from_slice(&VERSION.to_le_bytes());
        head[16..24].copy_from_slice(&meta.index.0.to_le_bytes());
        let check = crc32fast::hash(&head[..24]);
        head[24..28].copy_from_slice(&check.to_le_bytes());
        let file = data_dir.fs().create(&unfinished(data_dir, meta.index))?;
        file.write_at(&head, 0)?;
        let mut writer = SnapshotFileWriter {
            file,
            data_dir: data_dir.clone(),
            length: HEAD_BYTES as u64,
            index: meta.index,
            chunks: 0,
            bytes: 0,
            unsynced: HEAD_BYTES,
        };
        let mut bytes = Vec::new();
        encode_meta(meta, &mut bytes);
        writer.append(&bytes)?;
        Ok(writer)
    }

    /// The index of the last entry that the snapshot covers.
    pub fn index(&self) -> Index {
        self.index
    }

    /// Appends a chunk. An empty one is left out, because length 0 marks the end.
    ///
    /// # Errors
    ///
    /// A system call failed.
    ///
    /// # Panics
    ///
    /// If the chunk is longer than 64 MiB.
    pub fn append(&mut self, chunk: &[u8]) -> io::Result<()> {
        assert!(chunk.len() <= CHUNK_BYTES_MAX as usize, "chunks are small");
        if chunk.is_empty() {
            return Ok(());
        }
        let mut head = [0; 8];
        head[..4].copy_from_slice(&(chunk.len() as u32).to_le_bytes());
        head[4..].copy_from_slice(&checksum(self.index, self.chunks, chunk).to_le_bytes());
        self.write(&head)?;
        self.write(chunk)?;
        self.chunks += 1;
        self.bytes += chunk.len() as u64;
        self.unsynced += head.len() + chunk.len();
        if self.unsynced >= files::UNSYNCED_BYTES_MAX {
            self.file.sync()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(bytes, self.length)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Writes the end and gives the file its final name, durably. Returns its length in bytes.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn finish(self) -> io::Result<u64> {
        let path = file_of(&self.data_dir, self.index);
        self.finish_as(&path)
    }

    /// [`SnapshotFileWriter::finish`], with another name in the folder of the snapshots.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn finish_as(mut self, path: &Path) -> io::Result<u64> {
        let mut end = [0; 24];
        end[8..16].copy_from_slice(&self.chunks.to_le_bytes());
        end[16..].copy_from_slice(&self.bytes.to_le_bytes());
        let check = checksum(self.index, self.chunks, &end[8..]);
        end[4..8].copy_from_slice(&check.to_le_bytes());
        self.write(&end)?;
        self.file.sync()?;
        let dir = &self.data_dir;
        let from = unfinished(dir, self.index);
        dir.fs().rename(&from, path)?;
        files::sync_folder(dir.fs(), &folder(dir))?;
        Ok(self.length)
    }

    /// Removes the unfinished file.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn abandon(self) -> io::Result<()> {
        let unfinished = unfinished(&self.data_dir, self.index);
        self.data_dir.fs().unlink(&unfinished)
    }
}

/// Why a snapshot cannot be used; with a sentence that names the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// The file is damaged or not whole.
    Damaged(String),
    /// The file has another format, is not a regular file, or cannot be opened. The disk did not
    /// damage a snapshot, so recovery must not fall back to an older one.
    Foreign(String),
}

impl Unusable {
    /// The sentence.
    pub fn text(self) -> String {
        match self {
            Unusable::Damaged(text) | Unusable::Foreign(text) => text,
        }
    }
}

/// Reads a file from its start to its end.
struct Sequential<T> {
    file: T,
    /// Where the next read begins.
    at: u64,
}

impl<T: OpenFile> Read for Sequential<T> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(into, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// A snapshot that is being read.
pub struct SnapshotFileReader<F: FileSystem> {
    file: BufReader<Sequential<F::File>>,
    path: PathBuf,
    /// The index of the last entry that the snapshot covers; never changes.
    index: Index,
    /// Chunks read so far, the first one included.
    chunks: u64,
    /// The length of their content in bytes.
    bytes: u64,
    /// Bytes of the file that were not read yet. No chunk may claim to be longer.
    left: u64,
    /// The content of the first chunk.
    meta: SnapshotMeta,
}

impl<F: FileSystem> SnapshotFileReader<F> {
    /// Opens the file at `path`, which must be the snapshot of this index, and reads its head and
    /// first chunk.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is damaged, has another format, or is the snapshot of another
    /// index.
    pub fn open(fs: &F, path: &Path, index: Index) -> Result<SnapshotFileReader<F>, Unusable> {
        let failed = |e: io::Error| Unusable::Foreign(format!("{}: {e}", path.display()));
        let file = fs.open(path, Access::Read).map_err(failed)?;
        let left = file.length().map_err(failed)?;
        let mut reader = SnapshotFileReader {
            file: BufReader::with_capacity(READ_BUFFER_BYTES, Sequential { file, at: 0 }),
            path: path.to_path_buf(),
            index,
            chunks: 0,
            bytes: 0,
            left,
            meta: SnapshotMeta::default(),
        };
        let mut head = [0; HEAD_BYTES];
        reader.read(&mut head)?;
        let check = crc32fast::hash(&head[..24]).to_le_bytes();
        if head[..8] != *MAGIC || check != head[24..28] || head[28..] != [0; 4] {
            return Err(reader.damage("its head is damaged"));
        }
        if head[8..12] != VERSION.to_le_bytes() {
            return Err(Unusable::Foreign(format!(
                "{}: the snapshot has another format, this version reads format {VERSION}: use the \
                 version that wrote it",
                path.display()
            )));
        }
        let first = reader.next()?.ok_or_else(|| reader.damage("it is empty"))?;
        match decode_meta(&first) {
            Ok((meta, [])) if meta.index == index && head[16..24] == index.0.to_le_bytes() => {
                reader.meta = meta;
                Ok(reader)
            }
            Ok(_) | Err(_) => Err(reader.damage("its head does not belong to it")),
        }
    }

    /// The snapshot's head.
    pub fn into_meta(self) -> SnapshotMeta {
        self.meta
    }

    /// The next chunk; `None` after the last one of a whole file.
    ///
    /// # Errors
    ///
    /// The file cannot be read or is damaged.
    pub fn next(&mut self) -> Result<Option<Vec<u8>>, Unusable> {
        let mut head = [0; 8];
        self.read(&mut head)?;
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let check = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if length == 0 {
            self.read_end(check)?;
            return Ok(None);
        }
        if length > CHUNK_BYTES_MAX || u64::from(length) > self.left {
            return Err(self.damage("a chunk's length is damaged"));
        }
        let mut chunk = vec![0; length as usize];
        self.read(&mut chunk)?;
        if checksum(self.index, self.chunks, &chunk) != check {
            return Err(self.damage("a chunk is damaged"));
        }
        self.chunks += 1;
        self.bytes += u64::from(length);
        Ok(Some(chunk))
    }

    fn read_end(&mut self, check: u32) -> Result<(), Unusable> {
        let mut end = [0; 16];
        self.read(&mut end)?;
        let counts = [self.chunks.to_le_bytes(), self.bytes.to_le_bytes()].concat();
        let is_valid = checksum(self.index, self.chunks, &end) == check && end[..] == counts;
        if !is_valid || self.left > 0 {
            return Err(self.damage("its end is damaged"));
        }
        Ok(())
    }

    fn read(&mut self, into: &mut [u8]) -> Result<(), Unusable> {
        if (into.len() as u64) > self.left {
            return Err(self.damage("it is cut short"));
        }
        self.left -= into.len() as u64;
        let result = self.file.read_exact(into);
        result.map_err(|e| self.damage(&e.to_string()))
    }

    fn damage(&self, what: &str) -> Unusable {
        let path = self.path.display();
        Unusable::Damaged(format!("{path}: {what} (chunk {})", self.chunks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use wal::os::Os;

    fn at(dir: &Path) -> DataDir<Os> {
        DataDir::new(Os, dir)
    }

    fn write(dir: &Path, index: u64, chunks: &[&[u8]]) -> u64 {
        fs::create_dir_all(folder(&at(dir))).expect("a temporary folder");
        let meta = SnapshotMeta {
            index: Index(index),
            ..SnapshotMeta::default()
        };
        let mut writer = SnapshotFileWriter::new(&at(dir), &meta).expect("a file");
        for chunk in chunks {
            writer.append(chunk).expect("room");
        }
        writer.finish().expect("room")
    }

    fn read(dir: &Path, index: u64) -> Result<Vec<Vec<u8>>, Unusable> {
        let mut reader =
            SnapshotFileReader::open(&Os, &file_of(&at(dir), Index(index)), Index(index))?;
        let mut chunks = Vec::new();
        while let Some(chunk) = reader.next()? {
            chunks.push(chunk);
        }
        Ok(chunks)
    }

    #[test]
    fn a_snapshot_is_read_back_in_its_chunks() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let big = vec![7; 300_000];
        let size = write(dir.path(), 4, &[b"one", &big, b"", b"three"]);
        assert_eq!(
            read(dir.path(), 4),
            Ok(vec![b"one".to_vec(), big, b"three".to_vec()])
        );
        let path = file_of(&at(dir.path()), Index(4));
        assert_eq!(fs::metadata(path).expect("a file").len(), size);
    }

    #[test]
    fn every_cut_and_flipped_bit_is_noticed() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        write(dir.path(), 4, &[b"one", b"two"]);
        let path = file_of(&at(dir.path()), Index(4));
        let whole = fs::read(&path).expect("a file");
        for at in 0..whole.len() {
            fs::write(&path, &whole[..at]).expect("room");
            read(dir.path(), 4).expect_err("cut short");
            for bit in [1, 128] {
                let mut bad = whole.clone();
                bad[at] ^= bit;
                fs::write(&path, &bad).expect("room");
                read(dir.path(), 4).expect_err("a flipped bit");
            }
        }
    }

    #[test]
    fn another_format_is_not_damage() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        write(dir.path(), 4, &[b"one"]);
        let path = file_of(&at(dir.path()), Index(4));
        let mut bytes = fs::read(&path).expect("a file");
        bytes[8] = VERSION as u8 + 1;
        let check = crc32fast::hash(&bytes[..24]).to_le_bytes();
        bytes[24..28].copy_from_slice(&check);
        fs::write(&path, &bytes).expect("room");
        let unusable = read(dir.path(), 4).expect_err("another format");
        assert!(matches!(unusable, Unusable::Foreign(_)), "{unusable:?}");
    }

    #[test]
    fn a_file_of_another_index_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        write(dir.path(), 4, &[b"one"]);
        let place = |i| file_of(&at(dir.path()), Index(i));
        fs::rename(place(4), place(5)).expect("renamed");
        read(dir.path(), 5).expect_err("the name of another index");
    }

    #[test]
    fn prune_keeps_the_newest_and_removes_unfinished_ones() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for index in [3, 20, 100] {
            write(dir.path(), index, &[b"x"]);
        }
        SnapshotFileWriter::new(&at(dir.path()), &SnapshotMeta::default()).expect("a file");
        let kept = prune(&at(dir.path()), 2).expect("pruned");
        assert_eq!(kept, [Index(100), Index(20)]);
        let names = fs::read_dir(folder(&at(dir.path())))
            .expect("a folder")
            .count();
        assert_eq!(names, 2);
    }
}
