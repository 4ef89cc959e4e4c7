//! From member to standby and back, in place and any number of times.
//!
//! A life as a member ends with its raft: what its log and snapshots hold is wiped and the data
//! directory gets a new number, before this machine asks to be let in again as another member.
//! Whatever waits is answered or redirected, watchers' bodies end empty, and calls of the former
//! mode are not listened to any more: the numbers of a mode's calls are its own. Start with
//! `maybe_leave`, then `become_member`.
use super::standby::{JoinFrom, Standby};
use super::*;

/// How many election timeouts a machine that somebody does not list waits for its leader to be
/// heard.
const UNLISTED_TIMEOUTS: u64 = 20;
/// After how many election timeouts without a leader a member asks round, and again.
const LOOK_TIMEOUTS: u64 = 150;
/// After how many election timeouts a new member that has heard nothing asks to be let in again.
const SILENT_TIMEOUTS: u64 = 10;

impl Machine {
    /// A machine that was a standby when it was stopped: it goes on as one.
    pub fn stand_by(
        settings: Settings,
        recovered: Recovered,
        info: StandbyInfo,
        search: Search,
        seed: u64,
        now: Now,
    ) -> Machine {
        let mut machine = Machine::outside(settings, recovered, search, seed, now);
        machine.become_standby(now, info, JoinFrom::NextInterval, true, Fact::StandsByAgain);
        machine.register();
        machine
    }

    /// A machine that was removed, or that has forgotten what it acknowledged, is no member any
    /// more; it can only come back as a new one.
    pub(super) fn maybe_leave(&mut self, now: Now) {
        let fact = match self.replica.standing() {
            Standing::Member => return,
            Standing::Removed => Fact::Removed,
            Standing::Amnesiac => Fact::Amnesia,
        };
        if self.is_out() {
            return;
        }
        // Who learns of it in the middle of its work waits for room; who comes up asks at once.
        let join_from = match fact == Fact::Amnesia || !self.replica.had_leader() {
            true => JoinFrom::Now,
            false => JoinFrom::NextInterval,
        };
        self.leave(now, join_from, fact);
    }

    fn leave(&mut self, now: Now, join_from: JoinFrom, fact: Fact) {
        let stops = matches!(self.phase, Phase::Stopping { .. });
        let info = self.replica.last_cluster();
        self.become_standby(now, info, join_from, false, fact);
        self.replica.close();
        let effects = self.replica.effects_mut();
        effects.removed = true;
        effects.wipe = true;
        if stops {
            let leader = self.elsewhere();
            self.keep_news();
            self.phase = Phase::Out { leader };
            self.replica.effects_mut().stopped = true;
        }
    }

    /// A machine of this cluster that knows a leader and this machine's join does not list this
    /// machine. The notice of the removal may be on its way: so all are asked once more, and
    /// only who has heard of no leader in all that time believes it. Its log may name none but
    /// machines that are gone themselves, and then nobody is left to send it a notice.
    pub(super) fn on_unlisted(&mut self, now: Now) {
        let again = std::mem::replace(&mut self.is_unlisted, true);
        if !again {
            self.replica.effects_mut().facts.push(Fact::Unlisted);
        }
        if self.is_out() || self.has_been_led() {
            return;
        }
        if again {
            return self.leave(now, JoinFrom::Now, Fact::Removed);
        }
        let from_us = self.after(now, UNLISTED_TIMEOUTS);
        let calls = self.next_calls();
        self.finder = Some(self.looking(from_us, calls));
    }

    /// Whether a leader has been heard since it began to ask round.
    fn has_been_led(&self) -> bool {
        self.replica
            .leaderless_us()
            .is_none_or(|us| us > self.look_us)
    }

    /// When a member asks round that has heard no leader for long, or that has asked so long ago:
    /// who could have told of a removal may not have been there.
    pub(super) fn look_due_us(&self) -> u64 {
        let serves =
            matches!(self.phase, Phase::Starting { .. } | Phase::Serving) && !self.is_silent();
        match self.replica.leaderless_us() {
            Some(us) if serves => {
                us.max(self.look_us) + LOOK_TIMEOUTS * self.replica.settings().election_ms * 1000
            }
            Some(_) | None => u64::MAX,
        }
    }

