//! The periodic duties of a member; nearly all of them are the leader's.
//!
//! - *Expiry*: when a node of the key space is due, the leader appends a `Sync` command with the
//!   present time. Every member expires nodes when it applies one.
//! - *Shown times*: while a node has a ttl, the leader appends a `Sync` command if its wall clock
//!   was set, at most once a minute.
//! - *Active size* and *removal delay*: the leader removes a member that is one too many, or was
//!   silent for too long. It removes one at a time, and none whose removal would leave the voters
//!   that it hears without a majority.
//! - *Reports*: missed and late heartbeats, and the lack of a leader, with growing pauses.
//!
//! All duties wait on one timer wheel. A peer is silent if this leader has not heard it, whatever
//! other members report. Start with
//! [`Caretaker::look_after`].
use crate::core::command::Command;
use crate::core::peers::Episode;
use crate::core::raft::{HeartbeatReport, Index, PeerId, RaftRole, Term};
use crate::core::random::splitmix64;
use crate::core::replica::Replica;
use crate::core::seam::Fact;
use crate::core::timer::{Now, TimerHandle, TimerWheel};
use std::collections::BTreeMap;

/// The shortest time between two `Sync` commands, in microseconds. It bounds what many short ttls
/// cost. While the last `Sync` has left due nodes over, the next one follows at once.
const SYNC_US_MIN: u64 = 500_000;
/// The timer of the next expiry follows the key space. It is set again only if it is off by more
/// than this, in microseconds: each set costs a little.
const EXPIRY_DRIFT_US_MAX: u64 = 1_000;
/// While a node has a ttl, the leader compares its wall clock with the shown time this often, in
/// microseconds.
const SHOWN_US: u64 = 60_000_000;
/// The time between two removals for the active size, and from a refused removal to the next try,
/// in microseconds.
const REMOVE_US: u64 = 1_000_000;
/// A leader with peers has a turn at each heartbeat. After a longer gap between two turns (in
/// microseconds; or an election timeout, if that is longer) this process stood still. It could not
/// hear its peers meanwhile, so their silence does not count.
const GAP_US_MAX: u64 = 1_000_000;
/// The first pause between two reports about a silent peer, in seconds. It doubles up to
/// [`BACKOFF_S_MAX`].
const BACKOFF_S_MIN: u64 = 2;
/// The longest pause between two reports about a silent peer, in seconds.
const BACKOFF_S_MAX: u64 = 15;
/// The pauses start over after this time without a missed heartbeat, in microseconds.
const QUIET_US: u64 = 30_000_000;
/// How many election timeouts without a leader pass before that is reported.
const LEADERLESS_TIMEOUTS: u64 = 10;

/// The purpose of a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Duty {
    /// A node may be due.
    Expire,
    /// Times may be shown wrongly: the wall clock was set.
    Shown,
    /// The cluster may have more members than its active size.
    Size,
    /// This peer may have been silent for the removal delay.
    Silence(PeerId),
    /// Missed heartbeats of this peer may be reported again.
    Backoff(PeerId),
    /// No leader was known for long.
    Leaderless,
}

/// The timers of another member, on the leader.
struct PeerTimers {
    /// [`Duty::Silence`]; always armed.
    silence: TimerHandle,
    /// [`Duty::Backoff`]; while it is armed, missed heartbeats are not reported.
    backoff: Option<TimerHandle>,
    /// The length of the last pause, in seconds; 0 before the first report of an episode.
    backoff_s: u64,
    /// When the peer has missed a heartbeat last, in microseconds of the monotonic clock.
    missed_us: Option<u64>,
}

/// The timer of the next expiry.
struct ExpiryTimer {
    /// When it fires, in microseconds of the monotonic clock.
    due_us: u64,
    handle: TimerHandle,
}

