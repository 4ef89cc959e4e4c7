//! The next thing happens to one machine, and its turn follows: inputs in the order of `Ev`, then
//! `finish_turn`, the simulator's version of the reactor's turn.
use super::*;
use crate::disk::Durable;
use tern::core::peers::LinkEvent;
use tern::core::raft::SnapshotMeta;
use tern::shell::disk::Manner;

impl World {
    /// The next thing happens. False when nothing is left to happen.
    pub fn step(&mut self) -> bool {
        let Some((time_us, ev)) = self.queue.pop() else {
            return false;
        };
        self.now_us = self.now_us.max(time_us);
        self.trace.time_us = self.now_us;
        self.counts.events += 1;
        if let Some(slot) = self.holder(&ev) {
            self.hosts[slot].held_up.push(ev);
            return true;
        }
        self.happen(ev);
        true
    }

    fn happen(&mut self, ev: Ev) {
        match ev {
            Ev::Deliver {
                slot,
                to,
                from,
                connection,
                bytes,
            } => self.on_deliver(slot, (to, from), connection, &bytes),
            Ev::Synced {
                slot,
                epoch,
                took_us,
            } => self.input(slot, epoch, |_, run, now| {
                if run.disk.has_task() {
                    let durable = run.disk.end_task();
                    on_durable(run, now, durable, took_us);
                }
            }),
            Ev::Reported { slot, epoch } => {
                self.input(slot, epoch, |world, run, now| {
                    world.on_reported(slot, run, now);
                });
            }
            Ev::Wake { slot, epoch } => self.input(slot, epoch, |world, run, now| {
                if run.wake_us <= world.now_us {
                    run.wake_us = u64::MAX;
                    run.core.on_time(now);
                }
            }),
            Ev::Turn { slot, epoch } => self.input(slot, epoch, |_, _, _| {}),
            Ev::Link { slot, ev } => self.on_link_ev(slot, *ev),
            Ev::Think { client } => self.on_think(client),
            Ev::Timeout { client, seq } => self.on_timeout(client, seq),
            Ev::Again { client, seq } => self.on_again(client, seq),
            Ev::Ask {
                slot,
                epoch,
                ticket,
                op,
            } => self.input(slot, epoch, |_, run, now| {
                run.core.on_request(now, ticket, *op);
            }),
            Ev::Call { key, leg } => self.on_call(key, leg),
            Ev::Start { slot } => self.start(slot),
            Ev::Resume { slot } => self.resume(slot),
            Ev::Blow => self.on_blow(),
            Ev::Look => self.on_look(),
        }
    }

    /// A task with snapshot files has ended.
    fn on_reported(&mut self, slot: usize, run: &mut Running, now: Now) {
        for report in run.disk.end_snapshot_task() {
            self.on_report(slot, run, now, report);
        }
        self.start_snapshot_task(slot, run);
    }

    /// A report about a snapshot file.
    fn on_report(&mut self, slot: usize, run: &mut Running, now: Now, mut report: SnapshotIn) {
        match &mut report {
            SnapshotIn::Saved {
                index,
                bytes,
                older,
            } => {
                self.counts.snapshots += 1;
                run.shown.on_saved(index.0);
                self.trace
                    .note(slot, "snapshot saved", index.0, *bytes, older.0);
            }
            SnapshotIn::Read {
                index,
                offset,
                data,
                ..
            } => {
                // Shorter pieces than the disk reads: a snapshot then takes several.
                let bytes_max = 400 + self.rng.index(4_000) + self.p.piece_bytes_min();
                if let Some((bytes, is_last)) = data
                    && bytes.len() > bytes_max
                {
                    *bytes = bytes[..bytes_max].into();
                    *is_last = false;
                }
                let read = data.as_ref().map_or(0, |d| d.0.len() as u64);
                self.trace
                    .note(slot, "read snapshot", index.0, *offset, read);
            }
            SnapshotIn::Installed { meta, .. } => self.on_received(run, meta),
            SnapshotIn::Written { .. } | SnapshotIn::Received => {}
            SnapshotIn::Refused | SnapshotIn::Failed { .. } | SnapshotIn::NoRoom => {
                self.trace.note(slot, "snapshot fails", 0, 0, 0);
            }
        }
        run.core.on_snapshot(now, report);
    }

