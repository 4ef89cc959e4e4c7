//! A member's place in its cluster: does the cluster still list it, and under which addresses?
//!
//! A member learns of its removal from a notice of a peer. A peer sends the notice only over a
//! link, and all members that the log names may be gone. So a member also asks:
//! - at start, and again each time it has heard no leader for [`LOOK_TIMEOUTS`], it looks for
//!   machines of its cluster and asks whether they list it ([`Goal::Look`]);
//! - it looks much sooner ([`DISPLACED_TIMEOUTS`]) if a machine that is not the listed member
//!   answers at a listed address: the list in its log is out of date. Machines with other ids may
//!   be at all addresses that it knows, and none of them takes a link on which a notice could
//!   arrive;
//! - a new member that holds no data of the cluster knows no other member. It asks to join again:
//!   the leader answers with the same id if it still lists this data directory.
//!
//! Start with [`MemberMode::on_search`].
use super::Common;
use super::finder::{Finder, Goal, Search, SearchOutcome};
use super::member::MemberMode;
use super::standby::JoinFrom;
use crate::core::peers::Peers;
use crate::core::seam::{CallId, Fact, Order, Reply};
use crate::core::timer::Now;

/// After a machine did not list this member, the member waits this many election timeouts for a
/// leader or for the notice of its removal. Then it asks again.
const UNLISTED_TIMEOUTS: u64 = 20;
/// How many election timeouts without a leader pass before a member looks for its place, and
/// between two looks.
const LOOK_TIMEOUTS: u64 = 150;
/// The same if a listed address belongs to another machine now.
const DISPLACED_TIMEOUTS: u64 = 10;
/// How many election timeouts without any data of the cluster pass before a new member asks to join
/// again.
const REJOIN_TIMEOUTS: u64 = 10;

impl MemberMode {
    /// The first check of this member's place, at start.
    ///
    /// # Errors
    ///
    /// If the log says that this member has another name.
    pub(super) fn begin_place_checks(
        &mut self,
        now: Now,
        common: &mut Common,
    ) -> Result<(), Box<str>> {
        self.check_name()?;
        let moved = self.moved();
        self.is_unplaced = moved.is_none();
        common.add_addresses(now);
        self.has_moved = moved == Some(true);
        if self.has_no_cluster_data() {
            self.schedule_rejoin(now, common);
        } else {
            self.look(0, 0, common);
        }
        Ok(())
    }

    /// A call of the finder has ended.
    pub(super) fn on_reply(&mut self, now: Now, id: CallId, reply: Reply, common: &mut Common) {
        let Some(finder) = &mut self.finder else {
            return;
        };
        let outcome = finder.on_reply(now, id, reply);
        let discovered = finder.take_discovered();
        let urls = discovered.iter().map(|url| &**url);
        common.peers.add_addresses(now, urls);
        let other_cluster = finder.take_other_cluster();
        if let Some(why) = other_cluster
            && let Some(suppressed) = self.other_cluster.is_due(now.mono_us)
        {
            let why = match suppressed {
                0 => why,
                count => format!("{why} ({count} such lines suppressed)").into(),
            };
            self.report(Fact::OtherCluster { why });
        }
        self.on_search(now, outcome, common);
    }

