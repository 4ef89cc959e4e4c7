//! What is in the data directory at start: the newest good snapshot, the entries behind it, term
//! and vote.
//!
//! Refuses rather than guesses: every error is a sentence that says which file, what is wrong, and
//! what to do.
use super::membership::{self, Membership};
use super::snapfile::Unusable;
use super::snapshots::{self, KEPT, Snapshots};
use super::{Disk, Slow, dir, random, snapfile, standby};
use crate::core::machine::{Founding, Machine, Recovered, Space};
use crate::core::raft::snapshot_head::{decode_meta, encode_meta};
use crate::core::raft::{Entry, EntryBody, Index, Lsn, PeerId, SnapshotMeta, Term};
use crate::core::store::{HistoryLimits, Store};
use crate::shell::clock;
use crate::shell::config::Config;
use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use wal::{OpenError, Options, Wal};

/// How long a lock that is still held is tried again: a predecessor may be dying.
const LOCK_MS_MAX: u64 = 2_000;
const LOCK_PAUSE_MS: u64 = 20;
/// All events kept for watchers that ask for the past, in bytes.
const HISTORY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The snapshot that recovery starts from.
struct Base {
    meta: SnapshotMeta,
    store: Store,
    bytes: u64,
}

impl Disk {
    /// Opens the data directory and reads all of it. A new one becomes the first machine of a new
    /// cluster, unless the configuration or the directory itself names machines to join: then
    /// the recovered id is 0.
    pub fn open(config: &Config) -> Result<(Disk, Recovered), String> {
        let joins = !config.peers.is_empty() || config.discovery.is_some();
        Disk::open_to(config, joins)
    }

    /// The same; `joins` tells whether a new directory waits to be let in or founds a cluster.
    pub fn open_to(config: &Config, joins: bool) -> Result<(Disk, Recovered), String> {
        let data_dir = config.data_dir.as_path();
        dir::create(data_dir)?;
        if config.force {
            dir::wipe(data_dir)?;
            dir::create(data_dir)?;
        } else {
            dir::refuse_foreign(data_dir)?;
        }
        let (mut wal, mut found) = open_log(config)?;
        let membership = membership::read(data_dir)?;
        let standby = standby::read(data_dir)?;
        let peers = standby
            .iter()
            .flat_map(|s| &s.info.cluster)
            .map(|m| m.peer_url.clone())
            .collect();
        let standby = standby.filter(|s| s.lasts(membership.as_ref(), found.identity));
        match &standby {
            Some(standby) if standby.given_up == found.identity => {
                found = start_over(config, &mut wal)?
            }
            Some(standby) if standby.given_up != 0 => dir::wipe_rest(data_dir)?,
            Some(_) | None => {}
        }
        if found.torn_bytes > 0 {
            log::info!(
                "the log ended in {} unfinished bytes, dropped",
                found.torn_bytes
            );
        }
        let limits = HistoryLimits {
            events: config.watch_history,
            bytes: HISTORY_BYTES_MAX,
        };
        let io = |e: std::io::Error| format!("{}: {e}", snapfile::folder(data_dir).display());
        let keep = if found.is_new { 0 } else { KEPT };
        let mut kept = snapfile::prune(data_dir, keep).map_err(io)?;
        let known = match membership {
            Some(Membership::Member { id, incarnation }) if incarnation == found.identity => {
                Some(PeerId(id))
            }
            Some(Membership::Member { .. }) | None => None,
        };
        let is_empty = kept.is_empty() && found.entries.is_empty() && found.installed.is_none();
        let joins = known.is_some() || standby.is_some() || joins;
        let incarnation = found.identity;
        let (recovered, appended) = if is_empty && joins {
            (nothing_but(known, &found), 0)
        } else {
            if is_empty {
                let founding = found_cluster(config, &mut wal, &mut found)?;
                kept = vec![founding.meta.index];
            }
            let base = newest(data_dir, &mut kept, limits)?;
            let appended = follow_snapshot(&mut wal, &mut found, &base.meta)?;
            (recovered(data_dir, found, base, known)?, appended)
        };
        let disk = Disk {
            data_dir: data_dir.to_path_buf(),
            wal,
            segment_bytes: config.segment_bytes,
            incarnation,
            standby: standby
                .map(|s| s.info)
                .filter(|_| recovered.id == PeerId::NONE),
            peers,
            snapshots: Snapshots::new(data_dir, limits, kept),
            stuck: VecDeque::new(),
            marks: VecDeque::new(),
            appended,
            durable: 0,
            lsn: Lsn(0),
            space: Space::Ok,
            room_retry_us: 0,
            slow: Slow::from_env(),
        };
        Ok((disk, recovered))
    }
}

