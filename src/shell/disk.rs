//! Records to the log and back, snapshot files, recovery; the only user of the file system.
//!
//! A sync or a read error never reaches the core: it is logged here and ends the process, for after
//! it nothing that was not synced can be trusted. A full disk is not an error of that kind: what
//! does not fit waits here, unacknowledged, until there is room. Start with `Disk::open` (in
//! `recovery`), then `append`, `start_sync`, `poll_sync`.
mod dir;
mod membership;
mod recovery;
mod snapfile;
mod snapshots;
mod standby;

pub use dir::Export;
use membership::Membership;

use crate::core::machine::{SnapshotIn, SnapshotOut, Space, StandbyInfo};
use crate::core::raft::snapshot_head::encode_meta;
use crate::core::raft::{Configuration, EntryBody, Lsn, PeerId, Persist, SnapshotMeta};
use crate::shell::logger;
use snapshots::Snapshots;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use wal::{Record, Wal};

/// While the disk is full, room is looked for again after this time.
const ROOM_RETRY_US: u64 = 500_000;

/// The data directory of a running machine.
pub struct Disk {
    data_dir: PathBuf,
    wal: Wal,
    segment_bytes: u64,
    /// The log's random number.
    incarnation: u64,
    /// What the directory says of standby mode, if this machine is a standby.
    standby: Option<StandbyInfo>,
    /// The peer URLs that this machine knew as a standby.
    peers: Vec<Box<str>>,
    snapshots: Snapshots,
    /// What did not fit, in order; everything that comes later waits behind it.
    stuck: VecDeque<Persist>,
    /// The highest number of what was taken, with the log's mark that covers it; oldest first.
    marks: VecDeque<(u64, Lsn)>,
    /// The log's mark for what was appended last, and up to which it is durable.
    appended: u64,
    durable: u64,
    /// The number of the last thing handed in, stuck or not.
    lsn: Lsn,
    /// What the core was told last.
    space: Space,
    room_retry_us: u64,
    slow: Slow,
}

/// A disk made slow for a test: what is durable is told so much later, as one whose syncs do not
/// block would.
#[derive(Default)]
struct Slow {
    delay_us: u64,
    /// When the sync under way ends.
    due_us: Option<u64>,
}

impl Slow {
    /// Named in milliseconds by an environment variable, which nobody sets by accident.
    fn from_env() -> Slow {
        let given = std::env::var("TERN_SYNC_DELAY_MS").ok();
        let ms: u64 = given.and_then(|ms| ms.parse().ok()).unwrap_or(0);
        Slow {
            delay_us: ms * 1000,
            due_us: None,
        }
    }

    fn start(&mut self, now_us: u64) {
        self.due_us = (self.delay_us > 0).then_some(now_us + self.delay_us);
    }

    /// Whether a sync is under way.
    fn runs(&mut self, now_us: u64) -> bool {
        self.due_us.take_if(|due_us| *due_us <= now_us);
        self.due_us.is_some()
    }
}

impl Disk {
    /// Takes what has to be durable, in order; `lsn` is the number of the last of it.
    pub fn append(&mut self, persist: &mut Vec<Persist>, lsn: Lsn) {
        if persist.is_empty() {
            return;
        }
        assert!(lsn > self.lsn, "numbers rise");
        self.lsn = lsn;
        self.stuck.extend(persist.drain(..));
        if self.room_retry_us == 0 {
            self.append_stuck();
        }
    }

    /// Appends what waits, until it does not fit.
    fn append_stuck(&mut self) {
        while let Some(first) = self.stuck.front() {
            let taken = match first {
                Persist::State { term, vote } => {
                    or_die(self.wal.save_state(term.0, vote.map_or(0, |id| id.0)));
                    Ok(1)
                }
                Persist::Release { through } => {
                    or_die(self.wal.release(through.0));
                    Ok(1)
                }
                Persist::Append { .. } | Persist::Repair(_) | Persist::Installed { .. } => {
                    self.append_records()
                }
            };
            match taken {
                Ok(count) => drop(self.stuck.drain(..count)),
                Err(wal::Error::Full) => return,
                Err(e @ wal::Error::Io { .. }) => die(&e),
            }
        }
        // Numbers are told in whole batches: the last one is covered when all before it is.
        self.marks.push_back((self.appended, self.lsn));
    }