    /// The outcome of a search, if it has one.
    pub(super) fn on_search(
        &mut self,
        now: Now,
        outcome: Option<SearchOutcome>,
        common: &mut Common,
    ) {
        let Some(outcome) = outcome else {
            return;
        };
        if self.finder.as_ref().is_some_and(Finder::joins) {
            return self.on_rejoin(now, outcome, common);
        }
        if self.finder.as_ref().is_some_and(Finder::confirms) {
            return self.on_confirm(now, outcome, common);
        }
        if let SearchOutcome::Retrying { why, pause_ms } = outcome {
            return self.report(Fact::SearchFailed { why, pause_ms });
        }
        if let SearchOutcome::Occupied { name, text } = outcome {
            // If the other member does not answer there, the list is out of date: two members may
            // have exchanged their addresses. It may answer elsewhere, at an address that the list
            // of the machine that was asked does not have yet.
            let own_url = &self.replica.settings().peer_url;
            if common.peers.is_answering_at(&name, own_url) {
                self.order(Order::Fail(text));
            }
            return;
        }
        self.finder = None;
        match outcome {
            SearchOutcome::Failed(text) => self.order(Order::Fail(text)),
            SearchOutcome::Unlisted => self.on_unlisted(now, false, common),
            SearchOutcome::Barred => self.on_unlisted(now, true, common),
            SearchOutcome::Done => {}
            SearchOutcome::Admitted(_)
            | SearchOutcome::First
            | SearchOutcome::Retrying { .. }
            | SearchOutcome::Occupied { .. }
            | SearchOutcome::LostEntries
            | SearchOutcome::Listed
            | SearchOutcome::Refused { .. } => {
                unreachable!("a search that looks does not end like this")
            }
        }
    }

    // -- the name and the addresses

