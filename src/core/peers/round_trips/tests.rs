//! Pings on a virtual clock: which round trips count, and how often they are measured.
use super::*;
use crate::core::peers::tests::numbered_member as member;
use crate::core::peers::{Hello, Introduced, LinkEvent};
use crate::core::raft::Configuration;

const S: u64 = 1_000_000;
const LINK: LinkId = LinkId(7);

#[test]
fn protocol_23_the_second_slowest_of_twenty_seconds_counts() {
    let mut window = Window::default();
    assert_eq!(window.slowest_two_us(0), (0, 0));
    window.record(S, 300);
    assert_eq!(window.slowest_two_us(S), (300, 300), "the only one");
    window.record(S, 100);
    assert_eq!(window.slowest_two_us(S), (300, 100));
    window.record(3 * S, 900);
    window.record(4 * S, 200);
    assert_eq!(window.slowest_two_us(4 * S), (900, 300));
    assert_eq!(window.slowest_two_us(21 * S), (900, 200));
    assert_eq!(window.slowest_two_us(24 * S), (0, 0));
    window.record(24 * S, u64::MAX);
    assert_eq!(window.slowest_two_us(24 * S).0, u32::MAX);
}

/// One round trip of that length, which begins then.
fn measure(trips: &mut Pings, sent_us: u64, took_us: u64) {
    trips.awaited = Some((LINK, sent_us));
    trips.on_pong(LINK, Some(0), sent_us + took_us);
}

#[test]
fn protocol_23_a_slow_link_is_measured_more_often() {
    let mut trips = Pings::default();
    trips.on_open(S);
    assert_eq!(trips.due_us(S), Some(S));
    for _ in 1..FIRST_PINGS {
        measure(&mut trips, S, 100);
        assert_eq!(trips.due_us(S), Some(S + 100), "at once");
    }
    measure(&mut trips, S, 100);
    assert_eq!(trips.due_us(S), Some(S + 100 + PAUSE_ALONE_US));
    assert!(!trips.take_shared(S + 99 + PAUSE_US));
    assert!(trips.take_shared(S + 100 + PAUSE_US), "beside a message");
    measure(&mut trips, 2 * S, 250_000);
    assert_eq!(trips.figure_us(), 100, "the second slowest");
    assert_eq!(trips.due_us(3 * S), Some(2 * S + 250_000), "at once");
    measure(&mut trips, 3 * S, 250_000);
    assert_eq!(trips.figure_us(), 250_000);
    let due_us = 3 * S + 250_000 + PAUSE_WHEN_SLOW_US;
    assert_eq!(trips.due_us(4 * S), Some(due_us));
}

#[test]
fn protocol_23_links_are_measured_at_once_when_no_leader_is_heard() {
    let mut pair = Pair::open();
    for _ in 0..3 {
        pair.round_trip(20);
    }
    assert_eq!(pair.run(500), []);
    pair.peers.on_leader(pair.now, Some(PeerId(2)));
    pair.peers.on_leader(pair.now, None);
    assert_eq!(pair.run(10), [LinkOrder::Ping(pair.link)]);
}

#[test]
fn protocol_23_the_pong_of_a_closed_link_counts_nothing() {
    let mut trips = Pings::default();
    trips.on_open(0);
    trips.awaited = Some((LINK, 5));
    assert!(!trips.on_pong(LinkId(8), Some(0), 10), "of another link");
    trips.on_closed(LINK, true, 10);
    assert_eq!(trips.due_us(10), Some(10), "over the other link");
    assert!(!trips.on_pong(LINK, Some(0), 11));
    trips.on_closed(LINK, false, 12);
    assert_eq!(trips.due_us(12), None);
}

/// Member 1, and its link from member 2.
struct Pair {
    peers: Peers,
    now: Now,
    link: LinkId,
}

impl Pair {
    fn open() -> Pair {
        let (one, two) = (member(1), member(2));
        let me = Introduced {
            id: None,
            cluster: None,
            incarnation: one.incarnation,
            process: 11,
            name: one.name.clone(),
            peer_url: one.peer_url.clone(),
            client_url: one.client_url.clone(),
        };
        let hello = Hello {
            from: two.id,
            to: Some(one.id),
            process: 22,
            incarnation: two.incarnation,
            name: two.name.clone(),
            peer_url: two.peer_url.clone(),
            client_url: two.client_url.clone(),
            ..Hello::default()
        };
        let now = Now {
            mono_us: S,
            wall_ns: 0,
        };
        let mut peers = Peers::new(me, 200);
        peers.follow(Some(one.id), Some(5), one.incarnation);
        let members = vec![one, two];
        let list = Configuration {
            members,
            ..Configuration::default()
        };
        peers.on_members(now, &list);
        let (link, _) = peers.on_hello(now, &hello, "10.0.0.2").expect("proved");
        Pair { peers, now, link }
    }

    /// Time passes; each of these steps the process runs. Returns the orders about the link.
    fn run(&mut self, ms: u64) -> Vec<LinkOrder> {
        let end_us = self.now.mono_us + ms * 1_000;
        while self.now.mono_us < end_us {
            self.now.mono_us += 10_000;
            self.peers.on_time(self.now);
        }
        self.orders()
    }

