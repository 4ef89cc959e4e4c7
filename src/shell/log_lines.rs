//! Writes the facts that the core reports as log lines.
//!
//! The core does not log. Level and text of each line are decided here; whether a fact is worth a
//! line, and how often, is decided by the core. A line says what happened, to which peer (name and
//! peer URL), and what tern does next. Start with `log`.
use crate::core::command::ClusterConfig;
use crate::core::machine::{Fact, Machine, PlaceDoubt};
use crate::core::peers::{LinkReport, LinkReportEvent};
use crate::core::public_id::PublicId;
use crate::core::raft::{Index, Term, Violation};
use crate::shell::status_lines;

/// Logs a fact that `machine` has reported.
pub fn log(machine: &Machine, fact: &Fact) {
    match fact {
        // Roles.
        Fact::BecameLeader { term } => log::info!("became leader in term {}", term.0),
        Fact::ClockBridged { by_ms } => log_bridged_clock(*by_ms),
        Fact::BecameFollower { term, leader } => log_follower(machine, *term, leader),
        Fact::BecameCandidate { term } => {
            log::info!("no leader heard: asking for votes in term {}", term.0);
        }

        // Snapshots.
        Fact::SnapshotStarted { index } => log::debug!("snapshot of index {} started", index.0),
        Fact::SnapshotSaved { index, bytes } => {
            log::info!("snapshot of index {} saved ({bytes} bytes)", index.0);
        }
        Fact::SnapshotAbandoned { index, pause_us } => log_abandoned_snapshot(*index, *pause_us),
        Fact::SnapshotInstalled { index } => {
            log::info!("snapshot of index {} from a peer installed", index.0);
        }

        // Members.
        Fact::MemberJoined { name, peer_url } => {
            log::info!("{name} ({peer_url}) joined the cluster");
        }
        Fact::MemberRemoved { name, peer_url } => {
            log::info!("{name} ({peer_url}) was removed from the cluster");
        }
        Fact::ConfigChanged { config } => log_config(config),
        Fact::RemovalProposed {
            peer: name,
            silent_ms,
            too_many,
        } => log_let_go(&peer(machine, name), *silent_ms, *too_many),

        // This machine becomes a standby or a member.
        Fact::Removed => log_removed(),
        Fact::Barred => log_barred(),
        Fact::Amnesia => log_amnesia(),
        Fact::PlaceDoubted(doubt) => log_doubt(doubt),
        Fact::PlaceKept { is_listed } => log_unconfirmed(*is_listed),
        Fact::Refused { why } => log::info!("{why}: standby, asking to join at each sync interval"),
        Fact::StandbyResumed => log::info!("standby, as before the stop"),
        Fact::StandbyRefused { why } => log::warn!("standby: {why}. Asking again"),
        Fact::Admitted { .. } => log_admitted(),

        // The search for the cluster.
        Fact::BootstrapWaits { urls } => log_awaited(urls),
        Fact::BootstrapDiffers { why } => log_difference(why),
        Fact::SearchFailed { why, pause_ms } => log_failed_search(why, *pause_ms),
        Fact::NotRegistered { why } => log_not_registered(why),
        Fact::Unlisted => log_unlisted(),
        Fact::OtherCluster { why } => log::warn!("ignoring an address: {why}"),

        // Contact among the members.
        Fact::HeartbeatsMissed { peers, backoff_s } => {
            log_missed_heartbeats(machine.name(), peers, *backoff_s);
        }
        Fact::HeartbeatLate { peer, after_ms } => log_late_heartbeat(machine, peer, *after_ms),
        Fact::Leaderless { voters } => log_leaderless(machine, *voters),
        Fact::Link(report) => log_link(machine, report),

        Fact::DiskLow
        | Fact::DiskOk
        | Fact::NoRoomForWrites
        | Fact::RoomForWrites
        | Fact::StoreFull { .. }
        | Fact::StoreHasRoom => log_room(fact),
    }
}

/// The room for keys, on the disk and in memory.
fn log_room(fact: &Fact) {
    match fact {
        Fact::DiskLow => log_full_disk(),
        Fact::DiskOk => log::info!("the disk of -data-dir has room for the log again"),
        Fact::NoRoomForWrites => log_no_room(),
        Fact::RoomForWrites => log::info!("writes are taken again: the disks have room"),
        Fact::StoreFull { bytes, bytes_max } => log_full_store(*bytes, *bytes_max),
        Fact::StoreHasRoom => log::info!("the key space has room again"),
        _ => unreachable!("the caller has matched the fact"),
    }
}

fn log_admitted() {
    log::info!("the cluster has admitted this machine: waiting for its data");
}

fn log_no_room() {
    log::warn!(
        "writes are refused, cause `disk full`: the disks of a majority have no room for the log. Make \
         room where their -data-dir is; each needs 8 MiB at the least"
    );
}

fn log_full_store(bytes: u64, bytes_max: u64) {
    log::warn!(
        "the key space is full: it has {bytes} of the {bytes_max} bytes that -max-store-bytes allows. \
         Writes that make it larger are refused; deletions and expiry go on. Delete keys, or start all \
         machines with a larger -max-memory or -max-store-bytes"
    );
}

