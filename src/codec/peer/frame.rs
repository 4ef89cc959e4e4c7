//! Frames on a link: messages cut into checksummed pieces, and put together again; pure.
//!
//! ```text
//! 0  u16  bytes of the piece, at most 16,384 (little endian, as all numbers here)
//! 2  u8   BULK: belongs to the message that the bulk lane is in the middle of; LAST: the message ends with it;
//!         PING: no message, asks for a PONG; PONG: no message, somebody is there
//! 3  u8   0
//! 4  u32  crc32 of the four bytes before and of the piece
//! 8       the piece
//! ```
//! A message of the urgent lane is one frame and may stand between the pieces of one of the bulk
//! lane, so that votes and heartbeats never wait for a snapshot. Whatever is wrong ends the link:
//! raft outlives that. Start with `Frames::take`.
use super::wire;
use crate::core::raft::Message;
use std::ops::Range;

/// The bytes before a piece.
pub const HEAD_BYTES: usize = 8;
/// The longest piece.
pub const PIECE_BYTES_MAX: usize = 16 * 1024;
/// The longest message: the largest record that a log may hold (256 MiB), and what is round it.
pub const MESSAGE_BYTES_MAX: usize = 272 << 20;

const BULK: u8 = 1;
const LAST: u8 = 2;
const PING: u8 = 4;
const PONG: u8 = 8;

/// Why the other side's bytes are no frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameFault(pub &'static str);

/// What a frame came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameContent {
    Message(Message),
    /// A piece of a longer message.
    Piece,
    Ping,
    Pong,
}

/// The receiving end of a link.
#[derive(Debug, Default)]
pub struct Frames {
    /// The bulk message so far; grows with what has come, never with what is claimed.
    bulk: Vec<u8>,
}

impl Frames {
    /// Takes the frame at the front of `input`, if it is whole, and how many bytes it had.
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
        let taken = match (head[2], length) {
            (PING, 0) => FrameContent::Ping,
            (PONG, 0) => FrameContent::Pong,
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
            _ => return Err(FrameFault("a frame of no known kind")),
        };
        Ok(Some((HEAD_BYTES + length, taken)))
    }

    fn gather(&mut self, piece: &[u8]) -> Result<(), FrameFault> {
        if self.bulk.len() + piece.len() > MESSAGE_BYTES_MAX {
            return Err(FrameFault("an over-long message"));
        }
        self.bulk.extend_from_slice(piece);
        Ok(())
    }

    /// Bytes of an unfinished message.
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

/// Appends a message as one frame of the urgent lane; if it is too long for that, `out` stays as it
/// was and the encoded message comes back, for `put_piece`.
pub fn put_urgent(message: &Message, out: &mut Vec<u8>) -> Result<(), Vec<u8>> {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    wire::encode(message, out);
    let from = start + HEAD_BYTES;
    if out.len() - from > PIECE_BYTES_MAX {
        let encoded = out.split_off(from);
        out.truncate(start);
        return Err(encoded);
    }
    seal(out, start, LAST);
    Ok(())
}

/// Appends the piece of an encoded message that begins at `at`, as a frame of the bulk lane; gives
/// where the next begins.
pub fn put_piece(message: &[u8], at: usize, out: &mut Vec<u8>) -> usize {
    assert!(at < message.len(), "there is a piece left");
    let end = message.len().min(at + PIECE_BYTES_MAX);
    let start = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    out.extend_from_slice(&message[at..end]);
    let last = if end == message.len() { LAST } else { 0 };
    seal(out, start, BULK | last);
    end
}

/// Appends a question whether somebody is there.
pub fn put_ping(out: &mut Vec<u8>) {
    put_empty(out, PING);
}

/// Appends the answer to it.
pub fn put_pong(out: &mut Vec<u8>) {
    put_empty(out, PONG);
}

fn put_empty(out: &mut Vec<u8>, flags: u8) {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    seal(out, start, flags);
}

/// Writes the head of the frame whose piece is all from `start` on.
fn seal(out: &mut [u8], start: usize, flags: u8) {
    let Range { start: from, end } = start + HEAD_BYTES..out.len();
    let length = u16::try_from(end - from).expect("a piece is short");
    let (head, piece) = out[start..].split_at_mut(HEAD_BYTES);
    head[..2].copy_from_slice(&length.to_le_bytes());
    head[2] = flags;
    let crc = checksum(&head[..4], piece);
    head[4..].copy_from_slice(&crc.to_le_bytes());
}
