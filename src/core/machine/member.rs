//! Member mode: the replica, and when it answers.
//!
//! A member starts, serves, and stops or leaves:
//! - *Starting*: requests wait until this machine has applied what the cluster had committed. An
//!   earlier answer could show an older state than this machine showed before its restart.
//! - *Serving*: the replica answers.
//! - *Stopping*: a leader hands over, and requests under way are finished. No new command is
//!   appended.
//! - *Removed*: this member's own removal is applied. Raft gets no more inputs. The data is kept
//!   until others confirm the removal (`claims`).
//! - *Stopped*, *leaving*: raft gets no more inputs. A leaving member was removed, or its data is
//!   an old copy, and others have confirmed that. It waits until its data directory is wiped, and
//!   then becomes a standby.
//!
//! `place` checks that the cluster still lists this member. Start with [`MemberMode::advance`].
use super::finder::Finder;
use super::standby::{JoinFrom, leader_of, redirect_to};
use super::{Common, refusal};
use crate::core::peers::{Episode, Peers, ProcessChange};
use crate::core::raft::{Index, Lsn, Message, PeerId, StateSeq};
use crate::core::replica::Replica;
use crate::core::seam::{
    Fact, Health, Indexes, Op, Order, Outcome, Outputs, Query, SnapshotIn, Space, StandbyInfo,
    Ticket,
};
use crate::core::store::ViewRef;
use crate::core::timer::Now;

/// How many election timeouts a starting member waits for a leader before it answers from its own
/// applied state.
const START_TIMEOUTS: u64 = 5;
/// How long a stopping member tries to hand over and to finish, in microseconds.
const STOP_US_MAX: u64 = 1_000_000;

/// One membership of this machine, from its admission to its removal.
pub(super) struct MemberMode {
    pub(super) replica: Replica,
    /// The search for this member's place, or for a cluster that admits it again; `None` while
    /// there is nothing to ask.
    pub(super) finder: Option<Finder>,
    /// The settings have other addresses than the log. Derived from both in each `advance`.
    pub(super) has_moved: bool,
    /// The log does not hold this member's own join yet, so whether it has moved is unknown.
    pub(super) is_unplaced: bool,
    /// A machine that knows a leader has answered that this member is not listed.
    pub(super) is_unlisted: bool,
    /// Lines about addresses that belong to another cluster. Each search finds them again.
    pub(super) other_cluster: Episode,
    /// When the last search for this member's place began, in microseconds of the monotonic clock;
    /// before the first one, when this member began.
    pub(super) searched_us: u64,
    /// The claims of peers about this member's place.
    pub(super) claims: Claims,
    state: MemberState,
}

/// The surveys of a member about claims that it has lost its place (`claims`).
#[derive(Default)]
pub(super) struct Claims {
    /// No claim of a peer begins a survey before this time, in microseconds of the monotonic clock.
    pub(super) next_us: u64,
    /// The end of the log when the survey under way began, if it asks for lost entries. The log may
    /// have grown since, and been acknowledged: then the answer says nothing.
    pub(super) asked_last: Option<Index>,
    /// The survey under way has replaced another search, which begins again after it.
    pub(super) has_replaced: bool,
    /// A survey that confirmed nothing was reported; it is reported once in a membership.
    pub(super) is_reported: bool,
}

/// The stage of a membership.
enum MemberState {
    Starting {
        /// After this time (microseconds of the monotonic clock) it serves without a leader.
        until_us: u64,
        /// Requests that wait for the member to serve, oldest first.
        waiting: Vec<(Ticket, Op)>,
    },
    Serving,
    Stopping {
        /// After this time (microseconds of the monotonic clock) it stops, finished or not.
        until_us: u64,
        /// It leads and hands over.
        is_handing_over: bool,
        /// Requests that only a leader can carry out. They are redirected to the new one.
        waiting: Vec<(Ticket, Op)>,
    },
    Removed {
        /// The answer to clients; `None` if no leader was known.
        redirect: Option<Outcome>,
    },
    Stopped {
        /// The answer to clients; `None` if no leader was known.
        redirect: Option<Outcome>,
    },
    Leaving {
        /// The cluster without this machine, as it was last known.
        info: StandbyInfo,
        /// When the standby may ask to join.
        join_from: JoinFrom,
        /// The machine was to stop and does not become a standby.
        stops: bool,
    },
}

