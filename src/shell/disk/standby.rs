//! The file `standby_info`: the knowledge of a machine in standby mode about its cluster.
//!
//! The order of writing makes every crash recoverable:
//! - A member that becomes a standby writes this file before it wipes its log. The file names the
//!   abandoned log, so that after a crash between the two steps the next start wipes it.
//! - A standby that is admitted writes `membership` before it changes this file. After a crash
//!   between the two steps, the `membership` for the present log overrides this file.
//!
//! Start with [`read`].
use super::files::{self, DataDir};
use super::membership::OwnMembership;
use crate::core::machine::{FormerPlace, MachineInfo, Role, StandbyInfo};
use serde::{Deserialize, Serialize};
use std::io;
use wal::fs::FileSystem;

/// The name of the file in the data directory.
pub const FILE: &str = "standby_info";

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandbyRecord {
    /// Members and settings of the cluster, as this machine last knew them.
    pub info: StandbyInfo,
    /// The random number of the log that the machine abandoned, to be wiped; `None` if there is no
    /// such log.
    pub abandoned: Option<u64>,
}

impl StandbyRecord {
    /// Whether the machine is still a standby: the file says so, and no later `membership` says
    /// that it was admitted. `incarnation` is the random number of the log in the directory.
    pub fn is_current(&self, membership: Option<&OwnMembership>, incarnation: u64) -> bool {
        if !self.info.running {
            return false;
        }
        if self.abandoned == Some(incarnation) {
            // The membership, if any, is that of the abandoned log.
            return true;
        }
        match membership {
            Some(OwnMembership::Member {
                incarnation: of, ..
            }) => *of != incarnation,
            None => true,
        }
    }
}

/// The file as JSON. Names and units are those of etcd 0.4.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StandbyFile {
    running: bool,
    cluster: Vec<MachineEntry>,
    /// In seconds.
    sync_interval: f64,
    /// The random number of the abandoned log; 0 for none.
    #[serde(default)]
    given_up: u64,
    /// The cluster and the id of this machine's last place; the id is 0 if it was never a member.
    #[serde(default)]
    former_cluster: u64,
    #[serde(default)]
    former_id: u64,
    /// Whether the machine asks to join. False: it was removed for good.
    #[serde(default = "rejoins_by_default")]
    rejoin: bool,
}

fn rejoins_by_default() -> bool {
    true
}

/// A member of the cluster in the file.
#[derive(Serialize, Deserialize)]
struct MachineEntry {
    name: String,
    state: String,
    #[serde(rename = "clientURL")]
    client_url: String,
    #[serde(rename = "peerURL")]
    peer_url: String,
}

/// `MachineEntry::state` of the leader.
const LEADER: &str = "leader";
/// `MachineEntry::state` of the other members.
const FOLLOWER: &str = "follower";

impl From<&MachineInfo> for MachineEntry {
    fn from(machine: &MachineInfo) -> MachineEntry {
        let is_leader = machine.state == Role::Leader;
        MachineEntry {
            name: machine.name.to_string(),
            state: if is_leader { LEADER } else { FOLLOWER }.to_string(),
            client_url: machine.client_url.to_string(),
            peer_url: machine.peer_url.to_string(),
        }
    }
}

impl From<MachineEntry> for MachineInfo {
    fn from(entry: MachineEntry) -> MachineInfo {
        MachineInfo {
            name: entry.name.into(),
            state: if entry.state == LEADER {
                Role::Leader
            } else {
                Role::Follower
            },
            client_url: entry.client_url.into(),
            peer_url: entry.peer_url.into(),
        }
    }
}

/// Reads the file; `None` if there is none. It may be outdated, see [`StandbyRecord::is_current`].
///
/// # Errors
///
/// The file cannot be read or is damaged; with a sentence for the user. A standby must not take
/// itself for a new machine, which could found a cluster of its own.
pub fn read<F: FileSystem>(data_dir: &DataDir<F>) -> Result<Option<StandbyRecord>, String> {
    let Some(file) = files::read_json::<F, StandbyFile>(data_dir, FILE, DAMAGED)? else {
        return Ok(None);
    };
    Ok(Some(StandbyRecord {
        info: StandbyInfo {
            running: file.running,
            cluster: file.cluster.into_iter().map(MachineInfo::from).collect(),
            // A cast from floating point saturates.
            sync_interval_ms: (file.sync_interval * 1000.0).round() as u64,
            former: FormerPlace::new(file.former_cluster, file.former_id),
            is_barred: !file.rejoin,
        },
        abandoned: (file.given_up != 0).then_some(file.given_up),
    }))
}

