//! Damage to any one file of a directory: the log is read whole, or the damage is reported.
mod common;

use std::path::Path;

use common::{IDENTITY, Rng, SEGMENT, quick};
use wal::{Body, Options, Record, Wal};

fn options(dir: &Path) -> Options {
    Options {
        dir: dir.into(),
        segment_bytes: SEGMENT,
        identity: IDENTITY,
    }
}

/// Damages one file of a directory at random. Returns its name, what was done to it, and at which
/// offset.
fn damage_one(dir: &std::path::Path, rng: &mut Rng) -> (String, &'static str, u64) {
    let files = std::fs::read_dir(dir).expect("a directory");
    let names = files.map(|f| f.expect("a file").file_name().into_string().expect("text"));
    let mut names = names.collect::<Vec<_>>();
    names.sort();
    let name = names.swap_remove(rng.below(names.len() as u64) as usize);
    let path = dir.join(&name);
    let mut bytes = std::fs::read(&path).expect("a file");
    let at = rng.below(bytes.len() as u64) as usize;
    let what = match rng.below(10) {
        0 => {
            std::fs::remove_file(&path).expect("it can");
            return (name, "removed", 0);
        }
        1 => {
            bytes.truncate(at);
            "cut short"
        }
        2..6 => {
            let sector = at / 512 * 512;
            rng.fill(&mut bytes[sector..sector + 512]);
            "a sector of garbage"
        }
        _ => {
            bytes[at] ^= 1 << rng.below(8);
            "a bit"
        }
    };
    std::fs::write(&path, bytes).expect("it can");
    (name, what, at as u64)
}

#[test]
fn a_directory_with_any_one_damage_is_whole_or_refused() {
    let whole = tempfile::tempdir().expect("a directory");
    let (mut wal, _) = Wal::open_with(options(whole.path()), quick()).expect("it opens");
    let body = |index: u64| vec![index as u8; 100 + index as usize * 7];
    for index in 1..=130 {
        let body = body(index);
        let record = Record::Entry {
            term: 1,
            index,
            body: &body,
        };
        wal.append(&[record], index).expect("there is room");
        wal.start_sync().expect("it syncs");
        wal.poll_sync().expect("it synced");
        wal.save_state(index, 1).expect("it syncs");
        wal.release(40);
    }
    wal.close().expect("it syncs");
    let (_, found) = Wal::open_with(options(whole.path()), quick()).expect("it opens");
    let first = found.entries[0].index;
    let (newest, end) = found.end;
    // The last batch and the closing mark end in this sector: without both, the batch is a torn tail.
    let last_sector = (format!("{newest:016x}.log"), end / 512);
    let mut rng = Rng::new(15);
    let mut refused = 0;
    for round in 0..600 {
        let dir = tempfile::tempdir().expect("a directory");
        for file in std::fs::read_dir(whole.path()).expect("a directory") {
            let file = file.expect("a file");
            std::fs::copy(file.path(), dir.path().join(file.file_name())).expect("it can");
        }
        let what = damage_one(dir.path(), &mut rng);
        let Ok((_, found)) = Wal::open_with(options(dir.path()), quick()) else {
            refused += 1;
            continue;
        };
        assert!(!found.is_new, "{round}, {what:?}");
        assert_eq!(found.state, Some((130, 1)), "{round}, {what:?}");
        let last = found.entries.last().expect("entries").index;
        let from = found.entries[0].index;
        // If the oldest segment was removed, it looks released.
        let whole_from = from == first || what.1 == "removed";
        let is_torn =
            what.1 == "a sector of garbage" && (what.0.clone(), what.2 / 512) == last_sector;
        let whole_to = last == 130 || (is_torn && last == 129);
        assert!(
            whole_from && whole_to,
            "{round}, {what:?}: {from} to {last}"
        );
        for entry in &found.entries {
            match &entry.body {
                Body::Good(bytes) => assert_eq!(**bytes, body(entry.index), "{round}, {what:?}"),
                Body::Covered => panic!("no snapshot covers it"),
                Body::Faulty { .. } => {
                    let named = found.damage.iter().any(|f| f.index == Some(entry.index));
                    assert!(named, "{round}, {what:?}");
                }
            }
        }
    }
    assert!(refused > 100, "only {refused} were refused");
}
