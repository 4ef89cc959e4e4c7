//! The output of one HTTP connection, and the bytes that several connections share.
//!
//! The bytes of one connection are appended to one buffer. An event for many watchers is rendered
//! once, and the output of each watcher holds a reference to it; the same holds for a long value.
//! Must not touch sockets: `Socket::flush` takes slices from here and reports how many bytes it has
//! written. Start with `OutBuffer`.
use super::sockets::{Output, SLICES_MAX};
use crate::codec::api::SharedValue;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::Arc;

/// The memory that one queued reference counts for, in bytes, besides the bytes that it refers to.
/// Without it thousands of references to short events would count as nothing.
const PIECE_OVERHEAD: usize = 64;
/// The longest slice. One write must not hold the loop for long.
const SLICE_BYTES_MAX: usize = 128 * 1024;

/// A counter of the shared bytes that are in memory, each allocation counted once: a value that
/// many connections send counts as one.
#[derive(Clone, Default)]
pub struct SharedTotal(Rc<SharedCount>);

#[derive(Default)]
struct SharedCount {
    bytes: Cell<usize>,
    /// By the address of an allocation that is not empty: how many `SharedAllocation` refer to it.
    /// Each of them keeps it alive, so no other allocation has the address.
    references: RefCell<HashMap<*const u8, usize>>,
}

impl SharedTotal {
    /// The number of bytes.
    pub fn bytes(&self) -> usize {
        self.0.bytes.get()
    }

    fn add(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut references = self.0.references.borrow_mut();
        let count = references.entry(bytes.as_ptr()).or_default();
        *count += 1;
        if *count == 1 {
            self.0.bytes.set(self.bytes() + bytes.len());
        }
    }

    fn remove(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut references = self.0.references.borrow_mut();
        let count = references.get_mut(&bytes.as_ptr());
        let count = count.expect("it was added");
        *count -= 1;
        if *count == 0 {
            references.remove(&bytes.as_ptr());
            self.0.bytes.set(self.bytes() - bytes.len());
        }
    }
}

struct SharedAllocation {
    bytes: Arc<[u8]>,
    total: SharedTotal,
}

impl Drop for SharedAllocation {
    fn drop(&mut self) {
        self.total.remove(&self.bytes);
    }
}

/// Bytes that several connections may send.
#[derive(Clone)]
pub struct SharedBytes(Rc<SharedAllocation>);

impl SharedBytes {
    /// `total` counts the bytes until the last reference to their allocation is dropped.
    pub fn new(bytes: Arc<[u8]>, total: &SharedTotal) -> SharedBytes {
        total.add(&bytes);
        SharedBytes(Rc::new(SharedAllocation {
            bytes,
            total: total.clone(),
        }))
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.0.bytes
    }
}

enum Piece {
    Own(Vec<u8>),
    Shared(SharedBytes),
}

impl Piece {
    fn as_slice(&self) -> &[u8] {
        match self {
            Piece::Own(bytes) => bytes,
            Piece::Shared(shared) => shared.as_slice(),
        }
    }
}

/// The output of one connection, oldest bytes first.
#[derive(Default)]
pub struct OutBuffer {
    /// The pieces that are sent before `tail`. Empty unless the connection has queued shared bytes.
    pieces: VecDeque<Piece>,

    /// The newest bytes, which only this connection sends. Without capacity while nothing is
    /// queued.
    tail: Vec<u8>,

    /// How many bytes of the first piece have been written; of `tail` if there are no pieces.
    sent: usize,

    /// Bytes not yet written, shared ones included.
    unsent: usize,

    /// The unsent bytes that only this connection sends, plus `PIECE_OVERHEAD` for each shared
    /// piece.
    own: usize,
}

impl OutBuffer {
    /// Bytes not yet written, shared ones included.
    pub fn len(&self) -> usize {
        self.unsent
    }

    /// The bytes of memory that count for this connection alone.
    pub fn own(&self) -> usize {
        self.own
    }

