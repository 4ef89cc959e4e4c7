//! The checks on one machine's outputs: each must rest on what its disk holds at that moment.
use super::cluster::{Running, voters_at};
use super::image::{Held, Image};
use super::truth::{Checked, Truth, violation};
use std::collections::BTreeMap;
use tern::core::raft::{AppendAnswer, Message, PeerId, Rpc, Term};

/// What a machine shows of itself after a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub id: u64,
    pub term: u64,
    pub commit: u64,
    pub applied: u64,
    pub etcd: u64,
    pub leader: u64,
    pub leads: bool,
}

impl Seen {
    /// Nothing that is promised goes back while a process lives.
    pub fn check_after(&self, before: &Seen) -> Checked {
        let pairs = [
            ("term-goes-back", before.term, self.term),
            ("commit-goes-back", before.commit, self.commit),
            ("applied-goes-back", before.applied, self.applied),
            ("etcd-index-goes-back", before.etcd, self.etcd),
        ];
        for (check, was, is) in pairs {
            if is < was {
                return violation(
                    check,
                    format!("machine {} went from {was} to {is}", self.id),
                );
            }
        }
        Ok(())
    }
}

/// A vote, an acknowledgement or a campaign must be durable before it leaves; a notice of removal
/// must be true.
pub fn check_send(
    image: &Image,
    truth: &Truth,
    from: u64,
    to: PeerId,
    message: &Message,
) -> Checked {
    let term = message.term;
    let durable = |check, good: bool| {
        if good {
            return Ok(());
        }
        let text = format!(
            "machine {from} says {message:?} to {to:?}, its disk has {:?} {:?}, damaged {:?}",
            image.log.term,
            image.log.vote,
            image.damaged()
        );
        violation(check, text)
    };
    match &message.rpc {
        Rpc::Vote {
            pre: false,
            granted: true,
            ..
        } => {
            let stored =
                image.log.term > term || (image.log.term == term && image.log.vote == Some(to));
            durable("durable-vote", stored)
        }
        Rpc::RequestVote { pre: false, .. } => {
            let stored = image.log.term > term
                || (image.log.term == term && image.log.vote == Some(PeerId(from)));
            durable("durable-candidacy", stored)
        }
        Rpc::AppendReply {
            answer: AppendAnswer::Accepted { matched, .. },
            ..
        } => {
            // A log that a later term's leader has cut since may be shorter.
            let held = (image.held(matched.0) != Held::Never || matched.0 == 0)
                && image.is_good_to(matched.0);
            durable(
                "durable-ack",
                image.log.term > term || (image.log.term == term && held),
            )
        }
        Rpc::AppendEntries { .. } | Rpc::InstallSnapshot { .. } => {
            durable("durable-term", image.log.term >= term)
        }
        Rpc::Removed { id, .. } => {
            if term != Term::REMOVED || truth.removed.contains_key(&id.0) {
                return Ok(());
            }
            violation(
                "false-removal",
                format!("machine {from} tells {} that it was removed", id.0),
            )
        }
        _ => Ok(()),
    }
}

/// A short name of a message and three numbers of it, for the trace.
pub fn describe(message: &Message) -> (&'static str, u64, u64) {
    match &message.rpc {
        Rpc::RequestVote {
            pre: true,
            last_index,
            ..
        } => ("pre-vote?", last_index.0, 0),
        Rpc::RequestVote {
            pre: false,
            hand_over,
            last_index,
            ..
        } => ("vote?", last_index.0, u64::from(*hand_over)),
        Rpc::Vote {
            pre: true, granted, ..
        } => ("pre-vote", u64::from(*granted), 0),
        Rpc::Vote {
            pre: false,
            granted,
            ..
        } => ("vote", u64::from(*granted), 0),
        Rpc::AppendEntries {
            prev_index,
            entries,
            ..
        } => ("append", prev_index.0, entries.len() as u64),
        Rpc::AppendReply { answer, .. } => match answer {
            AppendAnswer::Accepted {
                verified, matched, ..
            } => ("accepted", verified.0, matched.0),
            AppendAnswer::Rejected { prev, hint, .. } => ("rejected", prev.0, hint.0),
            AppendAnswer::Stale => ("stale", 0, 0),
        },
        Rpc::InstallSnapshot { meta, offset, .. } => ("install", meta.index.0, *offset),
        Rpc::SnapshotReply { index, offset } => ("install-reply", index.0, *offset),
        Rpc::SnapshotRefused { index } => ("install-refused", index.0, 0),
        Rpc::TimeoutNow => ("timeout-now", 0, 0),
        Rpc::Fetch { index, term } => ("fetch", index.0, term.0),
        Rpc::Fetched { index, term, .. } => ("fetched", index.0, term.0),
        Rpc::Removed { id, .. } => ("removed", id.0, 0),
        Rpc::Forward {
            number, command, ..
        } => ("forward", *number, u64::from(command.is_some())),
        Rpc::Forwarded { number, answer, .. } => (
            "forwarded",
            *number,
            answer.as_ref().map_or(0, |index| index.0),
        ),
    }
}

