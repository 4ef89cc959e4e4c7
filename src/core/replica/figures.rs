//! The figures of this member for `/metrics`. Start with [`Replica::figures`].
use super::Replica;
use crate::core::raft::{Member, PeerId};
use crate::core::seam::{
    LogFigures, MemberFigures, PeerFigures, PeerProgressFigures, QueueFigures,
};
use crate::core::timer::Now;

impl Replica {
    /// The figures of this member. `is_linked` tells whether a link to a member is open.
    pub fn figures(&self, now: Now, is_linked: impl Fn(PeerId) -> bool) -> MemberFigures {
        let own = self.raft.id();
        let members = self.raft.configuration().members.iter();
        let others = members.filter(|member| member.id != own && member.has_started());
        let peer = |member: &Member| PeerFigures {
            id: self.public_id(member),
            name: member.name.clone(),
            is_linked: is_linked(member.id),
            progress: self.peer_progress_figures(now, member.id),
        };
        MemberFigures {
            id: self.own_public_id(),
            has_leader: self.raft.leader().is_some(),
            leader_changes: self.leadership.leaders(),
            is_disk_low: self.is_disk_low,
            log: self.log_figures(),
            pending: self.pending.writes() as u64,
            failed: self.statistics.failed(),
            etcd_index: self.store.index(),
            nodes: self.store.nodes() as u64,
            store_bytes: self.store.bytes(),
            store_bytes_max: self.settings.store_bytes_max,
            store: self.store.stats(),
            commit: self.entry_times.commit().clone(),
            apply: self.entry_times.apply().clone(),
            queues: self.queues(),
            standbys: self.standby_count(now),
            peers: others.map(peer).collect(),
        }
    }

    fn log_figures(&self) -> LogFigures {
        let usage = self.raft.log_usage();
        LogFigures {
            term: self.raft.term(),
            first: usage.first,
            last: self.raft.last_index(),
            durable: self.raft.durable(),
            committed: self.raft.committed(),
            applied: self.applied,
            recorded_bytes: usage.recorded_bytes,
            free_bytes: usage.free_bytes,
            snapshot: self.raft.snapshot().index,
            snapshot_bytes: self.snapshotting.last_bytes(),
        }
    }

    fn queues(&self) -> Vec<QueueFigures> {
        let usage = self.raft.log_usage();
        let bounds = &self.settings.memory;
        let queue = |name, bytes, bytes_max| QueueFigures {
            name,
            bytes,
            bytes_max,
        };
        vec![
            queue("log", self.log_bytes(), bounds.log_bytes_max),
            queue(
                "uncommitted",
                usage.uncommitted_bytes,
                bounds.uncommitted_bytes_max as u64,
            ),
            queue(
                "history",
                self.store.history_bytes() as u64,
                bounds.history_bytes as u64,
            ),
            queue(
                "forwarded",
                self.pending.forwarded_bytes() as u64,
                self.forwarded_bytes_max() as u64,
            ),
        ]
    }

    /// The leader's figures of a peer; `None` on any other member.
    fn peer_progress_figures(&self, now: Now, id: PeerId) -> Option<PeerProgressFigures> {
        let peer = self.raft.peer(id)?;
        let progress = self.progress_of(now, id)?;
        Some(PeerProgressFigures {
            lag: progress.lag,
            silent_ms: progress.silent_ms,
            round_trip_us: self.raft.round_trip_us(peer),
        })
    }
}
