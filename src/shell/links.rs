//! All links: who is to be reached where, which link carries what, when to dial again.
//!
//! Each machine dials the members of the configuration and sends on the link it has dialled; while
//! it has none it sends on the one that the peer has dialled, which is also how a removed or
//! unknown peer is answered. The reactor's phases call `fill`, `fire_timers`, `send`, `flush`,
//! `reap` in this order. Decides nothing about raft: the machine is told what came and who is
//! there. Start with `follow` and `welcome`.
use super::clients::Visit;
use super::connect::Caller;
use super::link::{Came, Link, State};
use super::resolver::{Found, Names};
use super::slots::{Kind, SlotId, Slots};
use super::transport::Transport;
use crate::codec::http::url::Url;
use crate::codec::peer::hello::{Hello, HelloRefusal, PROTOCOL, judge};
use crate::core::machine::{LinkState, Machine, Role};
use crate::core::raft::{Configuration, Message, PeerId, Rpc};
use crate::core::random::XorShift64;
use crate::core::timer::{Now, TimerHandle, TimerWheel};
use mio::event::Event;
use mio::{Interest, Registry};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// A peer that has not answered a hello, or not acknowledged a byte, for so many election timeouts
/// is dialled anew: when a network heals, an old connection may wait long before it tries again.
const PATIENCE_TIMEOUTS: u64 = 10;
const PATIENCE_MS_MIN: u64 = 2_000;
const PATIENCE_MS_MAX: u64 = 30_000;
/// The first pause before dialling again; doubled each time …
const PAUSE_US_MIN: u64 = 50_000;
/// … up to this.
const PAUSE_US_MAX: u64 = 2_000_000;
/// A refusal will be repeated: the first pause after one.
const REFUSED_US: u64 = 500_000;
/// How long a link to somebody who is no member any more is kept: what ends its membership may
/// still be on its way.
const LEAVE_US: u64 = 5_000_000;
/// Another process of a member that has a link is let in when that link has not answered for so
/// long.
const SILENT_US: u64 = 300_000;
/// Peers that are no members; each costs two sockets at most.
const STRANGERS_MAX: usize = 32;
/// So many dials may come to nothing before it is worth a line.
const QUIET_FAILURES: u32 = 2;
/// The same refusal of the same peer is logged so often.
const LOG_EVERY_US: u64 = 60_000_000;

enum Timer {
    Dial(PeerId),
    /// The hello must have been answered.
    Hello(SlotId),
    Leave(PeerId),
}

/// One other machine.
#[derive(Default)]
struct Peer {
    /// Where it is to be dialled; empty for one that is no member.
    url: Box<str>,
    name: Box<str>,
    incarnation: u64,
    dialled: Option<SlotId>,
    incoming: Option<SlotId>,
    redial: Option<TimerHandle>,
    /// Dials in a row that came to nothing.
    failures: u32,
    waits_for_name: bool,
    /// What was logged last, and when.
    said: (String, u64),
}

/// The links of this machine.
pub struct Links {
    links: Slots<Link>,
    peers: BTreeMap<PeerId, Peer>,
    ready: Vec<SlotId>,
    timers: TimerWheel<Timer>,
    due: Vec<Timer>,
    /// How this machine introduces itself, but for `to`.
    me: Hello,
    random: XorShift64,
    patience_ms: u64,
    caller: Caller,
    /// The last `fill` has left bytes behind.
    unread: bool,
}

impl Links {
    /// Nobody yet. `process` is a random number.
    pub fn new(name: &str, election_ms: u64, process: u64, caller: Caller) -> Links {
        let patience_ms = election_ms.saturating_mul(PATIENCE_TIMEOUTS);
        Links {
            links: Slots::new(),
            peers: BTreeMap::new(),
            ready: Vec::new(),
            timers: TimerWheel::new(),
            due: Vec::new(),
            me: Hello {
                process: process.max(1),
                name: name.into(),
                ..Hello::default()
            },
            random: XorShift64::new(process),
            patience_ms: patience_ms.clamp(PATIENCE_MS_MIN, PATIENCE_MS_MAX),
            caller,
            unread: false,
        }
    }

    // -- who there is

