//! Compares what a machine shows of itself after a turn with what it showed before, and its commits
//! with the disks of all machines.
use super::*;

/// How long a leader that has nothing to commit may have a node that is due: it expires nodes at most
/// twice a second, and none while it hands over.
const EXPIRY_US_MAX: u64 = 1_000_000;

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
            // The hash of a key space with long values takes long.
            let every = if self.p.value_bytes_max > 20_000 {
                16
            } else {
                4
            };
            let is_hashed = seen.applied.is_multiple_of(every);
            let state = is_hashed.then(|| run.core.store().map_or(0, |s| s.state_hash()));
            self.truth
                .on_applied(seen.id, seen.applied, seen.etcd, state)?;
        }
        Ok(())
    }

    /// A lone voter applies its whole log before it answers: it marks nothing for that.
    pub(super) fn note_shown(&self, run: &mut Running, fx: &Outputs) {
        let shows = !fx.events.is_empty() || fx.answers.iter().any(|a| shows_state(&a.outcome));
        let is_lone = run.core.configuration().voters().eq([PeerId(run.seen.id)]);
        if shows && !is_lone {
            run.shown.on_shown(run.seen.applied, self.now_us);
        }
    }

    /// A state that was shown is marked in time, unless the machine was paused, has no room, or
    /// leaves because it knows that it was removed.
    pub(super) fn check_shown(&self, slot: usize, run: &Running) -> Checked {
        let host = &self.hosts[slot];
        let removed = self.truth.removed.get(&run.seen.id);
        let leaves = removed.is_some_and(|at| *at <= run.seen.applied);
        let has_room = run.core.raft().is_none_or(|raft| raft.has_duty_room());
        if !has_room || leaves || self.now_us < host.paused_until_us + 1_000 {
            return Ok(());
        }
        let is_durable = |index: u64| match run.disk.image.held(index) {
            Held::Entry { term, .. } => run.log.term(index) == Some(term),
            Held::Behind => true,
            Held::Never => false,
        };
        run.shown.check_marked(run.seen.id, self.now_us, is_durable)
    }

    /// A leader expires a node soon after its deadline on the cluster clock, unless it is paused,
    /// has no room, or waits for a majority.
    pub(super) fn check_expiry(&self, slot: usize, run: &mut Running) -> Checked {
        let host = &self.hosts[slot];
        let now = self.now_of(slot, run.mono_off_us);
        let raft = run.core.raft().filter(|raft| raft.has_duty_room());
        let cluster_ns = raft.and_then(|raft| raft.cluster_ns(now));
        let due_ns = run.core.store().and_then(|s| s.next_expiry_ns());
        let is_due = due_ns.is_some_and(|due_ns| cluster_ns.is_some_and(|now_ns| due_ns <= now_ns));
        let is_idle = run.seen.leads && run.seen.commit == run.log.last();
        let is_awake = self.now_us > host.paused_until_us + 1_000;
        if !(is_idle && is_due && is_awake) {
            run.overdue_since_us = None;
            return Ok(());
        }
        let since_us = *run.overdue_since_us.get_or_insert(self.now_us);
        // A hand-over lasts as long as members wait for each other, if the order to campaign is lost.
        let hand_over_us = self.election_us() + self.p.line_allowance_us();
        if self.now_us - since_us <= EXPIRY_US_MAX + self.election_us() + hand_over_us {
            return Ok(());
        }
        let text = format!("m{slot} leads, and a node has been due since {due_ns:?}");
        violation("expires-late", text)
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
