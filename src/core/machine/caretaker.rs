//! The duties that a peer has of itself, when it is time; nearly all of them are the leader's.
//!
//! Expiry puts the present time into the log when a node is due. Active size and removal delay let
//! go of peers that are too many or were silent for too long, one at a time, and never so that the
//! voters that are heard fall below a majority. Heartbeats that miss are told, less and less often.
//! All of it waits on one timer wheel, which is empty when the machine is no peer. It must not look
//! at a clock or at another machine's claims: silence is what this leader did not hear itself.
//! Start with `look_after`.
use super::fault::Fault;
use crate::core::command::Command;
use crate::core::raft::{HeartbeatReport, Index, PeerId, RaftRole, Term};
use crate::core::random::splitmix64;
use crate::core::replica::Replica;
use crate::core::seam::Fact;
use crate::core::timer::{Now, TimerHandle, TimerWheel};
use std::collections::BTreeMap;

/// Between two `sync` commands, unless the first left something over.
const SYNC_US_MIN: u64 = 500_000;
/// A deadline that follows the wall clock is set anew only when it is off by more than this.
const SYNC_US_OFF: u64 = 1_000;
/// Between two removals for the sake of the active size, and before a removal that was refused is
/// tried again.
const REMOVE_US: u64 = 1_000_000;
/// A leader with peers has a turn at least with each heartbeat: where one comes later than this,
/// this process stood still, and nothing can be said about whom it did not hear meanwhile.
const GAP_US_MIN: u64 = 1_000_000;
/// The first pause between two lines about a silent peer, and the longest.
const BACKOFF_S_MIN: u64 = 2;
const BACKOFF_S_MAX: u64 = 15;
/// Between two lines about heartbeats that came late.
const LATE_US: u64 = 5_000_000;
/// After how many election timeouts without a leader that is told.
const LEADERLESS_TIMEOUTS: u64 = 10;

/// What a timer stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Duty {
    /// A node may be due.
    Expire,
    /// There are too many peers.
    Size,
    /// A peer may have been silent for the removal delay.
    Silence(PeerId),
    /// Missed heartbeats of a peer may be told again.
    Backoff(PeerId),
    /// Late heartbeats may be told again.
    Late,
    /// There was no leader for long.
    Leaderless,
}

/// Another member, as its leader watches it.
struct Watched {
    silence: TimerHandle,
    /// While it waits nothing is told.
    backoff: Option<TimerHandle>,
    backoff_s: u64,
}

/// What the duties remember.
#[derive(Default)]
pub struct Caretaker {
    wheel: TimerWheel<Duty>,
    random: u64,
    /// The leadership of this machine whose duties are armed.
    term: Option<Term>,
    looked_us: u64,
    /// Silence counts from here at the earliest.
    since_us: u64,
    /// The removal delay that the timers were set with.
    delay_us: u64,
    others: BTreeMap<PeerId, Watched>,
    size: Option<TimerHandle>,
    late: Option<TimerHandle>,
    /// Set, and then fired, while there is no leader.
    leaderless: Option<TimerHandle>,
    expire: Option<(u64, TimerHandle)>,
    /// The `sync` that is not applied yet.
    sync: Option<Index>,
    /// The time that the last one carried.
    sync_ns: u64,
    /// Not before this time the next one.
    sync_due_us: u64,
    fault: Option<Fault>,
}

impl Caretaker {
    /// `seed` decides who has to go where nothing else does.
    pub fn new(seed: u64) -> Caretaker {
        Caretaker {
            random: seed,
            ..Caretaker::default()
        }
    }

    /// Does what is due.
    pub fn look_after(&mut self, now: Now, replica: &mut Replica) {
        self.look_at_role(now, replica);
        self.tell_beats(now, replica);
        self.arm(now, replica);
        let mut due = Vec::new();
        self.wheel.advance(now.mono_us, &mut due);
        for duty in &due {
            self.on_due(now, *duty, replica);
        }
        if !due.is_empty() {
            self.arm(now, replica);
        }
    }

