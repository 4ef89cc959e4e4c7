//! The work that client connections may do in one turn; pure.
//!
//! A request that arrives during a turn waits for its end. So a turn does a bounded amount of each
//! kind of work, and what is left out comes in later turns. Connections that were carried over from
//! earlier turns and those with a new event have equal shares of their own: a new request never
//! waits for a queue of long ones, and a flood of new requests never holds up the queue. A small
//! request, file or answer is not left out for a share that others have spent: their number is
//! bounded by the number of events. Must not touch connections. Start with `TurnBudget`.

/// The bytes that a turn reads from sockets, for each lane. A connection that would exceed them
/// comes in a later turn.
const READ_BYTES: usize = 128 * 1024;
/// The bytes of answers that a turn writes to sockets, for each lane. Copying them to the kernel
/// takes about 0.1 ms.
const WRITE_BYTES: usize = 256 * 1024;
/// The bytes of requests that a turn starts, for each lane. A write of this many bytes takes about
/// half a millisecond, from its parsing to the sync.
const REQUEST_BYTES: usize = 128 * 1024;
/// The bytes of files that a turn renders, for each lane. A long value without escapes is shared
/// with the store, and not rendered.
const FILE_BYTES: usize = 64 * 1024;
/// The bytes of listed nodes that a turn answers with, for each lane: one page, or several short
/// listings.
const LIST_BYTES: usize = 64 * 1024;
/// A longer request is decoded in a turn of its own, and replicated in the next one: each takes some
/// milliseconds.
const LONG_REQUEST_BYTES: usize = 256 * 1024;
/// TLS handshakes that go on in a turn, for each lane. A signature takes up to half a millisecond.
const HANDSHAKES: usize = 2;

/// The least cost of a request, in bytes of `TurnBudget::requests`.
pub const REQUEST_BYTES_MIN: usize = 512;
/// The cost of a write for each segment of its path, in bytes of `TurnBudget::requests`: each may be a
/// directory to create.
const SEGMENT_BYTES: usize = 160;
/// The least cost of a read of a file, in bytes of `TurnBudget::files`.
pub const FILE_BYTES_MIN: usize = 1024;
/// A byte of a value that is shared with the store costs this part of a rendered one: it is looked
/// at once, and not copied.
pub const SHARED_DIVISOR: usize = 8;
/// The least cost of a listing, in bytes of `TurnBudget::listings`.
pub const LISTING_BYTES_MIN: usize = 2 * 1024;
/// The least cost of a further page, in bytes of `TurnBudget::listings`. The past events of a
/// stream come in such pages too.
pub const PAGE_BYTES_MIN: usize = 16 * 1024;
/// A new read of a file of at most this many bytes is answered although the share is spent.
pub const SMALL_FILE_BYTES: usize = 4 * 1024;
/// A new request starts although the share is spent if it has at most this many bytes …
const SMALL_REQUEST_BYTES: usize = 4 * 1024;
/// … and at most this many slashes.
const SMALL_REQUEST_SLASHES: usize = 64;
/// An answer of at most this many bytes is written although the share is spent.
pub const SMALL_ANSWER_BYTES: usize = 16 * 1024;

/// The two kinds of connections that a turn visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Earlier turns have left it unfinished.
    Carried,
    /// It has received an event, an answer or a deadline since the last turn.
    Fresh,
}

impl Lane {
    /// The lane of a value on the ready list.
    pub fn of(is_carried: bool) -> Lane {
        if is_carried {
            Lane::Carried
        } else {
            Lane::Fresh
        }
    }
}

/// An amount of one kind of work, for each lane.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    carried: usize,
    fresh: usize,
}

impl Share {
    /// The share of a whole turn: `each` for each lane.
    pub fn new(each: usize) -> Share {
        Share {
            carried: each,
            fresh: each,
        }
    }

    /// The rest of the share of a lane.
    pub fn left(&self, lane: Lane) -> usize {
        match lane {
            Lane::Carried => self.carried,
            Lane::Fresh => self.fresh,
        }
    }

    /// Whether nothing is left for a lane.
    pub fn is_spent(&self, lane: Lane) -> bool {
        self.left(lane) == 0
    }

    /// Takes from the share of a lane. The last piece of work may exceed it.
    pub fn spend(&mut self, lane: Lane, amount: usize) {
        let left = match lane {
            Lane::Carried => &mut self.carried,
            Lane::Fresh => &mut self.fresh,
        };
        *left = left.saturating_sub(amount);
    }
}

/// Whether a turn may start a long request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LongRequests {
    /// It may start one.
    #[default]
    Free,
    /// It has started one.
    Started,
    /// The last turn has started one, which this turn replicates.
    Closed,
}

