//! Hellos over long lines and their refusals, and addresses besides the listed ones, on a virtual
//! clock.
use super::*;
use crate::core::peers::tests::{Site, members as listed, numbered_member as member, url};
use crate::core::peers::{Introduced, LinkEvent, ProcessChange};
use crate::core::raft::{Configuration, Member};

fn introduced(id: u64) -> Introduced {
    let Member {
        name,
        peer_url,
        client_url,
        ..
    } = member(id);
    Introduced {
        id: Some(PeerId(id)),
        cluster: Some(5),
        incarnation: id * 100,
        process: id * 11,
        name,
        peer_url,
        client_url,
    }
}

fn members() -> Configuration {
    Configuration {
        members: (1..=3).map(member).collect(),
        ..Configuration::default()
    }
}

/// Member 1. Member 3 dials it again and again; member 2 answers each hello after a while.
struct Dialler {
    peers: Peers,
    now: Now,
    /// The hellos to member 2 that are not given up: the link, and when the answer arrives.
    hellos: Vec<(LinkId, u64)>,
    opened: bool,
}

impl Dialler {
    fn new(election_ms: u64) -> Dialler {
        let now = Now {
            mono_us: 1_000_000,
            wall_ns: 0,
        };
        let me = Introduced {
            id: None,
            cluster: None,
            ..introduced(1)
        };
        let mut peers = Peers::new(me, election_ms);
        peers.follow(Some(PeerId(1)), Some(5), 100);
        peers.on_members(now, &members());
        Dialler {
            peers,
            now,
            hellos: Vec::new(),
            opened: false,
        }
    }

    fn step(&mut self, answer_us: u64) {
        self.now.mono_us += 10_000;
        self.peers.on_time(self.now);
        let mut orders = Vec::new();
        self.peers.take_orders(&mut orders);
        for order in orders {
            match order {
                LinkOrder::Dial { link, url, .. } if url == member(2).peer_url => {
                    self.hellos.push((link, self.now.mono_us + answer_us));
                }
                LinkOrder::Drop { link, .. } => self.hellos.retain(|(l, _)| *l != link),
                _ => {}
            }
        }
        let now_us = self.now.mono_us;
        let answered = self.hellos.iter().position(|(_, at_us)| *at_us <= now_us);
        if let Some(at) = answered {
            let (link, _) = self.hellos.remove(at);
            let answer = introduced(2).hello(Some(PeerId(1)), &members());
            let event = LinkEvent::Opened(Box::new(answer));
            self.peers.on_event(self.now, link, event);
            self.opened = true;
        }
    }

    /// Returns after how long member 2 has answered, in milliseconds.
    fn open_within(&mut self, ms: u64, answer_us: u64, hurry_ms: Option<u64>) -> Option<u64> {
        let begun_us = self.now.mono_us;
        for passed_ms in (0..ms).step_by(10) {
            if hurry_ms.is_some_and(|hurry_ms| passed_ms % hurry_ms == 0) {
                let hello = introduced(3).hello(Some(PeerId(1)), &members());
                self.peers
                    .on_hello(self.now, &hello, "10.0.0.3")
                    .expect("it is a member");
            }
            self.step(answer_us);
            if self.opened {
                return Some((self.now.mono_us - begun_us) / 1_000);
            }
        }
        None
    }
}

/// Two round trips of 300 ms, while two election timeouts are 160 ms: each hello of the third member
/// is a sign that the network works, and the hello to the second one must survive it.
#[test]
fn protocol_23_a_hello_over_a_long_line_survives_the_links_of_others() {
    let took_ms = Dialler::new(80).open_within(20_000, 600_000, Some(100));
    assert!(took_ms.is_some_and(|ms| ms < 3_000), "{took_ms:?}");
    let took_ms = Dialler::new(80).open_within(20_000, 2_000_000, Some(100));
    assert!(took_ms.is_some_and(|ms| ms < 10_000), "{took_ms:?}");
}

/// The first hello is given 500 ms, and the answer takes longer each time.
#[test]
fn protocol_23_a_hello_is_given_longer_after_each_that_was_given_up() {
    let took_ms = Dialler::new(20).open_within(20_000, 2_000_000, None);
    assert!(took_ms.is_some_and(|ms| ms < 10_000), "{took_ms:?}");
}

/// A machine whose packets are lost is dialled anew at the next sign, if no line is known to be long.
#[test]
fn a_first_hello_without_an_answer_is_given_up_at_a_sign_of_the_network() {
    let mut dialler = Dialler::new(80);
    assert_eq!(dialler.open_within(150, 10_000_000, Some(50)), None);
    let first = dialler.hellos[0].0;
    assert_eq!(dialler.open_within(60, 10_000_000, Some(50)), None);
    assert!(dialler.hellos.iter().all(|(link, _)| *link != first));
}

/// A member whose address is not the listed one is refused at first. The one that refuses it runs.
#[test]
fn a_refusal_is_kept_until_another_answer_or_none() {
    let mut site = Site::of(&["a", "b", "c"]);
    site.stop(2);
    let moved = site.start(3, "new", &listed(&["a", "b", "c"]));
    assert_eq!(site.peers(moved).refusal_of(PeerId(1)), None);
    site.pass_ms(1_000);
    let why = HelloRefusal::AddressUnproved.text();
    assert_eq!(site.peers(moved).refusal_of(PeerId(1)), Some(why));
    assert!(site.peers(moved).is_refused_by(PeerId(1)));
    site.stop(0);
    site.pass_ms(4_000);
    assert!(site.is_linked(1, moved));
    for id in [1, 2] {
        assert_eq!(site.peers(moved).refusal_of(PeerId(id)), None);
    }
}

/// The dialled link ends and the listed address cannot be reached any more. The link that the member
/// has dialled stays, so its process is reported as up again: requests for a leader are not held.
#[test]
fn a_member_that_is_reached_by_its_own_link_alone_is_up() {
    let mut site = Site::of(&["a", "b"]);
    site.alias = Some((url("b"), url("nowhere")));
    let links = site.links_of(0).into_iter();
    let mut dialled = links.filter(|link| site.peers(0).links[link].dialled_url.is_some());
    let dialled = dialled.next().expect("both have dialled");
    site.close(0, dialled);
    let event = LinkEvent::Closed("reset".into());
    let now = site.now;
    site.processes[0].peers.on_event(now, dialled, event);
    site.pass_ms(3_000);
    assert!(site.is_linked(0, 1));
    let changes = site.processes[0].changes.iter();
    let changes = changes.map(|(_, change)| *change);
    let changes: Vec<_> = changes
        .filter(|change| matches!(change, ProcessChange::Up | ProcessChange::Gone))
        .collect();
    assert_eq!(
        changes[changes.len() - 2..],
        [ProcessChange::Gone, ProcessChange::Up]
    );
}

/// Any number of wrong hints leaves room for the address of a member that has moved.
#[test]
fn an_address_is_dialled_after_many_wrong_hints() {
    let mut site = Site::of(&["a", "b", "c"]);
    for n in 0..100 {
        let now = site.now;
        site.processes[0].peers.on_hint(now, &url(&format!("x{n}")));
        site.pass_ms(20);
    }
    let moved = site.start(3, "new", &listed(&["a", "b", "c"]));
    site.processes[moved].is_frozen = true;
    let now = site.now;
    site.processes[0].peers.on_hint(now, &url("new"));
    site.pass_ms(20);
    let links = site.peers(0).links.values();
    let mut dialled = links.filter_map(|link| link.dialled_url.clone());
    assert!(dialled.any(|dialled| dialled == url("new")));
}
