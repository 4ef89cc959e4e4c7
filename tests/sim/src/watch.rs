//! Watchers: each gets every event that reaches it, once and in order, or learns that it has ended.
//! Start at `World::on_delivery`.
use super::cluster::World;
use super::model::reaches;
use super::truth::{Checked, violation};
use tern::core::command::KeyPath;
use tern::core::error::Code;
use tern::core::machine::{Answer, Delivery, Op, Outcome, Ticket};
use tern::core::store::Event;

pub struct Watcher {
    pub slot: usize,
    path: KeyPath,
    recursive: bool,
    stream: bool,
    /// Everything that reaches it before this etcd index has been delivered.
    next: u64,
    /// When it ends without an event.
    due_us: Option<u64>,
    has_event: bool,
    ended: bool,
}

impl Watcher {
    pub fn has_ended(&self) -> bool {
        self.ended
    }
}

/// At the end of a seed no machine is so late.
const LATE_US: u64 = 10_000_000;

/// A history keeps no more bytes of events than this.
const HISTORY_BYTES_MAX: usize = 16 << 20;

impl World {
    /// The bytes that a history counts for the events from `since` to `etcd`.
    fn history_bytes(&self, since: u64, etcd: u64) -> usize {
        let events = (since..=etcd).filter_map(|at| self.truth.model.event(at));
        events.map(|told| told.event.weight()).sum()
    }

