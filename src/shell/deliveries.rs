//! The events that have not reached all of their watchers.
//!
//! One event may be for thousands of watchers. A turn hands it to a bounded number of them, and the
//! loop serves everything else before it goes on with the next ones. Events reach each watcher in
//! order, because only the oldest event is handed out. Must not touch connections: `Clients` does.
//! Start with `Deliveries::add`.
use super::output::{SharedBytes, SharedTotal};
use crate::codec::api::{Context, Rendition};
use crate::core::machine::{Delivery, Ticket};
use std::collections::VecDeque;
use std::ops::Range;

/// Most watchers that get an event in one turn. Rendering and writing take about 6 us for each.
const WATCHERS_A_TURN_MAX: usize = 32;
/// After this many bytes no further events are written in the turn. Small, because a turn with
/// other work is longer by it.
const BYTES_A_TURN_MAX: usize = 128 * 1024;
/// With more events waiting than this, no further writes of clients start.
const LATE_EVENTS: usize = 256;
/// Most events that wait. A follower cannot hold back the writes of its cluster, so the watchers of
/// an event beyond this bound are cut: they would lag ever further behind.
const WAITING_EVENTS_MAX: usize = 4096;

/// The events that wait for watchers.
#[derive(Default)]
pub struct Deliveries {
    /// Oldest first.
    waiting: VecDeque<PartialDelivery>,
    /// How many events were added, less those that `take_excess` has removed.
    added: u64,

    /// The watcher whose output the last turn has written in part, because the share of the turn
    /// was spent. No other watcher gets an event before the rest of it is written.
    unwritten: Option<Ticket>,
}

/// One event and the watchers that have yet to get it.
pub struct PartialDelivery {
    delivery: Delivery,
    /// The position in `Delivery::tickets` of the next watcher.
    next: usize,
    /// The event in the form for watchers, rendered for the first of them.
    rendition: Option<Rendition>,
    /// The allocations of this event that several watchers send, by their range in the rendition.
    pieces: Vec<(Range<usize>, SharedBytes)>,
}

/// The work that is left for a turn.
pub struct TurnShare {
    watchers: usize,
    bytes: usize,
}

impl Default for TurnShare {
    /// The share of one turn.
    fn default() -> TurnShare {
        TurnShare {
            watchers: WATCHERS_A_TURN_MAX,
            bytes: BYTES_A_TURN_MAX,
        }
    }
}

impl TurnShare {
    /// A watcher was handed output, of which `bytes` bytes were written.
    pub fn spend(&mut self, bytes: usize) {
        self.watchers = self.watchers.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// How many bytes may still be written.
    pub fn bytes_left(&self) -> usize {
        self.bytes
    }

    /// Whether the turn has to end.
    pub fn is_spent(&self) -> bool {
        self.watchers == 0 || self.bytes == 0
    }
}

impl Deliveries {
    /// Adds new events, oldest first.
    pub fn add(&mut self, events: &mut Vec<Delivery>) {
        self.added += events.len() as u64;
        for delivery in events.drain(..) {
            self.waiting.push_back(PartialDelivery {
                delivery,
                next: 0,
                rendition: None,
                pieces: Vec::new(),
            });
        }
    }

    /// How many events were added so far.
    pub fn added(&self) -> u64 {
        self.added
    }

    /// How many of them, the oldest, wait no more.
    pub fn ended(&self) -> u64 {
        self.added - self.waiting.len() as u64
    }

    /// How many events wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no event waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether so many events wait that no further writes of clients may start.
    pub fn are_late(&self) -> bool {
        self.waiting.len() > LATE_EVENTS
    }

    /// Removes the newest events beyond the bound. Returns their watchers, which must be cut.
    pub fn take_excess(&mut self) -> Vec<Ticket> {
        let mut cut = Vec::new();
        while self.waiting.len() > WAITING_EVENTS_MAX
            && let Some(partial) = self.waiting.pop_back()
        {
            self.added -= 1;
            let tickets = partial.delivery.tickets.iter();
            cut.extend(tickets.map(|(ticket, _)| *ticket));
        }
        cut
    }

    /// The share of a turn was spent before all output of this watcher was written.
    pub fn set_unwritten(&mut self, ticket: Ticket) {
        self.unwritten = Some(ticket);
    }

    /// Takes the watcher that `set_unwritten` has kept.
    pub fn take_unwritten(&mut self) -> Option<Ticket> {
        self.unwritten.take()
    }

