//! Real data directories of several kinds, made by the disk code itself, and what each of them has
//! acknowledged.
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tern::core::command::{self, Command, KeyPath};
use tern::core::machine::{
    Machine, MachineInfo, Role, SnapshotIn, SnapshotOut, StandbyInfo, Ticket,
};
use tern::core::raft::{
    Configuration, Entry, EntryBody, HardState, Index, Lsn, Member, PeerId, Persist, SnapshotMeta,
    StateSeq, Term,
};
use tern::core::timer::Now;
use tern::shell::config::{self, Config, ProcessInputs, Start};
use tern::shell::disk::{Disk, Manner, SyncReport};
use tern_support::copy_folder;
use wal::fs::FileSystem;

/// The term of all entries.
const TERM: u64 = 3;
/// The cluster of the directories of members.
const CLUSTER: u64 = 0xc1;
/// The length of a value: a segment of 64 KiB holds about 30 entries.
const VALUE_BYTES: usize = 2_000;

const WORKS: &str = "the disk works";

/// Makes durable what waits, and runs the task that is handed over for the rest.
pub fn sync<F: FileSystem>(disk: &mut Disk<F>) -> SyncReport {
    let started = disk.start_sync(Manner::InPlace).expect(WORKS);
    if let Some(mut task) = started.task {
        task.run();
        disk.take_back(task).expect(WORKS);
    }
    disk.poll_sync().expect(WORKS)
}

/// A kind of data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A cluster of one with a few entries; the process was killed.
    Founder,
    /// The same with an export; the process was stopped.
    Stopped,
    /// Two snapshots, several segments, the oldest ones released; killed.
    Snapshots,
    /// Several segments after the first snapshot; stopped.
    Segments,
    /// A member of three with `membership`, the leader's snapshot and entries after it; killed.
    Member,
    /// A machine that a cluster has admitted and that has received nothing yet.
    Admitted,
    /// A standby.
    Standby,
    /// A member of a cluster that was lost, which went on alone.
    Forced,
}

/// All of them.
pub const KINDS: [Kind; 8] = [
    Kind::Founder,
    Kind::Stopped,
    Kind::Snapshots,
    Kind::Segments,
    Kind::Member,
    Kind::Admitted,
    Kind::Standby,
    Kind::Forced,
];

/// A directory, and what a start on it must find.
pub struct Directory {
    pub kind: Kind,
    /// The folder around it, which holds nothing else.
    home: tempfile::TempDir,
    /// The term that it holds.
    pub term: u64,
    /// The last entry that was acknowledged; 1 is the founder's join, in the first snapshot.
    pub last: u64,
    /// This machine's id.
    pub id: Option<PeerId>,
    /// The random number of the directory.
    pub incarnation: u64,
}

/// A temporary folder in memory if there is such a place: no test here needs a sync that lasts.
pub fn temporary() -> tempfile::TempDir {
    let made = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    made.expect("a temporary folder")
}

/// The settings of a machine on this directory.
pub fn config_of(data_dir: &Path) -> Config {
    let args = [
        "-name=a".to_string(),
        format!("-data-dir={}", data_dir.display()),
    ];
    match config::parse(&ProcessInputs::of_args(&args)) {
        Ok(Start::Run(mut config)) => {
            config.segment_bytes = 64 << 10;
            *config
        }
        other => panic!("{other:?}"),
    }
}

/// The body of the entry at this index.
pub fn body(index: u64) -> Vec<u8> {
    let set = Command::Set {
        path: KeyPath::new(&format!("/k{index}")),
        value: Some(format!("{index:0>VALUE_BYTES$}").into()),
        lease: None,
    };
    let mut bytes = Vec::new();
    command::encode(&set, &mut bytes);
    bytes
}

impl Kind {
    /// Whether the command line names a cluster to join.
    pub fn joins(self) -> bool {
        matches!(self, Kind::Member | Kind::Admitted | Kind::Standby)
    }

    /// Whether other machines hold the data too.
    pub fn has_peers(self) -> bool {
        self == Kind::Member
    }
}

