//! Interleavings of links among machines that share a list of members. Addresses are URLs that one
//! machine at a time listens on.
use super::budget::{BLOCK_US, STRANGER_BYTES_MAX, STRANGERS_MAX};
use super::*;
use crate::core::raft::Member;

const CLUSTER: u64 = 9;
const STEP_US: u64 = 10_000;

pub(super) fn url(name: &str) -> Box<str> {
    format!("http://{name}:7001").into()
}

fn member(id: u64, peer_url: &str) -> Member {
    Member {
        id: PeerId(id),
        name: format!("n{id}").into(),
        peer_url: peer_url.into(),
        client_url: format!("{peer_url}/client").into(),
        incarnation: id * 100,
        voter: true,
        added_as: None,
    }
}

/// The member `id` at an address of its own.
pub(super) fn numbered_member(id: u64) -> Member {
    member(id, &url(&format!("n{id}")))
}

pub(super) fn members(urls: &[&str]) -> Configuration {
    let ids = 1..;
    let members = ids.zip(urls).map(|(id, name)| member(id, &url(name)));
    Configuration {
        members: members.collect(),
        barred: Vec::new(),
    }
}

/// One process, at one address.
pub(super) struct Process {
    pub(super) peers: Peers,
    url: Box<str>,
    /// It neither reads nor answers, and its connections stay.
    pub(super) is_frozen: bool,
    is_gone: bool,
    reports: Vec<LinkReport>,
    pub(super) changes: Vec<(PeerId, ProcessChange)>,
}

/// Processes and the connections between them.
pub(super) struct Site {
    pub(super) now: Now,
    pub(super) processes: Vec<Process>,
    /// Both ends of each connection.
    connections: Vec<[(usize, LinkId); 2]>,
    /// Another URL of a process, and its own.
    pub(super) alias: Option<(Box<str>, Box<str>)>,
}

impl Site {
    fn new() -> Site {
        Site {
            now: Now {
                mono_us: 1_000_000,
                wall_ns: 0,
            },
            processes: Vec::new(),
            connections: Vec::new(),
            alias: None,
        }
    }

    /// The members of a list, each at its address.
    pub(super) fn of(urls: &[&str]) -> Site {
        let mut site = Site::new();
        for (id, name) in (1..).zip(urls) {
            site.start(id, name, &members(urls));
        }
        site.pass_ms(100);
        site
    }

    /// Starts a process with the data directory of member `id`. Returns its place.
    pub(super) fn start(&mut self, id: u64, name: &str, list: &Configuration) -> usize {
        let place = self.processes.len();
        let me = Introduced {
            id: None,
            cluster: None,
            incarnation: id * 100,
            process: 1000 + place as u64,
            name: format!("n{id}").into(),
            peer_url: url(name),
            client_url: format!("{}/client", url(name)).into(),
        };
        let mut peers = Peers::new(me, 200);
        assert!(peers.follow(Some(PeerId(id)), Some(CLUSTER), id * 100));
        peers.on_members(self.now, list);
        peers.on_leader(self.now, None);
        self.processes.push(Process {
            peers,
            url: url(name),
            is_frozen: false,
            is_gone: false,
            reports: Vec::new(),
            changes: Vec::new(),
        });
        place
    }

    pub(super) fn peers(&self, place: usize) -> &Peers {
        &self.processes[place].peers
    }

    /// The process ends; the other sides see its connections close.
    pub(super) fn stop(&mut self, place: usize) {
        self.processes[place].is_gone = true;
        for link in self.links_of(place) {
            self.close(place, link);
        }
    }

    pub(super) fn links_of(&self, place: usize) -> Vec<LinkId> {
        let ends = self.connections.iter().flatten();
        ends.filter(|end| end.0 == place).map(|end| end.1).collect()
    }

    /// One side closes a connection; the other side is told, unless it is frozen.
    pub(super) fn close(&mut self, place: usize, link: LinkId) {
        let at = self
            .connections
            .iter()
            .position(|ends| ends.contains(&(place, link)));
        let Some(at) = at else {
            return;
        };
        let [one, other] = self.connections.remove(at);
        let told = if one == (place, link) { other } else { one };
        let event = LinkEvent::Closed("closed by the peer".into());
        self.processes[told.0]
            .peers
            .on_event(self.now, told.1, event);
    }

