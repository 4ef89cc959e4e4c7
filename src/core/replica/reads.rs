//! Linearizable reads, and watches.
//!
//! A linearizable read (ReadIndex, thesis 6.4) waits for two things:
//! 1. A round of heartbeats confirms the leader. The read index is the leader's commit index at
//!    the start of the round.
//! 2. The read index is applied here.
//!
//! It waits for at most `PROPOSAL_US_MAX`: a new leader confirms nothing before it has committed an
//! entry of its term, which it cannot while the disks of a majority are full.
//!
//! After that it is an ordinary read of the applied state. Start with `Replica::read`, then
//! `Replica::watch`.
use super::Replica;
use super::pending::{Ending, PROPOSAL_US_MAX, Waiting};
use crate::core::command::KeyPath;
use crate::core::error::{Code, Error};
use crate::core::raft::ProposalRefusal;
use crate::core::seam::{Delivery, Op, Outcome, Ticket};
use crate::core::store::{WatchReply, WatcherId};
use crate::core::timer::Now;

/// After so many bytes of listed nodes no further confirmed read is carried out in the turn: two
/// pages. One heartbeat round may confirm many reads.
const LISTED_BYTES_A_TURN_MAX: u64 = 128 << 10;

/// Linearizable reads.
impl Replica {
    /// Carries out `op` as a linearizable read.
    pub(super) fn read(&mut self, now: Now, ticket: Ticket, op: Op) {
        self.read_until(now, ticket, op, now.mono_us + PROPOSAL_US_MAX);
    }

    /// As `read`, with the deadline in microseconds of the monotonic clock.
    pub(super) fn read_until(&mut self, now: Now, ticket: Ticket, op: Op, due_us: u64) {
        if self.forwards_read(ticket) {
            return self.forward(ticket, op, due_us);
        }
        let id = self.pending.next_read_id();
        match self.raft.read(now, id) {
            Ok(()) => {
                self.pending.add_read(ticket, due_us, id, op);
            }
            Err(refusal) => {
                let redirect = match refusal {
                    ProposalRefusal::NotLeader(leader) => self.redirect(leader),
                    ProposalRefusal::Busy
                    | ProposalRefusal::NoRoom
                    | ProposalRefusal::Unfit(_)
                    | ProposalRefusal::Unsound => None,
                };
                let failed = Outcome::Failed(Error::new(Code::LeaderElect, ""));
                self.answer(ticket, redirect.unwrap_or(failed));
            }
        }
    }

    /// Takes the reads that raft has confirmed, and those that failed with the leadership.
    pub(super) fn take_reads(&mut self) {
        let mut confirmed = std::mem::take(&mut self.raft_output.reads);
        for (id, index) in confirmed.drain(..) {
            if !self.pending.on_read_confirmed(id, index) {
                self.on_proof(id, Some(index));
            }
        }
        self.raft_output.reads = confirmed;
        let mut failed = std::mem::take(&mut self.raft_output.failed_reads);
        for id in failed.drain(..) {
            match self.pending.reader(id) {
                Some((ticket, due_us)) => self.on_read_failed(ticket, due_us),
                None => self.on_proof(id, None),
            }
        }
        self.raft_output.failed_reads = failed;
    }

    /// This member does not lead any more, so the read gets no confirmation here: it is forwarded to
    /// the next leader, or given up.
    fn on_read_failed(&mut self, ticket: Ticket, due_us: u64) {
        if self.forwards_read(ticket)
            && let Some(Waiting::Read { op, .. }) = self.pending.take(ticket)
        {
            return self.forward(ticket, *op, due_us);
        }
        self.leave(ticket, Ending::GivenUp);
    }

    /// Carries out the confirmed reads whose read index is applied, until they have listed much.
    pub(super) fn serve_ready_reads(&mut self, now: Now) {
        let listed_before = self.store.listed_bytes();
        self.has_ready_reads = false;
        while let Some(ticket) = self.pending.ready_read(self.applied) {
            let listed = self.store.listed_bytes().wrapping_sub(listed_before);
            if listed >= LISTED_BYTES_A_TURN_MAX {
                self.has_ready_reads = true;
                return;
            }
            let Some(Waiting::Read { op, .. }) = self.pending.take(ticket) else {
                unreachable!("the index of reads names reads");
            };
            self.on_request(now, ticket, *op);
        }
    }
}

/// Watches.
impl Replica {
    /// Answers a watch from the history, or registers a watcher for coming events. A stream gets
    /// its past events first and stays registered.
    pub(super) fn watch(
        &mut self,
        ticket: Ticket,
        path: &KeyPath,
        recursive: bool,
        is_stream: bool,
        since: Option<u64>,
        due_us: Option<u64>,
    ) {
        let id = WatcherId(ticket.0);
        match self.store.watch(id, path, recursive, is_stream, since) {
            Ok(WatchReply::Backlog(events)) if !is_stream => {
                self.answer(ticket, Outcome::Backlog { events, done: true });
            }
            Ok(WatchReply::Waiting) => {
                self.pending.add_watch(ticket, due_us);
                self.answer(ticket, Outcome::Watching);
            }
            Ok(reply) => {
                self.pending.add_watch(ticket, due_us);
                self.send_backlog(ticket, reply);
            }
            Err(error) => self.answer(ticket, Outcome::Failed(error)),
        }
    }

    /// Sends the next past events if the ticket belongs to a stream. Returns whether it does.
    pub(super) fn maybe_continue_backlog(&mut self, ticket: Ticket) -> bool {
        let is_watch = matches!(self.pending.get(ticket), Some(Waiting::Watch));
        if is_watch {
            let reply = self.store.backlog(WatcherId(ticket.0));
            self.send_backlog(ticket, reply);
        }
        is_watch
    }

    /// Answers a stream with its next past events. No events: the stream has caught up, and coming
    /// events follow.
    fn send_backlog(&mut self, ticket: Ticket, reply: WatchReply) {
        let events = match reply {
            WatchReply::Waiting => Vec::new(),
            WatchReply::Backlog(events) => events,
            WatchReply::Cleared => return self.finish(ticket, Outcome::WatchEnd),
        };
        let done = false;
        self.answer(ticket, Outcome::Backlog { events, done });
    }

    /// Delivers the store's events to their watchers. A watcher that is not a stream ends with its
    /// first event; the store has already removed it.
    pub(super) fn deliver_events(&mut self) {
        self.store.take_notifications(&mut self.store_notifications);
        for notification in self.store_notifications.drain(..) {
            let mut tickets = Vec::with_capacity(notification.watchers.len());
            for (id, is_last) in notification.watchers {
                let ticket = Ticket(id.0);
                if is_last {
                    let Some(Waiting::Watch) = self.pending.take(ticket) else {
                        unreachable!("each watcher of the store is an entry of the table");
                    };
                }
                if self.locks.contains(ticket) {
                    let outcome = Outcome::Backlog {
                        events: Vec::new(),
                        done: true,
                    };
                    let at = notification.event.node.modified;
                    self.locks.add_outcome(ticket, outcome, at);
                    continue;
                }
                tickets.push((ticket, is_last));
            }
            if tickets.is_empty() {
                continue;
            }
            self.outputs.events.push(Delivery {
                etcd: notification.event.node.modified,
                event: notification.event,
                tickets,
            });
        }
    }

    /// Ends all watches and listings, before the key space is replaced.
    pub(super) fn end_store_readers(&mut self) {
        self.deliver_events();
        for ticket in self.pending.store_readers() {
            self.leave(ticket, Ending::GivenUp);
        }
    }
}
