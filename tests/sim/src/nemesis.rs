//! Faults, membership, and the phases of a run: the first members come together, faults strike,
//! everything heals, all machines must become equal. Start at `World::on_look` and
//! `World::on_blow`.
use super::barred::may_bar;
use super::cluster::{
    Asker, Ev, Phase, Place, Running, World, client_url, draw_wall_offset, name_of, peer_url,
    voters_at,
};
use super::http::Front;
use super::image::{Held, Image};
use super::params::Blow;
use super::truth::violation;
use tern::core::machine::Op;
use tern::core::raft::room::CLIENT_RESERVE_BYTES;
use tern::core::raft::{PeerId, allowance_us};
use tern_support::sim_fs::Fault;

/// The address of a machine that has moved alone, as a number of changes (`peer_url`).
const MOVED: u64 = 900;
/// A new address is believed once the listed one was silent for two seconds, in microseconds; with
/// the time until it is dialled.
const MISSING_US: u64 = 2_500_000;
/// And how many election timeouts the first members may take to come together.
const SETUP_MAX: u64 = 200;

/// The longest pause, in microseconds.
const PAUSE_US_MAX: u64 = 300_000_000;

impl World {
    pub fn election_us(&self) -> u64 {
        self.p.election_ms * 1_000
    }

    /// Looks at where the run stands.
    pub fn on_look(&mut self) {
        let since = self.now_us - self.phase_since_us;
        match self.phase {
            Phase::Setup => {
                self.disturb_founding(since);
                let leader = self.leader().and_then(|l| self.up(l));
                let voters = leader.map_or(0, |r| r.core.configuration().voters().count());
                if voters == self.p.machines {
                    self.net.params = self.p.net.clone();
                    self.enter(Phase::Faults);
                    self.queue.push(self.now_us + self.p.blow_us_mean, Ev::Blow);
                } else if since > self.setup_us_max() {
                    self.fail(violation(
                        "setup",
                        "the first members do not come together".into(),
                    ));
                }
            }
            Phase::Healing => self.look_at_healing(since),
            Phase::Copy => self.look_at_copy(since),
            Phase::Return => self.look_at_return(since),
            Phase::Writes if self.writes.is_empty() => self.enter(Phase::Done),
            Phase::Faults | Phase::Writes | Phase::Done => {}
        }
        self.check_writes();
        self.check_leaders();
        self.ask_deposed_leaders();
        if self.phase == Phase::Faults && self.rng.chance(50_000) {
            self.knock();
        }
        if self.phase == Phase::Faults && self.rng.chance(10_000) {
            self.knock_as_copy(false);
        }
        if self.phase == Phase::Faults && self.p.adds_odd_members && self.rng.chance(50_000) {
            self.add_odd_member();
        }
        if self.phase != Phase::Done {
            self.queue
                .push(self.now_us + self.p.heartbeat_ms * 250, Ev::Look);
        }
    }

    /// How long the first members may take to come together. They join one after the other: on long
    /// lines each needs its calls, its snapshot and its promotion.
    fn setup_us_max(&self) -> u64 {
        SETUP_MAX * self.election_us() + 3 * self.lines_us()
    }

    /// For how long a leader may take a peer for heard.
    pub fn heard_us_max(&self) -> u64 {
        let p = &self.p;
        // A leader waits for three of a member's slowest syncs and three of its slowest round
        // trips, from a heartbeat on, and looks at the next ones. An idle leader sends half of
        // them.
        let sync_us = p.sync_us_max + p.slow_us_max + self.election_us() / 2;
        self.election_us().max(3 * sync_us) + 6_000 * p.heartbeat_ms + p.line_allowance_us()
    }