    pub(super) fn pass_ms(&mut self, ms: u64) {
        let until_us = self.now.mono_us + ms * 1000;
        while self.now.mono_us < until_us {
            self.now.mono_us += STEP_US;
            for place in 0..self.processes.len() {
                let process = &mut self.processes[place];
                if !process.is_frozen && !process.is_gone {
                    process.peers.on_time(self.now);
                    self.carry_out(place);
                }
            }
        }
    }

    fn carry_out(&mut self, place: usize) {
        let mut orders = Vec::new();
        let process = &mut self.processes[place];
        process.peers.take_orders(&mut orders);
        process.reports.append(&mut process.peers.take_reports());
        process.changes.append(&mut process.peers.take_changes());
        for order in orders {
            match order {
                LinkOrder::Dial {
                    link, url, hello, ..
                } => self.dial(place, link, &url, &hello),
                LinkOrder::Ping(link) => self.tell_other(place, link, LinkEvent::Pinged),
                LinkOrder::Pong { link, stood_still } => {
                    self.tell_other(place, link, LinkEvent::Pong { stood_still });
                }
                LinkOrder::Drop { link, .. } => self.close(place, link),
                LinkOrder::Close { link, why } => {
                    self.close(place, link);
                    let event = LinkEvent::Closed(why.into());
                    self.processes[place].peers.on_event(self.now, link, event);
                }
            }
        }
    }

    fn dial(&mut self, place: usize, link: LinkId, url: &str, hello: &Hello) {
        let url = match &self.alias {
            Some((alias, real)) if **alias == *url => real,
            Some(_) | None => url,
        };
        let mut there = (0..self.processes.len()).rev();
        let listening = there.find(|at| {
            let process = &self.processes[*at];
            *process.url == *url && !process.is_gone
        });
        let event = match listening {
            None => LinkEvent::NotListening,
            Some(at) if self.processes[at].is_frozen => return,
            Some(at) => {
                let peers = &mut self.processes[at].peers;
                match peers.on_hello(self.now, hello, "10.0.0.9") {
                    Ok((accepted, answer)) => {
                        self.connections.push([(place, link), (at, accepted)]);
                        LinkEvent::Opened(Box::new(answer))
                    }
                    Err(refusal) => LinkEvent::Refused(Some(refusal)),
                }
            }
        };
        self.processes[place].peers.on_event(self.now, link, event);
    }

    /// A frame travels to the other end of a link, in a microsecond.
    fn tell_other(&mut self, place: usize, link: LinkId, event: LinkEvent) {
        let mut all = self.connections.iter();
        let Some(ends) = all.find(|ends| ends.contains(&(place, link))) else {
            return;
        };
        let other = if ends[0] == (place, link) {
            ends[1]
        } else {
            ends[0]
        };
        if !self.processes[other.0].is_frozen {
            self.now.mono_us += 1;
            let peers = &mut self.processes[other.0].peers;
            peers.on_event(self.now, other.1, event);
            peers.on_event(self.now, other.1, LinkEvent::Heard(8));
            self.carry_out(other.0);
        }
    }

    /// Whether a process exchanges messages with that very other one.
    pub(super) fn is_linked(&self, one: usize, other: usize) -> bool {
        let mut all = self.connections.iter();
        all.any(|ends| {
            let places = [ends[0].0, ends[1].0];
            let is_pair = places == [one, other] || places == [other, one];
            is_pair
                && ends
                    .iter()
                    .all(|(at, link)| self.peers(*at).peer_of(*link).is_some())
        })
    }
}

#[test]
fn members_link_to_each_other_both_ways() {
    let site = Site::of(&["a", "b", "c"]);
    assert_eq!(site.connections.len(), 6);
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        assert!(site.is_linked(one, other));
    }
}

