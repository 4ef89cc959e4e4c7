//! The document of `GET /v2/cluster`, and the header by which a standby names itself.
//!
//! A machine makes the document from the core's values ([`ClusterDocument::new`]). A machine
//! that does not lead asks the leader for its document and takes over the part about the cluster
//! ([`ClusterDocument::with_leaders_view`]). Programs that read the document use the same types.
use crate::core::command::ClusterConfig;
use crate::core::identity;
use crate::core::public_id::PublicId;
use crate::core::seam::{
    ClusterStatus, ClusterView, Health, LogStatus, MachineStatus, MemberCondition, MemberStatus,
    ModeName, Role, StandbyStatus, StandbyVisitor,
};
use serde::{Deserialize, Serialize, Serializer};

/// The header by which a standby names itself when it fetches the list of members: its name, a
/// space, and its client URL.
pub const STANDBY: &str = "X-Tern-Standby";

/// The view of the leader, in `ClusterDocument::view`.
const LEADERS_VIEW: &str = "leader";

/// The value of the header [`STANDBY`].
pub fn introduce(standby: &StandbyVisitor) -> Box<str> {
    let StandbyVisitor { name, client_url } = standby;
    match client_url {
        Some(url) => format!("{name} {url}").into(),
        None => name.clone(),
    }
}

/// The standby that the header names. `None` if the name or the URL is not valid for a machine: any
/// client may send the header.
pub fn visitor(header: &str) -> Option<StandbyVisitor> {
    let (name, client_url) = match header.split_once(' ') {
        Some((name, url)) => (name, Some(url)),
        None => (header, None),
    };
    let is_sound = identity::is_name(name) && client_url.is_none_or(identity::is_url);
    is_sound.then(|| StandbyVisitor {
        name: name.into(),
        client_url: client_url.map(Box::from),
    })
}

/// The whole document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterDocument {
    /// The machine that was asked.
    pub machine: MachinePart,
    /// `leader` if `cluster` is the view of the leader, else `own`.
    pub view: String,
    /// The cluster.
    pub cluster: ClusterPart,
}

/// The machine that was asked. The fields from `term` on are absent outside of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachinePart {
    /// Its name.
    pub name: String,
    /// Its version of tern.
    pub version: String,
    /// `member`, `standby` or `outside`.
    pub mode: String,
    /// `leader`, `follower`, `candidate` or `standby`.
    pub role: String,
    /// Its public id; `None` outside of a cluster.
    pub id: Option<String>,
    /// The client URL that it advertises.
    #[serde(rename = "clientURL")]
    pub client_url: String,
    /// The peer URL that it advertises.
    #[serde(rename = "peerURL")]
    pub peer_url: String,
    /// Whether it can serve its clients.
    pub healthy: bool,
    /// Why it cannot.
    pub reason: Option<String>,
    /// The term.
    pub term: Option<u64>,
    /// The last entry of its log.
    pub last_index: Option<u64>,
    /// The last entry that is durable on its disk.
    pub durable_index: Option<u64>,
    /// The last entry that is committed, as far as it knows.
    pub committed_index: Option<u64>,
    /// The last entry that its key space contains.
    pub applied_index: Option<u64>,
}

/// The cluster, as one machine sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPart {
    /// The public id.
    pub id: Option<String>,
    /// The leader; `None` while none is known.
    pub leader: Option<LeaderPart>,
    /// The cluster config; `None` if it is not known.
    pub config: Option<ConfigPart>,
    /// The term of the machine that has this view.
    pub term: Option<u64>,
    /// The last entry of its log.
    pub last_index: Option<u64>,
    /// The last entry that is committed, as far as it knows.
    pub committed_index: Option<u64>,
    /// The members, sorted by name.
    pub members: Vec<MemberPart>,
    /// The standbys that fetched the list of members lately, sorted by name.
    pub standbys: Vec<StandbyPart>,
}

/// The leader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeaderPart {
    /// Its name.
    pub name: String,
    /// Its public id; `None` if a standby tells of it.
    pub id: Option<String>,
    /// The client URL that it advertises.
    #[serde(rename = "clientURL")]
    pub client_url: String,
    /// The peer URL that it advertises.
    #[serde(rename = "peerURL")]
    pub peer_url: String,
}