    /// Appends the records at the front in one call; gives how many things that were.
    fn append_records(&mut self) -> Result<usize, wal::Error> {
        let mut heads = Vec::new();
        let mut records = Vec::new();
        let (mut count, mut mark) = (0, 0);
        for persist in &self.stuck {
            if let Persist::Installed { meta, .. } = persist {
                let mut head = Vec::new();
                encode_meta(meta, &mut head);
                heads.push(head);
            }
        }
        let mut heads = heads.iter();
        for persist in &self.stuck {
            match persist {
                Persist::Append { entries, commit } => {
                    mark = commit.0.max(mark);
                    records.extend(entries.iter().map(|entry| Record::Entry {
                        term: entry.term.0,
                        index: entry.index.0,
                        body: whole(&entry.body),
                    }));
                }
                Persist::Repair(entry) => {
                    log::info!("entry {} is back from another machine", entry.index.0);
                    records.push(Record::Repair {
                        term: entry.term.0,
                        index: entry.index.0,
                        body: whole(&entry.body),
                    });
                }
                Persist::Installed { meta, keep_tail } => records.push(Record::Installed {
                    term: meta.term.0,
                    index: meta.index.0,
                    keep_tail: *keep_tail,
                    head: heads.next().expect("one each"),
                }),
                Persist::State { .. } | Persist::Release { .. } => break,
            }
            count += 1;
        }
        self.appended = self.wal.append(&records, mark)?;
        Ok(count)
    }

    /// Starts a sync of everything appended, unless one is running or nothing waits for one.
    /// Whether it has taken its time already.
    pub fn start_sync(&mut self, now_us: u64) -> bool {
        if self.slow.runs(now_us) || !self.wants_sync() {
            return false;
        }
        or_die(self.wal.start_sync());
        self.slow.start(now_us);
        true
    }

    /// Up to which number all is durable, when that has moved on.
    pub fn poll_sync(&mut self, now_us: u64) -> Option<Lsn> {
        if self.slow.runs(now_us) {
            return None;
        }
        if let Some(mark) = or_die(self.wal.poll_sync()) {
            self.durable = mark;
        }
        let mut synced = None;
        while let Some((mark, lsn)) = self.marks.front()
            && *mark <= self.durable
        {
            synced = Some(*lsn);
            self.marks.pop_front();
        }
        synced
    }

    /// Whether the disk has run full or has room again since the last call.
    pub fn poll_space(&mut self, now_us: u64) -> Option<Space> {
        if self.room_retry_us > 0 && now_us >= self.room_retry_us {
            or_die(self.wal.make_spare());
            self.append_stuck();
        }
        let full = self.wal.space() == wal::Space::Low || !self.stuck.is_empty();
        self.room_retry_us = match (full, now_us >= self.room_retry_us) {
            (false, _) => 0,
            (true, true) => now_us + ROOM_RETRY_US,
            (true, false) => self.room_retry_us,
        };
        let space = if full { Space::Low } else { Space::Ok };
        let changed = space != self.space;
        self.space = space;
        changed.then_some(space)
    }

    /// When `poll_space` has to look again; `u64::MAX`: never.
    pub fn next_deadline(&self) -> u64 {
        let room_us = if self.room_retry_us == 0 {
            u64::MAX
        } else {
            self.room_retry_us
        };
        room_us.min(self.slow.due_us.unwrap_or(u64::MAX))
    }

    /// Whether something was appended that no sync covers yet.
    pub fn has_work(&self) -> bool {
        self.slow.due_us.is_none() && self.wants_sync()
    }

    fn wants_sync(&self) -> bool {
        self.wal.wants_sync() || self.marks.front().is_some_and(|m| m.0 <= self.durable)
    }

    /// The members are others: the log keeps the newest configuration with each of its files.
    pub fn keep_configuration(&mut self, cluster: u64, configuration: &Configuration) {
        let meta = SnapshotMeta {
            cluster,
            configuration: configuration.clone(),
            ..SnapshotMeta::default()
        };
        let mut bytes = Vec::new();
        encode_meta(&meta, &mut bytes);
        self.wal.set_configuration(&bytes);
    }

