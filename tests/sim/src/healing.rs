//! After the faults: whether all are equal, and what is still waited for.
//!
//! Equal means: one leader, every member a voter whose log, term and leader are the same. Settled
//! means that the cluster has its size, too, and every other machine is a standby that knows the
//! leader. `World::look_at_healing` says whether; `World::note_wait` keeps what was waited for.
use super::cluster::{Phase, Place, World, client_url, name_of};
use super::truth::violation;

/// Within how many election timeouts all must be equal after the healing.
const CONVERGE_MAX: u64 = 50;
/// And within how many round trips more: dials, hellos, calls, snapshots in chunks.
const CONVERGE_TRIPS: u64 = 30;
/// Pieces of two snapshots with values of the largest length: four in the key space of each, and two
/// in the history.
const LONGEST_PIECES: u64 = 2 * 6 * 64;
/// After so many election timeouts, and this much longer, every member has links to all others.
const CALM_TIMEOUTS: u64 = 50;
const CALM_US: u64 = 3_000_000;
/// How many sync intervals more, and how much longer, until the cluster has its size.
const SETTLE_INTERVALS: u64 = 6;
const SETTLE_US: u64 = 20_000_000;

impl World {
    /// First the members become equal; then the cluster gets its size.
    pub fn look_at_healing(&mut self, since_us: u64) {
        self.note_wait(since_us);
        self.remove_odd_members();
        let election_us = self.election_us();
        if !self.was_equal {
            // Of a member that waits as a standby to come back the sync interval decides.
            if self.has_absent_member() {
                self.equal_since_us = self.now_us;
            }
            let late_us = self.now_us.saturating_sub(self.equal_since_us);
            if self.equal_leader().is_some() {
                self.counts.converged_milli = late_us * 1_000 / election_us;
                self.was_equal = true;
            } else if late_us > CONVERGE_MAX * election_us + self.lines_us() {
                let text = self.why_not_equal();
                return self.fail(violation("liveness", text));
            }
        }
        if self.was_equal && since_us > CALM_TIMEOUTS * election_us + CALM_US {
            self.knock_as_copy(true);
        }
        let interval_us = self.p.sync_interval_ms * 1_000;
        let bound_us = CONVERGE_MAX * election_us
            + SETTLE_INTERVALS * interval_us
            + SETTLE_US
            + self.lines_us();
        if self.is_settled() {
            if self.counts.settled_ms == 0 {
                self.counts.settled_ms = since_us / 1_000;
                self.ends_with_copy = self.rng.chance(250_000);
                self.begin_writes();
            }
            if !self.writes.is_empty() {
                return;
            }
            if self.ends_with_copy && since_us <= CALM_TIMEOUTS * election_us + CALM_US {
                return;
            }
            if self.ends_with_copy && self.maybe_begin_copy() {
                self.enter(Phase::Copy);
            } else {
                self.end_settled();
            }
        } else if since_us > bound_us {
            let text = self.why_not_equal();
            self.fail(violation("settling", text));
        }
    }

    /// How much longer it may take on the lines of this seed: two elections wait for a leader that is
    /// missed and for votes, with round trips from before the healing; each answer travels, and so does
    /// each piece of the snapshots.
    pub fn lines_us(&self) -> u64 {
        let line_us = self.p.net.line_us;
        let mut trips_us = CONVERGE_TRIPS * 2 * line_us;
        if self.p.longest_ppm > 0 {
            let way_us = line_us + self.net.params.delay_us_max + self.p.batch_us;
            trips_us += LONGEST_PIECES * (2 * way_us + self.p.sync_us_max);
        }
        4 * self.p.line_allowance_us() + trips_us
    }

    /// The cluster is settled and was looked at: the seed ends, now and then with a lost majority. That
    /// step is cut off at each of its calls, which would take minutes with the longest values.
    pub fn end_settled(&mut self) {
        let may_force = self.rng.chance(200_000) && self.p.longest_ppm == 0;
        let is_forced = may_force && self.maybe_force();
        self.enter(if is_forced {
            Phase::Return
        } else {
            Phase::Done
        });
    }

    /// Whether a member is at another address than a machine lists for it.
    pub fn has_unlisted_address(&self) -> bool {
        let runs = (0..self.hosts.len()).filter_map(|slot| self.up(slot));
        let mut listed = runs.flat_map(|run| &run.core.configuration().members);
        // The join of an id that is not known yet is not committed.
        listed.any(|member| {
            let slot = self.ids.get(&member.id.0);
            slot.is_some_and(|slot| member.peer_url != self.hosts[*slot].peer_url)
        })
    }

    /// Whether a member's machine is a standby.
    fn has_absent_member(&self) -> bool {
        let Some(run) = self.leader().and_then(|l| self.up(l)) else {
            return false;
        };
        // By name: it may have been admitted without knowing it yet.
        let mut standbys = (0..self.hosts.len()).filter(|s| self.is_standby(*s));
        standbys.any(|s| run.core.configuration().by_name(&name_of(s)).is_some())
    }

    pub fn is_standby(&self, slot: usize) -> bool {
        self.up(slot).is_some_and(|r| r.core.standby().is_some())
    }

