//! All links: which peers to dial at which address, which link carries what, when to dial again.
//!
//! Each machine dials the members of its configuration and sends on the links that it has dialled.
//! While it has none to a peer, it sends on the link that the peer has dialled; this is also how a
//! removed or unknown peer is answered. The reactor's phases call `fill`, `fire_timers`, `send`,
//! `flush`, `reap` in this order. Must not decide anything about raft: the machine gets each
//! message, and learns when a peer's process comes and goes. Start with `follow` and `admit`.
use super::clients::UpgradeRequest;
use super::connect::Connector;
use super::link::{Link, LinkEvent};
use super::resolver::{HostLookup, Resolver};
use super::slots::{PoolKind, SlotId};
use super::sockets::{Pool, Settled};
use super::transport::Transport;
use crate::codec::http::url::Url;
use crate::codec::peer::hello::{Hello, HelloRefusal, PROTOCOL, judge};
use crate::core::machine::{LinkState, Machine, Role};
use crate::core::raft::{Configuration, Message, PeerId, Rpc, Violation};
use crate::core::random::XorShift64;
use crate::core::timer::{Now, TimerHandle, TimerWheel};
use mio::Registry;
use mio::event::Event;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// A peer that has not answered the hello, or not acknowledged sent bytes, for this many election
/// timeouts is dialled anew. After a network has healed, the kernel may wait long before it retries
/// on the old connection.
const PATIENCE_TIMEOUTS: u64 = 10;
/// Bounds of that time.
const PATIENCE_MS_MIN: u64 = 2_000;
const PATIENCE_MS_MAX: u64 = 30_000;
/// The first pause before dialling again; doubled each time …
const PAUSE_US_MIN: u64 = 50_000;
/// … up to this.
const PAUSE_US_MAX: u64 = 2_000_000;
/// The first pause after a refusal, which the peer will repeat.
const REFUSED_US: u64 = 500_000;
/// How long a link to a former member is kept: the entry that removes the member may still be in
/// its queue.
const LEAVE_US: u64 = 5_000_000;
/// A second process of a member is admitted once the first one has left a ping unanswered for this
/// time.
const SILENT_US: u64 = 300_000;
/// The most peers that are not members. Each costs two sockets at most.
const STRANGERS_MAX: usize = 32;
/// The number of failed dials that are not logged.
const QUIET_FAILURES: u32 = 2;
/// The same refusal of the same peer is logged at this interval, in microseconds.
const LOG_EVERY_US: u64 = 60_000_000;

/// What a timer of a peer is for.
enum PeerTimer {
    /// Dial it.
    Dial(PeerId),
    /// Close the links to it if it is still no member.
    Leave(PeerId),
}

/// A member of the configuration, or another machine that has a link.
#[derive(Default)]
struct Peer {
    /// Its peer URL, where it is dialled; empty if it is not a member.
    url: Box<str>,
    name: Box<str>,
    /// The number of its data directory; 0 if it is not a member.
    incarnation: u64,
    /// The link that this machine has dialled.
    dialled: Option<SlotId>,
    /// The link that the peer has dialled.
    incoming: Option<SlotId>,
    /// The timer of the next dial.
    redial: Option<TimerHandle>,
    /// How many dials in a row have failed.
    failures: u32,
    /// The next dial waits for the resolver.
    waits_for_name: bool,
    /// The last line that was logged about it, and when.
    said: (String, u64),
}

/// The links of this machine.
pub struct Links {
    links: Pool<Link>,
    peers: BTreeMap<PeerId, Peer>,
    /// Timers of peers; those of links are in the pool.
    timers: TimerWheel<PeerTimer>,
    /// Timers that have fired; empty but inside `fire_timers`, kept for its memory.
    due: Vec<PeerTimer>,
    /// This machine's hello; `to` is filled in for each peer. Cluster and id are 0 while it is not
    /// a member.
    me: Hello,
    /// Spreads the pauses between dials.
    random: XorShift64,
    /// How long a peer may leave a hello unanswered or bytes unacknowledged.
    patience_ms: u64,
    connector: Connector,
    /// The last `fill` has left bytes behind.
    unread: bool,
}