/// The copy of a data directory runs beside the original.
#[test]
fn protocol_09_a_copy_beside_the_original_is_turned_away_and_learns_why() {
    let mut site = Site::of(&["a", "b", "c"]);
    let copy = site.start(3, "copy", &members(&["a", "b", "c"]));
    site.pass_ms(1_500);
    assert_eq!(site.peers(copy).superseded_by(site.now), None, "not yet");
    // The copy tells its address over HTTP, again and again: it is dialled there.
    for _ in 0..40 {
        let now = site.now;
        site.processes[0].peers.on_hint(now, &url("copy"));
        site.pass_ms(200);
    }
    let original = url("c");
    assert_eq!(site.peers(copy).superseded_by(site.now), Some(original));
    for place in 0..2 {
        assert!(site.is_linked(place, 2), "the original stays");
        assert!(!site.is_linked(place, copy));
        assert!(site.peers(place).new_addresses().is_empty());
        assert_eq!(site.peers(place).superseded_by(site.now), None);
    }
    assert_eq!(site.peers(2).superseded_by(site.now), None);
}

/// A copy that comes while the original restarts does not take its place.
#[test]
fn protocol_10_a_copy_does_not_come_in_while_the_original_restarts() {
    let list = members(&["a", "b", "c"]);
    let mut site = Site::of(&["a", "b", "c"]);
    let copy = site.start(3, "copy", &list);
    site.pass_ms(500);
    site.stop(2);
    site.pass_ms(1_500);
    assert!(
        !site.is_linked(0, copy),
        "the listed address is tried first"
    );
    let original = site.start(3, "c", &list);
    site.pass_ms(5_000);
    assert!(site.is_linked(0, original) && site.is_linked(1, original));
    assert!(!site.is_linked(0, copy));
    assert!(site.peers(0).new_addresses().is_empty());
}

/// A member that has moved is believed once its former address is silent.
#[test]
fn protocol_10_a_member_that_has_moved_is_found_and_its_address_is_proposed() {
    let mut site = Site::of(&["a", "b", "c"]);
    site.stop(2);
    let moved = site.start(3, "new", &members(&["a", "b", "c"]));
    site.pass_ms(1_000);
    assert!(!site.is_linked(0, moved));
    site.pass_ms(4_000);
    assert!(site.is_linked(0, moved) && site.is_linked(1, moved));
    let proposed = site.peers(0).new_addresses();
    assert_eq!(proposed.len(), 1);
    assert_eq!(
        (proposed[0].id, &proposed[0].peer_url),
        (PeerId(3), &url("new"))
    );
    // The list follows.
    let now = site.now;
    for place in [0, 1, moved] {
        let list = members(&["a", "b", "new"]);
        site.processes[place].peers.on_members(now, &list);
    }
    site.pass_ms(1_000);
    assert!(site.peers(0).new_addresses().is_empty());
    assert!(site.is_linked(0, moved));
}

/// A member moves to an address at which another member was. Its list is so old that it does not
/// have the leader, which dials where the member says that it is.
#[test]
fn protocol_10_a_member_is_dialled_where_another_one_was() {
    let mut site = Site::of(&["a", "b", "c"]);
    let now = site.now;
    site.processes[0].peers.on_leader(now, Some(PeerId(1)));
    let mut old_list = members(&["a", "gone", "gone"]);
    old_list.members.remove(0);
    // Member 2 is at x for a while, and back at b.
    site.stop(1);
    let at_x = site.start(2, "x", &old_list);
    site.pass_ms(3_000);
    let now = site.now;
    site.processes[0].peers.on_hint(now, &url("x"));
    site.pass_ms(100);
    assert!(site.is_linked(0, at_x));
    site.stop(at_x);
    let back = site.start(2, "b", &members(&["a", "b", "c"]));
    site.stop(2);
    site.pass_ms(3_000);
    assert!(site.is_linked(0, back));
    let moved = site.start(3, "x", &old_list);
    let now = site.now;
    site.processes[0].peers.on_hint(now, &url("x"));
    site.pass_ms(100);
    assert!(site.is_linked(0, moved));
    assert!(site.is_linked(0, back));
}

