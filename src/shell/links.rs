//! The sockets of all links between this machine and its peers.
//!
//! Which link to keep, which peer to admit and when to dial is decided in `core::peers`. These links
//! report to the machine what happens to each of them, and carry out its orders. The reactor's
//! phases call `fill`, `send`, `carry_out`, `flush`, `reap` in this order. Start with `fill` and
//! `carry_out`.
use super::connect::Connector;
use super::dispatcher::UpgradeRequest;
use super::link::{Link, LinkInput, failed_dial};
use super::pool::{Pool, Settled};
use super::resolver::{HostLookup, Resolver};
use super::slots::{PoolKind, SlotId};
use super::transport::Transport;
use crate::codec::http::url::Url;
use crate::codec::peer::hello::{self, PROTOCOL};
use crate::core::machine::Machine;
use crate::core::peers::{Hello, HelloRefusal, LinkEvent, LinkId, LinkOrder};
use crate::core::raft::{Message, PeerId};
use crate::core::timer::Now;
use mio::Registry;
use mio::event::Event;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The most that the links may cost in one turn (see `Link::fill`), besides `LINK_SHARE_MIN` for
/// each. The links that earlier turns have left unread have one such share, the others another one.
/// Decoding and handling a share takes an eighth of a millisecond.
const READ_SHARE: usize = 256 * 1024;
/// The most that one link may cost in one turn.
const LINK_READ_SHARE: usize = 128 * 1024;
/// The cost that each link may have in a turn although others have spent `READ_SHARE`. A peer that
/// sends no more than this never waits for one that floods. `core::peers` bounds the number of
/// links.
const LINK_SHARE_MIN: usize = 8 * 1024;
/// How many bytes one link writes at a time. A turn flushes the links twice.
const FLUSH_BYTES: usize = 256 * 1024;

/// A dial that waits for the resolver, or is carried out.
struct PendingDial {
    link: LinkId,
    url: Box<str>,
    attempt: u32,
    hello: Hello,
}

/// The share of a link in a turn whose links have cost `spent`.
fn share_of_link(spent: usize) -> usize {
    let left = READ_SHARE.saturating_sub(spent);
    left.clamp(LINK_SHARE_MIN, LINK_READ_SHARE)
}

/// The sockets of the links of this machine.
pub struct Links {
    links: Pool<Link>,
    slots: BTreeMap<LinkId, SlotId>,
    /// Dials whose host is being resolved.
    pending: Vec<PendingDial>,
    /// Dials that have failed at once; reported at the end of the turn.
    failed: Vec<(LinkId, LinkEvent)>,
    /// How long a peer may leave bytes unacknowledged. After a network has healed, the kernel may
    /// wait long before it retries on the old connection.
    patience_ms: u64,
    /// The bytes of messages of which not all has arrived, over all links. A correct peer sends one
    /// long message after the other. Beyond it, the link with the most is closed.
    unfinished_bytes_max: usize,
    connector: Connector,
    /// The last `fill` has left bytes behind.
    unread: bool,
}

impl Links {
    /// No links yet.
    pub fn new(patience_ms: u64, unfinished_bytes_max: usize, connector: Connector) -> Links {
        Links {
            links: Pool::new(PoolKind::Links),
            slots: BTreeMap::new(),
            pending: Vec::new(),
            failed: Vec::new(),
            patience_ms,
            unfinished_bytes_max,
            connector,
            unread: false,
        }
    }

    // -- links that peers dial

    /// Asks the machine whether the connection of a request on the peer port may become a link.
    /// `source` is the address that it came from.
    /// Returns the link, and the hello to answer with.
    ///
    /// # Errors
    /// Why the link is refused.
    pub fn admit(
        &mut self,
        request: &UpgradeRequest,
        source: &str,
        machine: &mut Machine,
        now: Now,
    ) -> Result<(LinkId, Hello), HelloRefusal> {
        if &*request.protocol != PROTOCOL {
            return Err(HelloRefusal::Version);
        }
        let hello = hello::parse(&request.hello).ok_or(HelloRefusal::Malformed)?;
        machine.on_hello(now, &hello, source)
    }

    /// Takes over a connection that was admitted: its socket, and the input behind the hello.
    pub fn accept(
        &mut self,
        registry: &Registry,
        parts: (Transport, Vec<u8>),
        (id, hello): (LinkId, Hello),
    ) {
        let slot = self.links.insert_with(|_| Link::accept(id, parts, &hello));
        let token = self.links.token(slot);
        let link = self.links.get_mut(slot).expect("just inserted");
        link.reregister(registry, token);
        link.keep_alive(self.patience_ms);
        self.slots.insert(id, slot);
    }

    // -- dialling

