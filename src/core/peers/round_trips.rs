//! How long the way to each peer and back takes.
//!
//! Each machine pings each peer over the link that carries its messages. The figure of a peer is
//! the second slowest round trip of the last 20 s: a single slow one predicts nothing. Raft lengthens
//! its timeouts by it (`raft::round_trips`).
//!
//! A round trip during which one of the two processes stood still says nothing about the link, so it
//! is dropped. A process finds that out by its clock: a time at which it was to do something has
//! passed long ago. While it waits for a pong, there is such a time every 50 ms. The process that
//! answers says so in the pong.
//!
//! A ping that has no pong after `LOST_US` is given up, so that one lost frame does not end the
//! measuring for as long as the link lives. Pongs carry no number: the next one may answer either
//! ping, so it counts for nothing (Karn's rule, RFC 6298 section 3).
//!
//! Start with [`Peers::ping_due`] and [`Peers::on_pong`].
use super::{LinkId, LinkOrder, LinkPhase, PeerLink, Peers, ProcessChange};
use crate::core::raft::PeerId;
use crate::core::timer::Now;

/// Round trips count for this many seconds.
const WINDOW_S: u64 = 20;
/// The pause between a pong and the next ping, in microseconds, if a message to the peer leaves with
/// the ping: they share a packet.
const PAUSE_US: u64 = 2_000_000;
/// The pause without such a message.
const PAUSE_ALONE_US: u64 = 5_000_000;
/// The pause while a recent round trip was slow: then the second slowest one is not left to chance.
const PAUSE_WHEN_SLOW_US: u64 = 200_000;
/// There is no pause until this many round trips are measured over a new link, or after the link has
/// become slower.
const FIRST_PINGS: u8 = 3;
/// A link has become slower when a slow round trip takes this many times the figure.
const SLOWER: u32 = 2;
/// A slow round trip, in microseconds: about as long as a packet of another continent needs, or one
/// that was sent twice.
const SLOW_US: u32 = 25_000;
/// How often the clock is looked at while a pong is awaited, in microseconds; up to `WATCHED_US` …
const WATCH_US: u64 = 50_000;
/// … after the ping. A longer round trip counts no more than this one.
const WATCHED_US: u64 = 1_000_000;
/// When another ping is sent although the last one has no pong, in microseconds after it. Longer
/// than raft waits for any link (`allowance_us`).
const LOST_US: u64 = 5_000_000;
/// A link gets one pong in this time on average, in microseconds. Each costs a write of its own, and
/// a correct peer sends `FIRST_PINGS` pings at once and few later, …
const PONG_US: u64 = 50_000;
/// … so this many pongs may follow each other at once.
const PONGS_AT_ONCE_MAX: u64 = 4;
/// A process that is late by more than this stood still, in microseconds.
const STOOD_STILL_US: u64 = 100_000;

impl PeerLink {
    /// Whether one more ping is answered now. It counts as answered then.
    fn may_pong(&mut self, now_us: u64) -> bool {
        let until_us = self.ponged_us.max(now_us) + PONG_US;
        if until_us > now_us + PONGS_AT_ONCE_MAX * PONG_US {
            return false;
        }
        self.ponged_us = until_us;
        true
    }
}

/// The slowest round trips of one second, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    /// Which second of the monotonic clock it is.
    at_s: u64,
    /// How many round trips ended in it.
    count: u32,
    slowest_us: u32,
    /// At most `slowest_us`; 0 if there was only one.
    second_us: u32,
}

/// The round trips to one peer over the last 20 s.
#[derive(Clone, Debug, Default)]
struct Window {
    /// The second `s` stands at `s % WINDOW_S`.
    seconds: [Second; WINDOW_S as usize],
}

impl Window {
    fn record(&mut self, now_us: u64, took_us: u64) {
        let took_us = u32::try_from(took_us).unwrap_or(u32::MAX);
        let at_s = now_us / 1_000_000;
        let second = &mut self.seconds[(at_s % WINDOW_S) as usize];
        if second.at_s != at_s {
            *second = Second {
                at_s,
                ..Second::default()
            };
        }
        second.count += 1;
        second.second_us = second.second_us.max(took_us.min(second.slowest_us));
        second.slowest_us = second.slowest_us.max(took_us);
    }