    /// Carries out what the core wants of snapshot files; what it is to be told, if anything.
    pub fn snapshot(&mut self, out: SnapshotOut) -> Option<SnapshotIn> {
        self.snapshots.carry(out)
    }

    /// Starts a file of the key space in the data directory.
    pub fn export(&self) -> Result<Export, String> {
        Export::new(&self.data_dir)
    }

    /// Makes durable that this machine is this member of its cluster.
    pub fn keep_id(&mut self, id: PeerId) {
        let member = Membership::Member {
            id: id.0,
            incarnation: self.incarnation,
        };
        self.put(|data_dir| membership::write(data_dir, &member));
    }

    /// Makes durable what a standby knows; with `leaves_log`, that what the log holds is of no use
    /// any more.
    pub fn keep_standby(&mut self, info: &StandbyInfo, leaves_log: bool) {
        if leaves_log {
            let given_up = self.incarnation;
            return self.put(|data_dir| standby::write(data_dir, info, given_up));
        }
        match standby::write(&self.data_dir, info, 0) {
            // What is there says the same, of an earlier moment; who was let in has a membership,
            // which is newer.
            Err(e) if snapshots::is_full(&e) => {
                log::warn!("no room for what a standby knows of its cluster: {e}");
            }
            result => or_die(result),
        }
    }

    /// Writes what a life begins or ends with. A full disk gets room for it from what can be
    /// spared: the log and the newest snapshot stay, for this machine must come up with its
    /// vote if it dies before that is written.
    fn put(&mut self, write: impl Fn(&Path) -> io::Result<()>) {
        match write(&self.data_dir) {
            Err(e) if snapshots::is_full(&e) => {
                log::warn!("{e}: older snapshots and spare segments go");
                or_die(self.snapshots.give_up());
                or_die(self.wal.remove_spares());
                or_die(write(&self.data_dir));
            }
            result => or_die(result),
        }
    }

    /// What the directory has said of standby mode when it was opened, if this machine is a
    /// standby.
    pub fn take_standby(&mut self) -> Option<StandbyInfo> {
        self.standby.take()
    }

    /// The peer URLs that this machine knew when it was a standby last: one that was let in and has
    /// heard nothing since knows no other.
    pub fn take_peers(&mut self) -> Vec<Box<str>> {
        std::mem::take(&mut self.peers)
    }

    /// Throws log and snapshots away and begins anew, in place; gives the directory's new number.
    /// `keep_standby` has made it harmless to die on the way.
    pub fn start_over(&mut self) -> u64 {
        let limits = self.snapshots.limits();
        self.snapshots = Snapshots::new(&self.data_dir, limits, Vec::new());
        let identity = or_die(random());
        let options = wal::Options {
            dir: self.data_dir.clone(),
            segment_bytes: self.segment_bytes,
            identity,
        };
        self.incarnation = or_die(self.wal.start_over(&options)).identity;
        or_die(dir::wipe_rest(&self.data_dir));
        self.stuck.clear();
        self.marks.clear();
        (self.appended, self.durable, self.lsn) = (0, 0, Lsn(0));
        (self.space, self.room_retry_us) = (Space::Ok, 0);
        self.incarnation
    }

    /// Ends in order: the log says so.
    pub fn close(self) {
        or_die(self.wal.close());
    }
}

/// A body to append. One that is damaged here is repaired before it is appended again.
fn whole(body: &EntryBody) -> &[u8] {
    match body {
        EntryBody::Good(bytes) => bytes,
        EntryBody::Faulty { .. } => panic!("only whole entries are appended"),
    }
}

/// The first failing sync or read is final: see the head of this file.
fn die(error: &dyn fmt::Display) -> ! {
    log::error!("{error}: nothing can be acknowledged any more, tern ends");
    logger::flush();
    std::process::exit(1);
}

fn or_die<T, E: fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|e| die(&e))
}

/// Random bits of the system.
pub fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