/// The timers and the state of all duties.
#[derive(Default)]
pub(super) struct Caretaker {
    wheel: TimerWheel<Duty>,
    /// The last number that was drawn, to choose among equals.
    random: u64,
    /// The term that this machine leads, if it leads. The timers below belong to it.
    term: Option<Term>,
    /// When `look_after` ran last, in microseconds of the monotonic clock.
    looked_us: u64,
    /// Silence counts from here at the earliest: the beginning of this leadership, or of the time
    /// after a gap. In microseconds of the monotonic clock.
    silence_from_us: u64,
    /// The removal delay that the timers of the peers were set with, in microseconds. `None`: they
    /// are to be set again.
    delay_us: Option<u64>,
    /// The other members, while this machine leads.
    peers: BTreeMap<PeerId, PeerTimers>,
    /// [`Duty::Size`]; armed while there are too many members.
    size: Option<TimerHandle>,
    /// Reports of late heartbeats.
    late: Episode,
    /// [`Duty::Leaderless`]; `Some`, armed or fired, while no leader is known.
    leaderless: Option<TimerHandle>,
    /// [`Duty::Expire`]; armed on a leader if a node has a ttl and no `Sync` is under way.
    expiry: Option<ExpiryTimer>,
    /// [`Duty::Shown`]; armed on a leader while a node has a ttl.
    shown: Option<TimerHandle>,
    /// The `Sync` command that this leader has appended and not applied yet.
    open_sync: Option<Index>,
    /// The time of the last `Sync`, in nanoseconds of the cluster clock. A node that is due at it
    /// was left over. 0: none was appended.
    last_sync_ns: u64,
    /// The time of the next `Sync` at the earliest, in microseconds of the monotonic clock.
    next_sync_us: u64,
}

impl Caretaker {
    /// No duties. `seed` decides which member is removed among equals.
    pub(super) fn new(seed: u64) -> Caretaker {
        Caretaker {
            random: seed,
            ..Caretaker::default()
        }
    }

    /// Carries out what is due. To be called each turn of a member.
    pub(super) fn look_after(&mut self, now: Now, replica: &mut Replica) {
        self.follow_role(now, replica);
        self.report_heartbeats(now, replica);
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

    /// When `look_after` has something to do, in microseconds of the monotonic clock.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.wheel.next_deadline()
    }

    /// How many timers wait.
    pub(super) fn timers(&self) -> usize {
        self.wheel.len()
    }

    /// Ends all duties: this machine does not lead any more, or its raft has stopped.
    pub(super) fn cancel_all(&mut self) {
        self.wheel.cancel_all();
        self.peers.clear();
        self.size = None;
        self.leaderless = None;
        self.expiry = None;
        self.shown = None;
        self.term = None;
        self.open_sync = None;
    }

    /// Resets all duties when a leadership begins or ends: contacts and `Sync` commands of an
    /// earlier one do not count. After a gap between two turns, silence counts from now on.
    fn follow_role(&mut self, now: Now, replica: &Replica) {
        let raft = replica.raft();
        let term = (raft.role() == RaftRole::Leader).then_some(raft.term());
        let gap_us = now.mono_us.saturating_sub(self.looked_us);
        self.looked_us = now.mono_us;
        if term != self.term {
            self.cancel_all();
            self.term = term;
            self.silence_from_us = now.mono_us;
            return;
        }
        let gap_us_max = GAP_US_MAX.max(replica.settings().election_ms * 1000);
        if term.is_some() && gap_us > gap_us_max {
            self.silence_from_us = now.mono_us;
            self.delay_us = None;
            self.cancel_size();
        }
    }

    /// Arms and cancels timers to match the present state.
    fn arm(&mut self, now: Now, replica: &Replica) {
        self.open_sync.take_if(|index| replica.applied() >= *index);
        self.arm_expiry(now, replica);
        self.arm_shown(now, replica);
        self.arm_leaderless(now, replica);
        if self.term.is_none() {
            return;
        }
        let raft = replica.raft();
        let members = &raft.configuration().members;
        let delay_us = replica.config().remove_delay_ms * 1000;
        let ids = || members.iter().map(|m| m.id).filter(|id| *id != raft.id());
        if self.delay_us != Some(delay_us) || !ids().eq(self.peers.keys().copied()) {
            self.arm_peers(ids(), delay_us, replica);
        }
        if members.len() <= replica.config().active_size as usize {
            self.cancel_size();
        } else if self.size.is_none() {
            self.size = Some(self.wheel.schedule(now.mono_us + REMOVE_US, Duty::Size));
        }
    }

