//! The links of this machine: which to keep, which to admit, which process of a member wins, and
//! when to dial again.
//!
//! The shell owns the sockets. It reports what happens to links (`on_hello`, `on_event`), and
//! carries out [`LinkOrder`]s. Each machine dials the members of its configuration at their listed
//! addresses. While it hears no leader it also dials the addresses it was started with, so that a
//! cluster all of whose addresses have changed finds itself again (`dialling`).
//!
//! Rules for a hello, in this order:
//! 1. It proves a place in the cluster (`hello`). A sender that does not learns nothing.
//! 2. No other process of the member is connected, over either of its links. Another process is
//!    admitted when the first one has been silent and has not answered a ping.
//! 3. It advertises the listed address, or no machine with this id has answered at the listed
//!    address for `MISSING_US`. So the copy of a data directory does not take the place of the
//!    original while that one restarts (`addresses`).
//!
//! Each peer is pinged: raft waits longer for answers over a slow link (`round_trips`). A peer that
//! is not a member may send a bounded number of bytes (`budget`).
//!
//! Must not decide anything about raft. Start with [`Peers::follow`] and [`Peers::on_hello`].
mod addresses;
mod budget;
mod dialling;
mod ended;
mod episode;
mod former;
mod hello;
mod reports;
mod round_trips;

pub use addresses::NewAddress;
pub use episode::Episode;
pub use hello::{Hello, HelloRefusal, Introduced};
pub use reports::{LinkReport, LinkReportEvent};

use crate::core::raft::{Configuration, Member, PeerId, Violation, allowance_us};
use crate::core::random::XorShift64;
use crate::core::timer::Now;
use former::FormerClusters;
use round_trips::Pings;
use std::collections::BTreeMap;

/// A peer that has not answered the hello for this many election timeouts is dialled anew, later if
/// earlier hellos went unanswered (`hello_us`).
const PATIENCE_TIMEOUTS: u64 = 10;
/// Bounds of that time, in milliseconds.
const PATIENCE_MS_MIN: u64 = 500;
const PATIENCE_MS_MAX: u64 = 30_000;
/// How long a link to a former member is kept, in microseconds: the entry that removes the member
/// may still be in its queue.
const LEAVE_US: u64 = 5_000_000;
/// A second process of a member is admitted once the first one has left a ping unanswered for this
/// time, in microseconds, and for as long as raft waits for an answer over that link.
const SILENT_US: u64 = 300_000;
/// A hello of another process pings the links of the former one at most once in this time, in
/// microseconds. A peer answers a bounded number of pings (`PONG_US`), and it would seem silent if it
/// left one unanswered. These pings and those that measure round trips stay below that bound.
const HELLO_PING_US: u64 = 100_000;
/// A member counts as missing when no machine with its id has answered at its listed address, and
/// none of its links was heard, for this time, in microseconds.
const MISSING_US: u64 = 2_000_000;

/// Names a link. Never used twice by a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// What the shell is to do about a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkOrder {
    /// Connect to `url` and send `hello`. Then `LinkEvent::Opened`, `Refused` or `Closed` follows.
    Dial {
        /// The new link.
        link: LinkId,
        /// The peer URL.
        url: Box<str>,
        /// How many attempts have failed: chooses among several addresses of one name.
        attempt: u32,
        /// What to say.
        hello: Hello,
    },
    /// Send a ping; the other side answers with a pong. Whatever arrives next shows that its
    /// process runs.
    Ping(LinkId),
    /// Answer a ping.
    Pong {
        /// The link.
        link: LinkId,
        /// This process stood still before it could answer.
        stood_still: bool,
    },
    /// Close the link when its queue is written. `LinkEvent::Closed` follows.
    Close {
        /// The link.
        link: LinkId,
        /// The reason.
        why: &'static str,
    },
    /// Close the link at once. No event follows.
    Drop {
        /// The link.
        link: LinkId,
        /// The reason.
        why: &'static str,
    },
}