    /// The first answer to a request to watch.
    pub fn begin_watch(
        &mut self,
        slot: usize,
        answer: &Answer,
        asked: (&'static str, bool, bool, Option<u64>, Option<u64>),
    ) -> Checked {
        let (path, recursive, stream, since, due_us) = asked;
        let etcd = answer.at.etcd.0;
        match &answer.outcome {
            Outcome::Watching | Outcome::Backlog { .. } => {}
            Outcome::Failed(e) if e.code == Code::EventIndexCleared => {
                let oldest = (etcd + 1).saturating_sub(self.p.history_events as u64);
                let is_recent =
                    |s: u64| s >= oldest.max(1) && self.history_bytes(s, etcd) <= HISTORY_BYTES_MAX;
                if since.is_none_or(is_recent) {
                    let text = format!("m{slot} has cleared {since:?} at {etcd}");
                    return violation("watch-cleared-early", text);
                }
                return Ok(());
            }
            _ => return Ok(()),
        }
        let watcher = Watcher {
            slot,
            path: KeyPath::new(path),
            recursive,
            stream,
            next: since.unwrap_or(etcd + 1),
            due_us,
            has_event: false,
            ended: false,
        };
        self.watchers.insert(answer.ticket.0, watcher);
        self.counts.watched += 1;
        if matches!(answer.outcome, Outcome::Watching) {
            return Ok(());
        }
        self.on_watch_answer(slot, answer)
    }

    /// A further answer to a watcher: past events, or the end.
    pub fn on_watch_answer(&mut self, slot: usize, answer: &Answer) -> Checked {
        let ticket = answer.ticket;
        match &answer.outcome {
            Outcome::Backlog { events, done } => {
                for event in events {
                    self.tell_watcher(slot, ticket, event, *done, true)?;
                }
                if !*done && !events.is_empty() {
                    let epoch = self.hosts[slot].epoch;
                    self.later(slot, epoch, ticket, Op::ContinueListing);
                }
                Ok(())
            }
            Outcome::WatchEnd | Outcome::Failed(_) => {
                self.watchers.remove(&ticket.0);
                Ok(())
            }
            Outcome::WatchTimedOut => self.on_watch_timeout(slot, answer),
            _ => Ok(()),
        }
    }

    /// The time of a watcher is over, not earlier than it has said. A client without an event goes on
    /// behind the index of the answer, so no event up to it reaches the watcher. A stream goes on
    /// behind its last event.
    fn on_watch_timeout(&mut self, slot: usize, answer: &Answer) -> Checked {
        let watcher = self.watchers.remove(&answer.ticket.0);
        let watcher = watcher.expect("the caller has looked it up");
        self.counts.timed_out += 1;
        let path = watcher.path.as_str();
        if watcher.due_us.is_none_or(|due_us| due_us > self.now_us) {
            let text = format!(
                "m{slot} ends the watch of {path} before {:?}",
                watcher.due_us
            );
            return violation("watch-ends-early", text);
        }
        if watcher.ended {
            let text = format!("m{slot} ends the watch of {path} after its answer");
            return violation("watch-order", text);
        }
        if watcher.has_event {
            return Ok(());
        }
        self.check_all_told(&watcher, answer.at.etcd.0)
    }

    /// An event for some watchers.
    pub fn on_delivery(&mut self, slot: usize, delivery: &Delivery) -> Checked {
        for (place, (ticket, ends)) in delivery.tickets.iter().enumerate() {
            let event = self.hear_event(slot, delivery, place)?;
            self.tell_watcher(slot, *ticket, &event, *ends, false)?;
        }
        Ok(())
    }

    fn tell_watcher(
        &mut self,
        slot: usize,
        ticket: Ticket,
        event: &Event,
        ends: bool,
        past: bool,
    ) -> Checked {
        let Some(watcher) = self.watchers.get_mut(&ticket.0) else {
            return Ok(());
        };
        let index = event.node.modified.0;
        if watcher.ended || index < watcher.next {
            let text = format!(
                "m{slot} tells {} of {index} again, or late: {} is next",
                watcher.path.as_str(),
                watcher.next
            );
            return violation("watch-order", text);
        }
        let model = &self.truth.model;
        let missed = |i: &u64| {
            model
                .event(*i)
                .is_some_and(|t| reaches(t, &watcher.path, watcher.recursive, past))
        };
        if let Some(missed) = (watcher.next..index).find(missed) {
            let text = format!(
                "m{slot} does not tell {} of {missed} but of {index}",
                watcher.path.as_str()
            );
            return violation("watch-lost", text);
        }
        if !model.event(index).is_some_and(|t| t.event == *event) {
            let text = format!(
                "m{slot} tells {event:?}, the model {:?}",
                model.event(index)
            );
            return violation("watch-event", text);
        }
        if !missed(&index) {
            let text = format!("m{slot} tells {} of {event:?}", watcher.path.as_str());
            return violation("watch-reach", text);
        }
        watcher.next = index + 1;
        watcher.has_event = true;
        self.trace.note(slot, "told", ticket.0, index, 0);
        if !watcher.stream || ends {
            watcher.ended = true;
        }
        Ok(())
    }

    /// At the end every watcher that still waits has every event, and its time is not over.
    pub fn check_watchers(&self) -> Checked {
        for watcher in self.watchers.values().filter(|w| !w.ended) {
            let Some(etcd) = self.up(watcher.slot).map(|r| r.seen.etcd) else {
                continue;
            };
            self.check_all_told(watcher, etcd)?;
            let is_late = |due_us: u64| due_us + LATE_US < self.now_us;
            if watcher.due_us.is_some_and(is_late) {
                let (slot, path) = (watcher.slot, watcher.path.as_str());
                let text = format!("m{slot} never ends the watch of {path}");
                return violation("watch-ends-late", text);
            }
        }
        Ok(())
    }

    /// Every event up to an etcd index that reaches a watcher has been delivered.
    fn check_all_told(&self, watcher: &Watcher, etcd: u64) -> Checked {
        let model = &self.truth.model;
        let missed = |i: &u64| {
            model
                .event(*i)
                .is_some_and(|t| reaches(t, &watcher.path, watcher.recursive, false))
        };
        if let Some(missed) = (watcher.next..=etcd).find(missed) {
            let (slot, path) = (watcher.slot, watcher.path.as_str());
            let text = format!("m{slot} never tells {path} of {missed}");
            return violation("watch-lost", text);
        }
        Ok(())
    }
}
