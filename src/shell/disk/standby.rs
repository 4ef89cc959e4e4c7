//! The file `standby_info`: what a machine in standby mode knows of its cluster; written whole,
//! renamed into place, synced.
//!
//! A machine whose life as a member has ended writes it before anything else; it names the log that
//! is of no use any more, so that a crash before the wiping is made up for at the next start. One
//! that is let in writes its membership first: between the two, the newer membership counts. Start
//! with `read`.
use super::dir;
use super::membership::Membership;
use crate::core::machine::{MachineInfo, Role, StandbyInfo};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::Path;

/// Its name in the data directory.
pub const FILE: &str = "standby_info";

/// What a directory says that is a standby's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub info: StandbyInfo,
    /// The number of the log that is to be wiped; 0: none.
    pub given_up: u64,
}

impl Found {
    /// Whether the standby has not been let in since, as far as membership and the log's number
    /// tell.
    pub fn lasts(&self, membership: Option<&Membership>, identity: u64) -> bool {
        let let_in = membership
            .is_some_and(|Membership::Member { incarnation, .. }| *incarnation == identity);
        self.info.running && (self.given_up == identity || !let_in)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    running: bool,
    cluster: Vec<Machine>,
    /// In seconds.
    sync_interval: f64,
    #[serde(default)]
    given_up: u64,
}

#[derive(Serialize, Deserialize)]
struct Machine {
    name: String,
    state: String,
    #[serde(rename = "clientURL")]
    client_url: String,
    #[serde(rename = "peerURL")]
    peer_url: String,
}

const LEADER: &str = "leader";

/// What the data directory says, also of a standby that has been let in since; `None`: it never was
/// one. The error is a sentence for the user: a standby must not take itself for a new machine,
/// which might begin a cluster of its own.
pub fn read(data_dir: &Path) -> Result<Option<Found>, String> {
    let path = data_dir.join(FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(format!("{}: {e}", path.display())),
    };
    let file: File = serde_json::from_slice(&bytes).map_err(|e| {
        format!(
            "{} is damaged: {e}. Remove it, or start with -f to throw all away; in both cases with -peers, which name \
             machines of its cluster: without them an empty directory begins a cluster of its own",
            path.display()
        )
    })?;
    Ok(Some(Found {
        info: StandbyInfo {
            running: file.running,
            cluster: file.cluster.into_iter().map(known).collect(),
            // A cast from floating point saturates.
            sync_interval_ms: (file.sync_interval * 1000.0).round() as u64,
        },
        given_up: file.given_up,
    }))
}

fn known(machine: Machine) -> MachineInfo {
    MachineInfo {
        name: machine.name.into(),
        state: if machine.state == LEADER {
            Role::Leader
        } else {
            Role::Follower
        },
        client_url: machine.client_url.into(),
        peer_url: machine.peer_url.into(),
    }
}

/// Puts it in place, durably; `given_up` as in `Found`.
pub fn write(data_dir: &Path, info: &StandbyInfo, given_up: u64) -> io::Result<()> {
    let machine = |m: &MachineInfo| Machine {
        name: m.name.to_string(),
        state: if m.state == Role::Leader {
            LEADER
        } else {
            "follower"
        }
        .to_string(),
        client_url: m.client_url.to_string(),
        peer_url: m.peer_url.to_string(),
    };
    let file = File {
        running: info.running,
        cluster: info.cluster.iter().map(machine).collect(),
        sync_interval: info.sync_interval_ms as f64 / 1000.0,
        given_up,
    };
    dir::replace(data_dir, FILE, &serde_json::to_vec(&file)?)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        }
    }

    #[test]
    fn it_is_read_back_while_it_runs() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(read(dir.path()), Ok(None));
        write(dir.path(), &info(true), u64::MAX).expect("room");
        let found = read(dir.path()).expect("good").expect("it runs");
        assert_eq!((&found.info, found.given_up), (&info(true), u64::MAX));
        let member = Membership::Member {
            id: 3,
            incarnation: u64::MAX,
        };
        assert!(found.lasts(None, 4) && found.lasts(Some(&member), u64::MAX));
        assert!(
            found.lasts(Some(&member), 4),
            "the membership is that of the life that is over"
        );
        let let_in = Membership::Member {
            id: 5,
            incarnation: 4,
        };
        assert!(!found.lasts(Some(&let_in), 4));
        write(dir.path(), &info(false), 4).expect("room");
        let found = read(dir.path()).expect("good").expect("it ran");
        assert!(found.info == info(false) && !found.lasts(None, 4));
    }

    #[test]
    fn damage_is_said() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        write(dir.path(), &info(true), 0).expect("room");
        let whole = fs::read(dir.path().join(FILE)).expect("there");
        let torn = &whole[..whole.len() / 2];
        let numbers = br#"{"running":true,"cluster":[],"syncInterval":1e300}"#;
        for bytes in [torn, b"", b"\0\0\0\0", b"[]", br#"{"running":1}"#] {
            fs::write(dir.path().join(FILE), bytes).expect("room");
            let text = read(dir.path()).expect_err("damaged");
            assert!(
                text.contains("standby_info is damaged") && text.contains("Remove it"),
                "{text}"
            );
        }
        fs::write(dir.path().join(FILE), numbers).expect("room");
        let found = read(dir.path())
            .expect("numbers are bounded")
            .expect("it runs");
        assert_eq!(found.info.sync_interval_ms, u64::MAX);
    }
}