    /// Whether there are as many members as the cluster wants or can have, all equal and known
    /// under their addresses, and all others are standbys that know the leader.
    pub fn is_settled(&self) -> bool {
        let Some(leader) = self.equal_leader() else {
            return false;
        };
        let members = &self
            .up(leader)
            .expect("it leads")
            .core
            .configuration()
            .members;
        let wanting = (0..self.hosts.len())
            .filter(|slot| self.may_be_member(*slot))
            .count();
        let known = members.iter().all(|m| {
            let slot = self.ids[&m.id.0];
            m.peer_url == self.hosts[slot].peer_url
        });
        let leader_url = client_url(leader);
        let others = (0..self.hosts.len())
            .filter_map(|s| self.up(s))
            .filter(|r| members.iter().all(|m| m.id.0 != r.seen.id));
        members.len() == wanting.min(self.active_size())
            && known
            && others
                .into_iter()
                .all(|r| r.core.standby() == Some(Some(&leader_url)))
    }

    /// Whether a machine stands there that was not removed for good.
    fn may_be_member(&self, slot: usize) -> bool {
        let directory = &self.hosts[slot].directory;
        self.image(slot)
            .is_some_and(|image| !directory.is_barred(image.incarnation, &self.truth))
    }

    /// The leader's slot, if it leads alone, all its members run, are voters and hold the same as
    /// it.
    fn equal_leader(&self) -> Option<usize> {
        let leader = self.leader()?;
        let run = self.up(leader)?;
        let equal = run.core.configuration().members.iter().all(|m| {
            let slot = self.ids.get(&m.id.0).copied();
            let other = slot
                .and_then(|s| self.up(s))
                .filter(|r| r.seen.id == m.id.0);
            m.voter
                && other.is_some_and(|r| {
                    r.seen.term == run.seen.term
                        && r.seen.applied == run.log.last()
                        && r.log.last() == run.log.last()
                        && r.seen.leader == run.seen.id
                })
        });
        equal.then_some(leader)
    }

    pub fn active_size(&self) -> usize {
        self.truth.active_size.unwrap_or(self.p.active_size) as usize
    }

    /// Adds the time since the last look to what is waited for now.
    pub fn note_wait(&mut self, since_us: u64) {
        let milli = since_us * 1_000 / self.election_us();
        let what = self.waits_for();
        match self.waits.last_mut() {
            Some(last) if last.0 == what => last.1 = milli,
            _ => self.waits.push((what, milli)),
        }
    }

    fn waits_for(&self) -> String {
        let damaged =
            (0..self.hosts.len()).any(|s| self.image(s).is_some_and(|i| !i.log.is_whole()));
        let joining = (0..self.hosts.len())
            .filter(|s| self.up(*s).is_some_and(|r| !r.core.listens()))
            .count();
        let standbys = (0..self.hosts.len())
            .filter(|s| self.is_standby(*s))
            .count();
        let down = self
            .hosts
            .iter()
            .filter(|h| matches!(h.place, Place::Down(_)))
            .count();
        let Some(run) = self.leader().and_then(|l| self.up(l)) else {
            return format!("leader{}", if damaged { " (damaged)" } else { "" });
        };
        let members = &run.core.configuration().members;
        let gone = members.iter().filter(|m| {
            let slot = self.ids.get(&m.id.0).copied();
            slot.and_then(|s| self.up(s))
                .is_none_or(|r| r.seen.id != m.id.0)
        });
        let learners = members.iter().filter(|m| !m.voter).count();
        let strangers = (0..self.hosts.len())
            .filter_map(|s| self.up(s))
            .filter(|r| run_is_no_member(run, r));
        let lag = (0..self.hosts.len()).filter_map(|s| self.up(s));
        let lag = lag
            .filter(|r| r.seen.leader != run.seen.id || r.log.last() < run.log.last())
            .count();
        let mut text = String::new();
        let parts = [
            ("damaged", usize::from(damaged)),
            ("joining", joining),
            ("standby", standbys),
            ("down", down),
            ("gone", gone.count()),
            ("learners", learners),
            ("strangers", strangers.count()),
            ("behind", lag),
        ];
        for (what, count) in parts.into_iter().filter(|p| p.1 != 0) {
            text += &format!("{what} {count} ");
        }
        text.trim_end().to_string()
    }

    pub fn why_not_equal(&self) -> String {
        let mut text = String::from("not equal:");
        for (slot, host) in self.hosts.iter().enumerate() {
            let how = match &host.place {
                Place::Empty => continue,
                Place::Down(_) => "down".to_string(),
                Place::Up(r) if r.seen.id == 0 => {
                    format!(
                        "{}, listens {}, {:?}",
                        r.core.name(),
                        r.core.listens(),
                        r.core.standby()
                    )
                }
                Place::Up(r) => {
                    let members = r.core.configuration().members.iter();
                    let members: Vec<_> = members
                        .map(|m| format!("{} {} {}", m.id.0, m.voter, m.peer_url))
                        .collect();
                    let (last, free) = (r.log.last(), r.disk.free_bytes());
                    format!("{:?} last {last} of {members:?}, room {free}", r.seen)
                }
            };
            text += &format!(" m{slot} at {} {how};", host.peer_url);
        }
        text + &format!(" waited for {:?}", self.waits)
    }
}

fn run_is_no_member(leader: &super::cluster::Running, other: &super::cluster::Running) -> bool {
    leader
        .core
        .configuration()
        .get(tern::core::raft::PeerId(other.seen.id))
        .is_none()
}
