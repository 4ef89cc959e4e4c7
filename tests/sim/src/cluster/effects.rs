//! Carries out what a machine hands out in a turn: its log and snapshots to the simulated disk,
//! messages to the net, answers and events to the clients.
use super::*;
use crate::duties::RemovalTimes;
use tern::core::peers::LinkReportEvent;

impl World {
    pub(super) fn carry_out(
        &mut self,
        slot: usize,
        run: &mut Running,
        fx: &mut Outputs,
    ) -> Checked {
        let wipes = fx.wipes();
        // The simulated disk is quick: all orders but the wipe are carried out first.
        for order in fx.orders.drain(..) {
            self.carry_order(slot, run, order);
        }
        if wipes {
            fx.snapshot.clear();
        }
        self.carry_snapshots(slot, run, fx);
        let who = run.seen.id;
        self.truth.now_us = self.now_us;
        if self.plant.lies.mark_empty {
            empty_marks(&mut fx.persist);
        }
        let has_changed = self.note_persist(slot, run, fx)?;
        run.shown.on_persist(&fx.persist, fx.lsn.0);
        let state = fx.state.take();
        if !wipes {
            self.hand_to_disk(slot, run, state, fx)?;
        }
        self.check_reports(slot, &fx.facts)?;
        let before = run.seen;
        run.seen = seen_of(&run.core);
        self.follow_removal(slot, run, &before)?;
        if has_changed && run.seen.leads {
            check_changes(run)?;
        }
        self.look(slot, run, &before, fx)?;
        if run.disk.has_failed() {
            // The process ends at once: nothing leaves it any more.
            return Ok(());
        }
        self.check_serves(slot, run, fx)?;
        self.note_shown(run, fx);
        let times = RemovalTimes {
            remove_delay_ms: self.p.remove_delay_ms,
            election_ms: self.hosts[slot].tuning.election_ms,
            now_us: self.now_us,
            heard_us_max: self.heard_us_max() + self.p.down_us_max,
        };
        run.duties
            .check(times, &run.contact.answers, &run.core, &fx.facts)?;
        self.send_all(slot, who, run, fx)?;
        for call in fx.calls.drain(..) {
            self.start_call(slot, call);
        }
        let ends = take_watch_timeouts(&mut fx.answers);
        self.give_answers(slot, fx)?;
        self.deliver_events(slot, fx)?;
        for answer in ends {
            self.on_answer(slot, answer)?;
        }
        if wipes {
            let told = fx.facts.iter().any(|f| matches!(f, Fact::Removed)) && run.log.last() != 0;
            if told && !self.truth.removed.contains_key(&who) {
                let text = format!("m{slot} takes itself for removed, and {who} is a member");
                return violation("false-removal", text);
            }
            return self.start_over(slot, run);
        }
        Ok(())
    }

    /// Machines of the simulator run the same code: none sends a message that no correct peer sends.
    fn check_reports(&mut self, slot: usize, facts: &[Fact]) -> Checked {
        for fact in facts {
            if matches!(fact, Fact::Amnesia) && self.hosts[slot].wound.is_none() {
                let text = format!("m{slot} takes its data for an old copy, and has lost nothing");
                return violation("false-amnesia", text);
            }
            if let Fact::Link(report) = fact
                && let LinkReportEvent::Violated(violated) = &report.event
            {
                let text = format!("m{slot} on a message of {:?}: {violated}", report.name);
                return violation("impossible-message", text);
            }
            if let Fact::ClockBridged { .. } = fact {
                self.truth.times.on_bridged(self.now_us);
            }
        }
        Ok(())
    }

