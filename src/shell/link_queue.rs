//! The output of one link: an urgent and a bulk lane, each with a bound in bytes.
//!
//! Short messages take the urgent lane: they are framed at once and leave first. Long messages take
//! the bulk lane: they are cut into pieces only as the socket takes them, so that a vote or a
//! heartbeat leaves between two pieces. A message that finds its lane full is dropped. Raft sends
//! again, and a peer that does not read costs no more memory. Must not touch sockets. Start with
//! `push`.
use super::sockets::{Output, SLICES_MAX};
use crate::codec::peer::{frame, wire};
use crate::core::raft::{Message, Rpc};
use std::collections::VecDeque;
use std::io::IoSlice;

/// Bound of the urgent lane. A short message is dropped while the lane holds more.
const URGENT_BYTES_MAX: usize = 1 << 20;
/// Bound of the bulk lane: twice the window of appends (4 MiB) with a chunk of a snapshot. A long
/// message beyond it is dropped unless it is the only one, because the longest entry exceeds it.
const BULK_BYTES_MAX: usize = 8 << 20;
/// How many bytes are framed ahead of the socket.
const FRAMED_BYTES: usize = 64 * 1024;

struct LongMessage {
    encoded: Vec<u8>,
    /// The message is an append. Later appends must not overtake it.
    is_append: bool,
}

/// The output of one link.
#[derive(Default)]
pub struct LinkQueue {
    /// The frames that are being written.
    framed: Vec<u8>,
    /// How many bytes of `framed` have been written.
    written: usize,
    /// The urgent lane: framed short messages, which move to `framed` before any long one.
    urgent: Vec<u8>,
    /// The bulk lane: long messages, oldest first.
    bulk: VecDeque<LongMessage>,
    /// How many bytes of the first message of `bulk` have been cut into pieces.
    cut_bytes: usize,
    /// Encoded bytes in `bulk`; at most `BULK_BYTES_MAX` unless there is only one message.
    bulk_bytes: usize,
    /// How many messages in `bulk` are appends.
    appends: usize,
}

impl LinkQueue {
    /// Queues bytes that are no frame: the HTTP head with the hello, before any frame.
    pub fn push_raw(&mut self, bytes: &[u8]) {
        self.urgent.extend_from_slice(bytes);
    }

    /// Queues a ping: the peer's process answers it at once.
    pub fn push_ping(&mut self) {
        frame::put_ping(&mut self.urgent);
    }

    /// Queues the answer to a ping.
    pub fn push_pong(&mut self, stood_still: bool) {
        if self.urgent.len() < URGENT_BYTES_MAX {
            frame::put_pong(stood_still, &mut self.urgent);
        }
    }

    /// Queues a sign that this process runs.
    pub fn push_alive(&mut self) {
        if self.urgent.len() < URGENT_BYTES_MAX {
            frame::put_alive(&mut self.urgent);
        }
    }

    /// Queues a message, or drops it if its lane is full.
    ///
    /// The lane depends on the length, with two exceptions:
    /// - While an append is in the bulk lane, later appends follow it there. A heartbeat that
    ///   overtook entries would be rejected, and the entries would be sent again.
    /// - Forwarded client requests take the bulk lane, so that they never displace votes.
    pub fn push(&mut self, message: &Message) {
        let is_append = matches!(message.rpc, Rpc::AppendEntries { .. });
        let is_forward = matches!(message.rpc, Rpc::Forward { .. });
        if is_forward || (is_append && self.appends > 0) {
            let mut encoded = Vec::new();
            wire::encode(message, &mut encoded);
            return self.push_bulk(encoded, is_append);
        }
        if self.urgent.len() > URGENT_BYTES_MAX {
            return;
        }
        if let Err(encoded) = frame::put_urgent(message, &mut self.urgent) {
            self.push_bulk(encoded, is_append);
        }
    }

    fn push_bulk(&mut self, encoded: Vec<u8>, is_append: bool) {
        if !self.bulk.is_empty() && self.bulk_bytes + encoded.len() > BULK_BYTES_MAX {
            return;
        }
        self.bulk_bytes += encoded.len();
        self.appends += usize::from(is_append);
        self.bulk.push_back(LongMessage { encoded, is_append });
    }

    /// Fills `framed` again once all of it is written: with the urgent lane, then with pieces.
    fn refill(&mut self) {
        self.framed.clear();
        self.written = 0;
        std::mem::swap(&mut self.framed, &mut self.urgent);
        while self.framed.len() < FRAMED_BYTES
            && let Some(first) = self.bulk.front()
        {
            self.cut_bytes = frame::put_piece(&first.encoded, self.cut_bytes, &mut self.framed);
            if self.cut_bytes == first.encoded.len() {
                self.bulk_bytes -= self.cut_bytes;
                self.appends -= usize::from(first.is_append);
                self.cut_bytes = 0;
                self.bulk.pop_front();
            }
        }
        if self.framed.is_empty() && self.framed.capacity() > 2 * FRAMED_BYTES {
            self.framed = Vec::new();
        }
    }
}

impl Output for LinkQueue {
    fn is_empty(&self) -> bool {
        self.written == self.framed.len() && self.urgent.is_empty() && self.bulk.is_empty()
    }

