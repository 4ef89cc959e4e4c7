//! Compares the state that a machine shows after a turn with the state before it, and its commits
//! with the disks of all machines. Start at `World::look`.
use super::*;

/// How long a leader may have a node that is due before it proposes its expiry: it expires nodes at
/// most twice a second, and none while it hands over. The entry must then be committed.
const EXPIRY_US_MAX: u64 = 1_000_000;

/// A member waits so many election timeouts for a leader before it serves without one.
const START_TIMEOUTS: u64 = 5;

/// So many turns in a row a machine may be due again at the very time of the turn.
const BUSY_TURNS_MAX: u64 = 1_000;

/// The turns of a machine after which it is due again at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rest {
    /// The time of the last turn.
    turn_us: u64,
    /// How many turns in a row were at that time, and left a deadline at it.
    busy_turns: u64,
}

impl Rest {
    /// A turn at `now_us` leaves a deadline at `due_us`. A deadline that does not move when it is
    /// reached keeps the processor busy and the process from its work.
    pub(super) fn check(&mut self, slot: usize, now_us: u64, due_us: u64) -> Checked {
        if due_us > now_us || self.turn_us != now_us {
            self.turn_us = now_us;
            self.busy_turns = 0;
            return Ok(());
        }
        self.busy_turns += 1;
        if self.busy_turns <= BUSY_TURNS_MAX {
            return Ok(());
        }
        let text = format!("m{slot} was due at {now_us} for {BUSY_TURNS_MAX} turns");
        violation("never-rests", text)
    }
}

/// When a process may show its state to clients.
#[derive(Clone, Copy, Debug, Default)]
pub struct Service {
    /// It must have applied all entries up to here: its disk had recorded them as committed.
    recovered: u64,
    /// It has known a leader.
    has_been_led: bool,
    /// It has shown its state.
    serves: bool,
    /// It has applied the entry that removes it.
    is_removed: bool,
}

impl Service {
    /// A process whose disk has recorded the entries up to `recovered` as committed.
    pub fn new(recovered: u64) -> Service {
        Service {
            recovered,
            ..Service::default()
        }
    }
}

/// A node that is due on a leader.
pub struct Overdue {
    /// The deadline on the cluster clock.
    due_ns: u64,
    /// The leader's term.
    term: u64,
    /// Since when its expiry is not proposed, in microseconds of the true time.
    since_us: u64,
    /// The end of the log when the time for the proposal was over, twice: an older one may have
    /// been under way the first time.
    ends: Vec<u64>,
}

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

    /// A member that has applied its own removal serves no more. A snapshot may cover the removal:
    /// then a notice tells.
    pub(super) fn follow_removal(&self, slot: usize, run: &mut Running, before: &Seen) -> Checked {
        if run.service.is_removed && run.core.is_serving() {
            let text = format!(
                "m{slot} serves, and has applied the removal of {}",
                before.id
            );
            return violation("removed-serves", text);
        }
        let removed = self.truth.removed.get(&before.id);
        let is_applied = |at: u64| (before.applied + 1..=run.seen.applied).contains(&at);
        run.service.is_removed |= removed.is_some_and(|at| is_applied(*at) && run.log.base < *at);
        Ok(())
    }

    /// Checks that a process shows no state before it has applied the entries that its disk had
    /// recorded as committed. The process also waits for a leader, but only for a while.
    pub(super) fn check_serves(&self, slot: usize, run: &mut Running, fx: &Outputs) -> Checked {
        run.service.has_been_led |= run.seen.leader != 0;
        if run.service.serves || !shows(fx) {
            return Ok(());
        }
        run.service.serves = true;
        let host = &self.hosts[slot];
        let patience_us = START_TIMEOUTS * host.tuning.election_ms * 1_000;
        let is_late = self.now_us >= host.started_us + patience_us;
        let Service {
            recovered,
            has_been_led,
            ..
        } = run.service;
        if run.seen.applied >= recovered && (has_been_led || is_late) {
            return Ok(());
        }
        let text = format!(
            "m{slot} serves at {} of {recovered}, a leader was known: {has_been_led}",
            run.seen.applied
        );
        violation("serves-too-early", text)
    }

    /// A lone voter applies its whole log before it answers: it marks nothing for that.
    pub(super) fn note_shown(&self, run: &mut Running, fx: &Outputs) {
        let is_lone = run.core.configuration().voters().eq([PeerId(run.seen.id)]);
        if shows(fx) && !is_lone {
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

    /// A leader expires a node soon after its deadline on the cluster clock, unless it is paused or
    /// has no room: it proposes that in time, and then it is done with the next commit.
    pub(super) fn check_expiry(&self, slot: usize, run: &mut Running) -> Checked {
        let host = &self.hosts[slot];
        let now = self.now_of(slot, run.mono_off_us);
        let raft = run.core.raft().filter(|raft| raft.has_duty_room());
        let cluster_ns = raft.and_then(|raft| raft.cluster_ns(now));
        let due_ns = run.core.store().and_then(|s| s.next_expiry_ns());
        let due_ns = due_ns.filter(|due_ns| cluster_ns.is_some_and(|now_ns| *due_ns <= now_ns));
        let is_awake = self.now_us > host.paused_until_us + 1_000;
        let Some(due_ns) = due_ns.filter(|_| run.seen.leads && is_awake) else {
            run.overdue = None;
            return Ok(());
        };
        let term = run.seen.term;
        let overdue = run.overdue.take();
        let overdue = overdue.filter(|o| (o.due_ns, o.term) == (due_ns, term));
        let mut overdue = overdue.unwrap_or(Overdue {
            due_ns,
            term,
            since_us: self.now_us,
            ends: Vec::new(),
        });
        let is_committed = overdue
            .ends
            .last()
            .is_none_or(|end| run.seen.applied >= *end);
        // A hand-over lasts as long as members wait for each other, if the order to campaign is
        // lost.
        let hand_over_us = self.election_us() + self.p.line_allowance_us();
        let bound_us = EXPIRY_US_MAX + self.election_us() + hand_over_us;
        if is_committed && self.now_us - overdue.since_us > bound_us {
            if overdue.ends.len() == 2 {
                let raft = run.core.raft().expect("a member leads");
                let text = format!(
                    "m{slot} leads with {} bytes of room (hands over: {}), and a node has been due since {due_ns}",
                    run.disk.free_bytes(),
                    raft.is_handing_over()
                );
                return violation("expires-late", text);
            }
            overdue.ends.push(run.log.last());
            overdue.since_us = self.now_us;
        }
        run.overdue = Some(overdue);
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
        let who = (run.seen.id, run.seen.term);
        truth.on_commit(check, who, &run.log, range, &sets, held)?;
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

/// Whether a client is shown the state of the key space.
fn shows(fx: &Outputs) -> bool {
    !fx.events.is_empty() || fx.answers.iter().any(|a| shows_state(&a.outcome))
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
