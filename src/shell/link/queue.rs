//! What waits to be written to one link: two lanes, each with its bound in bytes.
//!
//! Short messages are framed at once and leave first; long ones are cut into pieces only as the
//! socket takes them, so that the next vote or heartbeat passes between two of them. What does not
//! fit is dropped: raft outlives that, and a peer that does not read costs no more. Must not touch
//! sockets. Start with `push`.
use crate::codec::peer::frame;
use crate::core::raft::{Message, Rpc};
use std::collections::VecDeque;

/// Framed short messages. Beyond it they are dropped.
const URGENT_BYTES_MAX: usize = 1 << 20;
/// Long messages: the window of appends (4 MiB) and a piece of a snapshot, twice. Beyond it they
/// are dropped, unless nothing else waits: the longest entry is longer.
const BULK_BYTES_MAX: usize = 8 << 20;
/// What is cut at once.
const STAGE_BYTES: usize = 64 * 1024;

struct Bulk {
    encoded: Vec<u8>,
    /// An append: others of its kind may not overtake it.
    appends: bool,
}

/// The output of one link.
#[derive(Default)]
pub struct Queue {
    /// On its way; all up to `sent` has left.
    stage: Vec<u8>,
    sent: usize,
    urgent: Vec<u8>,
    bulk: VecDeque<Bulk>,
    /// Where the next piece of the first bulk message begins.
    at: usize,
    bulk_bytes: usize,
    /// How many of `bulk` are appends.
    appends: usize,
}

impl Queue {
    /// Bytes that are no frames: the hello.
    pub fn push_raw(&mut self, bytes: &[u8]) {
        self.urgent.extend_from_slice(bytes);
    }

    /// Asks whether somebody is there.
    pub fn push_ping(&mut self) {
        frame::put_ping(&mut self.urgent);
    }

    /// Says so.
    pub fn push_pong(&mut self) {
        if self.urgent.len() < URGENT_BYTES_MAX {
            frame::put_pong(&mut self.urgent);
        }
    }

    /// Queues a message; false when there is no room and it is dropped. Appends stay in order among
    /// each other: a heartbeat that overtook the entries it follows would be rejected, and the
    /// entries sent again.
    pub fn push(&mut self, message: &Message) -> bool {
        let appends = matches!(message.rpc, Rpc::AppendEntries { .. });
        // What clients send never crowds out votes.
        let forwards = matches!(message.rpc, Rpc::Forward { .. });
        let encoded = if forwards || (appends && self.appends > 0) {
            let mut encoded = Vec::new();
            crate::codec::peer::wire::encode(message, &mut encoded);
            encoded
        } else {
            if self.urgent.len() > URGENT_BYTES_MAX {
                return false;
            }
            match frame::put_urgent(message, &mut self.urgent) {
                Ok(()) => return true,
                Err(encoded) => encoded,
            }
        };
        if !self.bulk.is_empty() && self.bulk_bytes + encoded.len() > BULK_BYTES_MAX {
            return false;
        }
        self.bulk_bytes += encoded.len();
        self.appends += usize::from(appends);
        self.bulk.push_back(Bulk { encoded, appends });
        true
    }

    /// What is to be written next; empty: nothing.
    pub fn next(&mut self) -> &[u8] {
        if self.sent == self.stage.len() {
            self.refill();
        }
        &self.stage[self.sent..]
    }

    /// So many bytes of it have left.
    pub fn advance(&mut self, bytes: usize) {
        self.sent += bytes;
        assert!(self.sent <= self.stage.len(), "no more than there was");
    }

    fn refill(&mut self) {
        self.stage.clear();
        self.sent = 0;
        std::mem::swap(&mut self.stage, &mut self.urgent);
        while self.stage.len() < STAGE_BYTES
            && let Some(first) = self.bulk.front()
        {
            self.at = frame::put_piece(&first.encoded, self.at, &mut self.stage);
            if self.at == first.encoded.len() {
                self.bulk_bytes -= self.at;
                self.appends -= usize::from(first.appends);
                self.at = 0;
                self.bulk.pop_front();
            }
        }
        if self.stage.is_empty() && self.stage.capacity() > 2 * STAGE_BYTES {
            self.stage = Vec::new();
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.sent == self.stage.len() && self.urgent.is_empty() && self.bulk.is_empty()
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
            },
        }
    }

    /// Everything that leaves, `at_most` bytes at once.
    fn drain(queue: &mut Queue, at_most: usize, wire: &mut Vec<u8>) {
        while !queue.next().is_empty() {
            write(queue, at_most, wire);
        }
        assert!(queue.is_empty());
    }

    fn write(queue: &mut Queue, at_most: usize, wire: &mut Vec<u8>) {
        let next = queue.next();
        let count = next.len().min(at_most);
        wire.extend_from_slice(&next[..count]);
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
            let (mut queue, mut wire) = (Queue::default(), Vec::new());
            let long = [append(1, 200_000), append(2, 100_000)];
            let (short, heartbeat) = (append(3, 10), append(4, 0));
            for message in long.iter().chain([&short, &heartbeat]) {
                assert!(queue.push(message));
            }
            write(&mut queue, 10, &mut wire);
            assert!(queue.push(&vote()));
            drain(&mut queue, at_most, &mut wire);
            let [first, second] = long;
            let came = messages(&wire);
            assert_eq!(came, [vote(), first, second, short, heartbeat]);
            assert!(queue.push(&append(5, 10)) && queue.bulk.is_empty());
        }
    }

    #[test]
    fn what_clients_send_does_not_crowd_out_votes() {
        let (mut queue, mut wire) = (Queue::default(), Vec::new());
        let rpc = Rpc::Forward {
            process: 1,
            number: 2,
            command: Some(vec![7; 1000].into()),
        };
        let forward = Message { term: Term(1), rpc };
        while queue.push(&forward) {}
        assert!(queue.urgent.is_empty() && queue.bulk_bytes <= BULK_BYTES_MAX);
        assert!(queue.push(&vote()));
        drain(&mut queue, 1 << 20, &mut wire);
        let came = messages(&wire);
        assert_eq!(came[0], vote());
        assert!(came.len() > 8_000 && came[1..].iter().all(|m| *m == forward));
    }

    #[test]
    fn a_peer_that_does_not_read_costs_no_more_than_the_bounds() {
        let mut queue = Queue::default();
        let long = append(1, 1 << 20);
        let taken = (0..100).filter(|_| queue.push(&long)).count();
        assert!((7..=8).contains(&taken), "{taken}");
        while queue.push(&vote()) {}
        assert!(queue.urgent.len() < URGENT_BYTES_MAX + 100);
        let mut wire = Vec::new();
        drain(&mut queue, usize::MAX, &mut wire);
        assert_eq!(queue.bulk_bytes, 0);
        assert!(
            queue.push(&append(1, BULK_BYTES_MAX * 2)),
            "nothing else waits"
        );
    }
}