/// What a machine starts with that holds nothing of its cluster yet, but for its id if it has been
/// let in.
fn nothing_but(id: Option<PeerId>, found: &wal::Recovered) -> Recovered {
    let (term, vote) = found.state.unwrap_or_default();
    let nothing = Recovered::nothing(id.unwrap_or(PeerId::NONE), found.identity);
    Recovered {
        term: Term(term),
        vote: PeerId(vote),
        ..nothing
    }
}

/// Opens the log; waits a while for one that another process has.
fn open_log(config: &Config) -> Result<(Wal, wal::Recovered), String> {
    let identity = random().map_err(|e| format!("the system gives no random numbers: {e}"))?;
    let mut waited_ms = 0;
    loop {
        let options = Options {
            dir: config.data_dir.clone(),
            segment_bytes: config.segment_bytes,
            identity,
        };
        match Wal::open(options) {
            Err(OpenError::Locked { .. }) if waited_ms < LOCK_MS_MAX => {
                clock::pause(LOCK_PAUSE_MS);
                waited_ms += LOCK_PAUSE_MS;
            }
            Err(e) => return Err(e.to_string()),
            Ok(opened) => return Ok(opened),
        }
    }
}

/// The log here is that of a life that is over: the machine died before it was wiped.
fn start_over(config: &Config, wal: &mut Wal) -> Result<wal::Recovered, String> {
    let identity = random().map_err(|e| format!("the system gives no random numbers: {e}"))?;
    let options = Options {
        dir: config.data_dir.clone(),
        segment_bytes: config.segment_bytes,
        identity,
    };
    let found = wal.start_over(&options).map_err(|e| e.to_string())?;
    dir::wipe_rest(&config.data_dir)?;
    Ok(found)
}

/// Makes the beginning of a new cluster durable, in this order; after a crash in between it is done
/// again.
fn found_cluster(
    config: &Config,
    wal: &mut Wal,
    found: &mut wal::Recovered,
) -> Result<Founding, String> {
    let data_dir = config.data_dir.as_path();
    let seed = random().map_err(|e| format!("the system gives no random numbers: {e}"))?;
    let founding = Machine::bootstrap(&config.settings(), found.identity, seed);
    found.state = Some((founding.term.0, 0));
    wal.save_state(founding.term.0, 0)
        .map_err(|e| e.to_string())?;
    let write = || {
        let mut writer = snapfile::Writer::new(data_dir, &founding.meta)?;
        for chunk in &founding.chunks {
            writer.append(chunk)?;
        }
        writer.finish()
    };
    match write() {
        Ok(_) => Ok(founding),
        Err(e) => Err(format!(
            "{}: cannot write the first snapshot: {e}",
            data_dir.display()
        )),
    }
}