    fn cancel_size(&mut self) {
        if let Some(size) = self.size.take() {
            self.wheel.cancel(size);
        }
    }

    fn on_due(&mut self, now: Now, duty: Duty, replica: &mut Replica) {
        match duty {
            Duty::Expire => {
                self.expiry = None;
                self.maybe_sync(now, replica);
            }
            Duty::Shown => {
                self.shown = None;
                self.maybe_correct_shown(now, replica);
            }
            Duty::Size => {
                self.size = None;
                self.maybe_shrink(now, replica);
            }
            Duty::Silence(id) => self.on_silence(now, id, replica),
            Duty::Backoff(id) => {
                if let Some(timers) = self.peers.get_mut(&id) {
                    timers.backoff = None;
                }
            }
            Duty::Leaderless => {
                let voters = replica.raft().configuration().voters().count();
                report(replica, Fact::Leaderless { voters });
            }
        }
    }
}

fn report(replica: &mut Replica, fact: Fact) {
    replica.outputs_mut().facts.push(fact);
}

/// Expiry.
impl Caretaker {
    /// Appends a `Sync` command if a node is due.
    fn maybe_sync(&mut self, now: Now, replica: &mut Replica) -> bool {
        let due_us = self.expiry_due_us(now, replica);
        if due_us.is_none_or(|due_us| due_us > now.mono_us) {
            return false;
        }
        self.propose_sync(now, replica)
    }

    /// Appends a `Sync` command with the present time. Returns false if raft refuses it.
    fn propose_sync(&mut self, now: Now, replica: &mut Replica) -> bool {
        let stamp = replica.stamp(now);
        self.open_sync = replica.propose_own(now, &Command::Sync { stamp });
        // If raft refuses the command (the leader hands over), the due nodes must not count as left
        // over: the next try would follow at once.
        let has_synced = self.open_sync.is_some();
        self.last_sync_ns = if has_synced { stamp.cluster_ns } else { 0 };
        self.next_sync_us = now.mono_us + SYNC_US_MIN;
        has_synced
    }

    /// When the next node is due, in microseconds of the monotonic clock. `None`: no node has a
    /// ttl, or no `Sync` can be appended now.
    fn expiry_due_us(&self, now: Now, replica: &Replica) -> Option<u64> {
        if self.open_sync.is_some() || !replica.raft().has_duty_room() || !replica.leads() {
            return None;
        }
        // Due again as soon as the hand-over fails: a leader with a full disk soon starts another.
        if replica.raft().is_handing_over() {
            return None;
        }
        let next_ns = replica.store().next_expiry_ns()?;
        let wait_us = next_ns
            .saturating_sub(replica.cluster_ns(now))
            .div_ceil(1000);
        let due_us = now.mono_us.saturating_add(wait_us);
        let is_left_over = next_ns <= self.last_sync_ns;
        if is_left_over {
            Some(due_us)
        } else {
            Some(due_us.max(self.next_sync_us))
        }
    }

    /// Appends a `Sync` command if times are shown wrongly: expirations that were shown before the
    /// wall clock was set are of no use to a client.
    fn maybe_correct_shown(&mut self, now: Now, replica: &mut Replica) -> bool {
        let may_sync = self.open_sync.is_none() && replica.raft().has_duty_room();
        let is_off = replica.store().time().is_off(replica.stamp(now));
        may_sync && is_off && replica.leads() && self.propose_sync(now, replica)
    }

    fn arm_shown(&mut self, now: Now, replica: &Replica) {
        let has_ttl = replica.store().next_expiry_ns().is_some();
        let is_wanted = self.term.is_some() && has_ttl;
        match self.shown {
            Some(shown) if !is_wanted => {
                self.wheel.cancel(shown);
                self.shown = None;
            }
            None if is_wanted => {
                self.shown = Some(self.wheel.schedule(now.mono_us + SHOWN_US, Duty::Shown));
            }
            Some(_) | None => {}
        }
    }

