//! Recovery at start: checks the data directory and assembles the state of the core from it.
//!
//! The order of the steps:
//! 1. Make the directory, or wipe it (`-f`), or refuse it if etcd has written it.
//! 2. Lock the directory and open the log. Entries that the newest snapshot covers are read without
//!    their bodies. That snapshot is read at the same time, for step 4. If this machine went on alone
//!    (`forced`) and a crash came before the log was replaced, replace it now.
//! 3. Read `membership` and `standby_info`: is this machine a member, a standby or new? If it
//!    became a standby and a crash came before its log was wiped, wipe the log now.
//! 4. Restore the newest undamaged snapshot, and the log entries after it. A machine with an empty
//!    directory founds a cluster, unless it is to join one.
//!
//! A directory that contradicts itself is refused. Every error is a sentence that names the file,
//! what is wrong with it and the next step. Start with [`Disk::open_to`].
use super::files::{self, DataDir};
use super::membership::{self, OwnMembership};
use super::snapfile::{SnapshotFileWriter, Unusable};
use super::snapshot_files::KEPT;
use super::snapshots::{self, Snapshots};
use super::standby::{self, StandbyRecord};
use super::{Disk, dir, export, forced, random_of, room_bytes_of, snapfile};
use crate::core::command;
use crate::core::machine::{FOUNDING_TERM, Founding, Machine, Recovered, Space};
use crate::core::raft::snapshot_head::{decode_meta, encode_meta};
use crate::core::raft::{
    Configuration, Entry, EntryBody, Index, Lsn, Member, PeerId, SnapshotMeta, Term,
};
use crate::core::store::{HistoryLimits, Store};
use crate::shell::clock;
use crate::shell::config::Config;
use std::collections::VecDeque;
use std::io;
use std::thread;
use wal::fs::{Access, FileSystem, OpenFile};
use wal::os::Os;
use wal::{LockedDir, OpenError, Options, Wal};

/// How long to wait for the lock of the directory, in milliseconds: the process that holds it may
/// be about to exit.
const LOCK_MS_MAX: u64 = 2_000;
/// The time between two attempts, in milliseconds.
const LOCK_PAUSE_MS: u64 = 20;
/// The stack of the thread that reads the log, in bytes. The default is 2 MiB.
const READER_STACK_BYTES: usize = 256 * 1024;

/// The snapshot that recovery starts from.
struct RestoredSnapshot {
    meta: SnapshotMeta,
    /// Its content.
    store: Store,
    /// The length of its file in bytes.
    bytes: u64,
    /// The indexes of newer ones that cannot be used.
    damaged: Vec<Index>,
}

/// The index and the content of the newest snapshot, if it was read beside the log.
type EarlySnapshot = Option<(Index, Result<(SnapshotMeta, Store), Unusable>)>;

/// How the log is read, from a directory that is locked: bodies of entries up to an index are not kept.
/// The newest snapshot, which is of that index, may be read at the same time.
type ReadLog<F> = fn(
    &DataDir<F>,
    &Config,
    LockedDir<F>,
    Index,
) -> Result<(Wal<F>, wal::Recovered, EarlySnapshot), String>;

/// The disk with its content, or a sentence for the user.
type Opened<F> = Result<(Disk<F>, Recovered), String>;

impl Disk {
    /// Opens the data directory and reads all of it. A machine with an empty directory joins a
    /// cluster if the configuration names one, and founds one otherwise.
    ///
    /// # Errors
    ///
    /// The directory cannot be used; with a sentence for the user.
    pub fn open(config: &Config) -> Result<(Disk, Recovered), String> {
        Disk::open_to(config, config.names_a_cluster())
    }

    /// [`Disk::open`], with `joins` in place of the configuration: whether a machine with an empty
    /// directory joins a cluster. Its recovered id is `None` then.
    ///
    /// # Errors
    ///
    /// The directory cannot be used; with a sentence for the user.
    pub fn open_to(config: &Config, joins: bool) -> Result<(Disk, Recovered), String> {
        let data_dir = DataDir::new(Os, &config.data_dir);
        Disk::open_by(&data_dir, config, joins, read_log_and_snapshot)
    }
}

impl<F: FileSystem> Disk<F> {
    /// [`Disk::open_to`] on a file system.
    ///
    /// # Errors
    ///
    /// The directory cannot be used; with a sentence for the user.
    pub fn open_on(fs: F, config: &Config, joins: bool) -> Result<(Disk<F>, Recovered), String> {
        Disk::open_by(&DataDir::new(fs, &config.data_dir), config, joins, read_log)
    }