    /// Looks at what the machine has become; `changed`: its configuration is another one.
    pub fn follow(&mut self, machine: &Machine, changed: bool, now: Now) {
        let (cluster, id) = match machine.role() {
            Role::Standby => (0, PeerId::NONE),
            Role::Leader | Role::Follower | Role::Candidate => (machine.cluster(), machine.id()),
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

    /// The members are others, or this machine is another: closes what is over and dials who is
    /// new.
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
                let leave = Timer::Leave(*id);
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
            if let Some(link) = peer.dialled.and_then(|l| self.links.get_mut(l)) {
                link.fail("the member has another address now");
                touch(&mut self.ready, link);
            }
            self.dial_at(member.id, now.mono_us);
        }
    }

    /// Ends every link: this machine is in no cluster.
    fn drop_all(&mut self, why: &str) {
        for (_, link) in self.links.iter_mut() {
            // A leader that leaves has named its successor with its last words.
            link.flush();
            link.fail(why);
            touch(&mut self.ready, link);
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
        peer.redial = Some(self.timers.schedule(at_us, Timer::Dial(id)));
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

    fn dial(&mut self, id: PeerId, registry: &Registry, names: &mut Names, now: Now) {
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
        let result = match names.find(url.host, now.mono_us) {
            Found::Wait => {
                peer.waits_for_name = true;
                return;
            }
            Found::Failed(why) => Err(format!("{}: {why}", url.host)),
            Found::Addresses(all) => {
                let address = SocketAddr::new(all[attempt % all.len()], url.port);
                self.caller
                    .connect(&url, address)
                    .map_err(|e| e.to_string())
            }
        };
        let registered = result.and_then(|transport| {
            let slot = self
                .links
                .insert_with(|slot| Link::dial(slot, id, transport, now.mono_us));
            let link = self.links.get_mut(slot).expect("just put there");
            link.transport().keep_alive(self.patience_ms);
            let token = slot.token(Kind::Link);
            let both = Interest::READABLE | Interest::WRITABLE;
            let result = link.transport().register_for(registry, token, both);
            result.map(|()| slot).map_err(|e| {
                self.links.remove(slot);
                e.to_string()
            })
        });
        match registered {
            Ok(slot) => {
                let peer = self.peers.get_mut(&id).expect("looked at above");
                peer.dialled = Some(slot);
                let hello = Timer::Hello(slot);
                self.timers
                    .schedule(now.mono_us + self.patience_ms * 1000, hello);
            }
            Err(why) => {
                self.say(id, &why, now);
                self.dial_later(id, false, now.mono_us);
            }
        }
    }

    /// Names have been resolved: whoever waits for one goes on.
    pub fn on_names(&mut self, now: Now) {
        let waits = |(id, peer): (&PeerId, &Peer)| peer.waits_for_name.then_some(*id);
        let waiting: Vec<PeerId> = self.peers.iter().filter_map(waits).collect();
        for id in waiting {
            self.dial_at(id, now.mono_us);
        }
    }

    // -- being visited

    /// Somebody says hello on a connection to the peer port. Welcome: gives how this machine
    /// introduces itself.
    pub fn welcome(&mut self, visit: &Visit, now: Now) -> Result<(Hello, Hello), HelloRefusal> {
        let theirs = Hello::parse(&visit.hello).ok_or(HelloRefusal::Malformed)?;
        let ours = Hello {
            to: theirs.from,
            ..self.me.clone()
        };
        let result = if &*visit.protocol != PROTOCOL {
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
                let text = format!("refused a link: {refusal}");
                log_refusal(self.peers.get_mut(&theirs.from), &theirs, &text, now);
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
            if link.state != State::Open || link.process == process {
                continue;
            }
            let silent = link.pinged_us > link.heard_us;
            if silent && now.mono_us >= link.pinged_us + SILENT_US {
                link.fail("its process is silent, and another one has come");
                touch(&mut self.ready, link);
                continue;
            }
            if !silent {
                link.ping(now.mono_us);
                touch(&mut self.ready, link);
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

    /// Takes the connection of a welcome visitor over, with what it has sent behind its hello.
    pub fn accept(
        &mut self,
        registry: &Registry,
        (transport, input): (Transport, Vec<u8>),
        (theirs, ours): (Hello, Hello),
        machine: &mut Machine,
        now: Now,
    ) {
        let id = theirs.from;
        let slot = self
            .links
            .insert_with(|slot| Link::accept(slot, transport, input, &theirs, &ours, now.mono_us));
        let link = self.links.get_mut(slot).expect("just put there");
        let token = slot.token(Kind::Link);
        if let Err(e) = link.transport().ask_writable(registry, token, true) {
            link.fail(e);
        }
        link.transport().keep_alive(self.patience_ms);
        touch(&mut self.ready, link);
        let peer = self.peers.entry(id).or_default();
        if peer.url.is_empty() {
            peer.name = theirs.name;
        }
        if let Some(former) = peer.incoming.replace(slot)
            && let Some(link) = self.links.get_mut(former)
        {
            link.fail("the peer has opened another link");
            touch(&mut self.ready, link);
        }
        let has_link = peer.dialled.and_then(|l| self.links.get_mut(l));
        if has_link.is_none_or(|l| l.state != State::Open) {
            machine.on_link(now, id, LinkState::Up);
        }
        // Whoever has come can be reached again: no waiting for the pause to end.
        if peer.dialled.is_none() && !peer.url.is_empty() {
            peer.failures = 0;
            self.dial_at(id, now.mono_us);
        }
    }

    // -- the phases

    /// Phase 1: the poll has told of one of the links.
    pub fn on_event(&mut self, event: &Event) {
        if let Some(link) = self.links.get_mut(SlotId::from_token(event.token())) {
            link.on_ready(event);
            touch(&mut self.ready, link);
        }
    }

    /// Phase 2, and before any client: reads all that has come and tells the machine.
    pub fn fill(&mut self, machine: &mut Machine, now: Now) {
        self.unread = false;
        for i in 0..self.ready.len() {
            let Some(link) = self.links.get_mut(self.ready[i]) else {
                continue;
            };
            let Some(peer) = self.peers.get_mut(&link.peer) else {
                continue;
            };
            let to = link.peer;
            if link.state == State::Connecting {
                let host = Url::parse(&peer.url).map_or("", |u| u.authority);
                let hello = Hello {
                    to,
                    ..self.me.clone()
                };
                link.maybe_connect(host, &hello);
            }
            let me = &self.me;
            let mut answered = None;
            link.fill(now.mono_us, |link, came| match came {
                Came::Message(message) => machine.on_message(now, to, message),
                Came::Contact => machine.on_contact(now, to),
                Came::Hello(theirs) => match on_answer(&theirs, me, to, peer.incarnation) {
                    Ok(()) => {
                        link.process = theirs.process;
                        answered = Some(theirs);
                        machine.on_link(now, to, LinkState::Up);
                    }
                    Err(why) => link.fail(why),
                },
            });
            if answered.is_some() && link.state == State::Open {
                peer.failures = 0;
                peer.said = Default::default();
                log::info!("link to {} ({:x}) is open", peer.name, to.0);
            }
            self.unread |= link.wants_input();
        }
    }

    /// Whether the last `fill` has left bytes behind: then no timer may say that somebody is
    /// silent.
    pub fn has_unread(&self) -> bool {
        self.unread
    }

    /// Phase 5: dials, and gives up what takes too long.
    pub fn fire_timers(&mut self, registry: &Registry, names: &mut Names, now: Now) {
        let mut due = std::mem::take(&mut self.due);
        self.timers.advance(now.mono_us, &mut due);
        for timer in due.drain(..) {
            match timer {
                Timer::Dial(id) => self.dial(id, registry, names, now),
                Timer::Hello(slot) => {
                    if let Some(link) = self.links.get_mut(slot)
                        && matches!(link.state, State::Connecting | State::Asking)
                    {
                        link.fail("no answer");
                        touch(&mut self.ready, link);
                    }
                }
                Timer::Leave(id) => self.leave(id),
            }
        }
        self.due = due;
    }

    fn leave(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id).filter(|p| p.url.is_empty()) else {
            return;
        };
        match peer.dialled.and_then(|l| self.links.get_mut(l)) {
            Some(link) => {
                link.fail("it is no member any more");
                touch(&mut self.ready, link);
            }
            None if peer.incoming.is_none() => drop(self.peers.remove(&id)),
            None => {}
        }
    }

    /// Phases 6 and 8: queues messages; one to somebody without a link is lost.
    pub fn send(&mut self, messages: &mut Vec<(PeerId, Message)>) {
        for (to, message) in messages.drain(..) {
            let Some(peer) = self.peers.get(&to) else {
                continue;
            };
            for slot in [peer.dialled, peer.incoming].into_iter().flatten() {
                let Some(link) = self.links.get_mut(slot) else {
                    continue;
                };
                if link.state != State::Open {
                    continue;
                }
                link.push(&message);
                if let Rpc::Removed { .. } = message.rpc {
                    link.close("it was removed, and has been told");
                }
                touch(&mut self.ready, link);
                break;
            }
        }
    }

    /// Phases 6 and 9: writes what waits, to whoever takes it.
    pub fn flush(&mut self) {
        for id in &self.ready {
            if let Some(link) = self.links.get_mut(*id) {
                link.flush();
            }
        }
    }

    /// Phase 9: drops the dead and arranges for their return. Whether the machine was told of one.
    pub fn reap(&mut self, machine: &mut Machine, now: Now) -> bool {
        let mut told = false;
        let ready = std::mem::take(&mut self.ready);
        for slot in ready {
            let Some(link) = self.links.get_mut(slot) else {
                continue;
            };
            link.queued = false;
            if link.state == State::Dead {
                told |= self.bury(slot, machine, now);
            } else if link.wants_input() {
                touch(&mut self.ready, link);
            }
        }
        told
    }

    fn bury(&mut self, slot: SlotId, machine: &mut Machine, now: Now) -> bool {
        let link = self.links.remove(slot).expect("it was just looked at");
        let id = link.peer;
        let Some(peer) = self.peers.get_mut(&id) else {
            return false;
        };
        let was_up = link.process != 0;
        let other = if link.dialled {
            peer.dialled.take_if(|l| *l == slot);
            peer.incoming
        } else {
            peer.incoming.take_if(|l| *l == slot);
            peer.dialled
        };
        let is_member = !peer.url.is_empty();
        if link.dialled && is_member {
            // A machine that comes up listens a moment later than it is known.
            if was_up || peer.failures >= QUIET_FAILURES {
                self.say(id, &link.trouble, now);
            }
            let refused = link.trouble.starts_with("refused");
            self.dial_later(id, refused, now.mono_us);
        } else if !is_member && other.is_none() {
            self.peers.remove(&id);
        }
        let other_up = other.and_then(|l| self.links.get_mut(l));
        let gone = was_up && (link.dialled || other_up.is_none());
        if gone {
            machine.on_link(now, id, LinkState::Closed);
        }
        gone
    }

    /// When something is to be done; `u64::MAX`: never.
    pub fn next_deadline(&self) -> u64 {
        self.timers.next_deadline().unwrap_or(u64::MAX)
    }

    /// Whether somebody can go on without being told by the poll.
    pub fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Logs what is wrong with a peer: the first time, and when it is something else.
    fn say(&mut self, id: PeerId, why: &str, now: Now) {
        let peer = self.peers.get_mut(&id).expect("spoken of by its id");
        if peer.said.0 != why {
            log::warn!("no link to {} ({:x}, {}): {why}", peer.name, id.0, peer.url);
            peer.said = (why.to_string(), now.mono_us);
        }
    }
}

fn touch(ready: &mut Vec<SlotId>, link: &mut Link) {
    if !link.queued {
        link.queued = true;
        ready.push(link.id);
    }
}

/// Whether who has answered is whom we have dialled.
fn on_answer(theirs: &Hello, me: &Hello, wanted: PeerId, incarnation: u64) -> Result<(), String> {
    if theirs.from != wanted {
        return Err(format!("another member answers: {:x}", theirs.from.0));
    }
    let mine = Hello {
        to: wanted,
        ..me.clone()
    };
    judge(theirs, &mine, Some(incarnation)).map_err(|why| format!("the other side: {why}"))
}

fn log_refusal(peer: Option<&mut Peer>, theirs: &Hello, text: &str, now: Now) {
    let known = peer.map(|p| &mut p.said);
    let again = known
        .as_ref()
        .is_some_and(|(said, at)| said == text && now.mono_us < at + LOG_EVERY_US);
    if again {
        return;
    }
    log::warn!("{} ({:x}): {text}", theirs.name, theirs.from.0);
    if let Some(said) = known {
        *said = (text.to_string(), now.mono_us);
    }
}
