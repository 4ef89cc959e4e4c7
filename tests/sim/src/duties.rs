//! The checks on what a leader does by itself: the members that it removes, judged by the messages
//! that truly arrived from each.
//!
//! Start with `Duties::check`; it looks at each turn of a machine, and at the facts that came out
//! of it.
use super::truth::{Checked, violation};
use std::collections::BTreeMap;
use tern::core::command::{self, Command};
use tern::core::machine::{Fact, Machine, Role};
use tern::core::raft::{Configuration, EntryBody, Index, PeerId};

/// Two removals for the sake of the active size are at least so far apart, and the first from when
/// leadership began.
const PACE_US: u64 = 1_000_000;
/// A leader that had no turn for so long stood still itself.
const GAP_US: u64 = 1_000_000;

/// What one process saw.
#[derive(Default)]
pub struct Duties {
    /// The term it leads, and since when silence counts.
    leads: Option<(u64, u64)>,
    turn_us: u64,
    /// When it last let go of one peer too many.
    paced_us: Option<u64>,
}

/// One removal, as the log has it.
struct Removal<'a> {
    id: PeerId,
    before: &'a Configuration,
    after: &'a Configuration,
}

/// The times by which the removals of one turn are judged.
#[derive(Clone, Copy)]
pub struct RemovalTimes {
    /// The silence after which the leader removes a member.
    pub remove_delay_ms: u64,
    /// The leader's election timeout.
    pub election_ms: u64,
    pub now_us: u64,
    /// For how long the leader may take a peer for heard.
    pub heard_us_max: u64,
}

impl Duties {
    /// A turn is over. `heard` has the time of each peer's last answer.
    pub fn check(
        &mut self,
        times: RemovalTimes,
        heard: &BTreeMap<u64, u64>,
        core: &Machine,
        facts: &[Fact],
    ) -> Checked {
        let term = core.indexes().term.0;
        let now_us = times.now_us;
        let gap = now_us > self.turn_us + GAP_US.max(times.election_ms * 1_000);
        self.turn_us = now_us;
        let leads = core.role() == Role::Leader;
        if leads && (gap || self.leads.is_none_or(|(of, _)| of != term)) {
            self.leads = Some((term, now_us));
            self.paced_us = None;
        }
        for fact in facts {
            if let Fact::RemovalProposed { peer, too_many, .. } = fact {
                self.check_removal(times, heard, core, peer, *too_many)?;
            }
        }
        if !leads {
            // Not before: a machine that stops or steps down in this turn may have led at its
            // beginning.
            self.leads = None;
        }
        Ok(())
    }

    fn check_removal(
        &mut self,
        times: RemovalTimes,
        heard: &BTreeMap<u64, u64>,
        core: &Machine,
        peer: &str,
        too_many: bool,
    ) -> Checked {
        let Some(removal) = find(core, peer) else {
            return violation(
                "duty-unknown",
                format!("{peer} is let go, and the log has no removal of it"),
            );
        };
        let Removal { id, before, after } = removal;
        let own = core.id().unwrap_or(PeerId::NONE);
        let Some((_, since_us)) = self.leads else {
            return violation(
                "duty-of-leader",
                format!("{own:?} lets {peer} go and does not lead"),
            );
        };
        if id == own {
            return violation("duty-self", format!("{own:?} lets itself go"));
        }
        let now_us = times.now_us;
        let last_us = |id: PeerId| heard.get(&id.0).copied().unwrap_or(0).max(since_us);
        let silent_us = |id: PeerId| now_us - last_us(id);
        let counts = |id: &PeerId| *id == own || silent_us(*id) < times.heard_us_max;
        let (voters, count) = (
            after.voters().count(),
            after.voters().filter(counts).count(),
        );
        if count <= voters / 2 {
            let text = format!(
                "{own:?} lets {peer} go and hears {count} of the {voters} voters that are left"
            );
            return violation("duty-majority", text);
        }
        if !too_many {
            let silent_ms = silent_us(id) / 1_000;
            if silent_ms < times.remove_delay_ms {
                let text = format!("{own:?} lets {peer} go, which was heard {silent_ms} ms ago");
                return violation("duty-silence", text);
            }
            return Ok(());
        }
        let pace_us = now_us - self.paced_us.replace(now_us).unwrap_or(since_us);
        if pace_us < PACE_US {
            return violation(
                "duty-pace",
                format!("{own:?} lets {peer} go {pace_us} us after another, or after it began"),
            );
        }
        let fresh = silent_us(id) < times.election_ms * 500;
        let is_silent = |other: PeerId| fresh && silent_us(other) > times.heard_us_max;
        check_order(own, peer, id, before, is_silent)
    }
}

/// A learner goes before a voter, and a silent machine before one that answered of late.
fn check_order(
    own: PeerId,
    peer: &str,
    id: PeerId,
    before: &Configuration,
    is_silent: impl Fn(PeerId) -> bool,
) -> Checked {
    let voter = before.is_voter(id);
    let others = || before.members.iter().filter(|m| m.id != own && m.id != id);
    if let Some(learner) = others().find(|m| voter && !m.voter) {
        return violation(
            "duty-learner",
            format!("{own:?} lets {peer} go before {}, a learner", learner.name),
        );
    }
    if let Some(silent) = others().find(|m| m.voter == voter && is_silent(m.id)) {
        let text = format!(
            "{own:?} lets {peer} go before {}, which it has not heard for long",
            silent.name
        );
        return violation("duty-longest", text);
    }
    Ok(())
}

/// The removal that a leader has just appended.
fn find<'a>(core: &'a Machine, peer: &str) -> Option<Removal<'a>> {
    let raft = core.raft()?;
    let last = raft.last_index().0;
    (last.saturating_sub(8)..=last).rev().find_map(|at| {
        let EntryBody::Good(bytes) = &raft.entry(Index(at))?.body else {
            return None;
        };
        let Ok(Command::Remove { id, .. }) = command::decode(bytes) else {
            return None;
        };
        let (before, id) = (raft.configuration_at(Index(at - 1)), PeerId(id));
        let after = raft.configuration_at(Index(at));
        before
            .get(id)
            .filter(|m| *m.name == *peer)
            .map(|_| Removal { id, before, after })
    })
}