/// No member is at its listed address any more.
#[test]
fn protocol_10_members_that_have_all_moved_find_each_other_by_the_given_addresses() {
    let mut site = Site::new();
    let list = members(&["a", "b", "c"]);
    let given = ["x", "y", "z"];
    for (id, name) in (1..).zip(given) {
        let place = site.start(id, name, &list);
        let urls = given.map(url);
        let now = site.now;
        let peers = &mut site.processes[place].peers;
        peers.add_addresses(now, urls.iter().map(|u| &**u));
    }
    site.pass_ms(8_000);
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        assert!(site.is_linked(one, other), "{one} and {other}");
    }
    assert_eq!(site.peers(0).new_addresses().len(), 2);
    // Once a leader is heard, other addresses than the listed ones are left alone.
    for place in 0..3 {
        let now = site.now;
        site.processes[place].peers.on_leader(now, Some(PeerId(1)));
        site.processes[place]
            .peers
            .on_members(now, &members(&given));
    }
    site.pass_ms(1_000);
    assert!(site.peers(0).new_addresses().is_empty());
}

/// A and B exchange their addresses.
#[test]
fn protocol_10_two_members_that_exchange_addresses_are_both_found() {
    let list = members(&["a", "b", "c"]);
    let mut site = Site::of(&["a", "b", "c"]);
    site.stop(0);
    site.stop(1);
    let first = site.start(1, "b", &list);
    let second = site.start(2, "a", &list);
    site.pass_ms(6_000);
    assert!(site.is_linked(2, first) && site.is_linked(2, second));
    let proposed: Vec<_> = site
        .peers(2)
        .new_addresses()
        .iter()
        .map(|a| (a.id.0, a.peer_url.clone()))
        .collect();
    assert_eq!(proposed, [(1, url("b")), (2, url("a"))]);
    assert!(!site.peers(2).is_answering_at("n1", &url("a")));
}

/// A machine whose list is older gives the own address to a member that answers elsewhere by now.
#[test]
fn protocol_10_a_member_that_answers_elsewhere_does_not_take_the_own_address() {
    let site = Site::of(&["a", "b"]);
    assert!(site.processes[0].peers.is_answering_at("n2", &url("b")));
    assert!(!site.processes[0].peers.is_answering_at("n2", &url("a")));
}

/// No other member can tell them the new addresses.
#[test]
fn protocol_10_the_only_two_members_exchange_their_addresses() {
    let mut site = Site::new();
    let list = members(&["a", "b"]);
    let first = site.start(1, "b", &list);
    let second = site.start(2, "a", &list);
    site.pass_ms(6_000);
    assert!(site.is_linked(first, second));
    assert_eq!(site.peers(first).new_addresses().len(), 1);
}

/// No member is at its listed address, and at each of them is another one.
#[test]
fn protocol_10_members_that_have_all_exchanged_addresses_find_each_other() {
    let mut site = Site::new();
    let list = members(&["a", "b", "c", "d"]);
    for (id, name) in (1..).zip(["b", "a", "d", "c"]) {
        site.start(id, name, &list);
    }
    site.pass_ms(8_000);
    for one in 0..4 {
        for other in 0..one {
            assert!(site.is_linked(one, other), "{one} and {other}");
        }
    }
    assert_eq!(site.peers(0).new_addresses().len(), 3);
}

/// The list and `-peers` name a machine differently: each address is tried once.
#[test]
fn another_address_of_a_linked_member_is_dialled_once() {
    let mut site = Site::of(&["a", "b"]);
    site.alias = Some((url("alias"), url("b")));
    site.processes[0].changes.clear();
    let now = site.now;
    let peers = &mut site.processes[0].peers;
    peers.add_addresses(now, [&*url("alias")]);
    site.pass_ms(10_000);
    assert!(site.is_linked(0, 1));
    let changes = site.processes[0].changes.iter();
    let gone = changes.filter(|(_, change)| *change == ProcessChange::Gone);
    assert!(gone.count() <= 2, "each address replaces the link once");
}

/// An address counts as taken while its member answers there.
#[test]
fn protocol_10_an_address_that_another_member_answers_at_is_taken() {
    let mut site = Site::of(&["a", "b", "c"]);
    assert!(site.peers(0).is_taken(&url("b"), PeerId(3)));
    assert!(!site.peers(0).is_taken(&url("b"), PeerId(2)));
    site.stop(1);
    assert!(!site.peers(0).is_taken(&url("b"), PeerId(3)));
}