/// The newest snapshot that is whole. A damaged one is set aside with a line in the log: the older
/// one and the log, which is kept from there on, hold the same.
fn newest(data_dir: &Path, kept: &mut Vec<Index>, limits: HistoryLimits) -> Result<Base, String> {
    let (mut damage, mut damaged) = (Vec::new(), Vec::new());
    while let Some(index) = kept.first().copied() {
        let path = snapfile::file_of(data_dir, index);
        match snapshots::restore(&path, index, limits) {
            Ok((meta, store)) => {
                for index in damaged {
                    set_aside(data_dir, index)?;
                }
                let bytes = fs::metadata(&path).map_or(0, |m| m.len());
                return Ok(Base { meta, store, bytes });
            }
            Err(Unusable::Version(text)) => return Err(text),
            Err(Unusable::Damaged(text)) => {
                log::error!("a snapshot is damaged: {text}");
                damage.push(text);
                damaged.push(kept.remove(0));
            }
        }
    }
    let what = match damage.is_empty() {
        true => "there is no snapshot, although there is a log".to_string(),
        false => damage.join("; "),
    };
    Err(format!(
        "{}: {what}. Restore the directory from a backup, or, if other machines hold its data, start it with -f to \
         join anew",
        snapfile::folder(data_dir).display()
    ))
}

/// Renames a damaged snapshot, so that it is not counted among the two that are kept but can be
/// looked at.
fn set_aside(data_dir: &Path, index: Index) -> Result<(), String> {
    let path = snapfile::file_of(data_dir, index);
    let aside = path.with_extension("damaged");
    fs::rename(&path, aside).map_err(|e| format!("{}: {e}", path.display()))
}

/// A crash may have come between the snapshot of the leader and the record that says so: when the
/// log here is not the one that leads up to the snapshot, it goes, as that record would have had
/// it. Gives how many records were appended.
fn follow_snapshot(
    wal: &mut Wal,
    found: &mut wal::Recovered,
    meta: &SnapshotMeta,
) -> Result<u64, String> {
    let (term, index) = (meta.term.0, meta.index.0);
    let follows = match (found.entries.first(), found.entries.last()) {
        (Some(first), Some(last)) if first.index <= index => {
            let at = found.entries.iter().find(|e| e.index == index);
            last.index >= index && at.is_some_and(|e| e.term == term)
        }
        _ => true,
    };
    if follows {
        return Ok(0);
    }
    found.entries.clear();
    found.damage.clear();
    let mut head = Vec::new();
    encode_meta(meta, &mut head);
    let record = wal::Record::Installed {
        term,
        index,
        keep_tail: false,
        head: &head,
    };
    wal.append(&[record], index).map_err(|e| e.to_string())
}

/// Puts snapshot and log together.
fn recovered(
    data_dir: &Path,
    found: wal::Recovered,
    base: Base,
    known: Option<PeerId>,
) -> Result<Recovered, String> {
    let at = base.meta.index;
    let first = found.entries.first().map_or(at.0 + 1, |e| e.index);
    let installed = found.installed.as_ref().map_or(0, |i| i.index);
    if first > at.0 + 1 || installed > at.0 {
        return Err(format!(
            "{}: the newest good snapshot is that of index {}, but the log begins behind index {}: what is between \
             them is lost. Restore the directory from a backup, or, if other machines hold its data, start it with -f \
             to join anew",
            data_dir.display(),
            at.0,
            installed.max(first - 1)
        ));
    }
    let entries: Vec<Entry> = found.entries.into_iter().map(entry).collect();
    let entries: Vec<Entry> = entries.into_iter().filter(|e| e.index > at).collect();
    let newest = decode_meta(&found.configuration).map(|(meta, _)| meta.configuration);
    let newest = newest.unwrap_or_else(|_| base.meta.configuration.clone());
    let is_alone =
        known.is_none() && newest.members.len() <= 1 && base.meta.configuration.members.len() <= 1;
    let faulty = entries
        .iter()
        .any(|e| matches!(e.body, EntryBody::Faulty { .. }));
    if is_alone && faulty {
        let fault = found
            .damage
            .first()
            .map_or(String::new(), |f| f.to_string());
        return Err(format!(
            "{}: the log is damaged: {fault} ({} in all), and there is no other machine to repair it from. Restore the \
             directory from a backup; -f throws the data away and starts anew",
            data_dir.display(),
            found.damage.len()
        ));
    }
    for fault in &found.damage {
        log::warn!("the log is damaged: {fault}; the other machines are asked for it");
    }
    let mut members = newest
        .members
        .iter()
        .chain(&base.meta.configuration.members);
    let own = members.find(|m| m.incarnation == found.identity);
    let Some(id) = known.or(own.map(|m| m.id)) else {
        return Err(format!(
            "{}: no member of the cluster has this data directory (number {:x}). Start with -f to join anew",
            data_dir.display(),
            found.identity
        ));
    };
    let (term, vote) = found.state.unwrap_or_default();
    Ok(Recovered {
        term: Term(term),
        vote: PeerId(vote),
        id,
        incarnation: found.identity,
        snapshot: Some((base.meta, base.store)),
        snapshot_bytes: base.bytes,
        entries,
        commit: Index(found.commit),
    })
}

