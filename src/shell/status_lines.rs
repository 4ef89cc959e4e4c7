//! The lines of SIGUSR1: the state of this machine and of each peer, one line each. Start with
//! `log`.
use super::turn_times::Turn;
use crate::core::machine::Machine;
use crate::core::raft::{Member, Raft, RaftRole};
use crate::core::timer::Now;

/// The shell's part of the state of the machine.
pub struct ShellStatus {
    /// Connections on the client port.
    pub client_conns: usize,
    /// Connections on the peer port that are no links.
    pub peer_conns: usize,
    /// Bytes that all of these hold.
    pub held_bytes: usize,
    /// Events that have not reached all of their watchers.
    pub waiting_events: usize,
    /// The longest turn of the loop since the last report.
    pub longest_turn: Turn,
}

/// Logs the state.
pub fn log(machine: &Machine, shell: &ShellStatus, now: Now) {
    let watchers = machine.store().map_or(0, |store| store.stats().watchers);
    log::info!(
        "state: {watchers} watchers, {} events waiting for watchers; {} connections on the client \
         port, {} on the peer port, holding {} bytes; the longest turn since the last report took \
         {} us{}",
        shell.waiting_events,
        shell.client_conns,
        shell.peer_conns,
        shell.held_bytes,
        shell.longest_turn.us(),
        shell.longest_turn.text_of_phases()
    );
    let Some(raft) = machine.raft() else {
        return log_outside(machine);
    };
    let role = match raft.role() {
        RaftRole::Leader => "leader".to_string(),
        _ => match leader(machine, raft) {
            Some(leader) => format!("follower of {}", name(leader)),
            None => "no leader".to_string(),
        },
    };
    log::info!(
        "state: {role} in term {}; log: last entry {}, durable to {}, committed to {}, applied to \
         {}",
        raft.term().0,
        raft.last_index().0,
        raft.durable().0,
        raft.committed().0,
        machine.applied().0
    );
    for member in &machine.configuration().members {
        if Some(member.id) != machine.id() {
            log_peer(machine, member, raft, now);
        }
    }
}

fn log_outside(machine: &Machine) {
    match machine.standby() {
        Some(Some(leader_url)) => log::info!("state: standby; the leader is {leader_url}"),
        Some(None) => log::info!("state: standby; no leader is known"),
        None => log::info!("state: looking for a cluster"),
    }
}

/// Logs a leader's knowledge about a peer. Other machines know only whether a link is open.
fn log_peer(machine: &Machine, member: &Member, raft: &Raft, now: Now) {
    let kind = if member.voter { "voter" } else { "learner" };
    let progress = raft.peer(member.id);
    let Some(progress) = progress.filter(|_| raft.role() == RaftRole::Leader) else {
        let link = match machine.route(member.id) {
            Some(_) => "a link is open",
            None => "no link",
        };
        return log::info!("state of {}: {kind}, {link}", name(member));
    };
    let matched = progress.matched().0;
    let stage = if progress.is_in_snapshot() {
        ", is sent a snapshot"
    } else if raft.is_out_of_room(progress) {
        ", its disk is full"
    } else {
        ""
    };
    log::info!(
        "state of {}: {kind}, has the log up to {matched} (behind by {}), heard {} ms ago{stage}",
        name(member),
        raft.last_index().0.saturating_sub(matched),
        now.mono_us.saturating_sub(progress.heard_us()) / 1_000
    );
}

fn leader<'a>(machine: &'a Machine, raft: &Raft) -> Option<&'a Member> {
    let leader = raft.leader()?;
    let members = &machine.configuration().members;
    members.iter().find(|member| member.id == leader)
}

/// The name and the peer URL of a member, for the log.
pub(super) fn name(member: &Member) -> String {
    format!("{} ({})", member.name, member.peer_url)
}