/// An event of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The other side has accepted the hello, and has answered with its own.
    Opened(Box<Hello>),
    /// So many bytes have arrived.
    Heard(u64),
    /// A ping has arrived.
    Pinged,
    /// The answer to a ping has arrived.
    Pong {
        /// The peer's process stood still before it answered.
        stood_still: bool,
    },
    /// The other side has refused the hello; the reason is `None` if it gave an unknown code.
    Refused(Option<HelloRefusal>),
    /// Nothing listens at the dialled address: its machine runs and has refused the connection.
    NotListening,
    /// The connection could not be made, or has ended, for this reason.
    Closed(Box<str>),
}

/// What the links tell about a member's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessChange {
    /// A link has opened.
    Up,
    /// The process is gone, as far as the links tell.
    Gone,
    /// The process has ended (`ended`).
    Ended,
    /// The round trip to it was measured once more.
    RoundTrip {
        /// The second slowest one of the last 20 s, in microseconds.
        round_trip_us: u32,
    },
}

/// How far a link is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkPhase {
    /// It is being dialled; the answer to the hello is due then, in microseconds.
    Asking { due_us: u64 },
    /// Messages may be exchanged with this process of the peer.
    Open { process: u64 },
    /// It closes once its queue is written. It still takes messages of the turn that closed it,
    /// and brings none.
    Closing,
}

/// One link.
#[derive(Debug)]
struct PeerLink {
    /// The member at the other end; `None` until whichever is at a dialled address has answered.
    peer: Option<PeerId>,
    /// The URL that was dialled; `None`: the peer has dialled this link.
    dialled_url: Option<Box<str>>,
    phase: LinkPhase,
    /// The URLs of the peer's hello: peer URL, client URL. Empty before it is open.
    advertised: (Box<str>, Box<str>),
    /// The incarnation of the peer's hello; 0 before the link is open.
    incarnation: u64,
    /// When bytes arrived last; at first, when the link was made.
    heard_us: u64,
    /// When a ping was ordered last; the first of several if nothing has arrived since.
    pinged_us: Option<u64>,
    /// The pongs so far count until then, each for `PONG_US`, in microseconds (`may_pong`).
    ponged_us: u64,
}

impl PeerLink {
    fn process(&self) -> Option<u64> {
        match self.phase {
            LinkPhase::Open { process } => Some(process),
            LinkPhase::Asking { .. } | LinkPhase::Closing => None,
        }
    }

    /// Whether the last ping was ordered less than `us` microseconds ago.
    fn was_pinged_within(&self, us: u64, now_us: u64) -> bool {
        self.pinged_us
            .is_some_and(|pinged_us| now_us < pinged_us + us)
    }

    /// When the first ping was ordered that is unanswered, if nothing has arrived since.
    fn unanswered_ping_us(&self) -> Option<u64> {
        self.pinged_us
            .filter(|pinged_us| *pinged_us > self.heard_us)
    }
}

/// A member of the configuration, or another machine that has a link.
#[derive(Debug, Default)]
struct Peer {
    /// It is in the configuration. The fields that follow are of its entry there.
    is_member: bool,
    is_voter: bool,
    name: Box<str>,
    peer_url: Box<str>,
    client_url: Box<str>,
    incarnation: u64,

    /// The link that this machine has dialled, open or not.
    dialled: Option<LinkId>,
    /// The link that the peer has dialled.
    accepted: Option<LinkId>,
    /// When it was dialled last, in microseconds.
    dialled_us: Option<u64>,
    /// When it is dialled next, in microseconds.
    redial_us: Option<u64>,
    /// How many dials in a row have failed.
    failures: u32,
    /// How many hellos to it in a row were given up before an answer came.
    given_up: u32,
    /// When the links to the former member are closed.
    leave_us: Option<u64>,

    /// Since when it is dialled at its listed address without an answer under its id. `None`: it
    /// has answered there last, or was not dialled since.
    unanswered_since_us: Option<u64>,
    /// When bytes arrived last from it.
    heard_us: Option<u64>,
    /// The process that was admitted last.
    process: Option<u64>,
    /// It refuses this machine's hellos because of another process of this member.
    refuses_twice: Option<TwiceRefusal>,
    /// The last answer from its listed address was that of a machine which is not this member.
    is_displaced: bool,
    /// The last refusal came from the member itself, which is still one of this cluster.
    is_known_to_run: bool,
    /// Why its listed address has refused the last hello. `None`: it has not, or gave no answer.
    refusal: Option<&'static str>,