    /// No leader goes on for long without a majority.
    ///
    /// A leader may take the way to a member for slower than it is: a cut loses a ping, and the pong
    /// of another one, seconds later, is taken for its answer. TCP would have sent it again. And a
    /// process that waits for nothing does not notice that it stood still before it answered.
    fn check_leaders(&mut self) {
        let allowed_us = self.p.line_allowance_us();
        for slot in 0..self.hosts.len() {
            let line_us = self.figure_allowance_us(slot).max(allowed_us);
            let bound_us = self.heard_us_max() - allowed_us + line_us;
            if self.hosts[slot].paused_until_us + bound_us > self.now_us {
                continue;
            }
            let now_us = self.now_us;
            let Place::Up(run) = &mut self.hosts[slot].place else {
                continue;
            };
            let voters: Vec<u64> = run.core.configuration().voters().map(|v| v.0).collect();
            let seen = run.seen;
            let checked = run.contact.check_quorum(now_us, bound_us, &seen, &voters);
            self.fail(checked);
        }
    }

    /// How much longer the member of a slot waits because of the slowest way that it has measured.
    fn figure_allowance_us(&self, slot: usize) -> u64 {
        let Some(raft) = self.up(slot).and_then(|run| run.core.raft()) else {
            return 0;
        };
        let voters = raft.configuration().voters();
        let peers = voters.filter_map(|id| raft.peer(id));
        let figures = peers.map(|peer| allowance_us(raft.round_trip_us(peer)));
        figures.max().unwrap_or(0)
    }

    pub fn enter(&mut self, phase: Phase) {
        self.trace.note(0, "phase", phase as u64, 0, 0);
        self.phase = phase;
        self.phase_since_us = self.now_us;
    }

    /// No faults any more: every machine starts, the network is whole.
    pub fn heal(&mut self) {
        self.enter(Phase::Healing);
        self.equal_since_us = self.now_us;
        self.net.heal();
        for slot in 0..self.hosts.len() {
            self.end_pause(slot);
            self.set_full(slot, false);
            if let Some(image) = self.image(slot) {
                image.fs.plan_nothing();
            }
            let host = &mut self.hosts[slot];
            host.slow_until_us = 0;
            match host.place {
                Place::Down(_) => self.start(slot),
                Place::Empty | Place::Up(_) => {}
            }
        }
        if self.has_unlisted_address() {
            self.equal_since_us += MISSING_US;
        }
    }

    // -- faults

    /// A fault strikes, and the next one is planned.
    pub fn on_blow(&mut self) {
        if self.phase != Phase::Faults {
            return;
        }
        let mean = self.p.blow_us_mean;
        self.queue
            .push(self.now_us + self.rng.range(mean / 4, mean * 2), Ev::Blow);
        let Some(blow) = self.p.pick_blow(&mut self.rng) else {
            return;
        };
        let slots: Vec<usize> = (0..self.hosts.len()).filter(|s| self.is_up(*s)).collect();
        if slots.is_empty() {
            return;
        }
        let mut slot = *self.rng.pick(&slots);
        // Half of the blows look for the leader.
        if self.rng.chance(400_000)
            && let Some(leader) = self.leader()
        {
            slot = leader;
        }
        self.trace.note(slot, "blow", blow as u64, 0, 0);
        self.strike(blow, slot);
    }