    /// Follows what goes to the log; whether a change of membership is among it.
    fn note_persist(
        &mut self,
        slot: usize,
        run: &mut Running,
        fx: &Outputs,
    ) -> Result<bool, Violation> {
        let who = run.seen.id;
        let mut changed = false;
        for op in &fx.persist {
            match op {
                Persist::Mark { commit } => {
                    self.trace.note(slot, "marks", commit.0, 0, 0);
                }
                Persist::Append { entries, .. } => {
                    let changes = entries.iter().filter(|e| self.note_change(slot, e));
                    changed |= changes.count() > 0;
                    let first = entries.first().expect("an append has entries");
                    let term = self.heard_appends.leader_term(first);
                    let term = term.unwrap_or(run.core.indexes().term.0);
                    let promises = &mut self.truth.promises;
                    promises.on_cut(who, &run.log, first.index.0, term)?;
                    self.truth
                        .on_appended(who, &mut run.log, run.seen.commit, entries)?;
                }
                Persist::Installed { meta, keep_tail } => {
                    if !keep_tail {
                        let from = meta.index.0 + 1;
                        let term = run.core.indexes().term.0;
                        let term = self.truth.cut_term(&run.log, meta, term);
                        let promises = &mut self.truth.promises;
                        promises.on_cut(who, &run.log, from, term)?;
                    }
                    run.log.install(meta.index.0, meta.term.0, *keep_tail);
                }
                Persist::Release { through } => {
                    let term = run.log.term(through.0).unwrap_or(run.log.base_term);
                    run.log.rebase(through.0, term);
                }
                Persist::Repair(entry) => {
                    self.counts.repairs += 1;
                    self.truth.on_repaired(who, entry)?;
                }
            }
        }
        Ok(changed)
    }

    /// Checks what is sent and gives it to the net. `who` is the id that the machine had when the
    /// turn began.
    fn send_all(&mut self, slot: usize, who: u64, run: &mut Running, fx: &mut Outputs) -> Checked {
        let election_ms = self.hosts[slot].tuning.election_ms;
        for (to, message) in fx.send.drain(..) {
            let sent = check_send(&run.disk.image, &self.truth, who, to, &message);
            sent.map_err(|mut found| {
                let members = run.core.configuration().members.iter();
                let members: Vec<_> = members.map(|m| (m.id.0, m.voter)).collect();
                found.text += &format!(
                    " ({:?}, log to {}, members {members:?})",
                    run.seen,
                    run.log.last()
                );
                found
            })?;
            run.contact
                .check_lease(election_ms, self.now_us, &run.seen, to.0, &message)?;
            let life = self.hosts[slot].life;
            let promises = &mut self.truth.promises;
            promises.on_sent((who, life), to, &run.log, &message)?;
            if matches!(message.rpc, Rpc::Vote { .. }) {
                self.voted_for = Some(to.0);
            }
            self.send(slot, who, to, run, &message);
        }
        for order in fx.links.drain(..) {
            self.carry_link_order(slot, run, order);
        }
        Ok(())
    }

    fn hand_to_disk(
        &self,
        slot: usize,
        run: &mut Running,
        state: Option<raft::HardState>,
        fx: &mut Outputs,
    ) -> Checked {
        if let Some(state) = state {
            run.disk.save_state(state);
            if self.plant.seam.state_early {
                let now = self.now_of(slot, run.mono_off_us);
                run.core.on_state_synced(now, state.seq, 0);
            }
        }
        if !run.disk.has_room_for(&fx.persist) {
            let text = format!("m{slot} appends more than its log has room for");
            return violation("room-exceeded", text);
        }
        run.disk.append(&mut fx.persist, fx.lsn);
        if let Some(bytes) = fx.wanted_room_bytes.take() {
            run.disk.want_room(bytes);
        }
        Ok(())
    }

    /// Gives answers to the clients, two of them exchanged if that is planted.
    fn give_answers(&mut self, slot: usize, fx: &mut Outputs) -> Checked {
        if self.plant.seam.answers_swapped
            && let [first, second, ..] = &mut fx.answers[..]
            && let (Outcome::Event(_), Outcome::Event(_)) = (&first.outcome, &second.outcome)
        {
            std::mem::swap(&mut first.ticket, &mut second.ticket);
        }
        for answer in fx.answers.drain(..) {
            self.on_answer(slot, answer)?;
        }
        Ok(())
    }

