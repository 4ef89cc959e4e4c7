//! The conversations of the lock module: each has the ticket of its request, and carries out its
//! operations under it, one at a time.
//!
//! An answer or event for such a ticket goes to its conversation instead of the client
//! (`Replica::answer`, `Replica::deliver_events`). The next operation follows in `continue_locks`.
//!
//! A conversation starts where its writes can go: at the leader, or with `-forward` at any member.
//! It goes on there when the leadership moves: its writes are forwarded, whatever `-forward` says.
//!
//! Start with [`Replica::start_lock`].
use super::Replica;
use super::conversation::{Conversation, Reaction};
use super::pending::Ending;
use crate::core::raft::RaftRole;
use crate::core::seam::{LockRequest, Outcome, Ticket};
use crate::core::store::EtcdIndex;
use crate::core::timer::Now;
use std::collections::{BTreeMap, VecDeque};

/// Most nodes of listings that conversations read in a turn; the last listing may exceed it.
const NODES_A_TURN: usize = 4_000;
/// Most outcomes that conversations take in a turn.
const OUTCOMES_A_TURN: usize = 1_000;

/// The conversations of this member.
#[derive(Default)]
pub struct Conversations {
    /// By ticket. As many as there are connections at most, and in addition conversations without
    /// a client, each for as long as a write may take.
    open: BTreeMap<Ticket, Conversation>,
    /// Outcomes that the conversations have not taken, oldest first, each with its etcd index.
    outcomes: VecDeque<(Ticket, Outcome, EtcdIndex)>,
}

impl Conversations {
    /// Whether the ticket belongs to a conversation.
    pub fn contains(&self, ticket: Ticket) -> bool {
        self.open.contains_key(&ticket)
    }

    /// Keeps an outcome for a conversation.
    pub fn add_outcome(&mut self, ticket: Ticket, outcome: Outcome, at: EtcdIndex) {
        self.outcomes.push_back((ticket, outcome, at));
    }

    /// Whether a conversation has an outcome to take.
    pub fn wants_turn(&self) -> bool {
        !self.outcomes.is_empty()
    }
}

impl Replica {
    /// Starts the conversation of a request. A member that cannot write redirects the client.
    pub(super) fn start_lock(&mut self, now: Now, ticket: Ticket, request: LockRequest) {
        let may_write = self.settings.forward || self.raft.role() == RaftRole::Leader;
        if !self.has_joined() || (request.is_write() && !may_write) {
            return self.redirect_to_leader(ticket);
        }
        let (conversation, op) = Conversation::start(now, request);
        self.locks.open.insert(ticket, conversation);
        self.on_request(now, ticket, op);
    }

    /// Lets the conversations take their outcomes, a bounded number a turn.
    pub(super) fn continue_locks(&mut self, now: Now) {
        let mut nodes = 0;
        for _ in 0..OUTCOMES_A_TURN {
            if nodes >= NODES_A_TURN {
                return;
            }
            let Some((ticket, outcome, at)) = self.locks.outcomes.pop_front() else {
                return;
            };
            if let Outcome::Page { items, .. } = &outcome {
                nodes += items.len();
            }
            if let Some(conversation) = self.locks.open.get_mut(&ticket) {
                let reaction = conversation.on_outcome(now, outcome, at);
                self.react(now, ticket, reaction);
            }
        }
    }

    fn react(&mut self, now: Now, ticket: Ticket, reaction: Reaction) {
        match reaction {
            Reaction::Wait => {}
            Reaction::Ask(op) => self.on_request(now, ticket, op),
            Reaction::Done(outcome) => self.end_conversation(ticket, outcome),
        }
    }

    fn end_conversation(&mut self, ticket: Ticket, outcome: Outcome) {
        let conversation = self.locks.open.remove(&ticket);
        if conversation.is_some_and(|conversation| !conversation.is_abandoned()) {
            self.answer(ticket, outcome);
        }
    }

    /// The client has closed its connection. Returns whether the ticket belongs to a conversation,
    /// which goes on until its place is removed.
    pub(super) fn maybe_abandon_conversation(&mut self, now: Now, ticket: Ticket) -> bool {
        let Some(conversation) = self.locks.open.get_mut(&ticket) else {
            return false;
        };
        if let Some(reaction) = conversation.on_client_closed() {
            // The outcome of the cancelled read, if there is one already, is not wanted.
            self.locks.outcomes.retain(|(other, _, _)| *other != ticket);
            self.leave(ticket, Ending::ClientClosed);
            self.react(now, ticket, reaction);
        }
        true
    }

    /// This machine stops serving: the clients are to ask the leader.
    pub(super) fn end_conversations(&mut self) {
        self.locks.outcomes.clear();
        let tickets: Vec<Ticket> = self.locks.open.keys().copied().collect();
        for ticket in tickets {
            let outcome = self.redirect_or_fail();
            self.end_conversation(ticket, outcome);
        }
    }
}
