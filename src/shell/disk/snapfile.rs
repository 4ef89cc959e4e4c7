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
//! Start with [`SnapshotFileWriter`] and [`SnapshotParser`].
use super::files::{self, DataDir};
use crate::core::raft::snapshot_head::{decode_meta, encode_meta};
use crate::core::raft::{Index, SnapshotMeta};
use std::io;
use std::path::{Path, PathBuf};
use wal::fs::{Access, FileSystem, OpenFile};

/// The name of the folder in the data directory.
pub const FOLDER: &str = "snapshot";
const MAGIC: &[u8; 8] = b"TERNSNAP";
/// Rises with that of the content of the chunks too (`core/store/snapshot.rs`): a file of another
/// format is no damage.
const VERSION: u32 = 4;
/// The length of the head in bytes.
const HEAD_BYTES: usize = 32;
/// The bytes of a chunk before its content: its length and checksum.
const CHUNK_HEAD_BYTES: usize = 8;
/// The length of the end after its own `CHUNK_HEAD_BYTES`.
const END_BYTES: usize = 16;
/// The longest chunk in bytes. The core makes chunks of a fraction of it, so a longer one is
/// damage.
const CHUNK_BYTES_MAX: u32 = 64 * 1024 * 1024;
/// Bytes that are read from the disk at once.
const READ_BUFFER_BYTES: u64 = 64 * 1024;

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
    removed.map_err(|e| {
        let text = format!("cannot remove {}: {e}: move it away", path.display());
        io::Error::new(e.kind(), text)
    })
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
    /// Makes the file under a temporary name, with room for `room_bytes`, and writes its head and the
    /// first chunk.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn new(
        data_dir: &DataDir<F>,
        meta: &SnapshotMeta,
        room_bytes: u64,
    ) -> io::Result<SnapshotFileWriter<F>> {
        let mut head = [0; HEAD_BYTES];
        head[..8].copy_from_slice(MAGIC);
        head[8..12].copy_from_slice(&VERSION.to_le_bytes());
        head[16..24].copy_from_slice(&meta.index.0.to_le_bytes());
        let check = crc32fast::hash(&head[..24]);
        head[24..28].copy_from_slice(&check.to_le_bytes());
        let file = data_dir.fs().create(&unfinished(data_dir, meta.index))?;
        if room_bytes > 0 {
            file.allocate(room_bytes)?;
        }
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
        self.file.truncate(self.length)?;
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

/// The part of the file that comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ParserStage {
    /// The head.
    Head,
    /// The first chunk, which is the snapshot's head.
    Meta,
    /// A further chunk, or the end.
    Chunks,
    /// Nothing.
    Ended,
}

/// Checks the bytes of a snapshot file as they arrive, in pieces of any length. A peer sends the
/// file in pieces, and a long one must not hold the loop once it is whole.
pub struct SnapshotParser {
    /// The file, for the texts of errors.
    path: PathBuf,
    /// The index of the last entry that the snapshot covers; never changes.
    index: Index,
    stage: ParserStage,
    /// The beginning of a part that is not whole yet.
    partial: Vec<u8>,
    /// Chunks taken so far, the first one included.
    chunks: u64,
    /// The length of their content in bytes.
    bytes: u64,
    /// The content of the first chunk.
    meta: SnapshotMeta,
}

impl SnapshotParser {
    /// Nothing has arrived of the file at `path`, which must be the snapshot of this index.
    pub fn new(path: &Path, index: Index) -> SnapshotParser {
        SnapshotParser {
            path: path.to_path_buf(),
            index,
            stage: ParserStage::Head,
            partial: Vec::new(),
            chunks: 0,
            bytes: 0,
            meta: SnapshotMeta::default(),
        }
    }

    /// Takes the next bytes of the file. Calls `on_chunk` with each chunk after the first that is
    /// whole and intact.
    ///
    /// # Errors
    ///
    /// The bytes are damaged, of another format or of the snapshot of another index, or `on_chunk`
    /// has failed. The parser is of no use any more.
    pub fn push(
        &mut self,
        bytes: &[u8],
        on_chunk: &mut impl FnMut(&[u8]) -> Result<(), Unusable>,
    ) -> Result<(), Unusable> {
        let mut partial = std::mem::take(&mut self.partial);
        partial.extend_from_slice(bytes);
        let mut taken = 0;
        while let Some(length) = self.take_part(&partial[taken..], on_chunk)? {
            taken += length;
        }
        partial.drain(..taken);
        self.partial = partial;
        Ok(())
    }

    /// The snapshot's head, after the whole file.
    ///
    /// # Errors
    ///
    /// The file is cut short.
    pub fn finish(self) -> Result<SnapshotMeta, Unusable> {
        if self.stage != ParserStage::Ended {
            return Err(self.damage("it is cut short"));
        }
        Ok(self.meta)
    }

    /// Takes the next part of the file from the front of `bytes`. Returns its length; `None` if it
    /// is not whole.
    fn take_part(
        &mut self,
        bytes: &[u8],
        on_chunk: &mut impl FnMut(&[u8]) -> Result<(), Unusable>,
    ) -> Result<Option<usize>, Unusable> {
        match self.stage {
            ParserStage::Head => {
                let Some(head) = bytes.first_chunk() else {
                    return Ok(None);
                };
                self.check_head(head)?;
                self.stage = ParserStage::Meta;
                Ok(Some(HEAD_BYTES))
            }
            ParserStage::Meta | ParserStage::Chunks => self.take_chunk(bytes, on_chunk),
            ParserStage::Ended if bytes.is_empty() => Ok(None),
            ParserStage::Ended => Err(self.damage("its end is damaged")),
        }
    }

