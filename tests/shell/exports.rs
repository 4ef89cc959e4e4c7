//! Exports on a simulated disk: whatever fails and whenever the power does, a file with the name of
//! an export is whole, and one that was reported is durable.
use super::damage::directories::config_of;
use std::path::Path;
use std::sync::Arc;
use tern::core::machine::Ticket;
use tern::shell::disk::Disk;
use tern_support::rng::Rng;
use tern_support::sim_fs::{Fault, SimFs};

const DIR: &str = "/data";
/// The pieces of an export, in bytes: the second one makes a sync due, the last one is short.
const PIECES: [usize; 3] = [100_000, 200_000, 10];

/// Writes an export until it is whole or fails.
fn export(disk: &Disk<SimFs>) -> Result<bool, String> {
    let mut export = disk.export(Ticket(1), Arc::default());
    for (at, bytes) in PIECES.into_iter().enumerate() {
        let raft = (at + 1 == PIECES.len()).then_some(7);
        export.set_piece(vec![b'x'; bytes], raft);
        export.run();
        export.result()?;
    }
    Ok(export.result()?)
}

fn is_whole(fs: &SimFs) -> Option<bool> {
    let content = fs.read(&Path::new(DIR).join("7-migrate.snap"))?;
    let is_content = content.iter().all(|byte| *byte == b'x');
    Some(is_content && content.len() == PIECES.iter().sum::<usize>())
}

/// A crash leaves the file of an export that was under way; the next start removes it.
#[test]
fn an_unfinished_export_is_removed_at_the_start() {
    let fs = SimFs::new(Rng::new(5));
    let config = config_of(Path::new(DIR));
    let (disk, _) = Disk::open_on(fs.clone(), &config, false).expect("a new directory");
    let mut export = disk.export(Ticket(1), Arc::default());
    export.set_piece(vec![b'x'; PIECES[0]], None);
    export.run();
    assert_eq!(export.result(), Ok(false));
    let unfinished = Path::new(DIR).join("migrate.tmp");
    assert!(fs.read(&unfinished).is_some());
    drop((export, disk));
    Disk::open_on(fs.clone(), &config, false).expect("a good directory");
    assert_eq!(fs.read(&unfinished), None);
}

#[test]
fn an_export_is_whole_or_not_there_at_any_fault() {
    let opened = || {
        let fs = SimFs::new(Rng::new(5));
        let config = config_of(Path::new(DIR));
        let (disk, _) = Disk::open_on(fs.clone(), &config, false).expect("a new directory");
        (fs, disk)
    };
    let (fs, disk) = opened();
    let before = fs.calls();
    assert_eq!(export(&disk), Ok(true));
    let calls = fs.calls() - before;
    assert!(calls > 6, "a file is made, written, synced and renamed");
    for fault in [Fault::Cut, Fault::Fail, Fault::Full] {
        for at in 1..=calls {
            let (fs, disk) = opened();
            fs.plan(at, fault);
            let reported = export(&disk);
            fs.plan_nothing();
            for seed in 0..8 {
                let left = fs.cut_power(&mut Rng::new(seed));
                let found = is_whole(&left);
                assert_ne!(found, Some(false), "{fault:?} at call {at}");
                assert!(
                    reported.is_err() || found == Some(true),
                    "{fault:?} at call {at}: a report, and no export after a power cut"
                );
            }
            let left = fs.read(&Path::new(DIR).join("migrate.tmp"));
            assert!(
                fault == Fault::Cut || left.is_none(),
                "{fault:?} at call {at}: a failed export gives its room back"
            );
        }
    }
}