    fn open_by(data_dir: &DataDir<F>, config: &Config, joins: bool, read: ReadLog<F>) -> Opened<F> {
        prepare(data_dir, config)?;
        let covered = newest_snapshot(data_dir);
        let (mut wal, mut log, early) = read(data_dir, config, lock(data_dir)?, covered)?;
        let (former_clusters, is_replaced) =
            forced::complete(data_dir, config, &mut wal, &mut log)?;
        let membership = membership::read(data_dir)?;
        let record = standby::read(data_dir)?;
        let peers = record.as_ref().map_or(Vec::new(), known_peers);
        let standby = record.filter(|r| r.is_current(membership.as_ref(), log.identity));
        log = wipe_abandoned(data_dir, config, &mut wal, log, standby.as_ref())?;
        if standby.is_none() && !former_clusters.is_empty() {
            refuse_new_log(data_dir, &log)?;
        }
        report_torn_tail(&log);
        let mut kept = remove_leftovers(data_dir, &log)?;
        let known_id = id_of(membership, log.identity);
        let is_empty = kept.is_empty() && log.entries.is_empty() && log.installed.is_none();
        let has_place = known_id.is_some() || standby.is_some();
        if is_empty && !has_place {
            refuse_loss(data_dir, &log)?;
        }
        let (mut recovered, appended) = if is_empty && (joins || has_place) {
            (recover_nothing(known_id, &log), 0)
        } else {
            if is_empty {
                let founding = found_cluster(data_dir, config, &mut wal, &mut log)?;
                kept = vec![founding.meta.index];
            }
            // Or the files of snapshots may be others than at the beginning.
            let early = early.filter(|_| !is_empty && !is_replaced);
            let base = restore_newest(data_dir, &mut kept, history_limits(config), early)?;
            if base.meta.index < covered {
                // The bodies of the entries between the two are needed after all.
                drop(wal);
                (wal, log) = open_log(data_dir, config, base.meta.index)?;
            }
            go_on_from(data_dir, &mut wal, log, base, known_id)?
        };
        // A machine whose id is in its snapshot is a member, whatever `standby_info` says.
        let standby = standby.filter(|_| recovered.id.is_none());
        let room_bytes = make_room(config, &mut wal)?;
        let disk = Disk {
            data_dir: data_dir.clone(),
            wal,
            segment_bytes: config.segment_bytes,
            incarnation: recovered.incarnation,
            standby: standby.map(|s| s.info),
            peers,
            snapshots: Snapshots::new(data_dir, history_limits(config), kept),
            former_clusters,
            unwritten_state: None,
            task_state: None,
            unreported_state: None,
            unsynced: VecDeque::new(),
            appended_mark: appended,
            durable_mark: 0,
            lsn: Lsn(0),
            space: Space::Ok,
            wanted_bytes: room_bytes,
            wanted_until_us: None,
            room_bytes,
            next_room_check_us: None,
        };
        recovered.free_bytes = disk.free_bytes();
        Ok((disk, recovered))
    }
}

/// Removes what crashes and former starts have left: an unfinished export, and snapshots that are not
/// needed. Returns the indexes of the snapshots that stay, newest first.
fn remove_leftovers<F: FileSystem>(
    data_dir: &DataDir<F>,
    log: &wal::Recovered,
) -> Result<Vec<Index>, String> {
    export::remove_unfinished(data_dir)?;
    let keep = if log.is_new { 0 } else { KEPT };
    snapfile::prune(data_dir, keep)
        .map_err(|e| format!("{}: {e}", snapfile::folder(data_dir).display()))
}

/// Makes spares for the records that the log should always take. Returns their bytes.
fn make_room<F: FileSystem>(config: &Config, wal: &mut Wal<F>) -> Result<u64, String> {
    let room_bytes = room_bytes_of(config);
    wal.make_room(room_bytes).map_err(|e| e.to_string())?;
    Ok(room_bytes)
}

/// The index of the newest snapshot by its name; 0 without one. Whether it is whole is not known yet.
fn newest_snapshot<F: FileSystem>(data_dir: &DataDir<F>) -> Index {
    // A folder that cannot be read is reported later.
    let all = snapfile::list(data_dir).unwrap_or_default();
    all.first().copied().unwrap_or_default()
}

/// How much of the history is kept.
pub fn history_limits(config: &Config) -> HistoryLimits {
    HistoryLimits {
        events: config.watch_history,
        bytes: config.memory_bounds.history_bytes,
    }
}

fn report_torn_tail(log: &wal::Recovered) {
    if log.torn_bytes > 0 {
        log::info!(
            "the last batch of the log was not finished: {} bytes of it are dropped",
            log.torn_bytes
        );
    }
}

/// Makes the directory, wipes it or refuses it.
fn prepare<F: FileSystem>(data_dir: &DataDir<F>, config: &Config) -> Result<(), String> {
    dir::create(data_dir)?;
    if config.force {
        dir::wipe(data_dir)?;
        dir::create(data_dir)?;
    } else {
        dir::refuse_foreign(data_dir)?;
    }
    dir::refuse_unwritable(data_dir)
}

fn known_peers(record: &StandbyRecord) -> Vec<Box<str>> {
    let members = record.info.cluster.iter();
    members.map(|member| member.peer_url.clone()).collect()
}

/// The id in `membership`, if it belongs to the log with this number.
fn id_of(membership: Option<OwnMembership>, identity: u64) -> Option<PeerId> {
    match membership {
        Some(OwnMembership::Member { id, incarnation }) if incarnation == identity => {
            Some(PeerId(id))
        }
        Some(OwnMembership::Member { .. }) | None => None,
    }
}