/// The state of a member that survives the wipe of its data directory. The fields are those of
/// `MemberState::Leaving`.
pub(super) struct Departure {
    pub(super) info: StandbyInfo,
    pub(super) join_from: JoinFrom,
    pub(super) stops: bool,
}

impl MemberMode {
    /// A member that starts.
    pub(super) fn new(replica: Replica, now: Now) -> MemberMode {
        let election_us = replica.settings().election_ms * 1000;
        MemberMode {
            replica,
            finder: None,
            has_moved: false,
            is_unplaced: false,
            is_unlisted: false,
            other_cluster: Episode::default(),
            searched_us: now.mono_us,
            claims: Claims::default(),
            state: MemberState::Starting {
                until_us: now.mono_us + START_TIMEOUTS * election_us,
                waiting: Vec::new(),
            },
        }
    }

    // -- inputs

    /// A request of a client or an administrator.
    pub(super) fn on_request(&mut self, now: Now, ticket: Ticket, op: Op) {
        match &mut self.state {
            MemberState::Starting { waiting, .. } => {
                if op == Op::ClientClosed {
                    waiting.retain(|(waits, _)| *waits != ticket);
                } else {
                    waiting.push((ticket, op));
                }
            }
            MemberState::Serving => self.replica.on_request(now, ticket, op),
            MemberState::Stopping { .. } => self.on_request_while_stopping(now, ticket, op),
            MemberState::Removed { .. }
            | MemberState::Stopped { .. }
            | MemberState::Leaving { .. } => {
                if matches!(op, Op::ClientClosed | Op::ContinueListing) {
                    return;
                }
                let outcome = self.redirect().unwrap_or_else(refusal);
                self.replica.answer(ticket, outcome);
            }
        }
    }

