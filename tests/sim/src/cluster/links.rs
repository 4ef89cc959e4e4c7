//! Connections between machines: the part of the shell for `core::peers`, over the simulated
//! network.
//!
//! A machine's orders become connections. A hello travels as text, is retransmitted until it
//! arrives, and is decided upon by the machine at its URL. Messages travel only on connections
//! whose hello was accepted. Start with `carry_link_order` and `on_hello`.
use super::*;
use tern::codec::peer::hello;
use tern::core::peers::{Hello, HelloRefusal, LinkEvent, LinkId, LinkOrder, patience_ms};

/// One side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    slot: usize,
    /// The process that has this side.
    process: u64,
    link: LinkId,
}

/// A connection, from the dial to its end.
pub struct Connection {
    /// The side that has dialled.
    dialled: End,
    /// The side that has accepted; `None` before.
    accepted: Option<End>,
    /// When the answer to the hello arrives; messages come behind it.
    opens_us: Option<u64>,
    /// When the last message arrives at either side, at the earliest; the end comes later.
    last_us: u64,
    /// One side has ended it. What that side had sent before still arrives.
    is_ended: bool,
}

impl Connection {
    /// The other side of a slot's.
    fn other(&self, slot: usize) -> Option<End> {
        if self.dialled.slot == slot {
            self.accepted
        } else {
            Some(self.dialled)
        }
    }

    /// The side of a slot, if it is one of this connection's.
    fn own(&self, slot: usize) -> Option<End> {
        let ends = [Some(self.dialled), self.accepted];
        ends.into_iter().flatten().find(|end| end.slot == slot)
    }
}

/// What travels beside messages.
pub enum LinkEv {
    /// A hello on its way to a URL.
    Hello { connection: u64, text: Box<str> },
    /// Something has happened to a link of this process.
    Event { end: End, event: LinkEvent },
    /// A ping, or the answer to one, on its way to the other side of a connection.
    Frame { connection: u64, event: LinkEvent },
}

impl World {
    /// Carries out an order about a link.
    pub(super) fn carry_link_order(&mut self, slot: usize, run: &mut Running, order: LinkOrder) {
        match order {
            LinkOrder::Dial {
                link, url, hello, ..
            } => self.dial(slot, run, link, &url, &hello),
            LinkOrder::Ping(link) => {
                self.send_frame(slot, run, link, LinkEvent::Pinged);
            }
            LinkOrder::Pong { link, stood_still } => {
                self.send_frame(slot, run, link, LinkEvent::Pong { stood_still });
            }
            LinkOrder::Drop { link, .. } => self.end_link(slot, run, link),
            LinkOrder::Close { link, why } => {
                self.end_link(slot, run, link);
                let end = self.end(slot, link);
                let event = LinkEvent::Closed(why.into());
                self.push_link(self.now_us, slot, LinkEv::Event { end, event });
            }
        }
    }

    fn end(&self, slot: usize, link: LinkId) -> End {
        End {
            slot,
            process: self.hosts[slot].process,
            link,
        }
    }

    fn push_link(&mut self, time_us: u64, slot: usize, ev: LinkEv) {
        let ev = Box::new(ev);
        self.queue.push(time_us, Ev::Link { slot, ev });
    }

    fn dial(&mut self, slot: usize, run: &mut Running, link: LinkId, url: &str, hello: &Hello) {
        self.last_connection += 1;
        let connection = self.last_connection;
        let dialled = self.end(slot, link);
        let target = self.slot_at(url);
        let to = hello.to.map_or(0, |to| to.0);
        let place = target.map_or(NOWHERE, |target| target as u64);
        self.trace.note(slot, "dials", link.0, to, place);
        let promises = &self.truth.promises;
        let named = promises.on_named(hello.from.0, hello.incarnation);
        self.fail(named);
        let opened = Connection {
            dialled,
            accepted: None,
            opens_us: None,
            last_us: 0,
            is_ended: false,
        };
        self.connections.insert(connection, opened);
        run.links.insert(link, connection);
        let Some(target) = target else {
            let event = LinkEvent::Closed("nothing is at that address".into());
            let at = self.now_us + 1_000;
            return self.push_link(
                at,
                slot,
                LinkEv::Event {
                    end: dialled,
                    event,
                },
            );
        };
        if self.net.is_refused(slot, target, self.now_us) {
            let event = LinkEvent::NotListening;
            let refusal = LinkEv::Event {
                end: dialled,
                event,
            };
            return self.push_link(self.now_us + 1_000, slot, refusal);
        }
        let text = hello::encode(hello).into();
        self.send_hello(slot, target, LinkEv::Hello { connection, text });
    }