/// Finishes the wipe that a crash interrupted when this machine became a standby. Returns the log
/// that is left.
fn wipe_abandoned<F: FileSystem>(
    data_dir: &DataDir<F>,
    config: &Config,
    wal: &mut Wal<F>,
    log: wal::Recovered,
    standby: Option<&StandbyRecord>,
) -> Result<wal::Recovered, String> {
    match standby.and_then(|standby| standby.abandoned) {
        None => Ok(log),
        // The crash came before the log was replaced.
        Some(abandoned) if abandoned == log.identity => {
            let options = wal_options(data_dir, config)?;
            let log = wal.start_over(&options).map_err(|e| e.to_string())?;
            dir::wipe_besides_log(data_dir)?;
            Ok(log)
        }
        // The log was replaced. The snapshots and `membership` may still be there.
        Some(_) => {
            dir::wipe_besides_log(data_dir)?;
            Ok(log)
        }
    }
}

/// Refuses a new log in the directory of a machine that went on alone: a wipe removes `new_cluster`
/// before the log.
fn refuse_new_log<F: FileSystem>(
    data_dir: &DataDir<F>,
    log: &wal::Recovered,
) -> Result<(), String> {
    if !log.is_new {
        return Ok(());
    }
    Err(format!(
        "{}/state: the file is missing, although this machine has a cluster. {RESTORE_OR_JOIN}",
        data_dir.display()
    ))
}

/// Refuses a directory that holds nothing but a term that only a member can have: its snapshots
/// were removed.
fn refuse_loss<F: FileSystem>(data_dir: &DataDir<F>, log: &wal::Recovered) -> Result<(), String> {
    let (term, _) = term_and_vote(log.state);
    if term <= FOUNDING_TERM {
        return Ok(());
    }
    Err(format!(
        "{}: there is no snapshot, although this machine was a member of a cluster (term {}). \
         {RESTORE_OR_JOIN}",
        snapfile::folder(data_dir).display(),
        term.0
    ))
}

/// The recovered state of a machine without snapshot and log entries: a new one, a standby, or a
/// member that was admitted and has not received the leader's snapshot.
fn recover_nothing(id: Option<PeerId>, log: &wal::Recovered) -> Recovered {
    let (term, vote) = term_and_vote(log.state);
    let nothing = Recovered::nothing(id, log.identity);
    Recovered {
        term,
        vote,
        ..nothing
    }
}

/// The term and vote that the log keeps. A new log has term 0 and no vote, which is stored as 0.
fn term_and_vote(state: Option<(u64, u64)>) -> (Term, Option<PeerId>) {
    let (term, vote) = state.unwrap_or_default();
    (Term(term), (vote != 0).then_some(PeerId(vote)))
}

/// Options for a log with a new random number.
fn wal_options<F: FileSystem>(data_dir: &DataDir<F>, config: &Config) -> Result<Options, String> {
    Ok(Options {
        dir: config.data_dir.clone(),
        segment_bytes: config.segment_bytes,
        identity: random_of(data_dir.fs())?,
    })
}

/// Locks the data directory. Waits a while if another process has locked it.
fn lock<F: FileSystem>(data_dir: &DataDir<F>) -> Result<LockedDir<F>, String> {
    let mut waited_ms = 0;
    loop {
        match LockedDir::new(data_dir.fs().clone(), data_dir.path(), None) {
            Err(OpenError::Locked { .. }) if waited_ms < LOCK_MS_MAX => {
                clock::pause(LOCK_PAUSE_MS);
                waited_ms += LOCK_PAUSE_MS;
            }
            locked => return locked.map_err(|e| e.to_string()),
        }
    }
}

/// Opens the log. Bodies of entries up to `covered` are not read.
fn open_log<F: FileSystem>(
    data_dir: &DataDir<F>,
    config: &Config,
    covered: Index,
) -> Result<(Wal<F>, wal::Recovered), String> {
    let (wal, log, _) = read_log(data_dir, config, lock(data_dir)?, covered)?;
    Ok((wal, log))
}

/// Reads the log alone: on a file system of a test one call follows the other.
fn read_log<F: FileSystem>(
    data_dir: &DataDir<F>,
    config: &Config,
    locked: LockedDir<F>,
    covered: Index,
) -> Result<(Wal<F>, wal::Recovered, EarlySnapshot), String> {
    let options = wal_options(data_dir, config)?;
    let opened = Wal::open_in(locked, &options, covered.0);
    let (wal, log) = opened.map_err(|e| e.to_string())?;
    Ok((wal, log, None))
}

/// Reads the log in a thread of its own, and the newest snapshot meanwhile: with a million keys that
/// saves a quarter of a restart. The key space is made in the thread of the loop, whose memory it
/// remains.
fn read_log_and_snapshot(
    data_dir: &DataDir<Os>,
    config: &Config,
    locked: LockedDir<Os>,
    covered: Index,
) -> Result<(Wal, wal::Recovered, EarlySnapshot), String> {
    if covered == Index(0) {
        return read_log(data_dir, config, locked, covered);
    }
    thread::scope(|scope| {
        let reader = thread::Builder::new()
            .stack_size(READER_STACK_BYTES)
            .spawn_scoped(scope, || read_log(data_dir, config, locked, covered))
            .map_err(|e| format!("no thread to read the log: {e}"))?;
        let path = snapfile::file_of(data_dir, covered);
        let restored = snapshots::restore(&Os, &path, covered, history_limits(config));
        let (wal, log, _) = reader.join().expect("it panics only with a bug")?;
        Ok((wal, log, Some((covered, restored))))
    })
}

