//! Processes that start from what their disks hold, and crash.
use super::*;
use tern_support::sim_fs::Fault;
use wal::format::HEADER;

/// What a recovery has opened.
struct Opened {
    disk: Disk,
    recovered: Recovered,
    standby: Option<StandbyInfo>,
    /// The peer URLs in `standby_info`.
    known: Vec<Box<str>>,
}

impl World {
    /// A machine starts from what its disk holds.
    pub fn start(&mut self, slot: usize) {
        let place = std::mem::replace(&mut self.hosts[slot].place, Place::Empty);
        let Place::Down(image) = place else {
            self.hosts[slot].place = place;
            return;
        };
        self.maybe_retune(slot);
        self.hosts[slot].epoch += 1;
        self.hosts[slot].started_us = self.now_us;
        let mono_off_us = self.rng.below(1_000_000_000);
        let now = self.now_of(slot, mono_off_us);
        let seed = self.rng.next_u64();
        let Some(opened) = self.open_disk(slot, image) else {
            return;
        };
        let image = &opened.disk.image;
        let log = MemLog::of(image);
        self.trace
            .note(slot, "start", image.id.0, image.last(), image.log.commit.0);
        let found = self.truth.on_found(image);
        self.fail(found);
        if self.violation.is_some() {
            return;
        }
        let Opened {
            disk,
            recovered,
            standby,
            known,
        } = opened;
        let search = Search {
            known,
            ..self.search(slot)
        };
        let core = self.recover(slot, (recovered, standby), search, seed, now);
        let log_end = log.last();
        let snapshot = disk.image.newest().map_or(0, |s| s.meta.index.0);
        let marked = disk.image.log.commit.0.min(log_end).max(snapshot);
        let mut run = Box::new(Running {
            core,
            disk,
            log,
            seen: Seen::default(),
            shown: Shown::new(marked),
            overdue: None,
            service: look::Service::new(marked),
            rest: look::Rest::default(),
            ended: log_end,
            contact: Contact::default(),
            duties: Duties::default(),
            mono_off_us,
            wake_us: u64::MAX,
            links: BTreeMap::new(),
        });
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
        self.check_shown_at_start(slot, &run);
        self.hosts[slot].place = Place::Up(run);
        self.finish_turn(slot);
    }

    /// A mark of its own is left out at the end of a segment.
    fn check_shown_at_start(&mut self, slot: usize, run: &Running) {
        let shown = std::mem::take(&mut self.hosts[slot].shown);
        let image = &run.disk.image;
        if image.log.is_whole() && run.seen.applied < shown && image.tail_room() >= 2 * HEADER {
            let applied = run.seen.applied;
            let text = format!("m{slot} starts at {applied}, a mark of {shown} was durable");
            self.fail(violation("shown-goes-back", text));
        }
    }

    /// Opens the disk of a machine. Now and then it fails at one of its calls. `None`: the machine
    /// stays down, and starts again later.
    fn open_disk(&mut self, slot: usize, image: Image) -> Option<Opened> {
        let config = &self.configs[slot];
        let fs = image.fs.clone();
        let founds = std::mem::take(&mut self.hosts[slot].is_founder);
        let is_faulty = self.phase == Phase::Faults && self.rng.chance(self.p.fault_at_start_ppm);
        if is_faulty {
            let fault = *self
                .rng
                .pick(&[Fault::Cut, Fault::Cut, Fault::Fail, Fault::Full]);
            fs.plan(1 + self.rng.below(60), fault);
        }
        let lies = self.hosts[slot].lies;
        let (mut real, mut recovered) = match RealDisk::open_on(fs.clone(), config, !founds) {
            Ok(opened) => opened,
            Err(_) if is_faulty || self.hosts[slot].full => {
                let fs = fs.cut_power(&mut self.rng);
                let found = Image::read(&fs, config);
                self.stay_down(slot, &image, found);
                return None;
            }
            Err(text) => {
                let text = format!("m{slot} does not start: {text}");
                self.fail(violation("recovery-refuses", text));
                return None;
            }
        };
        if lies.are_told_at_start() {
            (recovered.term, recovered.vote) = (image.log.term, image.log.vote);
            recovered.entries = image.entries();
        }
        let standby = real.take_standby();
        let known = real.take_peers();
        let found = Image::of(&fs, &recovered, standby.clone());
        if founds {
            let meta = found.newest().map(|s| s.meta.clone());
            self.truth.found(&meta.expect("a founder has a snapshot"));
            self.ids.insert(found.id.0, slot);
            let directory = &mut self.hosts[slot].directory;
            let admitted = directory.on_admitted(slot, found.id.0, &self.truth);
            self.fail(admitted);
        } else {
            self.check_found_again(slot, &image, &found);
        }
        if is_faulty && found.base() < image.base() {
            // The newest snapshot could not be read, and the log has no later mark: the machine shows
            // an older state until a leader is heard.
            self.hosts[slot].shown = 0;
        }
        Some(Opened {
            disk: Disk::new(found, real, lies),
            recovered,
            standby,
            known,
        })
    }