    /// Reads a file at once, while this member serves.
    pub(super) fn get_file<'a>(&'a mut self, path: &'a str) -> Option<(Indexes, ViewRef<'a>)> {
        match self.state {
            MemberState::Serving => self.replica.get_file(path),
            _ => None,
        }
    }

    /// Reads are served until the end. No new command is appended: a write is forwarded to the next
    /// leader, or redirected.
    fn on_request_while_stopping(&mut self, now: Now, ticket: Ticket, op: Op) {
        let MemberState::Stopping {
            is_handing_over,
            waiting,
            ..
        } = &mut self.state
        else {
            return;
        };
        match op {
            Op::Write(_) if self.replica.forwards_write(ticket) => {
                self.replica.on_request(now, ticket, op);
            }
            Op::Write(_)
            | Op::Lock(_)
            | Op::SpeedTest
            | Op::ConfigPut { .. }
            | Op::MachineRemove { .. }
            | Op::MemberAdd { .. }
            | Op::MemberMove { .. }
            | Op::MemberRemove { .. }
            | Op::Join(_) => {
                if *is_handing_over && !self.replica.follows() {
                    waiting.push((ticket, op));
                } else {
                    self.replica.redirect_to_leader(ticket);
                }
            }
            op => {
                if op == Op::ClientClosed {
                    waiting.retain(|(waits, _)| *waits != ticket);
                }
                self.replica.on_request(now, ticket, op);
            }
        }
    }

    /// A raft message.
    pub(super) fn on_message(&mut self, now: Now, from: PeerId, message: Message) {
        if self.is_running() {
            self.replica.on_message(now, from, message);
        }
    }

    /// A piece of a longer message.
    pub(super) fn on_contact(&mut self, now: Now, from: PeerId) {
        if self.is_running() {
            self.replica.on_contact(now, from);
        }
    }

    /// A link opened, or its process is gone.
    pub(super) fn on_link(&mut self, now: Now, peer: PeerId, change: ProcessChange) {
        if self.is_running() {
            self.replica.on_link(now, peer, change);
        }
    }

    /// The term and vote `seq` is durable.
    pub(super) fn on_state_synced(&mut self, now: Now, seq: StateSeq, took_us: u64) {
        if self.is_running() {
            self.replica.on_state_synced(now, seq, took_us);
        }
    }

    /// All records of the log up to `lsn` are durable.
    pub(super) fn on_synced(&mut self, now: Now, lsn: Lsn, took_us: u64) {
        if self.is_running() {
            self.replica.on_synced(now, lsn, took_us);
        }
    }

    /// The result of work on a snapshot file.
    pub(super) fn on_snapshot(&mut self, now: Now, input: SnapshotIn) {
        if self.is_running() {
            self.replica.on_snapshot(now, input);
        }
    }

    /// The log on the disk is sure to have room for `free_bytes` bytes of records. Returns whether it
    /// had none before and has some now.
    pub(super) fn on_room(&mut self, free_bytes: u64) -> bool {
        let had_room = self.replica.raft().has_duty_room();
        self.replica.on_room(free_bytes);
        !had_room && self.replica.raft().has_duty_room()
    }

    /// See [`Machine::on_log_growth`].
    pub(super) fn on_log_growth(&mut self, can_grow: bool) {
        self.replica.on_log_growth(can_grow);
    }

    /// The disk's room has changed.
    pub(super) fn on_space(&mut self, now: Now, space: Space) {
        self.replica.on_space(now, space);
    }

    /// Time has passed.
    pub(super) fn on_time(&mut self, now: Now, common: &mut Common) {
        self.maybe_look(now, common);
        self.maybe_ask_again(now, common);
        let outcome = self.finder.as_mut().and_then(|f| f.on_time(now));
        self.on_search(now, outcome, common);
        if self.is_running() {
            self.replica.on_time(now);
        }
    }

    /// The process is to end: hands over and finishes. Does nothing once the member has stopped.
    pub(super) fn on_stop(&mut self, now: Now) {
        match self.state {
            MemberState::Starting { .. } | MemberState::Serving => {}
            MemberState::Stopping { .. } | MemberState::Stopped { .. } => return,
            MemberState::Removed { ref mut redirect } => {
                let redirect = redirect.take();
                self.finder = None;
                self.become_state(MemberState::Stopped { redirect });
                return self.order(Order::Stop);
            }
            MemberState::Leaving { ref mut stops, .. } => {
                *stops = true;
                return self.order(Order::Stop);
            }
        }
        let stopping = MemberState::Stopping {
            until_us: now.mono_us + STOP_US_MAX,
            is_handing_over: self.replica.hand_over(now),
            waiting: Vec::new(),
        };
        self.become_state(stopping);
    }

    // -- outputs

    /// Applies committed entries, does a slice of longer work, and follows up on both.
    pub(super) fn advance(&mut self, now: Now, common: &mut Common) {
        if !self.is_running() {
            return;
        }
        self.replica.advance(now);
        self.replica.maybe_propose_first_config(now);
        self.follow_addresses(now, common);
        common.caretaker.look_after(now, &mut self.replica);
        self.maybe_serve(now);
        self.take_claims(now, common);
        self.maybe_become_removed(now, common);
        if self.is_running() {
            self.maybe_cancel_rejoin();
            self.maybe_learn_place(now, common);
            self.maybe_stop(now, common);
        }
        self.replica.collect(now);
    }

    /// The leader proposes the new addresses of members, and its own. The log says whether this
    /// machine has moved, also after it has lost an entry that a former leadership had proposed.
    fn follow_addresses(&mut self, now: Now, common: &mut Common) {
        self.has_moved = self.moved() == Some(true);
        if self.has_moved {
            let peer_url = &common.settings.peer_url;
            let is_taken = common.peers.is_taken(peer_url, self.replica.raft().id());
            self.replica.maybe_update_own_addresses(now, is_taken);
        }
        for url in self.replica.take_hints() {
            common.peers.on_hint(now, &url);
        }
        for address in common.peers.new_addresses() {
            self.replica.maybe_propose_address(now, address);
        }
    }

    /// Moves the outputs to the end of `out`.
    pub(super) fn take_outputs(&mut self, out: &mut Outputs) {
        let outputs = self.replica.outputs_mut();
        if let Some(finder) = &mut self.finder {
            finder.take_calls(&mut outputs.calls);
        }
        outputs.move_to(out);
    }

    pub(super) fn order(&mut self, order: Order) {
        self.replica.outputs_mut().orders.push(order);
    }

    pub(super) fn report(&mut self, fact: Fact) {
        self.replica.outputs_mut().facts.push(fact);
    }

    /// Serves once this machine has applied what the cluster had committed. After the time to wait
    /// it also serves without a leader, if it has applied every entry that its disk recorded as
    /// committed.
    fn maybe_serve(&mut self, now: Now) {
        let MemberState::Starting { until_us, waiting } = &mut self.state else {
            return;
        };
        let is_late = now.mono_us >= *until_us && self.replica.has_recovered();
        if !is_late && !self.replica.is_ready() {
            return;
        }
        let waiting = std::mem::take(waiting);
        self.state = MemberState::Serving;
        for (ticket, op) in waiting {
            self.replica.on_request(now, ticket, op);
        }
    }

    /// Stops once nothing waits any more, or when the time is up.
    fn maybe_stop(&mut self, now: Now, common: &mut Common) {
        let MemberState::Stopping {
            until_us,
            is_handing_over,
            waiting,
        } = &mut self.state
        else {
            return;
        };
        let has_handed_over = !*is_handing_over || self.replica.follows();
        if has_handed_over {
            for (ticket, _) in waiting.drain(..) {
                self.replica.redirect_to_leader(ticket);
            }
        }
        let is_done = has_handed_over && self.replica.is_idle();
        if !is_done && now.mono_us < *until_us {
            return;
        }
        self.finder = None;
        common.caretaker.cancel_all();
        let redirect = self.replica.last_leader();
        self.become_state(MemberState::Stopped { redirect });
        self.replica.close();
        self.order(Order::Stop);
    }

    /// Takes no part any more once this member's own removal is applied. The data is kept until
    /// others confirm the removal. A member that is stopping stops, and asks at its next start.
    fn maybe_become_removed(&mut self, now: Now, common: &mut Common) {
        if !self.replica.is_removed() || !self.is_running() || self.is_stopping() {
            return;
        }
        let info = self.replica.standby_info();
        let leader = leader_of(&info, &common.introduction());
        let redirect = leader.map(redirect_to);
        common.caretaker.cancel_all();
        self.become_state(MemberState::Removed { redirect });
        self.replica.close();
        self.confirm_removal(now, common);
    }

    /// Asks once more whether others have applied this member's removal.
    fn maybe_ask_again(&mut self, now: Now, common: &mut Common) {
        let is_due = self.next_survey_us().is_some_and(|due| now.mono_us >= due);
        if is_due && matches!(self.state, MemberState::Removed { .. }) {
            self.confirm_removal(now, common);
        }
    }

    /// Ends the membership: everything that waits is answered, and the data directory is to be
    /// wiped.
    pub(super) fn leave(&mut self, join_from: JoinFrom, fact: Fact, common: &mut Common) {
        let stops = matches!(self.state, MemberState::Stopping { .. });
        let info = StandbyInfo {
            is_barred: join_from == JoinFrom::Never,
            ..self.replica.standby_info()
        };
        self.finder = None;
        common.caretaker.cancel_all();
        self.become_state(MemberState::Leaving {
            info: info.clone(),
            join_from,
            stops,
        });
        self.report(fact);
        self.replica.close();
        self.order(Order::KeepStandbyInfo {
            info,
            gives_up_log: true,
        });
        self.order(Order::Wipe);
        if stops {
            self.order(Order::Stop);
        }
    }

    /// Changes the state. Requests that have waited in the former state are redirected to the
    /// leader: the key space here may be too old to answer them.
    fn become_state(&mut self, state: MemberState) {
        let former = std::mem::replace(&mut self.state, state);
        if let MemberState::Starting { waiting, .. } | MemberState::Stopping { waiting, .. } =
            former
        {
            for (ticket, _) in waiting {
                self.replica.redirect_to_leader(ticket);
            }
        }
    }

    // -- questions

    /// The answer to a question; `None` while it has to wait.
    pub(super) fn query(&self, now: Now, query: &Query) -> Option<Outcome> {
        match &self.state {
            MemberState::Starting { .. } => None,
            MemberState::Serving | MemberState::Stopping { .. } => {
                Some(self.replica.query(now, query))
            }
            MemberState::Removed { .. }
            | MemberState::Stopped { .. }
            | MemberState::Leaving { .. } => Some(self.redirect().unwrap_or_else(refusal)),
        }
    }

    /// Whether this member can serve its clients.
    pub(super) fn health(&self, now: Now) -> Health {
        match &self.state {
            MemberState::Starting { .. } => Health::Starting,
            MemberState::Serving | MemberState::Stopping { .. } => self.replica.health(now),
            MemberState::Removed { .. }
            | MemberState::Stopped { .. }
            | MemberState::Leaving { .. } => Health::Leaving,
        }
    }

    /// The end of the membership, once the member is leaving.
    pub(super) fn departure(&self) -> Option<Departure> {
        match &self.state {
            MemberState::Leaving {
                info,
                join_from,
                stops,
            } => Some(Departure {
                info: info.clone(),
                join_from: *join_from,
                stops: *stops,
            }),
            _ => None,
        }
    }

    /// The answer to clients of a removed or stopped member; `None` if no leader is known.
    fn redirect(&self) -> Option<Outcome> {
        match &self.state {
            MemberState::Removed { redirect } | MemberState::Stopped { redirect } => {
                redirect.clone()
            }
            _ => None,
        }
    }

    /// Whether raft gets inputs, and this member takes part in the cluster.
    pub(super) fn is_running(&self) -> bool {
        match self.state {
            MemberState::Starting { .. } | MemberState::Serving | MemberState::Stopping { .. } => {
                true
            }
            MemberState::Removed { .. }
            | MemberState::Stopped { .. }
            | MemberState::Leaving { .. } => false,
        }
    }

    /// Whether it answers requests from its applied state.
    pub(super) fn is_serving(&self) -> bool {
        matches!(self.state, MemberState::Serving)
    }

    /// Whether it has been stopped, or is being stopped.
    pub(super) fn is_stopping(&self) -> bool {
        matches!(
            self.state,
            MemberState::Stopping { .. } | MemberState::Stopped { .. }
        )
    }

    /// Whether there is work left that waits for nothing.
    pub(super) fn wants_turn(&self) -> bool {
        let is_removed = self.replica.is_removed() && !self.is_stopping();
        self.is_running() && (is_removed || self.replica.wants_turn())
    }

    /// See [`Machine::is_snapshot_late`].
    pub(super) fn is_snapshot_late(&self) -> bool {
        self.replica.is_snapshot_late()
    }

    /// When `on_time` has something to do, in microseconds of the monotonic clock.
    pub(super) fn next_deadline(&self, peers: &Peers) -> Option<u64> {
        let state_us = match self.state {
            MemberState::Starting { until_us, .. } if self.replica.has_recovered() => {
                Some(until_us)
            }
            MemberState::Stopping { until_us, .. } => Some(until_us),
            MemberState::Starting { .. } | MemberState::Serving => None,
            MemberState::Removed { .. } => {
                let search_us = self.finder.as_ref().and_then(Finder::next_deadline);
                return search_us.or(self.next_survey_us());
            }
            MemberState::Stopped { .. } | MemberState::Leaving { .. } => return None,
        };
        let search_us = match &self.finder {
            Some(finder) => finder.next_deadline(),
            None => self.look_due_us(peers),
        };
        let replica_us = self.replica.next_deadline();
        [state_us, search_us, replica_us]
            .into_iter()
            .flatten()
            .min()
    }

    /// How many timers wait besides those of raft and of the leader's duties.
    pub(super) fn timers(&self) -> usize {
        let search_us = self.finder.as_ref().and_then(Finder::next_deadline);
        usize::from(search_us.is_some())
    }

    /// Called after each input.
    pub(super) fn check_invariants(&self) {
        self.replica.check_invariants();
    }
}
