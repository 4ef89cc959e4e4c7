//! A second process of a member: a whole machine on a copy of the member's data directory.
//!
//! It runs at the end of some seeds, beside a cluster in which no member is missing, at an address
//! of its own and under the member's name. The members refuse its hellos, so no member accepts a
//! message of it. It ends with an error that names the address of the original, and wipes nothing.
//! The cluster keeps its leader and its term. While the original is missing, a copy may take its
//! place. The two are then like a disk that was set back: a vote given by one process is unknown to
//! the other. Start at `World::maybe_begin_copy`.
use super::cluster::{Ev, Place, World};
use super::truth::violation;

/// Within how many election timeouts a copy ends, and how much longer in microseconds: the members
/// must have refused it for three seconds, and it dials them ever more rarely.
const END_TIMEOUTS: u64 = 50;
const END_US: u64 = 20_000_000;

/// A copy that runs.
#[derive(Debug)]
pub struct CopyRun {
    /// Where it runs, and where the original does.
    slot: usize,
    original: usize,
    /// The cluster's leader and term when it began.
    leader: (usize, u64),
    /// Why it has ended.
    why: Option<Box<str>>,
}

impl World {
    /// Begins a copy of one of the members in a free slot. The cluster is settled. Returns whether
    /// it did: of a lone voter a copy would lead at once.
    pub fn maybe_begin_copy(&mut self) -> bool {
        let is_free = |slot: &usize| matches!(self.hosts[*slot].place, Place::Empty);
        let Some(slot) = (0..self.hosts.len()).find(is_free) else {
            return false;
        };
        let Some(leader) = self.leader() else {
            return false;
        };
        let run = self.up(leader).expect("it leads");
        let voters = run.core.configuration().voters();
        let originals: Vec<usize> = voters.map(|voter| self.ids[&voter.0]).collect();
        if originals.len() < 3 {
            return false;
        }
        let leader = (leader, run.seen.term);
        let original = *self.rng.pick(&originals);
        let config = self.configs[original].clone();
        let mut rng = self.rng.fork();
        let run = self.up(original).expect("all members run");
        let Some(image) = run.disk.copy(&mut rng, &config) else {
            return false;
        };
        if image.last() < run.disk.image.last() {
            // The copy has a torn tail: it lacks entries that the original has acknowledged.
            return false;
        }
        self.trace
            .note(slot, "copy begins", image.id.0, original as u64, 0);
        self.configs[slot] = config;
        let host = &mut self.hosts[slot];
        host.place = Place::Down(image);
        host.copy_of = Some(original);
        host.life = u64::MAX;
        self.copy_run = Some(CopyRun {
            slot,
            original,
            leader,
            why: None,
        });
        self.counts.copies += 1;
        self.queue.push(self.now_us, Ev::Start { slot });
        true
    }

    /// A copy ends for this reason.
    pub fn on_copy_fails(&mut self, why: &str) {
        if let Some(copy) = &mut self.copy_run {
            copy.why = Some(why.into());
        }
    }

    /// The process of a copy has ended.
    pub fn end_copy(&mut self) {
        let copy = self.copy_run.take().expect("a copy ends once");
        let id = self.up(copy.slot).map_or(0, |run| run.seen.id);
        self.crash(copy.slot);
        let place = std::mem::replace(&mut self.hosts[copy.slot].place, Place::Empty);
        self.hosts[copy.slot].copy_of = None;
        let url = &self.hosts[copy.original].peer_url;
        let why = copy.why.as_deref().unwrap_or_default();
        let is_named = why.contains("another process of this member") && why.contains(&**url);
        let image_id = match &place {
            Place::Down(image) => image.id.0,
            Place::Empty | Place::Up(_) => 0,
        };
        if !is_named || image_id != id {
            let text = format!(
                "the copy of m{} as {id} ends with {why:?}, and its disk is that of {image_id}",
                copy.original
            );
            return self.fail(violation("copy-goes-on", text));
        }
        let leader = self.leader();
        let leader = leader.and_then(|slot| Some((slot, self.up(slot)?.seen.term)));
        if leader != Some(copy.leader) {
            let text = format!(
                "beside a copy of m{} the leader and term {:?} are {leader:?} now",
                copy.original, copy.leader
            );
            return self.fail(violation("copy-is-heard", text));
        }
        self.end_settled();
    }

    /// A copy goes on for no long time.
    pub fn look_at_copy(&mut self, since_us: u64) {
        if since_us <= END_TIMEOUTS * self.election_us() + END_US + self.lines_us() {
            return;
        }
        let text = format!("{:?} does not end: {}", self.copy_run, self.why_not_equal());
        self.fail(violation("copy-goes-on", text));
    }
}