/// Makes the beginning of a new cluster durable: first the term, then the first snapshot. A crash
/// before the snapshot leaves a directory that holds nothing, and the next start founds again.
/// Then the id: once the founder is removed, no configuration names it.
fn found_cluster<F: FileSystem>(
    data_dir: &DataDir<F>,
    config: &Config,
    wal: &mut Wal<F>,
    log: &mut wal::Recovered,
) -> Result<Founding, String> {
    let founding = Machine::bootstrap(&config.settings(), log.identity, random_of(data_dir.fs())?);
    begin_cluster(data_dir, wal, log, &founding)?;
    Ok(founding)
}

/// Makes the beginning of a cluster durable.
fn begin_cluster<F: FileSystem>(
    data_dir: &DataDir<F>,
    wal: &mut Wal<F>,
    log: &mut wal::Recovered,
    founding: &Founding,
) -> Result<(), String> {
    log.state = Some((founding.term.0, 0));
    wal.save_state(founding.term.0, 0)
        .map_err(|e| e.to_string())?;
    let member = OwnMembership::Member {
        id: founding.id.0,
        incarnation: log.identity,
    };
    let written = write_first_snapshot(data_dir, founding)
        .and_then(|()| membership::write(data_dir, &member));
    written.map_err(|e| {
        format!(
            "{}: cannot write the first snapshot: {e}",
            data_dir.display()
        )
    })
}

/// Makes the data directory that of a new cluster with this key space, whose only member is this
/// machine. `open` finds it later.
///
/// # Errors
///
/// The directory cannot be written; with a sentence for the user.
pub fn found_with<F: FileSystem>(
    data_dir: &DataDir<F>,
    config: &Config,
    store: Store,
) -> Result<(), String> {
    prepare(data_dir, config)?;
    let (mut wal, mut log) = open_log(data_dir, config, Index(0))?;
    let seed = random_of(data_dir.fs())?;
    let founding = Machine::bootstrap_with(&config.settings(), store, log.identity, seed);
    begin_cluster(data_dir, &mut wal, &mut log, &founding)
}

fn write_first_snapshot<F: FileSystem>(
    data_dir: &DataDir<F>,
    founding: &Founding,
) -> io::Result<()> {
    let mut writer = SnapshotFileWriter::new(data_dir, &founding.meta, 0)?;
    for chunk in &founding.chunks {
        writer.append(chunk)?;
    }
    writer.finish()?;
    Ok(())
}

/// Restores the newest snapshot in `kept` that is whole. Damaged ones are removed from `kept`: the
/// older snapshot and the log, which continues from it, hold the same data. `early`: the
/// first one, if it was read before.
fn restore_newest<F: FileSystem>(
    data_dir: &DataDir<F>,
    kept: &mut Vec<Index>,
    limits: HistoryLimits,
    mut early: EarlySnapshot,
) -> Result<RestoredSnapshot, String> {
    let mut damage = Vec::new();
    let mut damaged = Vec::new();
    while let Some(index) = kept.first().copied() {
        let path = snapfile::file_of(data_dir, index);
        let restored = match early.take() {
            Some((read, restored)) if read == index => restored,
            _ => snapshots::restore(data_dir.fs(), &path, index, limits),
        };
        match restored {
            Ok((meta, store)) => {
                let file = data_dir.fs().open(&path, Access::Read);
                let bytes = file.and_then(|file| file.length()).unwrap_or(0);
                return Ok(RestoredSnapshot {
                    meta,
                    store,
                    bytes,
                    damaged,
                });
            }
            Err(Unusable::Foreign(text)) => return Err(text),
            Err(Unusable::Damaged(text)) => {
                log::error!("a snapshot is damaged: {text}. The older one is used");
                damage.push(text);
                damaged.push(kept.remove(0));
            }
        }
    }
    let what = if damage.is_empty() {
        "there is no snapshot, although there is a log".to_string()
    } else {
        damage.join("; ")
    };
    Err(format!(
        "{}: {what}. {RESTORE_OR_JOIN}",
        snapfile::folder(data_dir).display()
    ))
}

/// The advice about a directory that cannot be used.
const RESTORE_OR_JOIN: &str = "Restore the directory from a backup, or, if other machines hold its \
                               data, start it with -f to join anew";

/// Renames a damaged snapshot durably. It is no longer one of the kept snapshots, and an operator
/// can examine it.
fn set_aside<F: FileSystem>(data_dir: &DataDir<F>, index: Index) -> Result<(), String> {
    let path = snapfile::file_of(data_dir, index);
    let aside = path.with_extension("damaged");
    let fs = data_dir.fs();
    let renamed = fs.rename(&path, &aside);
    let synced = renamed.and_then(|()| files::sync_folder(fs, &snapfile::folder(data_dir)));
    synced.map_err(|e| format!("{}: {e}", path.display()))
}