    pub(super) fn maybe_look(&mut self, now: Now) {
        if self.finder.is_some() || now.mono_us < self.look_due_us() {
            return;
        }
        self.is_unlisted &= !self.has_been_led();
        self.look_us = now.mono_us;
        let calls = self.next_calls();
        self.finder = Some(self.looking(now.mono_us, calls));
    }

    /// A machine that came up with a log that did not tell its place has learnt it: it tells its
    /// address if that is another.
    pub(super) fn maybe_tell_place(&mut self, now: Now) {
        let moved = self.has_moved().filter(|_| self.is_unplaced);
        self.is_unplaced &= moved.is_none();
        if moved == Some(true) {
            self.moved = true;
            let calls = self.next_calls();
            self.finder = Some(self.looking(now.mono_us, calls));
        }
    }

    /// Asks round for what a member's place is: first those that its log knows, and under the name
    /// that stands there.
    pub(super) fn looking(&mut self, from_us: u64, last_call: u64) -> Finder {
        let goal = Goal::Look {
            moved: self.moved,
            cluster: self.cluster(),
            id: self.id(),
        };
        let (members, id) = (&self.configuration().members, self.id());
        let known = members
            .iter()
            .filter(|m| m.id != id)
            .map(|m| m.peer_url.clone())
            .collect();
        let mut introduction = self.introduction();
        if let Some(own) = self.configuration().get(id) {
            (introduction.name, introduction.incarnation) = (own.name.clone(), own.incarnation);
        }
        self.origin.search.known = known;
        let search = self.origin.search.clone();
        Finder::new(
            introduction,
            search,
            goal,
            from_us,
            last_call,
            self.origin.seed,
        )
    }

    /// So many election timeouts from now, in `mono_us`.
    fn after(&self, now: Now, timeouts: u64) -> u64 {
        now.mono_us + timeouts * self.replica.settings().election_ms * 1000
    }

    /// The number up to which the calls of former searches are numbered.
    fn next_calls(&mut self) -> u64 {
        self.origin.switches += 1;
        self.origin.switches << CallId::SEARCH_BITS
    }

    /// The cluster that was found has no place for this machine, which holds nothing yet.
    pub(super) fn become_standby_refused(&mut self, now: Now, why: Box<str>, info: StandbyInfo) {
        self.become_standby(
            now,
            info,
            JoinFrom::NextInterval,
            true,
            Fact::Refused { why },
        );
        self.register();
    }

    /// The replica stands still from here on, and is exchanged when the data directory is `wiped`.
    fn become_standby(
        &mut self,
        now: Now,
        info: StandbyInfo,
        join_from: JoinFrom,
        wiped: bool,
        fact: Fact,
    ) {
        self.finder = None;
        self.caretaker.cancel_all();
        (self.moved, self.is_unplaced, self.is_unlisted) = (false, false, false);
        self.origin.switches += 1;
        let calls = self.origin.switches << CallId::SEARCH_BITS;
        let search = &self.origin.search;
        let others = search.known.iter().chain(&search.peers).cloned().collect();
        let standby = Standby::new(
            now,
            self.introduction(),
            info,
            others,
            join_from,
            wiped,
            calls,
        );
        self.change_phase(Phase::Standby(Box::new(standby)));
        self.replica.effects_mut().facts.push(fact);
    }

    /// What `Effects::wipe` asked for is done: the data directory is empty and has this number.
    pub fn on_wiped(&mut self, now: Now, incarnation: u64) {
        self.now = now;
        (self.origin.incarnation, self.origin.term, self.origin.vote) =
            (incarnation, Term(0), None);
        self.exchange_replica(now, NOBODY);
        if let Phase::Standby(standby) = &mut self.phase {
            standby.on_wiped(incarnation);
        }
    }

    /// Begins as a member that holds nothing: the leader brings it what the cluster has.
    pub(super) fn become_member(&mut self, now: Now, id: PeerId) {
        let left = match &self.phase {
            Phase::Finding => None,
            Phase::Standby(standby) => {
                let known = standby.info().cluster.iter().map(|m| m.peer_url.clone());
                self.origin.search.known = known.collect();
                Some(StandbyInfo {
                    running: false,
                    ..standby.info().clone()
                })
            }
            // It has been stopped since.
            Phase::Starting { .. }
            | Phase::Serving
            | Phase::Stopping { .. }
            | Phase::Out { .. } => return,
        };
        self.keep_news();
        let is_low = self.replica.is_disk_low();
        self.exchange_replica(now, id);
        if is_low {
            self.replica.on_space(now, Space::Low);
        }
        let until_us = now.mono_us + START_TIMEOUTS * self.replica.settings().election_ms * 1000;
        self.phase = Phase::Starting {
            until_us,
            waiting: Vec::new(),
        };
        if self.registrar.is_none() {
            self.register();
        }
        self.mind_silence(now);
        let effects = self.replica.effects_mut();
        effects.let_in = Some(id);
        effects.standby = left.or(effects.standby.take());
        effects.facts.push(Fact::LetIn { id });
    }