/// The work that is left for this turn.
#[derive(Clone, Copy, Debug)]
pub struct TurnBudget {
    /// Bytes to read.
    pub read: Share,
    /// Bytes of answers to write.
    pub write: Share,
    /// Bytes of requests to start.
    pub requests: Share,
    /// Bytes of files to render.
    pub files: Share,
    /// Bytes of listed nodes to answer with.
    pub listings: Share,
    /// TLS handshakes to go on with.
    pub handshakes: Share,
    long: LongRequests,
}

impl Default for TurnBudget {
    /// The budget of a whole turn.
    fn default() -> TurnBudget {
        TurnBudget {
            read: Share::new(READ_BYTES),
            write: Share::new(WRITE_BYTES),
            requests: Share::new(REQUEST_BYTES),
            files: Share::new(FILE_BYTES),
            listings: Share::new(LIST_BYTES),
            handshakes: Share::new(HANDSHAKES),
            long: LongRequests::Free,
        }
    }
}

impl TurnBudget {
    /// The budget of the turn after this one.
    pub fn next(self) -> TurnBudget {
        let long = match self.long {
            LongRequests::Started => LongRequests::Closed,
            LongRequests::Free | LongRequests::Closed => LongRequests::Free,
        };
        TurnBudget {
            long,
            ..TurnBudget::default()
        }
    }

    /// Whether a request of `bytes` bytes may start, as far as long ones are concerned.
    pub fn may_start(&self, bytes: usize) -> bool {
        bytes <= LONG_REQUEST_BYTES || self.long == LongRequests::Free
    }

    /// A request of `bytes` bytes starts.
    pub fn on_started(&mut self, bytes: usize) {
        if bytes > LONG_REQUEST_BYTES {
            self.long = LongRequests::Started;
        }
    }

    /// Whether this turn has started a long request.
    pub fn has_started_long(&self) -> bool {
        self.long == LongRequests::Started
    }
}

/// The cost of a write of `bytes` bytes to this path, in bytes of `TurnBudget::requests`.
pub fn cost_of_write(bytes: usize, path: &str) -> usize {
    let segments = slashes(path.as_bytes());
    bytes.max(segments * SEGMENT_BYTES)
}

/// Whether a request with this beginning starts although the share is spent; `bytes` bytes have
/// arrived. It is not parsed yet: an escaped slash counts like a plain one.
pub fn is_small_request(beginning: &[u8], bytes: usize) -> bool {
    bytes <= SMALL_REQUEST_BYTES && slashes(beginning) <= SMALL_REQUEST_SLASHES
}

fn slashes(text: &[u8]) -> usize {
    let is_slash = |byte: &&u8| matches!(byte, b'/' | b'%');
    text.iter().filter(is_slash).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A command that creates a thousand directories takes as long as a write of 128 KiB.
    #[test]
    fn a_write_to_a_deep_path_costs_like_a_long_one() {
        let deep = "/d".repeat(1_020);
        let mut budget = TurnBudget::default();
        let lane = Lane::Fresh;
        assert_eq!(cost_of_write(1_000, "/a/b/c/d"), 1_000);
        budget.requests.spend(lane, cost_of_write(2_200, &deep));
        assert!(budget.requests.is_spent(lane), "no second one in this turn");
        let request = |path: &str| format!("PUT {path} HTTP/1.1\r\n\r\n").into_bytes();
        let is_small = |path: &str| is_small_request(&request(path), 3_000);
        assert!(is_small("/v2/keys/a/b"));
        assert!(!is_small(&deep));
        assert!(!is_small(&deep.replace('/', "%2F")));
        assert!(!is_small_request(&request("/v2/keys/a/b"), 5_000));
    }

    /// Even if many wait, every other turn replicates.
    #[test]
    fn a_turn_starts_one_long_request_and_the_next_one_none() {
        let mut budget = TurnBudget::default();
        budget.on_started(LONG_REQUEST_BYTES);
        assert!(budget.may_start(LONG_REQUEST_BYTES + 1));
        budget.on_started(LONG_REQUEST_BYTES + 1);
        assert!(budget.has_started_long() && !budget.may_start(LONG_REQUEST_BYTES + 1));
        assert!(budget.may_start(LONG_REQUEST_BYTES));
        let next = budget.next();
        assert!(!next.has_started_long() && !next.may_start(LONG_REQUEST_BYTES + 1));
        assert!(next.next().may_start(LONG_REQUEST_BYTES + 1));
    }

    #[test]
    fn each_lane_has_its_own_share() {
        let mut budget = TurnBudget::default();
        budget.read.spend(Lane::Carried, READ_BYTES - 1);
        assert!(!budget.read.is_spent(Lane::Carried));
        budget.read.spend(Lane::Carried, 1_000_000);
        assert!(budget.read.is_spent(Lane::Carried));
        assert_eq!(budget.read.left(Lane::Fresh), READ_BYTES);
        assert!(!budget.write.is_spent(Lane::Carried));
    }
}
