//! Compares what a machine shows of itself after a turn with what it showed before, and its commits
//! with the disks of all machines.
use super::*;

impl World {
    /// Looks at what the machine shows of itself now; only at what changed.
    pub(super) fn look(
        &mut self,
        slot: usize,
        run: &mut Running,
        before: &Seen,
        fx: &Outputs,
    ) -> Checked {
        let seen = run.seen;
        if seen == *before {
            return Ok(());
        }
        seen.check_after(before)?;
        if seen.commit > before.commit {
            let promised = fx.answers.iter().any(|a| is_promise(&a.outcome));
            let check = if promised {
                "durable-answer"
            } else {
                "durable-commit"
            };
            self.check_commit(slot, run, check, (before.commit + 1, seen.commit))?;
        }
        if seen.leads && before.leads && seen.term == before.term && seen.commit > before.commit {
            // Thesis 3.6.2: a leader commits entries of its own term by counting, older ones only
            // with them.
            let term = run.log.term(seen.commit);
            if term != Some(seen.term) {
                let text = format!(
                    "m{slot} commits {} of term {term:?} in term {}",
                    seen.commit, seen.term
                );
                return violation("commit-of-own-term", text);
            }
        }
        if seen.leads && (!before.leads || seen.term != before.term) {
            self.trace
                .note(slot, "leads", seen.term, run.log.last(), seen.commit);
            self.truth.on_leader(seen.id, seen.term, &run.log)?;
        }
        if seen.applied > before.applied {
            let state = seen
                .applied
                .is_multiple_of(4)
                .then(|| run.core.store().map_or(0, |s| s.state_hash()));
            self.truth
                .on_applied(seen.id, seen.applied, seen.etcd, state)?;
        }
        Ok(())
    }

    pub(super) fn check_commit(
        &mut self,
        slot: usize,
        run: &Running,
        check: &'static str,
        range: (u64, u64),
    ) -> Checked {
        // Every configuration that was in force in this turn: it may have changed between two
        // commits.
        let mut sets: Vec<Vec<u64>> = Vec::new();
        for index in run.ended.min(run.log.last())..=run.log.last() {
            let voters = voters_at(&run.core, index);
            if sets.last() != Some(&voters) {
                sets.push(voters);
            }
        }
        let World {
            truth, hosts, ids, ..
        } = self;
        let held = |voter: u64, index: u64| {
            let at = *ids.get(&voter).unwrap_or(&usize::MAX);
            let image = match hosts.get(at).map(|h| &h.place) {
                _ if at == slot => &run.disk.image,
                Some(Place::Up(other)) => &other.disk.image,
                Some(Place::Down(image)) => image,
                Some(Place::Empty) | None => return Held::Never,
            };
            if image.id.0 == voter {
                image.held(index)
            } else {
                Held::Never
            }
        };
        let committed = truth.committed();
        truth.on_commit(check, run.seen.id, &run.log, range, &sets, held)?;
        self.counts.commits = self.truth.committed();
        if self.truth.committed() > committed {
            for other in (0..self.hosts.len()).filter(|o| *o != slot) {
                if let Some(leader) = self.up(other).filter(|r| r.seen.leads) {
                    self.truth
                        .check_complete(leader.seen.id, leader.seen.term, &leader.log)?;
                }
            }
        }
        Ok(())
    }
}

/// The voters of the configuration at this index; none outside of a cluster.
pub fn voters_at(core: &Machine, index: u64) -> Vec<u64> {
    let Some(raft) = core.raft() else {
        return Vec::new();
    };
    let voters = raft.configuration_at(Index(index)).voters();
    voters.map(|voter| voter.0).collect()
}

/// What a machine shows of itself.
pub(super) fn seen_of(core: &Machine) -> Seen {
    let at = core.indexes();
    Seen {
        id: core.id().map_or(0, |id| id.0),
        term: at.term.0,
        commit: at.commit.0,
        applied: core.applied().0,
        etcd: at.etcd.0,
        leader: core
            .raft()
            .and_then(|raft| raft.leader())
            .map_or(0, |id| id.0),
        leads: core.role() == Role::Leader,
    }
}

/// Whether an answer promises that something was done.
pub fn is_promise(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Event(_) | Outcome::Joined(_) | Outcome::Removed | Outcome::Config(_)
    )
}