/// The recovered state from a snapshot and the log after it, and how many records were appended.
fn go_on_from<F: FileSystem>(
    data_dir: &DataDir<F>,
    wal: &mut Wal<F>,
    mut log: wal::Recovered,
    base: RestoredSnapshot,
    known_id: Option<PeerId>,
) -> Result<(Recovered, u64), String> {
    let damaged = base.damaged.clone();
    refuse_set_back(data_dir, &log, &base.meta)?;
    let appended = discard_log_before(wal, &mut log, &base.meta)?;
    let recovered = join_parts(data_dir, log, base, known_id)?;
    // Not before the older snapshot has turned out to suffice: a file that could not be read once
    // may be whole at the next start.
    for index in damaged {
        set_aside(data_dir, index)?;
    }
    Ok((recovered, appended))
}

/// Refuses a log that ends before the snapshot of a machine that is alone, or contradicts it. No
/// leader sent that snapshot, so the log once held its last entry: an older file, or that of another
/// directory, was put in the place of the log, and the entries after the snapshot are lost.
fn refuse_set_back<F: FileSystem>(
    data_dir: &DataDir<F>,
    log: &wal::Recovered,
    meta: &SnapshotMeta,
) -> Result<(), String> {
    let members = &meta.configuration.members;
    let is_alone = members.len() == 1 && members[0].incarnation == log.identity;
    if !is_alone || continues(log, meta.term.0, meta.index.0) {
        return Ok(());
    }
    let last = match log.entries.last() {
        Some(entry) => entry.index,
        None => log.next_index.map_or(0, |next| next.saturating_sub(1)),
    };
    let found = if last < meta.index.0 {
        format!("ends at index {last}, before")
    } else {
        String::from("has other entries than")
    };
    Err(format!(
        "{}: the log {found} the snapshot of index {} that was made from it: a file of the log was \
         replaced by an older one or by that of another machine. {RESTORE_OR_JOIN}",
        data_dir.display(),
        meta.index.0
    ))
}

/// Discards a log that ends before the snapshot or contradicts it. A crash came after the leader's
/// snapshot was stored and before the log recorded its installation. Appends that record and syncs
/// it: the machine acknowledges the snapshot as soon as it runs, and then a start that cannot read
/// the snapshot must not go on from an older one. Returns how many records were appended.
fn discard_log_before<F: FileSystem>(
    wal: &mut Wal<F>,
    log: &mut wal::Recovered,
    meta: &SnapshotMeta,
) -> Result<u64, String> {
    let (term, index) = (meta.term.0, meta.index.0);
    if continues(log, term, index) {
        return Ok(0);
    }
    log.entries.clear();
    log.damage.clear();
    let mut head = Vec::new();
    encode_meta(meta, &mut head);
    let record = wal::Record::Installed {
        term,
        index,
        keep_tail: false,
        head: &head,
    };
    let appended = wal.append(&[record], index).map_err(|e| e.to_string())?;
    wal.start_sync().map_err(|e| e.to_string())?;
    Ok(appended)
}

/// Whether the log goes on from a snapshot: its entries contain the last one of the snapshot or start
/// after it; or it has none and takes the one that follows.
fn continues(log: &wal::Recovered, term: u64, index: u64) -> bool {
    let Some(first) = log.entries.first() else {
        return log.next_index.is_none_or(|next| next > index);
    };
    if first.index > index {
        return true;
    }
    log.entries
        .iter()
        .any(|e| e.index == index && e.term == term)
}

/// Assembles the recovered state from snapshot and log.
fn join_parts<F: FileSystem>(
    data_dir: &DataDir<F>,
    log: wal::Recovered,
    base: RestoredSnapshot,
    known_id: Option<PeerId>,
) -> Result<Recovered, String> {
    refuse_gap(data_dir, &log, base.meta.index)?;
    refuse_unstored_term(data_dir, &log, &base.meta)?;
    // The head of the newest segment has the newest configuration, unless no segment was made since
    // the snapshot.
    let newest = match decode_meta(&log.configuration) {
        Ok((meta, _)) => meta.configuration,
        Err(_) => base.meta.configuration.clone(),
    };
    let all = log.entries.into_iter();
    let after = all.filter(|e| e.index > base.meta.index.0);
    let entries: Vec<Entry> = after.map(entry_of).collect();
    let latest = configuration_after(&base.meta.configuration, &entries);
    let known = [&newest, &base.meta.configuration, &latest];
    let is_alone = known.iter().all(|c| c.members.len() <= 1);
    let is_faulty = |e: &Entry| matches!(e.body, EntryBody::Faulty { .. });
    if is_alone && entries.iter().any(is_faulty) {
        let first = log.damage.first().map(|d| d.to_string());
        return Err(format!(
            "{}: the log is damaged: {} ({} in all), and there is no other machine to repair it from. \
             Restore the directory from a backup; -f throws the data away and starts anew",
            data_dir.display(),
            first.unwrap_or_default(),
            log.damage.len()
        ));
    }
    for damage in &log.damage {
        log::warn!("the log is damaged: {damage}. The other machines are asked for the entry");
    }
    let Some(id) = known_id.or_else(|| own_id(&known, log.identity)) else {
        return Err(format!(
            "{}: no member of the cluster has this data directory (number {:x}). Start with -f to \
             join anew",
            data_dir.display(),
            log.identity
        ));
    };
    let (term, vote) = term_and_vote(log.state);
    Ok(Recovered {
        term,
        vote,
        id: Some(id),
        incarnation: log.identity,
        snapshot: Some((base.meta, base.store)),
        snapshot_bytes: base.bytes,
        entries,
        commit: Index(log.commit),
        // Known once the log is open for good.
        free_bytes: 0,
    })
}

