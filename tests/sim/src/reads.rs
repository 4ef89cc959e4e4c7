//! Linearizable reads, judged by the commit index: each shows everything that was committed when it
//! was sent.
//!
//! The check does not wait for a client to miss its write. A leader that was deposed and does not
//! know it is asked all the time: the clients that know it wait for writes. Start at
//! `World::ask_deposed_leaders`.
use super::cluster::{Asker, World};
use super::truth::{Checked, violation};
use super::workload::Want;
use tern::core::error::Code;
use tern::core::machine::{Answer, Outcome};
use tern_support::linear::Act;

impl World {
    /// Sends a read to each machine that leads beside a leader of a later term.
    pub fn ask_deposed_leaders(&mut self) {
        let newest = self.leader();
        for slot in 0..self.hosts.len() {
            let leads = self.up(slot).is_some_and(|run| run.seen.leads);
            if leads && Some(slot) != newest && !self.is_paused(slot) {
                self.ask_reader(slot);
            }
        }
    }

    fn ask_reader(&mut self, slot: usize) {
        let committed = self.truth.committed();
        let ticket = self.new_ticket(Asker::Reader { committed }, slot);
        let read = Want::Key {
            key: 0,
            act: Act::Get,
            index: 0,
        };
        let epoch = self.hosts[slot].epoch;
        self.input(slot, epoch, |_, run, now| {
            run.core.on_request(now, ticket, read.op())
        });
    }

    /// A majority answers the round of a linearizable read, so no later leader had committed
    /// anything before the read arrived.
    pub fn check_round(&self, slot: usize, answer: &Answer) -> Checked {
        let ticket = answer.ticket.0;
        let committed = match self.tickets.get(&ticket) {
            Some((Asker::Client(client), _)) => self.committed_at_read(*client, ticket),
            Some((Asker::Reader { committed }, _)) => Some(*committed),
            _ => None,
        };
        let is_shown = match &answer.outcome {
            Outcome::Page { .. } => true,
            Outcome::Failed(error) => error.code == Code::KeyNotFound,
            _ => false,
        };
        let commit = answer.at.commit.0;
        if is_shown && committed.is_some_and(|committed| commit < committed) {
            let text = format!(
                "m{slot} reads at entry {commit}, {committed:?} were committed before it was asked"
            );
            return violation("stale-read", text);
        }
        Ok(())
    }
}