/// The entries that a leader counts as acknowledged by the receiver: term and index.
pub fn lost_entries(message: &Message) -> Option<(u64, u64)> {
    match &message.rpc {
        Rpc::AppendEntries { acked, .. } => Some((message.term.0, acked.0)),
        _ => None,
    }
}

/// A leader changes the membership only after an entry of its own term is committed, and one voter
/// at a time.
pub fn check_changes(run: &Running) -> Checked {
    let seen = &run.seen;
    if run.log.term(seen.commit) != Some(seen.term) {
        let text = format!(
            "machine {} changes members in term {} before it has committed in it",
            seen.id, seen.term
        );
        return violation("change-before-own-commit", text);
    }
    let voters = |index| voters_at(&run.core, index);
    let open = (seen.commit..run.log.last()).filter(|i| voters(*i) != voters(*i + 1));
    if open.count() > 1 {
        let text = format!("machine {} has two changes of voters under way", seen.id);
        return violation("two-voter-changes", text);
    }
    Ok(())
}

/// When a machine last heard each other one.
#[derive(Clone, Debug, Default)]
pub struct Contact {
    leader_us: Option<u64>,
    /// The same with what came in this turn, whose order does not show outside.
    leader_now_us: Option<u64>,
    /// The senders of vote requests in this turn, and the leader and term before the turn.
    asked: Vec<(u64, u64, u64)>,
    peers: BTreeMap<u64, u64>,
    /// When each last answered in the present term.
    pub answers: BTreeMap<u64, u64>,
    leads_since_us: Option<u64>,
    voters: Vec<u64>,
}

impl Contact {
    /// A removed sender is not heard.
    pub fn on_message(
        &mut self,
        now_us: u64,
        from: u64,
        message: &Message,
        run: &Seen,
        truth: &Truth,
    ) {
        if truth
            .removed
            .get(&from)
            .is_some_and(|at| *at <= run.applied)
        {
            return;
        }
        self.peers.insert(from, now_us);
        match &message.rpc {
            Rpc::AppendEntries { .. } if message.term.0 == run.term && run.leader == from => {
                self.leader_now_us = Some(now_us);
            }
            // A leader that asks leads no more.
            Rpc::RequestVote { pre: true, .. } if run.leader != from => {
                self.asked.push((from, run.leader, run.term));
            }
            Rpc::AppendReply { .. } | Rpc::SnapshotReply { .. } if message.term.0 == run.term => {
                self.answers.insert(from, now_us);
            }
            _ => {}
        }
    }

    pub fn end_turn(&mut self) {
        self.leader_us = self.leader_now_us;
        self.asked.clear();
    }

    /// No vote is promised while a leader was heard within an election timeout (4.2.3). Only
    /// promises given in the turn of the request are looked at, others may have waited for a sync;
    /// and only in turns that begin and end under the same leader, since another may have been
    /// voted for in between.
    pub fn check_lease(
        &self,
        election_ms: u64,
        now_us: u64,
        seen: &Seen,
        to: u64,
        message: &Message,
    ) -> Checked {
        let promise = matches!(
            &message.rpc,
            Rpc::Vote {
                granted: true,
                pre: true,
                ..
            }
        );
        let live = self
            .leader_us
            .is_some_and(|at| now_us < at + election_ms * 1_000);
        if promise && live && self.asked.contains(&(to, seen.leader, seen.term)) && seen.leader != 0
        {
            let text = format!(
                "machine {} would vote for {to} though it has just heard its leader",
                seen.id
            );
            return violation("vote-under-lease", text);
        }
        Ok(())
    }

    /// A leader that does not hear a majority for long is none any more.
    pub fn check_quorum(
        &mut self,
        now_us: u64,
        bound_us: u64,
        seen: &Seen,
        voters: &[u64],
    ) -> Checked {
        if !seen.leads {
            self.leads_since_us = None;
            return Ok(());
        }
        if *voters != *self.voters {
            // Whoever was not heard before may count now.
            self.voters = voters.to_vec();
            self.leads_since_us = None;
        }
        let since_us = *self.leads_since_us.get_or_insert(now_us);
        let heard = |v: &&u64| {
            **v == seen.id || self.peers.get(*v).is_some_and(|at| at + bound_us > now_us)
        };
        let count = voters.iter().filter(heard).count();
        if now_us > since_us + bound_us && count <= voters.len() / 2 {
            let text = format!(
                "machine {} still leads term {}, heard by {count} of {voters:?}",
                seen.id, seen.term
            );
            return violation("leads-without-majority", text);
        }
        Ok(())
    }
}