fn entry(found: wal::Entry) -> Entry {
    Entry {
        term: Term(found.term),
        index: Index(found.index),
        body: match found.body {
            wal::Body::Good(bytes) => EntryBody::Good(bytes),
            wal::Body::Faulty { len, seed, crc } => EntryBody::Faulty { len, seed, crc },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::machine::StandbyInfo;
    use crate::shell::config::{self, Source, Start};

    fn config_of(data_dir: &Path) -> Config {
        let args = [
            "-name=a".to_string(),
            format!("-data-dir={}", data_dir.display()),
        ];
        let source = Source {
            args: &args,
            env: &|_| None,
            read: &|_| Ok(None),
            host_name: "host",
        };
        match config::parse(&source) {
            Ok(Start::Run(config)) => *config,
            other => panic!("{other:?}"),
        }
    }

    /// A directory that waits to be let in holds nothing; let in, it holds its id and founds
    /// nothing, whatever it is started with; given up, it is new again and still founds
    /// nothing.
    #[test]
    fn who_a_machine_is_outlives_a_crash() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = config_of(&dir.path().join("data"));
        let open = |joins| Disk::open_to(&config, joins).expect("a good directory");
        let (disk, found) = open(true);
        let incarnation = found.incarnation;
        assert!(found.id == PeerId::NONE && found.snapshot.is_none());
        drop(disk);
        // It was not let in before the process died: the same machine asks again.
        let (mut disk, found) = open(true);
        assert_eq!((found.id, found.incarnation), (PeerId::NONE, incarnation));
        disk.keep_id(PeerId(5));
        drop(disk);
        for joins in [true, false] {
            let (disk, found) = open(joins);
            assert_eq!((found.id, found.incarnation), (PeerId(5), incarnation));
            assert!(found.snapshot.is_none() && found.entries.is_empty());
            assert!(disk.standby.is_none());
        }
        // Removed, it is a standby whatever it is started with; its log goes, before or after the
        // process dies.
        let info = StandbyInfo {
            running: true,
            sync_interval_ms: 1_000,
            ..StandbyInfo::default()
        };
        let (mut disk, _) = open(false);
        disk.keep_standby(&info, true);
        drop(disk);
        let mut numbers = vec![incarnation];
        for joins in [true, false] {
            let (mut disk, found) = open(joins);
            assert_eq!(
                (found.id, disk.take_standby()),
                (PeerId::NONE, Some(info.clone()))
            );
            numbers.push(found.incarnation);
        }
        assert!(
            numbers[0] != numbers[1] && numbers[1] == numbers[2],
            "{numbers:?}"
        );
        let (mut disk, _) = open(false);
        disk.keep_id(PeerId(9));
        drop(disk);
        let (mut disk, found) = open(true);
        assert_eq!(
            found.id,
            PeerId(9),
            "let in, whatever standby_info says still"
        );
        // It is removed again.
        disk.keep_standby(&info, true);
        let number = disk.start_over();
        disk.keep_standby(&info, false);
        drop(disk);
        let (disk, found) = open(true);
        assert_eq!((found.id, found.incarnation), (PeerId::NONE, number));
        assert_eq!(disk.standby, Some(info));
        drop(disk);
        // Thrown away on demand, it founds a cluster.
        dir::wipe(&config.data_dir).expect("wiped");
        let (_disk, found) = open(false);
        assert!(found.id == PeerId(1) && found.snapshot.is_some());
    }
}
