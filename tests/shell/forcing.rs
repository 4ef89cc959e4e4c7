//! `-force-new-cluster` on a simulated disk: a power cut at each call leaves the old cluster or the
//! new one, whole.
use super::damage::directories::{body, config_of, sync};
use std::path::Path;
use tern::core::command::{self, Command, KeyPath};
use tern::core::machine::Recovered;
use tern::core::raft::{Entry, EntryBody, HardState, Index, Lsn, Persist, StateSeq, Term};
use tern::core::timer::Now;
use tern::shell::config::Config;
use tern::shell::disk::Disk;
use tern_support::rng::Rng;
use tern_support::sim_fs::{Fault, SimFs};

const NOW: Now = Now {
    mono_us: 0,
    wall_ns: 0,
};
const WORKS: &str = "the disk works";
/// The last entry of the old cluster.
const LAST: u64 = 40;

fn entry(index: u64) -> Entry {
    let body = if index == 2 {
        let mut bytes = Vec::new();
        let join = Command::Join {
            name: "b".into(),
            peer_url: "http://b:7001".into(),
            client_url: "http://b:4001".into(),
            incarnation: 9,
            replaces: None,
        };
        command::encode(&join, &mut bytes);
        bytes
    } else {
        body(index)
    };
    Entry {
        term: Term(3),
        index: Index(index),
        body: EntryBody::Good(body.into()),
    }
}

/// The founder of a cluster of two, whose log has entries. Returns the cluster's number.
fn founded(fs: &SimFs, config: &Config) -> u64 {
    let (mut disk, found) = Disk::open_on(fs.clone(), config, false).expect("a new directory");
    disk.save_state(HardState {
        seq: StateSeq(1),
        term: Term(3),
        vote: None,
    });
    for index in 2..=LAST {
        let append = Persist::Append {
            entries: vec![entry(index)],
            commit: Index(index - 1),
        };
        disk.append(&mut vec![append], Lsn(index)).expect(WORKS);
        sync(&mut disk);
    }
    disk.close().expect(WORKS);
    let (meta, _) = found.snapshot.expect("it has founded a cluster");
    meta.cluster
}

/// Whether the directory is that of the new cluster. It must be that of the old or of the new one,
/// with all data.
fn is_new(found: &Recovered, former: &[u64], old: u64) -> bool {
    let (meta, store) = found.snapshot.as_ref().expect("a member with data");
    if meta.cluster == old {
        let entries = (2..=LAST).map(entry);
        assert!(found.entries.iter().cloned().eq(entries), "the old log");
        assert!(former.is_empty() && found.term == Term(3));
        return false;
    }
    assert_eq!(former, [old], "it remembers the old cluster");
    let [own] = &meta.configuration.members[..] else {
        panic!("alone: {:?}", meta.configuration);
    };
    assert_eq!(
        (found.id, own.incarnation),
        (Some(own.id), found.incarnation)
    );
    assert_eq!((meta.index, found.entries.len()), (Index(LAST + 1), 0));
    assert_eq!((found.term, found.vote), (meta.term, None));
    for index in 3..=LAST {
        let key = KeyPath::new(&format!("/k{index}"));
        assert!(store.value(&key).is_some(), "entry {index} is applied");
    }
    let key = KeyPath::new("/_etcd/machines/b");
    assert_eq!(store.value(&key), None);
    true
}

/// Opens the directory; `None`: the power fails meanwhile.
fn opened(fs: &SimFs, config: &Config) -> Option<(Recovered, Vec<u64>)> {
    let (disk, found) = Disk::open_on(fs.clone(), config, true).ok()?;
    Some((found, disk.former_clusters().to_vec()))
}

#[test]
fn protocol_17_a_crash_at_every_step_leaves_the_old_or_the_new_cluster() {
    let mut config = config_of(Path::new("/data"));
    config.segment_bytes = 64 << 10;
    let whole = SimFs::new(Rng::new(5));
    let old = founded(&whole, &config);
    let mut rng = Rng::new(6);
    let mut outcomes = [0, 0];
    for step in 1.. {
        let fs = whole.copy();
        fs.plan(step, Fault::Cut);
        let forced = Disk::force_new_cluster_on(fs.clone(), &config, NOW);
        // After the step that decides, the start that follows does the rest.
        let ended = forced.is_ok() && opened(&fs, &config).is_some();
        if ended {
            break;
        }
        let disk = fs.cut_power(&mut rng);
        let (found, former) = opened(&disk, &config).expect("it starts");
        let is_first_new = is_new(&found, &former, old);
        outcomes[usize::from(is_first_new)] += 1;
        // A crash during that start, and another start.
        let crashed = fs.cut_power(&mut rng);
        crashed.plan(step % 60 + 1, Fault::Cut);
        let _ = opened(&crashed, &config);
        let disk = crashed.cut_power(&mut rng);
        let (found, former) = opened(&disk, &config).expect("it starts");
        is_new(&found, &former, old);
    }
    assert!(outcomes.iter().all(|count| *count > 10), "{outcomes:?}");
}

#[test]
fn protocol_17_the_new_cluster_goes_on_and_may_be_forced_again() {
    let mut config = config_of(Path::new("/data"));
    config.segment_bytes = 64 << 10;
    let fs = SimFs::new(Rng::new(7));
    let first = founded(&fs, &config);
    let mut left = vec![first];
    for _ in 0..2 {
        Disk::force_new_cluster_on(fs.clone(), &config, NOW).expect(WORKS);
        for _ in 0..2 {
            let (found, former) = opened(&fs, &config).expect("it starts");
            assert_eq!(former, left);
            assert!(found.entries.is_empty());
        }
        let (found, _) = opened(&fs, &config).expect("it starts");
        left.push(found.snapshot.expect("data").0.cluster);
    }
    // A machine that leaves this cluster forgets which ones it has left.
    let (mut disk, _) = Disk::open_on(fs.clone(), &config, true).expect(WORKS);
    disk.keep_standby(&super::damage::directories::standby_info(), true)
        .expect(WORKS);
    disk.start_over().expect(WORKS);
    drop(disk);
    let (found, former) = opened(&fs, &config).expect("it starts");
    assert!(former.is_empty() && found.id.is_none());
}