    /// Pings to it.
    pings: Pings,

    /// Bytes that it has sent without effect, while it is not a member.
    spent_bytes: u64,
    /// Until when its hellos are refused because of that.
    blocked_until_us: u64,

    /// Lines about failed dials and ended links.
    failed: Episode,
    /// Lines about its hellos that were refused.
    refused: Episode,
    /// Lines about opened links.
    opened: Episode,
    /// Lines about its impossible messages.
    violated: Episode,
    /// Lines about its having gone on alone.
    went_on: Episode,
}

/// A voter refuses this machine's hellos because another process of this member is connected.
#[derive(Clone, Debug)]
struct TwiceRefusal {
    first_us: u64,
    last_us: u64,
    /// The peer URL that the other process advertises.
    other_url: Box<str>,
}

/// All links of this machine.
pub struct Peers {
    /// This machine.
    me: Introduced,
    /// The latest configuration in the log.
    members: Configuration,
    peers: BTreeMap<PeerId, Peer>,
    links: BTreeMap<LinkId, PeerLink>,
    /// The number of the last link.
    last_link: u64,
    /// Addresses besides those of the configuration.
    targets: Vec<dialling::DialTarget>,
    /// The leader that is heard; it may be this machine.
    leader: Option<PeerId>,
    /// Since when no leader is heard; `None`: one is, or this machine is not a member yet.
    leaderless_since_us: Option<u64>,
    /// The election timeout, in microseconds.
    election_us: u64,
    /// How long a peer may leave a hello unanswered, in microseconds.
    patience_us: u64,
    /// Spreads the pauses between dials.
    random: XorShift64,
    /// Lines about hellos that prove nothing: one episode for all strangers.
    strangers: Episode,
    former_clusters: FormerClusters,
    /// The time of the last input, in microseconds.
    seen_us: u64,
    /// When this process was last found to have stood still, in microseconds.
    stood_still_us: Option<u64>,
    /// When `on_time` has something to do; kept by `rearm`.
    due_us: Option<u64>,
    /// Addresses that a leader is to propose; kept by `rearm`.
    new_addresses: Vec<NewAddress>,

    // -- outputs
    orders: Vec<LinkOrder>,
    changes: Vec<(PeerId, ProcessChange)>,
    reports: Vec<LinkReport>,
}

/// How long a peer may leave a hello unanswered, or sent bytes unacknowledged, in milliseconds.
pub fn patience_ms(election_ms: u64) -> u64 {
    let patience_ms = election_ms.saturating_mul(PATIENCE_TIMEOUTS);
    patience_ms.clamp(PATIENCE_MS_MIN, PATIENCE_MS_MAX)
}

impl Peers {
    /// No links yet. `me` is this machine as a non-member; its process must not be 0.
    pub fn new(me: Introduced, election_ms: u64) -> Peers {
        assert!(me.process != 0, "each process has a number");
        Peers {
            random: XorShift64::new(me.process),
            me,
            members: Configuration::default(),
            peers: BTreeMap::new(),
            links: BTreeMap::new(),
            last_link: 0,
            targets: Vec::new(),
            leader: None,
            leaderless_since_us: None,
            election_us: election_ms.saturating_mul(1000),
            patience_us: patience_ms(election_ms) * 1000,
            strangers: Episode::default(),
            former_clusters: FormerClusters::default(),
            seen_us: 0,
            stood_still_us: None,
            due_us: None,
            new_addresses: Vec::new(),
            orders: Vec::new(),
            changes: Vec::new(),
            reports: Vec::new(),
        }
    }

    // -- the configuration

    /// Follows this machine's place: its id (`None`: it is not a member), its cluster's number and
    /// its data directory's. A machine that gets another place ends all links. Returns whether it
    /// did: then `on_members` is to be called.
    pub fn follow(&mut self, id: Option<PeerId>, cluster: Option<u64>, incarnation: u64) -> bool {
        let is_other_cluster = self.me.cluster.is_some() && self.me.cluster != cluster;
        let has_moved = id != self.me.id || incarnation != self.me.incarnation || is_other_cluster;
        self.me.id = id;
        self.me.cluster = cluster;
        self.me.incarnation = incarnation;
        if has_moved {
            self.members = Configuration::default();
            self.close_all();
        }
        has_moved
    }