/// A process loses its network, and its links do not close.
#[test]
fn protocol_09_another_process_is_admitted_when_the_first_one_answers_no_ping() {
    let list = members(&["a", "b", "c"]);
    let mut site = Site::of(&["a", "b", "c"]);
    site.processes[2].is_frozen = true;
    let again = site.start(3, "c", &list);
    site.pass_ms(3_000);
    assert!(site.is_linked(0, again) && site.is_linked(1, again));
    assert_eq!(site.peers(again).superseded_by(site.now), None);
    let gone = site.processes[0].changes.iter();
    let gone = gone.filter(|c| **c == (PeerId(3), ProcessChange::Gone));
    assert!(gone.count() >= 1, "the former process was reported as gone");
}

/// The links of a process that is silent are dropped when a copy of its directory says hello from
/// another address. The copy is refused, and the member is dialled again where it is listed.
#[test]
fn protocol_09_a_silent_member_is_dialled_again_after_a_copy_was_refused() {
    let mut site = Site::of(&["a", "b", "c"]);
    site.processes[2].is_frozen = true;
    let copy = site.start(3, "copy", &members(&["a", "b", "c"]));
    let dropped = |site: &Site| !site.is_linked(0, 2) && !site.is_linked(1, 2);
    let mut waited_ms = 0;
    while !dropped(&site) {
        let now = site.now;
        site.processes[0].peers.on_hint(now, &url("copy"));
        site.processes[1].peers.on_hint(now, &url("copy"));
        site.pass_ms(100);
        waited_ms += 100;
        assert!(waited_ms < 10_000, "its links are dropped");
    }
    site.processes[2].is_frozen = false;
    site.stop(copy);
    site.pass_ms(5_000);
    assert!(site.is_linked(0, 2) && site.is_linked(1, 2));
}

/// A member answers few pings. Many hellos of a copy do not use them up, so that an answer that the
/// member withholds does not pass for silence.
#[test]
fn protocol_09_many_hellos_of_a_copy_do_not_make_a_member_seem_silent() {
    let mut site = Site::of(&["a", "b", "c"]);
    site.pass_ms(1_000);
    let hello = Hello {
        from: PeerId(3),
        to: Some(PeerId(1)),
        process: 77,
        cluster: Some(CLUSTER),
        incarnation: 300,
        peer_url: url("c"),
        ..Hello::default()
    };
    let connections = site.connections.clone();
    for _ in 0..50 {
        for _ in 0..10 {
            let now = site.now;
            let result = site.processes[0].peers.on_hello(now, &hello, "10.0.0.9");
            assert!(
                matches!(result, Err(HelloRefusal::Twice { .. })),
                "{result:?}"
            );
            site.carry_out(0);
            site.now.mono_us += 100;
        }
        // Without a message of its own for longer than a silent process is waited for.
        site.pass_ms(400);
        assert_eq!(site.connections, connections);
    }
}

/// Both links are compared. The accepted one is of the first process; the answer to the
/// dialled one comes from another.
#[test]
fn protocol_09_an_answer_of_another_process_is_not_heard_beside_an_accepted_link() {
    let mut site = Site::of(&["a"]);
    let list = members(&["a", "b"]);
    let now = site.now;
    site.processes[0].peers.on_members(now, &list);
    let hello = |process| Hello {
        from: PeerId(2),
        to: Some(PeerId(1)),
        process,
        incarnation: 200,
        name: "n2".into(),
        peer_url: url("b"),
        client_url: "http://b:7001/client".into(),
        ..Hello::default()
    };
    let peers = &mut site.processes[0].peers;
    let (accepted, _) = peers.on_hello(now, &hello(1), "").expect("the first");
    peers.on_time(now);
    let mut orders = Vec::new();
    peers.take_orders(&mut orders);
    let dialled = orders.iter().find_map(|order| match order {
        LinkOrder::Dial { link, .. } => Some(*link),
        _ => None,
    });
    let dialled = dialled.expect("it is dialled");
    peers.on_event(now, dialled, LinkEvent::Opened(Box::new(hello(2))));
    assert_eq!(peers.peer_of(dialled), None);
    assert_eq!(peers.peer_of(accepted), Some(PeerId(2)));
    peers.take_orders(&mut orders);
    assert!(orders.contains(&LinkOrder::Ping(accepted)));
}