    /// A start has failed. A recovery that is cut off or fails loses nothing.
    fn stay_down(&mut self, slot: usize, image: &Image, found: Result<Image, String>) {
        self.trace.note(slot, "start fails", 0, 0, 0);
        match found {
            Ok(found) => {
                self.check_found_again(slot, image, &found);
                self.hosts[slot].place = Place::Down(found);
                let at = self.now_us + self.rng.range(1_000, self.p.down_us_max);
                self.queue.push(at, Ev::Start { slot });
            }
            Err(text) => {
                let text = format!("m{slot}, after a start that was cut off: {text}");
                self.fail(violation("recovery-refuses", text));
            }
        }
    }

    /// A second recovery finds what the first one has found. A directory that holds nothing may get
    /// another number. A snapshot that could not be read once is set aside, and the one before it
    /// used; if a leader sent it, and the log has no record of it yet, the log ends earlier. Nothing
    /// rests on it then: entries that were acknowledged are looked for at each start.
    fn check_found_again(&mut self, slot: usize, first: &Image, second: &Image) {
        if first.id == PeerId::NONE || self.hosts[slot].lies.are_told_at_start() {
            return;
        }
        let is_set_aside = second.base() < first.base() && first.last() == first.base();
        let is_same_log = (first.last(), first.last_term()) == (second.last(), second.last_term())
            && second.base() <= first.base()
            && first.entries() == second.log.entries_after(first.base());
        let is_same = (first.id, first.incarnation) == (second.id, second.incarnation)
            && (first.log.term, first.log.vote) == (second.log.term, second.log.vote)
            && (is_same_log || is_set_aside);
        if !is_same {
            let text = format!(
                "m{slot} finds {} in term {}, then {} in term {}",
                first.last(),
                first.log.term.0,
                second.last(),
                second.log.term.0
            );
            self.fail(violation("recovery-differs", text));
        }
    }

    fn recover(
        &self,
        slot: usize,
        (recovered, standby): (Recovered, Option<StandbyInfo>),
        search: Search,
        seed: u64,
        now: Now,
    ) -> Machine {
        let settings = self.settings(slot);
        match standby {
            Some(info) => Machine::stand_by(settings, recovered, info, search, seed, now),
            None if recovered.id.is_none() && self.awaits_others(slot) => {
                Machine::await_others(settings, recovered, search, seed)
            }
            None if recovered.id.is_none() => Machine::find(settings, recovered, search, seed),
            None => {
                let mut core = Machine::recover(settings, recovered, seed, now);
                core.begin_place_checks(now, search)
                    .expect("a machine keeps its name");
                core
            }
        }
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
        self.hosts[slot].shown = run.shown.durable();
        self.end_links(slot, &run);
        let former = (run.disk.image.id, run.disk.image.incarnation);
        let image = match run.disk.crash(&mut self.rng, &self.configs[slot]) {
            Ok(image) => image,
            Err(text) => {
                let text = format!("m{slot} crashes: {text}");
                return self.fail(violation("recovery-differs", text));
            }
        };
        if image.id == PeerId::NONE && former.0 != PeerId::NONE {
            self.truth.promises.on_wiped(former.0.0, former.1);
            self.hosts[slot].copy = None;
            self.hosts[slot].shown = 0;
        }
        self.trace
            .note(slot, "crash", id, image.last(), image.log.commit.0);
        self.hosts[slot].place = Place::Down(image);
        self.hosts[slot].epoch += 1;
        self.end_pause(slot);
        self.lose_tickets(slot);
        self.lose_calls(slot);
    }
}