impl Directory {
    /// Makes a directory of this kind.
    pub fn new(kind: Kind) -> Directory {
        let home = temporary();
        let data_dir = home.path().join("data");
        let has_term = !matches!(kind, Kind::Admitted | Kind::Standby);
        let mut maker = Maker::new(&data_dir, kind.joins(), has_term);
        match kind {
            Kind::Founder | Kind::Forced => maker.write(2..=12),
            Kind::Stopped => {
                maker.write(2..=12);
                let mut export = maker.disk.export(Ticket(1), Arc::default());
                export.set_piece(b"{}".into(), Some(12));
                export.run();
                assert_eq!(export.result(), Ok(true));
            }
            Kind::Snapshots => {
                maker.write(2..=60);
                maker.save_snapshot(40);
                maker.write(61..=120);
                maker.save_snapshot(100);
                maker.hand_in(Persist::Release { through: Index(40) });
                maker.write(121..=130);
            }
            Kind::Segments => maker.write(2..=90),
            Kind::Member => {
                maker.disk.keep_id(PeerId(5)).expect(WORKS);
                maker.install_snapshot(20);
                maker.write(21..=60);
            }
            Kind::Admitted => maker.disk.keep_id(PeerId(5)).expect(WORKS),
            Kind::Standby => {
                let kept = maker.disk.keep_standby(&standby_info(), false);
                kept.expect(WORKS);
            }
        }
        let mut directory = Directory {
            kind,
            term: if has_term { TERM } else { 0 },
            last: maker.last,
            id: match kind {
                Kind::Standby => None,
                Kind::Member | Kind::Admitted => Some(PeerId(5)),
                Kind::Founder | Kind::Stopped | Kind::Snapshots | Kind::Segments | Kind::Forced => {
                    Some(PeerId(1))
                }
            },
            incarnation: maker.incarnation,
            home,
        };
        if matches!(kind, Kind::Stopped | Kind::Segments | Kind::Standby) {
            maker.disk.close().expect(WORKS);
        } else {
            drop(maker);
        }
        if kind == Kind::Forced {
            directory.force();
        }
        directory
    }

    /// Makes it that of a new cluster, which begins with a snapshot of all entries.
    fn force(&mut self) {
        let config = config_of(&self.home.path().join("data"));
        let now = Now {
            mono_us: 0,
            wall_ns: 0,
        };
        Disk::force_new_cluster(&config, now).expect("the cluster is lost");
        let (_disk, found) = Disk::open_to(&config, false).expect("a good directory");
        self.last += 1;
        self.term = found.term.0;
        self.incarnation = found.incarnation;
    }

    /// The paths of its files, relative to it, in order.
    pub fn files(&self) -> Vec<PathBuf> {
        let data_dir = self.home.path().join("data");
        let mut files = Vec::new();
        for folder in [data_dir.clone(), data_dir.join("snapshot")] {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_file() {
                    files.push(path.strip_prefix(&data_dir).expect("in it").to_path_buf());
                }
            }
        }
        files.sort();
        files
    }

    /// Makes a copy.
    pub fn copy(&self, to: &Path) {
        copy_folder(&self.home.path().join("data"), to);
    }
}

/// What the directory of a standby tells.
pub fn standby_info() -> StandbyInfo {
    let leader = MachineInfo {
        name: "b".into(),
        state: Role::Leader,
        client_url: "http://b:4001".into(),
        peer_url: "http://b:7001".into(),
    };
    StandbyInfo {
        running: true,
        cluster: vec![leader],
        sync_interval_ms: 1_000,
        ..StandbyInfo::default()
    }
}

/// A directory that is being made.
struct Maker {
    disk: Disk,
    lsn: Lsn,
    last: u64,
    incarnation: u64,
    /// The content of every snapshot.
    chunks: Vec<Vec<u8>>,
    configuration: Configuration,
}

impl Maker {
    fn new(data_dir: &Path, joins: bool, has_term: bool) -> Maker {
        let config = config_of(data_dir);
        let (mut disk, found) = Disk::open_to(&config, joins).expect("a new directory");
        let founding = Machine::bootstrap(&config.settings(), found.incarnation, 7);
        let mut configuration = founding.meta.configuration;
        if joins {
            configuration.members = [2, 3, 5].map(|id| member(id, found.incarnation)).into();
        }
        if let Some((meta, _)) = &found.snapshot {
            disk.keep_configuration(meta.cluster, &meta.configuration);
        }
        let mut maker = Maker {
            disk,
            lsn: Lsn(0),
            last: u64::from(!joins),
            incarnation: found.incarnation,
            chunks: founding.chunks,
            configuration,
        };
        if has_term {
            maker.save_term();
        }
        maker
    }

