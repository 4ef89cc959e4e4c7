//! Answers that are neither of the key space nor failures: texts, statistics, and everything about
//! the cluster.
use super::json::{message, raw, string};
use super::{Next, Shape, stats};
use crate::codec::api::Context;
use crate::codec::api::metrics::{self, ProcessFigures};
use crate::codec::cluster_status::role;
use crate::codec::http::response::{JSON, TEXT};
use crate::core::command::ClusterConfig;
use crate::core::seam::{Attendance, CoreFigures, Indexes, MachineInfo, Outcome, Role};

/// `Content-Type` of a raft index, the body of the answer to a join or a removal.
const BYTES: &str = "application/octet-stream";

impl Shape {
    /// Appends the answer to `/metrics`: the figures of the core and of the shell.
    pub fn metrics(
        &self,
        core: &CoreFigures,
        process: &ProcessFigures,
        context: &Context,
        out: &mut Vec<u8>,
    ) -> Next {
        let compat_2 = context.settings.compat_2;
        let head = self.head(200, metrics::TEXT_FORM, context, out);
        Next::done(head.full(|out| metrics::write(core, process, compat_2, out)))
    }

    /// Appends the answer to a request that is not about keys.
    pub(super) fn plain(
        &self,
        outcome: &Outcome,
        at: Indexes,
        context: &Context,
        out: &mut Vec<u8>,
    ) -> Next {
        let (status, content_type) = match outcome {
            Outcome::Leader { .. } | Outcome::Machines { .. } | Outcome::SpeedTest => (200, TEXT),
            Outcome::NotLeader if context.settings.compat_2 => (403, JSON),
            Outcome::NotLeader => (403, TEXT),
            Outcome::Removed | Outcome::Joined(_) => (200, BYTES),
            _ => (200, JSON),
        };
        let head = self.head(status, content_type, context, out);
        if context.settings.compat_2 {
            return Next::done(head.full(|out| body_2x(outcome, at, out)));
        }
        Next::done(head.full(|out| body(outcome, at, out)))
    }
}

/// The bodies that etcd 2.x writes otherwise than 0.4.
fn body_2x(outcome: &Outcome, at: Indexes, out: &mut Vec<u8>) {
    match outcome {
        Outcome::Machines { client_urls } => {
            let mut sorted = client_urls.clone();
            sorted.sort();
            raw(&sorted.join(", "), out);
        }
        Outcome::NotLeader => out.extend_from_slice(&message("not current leader")),
        Outcome::StatsSelf(own) => stats::own_2x(own, out),
        Outcome::StatsLeader(leader) => stats::leader_2x(leader, out),
        outcome => body(outcome, at, out),
    }
}

fn body(outcome: &Outcome, at: Indexes, out: &mut Vec<u8>) {
    match outcome {
        Outcome::Leader { peer_url } => raw(peer_url, out),
        Outcome::Machines { client_urls } => raw(&client_urls.join(", "), out),
        Outcome::SpeedTest => raw("speed test success", out),
        Outcome::NotLeader => raw("not current leader", out),
        Outcome::StatsSelf(own) => stats::own(own, out),
        Outcome::StatsLeader(leader) => stats::leader(leader, out),
        Outcome::StatsStore(store) => stats::store(store, out),
        Outcome::Config(cluster) => config(cluster, out),
        Outcome::Bootstrap(waiting) => bootstrap(waiting.as_ref(), out),
        Outcome::MachineList(list) => machines(list, out),
        Outcome::Machine(info) => {
            machine(info, out);
            out.push(b'\n');
        }
        Outcome::Removed => raft_index(at.commit.0, out),
        Outcome::Joined(index) => raft_index(index.0, out),
        Outcome::Event(_)
        | Outcome::Page { .. }
        | Outcome::Watching
        | Outcome::Backlog { .. }
        | Outcome::Migrated(_)
        | Outcome::WatchEnd
        | Outcome::WatchTimedOut
        | Outcome::Members(_)
        | Outcome::Health(_)
        | Outcome::Lock(_)
        | Outcome::Figures(_)
        | Outcome::Cluster(_)
        | Outcome::MemberAdded(_)
        | Outcome::MemberMoved
        | Outcome::MemberGone
        | Outcome::Failed(_)
        | Outcome::Redirect { .. } => unreachable!("rendered by `Shape::render`"),
    }
}

/// Appends whether this machine waits for its cluster to begin, and a line break.
fn bootstrap(waiting: Option<&Attendance>, out: &mut Vec<u8>) {
    let Some(Attendance { number, list }) = waiting else {
        return raw("{\"waiting\":false}\n", out);
    };
    raw("{\"waiting\":true,\"number\":\"", out);
    raw(&format!("{number:x}"), out);
    raw("\",\"list\":[", out);
    for (place, url) in list.iter().enumerate() {
        raw(if place == 0 { "" } else { "," }, out);
        string(url, out);
    }
    raw("]}\n", out);
}

/// Appends the cluster config and a line break.
fn config(config: &ClusterConfig, out: &mut Vec<u8>) {
    raw(&config.to_json(), out);
    out.push(b'\n');
}

/// Appends one machine. Its state is `leader` or `follower`, as in 0.4.
fn machine(machine: &MachineInfo, out: &mut Vec<u8>) {
    let state = match machine.state {
        Role::Leader => Role::Leader,
        Role::Follower | Role::Candidate | Role::Standby => Role::Follower,
    };
    raw("{\"name\":", out);
    string(&machine.name, out);
    raw(",\"state\":\"", out);
    raw(role(state), out);
    raw("\",\"clientURL\":", out);
    string(&machine.client_url, out);
    raw(",\"peerURL\":", out);
    string(&machine.peer_url, out);
    out.push(b'}');
}

/// Appends the list of machines and a line break.
fn machines(machines: &[MachineInfo], out: &mut Vec<u8>) {
    out.push(b'[');
    for (place, info) in machines.iter().enumerate() {
        raw(if place > 0 { "," } else { "" }, out);
        machine(info, out);
    }
    raw("]\n", out);
}

/// Appends a raft index as 0.4 does: a uvarint in a buffer of 8 bytes.
fn raft_index(index: u64, out: &mut Vec<u8>) {
    let mut buffer = [0; 8];
    let mut rest = index;
    for byte in &mut buffer {
        *byte = (rest & 0x7f) as u8;
        rest >>= 7;
        if rest == 0 {
            break;
        }
        *byte |= 0x80;
    }
    out.extend_from_slice(&buffer);
}