/// A lagging follower does not know its new leader.
#[test]
fn protocol_11_what_an_unknown_member_sends_is_bounded_unless_it_leads_somewhere() {
    let mut site = Site::of(&["a"]);
    let now = site.now;
    let hello = Hello {
        from: PeerId(50),
        process: 7,
        incarnation: 1,
        cluster: Some(CLUSTER),
        name: "n50".into(),
        peer_url: url("x"),
        client_url: url("x"),
        ..Hello::default()
    };
    let peers = &mut site.processes[0].peers;
    let (link, _) = peers
        .on_hello(now, &hello, "")
        .expect("its cluster's number");
    for _ in 0..10 {
        peers.on_event(now, link, LinkEvent::Heard(STRANGER_BYTES_MAX));
        assert_eq!(peers.peer_of(link), Some(PeerId(50)));
        peers.on_progress(PeerId(50));
    }
    peers.on_event(now, link, LinkEvent::Heard(STRANGER_BYTES_MAX));
    peers.on_event(now, link, LinkEvent::Heard(1));
    assert_eq!(peers.peer_of(link), None);
    let refused = peers.on_hello(now, &hello, "").expect_err("for some time");
    assert_eq!(refused, HelloRefusal::Busy);
    let later = Now {
        mono_us: now.mono_us + BLOCK_US,
        ..now
    };
    assert!(peers.on_hello(later, &hello, "").is_ok());
}

#[test]
fn protocol_08_strangers_take_no_room_of_members_and_few_lines() {
    let mut site = Site::of(&["a", "b"]);
    let now = site.now;
    let peers = &mut site.processes[0].peers;
    peers.take_reports();
    let hello = |from: u64| Hello {
        from: PeerId(from),
        process: from,
        incarnation: 1,
        cluster: Some(CLUSTER),
        name: "noise".into(),
        ..Hello::default()
    };
    for from in 0..100 {
        let admitted = peers.on_hello(now, &hello(100 + from), "").is_ok();
        assert_eq!(admitted, from < STRANGERS_MAX as u64);
    }
    let foreign = Hello {
        cluster: Some(1),
        ..hello(1 << 40)
    };
    for second in 0..60 {
        let later = Now {
            mono_us: now.mono_us + second * 1_000_000,
            ..now
        };
        let refusal = peers.on_hello(later, &foreign, "10.0.0.9");
        assert_eq!(refusal, Err(HelloRefusal::Denied));
    }
    let lines = peers.take_reports();
    assert!(lines.len() <= 4, "{lines:?}");
    assert!(lines.iter().all(|line| line.name.is_none()));
    assert_eq!(lines.last().map(|line| line.suppressed), Some(19));
}

#[test]
fn a_removed_member_gets_its_notice_and_a_former_member_is_left_alone() {
    let mut site = Site::of(&["a", "b"]);
    let now = site.now;
    site.processes[0].peers.on_members(now, &members(&["a"]));
    assert!(site.is_linked(0, 1), "the entry may still be under way");
    let link = site.peers(0).route(PeerId(2)).expect("a link");
    site.processes[0].peers.on_notice(PeerId(2));
    assert_eq!(
        site.peers(0).route(PeerId(2)),
        site.peers(0).route(PeerId(2))
    );
    assert_eq!(site.peers(0).peer_of(link), None, "nothing more is heard");
    site.pass_ms(6_000);
    let dialled = site.peers(0).peers.get(&PeerId(2)).and_then(|p| p.dialled);
    assert_eq!(dialled, None);
}

#[test]
fn a_machine_with_another_place_ends_all_links() {
    let mut site = Site::of(&["a", "b"]);
    let peers = &mut site.processes[0].peers;
    let link = peers.route(PeerId(2));
    assert!(peers.follow(None, None, 1));
    // The last messages of the turn still find it.
    assert_eq!(peers.route(PeerId(2)), link);
    assert_eq!(link.and_then(|link| peers.peer_of(link)), None);
    site.pass_ms(50);
    assert!(!site.is_linked(0, 1));
    assert_eq!(site.peers(0).next_deadline(), None);
}