    fn strike(&mut self, blow: Blow, slot: usize) {
        let is_told = matches!(blow, Blow::Stop | Blow::FullDisk | Blow::SetConfig);
        if is_told && self.is_paused(slot) {
            return;
        }
        let soon = |world: &mut World| world.now_us + world.rng.range(1_000, world.p.down_us_max);
        match blow {
            Blow::Crash => self.crash_for_a_while(slot),
            Blow::CrashAll => {
                for each in 0..self.hosts.len() {
                    self.crash_for_a_while(each);
                }
            }
            Blow::Stop => {
                let epoch = self.hosts[slot].epoch;
                self.input(slot, epoch, |_, run, now| run.core.on_stop(now));
            }
            // What was put off to the end of an earlier pause still waits for that.
            Blow::Pause => {
                let until_us = if self.rng.chance(100_000) {
                    self.now_us + self.rng.below(PAUSE_US_MAX)
                } else {
                    soon(self)
                };
                if Some(slot) == self.leader() && self.rng.chance(500_000) {
                    // When it goes on, learners alone answer it, and others have a new leader.
                    self.cut_off_with_learners();
                }
                self.pause(slot, until_us);
            }
            Blow::Cut => self.cut(),
            Blow::Mend => self.net.mend(),
            Blow::Clog => {
                let to = self.rng.index(self.hosts.len());
                let until = soon(self);
                self.net.clog(slot, to, until);
            }
            Blow::Break => self.break_links(slot),
            Blow::SlowDisk => self.hosts[slot].slow_until_us = soon(self),
            Blow::FullDisk => self.fill_disk(slot),
            Blow::ClockStep => {
                self.hosts[slot].wall_off_ns = draw_wall_offset(&mut self.rng);
            }
            Blow::DiskFault => self.plan_disk_fault(slot),
            Blow::Damage => self.damage(slot),
            Blow::LoseData => self.lose_data(slot),
            Blow::OldCopy => self.old_copy(slot),
            Blow::Join => {
                let free = self
                    .hosts
                    .iter()
                    .position(|h| matches!(h.place, Place::Empty));
                if let Some(free) = free {
                    self.begin_join(free, 1_000);
                    self.hosts[free].stays_learner = self.rng.chance(300_000);
                }
            }
            Blow::Remove => self.ask_removal(slot),
            Blow::SetConfig => self.ask_config(slot),
            Blow::Move => {
                self.crash_for_a_while(slot);
                self.move_host(slot);
            }
            Blow::MoveAll => self.move_all(),
            Blow::Swap => {
                let other = self.rng.index(self.hosts.len());
                self.swap(slot, other);
            }
        }
    }

    /// Cuts ways of the network. Half the time it cuts off a leader together with its learners, if
    /// there are any.
    fn cut(&mut self) {
        let is_cut = self.rng.chance(500_000) && self.cut_off_with_learners();
        if !is_cut {
            let leader = self.leader();
            self.net.cut(&mut self.rng, leader);
        }
    }

    /// Cuts a leader with its learners off from all others: they answer it, and count for nothing. In
    /// half of the cases the others see that their links have ended, and elect another leader while
    /// this one still leads. Returns false if it has no learners.
    fn cut_off_with_learners(&mut self) -> bool {
        let learners = self.learners();
        let leader = self.leader().filter(|_| !learners.is_empty());
        let Some(leader) = leader else {
            return false;
        };
        let is_off = |slot| slot == leader || learners.contains(&slot);
        self.net.cut_off(is_off);
        if self.rng.chance(500_000) {
            let until_us = self.now_us + self.election_us();
            for other in (0..self.hosts.len()).filter(|slot| !is_off(*slot)) {
                self.break_between(leader, other, Some(until_us));
            }
        }
        true
    }

    /// Where the learners of the newest leader's configuration are.
    fn learners(&self) -> Vec<usize> {
        let Some(run) = self.leader().and_then(|l| self.up(l)) else {
            return Vec::new();
        };
        let members = run.core.configuration().members.iter();
        let learners = members.filter(|member| !member.voter);
        learners
            .filter_map(|member| self.ids.get(&member.id.0).copied())
            .collect()
    }

    // -- addresses

    /// Its command line has another peer address from the next start on.
    fn move_host(&mut self, slot: usize) {
        // A standby that knows no present address could never find the cluster: only one machine
        // moves.
        let has_moved = self.hosts.iter().any(|host| host.has_moved);
        if !has_moved && matches!(self.hosts[slot].place, Place::Down(_)) {
            self.hosts[slot].has_moved = true;
            self.give_address(slot, peer_url(slot, MOVED));
        }
    }