/// The name and the peer URL of a member; only the name if it is no member now.
fn peer(machine: &Machine, name: &str) -> String {
    match machine.configuration().by_name(name) {
        Some(member) => status_lines::name(member),
        None => name.to_string(),
    }
}

fn log_follower(machine: &Machine, term: Term, leader: &str) {
    if leader.is_empty() {
        return log::info!("follower in term {}: no leader yet", term.0);
    }
    log::info!("following {} in term {}", peer(machine, leader), term.0);
}

fn log_bridged_clock(by_ms: u64) {
    log::info!(
        "all machines were down: the clock of ttls goes on by {by_ms} ms, as this machine's wall \
         clock says"
    );
}

fn log_abandoned_snapshot(index: Index, pause_us: u64) {
    log::warn!(
        "the snapshot of index {} is given up: the former one stays, and the log grows. Trying again \
         within {} s",
        index.0,
        pause_us / 1_000_000
    );
}

fn log_config(config: &ClusterConfig) {
    let seconds = |ms: u64| ms as f64 / 1_000.0;
    log::info!(
        "cluster config: active size {}, remove delay {} s, sync interval {} s",
        config.active_size,
        seconds(config.remove_delay_ms),
        seconds(config.sync_interval_ms)
    );
}

/// The leader removes a peer that was not heard for the remove delay, or that is one more than the
/// active size.
fn log_let_go(peer: &str, silent_ms: u64, too_many: bool) {
    if too_many {
        log::info!(
            "removing {peer}: one member more than the active size, last heard {silent_ms} ms ago"
        );
    } else {
        log::warn!("removing {peer}: not heard for {silent_ms} ms");
    }
}

fn log_failed_search(why: &str, pause_ms: u64) {
    log::warn!("no cluster found: {why}. Trying again in {pause_ms} ms");
}

fn log_awaited(urls: &str) {
    log::warn!(
        "-bootstrap: waiting for {urls}. The cluster begins once every machine of the list answers; \
         tern asks on"
    );
}

fn log_difference(why: &str) {
    log::error!(
        "-bootstrap: {why}. No machine founds the cluster: start all machines with the same -peers \
         list, which names each of them once"
    );
}

fn log_removed() {
    log::warn!(
        "this machine was removed from its cluster: standby. Its log and snapshots are deleted; \
         it asks to join again"
    );
}

fn log_barred() {
    log::warn!(
        "this machine was removed from its cluster for good: standby, and it does not ask to join. To \
         let it join again, start it with an empty data directory, or with -f"
    );
}

fn log_amnesia() {
    log::error!(
        "the cluster has acknowledgements of this machine that its data directory does not hold: \
         the directory was replaced by an older copy. This machine no longer votes: standby, until \
         it is admitted as a new member. If that never happens, a majority was set back: let a \
         machine that was not go on alone, as its log says (-force-new-cluster)"
    );
}

/// A peer says that this machine has no place in the cluster any more.
fn log_doubt(doubt: &PlaceDoubt) {
    let claim = if doubt.is_removal {
        "was removed from the cluster"
    } else {
        "has lost entries that it acknowledged"
    };
    let by = match (&*doubt.by, &*doubt.address) {
        ("", "") => "a peer".to_string(),
        (name, address) => format!("{name} ({address})"),
    };
    log::warn!("{by} says that this machine {claim}: asking the other members");
}

fn log_not_registered(why: &str) {
    log::warn!("cannot register at the discovery service: {why}. Trying again");
}

fn log_unlisted() {
    log::warn!(
        "a peer does not list this machine as a member: asking once more if no leader is heard"
    );
}

fn log_unconfirmed(is_listed: bool) {
    let why = if is_listed {
        "the leader lists this machine as a member"
    } else {
        "no other member confirms it"
    };
    log::warn!("this machine's loss of its place is not confirmed: {why}. Its data is kept");
}

/// The line that etcd 0.4 prints.
fn log_missed_heartbeats(name: &str, peers: &[(Box<str>, u64)], backoff_s: u64) {
    let names: Vec<&str> = peers.iter().map(|(peer, _)| &**peer).collect();
    let counts: Vec<String> = peers.iter().map(|(_, count)| count.to_string()).collect();
    let (names, counts) = (names.join(","), counts.join(","));
    log::warn!(
        "{name}: warning: heartbeat time out peer=\"{names}\" missed={counts} backoff=\"{backoff_s}s\""
    );
}

/// The line that etcd 0.4 prints.
fn log_late_heartbeat(machine: &Machine, peer: &str, after_ms: u64) {
    let name = machine.name();
    log::warn!("{name}: warning: heartbeat of {peer} near election timeout: {after_ms}ms");
}