    fn save_term(&mut self) {
        self.disk.save_state(HardState {
            seq: StateSeq(1),
            term: Term(TERM),
            vote: Some(PeerId(1)),
        });
        self.sync();
    }

    fn sync(&mut self) {
        let report = sync(&mut self.disk);
        assert!(report.lsn.is_none_or(|lsn| lsn == self.lsn), "all of it");
    }

    fn hand_in(&mut self, persist: Persist) {
        self.lsn.0 += 1;
        let appended = self.disk.append(&mut vec![persist], self.lsn);
        appended.expect(WORKS);
        self.sync();
        self.disk.poll_space(0);
    }

    /// Writes entries, each in a batch of its own, and acknowledges them.
    fn write(&mut self, indexes: std::ops::RangeInclusive<u64>) {
        for index in indexes {
            self.hand_in(Persist::Append {
                entries: vec![Entry {
                    term: Term(TERM),
                    index: Index(index),
                    body: EntryBody::Good(body(index).into()),
                }],
                commit: Index(index - 1),
            });
            self.last = index;
        }
    }

    fn meta(&self, index: u64) -> SnapshotMeta {
        SnapshotMeta {
            cluster: CLUSTER,
            index: Index(index),
            term: Term(TERM),
            configuration: self.configuration.clone(),
        }
    }

    fn save_snapshot(&mut self, index: u64) {
        let begun = self.disk.snapshot(SnapshotOut::Begin(self.meta(index)));
        assert!(begun.is_none());
        for chunk in self.chunks.clone() {
            let more = self.disk.snapshot(SnapshotOut::Chunk(chunk));
            assert!(more.is_none());
        }
        let saved = self.snapshot(SnapshotOut::Finish);
        assert!(matches!(saved, SnapshotIn::Saved { .. }));
    }

    /// Carries out an order and those that wait. Returns the last report.
    fn snapshot(&mut self, order: SnapshotOut) -> SnapshotIn {
        assert!(self.disk.snapshot(order).is_none(), "it is not refused");
        let mut task = self.disk.start_snapshot_task().expect("an order waits");
        task.run();
        self.disk.take_back_snapshots(task).expect(WORKS);
        let reports = self.disk.take_snapshot_reports();
        reports.into_iter().last().expect("an order has a report")
    }

    /// Receives a snapshot as from a leader, and begins the log after it.
    fn install_snapshot(&mut self, index: u64) {
        let meta = self.meta(index);
        let other = temporary();
        let mut leader = Maker::new(&other.path().join("data"), false, true);
        leader.configuration = self.configuration.clone();
        leader.save_snapshot(index);
        let order = SnapshotOut::Read {
            to: PeerId(5),
            index: Index(index),
            offset: 0,
        };
        let SnapshotIn::Read {
            data: Some((data, true)),
            ..
        } = leader.snapshot(order)
        else {
            panic!("one piece");
        };
        let installed = self.snapshot(SnapshotOut::Receive {
            meta: meta.clone(),
            offset: 0,
            data,
            done: true,
        });
        assert!(matches!(installed, SnapshotIn::Installed { .. }));
        self.disk.keep_configuration(CLUSTER, &self.configuration);
        let keep_tail = false;
        self.hand_in(Persist::Installed { meta, keep_tail });
        self.last = index;
    }
}

/// A member of three; the one with the id 5 has this directory.
fn member(id: u64, incarnation: u64) -> Member {
    let name = if id == 5 {
        "a".into()
    } else {
        format!("m{id}")
    };
    Member {
        id: PeerId(id),
        peer_url: format!("http://{name}:7001").into(),
        client_url: format!("http://{name}:4001").into(),
        name: name.into(),
        incarnation: if id == 5 { incarnation } else { id },
        voter: true,
        added_as: None,
    }
}