    /// The slowest round trip, and the second slowest; the slowest one again if it is the only one.
    fn slowest_two_us(&self, now_us: u64) -> (u32, u32) {
        let at_s = now_us / 1_000_000;
        let mut slowest_us = 0;
        let mut second_us = 0;
        let mut count = 0;
        for second in &self.seconds {
            if second.at_s + WINDOW_S <= at_s {
                continue;
            }
            count += second.count;
            let lower_us = slowest_us.min(second.slowest_us);
            second_us = lower_us.max(second_us).max(second.second_us);
            slowest_us = second.slowest_us.max(slowest_us);
        }
        if count == 1 {
            second_us = slowest_us;
        }
        (slowest_us, second_us)
    }
}

/// The pings to one peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Pings {
    window: Window,
    /// The ping that has no pong yet: its link, and when it was sent in microseconds.
    awaited: Option<(LinkId, u64)>,
    /// A ping over the present link was given up, and no pong has come since.
    is_ambiguous: bool,
    /// When the next ping is due, in microseconds. `None` while a pong is awaited, and without a
    /// link.
    next_us: Option<u64>,
    /// From when on the next ping leaves earlier, with a message to the peer, in microseconds.
    shared_us: u64,
    /// How many of the first pings over the present link are left.
    first_left: u8,
    /// The second slowest round trip at the last pong, in microseconds.
    figure_us: u32,
}

impl Pings {
    /// A link to the peer has opened.
    pub fn on_open(&mut self, now_us: u64) {
        self.first_left = FIRST_PINGS;
        if self.awaited.is_none() {
            self.plan(now_us, now_us);
        }
    }

    /// A link to the peer is closed; `has_link`: there is another one.
    pub fn on_closed(&mut self, link: LinkId, has_link: bool, now_us: u64) {
        if self.awaited.take_if(|(by, _)| *by == link).is_some() {
            self.is_ambiguous = false;
        }
        if self.awaited.is_none() && has_link {
            self.plan(now_us, now_us);
        } else {
            self.next_us = None;
        }
    }

    /// No leader is heard: perhaps because the link has become slower.
    pub fn hasten(&mut self, now_us: u64) {
        if let Some(next_us) = &mut self.next_us {
            *next_us = now_us.min(*next_us);
        }
    }

    /// The second slowest recent round trip, in microseconds; 0 before the first one.
    pub fn figure_us(&self) -> u32 {
        self.figure_us
    }

    /// Whether a ping over `link` has not been answered.
    fn awaits(&self, link: LinkId) -> bool {
        self.awaited.is_some_and(|(awaited, _)| awaited == link)
    }

    /// A pong has arrived over `link`. `counts_from_us`: only a ping that was sent later tells how
    /// long the link takes; `None`: none does. Returns whether the figure is new.
    fn on_pong(&mut self, link: LinkId, counts_from_us: Option<u64>, now_us: u64) -> bool {
        let Some((_, sent_us)) = self.awaited.take_if(|(awaited, _)| *awaited == link) else {
            return false;
        };
        if std::mem::take(&mut self.is_ambiguous) {
            // The pong of the other ping, if there is one, comes before the next ping.
            self.plan(now_us + PAUSE_US, now_us + PAUSE_ALONE_US);
            return false;
        }
        let counts = counts_from_us.is_some_and(|from_us| sent_us >= from_us);
        let took_us = now_us.saturating_sub(sent_us);
        let slower_us = u64::from(SLOW_US.max(self.figure_us.saturating_mul(SLOWER)));
        if counts && took_us > slower_us && self.first_left == 0 {
            // One slow round trip changes no figure: the next one follows at once.
            self.first_left = 2;
        }
        if counts {
            self.window.record(now_us, took_us);
        }
        let (slowest_us, second_us) = self.window.slowest_two_us(now_us);
        self.figure_us = second_us;
        self.first_left = self.first_left.saturating_sub(1);
        let (shared_us, alone_us) = match (self.first_left, slowest_us) {
            (1.., _) => (0, 0),
            (0, SLOW_US..) => (PAUSE_WHEN_SLOW_US, PAUSE_WHEN_SLOW_US),
            (0, _) => (PAUSE_US, PAUSE_ALONE_US),
        };
        self.plan(now_us + shared_us, now_us + alone_us);
        counts
    }

    /// The next ping leaves at `next_us`, or from `shared_us` on with a message to the peer.
    fn plan(&mut self, shared_us: u64, next_us: u64) {
        self.shared_us = shared_us;
        self.next_us = Some(next_us);
    }