    /// When `look_after` has something to do, in `mono_us`.
    pub fn next_deadline(&self) -> Option<u64> {
        self.wheel.next_deadline()
    }

    /// How many timers wait.
    pub fn timers(&self) -> usize {
        self.wheel.len()
    }

    /// Forgets all duties: this machine is a peer no more, or leads no more.
    pub fn cancel_all(&mut self) {
        self.wheel.cancel_all();
        self.others.clear();
        (self.size, self.late, self.leaderless, self.expire) = (None, None, None, None);
        (self.term, self.sync) = (None, None);
    }

    /// A new leadership begins anew: what another one saw or proposed means nothing.
    fn look_at_role(&mut self, now: Now, replica: &Replica) {
        let raft = replica.raft();
        let term = (raft.role() == RaftRole::Leader).then_some(raft.term());
        let gap_us = now.mono_us.saturating_sub(self.looked_us);
        self.looked_us = now.mono_us;
        if term != self.term {
            self.cancel_all();
            self.term = term;
            self.since_us = now.mono_us;
        } else if term.is_some() && gap_us > GAP_US_MIN.max(replica.settings().election_ms * 1000) {
            self.since_us = now.mono_us;
            // All are set anew.
            self.delay_us = 0;
            self.cancel_size();
        }
    }

    /// Sets and cancels timers as things are now.
    fn arm(&mut self, now: Now, replica: &Replica) {
        if self.sync.is_some_and(|index| replica.applied() >= index) {
            self.sync = None;
        }
        self.arm_expiry(now, replica);
        self.arm_leaderless(now, replica);
        if self.term.is_none() {
            return;
        }
        let raft = replica.raft();
        let members = &raft.configuration().members;
        let delay_us = replica.config().remove_delay_ms * 1000;
        let others = || members.iter().map(|m| m.id).filter(|id| *id != raft.id());
        if delay_us != self.delay_us || !others().eq(self.others.keys().copied()) {
            self.delay_us = delay_us;
            self.arm_others(others(), replica);
        }
        if members.len() <= replica.config().active_size as usize {
            self.cancel_size();
        } else if self.size.is_none() {
            let wait_us = if self.has(Fault::SizeInHaste) {
                0
            } else {
                REMOVE_US
            };
            self.size = Some(self.wheel.schedule(now.mono_us + wait_us, Duty::Size));
        }
    }

    fn cancel_size(&mut self) {
        if let Some(size) = self.size.take() {
            self.wheel.cancel(size);
        }
    }

    fn arm_others(&mut self, ids: impl Iterator<Item = PeerId>, replica: &Replica) {
        let mut former = std::mem::take(&mut self.others);
        for id in ids {
            let silence = self
                .wheel
                .schedule(self.silence_due(id, replica), Duty::Silence(id));
            let mut watched = Watched {
                silence,
                backoff: None,
                backoff_s: 0,
            };
            if let Some(known) = former.remove(&id) {
                self.wheel.cancel(known.silence);
                (watched.backoff, watched.backoff_s) = (known.backoff, known.backoff_s);
            }
            self.others.insert(id, watched);
        }
        for (_, gone) in former {
            self.wheel.cancel(gone.silence);
            gone.backoff.map(|backoff| self.wheel.cancel(backoff));
        }
    }

    /// When a peer that says nothing from now on has been silent for the removal delay.
    fn silence_due(&self, id: PeerId, replica: &Replica) -> u64 {
        let heard = replica
            .raft()
            .peer(id)
            .filter(|_| !self.has(Fault::ContactIgnored));
        heard.map_or(0, |p| p.heard_us()).max(self.since_us) + self.delay_us
    }

    fn on_due(&mut self, now: Now, duty: Duty, replica: &mut Replica) {
        match duty {
            Duty::Expire => {
                self.expire = None;
                self.maybe_expire(now, replica);
            }
            Duty::Size => {
                self.size = None;
                self.maybe_shrink(now, replica);
            }
            Duty::Silence(id) => self.on_silence(now, id, replica),
            Duty::Backoff(id) => {
                if let Some(watched) = self.others.get_mut(&id) {
                    watched.backoff = None;
                }
            }
            Duty::Late => self.late = None,
            Duty::Leaderless => {
                let voters = replica.raft().configuration().voters().count();
                replica
                    .outputs_mut()
                    .facts
                    .push(Fact::Leaderless { voters });
            }
        }
    }
}