    fn dial(&mut self, dial: PendingDial, registry: &Registry, resolver: &mut Resolver, now: Now) {
        let Some(url) = Url::parse(&dial.url) else {
            let why = format!("{} is no peer URL", dial.url);
            return self.failed.push((dial.link, LinkEvent::Closed(why.into())));
        };
        if dial.attempt > 0 {
            resolver.doubt(url.host);
        }
        let address = match resolver.lookup(url.host, now.mono_us) {
            HostLookup::Pending => return self.pending.push(dial),
            HostLookup::Failed(why) => {
                let why = format!("{}: {why}", url.host);
                return self.failed.push((dial.link, LinkEvent::Closed(why.into())));
            }
            HostLookup::Addresses(all) => {
                SocketAddr::new(all[dial.attempt as usize % all.len()], url.port)
            }
        };
        if let Err(e) = self.connect(&dial, &url, address, registry) {
            self.failed.push((dial.link, failed_dial(&e)));
        }
    }

    fn connect(
        &mut self,
        dial: &PendingDial,
        url: &Url,
        address: SocketAddr,
        registry: &Registry,
    ) -> std::io::Result<()> {
        let transport = self.connector.connect(url, address)?;
        let slot = self
            .links
            .insert_with(|_| Link::dial(dial.link, transport, url.authority, &dial.hello));
        let token = self.links.token(slot);
        let link = self.links.get_mut(slot).expect("just inserted");
        link.keep_alive(self.patience_ms);
        if let Err(e) = link.register(registry, token) {
            self.links.remove(slot);
            return Err(e);
        }
        self.slots.insert(dial.link, slot);
        Ok(())
    }

    /// Names have been resolved: goes on with the dials that wait for one.
    pub fn on_resolved(&mut self, registry: &Registry, resolver: &mut Resolver, now: Now) {
        for dial in std::mem::take(&mut self.pending) {
            self.dial(dial, registry, resolver, now);
        }
    }

    /// Reads the certificates for links that are dialled again, see `Connector::reload`.
    ///
    /// # Errors
    /// A file is unusable; the text names it.
    pub fn reload(&mut self) -> Result<(), String> {
        self.connector.reload()
    }

    // -- the phases

    /// Phase 1: the poll has reported an event of one of the links.
    pub fn on_event(&mut self, event: &Event) {
        if let Some(link) = self.links.wake_for(event) {
            link.on_event(event);
        }
    }

    /// Phase 2, before any client: reads messages and hands them to the machine. The messages
    /// of a link that the machine has given up are dropped.
    pub fn fill(&mut self, machine: &mut Machine, now: Now) {
        self.unread = false;
        let mut spent = [0, 0];
        for place in 0..self.links.ready_len() {
            let spent = &mut spent[usize::from(self.links.is_carried(place))];
            let Some(link) = self.links.ready_at(place) else {
                continue;
            };
            let id = link.id();
            if link.is_connecting() {
                link.on_connected();
            }
            let share = share_of_link(*spent);
            *spent += link.fill(share, now.mono_us, |_, input| match input {
                LinkInput::Message(message) => {
                    if let Some(peer) = machine.peer_of(id) {
                        machine.on_message(now, peer, message);
                    }
                }
                LinkInput::Contact => {
                    if let Some(peer) = machine.peer_of(id) {
                        machine.on_contact(now, peer);
                    }
                }
                LinkInput::Ping => machine.on_link(now, id, LinkEvent::Pinged),
                LinkInput::Pong { stood_still } => {
                    machine.on_link(now, id, LinkEvent::Pong { stood_still });
                }
                LinkInput::Hello(hello) => {
                    machine.on_link(now, id, LinkEvent::Opened(Box::new(hello)));
                }
                LinkInput::Refused(refusal) => {
                    machine.on_link(now, id, LinkEvent::Refused(refusal));
                }
            });
            let bytes = link.take_heard_bytes();
            if bytes > 0 {
                machine.on_link(now, id, LinkEvent::Heard(bytes));
            }
            self.unread |= link.wants_input();
        }
        self.bound_unfinished();
    }

    /// Closes the links with the longest unfinished messages while there are too many of them.
    fn bound_unfinished(&mut self) {
        loop {
            let mut total = 0;
            let mut longest = None;
            for (slot, link) in self.links.iter_mut().filter(|(_, link)| !link.is_dead()) {
                total += link.unfinished_bytes();
                longest = longest.max(Some((link.unfinished_bytes(), slot)));
            }
            let most = self.unfinished_bytes_max;
            if total <= most {
                return;
            }
            let (bytes, slot) = longest.expect("a link has them");
            let link = self.links.wake(slot).expect("just listed");
            link.fail(format_args!(
                "closed: {bytes} bytes of an unfinished message, all links may hold {most} \
                 (-max-memory, -max-request-bytes)"
            ));
        }
    }

    /// Whether the last `fill` has left bytes behind. Then no timer may conclude that a peer is
    /// silent.
    pub fn has_unread(&self) -> bool {
        self.unread
    }

    /// Phases 6 and 8: queues messages. A message to a peer without a link is dropped.
    pub fn send(&mut self, messages: &mut Vec<(PeerId, Message)>, machine: &Machine) {
        for (to, message) in messages.drain(..) {
            let slot = machine.route(to).and_then(|link| self.slots.get(&link));
            if let Some(link) = slot.and_then(|slot| self.links.wake(*slot)) {
                link.push(&message);
            }
        }
    }

