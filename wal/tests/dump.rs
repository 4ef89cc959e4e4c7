//! The dump shows whole and damaged logs.
#[allow(dead_code)]
#[path = "../examples/dump.rs"]
mod dump;

use wal::{Options, Record, Wal};

fn text(dir: &std::path::Path) -> String {
    let mut out = Vec::new();
    dump::dump(dir, &mut out).expect("it reads");
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
