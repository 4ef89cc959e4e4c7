//! Events for watchers. A v2 watcher gets the head at once, past events as a backlog, and live
//! events as deliveries.
use super::{AnswerKind, Next, Shape, json};
use crate::codec::api::Context;
use crate::codec::http::response::{TEXT, push_hexadecimal};
use crate::core::seam::{Delivery, Indexes};
use crate::core::store::Event;
use std::ops::Range;

/// The body of an event, rendered once for all watchers that wait for it.
#[derive(Clone, Debug)]
pub struct Rendition {
    /// The body as a chunk (RFC 9112 section 7.1): size line, JSON, line break.
    pub bytes: Vec<u8>,
    /// The place of the JSON in `bytes`.
    json: Range<usize>,
}

impl Rendition {
    /// Renders an event.
    pub fn new(delivery: &Delivery, context: &Context) -> Rendition {
        let mut body = Vec::new();
        watch_event(&delivery.event, context, &mut body);
        let mut bytes = Vec::with_capacity(body.len() + 8);
        push_hexadecimal(body.len() as u64, &mut bytes);
        bytes.extend_from_slice(b"\r\n");
        let json = bytes.len()..bytes.len() + body.len();
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(b"\r\n");
        Rendition { bytes, json }
    }
}

/// The output of a watcher's connection for an event, in this order: the bytes that `deliver`
/// appended to its output, a part of the rendition, the tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The part of `Rendition::bytes`.
    pub shared: Range<usize>,
    /// The end of the body; empty if more events follow.
    pub tail: &'static [u8],
    /// The next step of the connection.
    pub next: Next,
}

/// Appends an event in the form for watchers. Clients of 2.x expect each one on a line of its own,
/// and to be told that a directory has expired.
fn watch_event(event: &Event, context: &Context, out: &mut Vec<u8>) {
    if context.settings.compat_2 && event.removes_directory() && !event.node.dir {
        let mut event = event.clone();
        event.node.dir = true;
        return watch_event(&event, context, out);
    }
    json::event(event, context.shown_ns, out);
    json::raw(context.line_end(), out);
}

impl Shape {
    /// Writes an event for this watcher. `ends` is the flag beside the watcher's ticket in the
    /// delivery: the answer ends with this event.
    pub fn deliver(
        &mut self,
        delivery: &Delivery,
        rendition: &Rendition,
        ends: bool,
        context: &Context,
        out: &mut Vec<u8>,
    ) -> Delivered {
        let at = Indexes {
            etcd: delivery.etcd,
            ..context.at
        };
        if self.framing.is_none() && matches!(self.kind, AnswerKind::Watch { .. }) {
            self.start_body(at, context, out);
        }
        let Some(framing) = self.framing else {
            return Delivered {
                shared: 0..0,
                tail: b"",
                next: self.v1_event(&delivery.event, delivery.etcd.0, context, out),
            };
        };
        let shared = if framing.is_chunked() {
            0..rendition.bytes.len()
        } else {
            rendition.json.clone()
        };
        if ends {
            Delivered {
                shared,
                tail: framing.last(),
                next: Next::done(framing),
            }
        } else {
            Delivered {
                shared,
                tail: b"",
                next: Next::Wait,
            }
        }
    }

    /// The watcher waits: a v2 client gets the head at once, unless it waits for a limited time.
    pub(super) fn watching(&mut self, at: Indexes, context: &Context, out: &mut Vec<u8>) -> Next {
        if matches!(self.kind, AnswerKind::Watch { has_timeout: false }) {
            self.start_body(at, context, out);
        }
        Next::Wait
    }

    /// Writes the head of a body in pieces, unless it was written already.
    fn start_body(&mut self, at: Indexes, context: &Context, out: &mut Vec<u8>) {
        if self.framing.is_none() {
            self.framing = Some(self.key_head(200, at, context, out).stream());
        }
    }

    /// The time of the watcher is over: 204 if no event came, else the end of the body.
    pub(super) fn watch_timed_out(
        &self,
        at: Indexes,
        context: &Context,
        out: &mut Vec<u8>,
    ) -> Next {
        if let Some(framing) = self.framing {
            framing.end(out);
            return Next::done(framing);
        }
        let mut head = self.head(204, "", context, out);
        head.number("X-Etcd-Index", at.etcd.0);
        Next::done(head.full(|_| {}))
    }

    /// Past events. With `done` the answer ends after them.
    pub(super) fn backlog(
        &mut self,
        events: &[Event],
        done: bool,
        at: Indexes,
        context: &Context,
        out: &mut Vec<u8>,
    ) -> Next {
        match (&self.kind, events) {
            (AnswerKind::V1Watch { .. }, [event, ..]) => {
                return self.v1_event(event, at.etcd.0, context, out);
            }
            // A long poll that one past event answers is sent as a whole, with its length.
            (AnswerKind::Watch { .. }, [event]) if done && self.framing.is_none() => {
                let head = self.key_head(200, at, context, out);
                return Next::done(head.full(|out| watch_event(event, context, out)));
            }
            _ => {}
        }
        match self.kind {
            AnswerKind::Watch { .. } if !events.is_empty() => self.start_body(at, context, out),
            _ => {
                self.watching(at, context, out);
            }
        }
        let Some(framing) = self.framing else {
            return Next::Wait;
        };
        let mut body = Vec::new();
        for event in events {
            body.clear();
            watch_event(event, context, &mut body);
            framing.chunk(&body, out);
        }
        if done {
            framing.end(out);
            return Next::done(framing);
        }
        if events.is_empty() {
            Next::Wait
        } else {
            Next::ContinueListing
        }
    }

    /// Ends the body without another event and closes the connection. The client then watches
    /// again.
    pub(super) fn watch_end(&mut self, context: &Context, out: &mut Vec<u8>) -> Next {
        self.mode.keep_alive = false;
        match self.framing {
            Some(framing) => framing.end(out),
            None => {
                self.head(200, TEXT, context, out).full(|_| {});
            }
        }
        Next::Done {
            keep_alive: false,
            client_closed: false,
        }
    }
}