    /// Takes the oldest event. Give it back with `put` unless it has reached all watchers.
    pub fn take(&mut self) -> Option<PartialDelivery> {
        self.waiting.pop_front()
    }

    /// The counterpart of `take`.
    pub fn put(&mut self, partial: PartialDelivery) {
        if partial.next < partial.delivery.tickets.len() {
            self.waiting.push_front(partial);
        }
    }
}

impl PartialDelivery {
    /// The event and all of its watchers.
    pub fn delivery(&self) -> &Delivery {
        &self.delivery
    }

    /// The next watcher, and whether its answer ends with this event. `None` if there is none left.
    pub fn next_watcher(&mut self) -> Option<(Ticket, bool)> {
        let watcher = self.delivery.tickets.get(self.next)?;
        self.next += 1;
        Some(*watcher)
    }

    /// Renders the event if it is not rendered yet.
    pub fn render(&mut self, context: &Context) {
        self.rendition
            .get_or_insert_with(|| Rendition::new(&self.delivery, context));
    }

    /// The rendered event.
    ///
    /// # Panics
    /// Before `render`.
    pub fn rendition(&self) -> &Rendition {
        let rendition = self.rendition.as_ref();
        rendition.expect("rendered before its first watcher")
    }

    /// A part of the rendered event as one allocation for all watchers that send the same part.
    /// `None` if there is only one watcher: then it is cheaper to copy it.
    pub fn shared_piece(
        &mut self,
        range: &Range<usize>,
        total: &SharedTotal,
    ) -> Option<SharedBytes> {
        if self.delivery.tickets.len() == 1 {
            return None;
        }
        if let Some((_, piece)) = self.pieces.iter().find(|(known, _)| known == range) {
            return Some(piece.clone());
        }
        let bytes = &self.rendition().bytes[range.clone()];
        let piece = SharedBytes::new(bytes.into(), total);
        self.pieces.push((range.clone(), piece.clone()));
        Some(piece)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::core::store::{Action, EtcdIndex, Event, View};

    pub fn delivery(index: u64, tickets: &[u64]) -> Delivery {
        let node = View {
            key: "/a".into(),
            value: Some("1".into()),
            dir: false,
            expires_ns: None,
            modified: EtcdIndex(index),
            created: EtcdIndex(index),
        };
        let action = Action::Set;
        let prev = None;
        Delivery {
            event: Event {
                action,
                node,
                prev,
                ttl_s: None,
            },
            etcd: EtcdIndex(index),
            tickets: tickets.iter().map(|id| (Ticket(*id), false)).collect(),
        }
    }

    #[test]
    fn an_event_comes_after_all_watchers_have_the_one_before() {
        let mut deliveries = Deliveries::default();
        deliveries.add(&mut vec![delivery(1, &[1, 2, 3]), delivery(2, &[2])]);
        let mut seen = Vec::new();
        while let Some(mut partial) = deliveries.take() {
            let watcher = partial.next_watcher().expect("not all have it");
            seen.push((partial.delivery().etcd.0, watcher.0.0));
            deliveries.put(partial);
        }
        assert_eq!(seen, [(1, 1), (1, 2), (1, 3), (2, 2)]);
    }

    #[test]
    fn the_watchers_of_events_beyond_the_bound_are_cut() {
        let mut deliveries = Deliveries::default();
        for index in 0..WAITING_EVENTS_MAX as u64 {
            deliveries.add(&mut vec![delivery(index, &[1])]);
        }
        assert!(deliveries.are_late());
        assert_eq!(deliveries.take_excess(), []);
        deliveries.add(&mut vec![delivery(9_999, &[1, 7])]);
        assert_eq!(deliveries.take_excess(), [Ticket(1), Ticket(7)]);
        assert_eq!(deliveries.waiting.len(), WAITING_EVENTS_MAX);
    }

    #[test]
    fn a_turn_hands_out_a_bounded_number_of_watchers_and_bytes() {
        let mut share = TurnShare::default();
        for _ in 1..WATCHERS_A_TURN_MAX {
            share.spend(0);
        }
        assert!(!share.is_spent());
        share.spend(0);
        assert!(share.is_spent());
        let mut share = TurnShare::default();
        share.spend(BYTES_A_TURN_MAX - 1);
        assert!(!share.is_spent() && share.bytes_left() == 1);
        share.spend(5_000_000);
        assert!(share.is_spent());
    }
}