// -- expiry
impl Caretaker {
    fn maybe_expire(&mut self, now: Now, replica: &mut Replica) {
        if self.expiry_due(now, replica) > now.mono_us {
            return;
        }
        let now_ns = now.wall_ns;
        self.sync = replica.propose_own(now, &Command::Sync { now_ns });
        // While nothing can be proposed (it hands over), what is left over waits as well: it would
        // be due again at once.
        self.sync_ns = if self.sync.is_some() { now_ns } else { 0 };
        self.sync_due_us = now.mono_us + SYNC_US_MIN;
    }

    /// When the next node has to go, as far as `now` tells the wall clock; at most twice a second,
    /// unless what the last `sync` should have dropped was too much for one.
    fn expiry_due(&self, now: Now, replica: &Replica) -> u64 {
        if self.sync.is_some() || replica.is_disk_low() || !replica.leads() {
            return u64::MAX;
        }
        let Some(next_ns) = replica.store().next_expiry_ns() else {
            return u64::MAX;
        };
        let wait_us = next_ns.saturating_sub(now.wall_ns).div_ceil(1000);
        let due_us = now.mono_us.saturating_add(wait_us);
        if next_ns <= self.sync_ns {
            due_us
        } else {
            due_us.max(self.sync_due_us)
        }
    }

    fn arm_expiry(&mut self, now: Now, replica: &Replica) {
        let due_us = self.expiry_due(now, replica);
        match self.expire {
            Some((set_us, _)) if set_us.abs_diff(due_us) <= SYNC_US_OFF => return,
            Some((_, handle)) => self.wheel.cancel(handle),
            None => None,
        };
        let set = (due_us != u64::MAX).then(|| self.wheel.schedule(due_us, Duty::Expire));
        self.expire = set.map(|handle| (due_us, handle));
    }
}

// -- letting go
impl Caretaker {
    /// There are more peers than there should be: one has to go.
    fn maybe_shrink(&mut self, now: Now, replica: &mut Replica) {
        let members = &replica.raft().configuration().members;
        let over = members.len() > replica.config().active_size as usize;
        if over && let Some(id) = self.choose(now, replica) {
            self.maybe_remove(now, id, replica, true);
        }
    }

    /// A learner first, then who has been silent for longest, then whom it hits.
    fn choose(&mut self, now: Now, replica: &Replica) -> Option<PeerId> {
        let raft = replica.raft();
        let all = self.has(Fault::LeaderGoes);
        let others = raft
            .configuration()
            .members
            .iter()
            .filter(|m| m.id != raft.id() || all);
        let ranked = others.map(|m| {
            let answers = raft.is_answering(now, m.id) || self.has(Fault::AnyoneGoes);
            let heard_us = raft.peer(m.id).map_or(0, |p| p.heard_us());
            let order = if answers { self.draw() } else { heard_us };
            (
                (m.voter != self.has(Fault::VotersFirst), answers, order),
                m.id,
            )
        });
        ranked.min().map(|(_, id)| id)
    }

    /// A peer's timer has fired: it may have been heard since that was set.
    fn on_silence(&mut self, now: Now, id: PeerId, replica: &mut Replica) {
        let mut next_us = self.silence_due(id, replica);
        if next_us <= now.mono_us {
            self.maybe_remove(now, id, replica, false);
            // In case this was refused, or its entry gets lost.
            next_us = now.mono_us + REMOVE_US;
        }
        if let Some(watched) = self.others.get_mut(&id) {
            watched.silence = self.wheel.schedule(next_us, Duty::Silence(id));
        }
    }