    /// A machine is paused until then.
    pub fn pause(&mut self, slot: usize, until_us: u64) {
        let host = &mut self.hosts[slot];
        host.paused_until_us = host.paused_until_us.max(until_us);
        let at = host.paused_until_us;
        self.queue.push(at, Ev::Resume { slot });
    }

    /// Ends a pause now.
    pub fn end_pause(&mut self, slot: usize) {
        let host = &mut self.hosts[slot];
        host.paused_until_us = host.paused_until_us.min(self.now_us);
        self.resume(slot);
    }

    /// What a pause has held up happens now, the timer last.
    fn resume(&mut self, slot: usize) {
        if self.is_paused(slot) {
            return;
        }
        for ev in std::mem::take(&mut self.hosts[slot].held_up) {
            let late_us = u64::from(matches!(ev, Ev::Wake { .. }));
            self.queue.push(self.now_us + late_us, ev);
        }
    }

    /// The slot whose pause holds this up.
    fn holder(&self, ev: &Ev) -> Option<usize> {
        let (Ev::Deliver { slot, .. }
        | Ev::Synced { slot, .. }
        | Ev::Reported { slot, .. }
        | Ev::Wake { slot, .. }
        | Ev::Turn { slot, .. }
        | Ev::Ask { slot, .. }
        | Ev::Link { slot, .. }) = ev
        else {
            return None;
        };
        self.is_paused(*slot).then_some(*slot)
    }

    /// One input to a process, if it is still the same one, and its turn.
    pub fn input(
        &mut self,
        slot: usize,
        epoch: u64,
        give: impl FnOnce(&mut World, &mut Running, Now),
    ) {
        if self.hosts[slot].epoch != epoch {
            return;
        }
        assert!(
            !self.is_paused(slot),
            "a process that stands still does nothing"
        );
        let place = std::mem::replace(&mut self.hosts[slot].place, Place::Empty);
        let Place::Up(mut run) = place else {
            self.hosts[slot].place = place;
            return;
        };
        let now = self.now_of(slot, run.mono_off_us);
        give(self, &mut run, now);
        self.hosts[slot].place = Place::Up(run);
        self.finish_turn(slot);
    }

    fn on_received(&mut self, run: &Running, meta: &SnapshotMeta) {
        if run.log.term(meta.index.0) != Some(meta.term.0) {
            // From now on a start uses the snapshot, and drops a log that conflicts with it.
            let from = meta.index.0 + 1;
            let term = self.truth.cut_term(&run.log, meta, run.seen.term);
            let promises = &mut self.truth.promises;
            let checked = promises.on_cut(run.seen.id, &run.log, from, term);
            self.fail(checked);
        }
        self.counts.installs += 1;
    }

    fn on_deliver(&mut self, slot: usize, (to, from): (u64, u64), connection: u64, bytes: &[u8]) {
        let Some(run) = self.up(slot) else {
            return;
        };
        let Some(link) = self.heard_link(slot, run, connection) else {
            return;
        };
        let before = run.seen;
        self.check_sender(slot, connection);
        assert_eq!(before.id, to, "links end with a membership");
        let message = tern::codec::peer::wire::decode(bytes).expect("it was encoded by a machine");
        let (what, a, b) = describe(&message);
        self.trace.note(slot, what, from, a, b);
        let epoch = self.hosts[slot].epoch;
        let call = matches!(message.rpc, Rpc::RequestVote { .. });
        let lost = lost_entries(&message);
        let (own_term, mut other_term) = (message.term.0, 0);
        self.input(slot, epoch, |world, run, now| {
            run.core
                .on_link(now, link, LinkEvent::Heard(bytes.len() as u64));
            run.contact
                .on_message(world.now_us, from, &message, &run.seen, &world.truth);
            world.heard_appends.on_message(&message);
            let from = world.apparent_sender(run, from);
            run.core.on_message(now, PeerId(from), message);
            // Messages that are there already are taken in the same turn.
            while let Some((_, Ev::Deliver { slot: next, .. })) =
                world.queue.peek().filter(|(time, _)| *time <= world.now_us)
            {
                if *next != slot {
                    break;
                }
                other_term = world.take_along(run, now).max(other_term);
            }
        });
        let removed = self.truth.removed.get(&from).copied();
        if call && self.voted_for == Some(from) && removed.is_some_and(|at| at <= before.applied) {
            let text = format!("m{slot} answers {from}, which it knows to be removed, with a vote");
            self.fail(violation("removed-is-heard", text));
        }
        if let Some((term, acked)) = lost
            && let Some(run) = self
                .up(slot)
                .filter(|r| r.seen.id == to && r.seen.term == term)
            && acked > run.log.last()
            && !run
                .core
                .raft()
                .is_some_and(tern::core::raft::Raft::is_tail_doubted)
        {
            let text =
                format!("m{slot} goes on after it is told that it lost entries up to {acked}");
            self.fail(violation("amnesia-unseen", text));
        }
        if let Some(after) = self.up(slot).map(|r| r.seen)
            && removed.is_some_and(|at| at <= before.applied)
            && after.term > before.term
            && !after.leads
            && own_term >= after.term
            && other_term < after.term
        {
            let text = format!(
                "removed {from} raises the term of m{slot} from {} to {}",
                before.term, after.term
            );
            self.fail(violation("removed-raises-term", text));
        }
    }