    /// A hello, or the answer to one, is sent again until it arrives. Returns when it does; `None`:
    /// the way is cut.
    fn send_hello(&mut self, from: usize, to: usize, ev: LinkEv) -> Option<u64> {
        let route = self.net.route(&mut self.rng, self.now_us, from, to);
        let at = match route[0] {
            Some(at) => at,
            // Lost: one of the retransmissions gets through, unless the way is cut.
            None if self.net.is_cut(from, to) => return None,
            None => {
                self.now_us
                    + self
                        .rng
                        .range(self.p.election_ms * 200, self.p.election_ms * 600)
            }
        };
        self.push_link(at, to, ev);
        Some(at)
    }

    fn send_frame(&mut self, slot: usize, run: &Running, link: LinkId, event: LinkEvent) {
        let Some(connection) = run.links.get(&link).copied() else {
            return;
        };
        let other = self.connections.get(&connection);
        if let Some(other) = other.and_then(|c| c.other(slot)) {
            self.send_hello(slot, other.slot, LinkEv::Frame { connection, event });
        }
    }

    /// Something about a link arrives at a slot.
    pub(super) fn on_link_ev(&mut self, slot: usize, ev: LinkEv) {
        match ev {
            LinkEv::Hello { connection, text } => self.on_hello(slot, connection, &text),
            LinkEv::Event { end, event } => self.on_link_event(end, event),
            LinkEv::Frame { connection, event } => {
                let reached = self.connections.get(&connection);
                let reached = reached.filter(|c| !c.is_ended);
                if let Some(end) = reached.and_then(|c| c.own(slot)) {
                    self.on_link_event(end, event);
                    self.on_link_event(end, LinkEvent::Heard(8));
                }
            }
        }
    }

    fn on_hello(&mut self, slot: usize, connection: u64, text: &str) {
        let Some(dialled) = self.connections.get(&connection).map(|c| c.dialled) else {
            return;
        };
        let hello = hello::parse(text).expect("it was encoded by a machine");
        let epoch = self.hosts[slot].epoch;
        if !self.listens(slot) {
            let answer = LinkEv::Event {
                end: dialled,
                event: LinkEvent::NotListening,
            };
            self.send_hello(slot, dialled.slot, answer);
            return;
        }
        self.input(slot, epoch, |world, run, now| {
            let result = run.core.on_hello(now, &hello, "sim");
            let is_open = u64::from(result.is_ok());
            world
                .trace
                .note(slot, "hello", hello.from.0, is_open, connection);
            let event = match result {
                Ok((link, answer)) => {
                    run.links.insert(link, connection);
                    let end = world.end(slot, link);
                    let opened = world.connections.get_mut(&connection);
                    opened.expect("looked at above").accepted = Some(end);
                    LinkEvent::Opened(Box::new(answer))
                }
                Err(refusal) => LinkEvent::Refused(Some(refusal)),
            };
            // The answer goes first: messages of this turn come behind it.
            let answer = LinkEv::Event {
                end: dialled,
                event,
            };
            let opens_us = world.send_hello(slot, dialled.slot, answer);
            if let Some(opened) = world.connections.get_mut(&connection) {
                opened.opens_us = opens_us;
            }
        });
    }

    /// Something has happened to a link of a process, if it is still there.
    fn on_link_event(&mut self, end: End, event: LinkEvent) {
        let slot = end.slot;
        if self.hosts[slot].process != end.process {
            return;
        }
        let ends = matches!(
            event,
            LinkEvent::Closed(_) | LinkEvent::Refused(_) | LinkEvent::NotListening
        );
        let opens = matches!(event, LinkEvent::Opened(_));
        let epoch = self.hosts[slot].epoch;
        self.input(slot, epoch, |world, run, now| {
            if opens && !run.links.contains_key(&end.link) {
                return;
            }
            if ends && let Some(connection) = run.links.remove(&end.link) {
                world.connections.remove(&connection);
            }
            run.core.on_link(now, end.link, event);
        });
    }