    /// The name of a member never changes. Another one would be shown to clients while the cluster
    /// goes on with the name in the log.
    fn check_name(&self) -> Result<(), Box<str>> {
        let raft = self.replica.raft();
        let given = &self.replica.settings().name;
        match raft.configuration().get(raft.id()) {
            Some(own) if own.name != *given => Err(format!(
                "-name is {given}, but the data directory belongs to the member {} of its cluster: \
                 start this machine with -name {}, or with an empty data directory to join as {given}",
                own.name, own.name
            )
            .into()),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether this machine has other addresses than the log says; `None`: the log does not say.
    pub(super) fn moved(&self) -> Option<bool> {
        let raft = self.replica.raft();
        let settings = self.replica.settings();
        let own = raft.configuration().get(raft.id())?;
        let is_same = own.client_url == settings.client_url && own.peer_url == settings.peer_url;
        Some(!is_same)
    }

    /// Acts once the log holds this member's own join: checks the name, and begins to tell the
    /// cluster the addresses if they differ from those of the log.
    pub(super) fn maybe_learn_place(&mut self, now: Now, common: &mut Common) {
        if !self.is_unplaced {
            return;
        }
        let Some(moved) = self.moved() else {
            return;
        };
        self.is_unplaced = false;
        if let Err(text) = self.check_name() {
            return self.order(Order::Fail(text));
        }
        if moved {
            self.has_moved = true;
            let last_call = common.next_search();
            self.look(now.mono_us, last_call, common);
        }
    }

    // -- looking

    /// When a member that knows no leader looks for its place: one interval after the leader was
    /// last known or the last look began. A machine that knows of a removal may have been down at
    /// the last look. In microseconds of the monotonic clock.
    pub(super) fn look_due_us(&self, peers: &Peers) -> Option<u64> {
        if !self.is_running() || self.is_stopping() || self.has_no_cluster_data() {
            return None;
        }
        let leaderless_us = self.replica.leaderless_us()?;
        let timeouts = if peers.has_displaced_member() {
            DISPLACED_TIMEOUTS
        } else {
            LOOK_TIMEOUTS
        };
        Some(leaderless_us.max(self.searched_us) + self.timeouts_us(timeouts))
    }

    pub(super) fn maybe_look(&mut self, now: Now, common: &mut Common) {
        let due_us = self.look_due_us(&common.peers);
        let is_due = due_us.is_some_and(|due| now.mono_us >= due);
        if self.finder.is_some() || !is_due {
            return;
        }
        if self.has_been_led() {
            self.is_unlisted = false;
        }
        self.searched_us = now.mono_us;
        let last_call = common.next_search();
        self.look(now.mono_us, last_call, common);
    }

    /// Asks the other members of the log first, then the configured machines.
    pub(super) fn look(&mut self, from_us: u64, last_call: u64, common: &mut Common) {
        let raft = self.replica.raft();
        let members = &raft.configuration().members;
        let others = members.iter().filter(|m| m.id != raft.id());
        common.search.known = others.map(|m| m.peer_url.clone()).collect();
        let mut introduction = common.introduction();
        if let Some(own) = raft.configuration().get(raft.id()) {
            introduction.incarnation = own.incarnation;
        }
        let goal = Goal::Look {
            moved: self.has_moved,
            cluster: raft.snapshot().cluster,
            id: raft.id(),
        };
        let search = common.search.clone();
        let finder = Finder::new(introduction, search, goal, from_us, last_call, common.seed);
        self.finder = Some(finder);
    }

    /// A machine of this cluster that knows a leader, and has applied this member's join, does not
    /// list this member. The notice of the removal may be under way, so the member asks once more.
    /// It was removed if the second answer does not list it either, and no leader was heard between
    /// the two.
    fn on_unlisted(&mut self, now: Now, is_barred: bool, common: &mut Common) {
        let again = std::mem::replace(&mut self.is_unlisted, true);
        if !again {
            self.report(Fact::Unlisted);
        }
        if !self.is_running() || self.has_been_led() {
            return;
        }
        if again && is_barred {
            return self.leave(JoinFrom::Never, Fact::Barred, common);
        }
        if again {
            return self.leave(JoinFrom::Now, Fact::Removed, common);
        }
        let from_us = now.mono_us + self.timeouts_us(UNLISTED_TIMEOUTS);
        let last_call = common.next_search();
        self.look(from_us, last_call, common);
    }

    /// Whether a leader was heard since the last look began.
    fn has_been_led(&self) -> bool {
        match self.replica.leaderless_us() {
            None => true,
            Some(leaderless_us) => leaderless_us > self.searched_us,
        }
    }

    // -- a member without data of its cluster

    /// Whether no entry or snapshot has reached this member since it was admitted. It knows no
    /// peer, and waits for the leader to link to it.
    pub(super) fn has_no_cluster_data(&self) -> bool {
        self.is_running() && self.replica.raft().configuration().members.is_empty()
    }

    /// A member that was removed before any entry reached it gets no notice. So it asks to join
    /// again, [`REJOIN_TIMEOUTS`] from now.
    pub(super) fn schedule_rejoin(&mut self, now: Now, common: &mut Common) {
        let search = Search {
            attempts_max: 1,
            discovery: None,
            ..common.search.clone()
        };
        let from_us = now.mono_us + self.timeouts_us(REJOIN_TIMEOUTS);
        let last_call = common.next_search();
        self.finder = Some(Finder::new(
            common.introduction(),
            search,
            Goal::Join,
            from_us,
            last_call,
            common.seed,
        ));
    }

    /// Ends the search that asks to join again once data of the cluster has arrived. Returns
    /// whether it did.
    pub(super) fn maybe_cancel_rejoin(&mut self) -> bool {
        let is_rejoining = self.finder.as_ref().is_some_and(Finder::joins);
        if !is_rejoining || self.has_no_cluster_data() {
            return false;
        }
        self.finder = None;
        true
    }

    /// The outcome of the request to join again. The same id means that the member is still listed:
    /// the leader will link to it.
    fn on_rejoin(&mut self, now: Now, outcome: SearchOutcome, common: &mut Common) {
        self.finder = None;
        match outcome {
            SearchOutcome::Admitted(id) if id != self.replica.raft().id() => {
                self.leave(JoinFrom::Now, Fact::Removed, common);
            }
            SearchOutcome::Refused { info, .. } if info.is_barred => {
                self.leave(JoinFrom::Never, Fact::Barred, common);
            }
            SearchOutcome::Refused { .. } => {
                self.leave(JoinFrom::NextInterval, Fact::Removed, common)
            }
            SearchOutcome::Admitted(_)
            | SearchOutcome::Failed(_)
            | SearchOutcome::Retrying { .. }
            | SearchOutcome::First
            | SearchOutcome::Occupied { .. }
            | SearchOutcome::Unlisted
            | SearchOutcome::Barred
            | SearchOutcome::LostEntries
            | SearchOutcome::Listed
            | SearchOutcome::Done => self.schedule_rejoin(now, common),
        }
    }

    pub(super) fn timeouts_us(&self, timeouts: u64) -> u64 {
        timeouts * self.replica.settings().election_ms * 1000
    }
}
