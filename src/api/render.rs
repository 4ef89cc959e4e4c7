//! Answers and events to bytes, straight into a connection's output buffer.
//!
//! Start with `Shape::render`.
use super::Context;
use crate::http::{Framing, Reply};
use crate::machine::seam::{Answer, Delivery};
use std::ops::Range;

/// How the answer to one request is to be written, and how far it has come; kept by the connection while its request is
/// parked.
#[derive(Debug)]
pub struct Shape {
    reply: Reply,
    framing: Option<Framing>,
}

/// What the connection does when it has queued what was rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The request stays parked: an answer or a delivery will come by itself.
    Wait,
    /// When the output has left, say `Op::More` with the same ticket.
    More,
    /// The answer is whole. With `gone` say `Op::Gone` with the ticket: the machine may hold something for it still.
    Done { keep_alive: bool, gone: bool },
    /// The answer cannot be finished: close without ending its body, so that the client sees that it is cut short.
    Abort,
    /// Of a shape that is `to_file` only: what was rendered was the last of a file's content. Write the file,
    /// `RAFT-migrate.snap` in the data directory with mode 0600, then answer with `saved`.
    Save { raft: u64 },
}

/// An event's body, made once for all who wait for it.
#[derive(Clone, Debug)]
pub struct Rendition {
    /// The body as a chunk: size line, JSON, line break.
    pub bytes: Vec<u8>,
}

/// What a watcher's connection queues for an event, in this order: what was appended to its output, the part of the
/// rendition's bytes, the tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    pub shared: Range<usize>,
    pub tail: &'static [u8],
    pub next: Next,
}

impl Rendition {
    /// Renders an event as watchers get it.
    pub fn new(delivery: &Delivery, context: &Context) -> Rendition {
        let _ = (delivery, context);
        unimplemented!("lands next")
    }
}

impl Shape {
    /// Appends what the machine answered, or a part of it.
    pub fn render(&mut self, answer: &Answer, context: &Context, out: &mut Vec<u8>) -> Next {
        let _ = (answer, context, out, self.framing, self.reply);
        unimplemented!("lands next")
    }

    /// Hands an event to the watcher; `ends` is what the delivery says beside its ticket.
    pub fn deliver(
        &mut self,
        delivery: &Delivery,
        rendition: &Rendition,
        ends: bool,
        context: &Context,
        out: &mut Vec<u8>,
    ) -> Delivered {
        let _ = (delivery, rendition, ends, context, out);
        unimplemented!("lands next")
    }

    /// True: what is rendered is a file's content, not for the client; the connection gathers it elsewhere.
    pub fn to_file(&self) -> bool {
        unimplemented!("lands next")
    }

    /// Appends the answer after `Next::Save`; `Err` tells why the file could not be written.
    pub fn saved(
        &mut self,
        result: Result<(), &str>,
        context: &Context,
        out: &mut Vec<u8>,
    ) -> Next {
        let _ = (result, context, out);
        unimplemented!("lands next")
    }
}