    /// Phases 6 and 8, after `send`: carries out the machine's orders.
    pub fn carry_out(
        &mut self,
        orders: &mut Vec<LinkOrder>,
        registry: &Registry,
        resolver: &mut Resolver,
        now: Now,
    ) {
        for order in orders.drain(..) {
            match order {
                LinkOrder::Dial {
                    link,
                    url,
                    attempt,
                    hello,
                } => {
                    let dial = PendingDial {
                        link,
                        url,
                        attempt,
                        hello,
                    };
                    self.dial(dial, registry, resolver, now);
                }
                LinkOrder::Ping(id) => {
                    if let Some(link) = self.wake(id) {
                        link.ping();
                    }
                }
                LinkOrder::Pong { link, stood_still } => {
                    if let Some(link) = self.wake(link) {
                        link.pong(stood_still);
                    }
                }
                LinkOrder::Close { link, why } => match self.wake(link) {
                    Some(link) => link.close(why),
                    None => self.forget(link),
                },
                LinkOrder::Drop { link, why } => match self.wake(link) {
                    Some(link) => link.fail(why),
                    None => self.forget(link),
                },
            }
        }
    }

    fn wake(&mut self, id: LinkId) -> Option<&mut Link> {
        let slot = self.slots.get(&id)?;
        self.links.wake(*slot)
    }

    /// A link is given up that has no socket yet.
    fn forget(&mut self, id: LinkId) {
        self.pending.retain(|dial| dial.link != id);
    }

    /// Phases 6 and 9: writes the queue of each link until its socket takes no more, up to a bound.
    pub fn flush(&mut self) {
        for place in 0..self.links.ready_len() {
            if let Some(link) = self.links.ready_at(place) {
                link.flush(FLUSH_BYTES);
            }
        }
    }

    /// Phase 11: drops the links that have ended. Returns whether the machine got an input.
    pub fn reap(&mut self, machine: &mut Machine, now: Now) -> bool {
        let mut ended = Vec::new();
        self.links.settle(&mut ended, |_, link| {
            if link.is_dead() {
                return Settled::Ended;
            }
            Settled::Keep {
                deadline_us: None,
                ready: link.wants_input() || link.wants_flush(),
            }
        });
        let mut failed = std::mem::take(&mut self.failed);
        for slot in ended {
            let mut link = self.links.remove(slot).expect("it has just ended");
            self.slots.remove(&link.id());
            let end = link.take_end().expect("a dead link has an end");
            failed.push((link.id(), end));
        }
        let has_input = !failed.is_empty();
        for (link, end) in failed {
            machine.on_link(now, link, end);
        }
        has_input
    }

    /// Whether a link can go on without any event, or a dial has failed.
    pub fn has_work(&self) -> bool {
        self.links.has_work() || !self.failed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::peer::frame::{PIECE_BYTES_MAX, put_piece};
    use crate::shell::config::TlsFiles;
    use crate::shell::transport::accepted_pair;
    use std::io::Write;

    #[test]
    fn a_short_batch_of_a_peer_is_read_whatever_other_links_have_cost() {
        assert_eq!(share_of_link(0), LINK_READ_SHARE);
        assert_eq!(
            share_of_link(READ_SHARE - LINK_SHARE_MIN - 1),
            LINK_SHARE_MIN + 1
        );
        assert_eq!(share_of_link(READ_SHARE), LINK_SHARE_MIN);
        assert_eq!(share_of_link(usize::MAX), LINK_SHARE_MIN);
    }

    /// A member could fill the memory with messages that it never ends.
    #[test]
    fn beyond_the_bound_the_link_with_the_longest_unfinished_message_is_closed() {
        let connector = Connector::new(&TlsFiles::default());
        let mut links = Links::new(1_000, 3 * PIECE_BYTES_MAX, connector);
        let message = vec![0; 4 * PIECE_BYTES_MAX];
        let mut others = Vec::new();
        for (number, pieces) in [(1, 1), (2, 2), (3, 1)] {
            let mut wire = Vec::new();
            for piece in 0..pieces {
                put_piece(&message, piece * PIECE_BYTES_MAX, &mut wire);
            }
            let (transport, mut other) = accepted_pair();
            other.write_all(&wire).expect("the socket takes them");
            others.push(other);
            let parts = (transport, Vec::new());
            let mut link = Link::accept(LinkId(number), parts, &Hello::default());
            while link.unfinished_bytes() < pieces * PIECE_BYTES_MAX {
                assert!(link.wants_input(), "the bytes are there");
                link.fill(LINK_READ_SHARE, 1, |_, _| {});
            }
            links.links.insert_with(|_| link);
            links.bound_unfinished();
        }
        let all = links.links.iter_mut();
        let dead = all.map(|(_, link)| (link.id().0, link.is_dead()));
        let dead: Vec<(u64, bool)> = dead.collect();
        assert_eq!(dead, [(1, false), (2, true), (3, false)]);
    }
}