    /// Some writes come again a little later, if that is planted.
    pub fn maybe_ask_twice(&mut self, slot: usize, ticket: Ticket, op: &Op) {
        if !self.plant.seam.write_twice || !matches!(op, Op::Write(_)) {
            return;
        }
        // No client has this ticket.
        let again = Ticket(u64::MAX - ticket.0);
        let again = Ev::Ask {
            slot,
            epoch: self.hosts[slot].epoch,
            ticket: again,
            op: Box::new(op.clone()),
        };
        self.queue
            .push(self.now_us + self.rng.range(1_000, 50_000), again);
    }

    /// The sender as the machine is told it.
    fn apparent_sender(&mut self, run: &Running, from: u64) -> u64 {
        if !self.plant.seam.sender_mistaken || !self.rng.chance(20_000) {
            return from;
        }
        let members = &run.core.configuration().members;
        let others = members.iter().map(|m| m.id.0);
        let mut others = others.filter(|id| ![from, run.seen.id].contains(id));
        others.next().unwrap_or(from)
    }

    /// Gives the message's term.
    fn take_along(&mut self, run: &mut Running, now: Now) -> u64 {
        let Some((
            _,
            Ev::Deliver {
                slot,
                to,
                from,
                connection,
                bytes,
            },
        )) = self.queue.pop()
        else {
            unreachable!("it was looked at");
        };
        self.counts.events += 1;
        let Some(link) = self.heard_link(slot, run, connection) else {
            return 0;
        };
        self.check_sender(slot, connection);
        assert_eq!(run.seen.id, to, "links end with a membership");
        run.core
            .on_link(now, link, LinkEvent::Heard(bytes.len() as u64));
        let message = tern::codec::peer::wire::decode(&bytes).expect("it was encoded by a machine");
        let (what, a, b) = describe(&message);
        self.trace.note(slot, what, from, a, b);
        run.contact
            .on_message(self.now_us, from, &message, &run.seen, &self.truth);
        self.heard_appends.on_message(&message);
        let term = message.term.0;
        run.core.on_message(now, PeerId(from), message);
        term
    }