/// The cluster config, as in `/v2/admin/config`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigPart {
    /// Most members.
    pub active_size: u32,
    /// How long a member may be silent, in seconds.
    #[serde(serialize_with = "seconds")]
    pub remove_delay: f64,
    /// The time between two fetches of a standby, in seconds.
    #[serde(serialize_with = "seconds")]
    pub sync_interval: f64,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberPart {
    /// Its name; empty until it starts for the first time.
    pub name: String,
    /// Its public id; `None` if a standby tells of it.
    pub id: Option<String>,
    /// The client URL that it advertises; empty until it starts for the first time.
    #[serde(rename = "clientURL")]
    pub client_url: String,
    /// The peer URL that it advertises.
    #[serde(rename = "peerURL")]
    pub peer_url: String,
    /// `voter` or `learner`; `None` if a standby tells of it.
    pub kind: Option<String>,
    /// `leader`, `follower`, `snapshot`, `full`, `silent` or `added`; in a view that is not the
    /// leader's `leader`, `self`, `linked`, `unlinked`, `added` or `listed`.
    pub state: String,
    /// The last entry that is durable there, in the leader's view.
    pub match_index: Option<u64>,
    /// How many entries of the leader's log it lacks, in the leader's view.
    pub lag: Option<u64>,
    /// The time since the leader heard it, in milliseconds, in the leader's view.
    pub last_contact_ms: Option<u64>,
}

/// One standby.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StandbyPart {
    /// Its name.
    pub name: String,
    /// The client URL that it advertises, if it tells it.
    #[serde(rename = "clientURL")]
    pub client_url: Option<String>,
    /// The time since its last fetch, in milliseconds.
    pub last_fetch_ms: u64,
}

/// Writes a number of seconds, a whole one without a fraction, as `/v2/admin/config` does.
fn seconds<S: Serializer>(seconds: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if seconds.fract() == 0.0 {
        serializer.serialize_u64(*seconds as u64)
    } else {
        serializer.serialize_f64(*seconds)
    }
}

impl ClusterDocument {
    /// The document of this machine.
    pub fn new(status: &ClusterStatus) -> ClusterDocument {
        let view = if status.is_leaders_view {
            LEADERS_VIEW
        } else {
            "own"
        };
        ClusterDocument {
            machine: machine(&status.machine),
            view: view.into(),
            cluster: cluster(&status.view),
        }
    }

    /// Parses the document of a machine.
    ///
    /// # Errors
    ///
    /// The fault in the text.
    pub fn parse(body: &[u8]) -> Result<ClusterDocument, serde_json::Error> {
        serde_json::from_slice(body)
    }

    /// This document with the view of the leader, which has answered with `body`. `None` if the
    /// body is not the document of a machine that leads.
    pub fn with_leaders_view(&self, body: &[u8]) -> Option<ClusterDocument> {
        let leaders = ClusterDocument::parse(body).ok()?;
        (leaders.view == LEADERS_VIEW).then(|| ClusterDocument {
            machine: self.machine.clone(),
            ..leaders
        })
    }

    /// Appends the document as JSON, and a line break.
    pub fn write(&self, out: &mut Vec<u8>) {
        let written = serde_json::to_writer(&mut *out, self);
        written.expect("strings, numbers and lists are valid JSON");
        out.push(b'\n');
    }
}

/// The reason of a machine that cannot serve; `None` for a healthy one.
pub fn reason(health: Health) -> Option<&'static str> {
    Some(match health {
        Health::Healthy => return None,
        Health::Starting => "starting: not everything that was committed is applied yet",
        Health::NoMajority => "a majority of the voters does not answer",
        Health::NoLeader => "no leader is heard",
        Health::NoCluster => "standby: no machine of the cluster named a leader",
        Health::Leaving => "leaving the cluster, or stopped",
    })
}

/// The name of a role.
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Standby => "standby",
    }
}

fn mode(mode: ModeName) -> &'static str {
    match mode {
        ModeName::Member => "member",
        ModeName::Standby => "standby",
        ModeName::Outside => "outside",
    }
}