    /// The configuration has changed: plans the end of links to former members, and dials new ones.
    pub fn on_members(&mut self, now: Now, members: &Configuration) {
        let Some(id) = self.me.id else {
            return;
        };
        let is_listed = |own: &Member| own.peer_url == self.me.peer_url;
        let own = |members: &Configuration| members.get(id).is_some_and(is_listed);
        let is_found = own(members) && !own(&self.members);
        self.members = members.clone();
        for (id, peer) in &mut self.peers {
            if members.get(*id).is_none() && peer.is_member {
                peer.is_member = false;
                peer.redial_us = None;
                peer.leave_us = Some(now.mono_us + LEAVE_US);
            }
        }
        for member in &members.members {
            if Some(member.id) == self.me.id {
                continue;
            }
            let peer = self.peers.entry(member.id).or_default();
            let is_moved = !peer.is_member || peer.peer_url != member.peer_url;
            peer.is_member = true;
            peer.is_voter = member.voter;
            peer.name = member.name.clone();
            peer.peer_url = member.peer_url.clone();
            peer.client_url = member.client_url.clone();
            peer.incarnation = member.incarnation;
            peer.leave_us = None;
            peer.spent_bytes = 0;
            if is_moved {
                peer.failures = 0;
                peer.is_displaced = false;
                peer.unanswered_since_us = None;
                peer.redial_us = Some(now.mono_us);
                let link = peer.dialled.and_then(|link| self.links.get(&link));
                let url = link.and_then(|link| link.dialled_url.clone());
                if url.is_some_and(|url| url != member.peer_url) {
                    let link = peer.dialled.expect("its URL was read");
                    self.drop_link(link, "the member has another address now");
                }
            }
        }
        if let Some(own) = members.get(id)
            && own.peer_url != self.me.peer_url
        {
            // Another member may be there: the two have exchanged their addresses.
            self.add_addresses(now, [&*own.peer_url]);
        }
        if is_found {
            // Peers that have refused the new address take it now.
            self.hurry(now);
        }
        self.rearm();
    }

    /// Ends every link: this machine has another place, or none. The last message of a leader that
    /// leaves names its successor, so that queues are written.
    fn close_all(&mut self) {
        let why = "this machine's place in its cluster has changed";
        for (id, link) in &mut self.links {
            link.phase = LinkPhase::Closing;
            self.orders.push(LinkOrder::Close { link: *id, why });
        }
        self.peers
            .retain(|_, peer| peer.dialled.is_some() || peer.accepted.is_some());
        for peer in self.peers.values_mut() {
            *peer = Peer {
                dialled: peer.dialled,
                accepted: peer.accepted,
                ..Peer::default()
            };
        }
        for target in &mut self.targets {
            target.on_place_changed();
        }
        self.rearm();
    }

    // -- links that peers dial

    /// Decides about a hello on the peer port. `source` is the address that it came from. Returns
    /// the new link, and the hello to answer with.
    ///
    /// # Errors
    ///
    /// Why the link is refused.
    pub fn on_hello(
        &mut self,
        now: Now,
        hello: &Hello,
        source: &str,
    ) -> Result<(LinkId, Hello), HelloRefusal> {
        self.note_time(now);
        let judged = if self.is_of_former_cluster(hello) {
            Err(HelloRefusal::WentOn)
        } else {
            self.me.judge(hello, &self.members)
        };
        let judged = judged.and_then(|()| self.admit_process(now, hello));
        let judged = judged.and_then(|()| self.check_room(now, hello.from));
        if let Err(refusal) = judged {
            self.report_refusal(now, hello, source, &refusal);
            self.rearm();
            return Err(refusal);
        }
        let link = self.open_link(now, hello, None);
        let peer = self.peers.get_mut(&hello.from).expect("just inserted");
        let former = peer.accepted.replace(link);
        if let Some(former) = former {
            self.drop_link(former, "the peer has opened another link");
        }
        if !self.has_open_dialled(hello.from) {
            self.changes.push((hello.from, ProcessChange::Up));
        }
        self.hurry(now);
        self.rearm();
        Ok((link, self.me.hello(Some(hello.from), &self.members)))
    }