    fn arm_expiry(&mut self, now: Now, replica: &Replica) {
        let due_us = self.expiry_due_us(now, replica);
        if let Some(timer) = &self.expiry {
            let drift_us = due_us.map(|due_us| due_us.abs_diff(timer.due_us));
            if drift_us.is_some_and(|drift_us| drift_us <= EXPIRY_DRIFT_US_MAX) {
                return;
            }
            self.wheel.cancel(timer.handle);
        }
        self.expiry = due_us.map(|due_us| ExpiryTimer {
            due_us,
            handle: self.wheel.schedule(due_us, Duty::Expire),
        });
    }
}

/// Removals.
impl Caretaker {
    /// Arms the silence timers of these peers, and keeps the pauses of those that are known.
    fn arm_peers(&mut self, ids: impl Iterator<Item = PeerId>, delay_us: u64, replica: &Replica) {
        self.delay_us = Some(delay_us);
        let mut former = std::mem::take(&mut self.peers);
        for id in ids {
            let due_us = self.silence_due_us(id, replica);
            let mut timers = PeerTimers {
                silence: self.wheel.schedule(due_us, Duty::Silence(id)),
                backoff: None,
                backoff_s: 0,
                missed_us: None,
            };
            if let Some(known) = former.remove(&id) {
                self.wheel.cancel(known.silence);
                timers.backoff = known.backoff;
                timers.backoff_s = known.backoff_s;
                timers.missed_us = known.missed_us;
            }
            self.peers.insert(id, timers);
        }
        for timers in former.into_values() {
            self.wheel.cancel(timers.silence);
            if let Some(backoff) = timers.backoff {
                self.wheel.cancel(backoff);
            }
        }
    }

    /// When a peer will have been silent for the removal delay if it is not heard again, in
    /// microseconds of the monotonic clock.
    fn silence_due_us(&self, id: PeerId, replica: &Replica) -> u64 {
        heard_us(id, replica).max(self.silence_from_us) + self.delay_us.unwrap_or(0)
    }

    /// The silence timer of a peer has fired. The peer may have been heard since it was armed.
    fn on_silence(&mut self, now: Now, id: PeerId, replica: &mut Replica) {
        let mut next_us = self.silence_due_us(id, replica);
        if next_us <= now.mono_us {
            self.maybe_remove(now, id, replica, false);
            // The removal may have been refused, or its entry may get lost.
            next_us = now.mono_us + REMOVE_US;
        }
        if let Some(timers) = self.peers.get_mut(&id) {
            timers.silence = self.wheel.schedule(next_us, Duty::Silence(id));
        }
    }

    /// Removes a member if there are more than the active size.
    fn maybe_shrink(&mut self, now: Now, replica: &mut Replica) -> bool {
        let members = replica.raft().configuration().members.len();
        if members <= replica.config().active_size as usize {
            return false;
        }
        match self.choose_removal(now, replica) {
            Some(id) => self.maybe_remove(now, id, replica, true),
            None => false,
        }
    }

    /// The member that is removed if there are too many: a learner before a voter, a silent one
    /// before one that answers, of silent ones the one that was heard least recently, and of
    /// answering ones a random one. Never this leader itself.
    fn choose_removal(&mut self, now: Now, replica: &Replica) -> Option<PeerId> {
        let raft = replica.raft();
        let mut least = None;
        for member in &raft.configuration().members {
            if member.id == raft.id() {
                continue;
            }
            let answers = raft.is_answering(now, member.id);
            let order = if answers {
                self.draw()
            } else {
                heard_us(member.id, replica)
            };
            let rank = (member.voter, answers, order, member.id);
            if least.is_none_or(|least| rank < least) {
                least = Some(rank);
            }
        }
        least.map(|(_, _, _, id)| id)
    }