/// No leader for a long time. `voters` is 0 before any data of the cluster has arrived.
fn log_leaderless(machine: &Machine, voters: usize) {
    let silent = silent_voters(machine);
    let what = match voters {
        0 => {
            return log::warn!(
                "no leader: no data received yet from the cluster that admitted this machine. Waiting"
            );
        }
        1 => {
            format!("the only voter is not heard{silent}. Until it answers nothing can be written")
        }
        2 => format!(
            "one of two voters is not heard{silent}. Until it answers nothing can be written, and \
             neither of the two can be removed"
        ),
        _ => format!(
            "a majority of {voters} voters is not heard{silent}. Until a majority answers nothing can \
             be written"
        ),
    };
    if runs_majority(machine, voters) {
        return log::warn!("no leader: {what}. A majority of the voters runs, so no data is lost");
    }
    log::warn!(
        "no leader: {what}. After a loss for good, and only then: this machine goes on alone with what \
         it holds if it is started with -force-new-cluster={}",
        PublicId::of_cluster(machine.cluster())
    );
}

/// Whether a majority of the voters runs for certain: this machine, and voters that refuse its links.
/// A link that is open may be one to a machine that is gone.
fn runs_majority(machine: &Machine, voters: usize) -> bool {
    let members = machine.configuration().members.iter();
    let running = members.filter(|member| {
        let is_own = Some(member.id) == machine.id();
        member.voter && (is_own || machine.is_refused_by(member.id))
    });
    running.count() > voters / 2
}

/// The voters to which no link is open, as a part of a sentence; empty without any.
fn silent_voters(machine: &Machine) -> String {
    let members = machine.configuration().members.iter();
    let silent = members.filter(|member| {
        member.voter && Some(member.id) != machine.id() && machine.route(member.id).is_none()
    });
    let names: Vec<String> = silent
        .map(|member| {
            let name = status_lines::name(member);
            match machine.refusal_of(member.id) {
                Some(why) => format!("{name} [refused: {why}]"),
                None => name,
            }
        })
        .collect();
    if names.is_empty() {
        return String::new();
    }
    format!(" (no link to {})", names.join(", "))
}

/// The disk has no room for the log. The core also reports this outside of a cluster.
fn log_full_disk() {
    log::warn!(
        "the disk of -data-dir is full: if this machine leads, it hands leadership over or \
         refuses writes; reads go on"
    );
}

/// Whether a refused link means nothing: the leader dials a new member before the answer to its join
/// has arrived. A peer that dials again and again takes this machine for a member.
fn may_be_early(refused: &LinkReport, is_member: bool) -> bool {
    !is_member && refused.name.is_none() && refused.suppressed == 0
}

/// A link was opened, has failed, or was refused. The words of a stranger are never logged.
fn log_link(machine: &Machine, report: &LinkReport) {
    let peer = match &report.name {
        Some(name) => format!("{name} ({})", report.address),
        None => format!("a machine at {} that proves no membership", report.address),
    };
    let suppressed = match report.suppressed {
        0 => String::new(),
        count => format!(" ({count} such lines suppressed)"),
    };
    match &report.event {
        LinkReportEvent::Opened => log::info!("link to {peer} is open{suppressed}"),
        LinkReportEvent::Failed(why) => {
            log::warn!("no link to {peer}, dialling again: {why}{suppressed}");
        }
        LinkReportEvent::Violated(Violation::CommittedEntry(index)) => log::error!(
            "{peer} has another log entry {} than the one that is committed here: closing its links. \
             Unless that machine is faulty, the disks of a majority were set back to older copies. To go \
             on with what this machine holds, stop the others and start it with \
             -force-new-cluster={}; to go on with what they hold, start it with -f{suppressed}",
            index.0,
            PublicId::of_cluster(machine.cluster())
        ),
        LinkReportEvent::Violated(violation) => {
            log::warn!("closing the links to {peer}: protocol violation: {violation}{suppressed}");
        }
        LinkReportEvent::FormerMember => log::error!(
            "{peer} is a member of the cluster that this machine has left by -force-new-cluster: that \
             cluster is not lost, and there are two clusters now. Decide for one: wipe the machines of \
             the other one (-f) and let them join{suppressed}"
        ),
        LinkReportEvent::WentOn => log::error!(
            "{peer} has left this cluster by -force-new-cluster and is a cluster of its own: there are \
             two clusters now. Decide for one: wipe the machines of the other one (-f) and let them \
             join. To go on without {peer}, remove it{suppressed}"
        ),
        LinkReportEvent::Refused(_) if may_be_early(report, machine.id().is_some()) => {
            log::debug!("refused a link of {peer}: this machine is no member yet{suppressed}");
        }
        LinkReportEvent::Refused(refusal) => {
            log::warn!(
                "refused a link of {peer}: code {}{suppressed}",
                refusal.code()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::peers::HelloRefusal;

    #[test]
    fn a_machine_that_is_no_member_warns_of_links_that_it_refuses_again_and_again() {
        let mut refused = LinkReport {
            name: None,
            address: "10.0.0.1".into(),
            event: LinkReportEvent::Refused(HelloRefusal::NoMember),
            suppressed: 0,
        };
        assert!(may_be_early(&refused, false));
        assert!(!may_be_early(&refused, true));
        refused.suppressed = 1;
        assert!(!may_be_early(&refused, false));
        refused.suppressed = 0;
        refused.name = Some("n2".into());
        assert!(!may_be_early(&refused, false));
    }
}
