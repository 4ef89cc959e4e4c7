//! After the faults: whether all are equal, and what is still waited for.
//!
//! Equal means: one leader, every machine a member (or as many as the active size allows), every member a voter whose
//! log, term and leader are the same. `World::all_equal` says whether; `World::note_wait` keeps what was waited for.
use super::cluster::{Place, World};

impl World {
    /// The leader's slot, if it leads alone, all its members run, are voters and hold the same as it.
    fn equal_leader(&self) -> Option<usize> {
        let leader = self.leader()?;
        let run = self.up(leader)?;
        let equal = run.core.configuration().members.iter().all(|m| {
            let slot = self.ids.get(&m.id.0).copied();
            let other = slot.and_then(|s| self.up(s)).filter(|r| r.seen.id == m.id.0);
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

    fn members_equal(&self) -> Option<usize> {
        let leader = self.equal_leader()?;
        Some(self.up(leader)?.core.configuration().members.len())
    }

    pub fn all_equal(&self) -> bool {
        let Some(members) = self.members_equal() else {
            return false;
        };
        let wanting = self.hosts.iter().filter(|h| !matches!(h.place, Place::Empty)).count();
        members == wanting || members >= self.active_size()
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
        let damaged = (0..self.hosts.len()).any(|s| self.image(s).is_some_and(|i| i.faulty != 0));
        let joining = self.hosts.iter().filter(|h| matches!(h.place, Place::Joining { .. })).count();
        let down = self.hosts.iter().filter(|h| matches!(h.place, Place::Down(_))).count();
        let Some(run) = self.leader().and_then(|l| self.up(l)) else {
            return format!("leader{}", if damaged { " (damaged)" } else { "" });
        };
        let members = &run.core.configuration().members;
        let gone = members.iter().filter(|m| {
            let slot = self.ids.get(&m.id.0).copied();
            slot.and_then(|s| self.up(s)).is_none_or(|r| r.seen.id != m.id.0)
        });
        let learners = members.iter().filter(|m| !m.voter).count();
        let strangers = (0..self.hosts.len()).filter_map(|s| self.up(s)).filter(|r| run_is_no_member(run, r));
        let lag = (0..self.hosts.len()).filter_map(|s| self.up(s));
        let lag = lag.filter(|r| r.seen.leader != run.seen.id || r.log.last() < run.log.last()).count();
        let mut text = String::new();
        let parts = [
            ("damaged", usize::from(damaged)),
            ("joining", joining),
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
                Place::Joining { .. } => "joining".to_string(),
                Place::Down(_) => "down".to_string(),
                Place::Up(r) => {
                    let members = r.core.configuration().members.iter();
                    let members: Vec<_> = members.map(|m| (m.id.0, m.voter)).collect();
                    format!("{:?} last {} of {members:?}", r.seen, r.log.last())
                }
            };
            text += &format!(" m{slot} {how};");
        }
        text + &format!(" waited for {:?}", self.waits)
    }
}

fn run_is_no_member(leader: &super::cluster::Running, other: &super::cluster::Running) -> bool {
    leader.core.configuration().get(tern::raft::PeerId(other.seen.id)).is_none()
}
