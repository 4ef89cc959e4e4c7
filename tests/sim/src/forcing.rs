//! `-force-new-cluster` at the end of some seeds (PROTOCOL 17).
//!
//! All members of a settled cluster stop, and one goes on alone. The step is cut off or fails at
//! each of its calls of the disk in turn: the disk must then hold the old cluster or the new one.
//! Then the new cluster runs, alone, with the whole key space. The other members come back without
//! that machine and are the old cluster again. A hello tells the two clusters apart on both sides.
//! Start at `World::maybe_force`.
use super::cluster::{Ev, Phase, Place, World};
use super::image::{Image, RealDisk};
use super::truth::{Checked, violation};
use super::workload::register;
use tern::core::command::{Command, KeyPath};
use tern::core::machine::{Machine, Op, Order, Outcome, Outputs, Recovered, Ticket};
use tern::core::peers::{Hello, HelloRefusal};
use tern::core::raft::{PeerId, Term};
use tern::shell::config::Config;
use tern::shell::disk::{DiskFailure, Manner, SyncReport};
use tern_support::sim_fs::{Fault, SimFs};

/// Within how many election timeouts the members that come back have a leader that commits.
const RETURN_TIMEOUTS: u64 = 50;
/// So many turns a lone machine gets to serve and to answer.
const TURNS_MAX: usize = 100;

/// The cluster, the member and the log's end, as recorded on the member's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ClusterPlace {
    cluster: u64,
    id: PeerId,
    incarnation: u64,
    last: u64,
    last_term: Term,
    members: Vec<u64>,
}

impl World {
    /// Ends the seed with a lost majority. Returns whether it did: that takes three voters.
    pub fn maybe_force(&mut self) -> bool {
        let Some(run) = self.leader().and_then(|leader| self.up(leader)) else {
            return false;
        };
        let voters: Vec<u64> = run.core.configuration().voters().map(|v| v.0).collect();
        if voters.len() < 3 {
            return false;
        }
        let members: Vec<usize> = voters.iter().map(|voter| self.ids[voter]).collect();
        let alone = *self.rng.pick(&members);
        for slot in 0..self.hosts.len() {
            self.crash(slot);
        }
        if self.violation.is_some() {
            return true;
        }
        let place = std::mem::replace(&mut self.hosts[alone].place, Place::Empty);
        let Place::Down(image) = place else {
            unreachable!("it has crashed");
        };
        self.counts.forced += 1;
        self.trace
            .note(alone, "goes on alone", image.id.0, image.last(), 0);
        let forced = self.force(alone, &image, &members);
        self.fail(forced);
        for slot in members.into_iter().filter(|slot| *slot != alone) {
            self.queue.push(self.now_us + 1_000, Ev::Start { slot });
        }
        true
    }

    /// The members that came back are the old cluster: they have a leader, which commits.
    pub fn look_at_return(&mut self, since_us: u64) {
        let run = self.leader().and_then(|leader| self.up(leader));
        if run.is_some_and(|run| run.seen.commit == run.log.last()) {
            self.begin_writes();
            return self.enter(Phase::Writes);
        }
        if since_us > RETURN_TIMEOUTS * self.election_us() + self.lines_us() {
            let text = format!("the old members: {}", self.why_not_equal());
            self.fail(violation("liveness", text));
        }
    }

    fn force(&mut self, slot: usize, image: &Image, members: &[usize]) -> Checked {
        let config = self.configs[slot].clone();
        let old = place_of(image);
        let calls = self.check_cut_off(slot, image, &config, &old)?;
        let fs = image.fs.copy();
        fs.set_room(None);
        let now = self.now_of(slot, 0);
        let forced = RealDisk::force_new_cluster_on(fs.clone(), &config, now);
        forced.or_else(|text| failed(slot, &text))?;
        let opened = RealDisk::open_on(fs.clone(), &config, true);
        let Ok((disk, recovered)) = opened else {
            return failed(slot, "the new cluster does not start");
        };
        assert!(
            fs.calls() > calls / 2,
            "the calls were counted on the same disk"
        );
        self.run_alone(slot, (disk, recovered), &old, members)
    }

    /// Cuts the step off at each of its calls. Returns how many calls it makes.
    fn check_cut_off(
        &mut self,
        slot: usize,
        image: &Image,
        config: &Config,
        old: &ClusterPlace,
    ) -> Result<u64, super::truth::Violation> {
        let now = self.now_of(slot, 0);
        let mut at = 0;
        loop {
            at += 1;
            let fault = *self
                .rng
                .pick(&[Fault::Cut, Fault::Cut, Fault::Fail, Fault::Full]);
            let fs = image.fs.copy();
            fs.set_room(None);
            fs.plan(at, fault);
            let forced = RealDisk::force_new_cluster_on(fs.clone(), config, now);
            let is_forced = forced.is_ok();
            // The next start completes the step; the fault may hit it, too.
            let is_over = is_forced && RealDisk::open_on(fs.clone(), config, true).is_ok();
            let is_past = fs.calls() < at;
            let left = fs.cut_power(&mut self.rng);
            self.check_left(slot, &left, config, (old, is_forced))?;
            if is_over && is_past {
                return Ok(at);
            }
        }
    }

