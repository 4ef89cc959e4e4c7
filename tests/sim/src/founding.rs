//! How the cluster of a run begins: the first machine founds it, or all are started with one list
//! (`-bootstrap`), crash and lose their empty disks until one of them founds it.
//!
//! Afterwards a machine of the list that has lost its data waits as at the beginning, and must never
//! found a second cluster. Start at `World::begin`.
use super::cluster::{Place, World};
use super::image::Image;
use super::truth::{Checked, violation};

/// For how many election timeouts machines that wait crash.
const DISTURBED_TIMEOUTS: u64 = 40;

impl World {
    /// Starts the first machines.
    pub fn begin(&mut self) {
        if !self.p.bootstrap {
            self.hosts[0].place = Place::Down(Image::blank(&mut self.rng));
            self.hosts[0].is_founder = true;
            self.start(0);
        }
        for slot in usize::from(!self.p.bootstrap)..self.p.machines {
            let after_us = match self.p.bootstrap {
                true => self.rng.below(self.election_us() * 5),
                false => 1_000 * slot as u64,
            };
            self.begin_join(slot, after_us);
        }
    }

    /// Whether an empty machine of this slot waits for the others of its list.
    pub fn awaits_others(&self, slot: usize) -> bool {
        self.p.bootstrap && slot < self.p.machines
    }

    /// A machine is to found the cluster, at its next start.
    pub fn on_founder(&mut self, slot: usize) -> Checked {
        let others = self.hosts.iter().filter(|host| host.is_founder).count();
        if others > 0 || !self.ids.is_empty() {
            let text = format!("m{slot} founds a cluster beside {:?}", self.ids);
            return violation("second-cluster", text);
        }
        self.trace.note(slot, "founds", 0, 0, 0);
        self.hosts[slot].is_founder = true;
        Ok(())
    }

    /// Before there is a cluster, machines that wait crash, and some lose their disks.
    pub fn disturb_founding(&mut self, since_us: u64) {
        let is_over = since_us > DISTURBED_TIMEOUTS * self.election_us();
        if is_over || !self.p.bootstrap || !self.ids.is_empty() || !self.rng.chance(100_000) {
            return;
        }
        let slot = self.rng.index(self.p.machines);
        self.crash_for_a_while(slot);
        let is_down = matches!(self.hosts[slot].place, Place::Down(_));
        if is_down && self.rng.chance(300_000) {
            let after_us = self.rng.below(self.election_us());
            self.begin_join(slot, after_us);
        }
    }
}