    /// Carries out what the machine left, starts a sync, looks at everything.
    pub fn finish_turn(&mut self, slot: usize) {
        let place = std::mem::replace(&mut self.hosts[slot].place, Place::Empty);
        let Place::Up(mut run) = place else {
            unreachable!("only a running machine has turns");
        };
        let now = self.now_of(slot, run.mono_off_us);
        let mut fx = std::mem::take(&mut self.fx);
        self.voted_for = None;
        let mut stopped = false;
        for is_first in [true, false] {
            fx.clear();
            run.core.advance(now, &mut fx);
            let ends = |order: &Order| matches!(order, Order::Stop | Order::Fail(_) | Order::Found);
            stopped |= fx.orders.iter().any(ends);
            let done = self.carry_out(slot, &mut run, &mut fx);
            self.fail(done);
            if is_first {
                self.maybe_sync(slot, &mut run, now);
            }
            if let Some(space) = run.disk.poll_space(now.mono_us) {
                run.core.on_space(now, space);
            }
            if let Some(free_bytes) = run.disk.poll_room() {
                run.core.on_room(free_bytes);
            }
            run.core.on_log_growth(!run.disk.lacks_room());
            if run.disk.has_failed() {
                self.trace.note(slot, "disk fails", 0, 0, 0);
                stopped = true;
                break;
            }
        }
        self.fx = fx;
        let marked = self.check_shown(slot, &run);
        self.fail(marked);
        let expired = self.check_expiry(slot, &mut run);
        self.fail(expired);
        run.ended = run.log.last();
        run.contact.end_turn();
        self.heard_appends.end_turn();
        let woken = self.plan_wake(slot, &mut run);
        self.fail(woken);
        if run.disk.has_work() {
            let epoch = self.hosts[slot].epoch;
            self.queue.push(self.now_us + 1, Ev::Turn { slot, epoch });
        }
        if run.core.wants_turn() {
            let epoch = self.hosts[slot].epoch;
            // A slice of work takes its time, and others go on meanwhile.
            let longest_us = 400 + self.p.value_bytes_max.min(20_000) as u64 / 4;
            let at = self.now_us + self.rng.range(1, longest_us);
            self.queue.push(at, Ev::Turn { slot, epoch });
        }
        self.hosts[slot].place = Place::Up(run);
        if stopped {
            self.crash_and_start_soon(slot);
        }
    }

    /// Plans the turn at the machine's next deadline.
    fn plan_wake(&mut self, slot: usize, run: &mut Running) -> Checked {
        let dues = [run.core.next_deadline(), run.disk.next_deadline()];
        let Some(due) = dues.into_iter().flatten().min() else {
            return Ok(());
        };
        let mut at = due.saturating_sub(run.mono_off_us).max(self.now_us);
        if self.plant.seam.timers_late {
            at += 5_000_000;
        }
        if at < run.wake_us {
            run.wake_us = at;
            let epoch = self.hosts[slot].epoch;
            self.queue.push(at, Ev::Wake { slot, epoch });
        }
        run.rest.check(slot, self.now_us, at)
    }

    /// The process of a machine has ended by itself, and is started again.
    fn crash_and_start_soon(&mut self, slot: usize) {
        if self.hosts[slot].copy_of.is_some() {
            return self.end_copy();
        }
        self.crash(slot);
        let down_us = if self.phase == Phase::Faults {
            self.p.down_us_max
        } else {
            5_000
        };
        let at = self.now_us + self.rng.range(1_000, down_us);
        self.queue.push(at, Ev::Start { slot });
    }

    /// Starts a job of the disk, in either manner. What is durable is reported at once, or in a later
    /// turn.
    fn maybe_sync(&mut self, slot: usize, run: &mut Running, now: Now) {
        let manner = if self.rng.chance(self.p.handed_over_ppm) {
            Manner::HandedOver
        } else {
            Manner::InPlace
        };
        let (durable, has_task) = run.disk.start_job(manner);
        let took_us = self.sync_us(slot);
        on_durable(run, now, durable, took_us);
        if has_task {
            let epoch = self.hosts[slot].epoch;
            let synced = Ev::Synced {
                slot,
                epoch,
                took_us,
            };
            self.queue.push(self.now_us + took_us, synced);
        }
    }

    /// How long a sync takes that starts now.
    fn sync_us(&mut self, slot: usize) -> u64 {
        let p = &self.p;
        let mut took = self.rng.range(p.sync_us_min, p.sync_us_max);
        if self.phase == Phase::Faults {
            if self.rng.chance(p.slow_ppm) {
                took += self.rng.below(p.slow_us_max);
            }
            if self.hosts[slot].slow_until_us > self.now_us {
                took += self.rng.below(p.election_ms * 500);
            }
        }
        took
    }
}

/// A term and vote, and records of the log, are durable.
fn on_durable(run: &mut Running, now: Now, durable: Durable, took_us: u64) {
    if let Some(seq) = durable.state {
        run.core.on_state_synced(now, seq, took_us);
    }
    if let Some(lsn) = durable.lsn {
        run.shown.on_synced(lsn.0);
        run.core.on_synced(now, lsn, took_us);
    }
}
