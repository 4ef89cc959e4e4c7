//! Prints a log for people: `cargo run -p wal --example dump -- DIRECTORY`.
//!
//! It only reads, and takes no lock. After damage it continues with the next readable record. The
//! last lines say what `Wal::open` would find.
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use wal::format::{BadSegmentHead, PAGE, RecordHeader, RecordKind, SegmentHead};
use wal::scan::{self, RecordWalk, ScannedLog, SegmentPiece};
use wal::segment::{is_spare, log_number};
use wal::state::{STATE, SlotContent, StateSlot};

/// Most bytes of a body that are printed.
const SHOWN_MAX: usize = 60;

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1) else {
        eprintln!("usage: dump DIRECTORY");
        return ExitCode::from(2);
    };
    match dump(Path::new(&dir), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", dir.display());
            ExitCode::FAILURE
        }
    }
}

/// Writes the text for the log in `dir`.
pub fn dump(dir: &Path, out: &mut impl Write) -> io::Result<()> {
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    let mut identity = None;
    if names.iter().any(|n| n == STATE) {
        identity = dump_state(&fs::read(dir.join(STATE))?, out)?;
    } else {
        writeln!(
            out,
            "{STATE}: missing; the directory counts as new unless a segment holds records"
        )?;
    }
    let mut segments = Vec::new();
    for name in &names {
        if let Some(sequence) = log_number(name) {
            let bytes = fs::read(dir.join(name))?;
            identity = identity.or(SegmentHead::decode(&bytes).ok().map(|h| h.identity));
            segments.push((name.as_str(), sequence, bytes));
        } else if is_spare(name) {
            writeln!(out, "{name}: spare")?;
        }
    }
    for (name, sequence, bytes) in &segments {
        dump_segment(name, *sequence, identity.unwrap_or(0), bytes, out)?;
    }
    let borrowed: Vec<(&str, u64, &[u8])> =
        segments.iter().map(|(n, s, b)| (*n, *s, &b[..])).collect();
    dump_verdict(&scan::scan(identity.unwrap_or(0), &borrowed), out)
}

/// Returns the random number of the directory, if a slot is readable.
fn dump_state(bytes: &[u8], out: &mut impl Write) -> io::Result<Option<u64>> {
    let mut identity = None;
    for (number, at) in [0, PAGE].into_iter().enumerate() {
        write!(out, "{STATE} slot {number}: ")?;
        match StateSlot::decode(bytes.get(at..).unwrap_or(&[])) {
            SlotContent::Good(slot) => {
                identity = Some(slot.identity);
                let StateSlot {
                    identity,
                    change,
                    term,
                    vote,
                    segment,
                } = slot;
                writeln!(
                    out,
                    "change {change}, term {term}, vote {vote}, newest segment {segment}, \
                     identity {identity:016x}"
                )?;
            }
            SlotContent::Version(found) => writeln!(out, "format {found}")?,
            SlotContent::Bad => writeln!(out, "UNREADABLE")?,
        }
    }
    Ok(identity)
}

fn dump_segment(
    name: &str,
    sequence: u64,
    identity: u64,
    bytes: &[u8],
    out: &mut impl Write,
) -> io::Result<()> {
    let head = match SegmentHead::decode(bytes) {
        Ok(head) => head,
        Err(BadSegmentHead::Version(found)) => return writeln!(out, "{name}: format {found}"),
        Err(BadSegmentHead::Unreadable) => {
            writeln!(out, "{name}: HEAD UNREADABLE; what is found:")?;
            head_of_unreadable(sequence, identity, bytes.len())
        }
    };
    writeln!(
        out,
        "{name}: segment {}, {} bytes, identity {:016x}, next index {}, next batch {}, commit {}, \
         the segment before ends at {}, configuration {}",
        head.sequence,
        head.segment_bytes,
        head.identity,
        head.next_index.map_or("any".to_string(), |i| i.to_string()),
        head.next_batch,
        head.commit,
        head.previous_end,
        shown(&head.configuration),
    )?;
    for piece in RecordWalk::new(bytes, &head) {
        match piece {
            SegmentPiece::Record { at, header } => {
                let body = scan::body(bytes, head.identity, head.sequence, at, &header);
                dump_record(at, &header, body, out)?;
            }
            SegmentPiece::NoRecord { at, bytes: length } => {
                let is_zero = bytes[at..at + length].iter().all(|b| *b == 0);
                let what = if is_zero { "zeros" } else { "no record" };
                writeln!(out, "{at:>10} {what}, {length} bytes")?;
            }
        }
    }
    Ok(())
}

/// A head with which the records of a segment are found although its own head is unreadable: their
/// checksums depend only on identity, number and offset.
fn head_of_unreadable(sequence: u64, identity: u64, bytes: usize) -> SegmentHead {
    SegmentHead {
        records_at: PAGE as u32,
        segment_bytes: bytes as u64,
        identity,
        sequence,
        next_index: None,
        next_batch: 0,
        commit: 0,
        previous_end: 0,
        previous_crc: 0,
        configuration: Box::default(),
    }
}