    /// All machines were down, and come back with other addresses. Each has a list of them.
    fn move_all(&mut self) {
        self.address_changes += 1;
        for slot in 0..self.hosts.len() {
            self.crash_for_a_while(slot);
            self.give_address(slot, peer_url(slot, self.address_changes));
        }
    }

    /// Two machines come back, each at the address of the other.
    fn swap(&mut self, one: usize, other: usize) {
        let is_fit = |world: &World, slot: usize| world.is_up(slot) && !world.is_standby(slot);
        if one == other || !is_fit(self, one) || !is_fit(self, other) {
            return;
        }
        self.crash_for_a_while(one);
        self.crash_for_a_while(other);
        let former = self.hosts[one].peer_url.clone();
        self.give_address(one, self.hosts[other].peer_url.clone());
        self.give_address(other, former);
    }

    fn give_address(&mut self, slot: usize, url: Box<str>) {
        let host = &mut self.hosts[slot];
        host.front = Front::new(name_of(slot), client_url(slot), url.clone(), &host.tuning);
        host.peer_url = url;
    }

    pub fn crash_for_a_while(&mut self, slot: usize) {
        if self.is_up(slot) {
            self.crash(slot);
            let at = self.now_us + self.rng.range(1_000, self.p.down_us_max);
            self.queue.push(at, Ev::Start { slot });
        }
    }

    /// One of the next calls of the disk fails.
    fn plan_disk_fault(&mut self, slot: usize) {
        let faults = [Fault::Cut, Fault::Cut, Fault::Fail, Fault::Full];
        let fault = *self.rng.pick(&faults);
        let at = 1 + self.rng.below(80);
        if let Some(image) = self.image(slot) {
            image.fs.plan(at, fault);
        }
    }

    /// The disk of a machine becomes full, or has room again. Half of those that become full
    /// restart with the remains of a segment: a start removes the long spares.
    fn fill_disk(&mut self, slot: usize) {
        let full = !self.hosts[slot].full;
        if full && self.rng.chance(500_000) {
            self.crash_for_a_while(slot);
            if let Place::Down(image) = &self.hosts[slot].place {
                image.remove_spares();
            }
        }
        self.set_full(slot, full);
    }

    /// A full disk has room for a few more bytes: files that exist keep theirs.
    fn set_full(&mut self, slot: usize, full: bool) {
        if self.hosts[slot].full == full {
            return;
        }
        self.hosts[slot].full = full;
        let bytes_max = *self.rng.pick(&[1_000, 100_000, 2 * CLIENT_RESERVE_BYTES]);
        let room = full.then(|| self.rng.below(bytes_max));
        if let Some(image) = self.image(slot) {
            image.fs.set_room(room);
        }
        let epoch = self.hosts[slot].epoch;
        self.input(slot, epoch, |_, _, _| {});
    }

    fn ask_removal(&mut self, slot: usize) {
        let Some(leader) = self.leader().filter(|l| !self.is_paused(*l)) else {
            return;
        };
        // With a voter's data gone for good a removal can leave a configuration that never commits,
        // if the leader does not know of it yet. One that it knows to be silent it must not
        // let the cluster rest on.
        self.disks_are_whole();
        let now = self
            .up(leader)
            .map(|r| self.now_of(leader, r.mono_off_us))
            .expect("a leader runs");
        let raft = self
            .up(leader)
            .and_then(|r| r.core.raft())
            .expect("a leader runs");
        let lost = self
            .hosts
            .iter()
            .filter_map(|h| h.wound)
            .any(|(id, _)| raft.is_heard(now, PeerId(id)));
        if lost {
            return;
        }
        let op = Op::MachineRemove {
            name: name_of(slot),
            for_good: may_bar(&self.truth) && self.rng.chance(300_000),
        };
        self.ask_leader(op);
    }

