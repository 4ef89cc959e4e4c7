//! Changes of mode, within one process and any number of times.
//!
//! ```text
//! Bootstrapping --the first of the list--> a new start, as the founder
//!    \--admitted, refused--> as Finding
//! Finding --admitted--> Member --removed, confirmed, wiped--> Standby --admitted--> Member …
//!    \--refused--> Standby
//! ```
//!
//! A membership ends with its raft. Log and snapshots are wiped and the data directory gets a new
//! number before this machine asks to join again, as another member. Replies to calls of a former
//! mode are ignored: each search numbers its own calls. Start with [`Machine::on_wiped`].
use super::finder::SearchOutcome;
use super::member::MemberMode;
use super::standby::{JoinFrom, Standby, leader_of, redirect_to};
use super::{Common, Machine, MachineMode, Outside, Search};
use crate::core::raft::{PeerId, Term};
use crate::core::random::splitmix64;
use crate::core::replica::Replica;
use crate::core::seam::{Fact, Order, Outputs, Recovered, Settings, Space, StandbyInfo};
use crate::core::timer::Now;

impl Machine {
    /// A machine that was a standby when it was stopped, and goes on as one.
    ///
    /// # Panics
    ///
    /// If `recovered` has an id.
    pub fn stand_by(
        settings: Settings,
        recovered: Recovered,
        info: StandbyInfo,
        search: Search,
        seed: u64,
        now: Now,
    ) -> Machine {
        assert!(recovered.id.is_none(), "a member is not a standby");
        let mut common = Common::new(settings, &recovered, search, seed);
        common.register();
        let mut out = Outputs::default();
        out.facts.push(Fact::StandbyResumed);
        out.facts.extend(info.is_barred.then_some(Fact::Barred));
        let standby = standby(now, info, JoinFrom::NextInterval, &mut common);
        Machine {
            mode: MachineMode::Outside(Outside::Standby(Box::new(standby))),
            common,
            out,
        }
    }

    /// The outcome of the search for a cluster, if there is one.
    pub(super) fn on_search(&mut self, now: Now, outcome: Option<SearchOutcome>) {
        match outcome {
            None => {}
            Some(SearchOutcome::Admitted(id)) => self.become_member(now, id),
            Some(SearchOutcome::First) => self.out.orders.push(Order::Found),
            Some(SearchOutcome::Failed(text)) => self.out.orders.push(Order::Fail(text)),
            Some(SearchOutcome::Retrying { why, pause_ms }) => {
                self.out.facts.push(Fact::SearchFailed { why, pause_ms });
            }
            Some(SearchOutcome::Refused { why, info }) => self.on_refused(now, why, info),
            Some(
                SearchOutcome::Occupied { .. }
                | SearchOutcome::Unlisted
                | SearchOutcome::Barred
                | SearchOutcome::LostEntries
                | SearchOutcome::Listed
                | SearchOutcome::Done,
            ) => {
                unreachable!("a search that joins does not end like this")
            }
        }
    }

    /// The cluster has no place for this machine, which becomes a standby. Its data directory is
    /// empty.
    fn on_refused(&mut self, now: Now, why: Box<str>, info: StandbyInfo) {
        let fact = if info.is_barred {
            Fact::Barred
        } else {
            Fact::Refused { why }
        };
        self.out.facts.push(fact);
        let standby = standby(now, info, JoinFrom::NextInterval, &mut self.common);
        self.mode = MachineMode::Outside(Outside::Standby(Box::new(standby)));
        self.common.register();
    }

    /// `Order::Wipe` was carried out: the data directory is empty and has this number. The machine
    /// goes on as a standby.
    ///
    /// # Panics
    ///
    /// If the wipe was not ordered.
    pub fn on_wiped(&mut self, now: Now, incarnation: u64) {
        let departure = match &self.mode {
            MachineMode::Member(member) => member.departure(),
            MachineMode::Outside(_) => None,
        };
        let departure = departure.expect("only a member that leaves is wiped");
        self.common.incarnation = incarnation;
        self.common.peers.follow(None, None, incarnation);
        self.common.term = Term(0);
        self.common.vote = None;
        // The shell reports again if the empty directory has little room.
        self.common.is_disk_low = false;
        self.mode = MachineMode::Outside(if departure.stops {
            let leader = leader_of(&departure.info, &self.common.introduction());
            Outside::Stopped {
                redirect: leader.map(redirect_to),
            }
        } else {
            let mut standby = standby(now, departure.info, departure.join_from, &mut self.common);
            standby.on_saved();
            Outside::Standby(Box::new(standby))
        });
    }

    /// The cluster has admitted this machine. Its log is empty: the leader sends all entries or a
    /// snapshot.
    pub(super) fn become_member(&mut self, now: Now, id: PeerId) {
        let common = &mut self.common;
        let MachineMode::Outside(outside) = &mut self.mode else {
            unreachable!("a member is not admitted again");
        };
        self.out.orders.push(Order::KeepId(id));
        if let Outside::Standby(standby) = outside {
            // The returned info is saved below, with `running` false.
            let _ = standby.take_outputs(&mut self.out.calls, &mut self.out.facts);
            let members = standby.info().cluster.iter();
            common.search.known = members.map(|m| m.peer_url.clone()).collect();
            self.out.orders.push(Order::KeepStandbyInfo {
                info: StandbyInfo {
                    running: false,
                    ..standby.info().clone()
                },
                gives_up_log: false,
            });
        }
        let recovered = Recovered {
            term: common.term,
            vote: common.vote,
            free_bytes: common.free_bytes,
            ..Recovered::nothing(Some(id), common.incarnation)
        };
        let seed = splitmix64(common.seed.wrapping_add(common.searches));
        let mut replica = Replica::new(common.settings.clone(), recovered, seed, now);
        if common.is_disk_low {
            replica.on_space(now, Space::Low);
        }
        let mut member = MemberMode::new(replica, now);
        if common.registrar.is_none() {
            common.register();
        }
        common.peers.follow(Some(id), None, common.incarnation);
        common.add_addresses(now);
        member.schedule_rejoin(now, common);
        member.report(Fact::Admitted { id });
        self.mode = MachineMode::Member(Box::new(member));
    }

    /// Takes the outputs of a standby, if this machine is one.
    pub(super) fn take_standby_outputs(&mut self) {
        let MachineMode::Outside(Outside::Standby(standby)) = &mut self.mode else {
            return;
        };
        if let Some(info) = standby.take_outputs(&mut self.out.calls, &mut self.out.facts) {
            self.out.orders.push(Order::KeepStandbyInfo {
                info,
                gives_up_log: false,
            });
        }
    }
}

/// A standby whose data directory is empty.
fn standby(now: Now, info: StandbyInfo, join_from: JoinFrom, common: &mut Common) -> Standby {
    let last_call = common.next_search();
    let others = common.search.known.iter().chain(&common.search.peers);
    Standby::new(
        now,
        common.introduction(),
        info,
        others.cloned().collect(),
        join_from,
        last_call,
    )
}