fn state(condition: MemberCondition) -> &'static str {
    match condition {
        MemberCondition::Leader => "leader",
        MemberCondition::Added => "added",
        MemberCondition::Follower => "follower",
        MemberCondition::TakesSnapshot => "snapshot",
        MemberCondition::Full => "full",
        MemberCondition::Silent => "silent",
        MemberCondition::Own => "self",
        MemberCondition::Linked => "linked",
        MemberCondition::Unlinked => "unlinked",
        MemberCondition::Listed => "listed",
    }
}

fn id_text(id: Option<PublicId>) -> Option<String> {
    id.map(|id| id.to_string())
}

fn machine(machine: &MachineStatus) -> MachinePart {
    let position = |read: fn(&LogStatus) -> u64| machine.log.as_ref().map(read);
    MachinePart {
        name: machine.name.to_string(),
        version: crate::VERSION.into(),
        mode: mode(machine.mode).into(),
        role: role(machine.role).into(),
        id: id_text(machine.id),
        client_url: machine.client_url.to_string(),
        peer_url: machine.peer_url.to_string(),
        healthy: machine.health == Health::Healthy,
        reason: reason(machine.health).map(String::from),
        term: position(|log| log.term.0),
        last_index: position(|log| log.last.0),
        durable_index: position(|log| log.durable.0),
        committed_index: position(|log| log.committed.0),
        applied_index: position(|log| log.applied.0),
    }
}

fn cluster(view: &ClusterView) -> ClusterPart {
    let position = |read: fn(&LogStatus) -> u64| view.log.as_ref().map(read);
    let mut members = view.members.iter();
    let leader = members.find(|member| member.condition == MemberCondition::Leader);
    ClusterPart {
        id: id_text(view.id),
        leader: leader.map(|leader| LeaderPart {
            name: leader.name.to_string(),
            id: id_text(leader.id),
            client_url: leader.client_url.to_string(),
            peer_url: leader.peer_url.to_string(),
        }),
        config: view.config.as_ref().map(config),
        term: position(|log| log.term.0),
        last_index: position(|log| log.last.0),
        committed_index: position(|log| log.committed.0),
        members: view.members.iter().map(member).collect(),
        standbys: view.standbys.iter().map(standby).collect(),
    }
}

fn config(config: &ClusterConfig) -> ConfigPart {
    ConfigPart {
        active_size: config.active_size,
        remove_delay: config.remove_delay_ms as f64 / 1_000.0,
        sync_interval: config.sync_interval_ms as f64 / 1_000.0,
    }
}

fn member(member: &MemberStatus) -> MemberPart {
    let kind = |is_voter| if is_voter { "voter" } else { "learner" };
    let progress = member.progress;
    MemberPart {
        name: member.name.to_string(),
        id: id_text(member.id),
        client_url: member.client_url.to_string(),
        peer_url: member.peer_url.to_string(),
        kind: member.is_voter.map(|is_voter| kind(is_voter).into()),
        state: state(member.condition).into(),
        match_index: progress.map(|progress| progress.matched.0),
        lag: progress.map(|progress| progress.lag),
        last_contact_ms: progress.map(|progress| progress.silent_ms),
    }
}

fn standby(status: &StandbyStatus) -> StandbyPart {
    StandbyPart {
        name: status.standby.name.to_string(),
        client_url: status.standby.client_url.as_deref().map(String::from),
        last_fetch_ms: status.since_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_of_a_stranger_is_checked() {
        let sound = [
            "n4",
            "küche",
            "n4 http://10.0.0.4:4001",
            "n4 https://[::1]:4001",
        ];
        for header in sound {
            let standby = visitor(header).expect(header);
            assert_eq!(&*introduce(&standby), header);
        }
        let long = "n".repeat(129);
        for header in [
            "",
            " ",
            "a/b",
            "..",
            &long,
            "n4 ",
            "n4 ftp://a:1",
            "n4 http://a:1 more",
            "n4 http://a:1/<script>",
            "\u{202e}n4",
        ] {
            assert_eq!(visitor(header), None, "{header:?}");
        }
    }
}