    /// Gives events to their watchers, unless they are planted to be lost or doubled.
    fn deliver_events(&mut self, slot: usize, fx: &mut Outputs) -> Checked {
        let seam = self.plant.seam;
        if seam.events_swapped {
            fx.events.reverse();
        }
        for delivery in fx.events.drain(..) {
            let struck = (seam.event_lost || seam.event_twice) && self.rng.chance(20_000);
            if struck && seam.event_lost {
                continue;
            }
            self.on_delivery(slot, &delivery)?;
            if struck {
                self.on_delivery(slot, &delivery)?;
            }
        }
        Ok(())
    }

    /// Carries out an order, but for the wipe, which `carry_out` ends with, and for the end of the
    /// process, which `finish_turn` sees to.
    fn carry_order(&mut self, slot: usize, run: &mut Running, order: Order) {
        let was_standby = run
            .disk
            .image
            .standby
            .as_ref()
            .is_some_and(|info| info.running);
        match order {
            Order::KeepId(id) => {
                self.counts.switches += u64::from(was_standby);
                self.trace.note(slot, "let in", id.0, 0, 0);
                run.disk.keep_id(id);
                self.ids.insert(id.0, slot);
                let directory = &mut self.hosts[slot].directory;
                let admitted = directory.on_admitted(slot, id.0, &self.truth);
                self.fail(admitted);
                let stays_learner = std::mem::take(&mut self.hosts[slot].stays_learner);
                if stays_learner && self.phase == Phase::Faults {
                    // No room for a snapshot.
                    self.hosts[slot].full = true;
                    run.disk.image.fs.set_room(Some(0));
                }
            }
            Order::KeepStandbyInfo { info, gives_up_log } => {
                if info.running && !was_standby {
                    self.counts.switches += 1;
                    let (leaves, known) = (u64::from(gives_up_log), info.cluster.len() as u64);
                    self.trace
                        .note(slot, "stands by", run.seen.id, leaves, known);
                }
                let incarnation = run.disk.image.incarnation;
                let directory = &mut self.hosts[slot].directory;
                let checked = directory.check_standby_info(slot, &info, incarnation, &self.truth);
                run.disk.keep_standby(&info, gives_up_log);
                // On a full disk the older file stays.
                if !run.disk.has_failed() && !self.hosts[slot].full {
                    let directory = &mut self.hosts[slot].directory;
                    directory.on_standby_info(&info);
                }
                self.fail(checked);
            }
            Order::Fail(why) => {
                if self.hosts[slot].copy_of.is_some() {
                    self.on_copy_fails(&why);
                } else if why.contains("another process of this member") {
                    let text = format!("m{slot} gives up: {why}");
                    self.fail(crate::truth::violation("false-copy", text));
                }
                self.trace.note(slot, "gives up", why.len() as u64, 0, 0);
            }
            Order::FollowMembers => {
                let members = run.core.configuration();
                if !members.members.is_empty() {
                    run.disk.keep_configuration(run.core.cluster(), members);
                }
            }
            Order::Found => {
                let first = self.on_founder(slot);
                self.fail(first);
            }
            Order::Wipe | Order::ForceNewCluster | Order::Stop => {}
        }
    }

    /// What this machine holds is of no use any more: its log is wiped, and its directory gets a
    /// new number.
    fn start_over(&mut self, slot: usize, run: &mut Running) -> Checked {
        let now = self.now_of(slot, run.mono_off_us);
        let (id, former) = (run.disk.image.id.0, run.disk.image.incarnation);
        self.truth.promises.on_wiped(id, former);
        self.hosts[slot].directory.on_wiped(former);
        let Some(mut incarnation) = run.disk.start_over() else {
            return Ok(());
        };
        if self.plant.lies.incarnation_kept {
            incarnation = former;
        }
        run.log = MemLog::default();
        run.shown = Shown::default();
        run.service = look::Service::default();
        run.core.on_wiped(now, incarnation);
        run.seen = seen_of(&run.core);
        run.wake_us = u64::MAX;
        // Whatever is under way is that of the former life.
        self.hosts[slot].epoch += 1;
        self.hosts[slot].copy = None;
        let open = self.tickets.values().filter(|t| t.1 == slot).count();
        let watch = self
            .watchers
            .values()
            .filter(|w| w.slot == slot && !w.has_ended())
            .count();
        if open + watch > 0 {
            let text = format!(
                "m{slot} becomes a standby and leaves {open} requests and {watch} watchers unanswered"
            );
            return violation("switch-leaves-request", text);
        }
        Ok(())
    }

