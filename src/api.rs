//! The interface: requests to what the machine is asked for, and its answers to bytes.
//!
//! `route` turns a request into an answer that needs nobody else, or into an `Op` for the machine and a `Shape`, which
//! the connection keeps while the request is parked. What the machine says to it is written by `Shape::render`
//! (answers) and `Shape::deliver` (events). Nothing here does I/O, keeps time or knows raft. Start with `ROUTES`.
pub mod render;

pub use render::{Delivered, Next, Rendition, Shape};

use crate::http::{Date, Request, Response};
use crate::machine::seam::{Indexes, Op};
use crate::timer::Now;

/// Which port a request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Client,
    Peer,
}

/// What the interface shows of this machine; the same as long as it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    pub name: Box<str>,
    /// `http://host:port`, as it is advertised.
    pub client_url: Box<str>,
    pub peer_url: Box<str>,
    /// Origins that `-cors` allows; `*` allows all.
    pub cors: Vec<Box<str>>,
    /// The 2.x flavour: `/version` as JSON, in-order names of 20 digits, a newline after each event of a watch.
    pub compat_2: bool,
}

/// Whether this machine serves or points to those who do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode<'a> {
    Peer,
    /// The client URL of the leader it last knew; `None` while it knows none.
    Standby {
        leader_url: Option<&'a str>,
    },
}

/// What surrounds a request or an answer; made once a turn.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub site: &'a Site,
    pub date: &'a Date,
    pub now: Now,
    /// The present indexes, for answers that are given without asking the machine.
    pub at: Indexes,
    pub mode: Mode<'a>,
}

/// What is to be done about a request.
#[derive(Debug)]
pub enum Routed {
    /// Encode this: nobody needs to be asked.
    Answer(Response),
    /// Ask the machine, and keep the shape for what it says.
    Ask { op: Op, shape: Box<Shape> },
}

/// Decides what a request means.
pub fn route(port: Port, request: &Request, context: &Context) -> Routed {
    let _ = (port, request, context);
    unimplemented!("lands next")
}