    /// Calls `write` to append to the buffer. `spare` provides a buffer if there is none.
    ///
    /// # Panics
    /// If `write` removes bytes.
    pub fn append<R>(
        &mut self,
        spare: impl FnOnce() -> Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>) -> R,
    ) -> R {
        self.drop_sent();
        if self.tail.capacity() == 0 {
            self.tail = spare();
        }
        let before = self.tail.len();
        let result = write(&mut self.tail);
        assert!(self.tail.len() >= before, "output is only appended to");
        self.unsent += self.tail.len() - before;
        self.own += self.tail.len() - before;
        result
    }

    /// Gives the written bytes of `tail` back once they are at least as many as the others: a client
    /// that reads steadily may always leave some. Each byte is moved once for each written one.
    fn drop_sent(&mut self) {
        if self.pieces.is_empty() && self.sent > 0 && self.sent >= self.unsent {
            self.tail.drain(..self.sent);
            self.sent = 0;
            if self.tail.capacity() / 4 > self.tail.len() {
                self.tail.shrink_to(2 * self.tail.len());
            }
        }
    }

    /// Inserts shared values into the bytes of the last `append`. `SharedValue::at` is the place of
    /// a value in the buffer that `write` got; the places ascend. `total` counts the bytes.
    ///
    /// # Panics
    /// If a place lies beyond the buffer, or the places do not ascend.
    pub fn share(&mut self, values: Vec<SharedValue>, total: &SharedTotal) {
        let tail = std::mem::take(&mut self.tail);
        let mut from = 0;
        for SharedValue { at, value } in values {
            self.pieces.push_back(Piece::Own(tail[from..at].to_vec()));
            from = at;
            self.unsent += value.len();
            self.own += PIECE_OVERHEAD;
            let shared = SharedBytes::new(value.into(), total);
            self.pieces.push_back(Piece::Shared(shared));
        }
        self.tail = tail[from..].to_vec();
    }

    /// Queues bytes that other connections may send too.
    pub fn push(&mut self, shared: SharedBytes) {
        if shared.as_slice().is_empty() {
            return;
        }
        if !self.tail.is_empty() {
            self.pieces
                .push_back(Piece::Own(std::mem::take(&mut self.tail)));
        }
        self.unsent += shared.as_slice().len();
        self.own += PIECE_OVERHEAD;
        self.pieces.push_back(Piece::Shared(shared));
    }
}

impl Output for OutBuffer {
    fn is_empty(&self) -> bool {
        self.unsent == 0
    }