    fn check_head(&self, head: &[u8; HEAD_BYTES]) -> Result<(), Unusable> {
        let check = crc32fast::hash(&head[..24]).to_le_bytes();
        if head[..8] != *MAGIC || check != head[24..28] || head[28..] != [0; 4] {
            return Err(self.damage("its head is damaged"));
        }
        if head[8..12] != VERSION.to_le_bytes() {
            return Err(Unusable::Foreign(format!(
                "{}: the snapshot has another format, this version reads format {VERSION}: use the \
                 version that wrote it",
                self.path.display()
            )));
        }
        if head[16..24] != self.index.0.to_le_bytes() {
            return Err(self.damage("its head does not belong to it"));
        }
        Ok(())
    }

    fn take_chunk(
        &mut self,
        bytes: &[u8],
        on_chunk: &mut impl FnMut(&[u8]) -> Result<(), Unusable>,
    ) -> Result<Option<usize>, Unusable> {
        let Some((head, behind)) = bytes.split_first_chunk::<CHUNK_HEAD_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let check = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if length == 0 {
            return self.take_end(check, behind);
        }
        if length > CHUNK_BYTES_MAX {
            return Err(self.damage("a chunk's length is damaged"));
        }
        let Some(chunk) = behind.get(..length as usize) else {
            return Ok(None);
        };
        if checksum(self.index, self.chunks, chunk) != check {
            return Err(self.damage("a chunk is damaged"));
        }
        if self.stage == ParserStage::Meta {
            self.meta = match decode_meta(chunk) {
                Ok((meta, [])) if meta.index == self.index => meta,
                Ok(_) | Err(_) => return Err(self.damage("its head does not belong to it")),
            };
            self.stage = ParserStage::Chunks;
        } else {
            on_chunk(chunk)?;
        }
        self.chunks += 1;
        self.bytes += u64::from(length);
        Ok(Some(CHUNK_HEAD_BYTES + chunk.len()))
    }

    fn take_end(&mut self, check: u32, behind: &[u8]) -> Result<Option<usize>, Unusable> {
        let Some(end) = behind.first_chunk::<END_BYTES>() else {
            return Ok(None);
        };
        let counts = [self.chunks.to_le_bytes(), self.bytes.to_le_bytes()].concat();
        let is_valid = checksum(self.index, self.chunks, end) == check && end[..] == counts;
        if !is_valid || self.stage == ParserStage::Meta {
            return Err(self.damage("its end is damaged"));
        }
        self.stage = ParserStage::Ended;
        Ok(Some(CHUNK_HEAD_BYTES + END_BYTES))
    }

    fn damage(&self, what: &str) -> Unusable {
        let path = self.path.display();
        Unusable::Damaged(format!("{path}: {what} (chunk {})", self.chunks))
    }
}

/// Reads the file at `path`, which must be the snapshot of this index, from its start to its end.
/// Calls `on_chunk` with each chunk after the first. Returns the snapshot's head.
///
/// # Errors
///
/// The file cannot be read, is damaged, has another format or is the snapshot of another index, or
/// `on_chunk` has failed.
pub fn read_file<F: FileSystem>(
    fs: &F,
    path: &Path,
    index: Index,
    mut on_chunk: impl FnMut(&[u8]) -> Result<(), Unusable>,
) -> Result<SnapshotMeta, Unusable> {
    let failed = |e: io::Error| Unusable::Foreign(format!("{}: {e}", path.display()));
    let file = fs.open(path, Access::Read).map_err(failed)?;
    let mut parser = SnapshotParser::new(path, index);
    // A snapshot of few keys takes no more memory than it is long.
    let bytes = file.length().map_err(failed)?;
    let mut buffer = vec![0; bytes.min(READ_BUFFER_BYTES) as usize];
    let mut at = 0;
    loop {
        let count = file.read_at(&mut buffer, at);
        let count = count.map_err(|e| parser.damage(&e.to_string()))?;
        if count == 0 {
            return parser.finish();
        }
        parser.push(&buffer[..count], &mut on_chunk)?;
        at += count as u64;
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
        let mut writer = SnapshotFileWriter::new(&at(dir), &meta, 1 << 20).expect("a file");
        for chunk in chunks {
            writer.append(chunk).expect("room");
        }
        writer.finish().expect("room")
    }

    fn read(dir: &Path, index: u64) -> Result<Vec<Vec<u8>>, Unusable> {
        let mut chunks = Vec::new();
        let path = file_of(&at(dir), Index(index));
        read_file(&Os, &path, Index(index), |chunk| {
            chunks.push(chunk.to_vec());
            Ok(())
        })?;
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
    fn a_file_may_arrive_in_pieces_of_any_length() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        write(dir.path(), 4, &[b"one", b"", b"three"]);
        let path = file_of(&at(dir.path()), Index(4));
        let whole = fs::read(&path).expect("a file");
        for length in 1..=whole.len() {
            let mut parser = SnapshotParser::new(&path, Index(4));
            let mut chunks: Vec<Vec<u8>> = Vec::new();
            for piece in whole.chunks(length) {
                let pushed = parser.push(piece, &mut |chunk: &[u8]| {
                    chunks.push(chunk.to_vec());
                    Ok(())
                });
                pushed.expect("it is whole");
            }
            assert_eq!(parser.finish().expect("it is whole").index, Index(4));
            assert_eq!(chunks, [b"one".to_vec(), b"three".to_vec()]);
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
        SnapshotFileWriter::new(&at(dir.path()), &SnapshotMeta::default(), 0).expect("a file");
        let kept = prune(&at(dir.path()), 2).expect("pruned");
        assert_eq!(kept, [Index(100), Index(20)]);
        let names = fs::read_dir(folder(&at(dir.path())))
            .expect("a folder")
            .count();
        assert_eq!(names, 2);
    }
}