    /// Removes a peer unless that would cost the majority that is heard.
    fn maybe_remove(&self, now: Now, id: PeerId, replica: &mut Replica, too_many: bool) {
        let raft = replica.raft();
        let safe =
            (raft.majority_heard(now) && raft.can_remove(now, id)) || self.has(Fault::AnyoneGoes);
        let may = replica.leads() && !replica.is_disk_low() && safe;
        let heard_us = raft.peer(id).map_or(0, |p| p.heard_us());
        let silent_ms = now.mono_us.saturating_sub(heard_us.max(self.since_us)) / 1000;
        let peer = replica.name_of(id);
        if may
            && replica
                .propose_own(now, &Command::Remove { id: id.0 })
                .is_some()
        {
            replica.outputs_mut().facts.push(Fact::LetGo {
                peer,
                silent_ms,
                too_many,
            });
        }
    }

    /// Plants a bug.
    #[cfg(feature = "faults")]
    pub fn plant(&mut self, fault: Option<Fault>) {
        self.fault = fault;
    }

    fn has(&self, fault: Fault) -> bool {
        cfg!(feature = "faults") && self.fault == Some(fault)
    }

    /// One number of a splitmix64 sequence (Steele, Lea, Flood, 2014).
    fn draw(&mut self) -> u64 {
        self.random = splitmix64(self.random);
        self.random
    }
}

// -- what is told
impl Caretaker {
    /// Missed heartbeats: the first at once, then after longer and longer pauses; peers that are
    /// due together share a line.
    fn tell_beats(&mut self, now: Now, replica: &mut Replica) {
        let mut missed: BTreeMap<u64, Vec<(Box<str>, u64)>> = BTreeMap::new();
        for beat in replica.take_heartbeat_reports() {
            match beat {
                HeartbeatReport::Missed { id, count } => {
                    if let Some(backoff_s) = self.on_missed(now, id, count) {
                        let peer = (replica.name_of(id), count);
                        missed.entry(backoff_s).or_default().push(peer);
                    }
                }
                HeartbeatReport::Late { id, after_us } if self.late.is_none() => {
                    self.late = Some(self.wheel.schedule(now.mono_us + LATE_US, Duty::Late));
                    let (peer, after_ms) = (replica.name_of(id), after_us / 1000);
                    replica
                        .outputs_mut()
                        .facts
                        .push(Fact::HeartbeatLate { peer, after_ms });
                }
                HeartbeatReport::Late { .. } => {}
            }
        }
        let facts = missed
            .into_iter()
            .map(|(backoff_s, peers)| Fact::HeartbeatsMissed { peers, backoff_s });
        replica.outputs_mut().facts.extend(facts);
    }

    /// The pause after the line that is to be told now; `None`: this is in a pause.
    fn on_missed(&mut self, now: Now, id: PeerId, count: u64) -> Option<u64> {
        let watched = self.others.get_mut(&id)?;
        if count == 1 {
            // It was heard meanwhile.
            watched
                .backoff
                .take()
                .map(|backoff| self.wheel.cancel(backoff));
            watched.backoff_s = 0;
        }
        if watched.backoff.is_some() {
            return None;
        }
        watched.backoff_s = (watched.backoff_s * 2).clamp(BACKOFF_S_MIN, BACKOFF_S_MAX);
        let until_us = now.mono_us + watched.backoff_s * 1_000_000;
        watched.backoff = Some(self.wheel.schedule(until_us, Duty::Backoff(id)));
        Some(watched.backoff_s)
    }

    /// Told once each time: without a leader nothing can be written, and nobody removed.
    fn arm_leaderless(&mut self, now: Now, replica: &Replica) {
        let led = replica.raft().leader().is_some();
        match self.leaderless {
            Some(handle) if led => {
                self.wheel.cancel(handle);
                self.leaderless = None;
            }
            None if !led => {
                let wait_us = LEADERLESS_TIMEOUTS * replica.settings().election_ms * 1000;
                self.leaderless =
                    Some(self.wheel.schedule(now.mono_us + wait_us, Duty::Leaderless));
            }
            Some(_) | None => {}
        }
    }
}