    /// Adds an open link, and its peer if there is none.
    fn open_link(&mut self, now: Now, hello: &Hello, dialled_url: Option<Box<str>>) -> LinkId {
        self.last_link += 1;
        let link = LinkId(self.last_link);
        self.insert_open(now, link, hello, dialled_url);
        link
    }

    fn insert_open(
        &mut self,
        now: Now,
        link: LinkId,
        hello: &Hello,
        dialled_url: Option<Box<str>>,
    ) {
        let peer = self.peers.entry(hello.from).or_default();
        if !peer.is_member {
            peer.name = hello.name.clone();
            peer.peer_url = hello.peer_url.clone();
        }
        let former = peer.process.replace(hello.process);
        if former.is_some_and(|former| former != hello.process) {
            self.changes.push((hello.from, ProcessChange::Ended));
        }
        peer.heard_us = Some(now.mono_us);
        peer.pings.on_open(now.mono_us);
        let is_listed = dialled_url.as_ref() == Some(&peer.peer_url);
        if is_listed || hello.peer_url == peer.peer_url {
            peer.unanswered_since_us = None;
        }
        let phase = LinkPhase::Open {
            process: hello.process,
        };
        let opened = PeerLink {
            peer: Some(hello.from),
            dialled_url,
            phase,
            advertised: (hello.peer_url.clone(), hello.client_url.clone()),
            incarnation: hello.incarnation,
            heard_us: now.mono_us,
            pinged_us: None,
            ponged_us: 0,
        };
        self.links.insert(link, opened);
    }

    /// One process of a member is heard at a time, over both of its links; and its address is the
    /// listed one unless the member is missing there.
    fn admit_process(&mut self, now: Now, hello: &Hello) -> Result<(), HelloRefusal> {
        let Some(peer) = self.peers.get(&hello.from) else {
            return Ok(());
        };
        let silent_us = SILENT_US + allowance_us(peer.pings.figure_us());
        for id in [peer.dialled, peer.accepted].into_iter().flatten() {
            let link = self.links.get_mut(&id).expect("a peer's links exist");
            if link.process().is_none_or(|p| p == hello.process) {
                continue;
            }
            match link.unanswered_ping_us() {
                Some(pinged_us) if now.mono_us >= pinged_us + silent_us => {
                    let why = "its process is silent, and another one has come";
                    self.orders.push(LinkOrder::Drop { link: id, why });
                    self.remove_link(now, id, why);
                    continue;
                }
                Some(_) => {}
                // It was pinged just now, and bytes have arrived since.
                None if link.was_pinged_within(HELLO_PING_US, now.mono_us) => {}
                None => {
                    link.pinged_us = Some(now.mono_us);
                    self.orders.push(LinkOrder::Ping(id));
                }
            }
            let other_url = self.links[&id].advertised.0.clone();
            return Err(HelloRefusal::Twice { other_url });
        }
        self.admit_address(now, hello)
    }

    // -- what happens to links

    /// Something has happened to a link. Events of links that were closed here are ignored.
    pub fn on_event(&mut self, now: Now, id: LinkId, event: LinkEvent) {
        self.note_time(now);
        if !self.links.contains_key(&id) {
            return;
        }
        match event {
            LinkEvent::Heard(bytes) => return self.on_heard(now, id, bytes),
            LinkEvent::Pinged => return self.on_pinged(now, id),
            LinkEvent::Pong { stood_still } => {
                if !self.on_pong(now, id, stood_still) {
                    return;
                }
            }
            LinkEvent::Opened(hello) => self.on_answer(now, id, &hello),
            LinkEvent::Refused(refusal) => self.on_refused(now, id, refusal),
            LinkEvent::NotListening => self.on_not_listening(now, id),
            LinkEvent::Closed(why) => self.on_closed(now, id, &why),
        }
        self.rearm();
    }

