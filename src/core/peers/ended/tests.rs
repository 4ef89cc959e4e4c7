//! Links to a leader that close, and the dials that follow, among three machines.
use super::*;
use crate::core::peers::tests::{Site, members, url};

const LEADER: PeerId = PeerId(1);

/// Machines that follow the first of them.
fn followers() -> Site {
    let mut site = Site::of(&["a", "b", "c"]);
    let now = site.now;
    for place in [1, 2] {
        let process = &mut site.processes[place];
        process.peers.on_leader(now, Some(LEADER));
        process.changes.clear();
    }
    site
}

/// Whether a machine has found that the process of the leader has ended.
fn has_ended(site: &Site, place: usize) -> bool {
    let mut changes = site.processes[place].changes.iter();
    changes.any(|change| *change == (LEADER, ProcessChange::Ended))
}

#[test]
fn protocol_24_a_killed_leader_has_ended_after_one_refused_dial() {
    let mut site = followers();
    site.stop(0);
    assert!(!has_ended(&site, 1), "a closed link proves nothing");
    // A step in which it is dialled, and one in which the changes are taken.
    site.pass_ms(20);
    assert!(has_ended(&site, 1) && has_ended(&site, 2));
}

#[test]
fn protocol_24_a_broken_link_alone_is_no_end() {
    let mut site = followers();
    for link in site.links_of(1) {
        site.close(1, link);
        site.pass_ms(10);
    }
    site.pass_ms(100);
    assert!(site.is_linked(0, 1), "the dial was answered");
    assert!(!has_ended(&site, 1));
}

/// The listed address of the leader is out of date; the leader has dialled this machine.
#[test]
fn protocol_24_a_refused_dial_beside_an_open_link_is_no_end() {
    let mut site = followers();
    let now = site.now;
    let list = members(&["nowhere", "b", "c"]);
    site.processes[1].peers.on_members(now, &list);
    site.pass_ms(1_000);
    assert!(site.is_linked(0, 1), "by the leader's own dial");
    assert!(!has_ended(&site, 1));
    site.stop(0);
    site.pass_ms(20);
    assert!(has_ended(&site, 1), "no link is open any more");
}

#[test]
fn protocol_24_a_leader_that_restarts_at_once_has_ended() {
    let mut site = followers();
    site.stop(0);
    let again = site.start(1, "a", &members(&["a", "b", "c"]));
    assert!(!has_ended(&site, 1));
    site.pass_ms(20);
    assert!(site.is_linked(again, 1) && site.is_linked(again, 2));
    assert!(has_ended(&site, 1) && has_ended(&site, 2));
}

/// A machine that accepts connections and closes them is not dialled without pause.
#[test]
fn a_leader_whose_links_close_at_once_is_dialled_at_a_bounded_rate() {
    let mut site = followers();
    let mut dials = 0;
    let end_us = site.now.mono_us + 100_000;
    while site.now.mono_us < end_us {
        let now = site.now;
        let peers = &mut site.processes[1].peers;
        peers.on_time(now);
        let dialled = peers.peers[&LEADER].dialled;
        if let Some(link) = dialled {
            dials += u64::from(peers.peer_of(link).is_none());
            peers.on_closed(now, link, "closed by the peer");
        }
        site.now.mono_us += 100;
    }
    assert!(dials <= 100_000 / REDIAL_US + 1, "{dials}");
    assert_eq!(site.peers(1).name_and_address(LEADER).1, url("a"));
}