/// The advice about a damaged file.
const DAMAGED: &str = ". Remove it, or start with -f to throw all away. In both cases name machines of \
                       its cluster with -peers: without them an empty directory founds a cluster of its \
                       own";

/// Writes the file durably; `abandoned` as in [`StandbyRecord`].
///
/// # Errors
///
/// A system call failed.
pub fn write<F: FileSystem>(
    data_dir: &DataDir<F>,
    info: &StandbyInfo,
    abandoned: Option<u64>,
) -> io::Result<()> {
    let file = StandbyFile {
        running: info.running,
        cluster: info.cluster.iter().map(MachineEntry::from).collect(),
        sync_interval: info.sync_interval_ms as f64 / 1000.0,
        given_up: abandoned.unwrap_or(0),
        former_cluster: info.former.map_or(0, |place| place.cluster),
        former_id: info.former.map_or(0, |place| place.id.0),
        rejoin: !info.is_barred,
    };
    files::replace(data_dir, FILE, &serde_json::to_vec(&file)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use wal::os::Os;

    fn info(running: bool) -> StandbyInfo {
        let leader = MachineInfo {
            name: "a".into(),
            state: Role::Leader,
            client_url: "http://a:4001".into(),
            peer_url: "http://a:7001".into(),
        };
        let other = MachineInfo {
            name: "b".into(),
            state: Role::Follower,
            ..leader.clone()
        };
        StandbyInfo {
            running,
            cluster: vec![leader, other],
            sync_interval_ms: 1_500,
            former: FormerPlace::new(u64::MAX, 7),
            is_barred: running,
        }
    }

    #[test]
    fn a_standby_is_current_until_it_is_admitted_or_stops() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let data_dir = DataDir::new(Os, dir.path());
        assert_eq!(read(&data_dir), Ok(None));
        write(&data_dir, &info(true), Some(u64::MAX)).expect("room");
        let record = read(&data_dir).expect("whole").expect("there");
        assert_eq!(
            (&record.info, record.abandoned),
            (&info(true), Some(u64::MAX))
        );
        let of_abandoned = OwnMembership::Member {
            id: 3,
            incarnation: u64::MAX,
        };
        assert!(record.is_current(None, 4));
        assert!(record.is_current(Some(&of_abandoned), u64::MAX));
        assert!(record.is_current(Some(&of_abandoned), 4));
        let admitted = OwnMembership::Member {
            id: 5,
            incarnation: 4,
        };
        assert!(!record.is_current(Some(&admitted), 4));

        write(&data_dir, &info(false), Some(4)).expect("room");
        let record = read(&data_dir).expect("whole").expect("there");
        assert_eq!(record.info, info(false));
        assert!(!record.is_current(None, 4));
    }

    #[test]
    fn damage_is_reported_and_numbers_are_bounded() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let data_dir = DataDir::new(Os, dir.path());
        write(&data_dir, &info(true), None).expect("room");
        let whole = fs::read(dir.path().join(FILE)).expect("there");
        let torn = &whole[..whole.len() / 2];
        for bytes in [torn, b"", b"\0\0\0\0", b"[]", br#"{"running":1}"#] {
            fs::write(dir.path().join(FILE), bytes).expect("room");
            let text = read(&data_dir).expect_err("damaged");
            assert!(text.contains("-peers"), "{text}");
        }
        let numbers = br#"{"running":true,"cluster":[],"syncInterval":1e300}"#;
        files::replace(&data_dir, FILE, numbers).expect("room");
        let record = read(&data_dir).expect("whole").expect("there");
        assert_eq!(record.info.sync_interval_ms, u64::MAX);
    }
}