impl Links {
    /// No links yet. `process` is a random number that tells this process from others.
    pub fn new(name: &str, election_ms: u64, process: u64, connector: Connector) -> Links {
        let patience_ms = election_ms.saturating_mul(PATIENCE_TIMEOUTS);
        Links {
            links: Pool::new(PoolKind::Links),
            peers: BTreeMap::new(),
            timers: TimerWheel::new(),
            due: Vec::new(),
            me: Hello {
                process: process.max(1),
                name: name.into(),
                ..Hello::default()
            },
            random: XorShift64::new(process),
            patience_ms: patience_ms.clamp(PATIENCE_MS_MIN, PATIENCE_MS_MAX),
            connector,
            unread: false,
        }
    }

    // -- the configuration

    /// Follows the machine: its identity, and its configuration if that has `changed`.
    pub fn follow(&mut self, machine: &Machine, changed: bool, now: Now) {
        let (cluster, id) = match machine.role() {
            Role::Standby => (0, PeerId::NONE),
            Role::Leader | Role::Follower | Role::Candidate => {
                (machine.cluster(), machine.id().unwrap_or(PeerId::NONE))
            }
        };
        let same = (cluster, id) == (self.me.cluster, self.me.from);
        match id {
            PeerId::NONE if !same => self.drop_all("this machine is no member of a cluster now"),
            PeerId::NONE => {}
            id if changed || !same => {
                self.on_members(cluster, id, machine.configuration(), now);
            }
            _ => {}
        }
    }

    /// The configuration or this machine's identity has changed: plans the end of links to former
    /// members, and dials new ones.
    fn on_members(&mut self, cluster: u64, id: PeerId, members: &Configuration, now: Now) {
        let other_cluster = self.me.cluster != 0 && self.me.cluster != cluster;
        if id != self.me.from || other_cluster {
            self.drop_all("this machine's place in its cluster is another one now");
        }
        (self.me.cluster, self.me.from) = (cluster, id);
        let own = members.get(id);
        self.me.incarnation = own.map_or(0, |m| m.incarnation);
        for (id, peer) in &mut self.peers {
            if members.get(*id).is_none() && !peer.url.is_empty() {
                peer.url = "".into();
                let leave = PeerTimer::Leave(*id);
                self.timers.schedule(now.mono_us + LEAVE_US, leave);
            }
        }
        for member in members.members.iter().filter(|m| m.id != id) {
            let peer = self.peers.entry(member.id).or_default();
            peer.name = member.name.clone();
            peer.incarnation = member.incarnation;
            if peer.url == member.peer_url {
                continue;
            }
            peer.url = member.peer_url.clone();
            peer.failures = 0;
            if let Some(link) = peer.dialled.and_then(|l| self.links.wake(l)) {
                link.fail("the member has another address now");
            }
            self.dial_at(member.id, now.mono_us);
        }
    }

    /// Ends every link: this machine is in no cluster.
    fn drop_all(&mut self, why: &str) {
        self.links.wake_where(|_| true);
        for (_, link) in self.links.iter_mut() {
            // The last message of a leader that leaves names its successor.
            link.flush();
            link.fail(why);
        }
        // With the links all that their timers wait for is over.
        self.timers.cancel_all();
        self.peers
            .retain(|_, peer| peer.dialled.is_some() || peer.incoming.is_some());
        for peer in self.peers.values_mut() {
            peer.url = "".into();
            (peer.redial, peer.waits_for_name) = (None, false);
        }
        (self.me.cluster, self.me.from) = (0, PeerId::NONE);
    }

    // -- dialling

    fn dial_at(&mut self, id: PeerId, at_us: u64) {
        let peer = self.peers.get_mut(&id).expect("dialled by its id");
        if let Some(timer) = peer.redial.take() {
            self.timers.cancel(timer);
        }
        peer.redial = Some(self.timers.schedule(at_us, PeerTimer::Dial(id)));
    }

    /// The next dial of a peer that could not be reached: later each time, and never all at the
    /// same moment.
    fn dial_later(&mut self, id: PeerId, refused: bool, now_us: u64) {
        let peer = self.peers.get_mut(&id).expect("dialled by its id");
        let least_us = if refused { REFUSED_US } else { PAUSE_US_MIN };
        let pause_us = (least_us << peer.failures.min(10)).min(PAUSE_US_MAX);
        peer.failures += 1;
        let pause_us = pause_us / 2 + self.random.draw() % (pause_us / 2);
        self.dial_at(id, now_us + pause_us);
    }

