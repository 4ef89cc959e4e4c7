//! Processes that start from what their disks hold, and crash.
use super::*;

impl World {
    /// A machine starts from what its disk holds.
    pub fn start(&mut self, slot: usize) {
        let place = std::mem::replace(&mut self.hosts[slot].place, Place::Empty);
        let Place::Down(image) = place else {
            self.hosts[slot].place = place;
            return;
        };
        self.hosts[slot].epoch += 1;
        self.hosts[slot].started_us = self.now_us;
        let mono_off_us = self.rng.below(1_000_000_000);
        let now = self.now_of(slot, mono_off_us);
        let seed = self.rng.next_u64();
        let log = MemLog::of(&image);
        self.trace
            .note(slot, "start", image.id.0, image.last(), image.log.commit.0);
        let disk = Disk::new(image, self.hosts[slot].lies);
        let found = self.truth.on_found(&disk.image);
        self.fail(found);
        if self.violation.is_some() {
            return;
        }
        let core = self.recover(slot, &disk.image, seed, now);
        let log_end = log.last();
        let mut run = Box::new(Running {
            core,
            disk,
            log,
            seen: Seen::default(),
            ended: log_end,
            contact: Contact::default(),
            duties: Duties::default(),
            mono_off_us,
            wake_us: u64::MAX,
            links: BTreeMap::new(),
        });
        if self.hosts[slot].full {
            self.report_room(slot, &mut run, now);
        }
        run.seen = seen_of(&run.core);
        let (from, to) = (run.log.base + 1, run.seen.commit);
        let started = self.check_commit(slot, &run, "durable-commit", (from, to));
        self.fail(started);
        let (commit, last) = (run.disk.image.log.commit.0, run.disk.image.last());
        if run.disk.image.log.is_whole() && run.seen.applied < commit.min(last) {
            let text = format!(
                "machine m{slot} starts at {} though its log says {commit}",
                run.seen.applied
            );
            self.fail(violation("starts-behind", text));
        }
        self.hosts[slot].place = Place::Up(run);
        self.finish_turn(slot);
    }

    fn recover(&self, slot: usize, image: &Image, seed: u64, now: Now) -> Machine {
        let newest = image.newest();
        let behind = newest.map_or(0, |s| s.meta.index.0);
        let recovered = Recovered {
            term: image.log.term,
            vote: image.log.vote,
            id: Some(image.id).filter(|id| *id != PeerId::NONE),
            incarnation: image.incarnation,
            snapshot: newest.map(|s| (s.meta.clone(), self.restore(s))),
            snapshot_bytes: newest.map_or(0, |s| s.bytes.len() as u64),
            entries: image.log.entries_after(behind),
            commit: image.log.commit,
        };
        let known = image
            .standby
            .iter()
            .flat_map(|info| &info.cluster)
            .map(|m| m.peer_url.clone());
        let (settings, search) = (
            self.settings(slot),
            Search {
                known: known.collect(),
                ..self.search()
            },
        );
        let standby = image.standby.clone().filter(|info| info.running);
        match standby {
            Some(info) if image.id.0 == 0 => {
                Machine::stand_by(settings, recovered, info, search, seed, now)
            }
            _ if image.id.0 == 0 => Machine::find(settings, recovered, search, seed),
            _ => {
                let mut core = Machine::recover(settings, recovered, seed, now);
                core.begin_place_checks(now, search)
                    .expect("a machine keeps its name");
                core
            }
        }
    }

    /// The key space that a snapshot file holds.
    pub(super) fn restore(&self, snapshot: &Snapshot) -> Store {
        let limits = HistoryLimits {
            events: self.p.history_events,
            bytes: HISTORY_BYTES_MAX,
        };
        let mut restore = Restore::new(limits);
        for piece in pieces(&snapshot.bytes) {
            restore
                .chunk(piece)
                .expect("the disk keeps snapshots as they are");
        }
        restore.finish().expect("the disk keeps snapshots whole")
    }

    /// The process is gone; its disk keeps what a crash leaves.
    pub fn crash(&mut self, slot: usize) {
        let place = std::mem::replace(&mut self.hosts[slot].place, Place::Empty);
        let Place::Up(run) = place else {
            self.hosts[slot].place = place;
            return;
        };
        self.counts.crashes += 1;
        let id = run.seen.id;
        self.end_links(slot, &run);
        let image = run.disk.crash(&mut self.rng);
        self.trace
            .note(slot, "crash", id, image.last(), image.log.commit.0);
        self.hosts[slot].place = Place::Down(image);
        self.hosts[slot].epoch += 1;
        self.hosts[slot].paused_until_us = 0;
        self.lose_tickets(slot);
        self.lose_calls(slot);
    }
}
