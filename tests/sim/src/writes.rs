//! Writes after the healing: the cluster takes values.
//!
//! Equal machines may still refuse every value, e.g. a leader that takes its log for full forever.
//! Once the cluster is settled, and once the old members have a leader after a lost majority, a plain
//! set is proposed through each machine. Like a client's, it follows redirects and is sent again after
//! a refusal. It must be acknowledged in time. Start at `World::begin_writes`.
use super::cluster::{Asker, World, slot_of};
use super::truth::violation;
use std::sync::Arc;
use tern::core::command::{Command, KeyPath};
use tern::core::machine::{Op, Outcome};

/// Within how many election timeouts a write is acknowledged, and how much longer in microseconds: a
/// full log waits five seconds for its next snapshot after one that failed.
const TAKEN_TIMEOUTS: u64 = 10;
const TAKEN_US: u64 = 6_000_000;
/// A redirected write goes out within this time, and a refused one within this.
const SOON_US: u64 = 1_000;
const AGAIN_US: u64 = 50_000;

/// A write that is not acknowledged.
pub struct OpenWrite {
    since_us: u64,
    /// How it was refused last.
    refusal: Option<Outcome>,
}

impl World {
    /// A write through each machine.
    pub fn begin_writes(&mut self) {
        for slot in 0..self.hosts.len() {
            if !self.listens(slot) {
                continue;
            }
            let write = OpenWrite {
                since_us: self.now_us,
                refusal: None,
            };
            self.writes.insert(slot, write);
            self.send_write(slot, slot, SOON_US);
        }
    }

    /// Sends the write that began at machine `first` to machine `slot`, within `after_us_max`.
    fn send_write(&mut self, first: usize, slot: usize, after_us_max: u64) {
        let ticket = self.new_ticket(Asker::Writer(first), slot);
        let op = Op::Write(Command::Set {
            path: KeyPath::new(&format!("/settled/{first}")),
            value: Some(Arc::from("yes")),
            lease: None,
        });
        let time_us = self.now_us + self.rng.range(1, after_us_max);
        self.give(
            (slot, self.hosts[slot].epoch),
            time_us,
            ticket,
            Box::new(op),
        );
    }

    /// The write that began at `first` is answered.
    pub fn on_write_answer(&mut self, first: usize, outcome: &Outcome) {
        let leader = match outcome {
            Outcome::Event(_) => {
                self.writes.remove(&first);
                return;
            }
            Outcome::Redirect { client_url, .. } => slot_of(client_url),
            _ => None,
        };
        if let Some(write) = self.writes.get_mut(&first) {
            write.refusal = Some(outcome.clone());
        }
        match leader.filter(|leader| self.listens(*leader)) {
            Some(leader) => self.send_write(first, leader, SOON_US),
            None => self.send_write(first, first, AGAIN_US),
        }
    }

    /// Writes are acknowledged in time.
    pub fn check_writes(&mut self) {
        let bound_us = TAKEN_TIMEOUTS * self.election_us() + TAKEN_US + self.lines_us();
        let is_late = |write: &OpenWrite| self.now_us > write.since_us + bound_us;
        let late = self.writes.iter().find(|(_, write)| is_late(write));
        if let Some((slot, OpenWrite { refusal, .. })) = late {
            let why = self.why_not_equal();
            let text = format!("a write through m{slot} waits, refused with {refusal:?}: {why}");
            self.fail(violation("takes-no-writes", text));
        }
    }
}