    fn slices<'a>(&'a mut self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        if self.written == self.framed.len() {
            self.refill();
        }
        let rest = &self.framed[self.written..];
        slices[0] = IoSlice::new(rest);
        usize::from(!rest.is_empty())
    }

    /// # Panics
    /// If more bytes have been written than were framed.
    fn advance(&mut self, bytes: usize) -> Option<Vec<u8>> {
        self.written += bytes;
        assert!(
            self.written <= self.framed.len(),
            "only framed bytes are written"
        );
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::peer::frame::{FrameContent, Frames};
    use crate::core::raft::{Entry, EntryBody, Index, Term};

    fn append(index: u64, bytes: usize) -> Message {
        let entry = Entry {
            term: Term(1),
            index: Index(index),
            body: EntryBody::Good(vec![7; bytes].into()),
        };
        let heartbeat = bytes == 0;
        Message {
            term: Term(1),
            rpc: Rpc::AppendEntries {
                prev_index: Index(index - 1),
                prev_term: Term(1),
                commit: Index(0),
                acked: Index(0),
                round: None,
                sync_us: 0,
                round_trip_us: 0,
                pause_us: 0,
                clock_ns: 0,
                held_bytes: None,
                entries: if heartbeat { vec![] } else { vec![entry] },
            },
        }
    }

    fn vote() -> Message {
        Message {
            term: Term(1),
            rpc: Rpc::Vote {
                pre: false,
                granted: true,
                reading: None,
            },
        }
    }

    /// Whether the message found room.
    fn push(queue: &mut LinkQueue, message: &Message) -> bool {
        let before = queue.urgent.len() + queue.bulk_bytes;
        queue.push(message);
        queue.urgent.len() + queue.bulk_bytes > before
    }

    /// Writes all of the queue, at most `at_most` bytes at once.
    fn drain(queue: &mut LinkQueue, at_most: usize, wire: &mut Vec<u8>) {
        while !queue.is_empty() {
            write(queue, at_most, wire);
        }
    }

    fn write(queue: &mut LinkQueue, at_most: usize, wire: &mut Vec<u8>) {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        assert_eq!(queue.slices(&mut slices), 1);
        let bytes = &slices[0];
        let count = bytes.len().min(at_most);
        wire.extend_from_slice(&bytes[..count]);
        queue.advance(count);
    }

    fn messages(wire: &[u8]) -> Vec<Message> {
        let (mut frames, mut at, mut out) = (Frames::default(), 0, Vec::new());
        while let Some((used, taken)) = frames.take(&wire[at..]).expect("frames") {
            at += used;
            if let FrameContent::Message(message) = taken {
                out.push(message);
            }
        }
        assert_eq!(at, wire.len());
        out
    }

    #[test]
    fn appends_stay_in_order_and_votes_pass() {
        for at_most in [100, 16_392, 1 << 20] {
            let (mut queue, mut wire) = (LinkQueue::default(), Vec::new());
            let long = [append(1, 200_000), append(2, 100_000)];
            let (short, heartbeat) = (append(3, 10), append(4, 0));
            for message in long.iter().chain([&short, &heartbeat]) {
                assert!(push(&mut queue, message));
            }
            write(&mut queue, 10, &mut wire);
            assert!(push(&mut queue, &vote()));
            drain(&mut queue, at_most, &mut wire);
            let [first, second] = long;
            let came = messages(&wire);
            assert_eq!(came, [vote(), first, second, short, heartbeat]);
            assert!(push(&mut queue, &append(5, 10)) && queue.bulk.is_empty());
        }
    }

    #[test]
    fn forwarded_requests_do_not_displace_votes() {
        let (mut queue, mut wire) = (LinkQueue::default(), Vec::new());
        let rpc = Rpc::Forward {
            process: 1,
            number: 2,
            command: Some(vec![7; 1000].into()),
        };
        let forward = Message { term: Term(1), rpc };
        while push(&mut queue, &forward) {}
        assert!(queue.urgent.is_empty() && queue.bulk_bytes <= BULK_BYTES_MAX);
        assert!(push(&mut queue, &vote()));
        drain(&mut queue, 1 << 20, &mut wire);
        let came = messages(&wire);
        assert_eq!(came[0], vote());
        assert!(came.len() > 8_000 && came[1..].iter().all(|m| *m == forward));
    }

    #[test]
    fn a_peer_that_does_not_read_costs_no_more_than_the_bounds() {
        let mut queue = LinkQueue::default();
        let long = append(1, 1 << 20);
        let taken = (0..100).filter(|_| push(&mut queue, &long)).count();
        assert!((7..=8).contains(&taken), "{taken}");
        while push(&mut queue, &vote()) {}
        assert!(queue.urgent.len() < URGENT_BYTES_MAX + 100);
        let mut wire = Vec::new();
        drain(&mut queue, usize::MAX, &mut wire);
        assert_eq!(queue.bulk_bytes, 0);
        assert!(
            push(&mut queue, &append(1, BULK_BYTES_MAX * 2)),
            "a single long message is queued"
        );
    }
}
