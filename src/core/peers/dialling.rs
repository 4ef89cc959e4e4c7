//! Dialling: members at their listed addresses, and other addresses while no leader is heard.
//!
//! The answer to a hello decides whose link it is, whichever address was dialled. Start with
//! [`Peers::dial_due`] and [`Peers::on_answer`].
use super::{
    Hello, HelloRefusal, LinkId, LinkOrder, LinkPhase, LinkReport, LinkReportEvent, Peer, PeerLink,
    Peers, ProcessChange, TwiceRefusal,
};
use crate::core::raft::{PeerId, ROUND_TRIP_US_MAX};
use crate::core::timer::Now;

/// The first pause before dialling again, in microseconds; doubled each time …
const PAUSE_US_MIN: u64 = 50_000;
/// … up to this many election timeouts, …
const PAUSE_TIMEOUTS_MAX: u64 = 4;
/// … and at most up to this.
const PAUSE_US_MAX: u64 = 2_000_000;
/// The first pause after a refusal, which the peer will repeat.
const REFUSED_US: u64 = 500_000;
/// A hello that is unanswered for this many election timeouts, or longer (`Peer::hello_us`), is sent
/// anew when there is a sign that the network works again: lost packets are retransmitted ever later.
const STALE_TIMEOUTS: u64 = 2;
/// A hello is given at least this many slow round trips: connecting takes one, the answer another,
/// and a lost packet of either is sent again.
const HELLO_TRIPS: u64 = 4;
/// How long no leader must be heard before other addresses than the listed ones are dialled.
const LEADERLESS_US: u64 = 500_000;
/// The most addresses besides the listed ones. Hints and a discovery service's directory add to
/// them.
const TARGETS_MAX: usize = 64;
/// The number of failed dials that are not logged: a machine that comes up listens a moment later
/// than it is known.
const QUIET_FAILURES: u32 = 2;
/// A voter counts as refusing this process for another one when it has done so for this time.
/// Links to a former process of this machine are found silent sooner.
const TWICE_US: u64 = 3_000_000;
/// A refusal older than this counts no more.
const TWICE_US_MAX: u64 = 10_000_000;
/// The text of a refusal whose code this version does not know.
const UNKNOWN_REFUSAL: &str = "for an unknown reason";

/// An address besides those of the configuration.
#[derive(Debug)]
pub(super) struct DialTarget {
    url: Box<str>,
    link: Option<LinkId>,
    /// When it is dialled next, in microseconds; `None`: not now.
    redial_us: Option<u64>,
    failures: u32,
    /// The member that has answered there last, and the peer URL that it advertised. It is not dialled
    /// there while it has a link and still advertises that URL.
    answered_by: Option<(PeerId, Box<str>)>,
    /// It came from `on_hint`: another address may replace it.
    is_hint: bool,
}

impl DialTarget {
    /// A member has answered on a link that may be this address's.
    fn on_answer(&mut self, link: LinkId, hello: &Hello) {
        if self.link == Some(link) {
            self.answered_by = Some((hello.from, hello.peer_url.clone()));
        }
    }

    /// This machine has another place: it is dialled at once.
    pub(super) fn on_place_changed(&mut self) {
        self.failures = 0;
        self.redial_us = self.link.is_none().then_some(0);
    }

    /// Forgets the link if it is this one. Returns whether it did.
    pub(super) fn maybe_end_link(&mut self, link: LinkId) -> bool {
        self.link.take_if(|own| *own == link).is_some()
    }
}

impl Peer {
    /// How long a hello to the peer may be unanswered, in microseconds, if it were `least_us` over a
    /// short line. It is at least `HELLO_TRIPS` round trips as they were measured. Before a link
    /// was open none was: so the time doubles with each hello in a row that was given up, until it
    /// suffices for any line that counts. Otherwise no link over a line would open whose round trip
    /// is longer than `least_us`.
    fn hello_us(&self, least_us: u64) -> u64 {
        // Raft does not wait for a longer round trip either.
        let trip_us = self.pings.figure_us().min(ROUND_TRIP_US_MAX);
        let grown_us = least_us << self.given_up.min(16);
        let grown_us = grown_us.min(HELLO_TRIPS * u64::from(ROUND_TRIP_US_MAX));
        least_us.max(grown_us).max(HELLO_TRIPS * u64::from(trip_us))
    }