    /// Checks that the disk holds the old cluster or the new one. After the step it must be the new
    /// one.
    fn check_left(
        &self,
        slot: usize,
        left: &SimFs,
        config: &Config,
        (old, is_forced): (&ClusterPlace, bool),
    ) -> Checked {
        let read = Image::read(left, config);
        let found = match read {
            Ok(found) => place_of(&found),
            Err(text) => return failed(slot, &text),
        };
        let is_old = found == *old;
        let is_new = found.cluster != old.cluster
            && found.id == old.id
            && found.incarnation != old.incarnation
            && found.last == old.last + 1
            && found.members == [old.id.0];
        if is_new || (is_old && !is_forced) {
            return Ok(());
        }
        let text = format!("from {old:?} to {found:?}, the step was over: {is_forced}");
        failed(slot, &text)
    }

    /// The new cluster serves, with every register as it was, and tells old members apart.
    fn run_alone(
        &mut self,
        slot: usize,
        (mut disk, recovered): (RealDisk, Recovered),
        old: &ClusterPlace,
        members: &[usize],
    ) -> Checked {
        let mut now = self.now_of(slot, 0);
        let seed = self.rng.next_u64();
        let mut machine = Machine::recover(self.settings(slot), recovered, seed, now);
        machine.remember_former_clusters(disk.former_clusters());
        let write = Op::Write(Command::Set {
            path: KeyPath::new("/alone"),
            value: Some("yes".into()),
            lease: None,
        });
        machine.on_request(now, Ticket(1), write);
        let mut answered = Vec::new();
        let mut out = Outputs::default();
        for _ in 0..TURNS_MAX {
            now.mono_us += self.election_us();
            machine.on_time(now);
            out.clear();
            machine.advance(now, &mut out);
            if let Some(order) = out.orders.iter().find(|o| matches!(o, Order::Fail(_))) {
                return failed(slot, &format!("{order:?}"));
            }
            answered.extend(out.answers.drain(..).map(|answer| answer.outcome));
            if let Some(state) = out.state.take() {
                disk.save_state(state);
            }
            let synced = sync(&mut disk, &mut out);
            let report = synced.or_else(|text| failed(slot, &text).map(|()| Default::default()))?;
            if let Some(seq) = report.state {
                machine.on_state_synced(now, seq, 0);
            }
            if let Some(lsn) = report.lsn {
                machine.on_synced(now, lsn, 0);
            }
            disk.poll_space(now.mono_us);
            machine.on_room(disk.free_bytes());
        }
        if !matches!(answered[..], [Outcome::Event(_)]) {
            let (term, seen) = (machine.indexes(), machine.is_serving());
            let text = format!("the new cluster answers {answered:?}: {term:?}, serves {seen}");
            return failed(slot, &text);
        }
        self.check_registers(slot, &machine, old)?;
        self.check_told_apart(slot, &mut machine, members)
    }

    /// Every register is as it was after the last entry on this disk. An entry after that is lost
    /// with the others. The model knows committed entries only: if the last entry here is not the
    /// committed one at its index, nothing is compared.
    fn check_registers(&self, slot: usize, machine: &Machine, old: &ClusterPlace) -> Checked {
        let is_committed = self.truth.committed_term(old.last) == Some(old.last_term.0);
        let Some(etcd) = self.truth.etcd_after(old.last).filter(|_| is_committed) else {
            return Ok(());
        };
        let store = machine.store().expect("a member has a key space");
        for key in 0..self.p.keys {
            let path = register(key);
            let view = self.truth.model.view_at(&path, etcd);
            let want = view.as_ref().and_then(|view| view.value.as_deref());
            if store.value(&KeyPath::new(&path)) != want {
                return failed(slot, &format!("{path} is not {want:?} in the new cluster"));
            }
        }
        Ok(())
    }

    /// An old member that says hello is told that this machine went on.
    fn check_told_apart(&self, slot: usize, machine: &mut Machine, members: &[usize]) -> Checked {
        let now = self.now_of(slot, 0);
        for other in members.iter().filter(|other| **other != slot) {
            let Some(image) = self.image(*other) else {
                continue;
            };
            let hello = Hello {
                from: image.id,
                to: machine.id(),
                process: 9,
                incarnation: image.incarnation,
                cluster: image.newest().map(|s| s.meta.cluster),
                name: super::cluster::name_of(*other),
                peer_url: self.hosts[*other].peer_url.clone(),
                client_url: super::cluster::client_url(*other),
                ..Hello::default()
            };
            let answer = machine.on_hello(now, &hello, "old");
            if !matches!(answer, Err(HelloRefusal::WentOn)) {
                return failed(slot, &format!("m{other} of the old cluster: {answer:?}"));
            }
        }
        Ok(())
    }
}

/// One job of the disk in place, and the task that it leaves.
fn sync(disk: &mut RealDisk, out: &mut Outputs) -> Result<SyncReport, String> {
    let text = |e: DiskFailure| e.to_string();
    disk.append(&mut out.persist, out.lsn).map_err(text)?;
    let started = disk.start_sync(Manner::InPlace).map_err(text)?;
    if let Some(mut task) = started.task {
        task.run();
        disk.take_back(task).map_err(text)?;
    }
    disk.poll_sync().map_err(text)
}

fn place_of(image: &Image) -> ClusterPlace {
    let newest = image.newest();
    let members = newest.map(|s| s.meta.configuration.members.iter());
    ClusterPlace {
        cluster: newest.map_or(0, |s| s.meta.cluster),
        id: image.id,
        incarnation: image.incarnation,
        last: image.last(),
        last_term: image.last_term(),
        members: members.into_iter().flatten().map(|m| m.id.0).collect(),
    }
}

fn failed(slot: usize, text: &str) -> Checked {
    violation("forced", format!("m{slot}: {text}"))
}