    fn slices<'a>(&'a mut self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        let all = self.pieces.iter().map(Piece::as_slice);
        let all = all.chain(std::iter::once(self.tail.as_slice()));
        let mut count = 0;
        for (i, bytes) in all.enumerate().take(SLICES_MAX) {
            let rest = if i == 0 { &bytes[self.sent..] } else { bytes };
            if rest.len() > SLICE_BYTES_MAX {
                slices[count] = IoSlice::new(&rest[..SLICE_BYTES_MAX]);
                return count + 1;
            }
            if !rest.is_empty() {
                slices[count] = IoSlice::new(rest);
                count += 1;
            }
        }
        count
    }

    /// # Panics
    /// If more bytes have been written than were queued.
    fn advance(&mut self, mut bytes: usize) -> Option<Vec<u8>> {
        assert!(bytes <= self.unsent, "only queued bytes are written");
        self.unsent -= bytes;
        while let Some(first) = self.pieces.front() {
            let rest = first.as_slice().len() - self.sent;
            if let Piece::Own(_) = first {
                self.own -= bytes.min(rest);
            }
            if bytes < rest {
                self.sent += bytes;
                return None;
            }
            bytes -= rest;
            self.sent = 0;
            if let Some(Piece::Shared(_)) = self.pieces.pop_front() {
                self.own -= PIECE_OVERHEAD;
            }
        }
        self.own -= bytes;
        self.sent += bytes;
        if self.sent < self.tail.len() {
            return None;
        }
        self.sent = 0;
        Some(std::mem::take(&mut self.tail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes at most `at_most` bytes, as a socket would.
    fn write(out: &mut OutBuffer, at_most: usize, into: &mut Vec<u8>) {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = out.slices(&mut slices);
        let all: Vec<u8> = slices[..count].iter().flat_map(|s| s.to_vec()).collect();
        let n = all.len().min(at_most);
        into.extend_from_slice(&all[..n]);
        out.advance(n);
    }

    #[test]
    fn bytes_leave_in_order_in_writes_of_any_size() {
        for at_most in 1..40 {
            let total = SharedTotal::default();
            let (mut out, mut wire, mut expected) = (OutBuffer::default(), Vec::new(), Vec::new());
            for i in 0..50u8 {
                let text = vec![i; (i % 7) as usize];
                expected.extend_from_slice(&text);
                match i % 3 {
                    0 => out.push(SharedBytes::new((&*text).into(), &total)),
                    _ => out.append(Vec::new, |o| o.extend_from_slice(&text)),
                }
                if i % 5 == 0 {
                    write(&mut out, at_most, &mut wire);
                }
            }
            while !out.is_empty() {
                write(&mut out, at_most, &mut wire);
            }
            assert_eq!(wire, expected, "at most {at_most} at once");
            assert_eq!((out.len(), out.own(), total.bytes()), (0, 0, 0));
        }
    }

    /// A client that reads as fast as bytes are appended, and never all of them.
    #[test]
    fn written_bytes_do_not_stay_in_memory() {
        let total = SharedTotal::default();
        let mut out = OutBuffer::default();
        out.append(Vec::new, |out| out.extend_from_slice(&[0; 1 << 20]));
        for round in 0..1_000_u32 {
            let bytes = [round as u8; 64 << 10];
            out.append(Vec::new, |out| out.extend_from_slice(&bytes));
            if round % 10 == 9 {
                let value = "value".into();
                out.share(
                    vec![SharedValue {
                        at: out.tail.len(),
                        value,
                    }],
                    &total,
                );
            }
            let kept = 1_000;
            out.advance(out.len() - kept);
            assert!(out.tail.capacity() <= 4 << 20, "{}", out.tail.capacity());
        }
        assert_eq!((out.len(), out.tail.capacity() < 256 << 10), (1_000, true));
    }

    #[test]
    fn shared_values_are_sent_in_their_places() {
        let values = |from| {
            let value = |place, text: &str| SharedValue {
                at: from + place,
                value: text.into(),
            };
            vec![value(3, "1234"), value(3, "5678"), value(7, "90")]
        };
        for at_most in 1..30 {
            let total = SharedTotal::default();
            let mut out = OutBuffer::default();
            let mut wire = Vec::new();
            out.append(Vec::new, |out| out.extend_from_slice(b"abc"));
            write(&mut out, 2, &mut wire);
            let from = out.append(Vec::new, |out| {
                let from = out.len();
                out.extend_from_slice(b"defghijkl");
                from
            });
            out.share(values(from), &total);
            assert_eq!((out.len(), total.bytes()), (20, 10));
            out.append(Vec::new, |out| out.extend_from_slice(b"mn"));
            while !out.is_empty() {
                write(&mut out, at_most, &mut wire);
            }
            assert_eq!(
                wire, b"abcdef12345678ghij90klmn",
                "at most {at_most} at once"
            );
            assert_eq!((out.len(), out.own(), total.bytes()), (0, 0, 0));
        }
    }

    #[test]
    fn shared_bytes_are_counted_once() {
        let total = SharedTotal::default();
        let shared = SharedBytes::new([1; 1000].into(), &total);
        let mut outs: Vec<OutBuffer> = (0..10).map(|_| OutBuffer::default()).collect();
        outs.iter_mut().for_each(|out| out.push(shared.clone()));
        drop(shared);
        assert_eq!(total.bytes(), 1000);
        assert_eq!(outs[3].len(), 1000);
        assert_eq!(outs[3].own(), PIECE_OVERHEAD);
        outs.truncate(1);
        assert_eq!(total.bytes(), 1000);
        outs[0].advance(1000);
        assert_eq!(total.bytes(), 0);
    }

    #[test]
    fn a_value_that_many_connections_send_is_counted_once() {
        let total = SharedTotal::default();
        let value: Arc<str> = "x".repeat(1000).into();
        let mut outs: Vec<OutBuffer> = (0..10).map(|_| OutBuffer::default()).collect();
        for out in &mut outs {
            out.append(Vec::new, |out| out.extend_from_slice(b"head"));
            let value = value.clone();
            out.share(vec![SharedValue { at: 4, value }], &total);
        }
        assert_eq!((total.bytes(), outs[9].len()), (1000, 1004));
        outs.truncate(1);
        assert_eq!(total.bytes(), 1000);
        outs.clear();
        assert_eq!(total.bytes(), 0);
    }
}