    /// An operator adds a machine that never starts. Most of the URLs are refused; none may stop the
    /// cluster.
    fn add_odd_member(&mut self) {
        let hosts = [
            "odd", "[::1]", "10.0.0.9", "", "a b", "u@h", "\u{e9}", "odd/x",
        ];
        let tails = [":7001", ":65535", ":65536", ":0", ":+1", "", ":7001/"];
        let letters = [1, 120, 123, 124, 130, 253, 500, 600];
        let host = match self.rng.below(2) {
            0 => (*self.rng.pick(&hosts)).to_string(),
            _ => "h".repeat(*self.rng.pick(&letters)),
        };
        let url = format!("http://{host}{}", self.rng.pick(&tails));
        let peer_urls = vec![url.into()];
        self.ask_leader(Op::MemberAdd { peer_urls });
    }

    /// The machines that were added and never start go, once no fault strikes any more.
    pub fn remove_odd_members(&mut self) {
        let run = self.leader().and_then(|leader| self.up(leader));
        let Some(run) = run.filter(|_| self.p.adds_odd_members) else {
            return;
        };
        let mut members = run.core.configuration().members.iter();
        if let Some(odd) = members.find(|member| !member.has_started()) {
            let name = odd.name.clone();
            let for_good = false;
            self.ask_leader(Op::MachineRemove { name, for_good });
        }
    }

    fn ask_leader(&mut self, op: Op) {
        if let Some(leader) = self.leader().filter(|l| !self.is_paused(*l)) {
            let ticket = self.new_ticket(Asker::Admin, leader);
            let epoch = self.hosts[leader].epoch;
            self.input(leader, epoch, |_, run, now| {
                run.core.on_request(now, ticket, op)
            });
        }
    }

    fn ask_config(&mut self, slot: usize) {
        // Mostly fewer than there are, so that members have to go.
        let active_size = Some(*self.rng.pick(&[3.0, 3.0, 3.0, 4.0, 5.0, 9.0]));
        let ticket = self.new_ticket(Asker::Admin, slot);
        let epoch = self.hosts[slot].epoch;
        self.input(slot, epoch, |_, run, now| {
            let op = Op::ConfigPut {
                active_size,
                remove_delay_s: None,
                sync_interval_s: None,
            };
            run.core.on_request(now, ticket, op);
        });
    }

    // -- faults of the disk, within what can be survived

    pub fn image(&self, slot: usize) -> Option<&Image> {
        match &self.hosts[slot].place {
            Place::Up(run) => Some(&run.disk.image),
            Place::Down(image) => Some(image),
            Place::Empty => None,
        }
    }

    /// The voters of the newest configuration that any running machine knows.
    fn voters(&self) -> Vec<u64> {
        let runs = (0..self.hosts.len()).filter_map(|s| self.up(s));
        let newest = runs.max_by_key(|r| (r.log.last_term(), r.log.last()));
        newest.map_or(Vec::new(), |r| {
            r.core.configuration().voters().map(|v| v.0).collect()
        })
    }

    /// Whether no disk has lost anything that is not repaired.
    fn disks_are_whole(&mut self) -> bool {
        let voters = self.voters();
        for slot in 0..self.hosts.len() {
            let healed = self.hosts[slot].wound.is_none_or(|(id, committed)| {
                self.up(slot).is_some_and(|r| match r.seen.id == id {
                    true => r.seen.applied >= committed && r.seen.leader != 0,
                    false => voters.contains(&r.seen.id),
                })
            });
            if healed {
                self.hosts[slot].wound = None;
            }
        }
        self.hosts.iter().all(|h| h.wound.is_none()) && self.images_are_whole(&voters)
    }

    fn images_are_whole(&self, voters: &[u64]) -> bool {
        (0..self.hosts.len()).all(|s| match &self.hosts[s].place {
            Place::Empty => true,
            Place::Up(run) if run.core.standby().is_some() => true,
            Place::Up(_) | Place::Down(_) => self
                .image(s)
                .is_some_and(|i| i.log.is_whole() && i.id.0 != 0),
        }) && voters.iter().all(|v| {
            let slot = self.ids.get(v).copied();
            slot.and_then(|s| self.image(s))
                .is_some_and(|i| i.id.0 == *v)
        })
    }