    /// Whether nothing of the cluster has come here: this member knows nobody, and only who lists
    /// it links to it.
    pub(super) fn is_silent(&self) -> bool {
        !self.is_out() && self.configuration().members.is_empty()
    }

    /// Who is removed before it has heard anything is told by nobody. So it asks after a while to
    /// be let in again: a leader answers the number of a data directory that it lists with the
    /// same id.
    pub(super) fn mind_silence(&mut self, now: Now) {
        let search = Search {
            attempts_max: 1,
            discovery: None,
            ..self.origin.search.clone()
        };
        let from_us = self.after(now, SILENT_TIMEOUTS);
        let (calls, seed) = (self.next_calls(), self.origin.seed);
        let me = self.introduction();
        self.finder = Some(Finder::new(me, search, Goal::Join, from_us, calls, seed));
    }

    /// The leader has brought something: there is nothing more to ask.
    pub(super) fn end_silence(&mut self) {
        if self.finder.as_ref().is_some_and(Finder::joins) && !self.is_silent() {
            self.finder = None;
        }
    }

    /// What a member that has heard nothing is told about its place.
    pub(super) fn on_silence(&mut self, now: Now, found: SearchOutcome) {
        self.finder = None;
        match found {
            SearchOutcome::Admitted(id) if id != self.id() => {
                self.leave(now, JoinFrom::Now, Fact::Removed)
            }
            SearchOutcome::Refused { .. } => self.leave(now, JoinFrom::NextInterval, Fact::Removed),
            SearchOutcome::Admitted(_)
            | SearchOutcome::Failed(_)
            | SearchOutcome::Retrying { .. }
            | SearchOutcome::First
            | SearchOutcome::Unlisted
            | SearchOutcome::Done => self.mind_silence(now),
        }
    }

    /// The replica of a member that holds nothing; the former one's last words are kept.
    fn exchange_replica(&mut self, now: Now, id: PeerId) {
        let origin = &self.origin;
        let nothing = Recovered::nothing(id, origin.incarnation);
        let recovered = Recovered {
            term: origin.term,
            vote: origin.vote,
            ..nothing
        };
        let settings = self.replica.settings().clone();
        let seed = splitmix64(origin.seed.wrapping_add(origin.switches));
        let mut former = std::mem::replace(
            &mut self.replica,
            Replica::new(settings, recovered, seed, now),
        );
        let last = former.effects_mut();
        assert!(
            last.persist.is_empty() && last.snapshot.is_empty(),
            "a life's records go with it"
        );
        last.move_to(self.replica.effects_mut());
        self.replica.effects_mut().lsn = Lsn(0);
    }

    /// What the standby has to say and has not said.
    pub(super) fn keep_news(&mut self) {
        if let Phase::Standby(standby) = &mut self.phase {
            let effects = self.replica.effects_mut();
            effects.standby = standby
                .take_news(&mut effects.calls, &mut effects.facts)
                .or(effects.standby.take());
        }
    }

    /// Where clients are sent that this machine cannot serve.
    pub(super) fn elsewhere(&self) -> Option<Outcome> {
        match &self.phase {
            Phase::Standby(standby) => standby.leader().map(|leader| Outcome::Redirect {
                client_url: leader.client_url.clone(),
                peer_url: leader.peer_url.clone(),
            }),
            Phase::Out { leader } => leader.clone(),
            Phase::Finding | Phase::Starting { .. } | Phase::Serving | Phase::Stopping { .. } => {
                None
            }
        }
    }

    /// Whether it is a standby, and then where it sends clients (a client URL), if it knows.
    pub fn standby(&self) -> Option<Option<&str>> {
        match &self.phase {
            Phase::Standby(standby) => Some(standby.leader().map(|l| &*l.client_url)),
            Phase::Finding
            | Phase::Starting { .. }
            | Phase::Serving
            | Phase::Stopping { .. }
            | Phase::Out { .. } => None,
        }
    }
}