    /// A message to the peer leaves: takes the next ping if it may leave with it.
    fn take_shared(&mut self, now_us: u64) -> bool {
        let shared_us = self.shared_us;
        let taken = self.next_us.take_if(|_| shared_us <= now_us);
        taken.is_some()
    }

    /// When something is to be done: the next ping, or a look at the clock. `seen_us`: the time of
    /// the last input of this process.
    pub fn due_us(&self, seen_us: u64) -> Option<u64> {
        match self.awaited {
            Some((_, sent_us)) if seen_us < sent_us + WATCHED_US => Some(seen_us + WATCH_US),
            Some((_, sent_us)) => Some(sent_us + LOST_US),
            None => self.next_us,
        }
    }

    /// Gives up a ping that has had no pong for too long: another one is due.
    fn maybe_give_up(&mut self, now_us: u64) {
        let is_lost = |(_, sent_us): &mut (LinkId, u64)| now_us >= *sent_us + LOST_US;
        if self.awaited.take_if(is_lost).is_some() {
            self.is_ambiguous = true;
            self.plan(now_us, now_us);
        }
    }
}

impl Peers {
    /// Each input begins with it: finds out whether this process stood still before it.
    pub(super) fn note_time(&mut self, now: Now) {
        let due_us = self.due_us.filter(|due_us| *due_us > 0);
        if due_us.is_some_and(|due_us| now.mono_us > due_us + STOOD_STILL_US) {
            self.stood_still_us = Some(now.mono_us);
        }
        self.seen_us = now.mono_us;
    }

    /// Sends the pings that are due.
    pub(super) fn ping_due(&mut self, now: Now) {
        let mut due = Vec::new();
        for (id, peer) in &mut self.peers {
            peer.pings.maybe_give_up(now.mono_us);
            let next_us = &mut peer.pings.next_us;
            if next_us.take_if(|at| *at <= now.mono_us).is_some() {
                due.push(*id);
            }
        }
        for id in due {
            self.ping(now, id);
        }
    }

    /// A message to a peer leaves: a ping that has time leaves with it.
    pub fn on_message_sent(&mut self, now: Now, to: PeerId) {
        if let Some(peer) = self.peers.get_mut(&to)
            && peer.pings.take_shared(now.mono_us)
        {
            self.ping(now, to);
            self.rearm();
        }
    }

    fn ping(&mut self, now: Now, id: PeerId) {
        let route = self.route(id);
        let Some(link_id) = route else {
            return;
        };
        let link = self.links.get_mut(&link_id).expect("routed over it");
        if !matches!(link.phase, LinkPhase::Open { .. }) {
            return;
        }
        if link.unanswered_ping_us().is_none() {
            link.pinged_us = Some(now.mono_us);
        }
        let peer = self.peers.get_mut(&id).expect("it has a link");
        peer.pings.awaited = Some((link_id, now.mono_us));
        self.orders.push(LinkOrder::Ping(link_id));
    }

    /// A ping has arrived. It is answered at once, unless too many pongs left over this link lately.
    /// Of several pings in one turn the first is answered.
    pub(super) fn on_pinged(&mut self, now: Now, link: LinkId) {
        let since_us = self.stood_still_us.map(|at_us| now.mono_us - at_us);
        let pong = LinkOrder::Pong {
            link,
            stood_still: since_us.is_some_and(|since_us| since_us < STOOD_STILL_US),
        };
        let peer_link = self.links.get_mut(&link).expect("looked at by the caller");
        if self.orders.last() != Some(&pong) && peer_link.may_pong(now.mono_us) {
            self.orders.push(pong);
        }
    }

    /// A pong has arrived. `stood_still`: the peer's process stood still before it answered. Returns
    /// whether a ping was waiting for it: any other pong changes nothing.
    pub(super) fn on_pong(&mut self, now: Now, link: LinkId, stood_still: bool) -> bool {
        let Some(id) = self.peer_of(link) else {
            return false;
        };
        let own_from_us = self.stood_still_us.unwrap_or(0);
        let counts_from_us = (!stood_still).then_some(own_from_us);
        let peer = self.peers.get_mut(&id).expect("it has a link");
        if !peer.pings.awaits(link) {
            return false;
        }
        if peer.pings.on_pong(link, counts_from_us, now.mono_us) {
            let round_trip_us = peer.pings.figure_us();
            let change = ProcessChange::RoundTrip { round_trip_us };
            self.changes.push((id, change));
        }
        true
    }
}

#[cfg(test)]
mod tests;