    /// Removes a member, unless fewer than a majority of the remaining voters are heard.
    fn maybe_remove(&self, now: Now, id: PeerId, replica: &mut Replica, too_many: bool) -> bool {
        let raft = replica.raft();
        let is_safe = raft.majority_heard(now) && raft.can_remove(now, id);
        if !is_safe {
            return false;
        }
        if !replica.leads() || !replica.raft().has_duty_room() {
            return false;
        }
        let silent_from_us = heard_us(id, replica).max(self.silence_from_us);
        let silent_ms = now.mono_us.saturating_sub(silent_from_us) / 1000;
        let peer = replica.name_of(id);
        let command = Command::Remove {
            id: id.0,
            for_good: false,
        };
        if replica.propose_own(now, &command).is_none() {
            return false;
        }
        report(
            replica,
            Fact::RemovalProposed {
                peer,
                silent_ms,
                too_many,
            },
        );
        true
    }

    fn draw(&mut self) -> u64 {
        self.random = splitmix64(self.random);
        self.random
    }
}

/// When raft has heard this peer last, in microseconds of the monotonic clock; 0 before.
fn heard_us(id: PeerId, replica: &Replica) -> u64 {
    replica.raft().peer(id).map_or(0, |peer| peer.heard_us())
}

/// Reports.
impl Caretaker {
    /// Reports missed heartbeats: the first at once, later ones after longer and longer pauses, which
    /// start over only after lasting recovery. Peers whose pauses are equally long share a line.
    fn report_heartbeats(&mut self, now: Now, replica: &mut Replica) {
        let mut missed: BTreeMap<u64, Vec<(Box<str>, u64)>> = BTreeMap::new();
        for heartbeat in replica.take_heartbeat_reports() {
            match heartbeat {
                HeartbeatReport::Missed { id, count } => {
                    if let Some(backoff_s) = self.on_missed(now, id) {
                        let peer = (replica.name_of(id), count);
                        missed.entry(backoff_s).or_default().push(peer);
                    }
                }
                HeartbeatReport::Late { id, after_us } => {
                    self.maybe_report_late(now, id, after_us, replica);
                }
            }
        }
        for (backoff_s, peers) in missed {
            report(replica, Fact::HeartbeatsMissed { peers, backoff_s });
        }
    }

    /// A peer has missed a heartbeat. Returns the pause that follows the report in seconds; `None`
    /// during a pause.
    fn on_missed(&mut self, now: Now, id: PeerId) -> Option<u64> {
        let timers = self.peers.get_mut(&id)?;
        let last_us = timers.missed_us.replace(now.mono_us);
        let is_new = last_us.is_none_or(|last_us| now.mono_us >= last_us + QUIET_US);
        if is_new {
            if let Some(backoff) = timers.backoff.take() {
                self.wheel.cancel(backoff);
            }
            timers.backoff_s = 0;
        }
        if timers.backoff.is_some() {
            return None;
        }
        timers.backoff_s = (timers.backoff_s * 2).clamp(BACKOFF_S_MIN, BACKOFF_S_MAX);
        let until_us = now.mono_us + timers.backoff_s * 1_000_000;
        timers.backoff = Some(self.wheel.schedule(until_us, Duty::Backoff(id)));
        Some(timers.backoff_s)
    }

    fn maybe_report_late(
        &mut self,
        now: Now,
        id: PeerId,
        after_us: u64,
        replica: &mut Replica,
    ) -> bool {
        if self.late.is_due(now.mono_us).is_none() {
            return false;
        }
        let peer = replica.name_of(id);
        let after_ms = after_us / 1000;
        report(replica, Fact::HeartbeatLate { peer, after_ms });
        true
    }

    /// Each time without a leader is reported once: meanwhile nothing can be written and no member
    /// removed.
    fn arm_leaderless(&mut self, now: Now, replica: &Replica) {
        let is_led = replica.raft().leader().is_some();
        match self.leaderless {
            Some(handle) if is_led => {
                self.wheel.cancel(handle);
                self.leaderless = None;
            }
            None if !is_led => {
                let wait_us = LEADERLESS_TIMEOUTS * replica.settings().election_ms * 1000;
                let due_us = now.mono_us + wait_us;
                self.leaderless = Some(self.wheel.schedule(due_us, Duty::Leaderless));
            }
            Some(_) | None => {}
        }
    }
}