    /// A stranger, or a machine of another cluster, says hello to a machine: it is refused with a
    /// code, and nothing changes.
    pub fn knock(&mut self) {
        let slot = self.rng.index(self.hosts.len());
        if !self.listens(slot) || self.is_paused(slot) {
            return;
        }
        let known: Vec<u64> = self.ids.keys().copied().collect();
        let from = *self.rng.pick(&known) + self.rng.below(2);
        let to = self.up(slot).map(|run| PeerId(run.seen.id));
        let hello = Hello {
            from: PeerId(from.max(1)),
            to: to.filter(|to| to.0 != 0 && self.rng.chance(500_000)),
            process: self.rng.next_u64() | 1,
            incarnation: self.rng.next_u64() | 1,
            cluster: self.rng.chance(500_000).then(|| self.rng.next_u64() | 1),
            receiver_incarnation: Some(self.rng.next_u64() | 1),
            name: "stranger".into(),
            peer_url: peer_url(slot, NOWHERE),
            client_url: client_url(slot),
        };
        let epoch = self.hosts[slot].epoch;
        self.input(slot, epoch, |world, run, now| {
            let before = run.seen;
            let result = run.core.on_hello(now, &hello, "stranger");
            let is_refused = matches!(result, Err(HelloRefusal::Denied | HelloRefusal::NoMember));
            if !is_refused || seen_of(&run.core) != before {
                let text = format!("m{slot} to {hello:?}: {result:?}");
                world.fail(violation("stranger", text));
            }
        });
    }

    /// A process on a copy of a member's data directory says hello from another address. It is let
    /// in only where the member is missing; then it says nothing more, and is gone after a while.
    /// `is_calm`: no member is missing to another one, so members must refuse it.
    pub fn knock_as_copy(&mut self, is_calm: bool) {
        let slot = self.rng.index(self.hosts.len());
        let original = self.rng.index(self.hosts.len());
        let image = self
            .image(original)
            .filter(|image| image.id != PeerId::NONE);
        let Some((from, incarnation)) = image.map(|image| (image.id, image.incarnation)) else {
            return;
        };
        if !self.listens(slot) || self.is_paused(slot) || slot == original {
            return;
        }
        if is_calm && !self.is_listed(slot) {
            // It was removed, and has no link to a member yet.
            return;
        }
        let to = self.up(slot).map(|run| PeerId(run.seen.id));
        let hello = Hello {
            from,
            to: to.filter(|to| to.0 != 0),
            process: self.rng.next_u64() | 1,
            incarnation,
            name: name_of(original),
            peer_url: peer_url(original, NOWHERE),
            client_url: client_url(original),
            ..Hello::default()
        };
        let gone_us = self.now_us + self.rng.range(1_000, self.p.down_us_max);
        let epoch = self.hosts[slot].epoch;
        self.input(slot, epoch, |world, run, now| {
            let result = run.core.on_hello(now, &hello, "copy");
            let is_open = u64::from(result.is_ok());
            world.trace.note(slot, "copy", hello.from.0, is_open, 0);
            let Ok((link, _)) = result else {
                return;
            };
            if is_calm {
                let text = format!("m{slot} admits a copy of m{original}: {hello:?}");
                world.fail(violation("copy-is-heard", text));
            }
            let end = world.end(slot, link);
            let event = LinkEvent::Closed("the copy is gone".into());
            world.push_link(gone_us, slot, LinkEv::Event { end, event });
        });
    }

    /// Whether the leader lists the machine as a member.
    fn is_listed(&self, slot: usize) -> bool {
        let id = self.up(slot).map(|run| PeerId(run.seen.id));
        let leader = self.leader().and_then(|leader| self.up(leader));
        let members = leader.map(|run| run.core.configuration());
        id.is_some_and(|id| members.is_some_and(|members| members.get(id).is_some()))
    }

    /// A process ends its side of a connection: the other side sees that after all that was sent.
    fn end_link(&mut self, slot: usize, run: &mut Running, link: LinkId) {
        if let Some(connection) = run.links.remove(&link) {
            self.end_connection(slot, connection);
        }
    }

