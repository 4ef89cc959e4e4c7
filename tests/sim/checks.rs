//! The checks on one machine's outputs: what it says must rest on what its disk holds at that moment.
use super::disk::{Held, Image};
use super::truth::{Checked, Truth, violation};
use tern::raft::{AppendAnswer, Message, PeerId, Rpc, Term};

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

/// A vote, an acknowledgement or a campaign must be durable before it leaves; a notice of removal must be true.
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
            "machine {from} says {message:?} to {to:?}, its disk has {:?} {:?}",
            image.term, image.vote
        );
        violation(check, text)
    };
    match &message.rpc {
        Rpc::Vote {
            pre: false,
            granted: true,
        } => {
            let stored = image.term > term || (image.term == term && image.vote == to);
            durable("durable-vote", stored)
        }
        Rpc::RequestVote { pre: false, .. } => {
            let stored = image.term > term || (image.term == term && image.vote.0 == from);
            durable("durable-candidacy", stored)
        }
        Rpc::AppendReply {
            answer: AppendAnswer::Accepted { matched, .. },
            ..
        } => {
            // A log that a later term's leader has cut since may be shorter.
            let held = image.held(matched.0) != Held::Never || matched.0 == 0;
            durable(
                "durable-ack",
                image.term > term || (image.term == term && held),
            )
        }
        Rpc::AppendEntries { .. } | Rpc::InstallSnapshot { .. } => {
            durable("durable-term", image.term >= term)
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
        Rpc::Vote { pre: true, granted } => ("pre-vote", u64::from(*granted), 0),
        Rpc::Vote {
            pre: false,
            granted,
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
        Rpc::TimeoutNow => ("timeout-now", 0, 0),
        Rpc::Fetch { index, term } => ("fetch", index.0, term.0),
        Rpc::Fetched { index, term, .. } => ("fetched", index.0, term.0),
        Rpc::Removed { id, .. } => ("removed", id.0, 0),
    }
}