    fn orders(&mut self) -> Vec<LinkOrder> {
        let mut orders = Vec::new();
        self.peers.take_orders(&mut orders);
        orders.retain(|order| matches!(order, LinkOrder::Ping(_) | LinkOrder::Pong { .. }));
        orders
    }

    /// A pong arrives. Returns the figure if it is told anew.
    fn pong(&mut self, stood_still: bool) -> Option<u32> {
        let pong = LinkEvent::Pong { stood_still };
        self.peers.on_event(self.now, self.link, pong);
        let change = self.peers.take_changes().pop();
        match change? {
            (PeerId(2), ProcessChange::RoundTrip { round_trip_us }) => Some(round_trip_us),
            (_, _) => None,
        }
    }

    /// Waits for a ping, and answers it after that time.
    fn round_trip(&mut self, ms: u64) -> Option<u32> {
        while self.run(10).is_empty() {}
        self.run(ms);
        self.pong(false)
    }
}

#[test]
fn protocol_23_a_link_is_measured_from_its_hello_on() {
    let mut pair = Pair::open();
    assert_eq!(pair.run(10), [LinkOrder::Ping(pair.link)]);
    pair.run(290);
    assert_eq!(pair.pong(false), Some(290_000));
    assert_eq!(pair.round_trip(300), Some(290_000), "the second slowest");
    assert_eq!(pair.round_trip(300), Some(300_000));
    assert_eq!(pair.pong(false), None, "no ping is unanswered");
}

#[test]
fn protocol_23_a_round_trip_during_which_this_process_stood_still_is_dropped() {
    let mut pair = Pair::open();
    for _ in 0..3 {
        assert_eq!(pair.round_trip(20), Some(20_000));
    }
    for _ in 0..3 {
        while pair.run(10).is_empty() {}
        // SIGSTOP; what arrived meanwhile is read first.
        pair.now.mono_us += 700_000;
        assert_eq!(pair.pong(false), None);
    }
    assert_eq!(pair.round_trip(20), Some(20_000));
}

#[test]
fn protocol_23_a_round_trip_during_which_the_peer_stood_still_is_dropped() {
    let mut pair = Pair::open();
    for _ in 0..3 {
        while pair.run(10).is_empty() {}
        pair.run(700);
        assert_eq!(pair.pong(true), None);
    }
    assert_eq!(pair.round_trip(20), Some(20_000));
}

#[test]
fn protocol_23_a_process_that_stood_still_says_so_in_its_pongs() {
    let mut pair = Pair::open();
    pair.run(10);
    pair.peers.on_event(pair.now, pair.link, LinkEvent::Pinged);
    let pong = |pair: &Pair, stood_still| LinkOrder::Pong {
        link: pair.link,
        stood_still,
    };
    assert_eq!(pair.orders(), [pong(&pair, false)]);
    // It waits for a pong, so it looks at the clock every 50 ms, if it runs.
    pair.now.mono_us += 700_000;
    pair.peers.on_event(pair.now, pair.link, LinkEvent::Pinged);
    assert_eq!(pair.orders(), [pong(&pair, true)]);
    pair.run(200);
    pair.peers.on_event(pair.now, pair.link, LinkEvent::Pinged);
    assert_eq!(pair.orders(), [pong(&pair, false)]);
}

/// The link lives on without the frame: as in the simulator, behind a way that was cut.
#[test]
fn protocol_23_a_lost_ping_does_not_end_the_measuring() {
    let mut pair = Pair::open();
    assert_eq!(pair.run(10), [LinkOrder::Ping(pair.link)]);
    assert_eq!(pair.run(LOST_US / 1_000 - 20), []);
    assert_eq!(pair.run(20), [LinkOrder::Ping(pair.link)], "another one");
    pair.run(300);
    assert_eq!(pair.pong(false), None, "it may answer either ping");
    assert_eq!(pair.round_trip(300), Some(300_000));
}

#[test]
fn protocol_23_the_pong_of_a_ping_that_was_given_up_is_not_taken_for_a_later_one() {
    let mut pair = Pair::open();
    pair.run(LOST_US / 1_000 + 10);
    assert_eq!(pair.pong(false), None, "of the first ping");
    pair.run(300);
    assert_eq!(pair.pong(false), None, "of the second one");
    assert_eq!(pair.round_trip(300), Some(300_000));
}

/// A flood of pings makes no list of pongs.
#[test]
fn protocol_23_pings_of_one_turn_are_answered_once() {
    let mut pair = Pair::open();
    pair.orders();
    for _ in 0..100 {
        pair.peers.on_event(pair.now, pair.link, LinkEvent::Pinged);
    }
    assert_eq!(pair.orders().len(), 1);
}

/// Each pong is a write of its own, so a peer that floods with pings gets few.
#[test]
fn a_flood_of_pings_gets_few_pongs() {
    let mut pair = Pair::open();
    let mut pongs = 0;
    for _ in 0..100 {
        for _ in 0..1_000 {
            pair.peers.on_event(pair.now, pair.link, LinkEvent::Pinged);
            let orders = pair.orders();
            pongs += orders
                .iter()
                .filter(|order| matches!(order, LinkOrder::Pong { .. }))
                .count();
        }
        pair.run(10);
    }
    // In the last of the 100 steps, 990 ms have passed.
    assert_eq!(pongs as u64, PONGS_AT_ONCE_MAX + 990_000 / PONG_US);
}