    /// Changes of membership are worth a line of the trace.
    fn note_change(&mut self, slot: usize, entry: &raft::Entry) -> bool {
        let raft::EntryBody::Good(bytes) = &entry.body else {
            return false;
        };
        if !command::is_membership(bytes) {
            return false;
        }
        let (what, id) = match command::decode(bytes) {
            Ok(Command::Join { replaces, .. }) => ("appends join", replaces.unwrap_or(0)),
            Ok(Command::Promote { id }) => ("appends promote", id),
            Ok(Command::Remove { id, .. }) => ("appends remove", id),
            _ => return false,
        };
        self.trace.note(slot, what, entry.index.0, entry.term.0, id);
        true
    }

    /// Hands over the orders about snapshot files. Their reports follow later.
    fn carry_snapshots(&mut self, slot: usize, run: &mut Running, fx: &mut Outputs) {
        let now = self.now_of(slot, run.mono_off_us);
        for out in fx.snapshot.drain(..) {
            if let Some(refused) = run.disk.snapshot(out) {
                self.trace.note(slot, "snapshot is refused", 0, 0, 0);
                run.core.on_snapshot(now, refused);
                let epoch = self.hosts[slot].epoch;
                self.queue.push(self.now_us + 1, Ev::Turn { slot, epoch });
            }
        }
        self.start_snapshot_task(slot, run);
    }

    /// Starts the next task with snapshot files, unless one is under way. If the disk is quick, it
    /// ends at once.
    pub(super) fn start_snapshot_task(&mut self, slot: usize, run: &mut Running) {
        if !run.disk.start_snapshot_task() {
            return;
        }
        let (min, max) = (self.p.sync_us_min, self.p.sync_us_max * 3);
        let took_us = match self.p.handed_over_ppm {
            0 => 0,
            _ => self.rng.range(min, max),
        };
        let epoch = self.hosts[slot].epoch;
        self.queue
            .push(self.now_us + took_us, Ev::Reported { slot, epoch });
    }

    fn send(&mut self, slot: usize, from: u64, to: PeerId, run: &Running, message: &Message) {
        let Some((connection, target, opens_us)) = self.way(slot, run, to) else {
            return;
        };
        self.scratch.clear();
        tern::codec::peer::wire::encode(message, &mut self.scratch);
        if let Rpc::Fetched {
            found: raft::FetchResult::Body(_),
            ..
        } = &message.rpc
            && self.phase == Phase::Faults
            && self.rng.chance(200_000)
        {
            // A peer's memory is no better than its disk: a body that does not match must not be
            // taken.
            *self.scratch.last_mut().expect("a message has bytes") ^= 0x55;
        }
        self.trace.hash.add_bytes(&self.scratch);
        let times = self.net.route(&mut self.rng, self.now_us, slot, target);
        for time in times.into_iter().flatten() {
            let time = match self.p.batch_us {
                0 => time,
                batch => time.next_multiple_of(batch),
            };
            let bytes = self.scratch.as_slice().into();
            let time = time.max(opens_us);
            self.note_arrival(connection, time);
            self.queue.push(
                time,
                Ev::Deliver {
                    slot: target,
                    to: to.0,
                    from,
                    connection,
                    bytes,
                },
            );
        }
    }
}

/// Takes out the answers to watches whose time is over. As in the shell they come after the events of
/// the turn: the client goes on after the index of the answer.
fn take_watch_timeouts(answers: &mut Vec<Answer>) -> Vec<Answer> {
    let is_end = |answer: &mut Answer| matches!(answer.outcome, Outcome::WatchTimedOut);
    answers.extract_if(.., is_end).collect()
}

/// The planted fault `MarkEmpty`.
fn empty_marks(records: &mut [Persist]) {
    for record in records {
        if let Persist::Mark { commit } = record {
            *commit = Index(0);
        }
    }
}