/// Refuses a log whose first entry does not follow the snapshot of index `at`.
fn refuse_gap<F: FileSystem>(
    data_dir: &DataDir<F>,
    log: &wal::Recovered,
    at: Index,
) -> Result<(), String> {
    let first = log.entries.first().map_or(at.0 + 1, |e| e.index);
    let installed = log.installed.as_ref().map_or(0, |i| i.index);
    if first <= at.0 + 1 && installed <= at.0 {
        return Ok(());
    }
    Err(format!(
        "{}: the newest good snapshot is that of index {}, but the log begins after index {}: the \
         entries between them are lost. {RESTORE_OR_JOIN}",
        data_dir.display(),
        at.0,
        installed.max(first.saturating_sub(1))
    ))
}

/// Refuses a log with an entry of a later term than the stored one: `state` was set back, or is that
/// of another directory. The machine may have voted in the term of the entry, and could vote again.
fn refuse_unstored_term<F: FileSystem>(
    data_dir: &DataDir<F>,
    log: &wal::Recovered,
    meta: &SnapshotMeta,
) -> Result<(), String> {
    let (stored, _) = term_and_vote(log.state);
    let last = log.entries.last().map_or(0, |e| e.term);
    if last <= stored.max(meta.term).0 {
        return Ok(());
    }
    Err(format!(
        "{}/state: the file has term {}, but the log has an entry of term {last}: the vote of that term \
         is lost. {RESTORE_OR_JOIN}",
        data_dir.display(),
        stored.0
    ))
}

/// The configuration that the entries after a snapshot lead to, as far as they are whole.
fn configuration_after(base: &Configuration, entries: &[Entry]) -> Configuration {
    let mut latest = base.clone();
    for entry in entries {
        if let EntryBody::Good(bytes) = &entry.body
            && command::is_membership(bytes)
            && let Ok(command) = command::decode(bytes)
            && let Some(next) = latest.after(entry.index, &command)
        {
            latest = next;
        }
    }
    latest
}

/// The id of the member with this data directory, in the first configuration that has one.
fn own_id(configurations: &[&Configuration], identity: u64) -> Option<PeerId> {
    let is_own = |member: &&Member| member.incarnation == identity;
    let own = configurations
        .iter()
        .find_map(|c| c.members.iter().find(is_own));
    own.map(|member| member.id)
}