    /// Keeps the finding of a refusal about the machine at the listed address.
    fn on_refused(&mut self, now_us: u64, refusal: Option<&HelloRefusal>) {
        self.is_displaced = refusal.is_some_and(HelloRefusal::is_of_another);
        let has_gone = |refusal: &HelloRefusal| *refusal == HelloRefusal::WentOn;
        self.is_known_to_run = refusal.is_some_and(|r| !r.is_of_another() && !has_gone(r));
        self.refusal = Some(refusal.map_or(UNKNOWN_REFUSAL, HelloRefusal::text));
        let Some(HelloRefusal::Twice { other_url }) = refusal else {
            return;
        };
        let first_us = match &self.refuses_twice {
            Some(former) if now_us < former.last_us + TWICE_US_MAX => former.first_us,
            Some(_) | None => now_us,
        };
        self.refuses_twice = Some(TwiceRefusal {
            first_us,
            last_us: now_us,
            other_url: other_url.clone(),
        });
    }
}

impl Peers {
    // -- addresses besides the listed ones

    /// Adds addresses where members may be. They are dialled while no leader is heard.
    pub fn add_addresses<'a>(&mut self, now: Now, urls: impl IntoIterator<Item = &'a str>) {
        for url in urls {
            self.add_target(url, false);
        }
        self.schedule_targets(now);
        self.rearm();
    }

    /// Adds an address unless it is known. If there are `TARGETS_MAX`, the oldest hint without a link
    /// gives its place up, because clients can send any number of hints. If there is none, the new
    /// address is ignored.
    fn add_target(&mut self, url: &str, is_hint: bool) {
        let mut targets = self.targets.iter_mut();
        if let Some(known) = targets.find(|target| *target.url == *url) {
            known.is_hint &= is_hint;
            return;
        }
        if *url == *self.me.peer_url {
            return;
        }
        if self.targets.len() >= TARGETS_MAX {
            let mut targets = self.targets.iter();
            let oldest = targets.position(|target| target.is_hint && target.link.is_none());
            let Some(oldest) = oldest else {
                return;
            };
            self.targets.remove(oldest);
        }
        self.targets.push(DialTarget {
            url: url.into(),
            link: None,
            redial_us: None,
            failures: 0,
            answered_by: None,
            is_hint,
        });
    }

    /// A member tells its address by other means than a hello: it is dialled once, and the answer
    /// decides. Another member that has answered there before may have moved.
    pub fn on_hint(&mut self, now: Now, url: &str) {
        self.add_target(url, true);
        self.schedule_targets(now);
        let mut targets = self.targets.iter_mut();
        let target = targets.find(|target| *target.url == *url);
        if let Some(target) = target
            && target.link.is_none()
        {
            target.answered_by = None;
            target.redial_us = Some(now.mono_us);
        }
        self.rearm();
    }

    /// The leader that is heard; it may be this machine.
    pub fn on_leader(&mut self, now: Now, leader: Option<PeerId>) {
        let is_heard = leader.is_some();
        if leader == self.leader && is_heard != self.leaderless_since_us.is_some() {
            return;
        }
        self.leader = leader;
        self.leaderless_since_us = (!is_heard).then_some(now.mono_us);
        if !is_heard {
            for peer in self.peers.values_mut() {
                peer.pings.hasten(now.mono_us);
            }
        }
        if is_heard {
            for target in &mut self.targets {
                target.redial_us = None;
            }
            self.hurry(now);
        }
        self.schedule_targets(now);
        self.rearm();
    }

    /// Plans the next dials of addresses that have no link, while no leader is heard.
    fn schedule_targets(&mut self, now: Now) {
        let Some(since_us) = self.leaderless_since_us else {
            return;
        };
        let has_members = !self.members.members.is_empty();
        for place in 0..self.targets.len() {
            let target = &self.targets[place];
            if target.link.is_some() || target.redial_us.is_some() {
                continue;
            }
            let mut at_us = now.mono_us;
            if target.failures > 0 {
                at_us += self.pause_us(REFUSED_US, self.targets[place].failures);
            } else if has_members {
                at_us = at_us.max(since_us + LEADERLESS_US);
            }
            self.targets[place].redial_us = Some(at_us);
        }
    }

    // -- dialling

    /// There is a sign that peers can be reached: a link has opened, a leader is heard, or the list
    /// has this machine's new address. Members without a link are dialled now instead of after
    /// their pause. A former hello that is unanswered for long is given up.
    pub(super) fn hurry(&mut self, now: Now) {
        let stale_us = STALE_TIMEOUTS * self.election_us;
        let mut stale = Vec::new();
        for (id, peer) in &mut self.peers {
            if !peer.is_member || Some(*id) == self.me.id {
                continue;
            }
            if let Some(link) = peer.dialled {
                let stale_us = peer.hello_us(stale_us);
                let asking = &self.links[&link];
                let is_asking = matches!(asking.phase, LinkPhase::Asking { .. });
                if !is_asking || now.mono_us < asking.heard_us + stale_us {
                    continue;
                }
                stale.push(link);
                peer.given_up = peer.given_up.saturating_add(1);
            }
            peer.failures = 0;
            peer.redial_us = Some(now.mono_us);
        }
        for link in stale {
            self.drop_link(link, "no answer to the hello yet, and others answer");
        }
    }

    pub(super) fn dial_due(&mut self, now: Now) {
        let mut due = Vec::new();
        for (id, peer) in &mut self.peers {
            if peer.redial_us.take_if(|at| *at <= now.mono_us).is_some() {
                due.push(*id);
            }
        }
        for id in due {
            self.dial(now, id);
        }
        for place in 0..self.targets.len() {
            let redial_us = &mut self.targets[place].redial_us;
            if redial_us.take_if(|at| *at <= now.mono_us).is_some() {
                self.dial_target(now, place);
            }
        }
    }

    fn dial(&mut self, now: Now, id: PeerId) {
        let peer = self.peers.get_mut(&id).expect("dialled by its id");
        if !peer.is_member || peer.dialled.is_some() {
            return;
        }
        peer.unanswered_since_us.get_or_insert(now.mono_us);
        let url = peer.peer_url.clone();
        let attempt = peer.failures;
        let to = (!self.asks_for_any(id)).then_some(id);
        let hello = self.me.hello(to, &self.members);
        let link = self.order_dial(now, Some(id), url, attempt, hello);
        let peer = self.peers.get_mut(&id).expect("dialled by its id");
        peer.dialled = Some(link);
        peer.dialled_us = Some(now.mono_us);
    }

    /// Whether the listed address of a member is dialled for whichever member is there. Another
    /// machine was there the last time, and no leader is heard: members may have exchanged their
    /// addresses. It is not asked again while there is a link to it.
    fn asks_for_any(&self, id: PeerId) -> bool {
        let peer = &self.peers[&id];
        let is_linked = |link: &PeerLink| {
            link.process().is_some() && link.dialled_url.as_ref() == Some(&peer.peer_url)
        };
        let has_link = self.links.values().any(is_linked);
        peer.is_displaced && self.leaderless_since_us.is_some() && !has_link
    }

    /// Dials an address, unless a member that is listed there is dialled anyway.
    fn dial_target(&mut self, now: Now, place: usize) {
        if self.me.id.is_none() {
            return;
        }
        let target = &self.targets[place];
        let (url, attempt) = (target.url.clone(), target.failures);
        let is_dialled = |link: &PeerLink| link.dialled_url.as_ref() == Some(&url);
        let mut peers = self.peers.iter();
        let is_listed =
            peers.any(|(id, p)| p.is_member && p.peer_url == url && !self.has_open_dialled(*id));
        let answered_by = self.targets[place].answered_by.as_ref();
        let is_linked = answered_by.is_some_and(|(id, url)| self.is_linked_at(*id, url));
        if is_linked || is_listed || url == self.me.peer_url || self.links.values().any(is_dialled)
        {
            self.targets[place].failures += 1;
            return self.schedule_targets(now);
        }
        let hello = self.me.hello(None, &self.members);
        let link = self.order_dial(now, None, url, attempt, hello);
        self.targets[place].link = Some(link);
    }

    /// Whether the member has a dialled link that is open, and advertises this peer URL on it.
    fn is_linked_at(&self, id: PeerId, peer_url: &str) -> bool {
        let link = self.peers.get(&id).and_then(|peer| peer.dialled);
        link.map(|link| &self.links[&link])
            .is_some_and(|link| link.process().is_some() && *link.advertised.0 == *peer_url)
    }

    /// Dials `url`, the listed address of `peer`, with a hello.
    fn order_dial(
        &mut self,
        now: Now,
        peer: Option<PeerId>,
        url: Box<str>,
        attempt: u32,
        hello: Hello,
    ) -> LinkId {
        self.last_link += 1;
        let link = LinkId(self.last_link);
        let dialled = peer.and_then(|peer| self.peers.get(&peer));
        let patience_us = dialled.map_or(self.patience_us, |p| p.hello_us(self.patience_us));
        let asking = PeerLink {
            peer,
            dialled_url: Some(url.clone()),
            phase: LinkPhase::Asking {
                due_us: now.mono_us + patience_us,
            },
            advertised: Default::default(),
            incarnation: 0,
            heard_us: now.mono_us,
            pinged_us: None,
            ponged_us: 0,
        };
        self.links.insert(link, asking);
        self.orders.push(LinkOrder::Dial {
            link,
            url,
            attempt,
            hello,
        });
        link
    }

    /// Later each time, and never all at the same moment.
    fn pause_us(&mut self, least_us: u64, failures: u32) -> u64 {
        let pause_us_max =
            (PAUSE_TIMEOUTS_MAX * self.election_us).clamp(PAUSE_US_MIN, PAUSE_US_MAX);
        let pause_us = (least_us << failures.min(10)).min(pause_us_max);
        pause_us / 2 + self.random.draw() % (pause_us / 2)
    }

    // -- answers

    /// The machine that was dialled has accepted the hello, and has answered with its own.
    pub(super) fn on_answer(&mut self, now: Now, id: LinkId, hello: &Hello) {
        let link = &self.links[&id];
        let asked = link.peer;
        let url = link.dialled_url.clone();
        if url.is_none() || link.process().is_some() {
            return self.drop_link(id, "a second hello");
        }
        let judged = self.me.judge(hello, &self.members);
        if let Err(refusal) = judged.and_then(|()| self.admit_process(now, hello)) {
            let why = "the other side's hello was not accepted";
            self.orders.push(LinkOrder::Drop { link: id, why });
            self.end_dialled(now, id, refusal.text(), REFUSED_US);
            return;
        }
        if asked != Some(hello.from) {
            self.detach(now, id);
            // The member has given a former link up for this one.
            let former = self.peers.get(&hello.from).and_then(|peer| peer.dialled);
            if let Some(former) = former {
                self.drop_link(former, "the member has answered at another address");
            }
            for target in &mut self.targets {
                target.on_answer(id, hello);
            }
        }
        self.insert_open(now, id, hello, url.clone());
        let peer = self.peers.get_mut(&hello.from).expect("just inserted");
        peer.dialled = Some(id);
        peer.failures = 0;
        peer.given_up = 0;
        peer.refuses_twice = None;
        peer.is_displaced = false;
        peer.refusal = None;
        let listed_url = Some(peer.peer_url.clone()).filter(|listed| Some(listed) != url.as_ref());
        self.changes.push((hello.from, ProcessChange::Up));
        if let Some(suppressed) = peer.opened.is_due(now.mono_us) {
            self.reports.push(LinkReport {
                name: Some(hello.name.clone()),
                address: hello.peer_url.clone(),
                event: LinkReportEvent::Opened,
                suppressed,
            });
        }
        // Another member may be where this one is listed, and have no link yet.
        self.add_addresses(now, listed_url.as_deref());
        self.hurry(now);
    }

    /// Another member than the one dialled has answered: the dialled one is dialled again later.
    fn detach(&mut self, now: Now, id: LinkId) {
        let link = self.links.get_mut(&id).expect("looked at by the caller");
        let Some(asked) = link.peer.take() else {
            return;
        };
        if let Some(peer) = self.peers.get_mut(&asked) {
            peer.dialled = None;
            peer.is_displaced = true;
        }
        self.report_failure(now, asked, "another member answers there");
        self.dial_later(now, asked, REFUSED_US);
    }

    /// The machine that was dialled has refused the hello.
    pub(super) fn on_refused(&mut self, now: Now, id: LinkId, refusal: Option<HelloRefusal>) {
        let asked = self.links[&id].peer;
        if let Some(peer) = asked.and_then(|asked| self.peers.get_mut(&asked)) {
            peer.given_up = 0;
            peer.on_refused(now.mono_us, refusal.as_ref());
            if refusal == Some(HelloRefusal::WentOn)
                && let Some(suppressed) = peer.went_on.is_due(now.mono_us)
            {
                self.reports.push(LinkReport {
                    name: Some(peer.name.clone()),
                    address: peer.peer_url.clone(),
                    event: LinkReportEvent::WentOn,
                    suppressed,
                });
            }
        }
        let text = refusal.map_or(UNKNOWN_REFUSAL, |refusal| refusal.text());
        self.end_dialled(now, id, &format!("refused: {text}"), REFUSED_US);
    }

    /// A link has ended at the other side, or could not be made.
    pub(super) fn remove_link(&mut self, now: Now, id: LinkId, why: &str) {
        let asked = self.links.get(&id).and_then(|link| link.peer);
        if let Some(peer) = asked.and_then(|asked| self.peers.get_mut(&asked)) {
            peer.refusal = None;
        }
        self.end_dialled(now, id, why, PAUSE_US_MIN);
    }

    /// A link ends for a reason that will be the same the next time.
    pub(super) fn end_refused(&mut self, now: Now, id: LinkId, why: &str) {
        self.end_dialled(now, id, why, REFUSED_US);
    }

    /// Removes a link, and plans the next dial if this machine had dialled it.
    fn end_dialled(&mut self, now: Now, id: LinkId, why: &str, pause_us: u64) {
        for target in &mut self.targets {
            if target.maybe_end_link(id) {
                target.failures += 1;
            }
        }
        let link = self.forget(id);
        self.schedule_targets(now);
        let Some(peer_id) = link.peer else {
            return;
        };
        let Some(peer) = self.peers.get(&peer_id) else {
            return;
        };
        if link.dialled_url.is_some() && peer.is_member {
            if link.process().is_some() || peer.failures >= QUIET_FAILURES {
                self.report_failure(now, peer_id, why);
            }
            self.dial_later(now, peer_id, pause_us);
        } else {
            self.maybe_forget_peer(peer_id);
        }
    }

    /// The hello of a link is given up: no answer has come.
    pub(super) fn note_given_up(&mut self, link: LinkId) {
        let asked = self.links[&link].peer;
        if let Some(peer) = asked.and_then(|asked| self.peers.get_mut(&asked)) {
            peer.given_up = peer.given_up.saturating_add(1);
        }
    }

    fn dial_later(&mut self, now: Now, id: PeerId, least_us: u64) {
        let Some(failures) = self.peers.get(&id).map(|peer| peer.failures) else {
            return;
        };
        let at_us = now.mono_us + self.pause_us(least_us, failures);
        let peer = self.peers.get_mut(&id).expect("looked at above");
        peer.failures += 1;
        peer.redial_us = Some(at_us);
    }

    fn report_failure(&mut self, now: Now, id: PeerId, why: &str) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if let Some(suppressed) = peer.failed.is_due(now.mono_us) {
            self.reports.push(LinkReport {
                name: Some(peer.name.clone()),
                address: peer.peer_url.clone(),
                event: LinkReportEvent::Failed(why.into()),
                suppressed,
            });
        }
    }

    // -- the findings of answers about this member

    /// Whether a machine that is not the member answers at a listed address. Then the list here is
    /// out of date: the member has moved, or was replaced.
    pub fn has_displaced_member(&self) -> bool {
        self.peers
            .values()
            .any(|peer| peer.is_member && peer.is_displaced)
    }

    /// The address of another process of this member, if a majority of the voters refuses this
    /// process because of it.
    pub fn superseded_by(&self, now: Now) -> Option<Box<str>> {
        let is_voter = |id: &PeerId| self.members.voters().any(|voter| voter == *id);
        let mut refusing = 0;
        let mut other_url = None;
        for (id, peer) in &self.peers {
            let Some(refusal) = &peer.refuses_twice else {
                continue;
            };
            let is_lasting = refusal.last_us >= refusal.first_us + TWICE_US;
            let is_recent = now.mono_us < refusal.last_us + TWICE_US_MAX;
            if is_voter(id) && is_lasting && is_recent {
                refusing += 1;
                other_url = Some(refusal.other_url.clone());
            }
        }
        let other_url = other_url?;
        let voters = self.members.voters().count();
        (refusing * 2 > voters).then_some(other_url)
    }

    // -- time

    /// Finds out when `on_time` has something to do, and which addresses are new.
    pub(super) fn rearm(&mut self) {
        let asking = self.links.values().filter_map(|link| match link.phase {
            LinkPhase::Asking { due_us } => Some(due_us),
            LinkPhase::Open { .. } | LinkPhase::Closing => None,
        });
        let peers = self.peers.values();
        let peers = peers.flat_map(|peer| {
            let ping_us = peer.pings.due_us(self.seen_us);
            [peer.redial_us, peer.leave_us, ping_us]
        });
        let is_member = self.me.id.is_some();
        let targets = self.targets.iter().filter(|_| is_member);
        let targets = targets.map(|target| target.redial_us);
        self.due_us = asking.chain(peers.chain(targets).flatten()).min();
        self.new_addresses = self.find_new_addresses();
        self.check_invariants();
    }
}

#[cfg(test)]
mod tests;