    fn end_connection(&mut self, slot: usize, connection: u64) {
        let Some(ended) = self.connections.get_mut(&connection) else {
            return;
        };
        let Some(other) = ended.other(slot).filter(|_| !ended.is_ended) else {
            self.connections.remove(&connection);
            return;
        };
        ended.is_ended = true;
        let last_us = ended.last_us;
        // After a loss of power, or over a way that is cut, it is found out by a timeout.
        let is_silent = self.net.is_cut(slot, other.slot) || self.rng.chance(200_000);
        let delay_us = if is_silent {
            patience_ms(self.p.election_ms) * 1_000
        } else {
            self.rng.range(50, 2_000)
        };
        let at = (self.now_us + delay_us).max(last_us + 1);
        let event = LinkEvent::Closed("closed by the peer".into());
        self.push_link(at, other.slot, LinkEv::Event { end: other, event });
    }

    /// The connections of a machine to one other, or to all others, break while the machines at
    /// both ends run. In half of the cases connections between them are refused for a while.
    pub fn break_links(&mut self, slot: usize) {
        let until_us = self.now_us + self.rng.range(1_000, self.p.down_us_max);
        let only = self.rng.index(self.hosts.len());
        let is_all = self.rng.chance(250_000);
        let is_refused = self.rng.chance(500_000);
        for other in (0..self.hosts.len()).filter(|other| *other != slot) {
            if !is_all && other != only {
                continue;
            }
            self.break_between(slot, other, is_refused.then_some(until_us));
        }
    }

    /// The connections between two machines break. New ones are refused until then, if at all.
    pub fn break_between(&mut self, one: usize, other: usize, refused_until_us: Option<u64>) {
        if let Some(until_us) = refused_until_us {
            self.net.refuse(one, other, until_us);
            self.net.refuse(other, one, until_us);
        }
        let broken = self.connections.iter();
        let broken = broken.filter(|(_, c)| c.own(one).is_some() && c.own(other).is_some());
        let broken: Vec<u64> = broken.map(|(number, _)| *number).collect();
        for connection in broken {
            self.break_connection(connection);
        }
    }

    /// Both sides of a connection see its end, each in its own time.
    fn break_connection(&mut self, connection: u64) {
        let broken = self.connections.get_mut(&connection).expect("just found");
        broken.is_ended = true;
        let ends = [Some(broken.dialled), broken.accepted];
        for end in ends.into_iter().flatten() {
            let at_us = self.now_us + self.rng.range(50, 2_000);
            let event = LinkEvent::Closed("connection reset".into());
            self.push_link(at_us, end.slot, LinkEv::Event { end, event });
        }
    }

    /// A process is gone, and all its connections with it.
    pub(super) fn end_links(&mut self, slot: usize, run: &Running) {
        for connection in run.links.values() {
            self.end_connection(slot, *connection);
        }
        self.hosts[slot].process += 1;
    }

    /// The connection that carries a message, the slot where it arrives, and when it arrives at the
    /// earliest. `None`: there is no connection.
    pub(super) fn way(&self, slot: usize, run: &Running, to: PeerId) -> Option<(u64, usize, u64)> {
        let link = run.core.route(to)?;
        let number = *run.links.get(&link)?;
        let connection = self.connections.get(&number)?;
        let other = connection.other(slot)?;
        Some((number, other.slot, connection.opens_us?))
    }

    /// A message arrives on a connection then.
    pub(super) fn note_arrival(&mut self, connection: u64, time_us: u64) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.last_us = connection.last_us.max(time_us);
        }
    }

    /// Checks that no machine accepts a message from a copy that runs beside its original.
    pub(super) fn check_sender(&mut self, slot: usize, connection: u64) {
        let sender = self.connections.get(&connection);
        let sender = sender.and_then(|c| c.other(slot)).map(|end| end.slot);
        if let Some(original) = sender.and_then(|sender| self.hosts[sender].copy_of) {
            let text = format!("m{slot} hears a copy of m{original}");
            self.fail(violation("copy-is-heard", text));
        }
    }

    /// The link that brings a message, if its process still hears it.
    pub(super) fn heard_link(&self, slot: usize, run: &Running, connection: u64) -> Option<LinkId> {
        let own = self.connections.get(&connection)?.own(slot)?;
        if own.process != self.hosts[slot].process {
            return None;
        }
        run.core.peer_of(own.link)?;
        Some(own.link)
    }
}
