//! What waits to be written to one connection, and the bytes that several connections share.
//!
//! Bytes of one connection are gathered in one buffer; an event for many watchers is rendered once
//! and each queue holds a reference to it. Must not touch sockets: `Conn::flush` takes slices from
//! here and says how much has left.
use std::cell::Cell;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::rc::Rc;

/// At most so many slices go into one write.
pub const SLICES_MAX: usize = 32;
/// Bytes that a queued reference counts for beyond what it refers to: a connection cannot hold
/// thousands of empty ones.
const PIECE_OVERHEAD: usize = 64;

/// How many bytes of shared events are alive, whoever holds them.
#[derive(Clone, Default)]
pub struct SharedTotal(Rc<Cell<usize>>);

impl SharedTotal {
    /// Bytes, each counted once.
    pub fn bytes(&self) -> usize {
        self.0.get()
    }
}

struct SharedBytes {
    bytes: Box<[u8]>,
    total: SharedTotal,
}

impl Drop for SharedBytes {
    fn drop(&mut self) {
        self.total.0.set(self.total.0.get() - self.bytes.len());
    }
}

/// Bytes that any number of connections send.
#[derive(Clone)]
pub struct Shared(Rc<SharedBytes>);

impl Shared {
    /// Takes bytes that are whole; `total` counts them until the last holder lets go.
    pub fn new(bytes: &[u8], total: &SharedTotal) -> Shared {
        total.0.set(total.0.get() + bytes.len());
        Shared(Rc::new(SharedBytes {
            bytes: bytes.into(),
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
    Shared(Shared),
}

impl Piece {
    fn as_slice(&self) -> &[u8] {
        match self {
            Piece::Own(bytes) => bytes,
            Piece::Shared(shared) => shared.as_slice(),
        }
    }
}

/// The output of one connection, oldest first.
#[derive(Default)]
pub struct Out {
    /// Sent before `tail`; empty but for watchers and slow readers.
    pieces: VecDeque<Piece>,
    /// The newest bytes of this connection alone.
    tail: Vec<u8>,
    /// So many bytes of the first piece (of the tail, if there are no pieces) have left.
    sent: usize,
    /// Bytes that have not left, shared ones too.
    bytes: usize,
    /// The part of `bytes` that only this connection holds, and the overhead of references.
    own: usize,
}

impl Out {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Bytes that wait, those shared with others too.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Bytes of memory that this connection alone is to blame for.
    pub fn own(&self) -> usize {
        self.own
    }

    /// Lets `write` append to the buffer; `spare` gives a buffer when this connection has none.
    pub fn append<R>(
        &mut self,
        spare: impl FnOnce() -> Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>) -> R,
    ) -> R {
        if self.tail.capacity() == 0 {
            self.tail = spare();
        }
        let before = self.tail.len();
        let result = write(&mut self.tail);
        assert!(self.tail.len() >= before, "output is only appended to");
        self.bytes += self.tail.len() - before;
        self.own += self.tail.len() - before;
        result
    }

    /// Queues shared bytes behind what is there.
    pub fn push(&mut self, shared: Shared) {
        if shared.as_slice().is_empty() {
            return;
        }
        if !self.tail.is_empty() {
            self.pieces
                .push_back(Piece::Own(std::mem::take(&mut self.tail)));
        }
        self.bytes += shared.as_slice().len();
        self.own += PIECE_OVERHEAD;
        self.pieces.push_back(Piece::Shared(shared));
    }

    /// What is to be written next, in order; gives how many of `slices` are filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        let all = self.pieces.iter().map(Piece::as_slice);
        let all = all.chain(std::iter::once(self.tail.as_slice()));
        let mut count = 0;
        for (i, bytes) in all.enumerate().take(SLICES_MAX) {
            let rest = if i == 0 { &bytes[self.sent..] } else { bytes };
            if !rest.is_empty() {
                slices[count] = IoSlice::new(rest);
                count += 1;
            }
        }
        count
    }

    /// So many bytes have left.
    pub fn advance(&mut self, mut bytes: usize, keep: impl FnOnce(Vec<u8>)) {
        assert!(bytes <= self.bytes, "no more than there was");
        self.bytes -= bytes;
        while let Some(first) = self.pieces.front() {
            let rest = first.as_slice().len() - self.sent;
            if let Piece::Own(_) = first {
                self.own -= bytes.min(rest);
            }
            if bytes < rest {
                self.sent += bytes;
                return;
            }
            bytes -= rest;
            self.sent = 0;
            if let Some(Piece::Shared(_)) = self.pieces.pop_front() {
                self.own -= PIECE_OVERHEAD;
            }
        }
        self.own -= bytes;
        self.sent += bytes;
        if self.sent == self.tail.len() {
            self.sent = 0;
            keep(std::mem::take(&mut self.tail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes at most `at_most` bytes, as a socket would.
    fn write(out: &mut Out, at_most: usize, into: &mut Vec<u8>) {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = out.slices(&mut slices);
        let all: Vec<u8> = slices[..count].iter().flat_map(|s| s.to_vec()).collect();
        let n = all.len().min(at_most);
        into.extend_from_slice(&all[..n]);
        out.advance(n, |_| ());
    }

    #[test]
    fn bytes_leave_in_order_however_they_are_cut() {
        for at_most in 1..40 {
            let total = SharedTotal::default();
            let (mut out, mut wire, mut expected) = (Out::default(), Vec::new(), Vec::new());
            for i in 0..50u8 {
                let text = vec![i; (i % 7) as usize];
                expected.extend_from_slice(&text);
                match i % 3 {
                    0 => out.push(Shared::new(&text, &total)),
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

    #[test]
    fn shared_bytes_are_counted_once() {
        let total = SharedTotal::default();
        let shared = Shared::new(&[1; 1000], &total);
        let mut outs: Vec<Out> = (0..10).map(|_| Out::default()).collect();
        outs.iter_mut().for_each(|out| out.push(shared.clone()));
        drop(shared);
        assert_eq!(total.bytes(), 1000);
        assert_eq!(outs[3].len(), 1000);
        assert_eq!(outs[3].own(), PIECE_OVERHEAD);
        outs.truncate(1);
        assert_eq!(total.bytes(), 1000);
        outs[0].advance(1000, |_| ());
        assert_eq!(total.bytes(), 0);
    }
}