    /// How many of these voters, beside this one, hold everything up to this entry undamaged.
    fn holders(&self, voters: &[u64], slot: usize, (index, term): (u64, u64)) -> usize {
        let others = voters.iter().filter(|v| self.ids.get(*v) != Some(&slot));
        let holds = |v: &&u64| {
            let image = self.ids.get(*v).and_then(|s| self.image(*s));
            let held = image
                .filter(|i| i.id.0 == **v && i.log.is_whole())
                .map(|i| i.held(index));
            match held {
                Some(Held::Entry { term: t, .. }) => t == term,
                Some(Held::Behind) => true,
                Some(Held::Never) | None => false,
            }
        };
        others.filter(holds).count()
    }

    /// A crash, and some entries turn out to be damaged: such as others hold.
    fn damage(&mut self, slot: usize) {
        // A lone voter with a damaged entry refuses to start.
        let own = self
            .up(slot)
            .map_or(0, |r| r.core.configuration().voters().count());
        if !self.disks_are_whole() || self.voters().len() < 2 || own < 2 {
            return;
        }
        // What it has appended as the lone voter may be committed for all that it knows after a
        // crash.
        let lone = self.up(slot).and_then(|r| {
            let voters = |at: &u64| voters_at(&r.core, *at).len();
            (r.log.base..=r.log.last()).rev().find(|at| voters(at) < 2)
        });
        let open = lone.map_or(0, |at| at + 2).max(self.truth.committed() + 1);
        self.crash_for_a_while(slot);
        if self.rng.chance(250_000)
            && let Place::Down(image) = &mut self.hosts[slot].place
            && image.lose_newest_snapshot(&self.configs[slot])
        {
            self.counts.losses += 1;
            self.hosts[slot].shown = 0;
            self.trace.note(slot, "snapshot lost", 0, 0, 0);
        }
        let Some(image) = self.image(slot) else {
            return;
        };
        let behind = image.newest().map_or(0, |s| s.meta.index.0);
        let (first, last) = (image.log.first().max(behind + 1), image.last());
        let count = self.rng.range(1, 4);
        for _ in 0..count {
            if last < first {
                return;
            }
            // Half of them near the end, where it is open what is committed.
            let near = last.saturating_sub(8).max(first);
            let from = if self.rng.chance(500_000) {
                near
            } else {
                first
            };
            let index = self.rng.range(from, last);
            let Some(Held::Entry {
                term, good: true, ..
            }) = self.image(slot).map(|i| i.held(index))
            else {
                continue;
            };
            let voters = self.voters();
            let safe = self.holders(&voters, slot, (index, term))
                > (voters.len() / 2).saturating_sub(1)
                || index >= open;
            if safe && let Place::Down(image) = &mut self.hosts[slot].place {
                let is_damaged = image.damage(&mut self.rng, &self.configs[slot], index);
                self.counts.losses += u64::from(is_damaged);
            }
        }
    }

    /// The data directory is gone; the machine comes back as a new member. Only while a majority of
    /// the voters has all.
    fn lose_data(&mut self, slot: usize) {
        if !self.may_lose(slot) {
            return;
        }
        self.wound(slot);
        self.crash(slot);
        if let Some(image) = self.image(slot) {
            let (id, incarnation) = (image.id.0, image.incarnation);
            self.truth.promises.on_wiped(id, incarnation);
        }
        self.counts.losses += 1;
        let after = self.rng.range(1_000, self.p.down_us_max);
        self.begin_join(slot, after);
    }

    fn wound(&mut self, slot: usize) {
        let id = self.up(slot).map_or(0, |r| r.seen.id);
        // A standby holds nothing that another machine relies on.
        self.hosts[slot].wound = (id != 0).then(|| (id, self.truth.committed()));
    }

