//! What the core reports, as log lines: one for each change of role, snapshot, removal.
//!
//! The core logs nothing itself; the level of each line is decided here.
use crate::core::machine::Fact;

/// Writes the line; `name` is this machine's.
pub fn log(name: &str, fact: &Fact) {
    match fact {
        Fact::BecameLeader { term } => log::info!("leader of term {}", term.0),
        Fact::BecameFollower { term, leader } if leader.is_empty() => {
            log::info!("follower in term {}, no leader", term.0);
        }
        Fact::BecameFollower { term, leader } => {
            log::info!("follower of {leader} in term {}", term.0)
        }
        Fact::BecameCandidate { term } => log::info!("candidate in term {}", term.0),
        Fact::SnapshotStarted { index } => log::debug!("snapshot of index {} started", index.0),
        Fact::SnapshotSaved { index, bytes } => {
            log::info!("snapshot of index {} saved, {bytes} bytes", index.0);
        }
        Fact::SnapshotAbandoned { index } => {
            log::warn!("snapshot of index {} abandoned", index.0);
        }
        Fact::SnapshotInstalled { index } => {
            log::info!("snapshot of index {} of the leader installed", index.0);
        }
        Fact::MemberJoined { name, id } => log::info!("{name} joined with id {:x}", id.0),
        Fact::MemberRemoved { name, id } => log::info!("{name} ({:x}) was removed", id.0),
        Fact::ConfigChanged { config } => log::info!(
            "cluster config: active size {}, remove delay {} ms, sync interval {} ms",
            config.active_size,
            config.remove_delay_ms,
            config.sync_interval_ms
        ),
        Fact::Removed => log::warn!("this machine was removed from its cluster: standby"),
        Fact::Amnesia => log::error!(
            "the cluster remembers more of this machine than its data directory holds: it was replaced by an older \
             copy. It no longer votes: standby, until it is let in as a new member"
        ),
        Fact::NotFound { why, pause_ms } => {
            log::warn!("no cluster found: {why}. The next attempt follows in {pause_ms} ms");
        }
        Fact::NotRegistered { why } => log::warn!("not registered for discovery: {why}"),
        Fact::LetIn { id } => log::info!("the cluster has let this machine in with id {:x}", id.0),
        Fact::Refused { why } => log::info!("{why}: standby"),
        Fact::StandsByAgain => log::info!("standby, as before"),
        Fact::NotLetIn { why } => log::warn!("standby: {why}"),
        Fact::Unlisted => log::warn!("a peer does not list this machine as one of its cluster"),
        Fact::LetGo {
            peer,
            silent_ms,
            too_many: true,
        } => {
            log::info!(
                "{peer} is one peer too many, and is removed; last heard {silent_ms} ms ago"
            );
        }
        Fact::LetGo {
            peer,
            silent_ms,
            too_many: false,
        } => {
            log::warn!("{peer} is removed: not heard for {silent_ms} ms");
        }
        Fact::HeartbeatsMissed { peers, backoff_s } => {
            let list = |part: fn(&(Box<str>, u64)) -> String| {
                peers.iter().map(part).collect::<Vec<_>>().join(",")
            };
            let (names, counts) = (list(|p| p.0.to_string()), list(|p| p.1.to_string()));
            log::warn!(
                "{name}: warning: heartbeat time out peer=\"{names}\" missed={counts} backoff=\"{backoff_s}s\""
            );
        }
        Fact::HeartbeatLate { peer, after_ms } => {
            log::warn!("{name}: warning: heartbeat of {peer} near election timeout: {after_ms}ms");
        }
        Fact::Leaderless { voters: 0 } => {
            log::warn!("no leader: nothing has come of the cluster that let this machine in")
        }
        Fact::Leaderless { voters: 2 } => log::warn!(
            "no leader: one of two voters is not heard. Until it is back nothing can be written, and neither of the two \
             can be removed"
        ),
        Fact::Leaderless { voters } => {
            log::warn!(
                "no leader: a majority of {voters} voters is not heard. Until it is nothing can be written"
            );
        }
        Fact::OtherCluster { why } => log::warn!("passed over: {why}"),
        Fact::DiskLow => log::warn!("the disk is full: writes are refused, reads go on"),
        Fact::DiskOk => log::info!("the disk has room again"),
    }
}