    fn on_heard(&mut self, now: Now, id: LinkId, bytes: u64) {
        let link = self.links.get_mut(&id).expect("looked at above");
        link.heard_us = now.mono_us;
        let Some(peer) = link.peer.and_then(|peer| self.peers.get_mut(&peer)) else {
            return;
        };
        if link.process().is_none() {
            return;
        }
        peer.heard_us = Some(now.mono_us);
        if peer.is_member {
            return;
        }
        if peer.has_spent_all(now, bytes) {
            self.drop_link(id, "it is not a member, and what it sends leads nowhere");
        }
    }

    /// A notice of removal is queued for a peer: its link closes behind it.
    pub fn on_notice(&mut self, to: PeerId) {
        let Some(id) = self.route(to) else {
            return;
        };
        let link = self.links.get_mut(&id).expect("routed over it");
        if link.process().is_some() {
            link.phase = LinkPhase::Closing;
            let why = "the peer was removed, and this was its notice";
            self.orders.push(LinkOrder::Close { link: id, why });
        }
    }

    /// A peer has sent a message that no correct peer sends: its links are closed. It may open
    /// another one, and a member is dialled again after a pause.
    pub fn on_violation(&mut self, now: Now, id: PeerId, violation: Violation) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let links = [peer.dialled, peer.accepted];
        if let Some(suppressed) = peer.violated.is_due(now.mono_us) {
            self.reports.push(LinkReport {
                name: Some(peer.name.clone()),
                address: peer.peer_url.clone(),
                event: LinkReportEvent::Violated(violation),
                suppressed,
            });
        }
        for link in links.into_iter().flatten() {
            let why = "a message that no correct peer sends";
            self.orders.push(LinkOrder::Drop { link, why });
            self.end_refused(now, link, why);
        }
        self.rearm();
    }

    /// The time of `next_deadline` has come.
    pub fn on_time(&mut self, now: Now) {
        self.note_time(now);
        if self.due_us.is_none_or(|due_us| due_us > now.mono_us) {
            return;
        }
        let mut late = Vec::new();
        for (id, link) in &self.links {
            if let LinkPhase::Asking { due_us } = link.phase
                && due_us <= now.mono_us
            {
                late.push(*id);
            }
        }
        for id in late {
            let why = "no answer to the hello in time";
            self.note_given_up(id);
            self.orders.push(LinkOrder::Drop { link: id, why });
            self.remove_link(now, id, why);
        }
        self.leave(now);
        self.dial_due(now);
        self.ping_due(now);
        self.rearm();
    }

    fn leave(&mut self, now: Now) {
        let mut leaving = Vec::new();
        for (id, peer) in &mut self.peers {
            if peer.leave_us.take_if(|at| *at <= now.mono_us).is_some() {
                leaving.push(*id);
            }
        }
        for id in leaving {
            // A machine that has missed its removal dials again, and gets its notice then.
            let links = [self.peers[&id].dialled, self.peers[&id].accepted];
            for link in links.into_iter().flatten() {
                self.drop_link(link, "it is not a member any more");
            }
            self.maybe_forget_peer(id);
        }
    }

    /// Orders the end of a link. The member's process is reported as gone if that was its last one.
    fn drop_link(&mut self, link: LinkId, why: &'static str) {
        if self.links.contains_key(&link) {
            self.orders.push(LinkOrder::Drop { link, why });
            self.forget(link);
        }
    }

    /// Removes a link from all tables. Returns it.
    fn forget(&mut self, id: LinkId) -> PeerLink {
        let link = self.links.remove(&id).expect("looked at by the caller");
        for target in &mut self.targets {
            target.maybe_end_link(id);
        }
        let Some(peer_id) = link.peer else {
            return link;
        };
        if let Some(peer) = self.peers.get_mut(&peer_id) {
            peer.dialled.take_if(|l| *l == id);
            peer.accepted.take_if(|l| *l == id);
        }
        let was_open = link.process().is_some();
        let is_last = self.route(peer_id).is_none();
        if let Some(peer) = self.peers.get_mut(&peer_id) {
            peer.pings.on_closed(id, !is_last, self.seen_us);
        }
        if was_open && (link.dialled_url.is_some() || is_last) {
            self.report_gone(peer_id);
        }
        link
    }

    /// A peer that is not a member is kept only while it has a link.
    fn maybe_forget_peer(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let has_link = peer.dialled.is_some() || peer.accepted.is_some();
        if !peer.is_member && !has_link && peer.leave_us.is_none() {
            self.peers.remove(&id);
        }
    }

    // -- outputs

    /// Why a member's listed address refuses this machine's hellos; `None` if it does not, or does
    /// not answer. The rest of a sentence that begins with that machine.
    pub fn refusal_of(&self, id: PeerId) -> Option<&'static str> {
        self.peers.get(&id)?.refusal
    }

    /// Whether a member of this cluster refuses this machine's hellos, for certain: not another machine
    /// at its address, and none that has gone on without the others.
    pub fn is_refused_by(&self, id: PeerId) -> bool {
        let peer = self.peers.get(&id);
        peer.is_some_and(|peer| peer.refusal.is_some() && peer.is_known_to_run)
    }

    /// The link that carries messages to a peer: the one that this machine has dialled, else the
    /// one that the peer has. `None`: there is none, and messages are dropped.
    pub fn route(&self, to: PeerId) -> Option<LinkId> {
        let peer = self.peers.get(&to)?;
        let links = [peer.dialled, peer.accepted].into_iter().flatten();
        let mut closing = None;
        for id in links {
            match self.links[&id].phase {
                LinkPhase::Open { .. } => return Some(id),
                LinkPhase::Closing => closing = closing.or(Some(id)),
                LinkPhase::Asking { .. } => {}
            }
        }
        closing
    }

    /// The member at the other end of an open link; `None`: what the link brings is not heard.
    pub fn peer_of(&self, link: LinkId) -> Option<PeerId> {
        let link = self.links.get(&link)?;
        link.peer.filter(|_| link.process().is_some())
    }

    /// The name and the peer URL of a peer, as the configuration or its hello says; empty if
    /// neither does.
    pub fn name_and_address(&self, id: PeerId) -> (Box<str>, Box<str>) {
        match self.peers.get(&id) {
            Some(peer) => (peer.name.clone(), peer.peer_url.clone()),
            None => Default::default(),
        }
    }

    /// Whether a peer is in the configuration.
    pub fn is_member(&self, id: PeerId) -> bool {
        self.peers.get(&id).is_some_and(|peer| peer.is_member)
    }

    /// Moves the orders to the end of `out`.
    pub fn take_orders(&mut self, out: &mut Vec<LinkOrder>) {
        out.append(&mut self.orders);
    }

    /// Processes of members that came and went, in order.
    pub fn take_changes(&mut self) -> Vec<(PeerId, ProcessChange)> {
        std::mem::take(&mut self.changes)
    }

    /// Takes the reports for the log.
    pub fn take_reports(&mut self) -> Vec<LinkReport> {
        std::mem::take(&mut self.reports)
    }

    /// When `on_time` has something to do, in microseconds of the monotonic clock.
    pub fn next_deadline(&self) -> Option<u64> {
        self.due_us
    }

    fn has_open_dialled(&self, id: PeerId) -> bool {
        let link = self.peers.get(&id).and_then(|peer| peer.dialled);
        link.is_some_and(|link| self.links[&link].process().is_some())
    }

    /// Called after each input that changes the tables: O(number of links).
    fn check_invariants(&self) {
        for (id, link) in &self.links {
            let Some(peer_id) = link.peer else {
                continue;
            };
            let peer = &self.peers[&peer_id];
            let is_held = [peer.dialled, peer.accepted].contains(&Some(*id));
            assert!(is_held, "a link is held by its peer");
        }
        for (id, peer) in &self.peers {
            let is_dialled = peer.dialled.is_some() || peer.redial_us.is_some();
            assert!(
                is_dialled || !peer.is_member || Some(*id) == self.me.id,
                "a member without a link is dialled"
            );
            let held = [peer.dialled, peer.accepted].into_iter().flatten();
            let mut processes = held.filter_map(|id| self.links[&id].process());
            let first = processes.next();
            assert!(
                processes.all(|process| Some(process) == first),
                "one process of a member is heard"
            );
        }
    }
}

#[cfg(test)]
mod tests;
