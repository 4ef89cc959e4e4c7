//! Frames on a link: a message is sent as one or more pieces, each in a frame with a checksum.
//!
//! ```text
//! 0  u16  length of the piece, at most 16,384 (little endian, as all numbers here)
//! 2  u8   flags
//! 3  u8   0
//! 4  u32  CRC-32 of the four bytes above and of the piece
//! 8       the piece
//! ```
//!
//! | flags | frame |
//! |---|---|
//! | LAST | a whole message of the urgent lane |
//! | BULK | a piece of the present message of the bulk lane; more pieces follow |
//! | BULK, LAST | the last piece of that message |
//! | PING | without a piece; the other side answers with PONG |
//! | PONG | without a piece; LATE beside it: the process stood still before it answered |
//! | ALIVE | without a piece; the sender receives the pieces of a long message |
//!
//! Urgent messages may stand between the pieces of a bulk message, so that votes and heartbeats
//! never wait for a snapshot. A malformed frame ends the link; raft sends lost messages again.
//!
//! Start reading at [`Frames::take`].
use super::wire;
use crate::core::raft::{BODY_BYTES_MAX, Message};

/// Bytes of a frame before its piece.
pub const HEAD_BYTES: usize = 8;
/// Longest piece in bytes.
pub const PIECE_BYTES_MAX: usize = 16 * 1024;
/// Longest message in bytes that is accepted. The longest one of a correct peer holds one body of
/// the log; a chunk of a snapshot has 1 MiB, an append of several entries a quarter of that. The
/// rest of a message, such as the configuration in the head of a snapshot, takes less than 1 MiB.
pub const MESSAGE_BYTES_MAX: usize = BODY_BYTES_MAX as usize + (1 << 20);

const BULK: u8 = 1;
const LAST: u8 = 2;
const PING: u8 = 4;
const PONG: u8 = 8;
const LATE: u8 = 16;
const ALIVE: u8 = 32;

/// The fault of a frame or a message, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameFault(pub &'static str);

/// The content of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameContent {
    /// A message: all of it, or its last piece.
    Message(Message),
    /// A piece of a message that is not whole yet.
    Piece,
    /// The other side expects a pong.
    Ping,
    /// The answer to a ping.
    Pong {
        /// The process stood still before it answered.
        stood_still: bool,
    },
    /// The process of the other side runs.
    Alive,
}

/// The receiving end of a link.
#[derive(Debug, Default)]
pub struct Frames {
    /// The pieces of the present bulk message; at most `MESSAGE_BYTES_MAX`. Grows with the bytes
    /// that arrived.
    bulk: Vec<u8>,
}

impl Frames {
    /// Takes the frame at the front of `input`. Returns its length in bytes and its content; `None`
    /// if it is not whole yet.
    ///
    /// # Errors
    ///
    /// If the frame or the message in it is malformed.
    pub fn take(&mut self, input: &[u8]) -> Result<Option<(usize, FrameContent)>, FrameFault> {
        let Some((head, rest)) = input.split_at_checked(HEAD_BYTES) else {
            return Ok(None);
        };
        let length = usize::from(u16::from_le_bytes([head[0], head[1]]));
        if length > PIECE_BYTES_MAX || head[3] != 0 {
            return Err(FrameFault("a malformed frame"));
        }
        let Some(piece) = rest.get(..length) else {
            return Ok(None);
        };
        if head[4..] != checksum(&head[..4], piece).to_le_bytes() {
            return Err(FrameFault("a frame with a wrong checksum"));
        }
        let content = match (head[2], length) {
            (PING, 0) => FrameContent::Ping,
            (PONG, 0) => FrameContent::Pong { stood_still: false },
            (flags, 0) if flags == PONG | LATE => FrameContent::Pong { stood_still: true },
            (ALIVE, 0) => FrameContent::Alive,
            (LAST, 1..) => FrameContent::Message(decode(piece)?),
            (BULK, 1..) => {
                self.gather(piece)?;
                FrameContent::Piece
            }
            (flags, 1..) if flags == BULK | LAST => {
                self.gather(piece)?;
                let whole = std::mem::take(&mut self.bulk);
                FrameContent::Message(decode(&whole)?)
            }
            _ => return Err(FrameFault("a frame of unknown kind")),
        };
        Ok(Some((HEAD_BYTES + length, content)))
    }

    fn gather(&mut self, piece: &[u8]) -> Result<(), FrameFault> {
        if self.bulk.len() + piece.len() > MESSAGE_BYTES_MAX {
            return Err(FrameFault("an over-long message"));
        }
        self.bulk.extend_from_slice(piece);
        Ok(())
    }

    /// How many bytes of an unfinished bulk message are held.
    pub fn held(&self) -> usize {
        self.bulk.len()
    }
}

fn decode(bytes: &[u8]) -> Result<Message, FrameFault> {
    wire::decode(bytes).map_err(|_| FrameFault("a malformed message"))
}

fn checksum(head: &[u8], piece: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(head);
    crc.update(piece);
    crc.finalize()
}

/// Appends a message as one frame of the urgent lane.
///
/// # Errors
///
/// If the message is too long for one frame. `out` is unchanged then. The error is the encoded
/// message, for [`put_piece`].
pub fn put_urgent(message: &Message, out: &mut Vec<u8>) -> Result<(), Vec<u8>> {
    let length = wire::encoded_len(message);
    if length > PIECE_BYTES_MAX {
        let mut encoded = Vec::with_capacity(length);
        wire::encode(message, &mut encoded);
        return Err(encoded);
    }
    let start = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    wire::encode(message, out);
    seal(out, start, LAST);
    Ok(())
}

/// Appends the piece of an encoded message that begins at `at` as a frame of the bulk lane. Returns
/// where the next piece begins.
///
/// # Panics
///
/// If `at` is not within the message.
pub fn put_piece(message: &[u8], at: usize, out: &mut Vec<u8>) -> usize {
    assert!(at < message.len(), "a piece is left");
    let end = message.len().min(at + PIECE_BYTES_MAX);
    let start = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    out.extend_from_slice(&message[at..end]);
    let last = if end == message.len() { LAST } else { 0 };
    seal(out, start, BULK | last);
    end
}

/// Appends a ping.
pub fn put_ping(out: &mut Vec<u8>) {
    put_empty(out, PING);
}

/// Appends the answer to a ping. `stood_still`: this process stood still before it.
pub fn put_pong(stood_still: bool, out: &mut Vec<u8>) {
    let late = if stood_still { LATE } else { 0 };
    put_empty(out, PONG | late);
}

/// Appends a sign that this process runs.
pub fn put_alive(out: &mut Vec<u8>) {
    put_empty(out, ALIVE);
}

fn put_empty(out: &mut Vec<u8>, flags: u8) {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    seal(out, start, flags);
}

/// Writes the head of the frame that starts at `start` and ends with `out`.
fn seal(out: &mut [u8], start: usize, flags: u8) {
    let (head, piece) = out[start..].split_at_mut(HEAD_BYTES);
    let length = u16::try_from(piece.len()).expect("a piece is short");
    head[..2].copy_from_slice(&length.to_le_bytes());
    head[2] = flags;
    let crc = checksum(&head[..4], piece);
    head[4..].copy_from_slice(&crc.to_le_bytes());
}