    /// Whether what this machine holds and has promised is held by a majority of the voters without
    /// it, whichever of the configurations that are in any log comes to count. All must run, so
    /// that all logs can be looked at.
    fn may_lose(&mut self, slot: usize) -> bool {
        // A removal that was asked for may still wait its turn at the leader.
        let asked = self.tickets.values().any(|t| matches!(t.0, Asker::Admin));
        let whole = !asked && self.disks_are_whole();
        let Some(run) = self.up(slot) else {
            return false;
        };
        let all_up = self
            .hosts
            .iter()
            .all(|h| matches!(h.place, Place::Up(_) | Place::Empty));
        let committed = self.truth.committed();
        let last = match run.log.last() >= committed {
            true => (run.log.last(), run.log.last_term()),
            false => (committed, self.truth.committed_term(committed).unwrap_or(0)),
        };
        let id = run.seen.id;
        let configurations = (0..self.hosts.len()).filter_map(|s| self.up(s));
        // A learner counts like a voter: its acknowledgements that are under way may promote it.
        let mut sets = configurations.map(|r| {
            let members = r.core.configuration().members.iter();
            let counted = members.filter(|member| member.voter || member.id.0 == id);
            counted.map(|member| member.id.0).collect::<Vec<u64>>()
        });
        all_up
            && whole
            && sets.all(|set| self.holders(&set, slot, last) > set.len() / 2)
            && self.hears_all_voters()
    }

    /// Whether the leader hears all voters. One that it does not hear it may remove in this very
    /// moment, with a majority that counts the machine whose data is about to be lost.
    fn hears_all_voters(&self) -> bool {
        let Some((slot, run)) = self.leader().and_then(|l| Some((l, self.up(l)?))) else {
            return true;
        };
        let now = self.now_of(slot, run.mono_off_us);
        let mut voters = run.core.configuration().voters();
        let is_heard = |id: PeerId| run.core.raft().is_some_and(|raft| raft.is_heard(now, id));
        voters.all(|id| id.0 == run.seen.id || is_heard(id))
    }

    /// The machine comes back with an old copy of its data. The leader must be able to tell, and no
    /// vote may be open.
    fn old_copy(&mut self, slot: usize) {
        let calm = self.leader().is_some_and(|leader| {
            let term = self.up(leader).map(|r| r.seen.term);
            let all = (0..self.hosts.len()).filter_map(|s| self.up(s));
            leader != slot
                && all
                    .into_iter()
                    .all(|r| Some(r.seen.term) == term && r.seen.leader != 0)
        });
        let all_up = self
            .hosts
            .iter()
            .all(|h| matches!(h.place, Place::Up(_) | Place::Empty));
        match self.hosts[slot].copy.take() {
            Some(copy) if calm && all_up && self.may_lose(slot) => {
                let id = self.up(slot).map(|r| r.seen.id);
                if id != Some(copy.id.0) {
                    return;
                }
                self.wound(slot);
                self.crash(slot);
                self.trace
                    .note(slot, "old copy", copy.last(), copy.log.term.0, 0);
                self.counts.losses += 1;
                self.truth.promises.on_set_back(copy.id.0);
                self.hosts[slot].life += 1;
                self.hosts[slot].shown = 0;
                self.hosts[slot].place = Place::Down(copy);
                self.hosts[slot].full = false;
                let at = self.now_us + self.rng.range(1_000, self.p.down_us_max);
                self.queue.push(at, Ev::Start { slot });
            }
            // An old copy of a lone voter leads at once, and no machine can show it what it has
            // forgotten.
            _ => {
                let lone = |r: &Running| voters_at(&r.core, r.disk.image.last()).len() < 2;
                let mut rng = self.rng.fork();
                self.hosts[slot].copy = self
                    .up(slot)
                    .filter(|r| !lone(r))
                    .and_then(|r| r.disk.copy(&mut rng, &self.configs[slot]));
            }
        }
    }
}