    fn dial(&mut self, id: PeerId, registry: &Registry, resolver: &mut Resolver, now: Now) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.redial = None;
        peer.waits_for_name = false;
        if peer.url.is_empty() || peer.dialled.is_some() {
            return;
        }
        let Some(url) = Url::parse(&peer.url) else {
            return self.say(id, "its peer URL is none", now);
        };
        let attempt = peer.failures as usize;
        let result = match resolver.lookup(url.host, now.mono_us) {
            HostLookup::Pending => {
                peer.waits_for_name = true;
                return;
            }
            HostLookup::Failed(why) => Err(format!("{}: {why}", url.host)),
            HostLookup::Addresses(all) => {
                let address = SocketAddr::new(all[attempt % all.len()], url.port);
                self.connector
                    .connect(&url, address)
                    .map_err(|e| e.to_string())
            }
        };
        let registered = result.and_then(|transport| {
            let due_us = now.mono_us + self.patience_ms * 1000;
            let slot = self
                .links
                .insert_with(|_| Link::dial(id, transport, now.mono_us, due_us));
            let token = self.links.token(slot);
            let link = self.links.get_mut(slot).expect("just inserted");
            link.keep_alive(self.patience_ms);
            link.register(registry, token).map(|()| slot).map_err(|e| {
                self.links.remove(slot);
                e.to_string()
            })
        });
        match registered {
            Ok(slot) => {
                let peer = self.peers.get_mut(&id).expect("looked at above");
                peer.dialled = Some(slot);
            }
            Err(why) => {
                self.say(id, &why, now);
                self.dial_later(id, false, now.mono_us);
            }
        }
    }

    /// Names have been resolved: dials the peers that wait for one.
    pub fn on_resolved(&mut self, now: Now) {
        let waits = |(id, peer): (&PeerId, &Peer)| peer.waits_for_name.then_some(*id);
        let waiting: Vec<PeerId> = self.peers.iter().filter_map(waits).collect();
        for id in waiting {
            self.dial_at(id, now.mono_us);
        }
    }

    // -- links that peers dial

    /// Decides about a request on the peer port that the connection become a link. Returns the
    /// peer's hello and ours.
    ///
    /// # Errors
    /// Why the link is refused, for both logs.
    pub fn admit(
        &mut self,
        request: &UpgradeRequest,
        now: Now,
    ) -> Result<(Hello, Hello), HelloRefusal> {
        let theirs = Hello::parse(&request.hello).ok_or(HelloRefusal::Malformed)?;
        let ours = Hello {
            to: theirs.from,
            ..self.me.clone()
        };
        let result = if &*request.protocol != PROTOCOL {
            Err(HelloRefusal::Version)
        } else {
            let known = self.peers.get(&theirs.from).map(|p| p.incarnation);
            judge(&theirs, &ours, known)
        };
        let result = result
            .and_then(|()| self.is_lone(theirs.from, theirs.process, now))
            .and_then(|()| self.has_room_for(theirs.from));
        match result {
            Ok(()) => Ok((theirs, ours)),
            Err(refusal) => {
                log_refusal(self.peers.get_mut(&theirs.from), &theirs, refusal, now);
                Err(refusal)
            }
        }
    }

    /// Whether no other process of this member is there. One that does not answer does not count.
    fn is_lone(&mut self, id: PeerId, process: u64, now: Now) -> Result<(), HelloRefusal> {
        let Some(peer) = self.peers.get(&id) else {
            return Ok(());
        };
        for slot in [peer.incoming, peer.dialled].into_iter().flatten() {
            let Some(link) = self.links.get_mut(slot) else {
                continue;
            };
            if !link.is_open() || link.process() == Some(process) {
                continue;
            }
            match link.unanswered_ping_us() {
                Some(pinged_us) if now.mono_us >= pinged_us + SILENT_US => {
                    link.fail("its process is silent, and another one has come");
                    self.links.wake(slot);
                    continue;
                }
                Some(_) => {}
                None => {
                    link.ping(now.mono_us);
                    self.links.wake(slot);
                }
            }
            return Err(HelloRefusal::Twice);
        }
        Ok(())
    }

    fn has_room_for(&self, id: PeerId) -> Result<(), HelloRefusal> {
        let strangers = || self.peers.values().filter(|p| p.url.is_empty());
        let known = self.peers.contains_key(&id);
        match known || strangers().count() < STRANGERS_MAX {
            true => Ok(()),
            false => Err(HelloRefusal::TooMany),
        }
    }

    /// Takes over a connection that was admitted: its socket, and the input behind the hello.
    pub fn accept(
        &mut self,
        registry: &Registry,
        parts: (Transport, Vec<u8>),
        (theirs, ours): (Hello, Hello),
        machine: &mut Machine,
        now: Now,
    ) {
        let id = theirs.from;
        let slot = self
            .links
            .insert_with(|_| Link::accept(parts, &theirs, &ours, now.mono_us));
        let token = self.links.token(slot);
        let link = self.links.get_mut(slot).expect("just inserted");
        link.reregister(registry, token);
        link.keep_alive(self.patience_ms);
        let peer = self.peers.entry(id).or_default();
        if peer.url.is_empty() {
            peer.name = theirs.name;
        }
        if let Some(former) = peer.incoming.replace(slot)
            && let Some(link) = self.links.wake(former)
        {
            link.fail("the peer has opened another link");
        }
        let has_link = peer.dialled.and_then(|l| self.links.get_mut(l));
        if has_link.is_none_or(|l| !l.is_open()) {
            machine.on_link(now, id, LinkState::Up);
        }
        // The peer is up, so dial at once instead of waiting for the pause to end.
        if peer.dialled.is_none() && !peer.url.is_empty() {
            peer.failures = 0;
            self.dial_at(id, now.mono_us);
        }
    }

    // -- the phases

    /// Phase 1: the poll has reported an event of one of the links.
    pub fn on_event(&mut self, event: &Event) {
        if let Some(link) = self.links.wake_for(event) {
            link.on_event(event);
        }
    }

    /// Phase 2, before any client: reads what has arrived and hands it to the machine.
    pub fn fill(&mut self, machine: &mut Machine, now: Now) {
        self.unread = false;
        for place in 0..self.links.ready_len() {
            let Some(link) = self.links.ready_at(place) else {
                continue;
            };
            let Some(peer) = self.peers.get_mut(&link.peer()) else {
                continue;
            };
            let id = link.peer();
            if link.is_connecting() {
                let host = Url::parse(&peer.url).map_or("", |u| u.authority);
                let hello = Hello {
                    to: id,
                    ..self.me.clone()
                };
                link.on_connected(host, &hello);
            }
            let me = &self.me;
            let mut has_opened = false;
            link.fill(now.mono_us, |link, event| match event {
                LinkEvent::Message(message) => machine.on_message(now, id, message),
                LinkEvent::Contact => machine.on_contact(now, id),
                LinkEvent::Hello(theirs) => match on_answer(&theirs, me, id, peer.incarnation) {
                    Ok(()) => {
                        link.on_accepted(theirs.process);
                        has_opened = true;
                        machine.on_link(now, id, LinkState::Up);
                    }
                    Err(why) => link.fail(why),
                },
            });
            if has_opened && link.is_open() {
                peer.failures = 0;
                peer.said = Default::default();
                log::info!("link to {} ({}) is open", peer.name, peer.url);
            }
            self.unread |= link.wants_input();
        }
    }

    /// Whether the last `fill` has left bytes behind. Then no timer may conclude that a peer is
    /// silent.
    pub fn has_unread(&self) -> bool {
        self.unread
    }

    /// Phase 5: dials, and closes links whose hello was not answered in time.
    pub fn fire_timers(&mut self, registry: &Registry, resolver: &mut Resolver, now: Now) {
        self.links
            .expire(now.mono_us, |link| link.expire(now.mono_us));
        let mut due = std::mem::take(&mut self.due);
        self.timers.advance(now.mono_us, &mut due);
        for timer in due.drain(..) {
            match timer {
                PeerTimer::Dial(id) => self.dial(id, registry, resolver, now),
                PeerTimer::Leave(id) => self.leave(id),
            }
        }
        self.due = due;
    }

    fn leave(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id).filter(|p| p.url.is_empty()) else {
            return;
        };
        match peer.dialled.and_then(|l| self.links.wake(l)) {
            Some(link) => link.fail("it is no member any more"),
            None if peer.incoming.is_none() => drop(self.peers.remove(&id)),
            None => {}
        }
    }

    /// Phases 6 and 8: queues messages. A message to a peer without a link is dropped.
    pub fn send(&mut self, messages: &mut Vec<(PeerId, Message)>) {
        for (to, message) in messages.drain(..) {
            let Some(peer) = self.peers.get(&to) else {
                continue;
            };
            for slot in [peer.dialled, peer.incoming].into_iter().flatten() {
                let Some(link) = self.links.get_mut(slot) else {
                    continue;
                };
                if !link.is_open() {
                    continue;
                }
                link.push(&message);
                if let Rpc::Removed { .. } = message.rpc {
                    link.close("it was removed, and this was its notice");
                }
                self.links.wake(slot);
                break;
            }
        }
    }

    /// Closes the links to a peer that sent an impossible message. Each member dials again, after a
    /// pause that grows while this repeats.
    pub fn close(&mut self, id: PeerId, violation: Violation) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        for slot in [peer.dialled, peer.incoming].into_iter().flatten() {
            if let Some(link) = self.links.wake(slot) {
                link.fail(format!("protocol violation: {violation}"));
            }
        }
    }

    /// Phases 6 and 9: writes the queue of each link whose socket takes it.
    pub fn flush(&mut self) {
        for place in 0..self.links.ready_len() {
            if let Some(link) = self.links.ready_at(place) {
                link.flush();
            }
        }
    }

    /// Phase 10: drops the links that have ended and plans the next dials. Returns whether the
    /// machine got an input.
    pub fn reap(&mut self, machine: &mut Machine, now: Now) -> bool {
        let mut ended = Vec::new();
        self.links.settle(&mut ended, |_, link| {
            if link.is_dead() {
                return Settled::Ended;
            }
            Settled::Keep {
                deadline_us: link.deadline_us(),
                ready: link.wants_input(),
            }
        });
        let mut has_input = false;
        for slot in ended {
            has_input |= self.bury(slot, machine, now);
        }
        has_input
    }

    fn bury(&mut self, slot: SlotId, machine: &mut Machine, now: Now) -> bool {
        let link = self.links.remove(slot).expect("it has just ended");
        let id = link.peer();
        let Some(peer) = self.peers.get_mut(&id) else {
            return false;
        };
        let was_up = link.process().is_some();
        let other = if link.is_dialled() {
            peer.dialled.take_if(|l| *l == slot);
            peer.incoming
        } else {
            peer.incoming.take_if(|l| *l == slot);
            peer.dialled
        };
        let is_member = !peer.url.is_empty();
        if link.is_dialled() && is_member {
            // A machine that comes up listens a moment later than it is known.
            if was_up || peer.failures >= QUIET_FAILURES {
                self.say(id, link.trouble(), now);
            }
            self.dial_later(id, link.is_refused(), now.mono_us);
        } else if !is_member && other.is_none() {
            self.peers.remove(&id);
        }
        let other_up = other.and_then(|l| self.links.get_mut(l));
        let gone = was_up && (link.is_dialled() || other_up.is_none());
        if gone {
            machine.on_link(now, id, LinkState::Closed);
        }
        gone
    }

    /// When the next timer fires, in microseconds of the monotonic clock.
    pub fn next_deadline(&self) -> Option<u64> {
        let next = [self.links.next_deadline(), self.timers.next_deadline()];
        next.into_iter().flatten().min()
    }

    /// Whether a link can go on without any event.
    pub fn has_work(&self) -> bool {
        self.links.has_work()
    }

    /// Logs what is wrong with a peer: the first time, and when it is something else.
    fn say(&mut self, id: PeerId, why: &str, now: Now) {
        let peer = self.peers.get_mut(&id).expect("spoken of by its id");
        if peer.said.0 != why {
            log::warn!(
                "no link to {} ({}), dialling again: {why}",
                peer.name,
                peer.url
            );
            peer.said = (why.to_string(), now.mono_us);
        }
    }
}

/// Whether the peer that has answered is the one that was dialled.
fn on_answer(theirs: &Hello, me: &Hello, wanted: PeerId, incarnation: u64) -> Result<(), String> {
    if theirs.from != wanted {
        return Err(format!("another member answers there: {}", theirs.name));
    }
    let mine = Hello {
        to: wanted,
        ..me.clone()
    };
    judge(theirs, &mine, Some(incarnation)).map_err(|why| format!("the other side: {why}"))
}

/// Logs that a link was refused, unless the last line about this peer says the same and is recent.
fn log_refusal(peer: Option<&mut Peer>, theirs: &Hello, refusal: HelloRefusal, now: Now) {
    let text = format!("refused a link: {refusal}");
    let Some(peer) = peer else {
        return log::warn!("{} (no member): {text}", theirs.name);
    };
    let (said, said_us) = &peer.said;
    if *said == text && now.mono_us < said_us + LOG_EVERY_US {
        return;
    }
    log::warn!("{} ({}): {text}", theirs.name, peer.url);
    peer.said = (text, now.mono_us);
}