fn entry_of(found: wal::Entry) -> Entry {
    Entry {
        term: Term(found.term),
        index: Index(found.index),
        body: match found.body {
            wal::Body::Covered => unreachable!("the snapshot does not cover it"),
            wal::Body::Good(bytes) => EntryBody::Good(bytes),
            wal::Body::Faulty { len, seed, crc } => EntryBody::Faulty { len, seed, crc },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::command::Command;
    use crate::core::machine::StandbyInfo;
    use crate::core::raft::Persist;
    use crate::shell::config::{self, ProcessInputs, Start};
    use std::fs;
    use std::path::Path;

    fn config_of(data_dir: &Path) -> Config {
        let args = [
            "-name=a".to_string(),
            format!("-data-dir={}", data_dir.display()),
        ];
        match config::parse(&ProcessInputs::of_args(&args)) {
            Ok(Start::Run(config)) => *config,
            other => panic!("{other:?}"),
        }
    }

    fn open(config: &Config, joins: bool) -> (Disk, Recovered) {
        Disk::open_to(config, joins).expect("a good directory")
    }

    fn standby_info() -> StandbyInfo {
        StandbyInfo {
            running: true,
            sync_interval_ms: 1_000,
            ..StandbyInfo::default()
        }
    }

    #[test]
    fn a_directory_that_waits_to_be_admitted_keeps_its_number() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = config_of(&dir.path().join("data"));
        let (disk, first) = open(&config, true);
        assert!(first.id.is_none() && first.snapshot.is_none());
        drop(disk);
        // The process died before it was admitted. The same machine asks again.
        let (_disk, second) = open(&config, true);
        assert_eq!(second.id, None);
        assert_eq!(second.incarnation, first.incarnation);
    }

    #[test]
    fn an_admitted_machine_keeps_its_id_and_founds_nothing() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = config_of(&dir.path().join("data"));
        let (mut disk, first) = open(&config, true);
        disk.keep_id(PeerId(5)).expect("kept");
        drop(disk);
        for joins in [true, false] {
            let (disk, found) = open(&config, joins);
            assert_eq!(
                (found.id, found.incarnation),
                (Some(PeerId(5)), first.incarnation)
            );
            assert!(found.snapshot.is_none() && found.entries.is_empty());
            assert!(disk.standby.is_none());
        }
    }

    #[test]
    fn a_removed_machine_is_a_standby_and_its_log_is_wiped_once() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = config_of(&dir.path().join("data"));
        let (mut disk, first) = open(&config, true);
        disk.keep_id(PeerId(5)).expect("kept");
        disk.keep_standby(&standby_info(), true).expect("kept");
        // The process died before it wiped the log.
        drop(disk);
        let mut numbers = Vec::new();
        for joins in [true, false] {
            let (mut disk, found) = open(&config, joins);
            assert_eq!(found.id, None);
            assert_eq!(disk.take_standby(), Some(standby_info()));
            numbers.push(found.incarnation);
        }
        assert_ne!(numbers[0], first.incarnation);
        assert_eq!(numbers[0], numbers[1]);
    }

    #[test]
    fn a_standby_that_was_admitted_is_a_member() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = config_of(&dir.path().join("data"));
        let (mut disk, _) = open(&config, true);
        disk.keep_id(PeerId(5)).expect("kept");
        disk.keep_standby(&standby_info(), true).expect("kept");
        drop(disk);
        let (mut disk, _) = open(&config, false);
        disk.keep_id(PeerId(9)).expect("kept");
        drop(disk);
        let (mut disk, found) = open(&config, true);
        assert_eq!(
            found.id,
            Some(PeerId(9)),
            "membership is newer than standby_info"
        );

        // The machine is removed again, and wipes its log while it runs.
        disk.keep_standby(&standby_info(), true).expect("kept");
        let number = disk.start_over().expect("wiped");
        disk.keep_standby(&standby_info(), false).expect("kept");
        drop(disk);
        let (disk, found) = open(&config, true);
        assert_eq!((found.id, found.incarnation), (None, number));
        assert_eq!(disk.standby, Some(standby_info()));
    }

    /// Founds a cluster, and puts a later snapshot with this configuration beside the log.
    fn founder_with_snapshot(config: &Config, index: u64, members: Vec<Member>) -> Recovered {
        let (disk, first) = open(config, false);
        drop(disk);
        let founding = Machine::bootstrap(&config.settings(), first.incarnation, 1);
        let later = Founding {
            meta: SnapshotMeta {
                index: Index(index),
                configuration: Configuration {
                    members,
                    ..Configuration::default()
                },
                ..founding.meta
            },
            ..founding
        };
        let data_dir = DataDir::new(Os, &config.data_dir);
        write_first_snapshot(&data_dir, &later).expect("written");
        first
    }

    /// The power failed after the leader's snapshot was in place, and before the log recorded its
    /// installation. The log had no entries after an earlier one.
    #[test]
    fn a_log_without_entries_goes_on_from_a_later_snapshot() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = config_of(&dir.path().join("data"));
        let first = founder_with_snapshot(&config, 9, Vec::new());
        let options = wal_options(&DataDir::new(Os, &config.data_dir), &config).expect("random");
        let (mut wal, _) = Wal::open(options).expect("whole");
        let head = head_of(&first);
        let record = wal::Record::Installed {
            term: 1,
            index: 5,
            keep_tail: false,
            head: &head,
        };
        wal.append(&[record], 5).expect("room");
        wal.close().expect("closed");
        let (mut disk, found) = open(&config, false);
        assert!(found.entries.is_empty());
        let entry = Entry {
            term: Term(1),
            index: Index(10),
            body: EntryBody::Good(b"body".as_slice().into()),
        };
        let entries = vec![entry];
        let commit = Index(9);
        disk.append(&mut vec![Persist::Append { entries, commit }], Lsn(1))
            .expect("it follows the snapshot");
    }

    /// Appends entries to the log of a machine that has founded its cluster; `later` terms after the
    /// founder's.
    fn append_to_founded(config: &Config, later: u64, bodies: &[&[u8]]) {
        let (disk, first) = open(config, false);
        drop(disk);
        let (base, _) = first.snapshot.as_ref().expect("a founder has one");
        let first = base.index.0 + 1;
        let numbered = bodies.iter().zip(first..);
        let entries: Vec<wal::Record> = numbered
            .map(|(body, index)| wal::Record::Entry {
                term: base.term.0 + later,
                index,
                body,
            })
            .collect();
        let data_dir = DataDir::new(Os, &config.data_dir);
        let options = wal_options(&data_dir, config).expect("random");
        let (mut wal, _) = Wal::open(options).expect("whole");
        wal.append(&entries, base.index.0).expect("room");
        wal.close().expect("closed");
    }

    /// Another machine joined a machine that was alone, which wrote no snapshot and no segment since:
    /// only an entry tells that there is a machine to repair the log from.
    #[test]
    fn a_damaged_log_that_tells_of_another_machine_is_not_refused() {
        let join = Command::Join {
            name: "b".into(),
            peer_url: "http://b:7001".into(),
            client_url: "http://b:4001".into(),
            incarnation: 5,
            replaces: None,
        };
        let mut join_body = Vec::new();
        command::encode(&join, &mut join_body);
        let damaged_body = b"this is damaged on the disk".as_slice();
        for (second, is_refused) in [(join_body.as_slice(), false), (b"other", true)] {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let config = config_of(&dir.path().join("data"));
            append_to_founded(&config, 0, &[damaged_body, second]);
            flip_in_log(&config, damaged_body);
            let opened = Disk::open_to(&config, false);
            let refused = opened.err().unwrap_or_default();
            let says_so = refused.contains("there is no other machine to repair it from");
            assert_eq!(says_so, is_refused, "{refused}");
        }
    }

    /// Damages a body in the first segment.
    fn flip_in_log(config: &Config, body: &[u8]) {
        let segment = config.data_dir.join("0000000000000001.log");
        let mut bytes = fs::read(&segment).expect("a segment");
        let at = bytes.windows(body.len()).position(|window| window == body);
        bytes[at.expect("the body")] ^= 1;
        fs::write(&segment, bytes).expect("written");
    }

    /// The same, with an entry behind the first snapshot. The machine has started, and its process died
    /// before the first sync. Meanwhile it may have acknowledged the later snapshot.
    #[test]
    fn a_snapshot_that_a_machine_has_started_from_is_not_given_up() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = config_of(&dir.path().join("data"));
        append_to_founded(&config, 0, &[b"body"]);
        founder_with_snapshot(&config, 9, Vec::new());
        let (disk, found) = open(&config, false);
        drop(disk);
        let (later, _) = found.snapshot.as_ref().expect("it is whole");
        assert_eq!(later.index, Index(9));
        let data_dir = DataDir::new(Os, &config.data_dir);
        let path = snapfile::file_of(&data_dir, Index(9));
        std::fs::write(&path, "damaged").expect("written");
        let refused = Disk::open_to(&config, false).err();
        let refused = refused.expect("an older snapshot does not do");
        assert!(
            refused.contains("the log begins after index 9"),
            "{refused}"
        );
    }

    /// The file of the log was replaced by an older one: the entries after the snapshot are lost.
    #[test]
    fn an_older_log_beside_the_snapshot_of_a_machine_alone_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = config_of(&dir.path().join("data"));
        append_to_founded(&config, 0, &[b"body"]);
        let (disk, first) = open(&config, false);
        drop(disk);
        let (base, _) = first.snapshot.as_ref().expect("a founder has one");
        let members = base.configuration.members.clone();
        founder_with_snapshot(&config, 9, members);
        let refused = Disk::open_to(&config, false).err();
        let refused = refused.expect("its entries are lost");
        let expected = "the log ends at index 2, before the snapshot of index 9";
        assert!(refused.contains(expected), "{refused}");
    }

    #[test]
    fn a_log_of_a_later_term_than_the_stored_one_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = config_of(&dir.path().join("data"));
        append_to_founded(&config, 1, &[b"body"]);
        let refused = Disk::open_to(&config, false).err();
        let refused = refused.expect("its vote of that term is not known");
        assert!(
            refused.contains("/state: the file has term 1, but the log has an entry of term 2"),
            "{refused}"
        );
    }

    fn head_of(recovered: &Recovered) -> Vec<u8> {
        let (meta, _) = recovered.snapshot.as_ref().expect("a founder has one");
        let mut head = Vec::new();
        encode_meta(meta, &mut head);
        head
    }

    /// The founder was removed, and the process died before `standby_info` was written.
    #[test]
    fn a_removed_founder_starts_with_its_id() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = config_of(&dir.path().join("data"));
        let first = founder_with_snapshot(&config, 9, Vec::new());
        let (_disk, found) = open(&config, false);
        assert_eq!(found.id, first.id);
    }

    #[test]
    fn a_wiped_directory_founds_a_cluster() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = config_of(&dir.path().join("data"));
        let (mut disk, _) = open(&config, true);
        disk.keep_standby(&standby_info(), true).expect("kept");
        drop(disk);
        dir::wipe(&DataDir::new(Os, &config.data_dir)).expect("wiped");
        let (_disk, found) = open(&config, false);
        assert!(found.id == Some(PeerId(1)) && found.snapshot.is_some());
    }

    /// A FIFO would be waited for by a plain open, so the test would hang.
    #[test]
    fn a_file_of_the_wrong_kind_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = config_of(&dir.path().join("data"));
        drop(open(&config, false));
        let mut names = vec!["standby_info".to_string()];
        for folder in [
            config.data_dir.clone(),
            config.data_dir.join(snapfile::FOLDER),
        ] {
            for entry in fs::read_dir(folder).expect("there") {
                let path = entry.expect("an entry").path();
                let below = path.strip_prefix(&config.data_dir).expect("in it");
                names.push(below.display().to_string());
            }
        }
        names.retain(|name| name != snapfile::FOLDER);
        assert_eq!(names.len(), 6, "of the log, ids, snapshot: {names:?}");
        let aside = dir.path().join("aside");
        for name in names {
            let path = config.data_dir.join(&name);
            let was_there = fs::rename(&path, &aside).is_ok();
            for is_fifo in [true, false] {
                if is_fifo {
                    rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).expect("made");
                } else {
                    fs::create_dir(&path).expect("made");
                }
                let error = match Disk::open_to(&config, false) {
                    Ok(_) => panic!("{name} is no file"),
                    Err(error) => error,
                };
                assert!(error.contains(&name), "{name}: {error}");
                Os.remove(&path).expect("removed");
            }
            if was_there {
                fs::rename(&aside, &path).expect("put back");
            }
        }
        open(&config, false);
    }
}