fn dump_record(
    at: usize,
    header: &RecordHeader,
    body: Option<&[u8]>,
    out: &mut impl Write,
) -> io::Result<()> {
    let RecordHeader {
        kind,
        len,
        durable_mark,
        term,
        index,
        ..
    } = *header;
    write!(out, "{at:>10} ")?;
    match kind {
        RecordKind::Commit => {
            return writeln!(
                out,
                "commit batch {term} from {durable_mark}, commit {index}"
            );
        }
        RecordKind::Close => return writeln!(out, "close batch {term}, commit {index}"),
        RecordKind::Entry => write!(out, "entry")?,
        RecordKind::Repair => write!(out, "repair")?,
        RecordKind::Installed => write!(out, "installed")?,
        RecordKind::InstalledTail => write!(out, "installed, tail kept")?,
    }
    let body = body.map_or("BODY DAMAGED".into(), shown);
    writeln!(out, " {index} term {term}, {len} bytes: {body}")
}

/// The start of `bytes`, printable.
fn shown(bytes: &[u8]) -> String {
    let more = if bytes.len() > SHOWN_MAX { "..." } else { "" };
    format!(
        "\"{}\"{more}",
        bytes[..bytes.len().min(SHOWN_MAX)].escape_ascii()
    )
}

fn dump_verdict(found: &ScannedLog, out: &mut impl Write) -> io::Result<()> {
    let log = &found.log;
    let first = log.entries.first().map_or(0, |e| e.index);
    let last = log.entries.last().map_or(0, |e| e.index);
    let closed = if found.tail.closed {
        ", closed in order"
    } else {
        ""
    };
    writeln!(
        out,
        "entries {first} to {last}, commit {}, ends in segment {} at {}{closed}",
        log.commit, found.tail.sequence, found.tail.end,
    )?;
    if let Some(installed) = &log.installed {
        writeln!(
            out,
            "snapshot installed at index {} term {}",
            installed.index, installed.term
        )?;
    }
    let torn_bytes = found.tail.dirty_end - found.tail.end;
    if torn_bytes > 0 {
        writeln!(
            out,
            "torn tail of {torn_bytes} bytes: never acknowledged, opening the log removes it"
        )?;
    }
    for damage in found.fatal.iter().chain(log.damaged_bodies.values()) {
        writeln!(out, "DAMAGE {damage}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::dump;
    use wal::{Options, Record, Wal};

    fn text(dir: &std::path::Path) -> String {
        let mut out = Vec::new();
        dump(dir, &mut out).expect("it reads");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_log_is_shown_with_its_damage() {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options {
            dir: dir.path().into(),
            segment_bytes: wal::SEGMENT_BYTES_MIN,
            identity: 0xabcd,
        };
        let (mut wal, _) = Wal::open(options).expect("it opens");
        wal.save_state(3, 7).expect("it syncs");
        for index in 1..=2 {
            let body = b"hello";
            let term = 3;
            let record = Record::Entry { term, index, body };
            wal.append(&[record], 0).expect("there is room");
            wal.start_sync().expect("it syncs");
            wal.poll_sync().expect("it synced");
        }
        wal.close().expect("it syncs");
        let whole = text(dir.path());
        let has = |text: &str, line: &str| assert!(text.contains(line), "{line} is not in\n{text}");
        has(
            &whole,
            "state slot 1: change 1, term 3, vote 7, newest segment 1, identity 000000000000abcd\n",
        );
        has(&whole, "      4096 entry 1 term 3, 5 bytes: \"hello\"\n");
        has(&whole, "      4136 commit batch 1 from 4096, commit 0\n");
        has(&whole, "      4240 close batch 3, commit 0\n");
        has(&whole, "      4272 zeros, 61264 bytes\n");
        has(
            &whole,
            "entries 1 to 2, commit 0, ends in segment 1 at 4272, closed in order\n",
        );
        let path = dir.path().join("0000000000000001.log");
        let mut bytes = std::fs::read(&path).expect("a file");
        bytes[4096 + 33] ^= 1;
        bytes[4168] ^= 1;
        std::fs::write(&path, bytes).expect("it can");
        let damaged = text(dir.path());
        has(
            &damaged,
            "      4096 entry 1 term 3, 5 bytes: BODY DAMAGED\n",
        );
        has(&damaged, "      4168 no record, 40 bytes\n");
        has(
            &damaged,
            "DAMAGE 0000000000000001.log at offset 4168: the header of a record is unreadable\n",
        );
        has(
            &damaged,
            "DAMAGE 0000000000000001.log at offset 4096 (entry 1): the body",
        );
        std::fs::write(dir.path().join("state"), "").expect("it can");
        std::fs::write(&path, [0; 5000]).expect("it can");
        let lost = text(dir.path());
        has(&lost, "state slot 0: UNREADABLE\n");
        has(
            &lost,
            "0000000000000001.log: HEAD UNREADABLE; what is found:\n",
        );
        has(
            &lost,
            "DAMAGE 0000000000000001.log at offset 0: the head of the file is unreadable",
        );
    }
}
