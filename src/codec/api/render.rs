//! Writes answers and events as bytes, directly into a connection's output.
//!
//! A [`Shape`] knows how the answer to one request is written: it is chosen when the request is
//! routed, and kept by the connection while the request is pending. It sees only the answers of the
//! machine, never the key space. Each kind of answer has its file: `pages` for listings and the
//! migration document, `watch` for events, `plain` for everything about the cluster, `redirect`.
//! `json`, `tree`, `stats` and `v1` write the bodies.
//!
//! Start reading at [`Shape::render`].
mod cluster;
pub(super) mod json;
mod locks;
mod members;
mod migration;
mod pages;
mod plain;
pub(super) mod redirect;
mod stats;
mod tree;
mod v1;
mod watch;

pub use json::SharedValue;
pub(super) use locks::{LockField, error as lock_error};
pub use migration::MigrationDocument;
pub(super) use tree::NodeTree;
pub(super) use v1::V1Listing;
pub use watch::{Delivered, Rendition};

use super::cors::Cors;
use super::{CLUSTER_ID, Context};
use crate::codec::cluster_status::ClusterDocument;
use crate::codec::http::response::{JSON, ResponseHead, TEXT};
use crate::codec::http::{Framing, Method, Request, ResponseMode};
use crate::core::error::{Code, Error};
use crate::core::seam::{Answer, Indexes, Outcome};
use crate::core::store::{Action, Event};
use redirect::RedirectTarget;

/// The form of an answer, as route and method decide it.
#[derive(Debug)]
pub(super) enum AnswerKind {
    /// v2 GET: a node and its children.
    Node(NodeTree),
    /// v2 write: the event.
    Event {
        /// Without the nodes (`noValueOnSuccess`).
        no_value: bool,
    },
    /// v2 watch: events.
    Watch {
        /// The client waits for a limited time. Its status is known only when an event comes or the
        /// time is over, so the head is not written before.
        has_timeout: bool,
    },
    /// v1 GET: a file, or the list of a directory.
    V1Get(V1Listing),
    /// v1 write: the event.
    V1Event,
    /// v1 watch. Its head is written together with its event, and its errors name its key.
    V1Watch { key: Box<str> },
    /// Text or statistics.
    Plain,
    /// The whole key space and the history.
    Migration {
        document: Box<MigrationDocument>,
        /// The document is written to a file of this machine, not to the client.
        to_file: bool,
    },
    /// Whether this machine waits for its cluster to begin.
    Bootstrap,
    /// The cluster config.
    Config,
    /// The list of machines.
    Machines,
    /// One machine.
    Machine,
    /// The list of members with their ids.
    Members,
    /// The leader among the members.
    MemberLeader,
    /// A change of one member.
    MemberChange,
    /// The lock module.
    Lock {
        /// The field of the holder that the answer has.
        field: LockField,
        /// The cause of error 100: the name of the request.
        cause: &'static str,
    },
    /// This machine, and the cluster as the leader sees it.
    Cluster {
        /// The leader may be asked for its view. Another machine that asks does so itself.
        asks_leader: bool,
        /// The document of this machine, once the leader is asked.
        own: Option<Box<ClusterDocument>>,
        /// It is shown as a page.
        is_page: bool,
    },
    /// The figures of `/metrics`.
    Metrics,
    /// Whether this machine can serve.
    Health,
    /// The removal of a machine.
    Remove,
    /// A join.
    Join,
    /// The leader's response, for a request that was forwarded to it.
    Proxied {
        /// The leader's client URL, if one was known when the request came, or when another machine
        /// became the leader.
        leader_url: Option<Box<str>>,
        /// The client has received a part of an event, and the rest is to come.
        is_amid_event: bool,
    },
}

/// The outcome of a request that a standby forwarded to the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyOutcome {
    /// The leader's response. The client gets it unchanged.
    Answered {
        /// Its status.
        status: u16,
        /// The headers that are given back.
        headers: Vec<(&'static str, String)>,
        /// Its body.
        body: Box<[u8]>,
    },
    /// The client is to ask the leader itself: too many requests are under way here, or the answer
    /// to a read is too long.
    Redirected,
    /// There is no response.
    Failed {
        /// Whether the whole request was written to the connection. If so, the leader may have
        /// carried it out.
        sent: bool,
    },
}

/// How the answer to one request is written, and whether its head was written already.
#[derive(Debug)]
pub struct Shape {
    kind: AnswerKind,
    mode: ResponseMode,
    method: Method,
    cors: Cors,
    target: RedirectTarget,
    /// `Some` once the head of a body in pieces was written.
    framing: Option<Framing>,
}

/// The next step of the connection once the rendered bytes are queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing. The machine sends another answer or a delivery without being asked.
    Wait,
    /// Once the output has left, send `Op::ContinueListing` with the same ticket.
    ContinueListing,
    /// The answer is complete.
    Done {
        /// Whether the connection stays open.
        keep_alive: bool,
        /// The machine may still hold something for the ticket: send `Op::ClientClosed`.
        client_closed: bool,
    },
    /// The answer cannot be completed. Close without ending its body, so that the client sees that
    /// it is cut off.
    Abort,
    /// Only of a shape with `to_file`: the file's content is complete. Write the file
    /// `RAFT-migrate.snap` in the data directory with mode 0600, then answer with `Shape::saved`.
    Save {
        /// The raft index in the file's name.
        raft: u64,
    },
}

impl Next {
    fn done(framing: Framing) -> Next {
        Next::Done {
            keep_alive: framing.keep_alive,
            client_closed: false,
        }
    }
}

impl Shape {
    /// The shape of the answer to `request`.
    pub(super) fn new(kind: AnswerKind, request: &Request, cors: Cors) -> Shape {
        Shape {
            kind,
            mode: request.response_mode(),
            method: request.method,
            cors,
            target: RedirectTarget::new(&request.path, request.query),
            framing: None,
        }
    }

    /// Appends the machine's answer, or a part of it.
    pub fn render(&mut self, answer: &Answer, context: &Context, out: &mut Vec<u8>) -> Next {
        let at = answer.at;
        match &answer.outcome {
            Outcome::Event(event) => self.event(event, at, context, out, None),
            Outcome::Page { items, last } => self.page(items, *last, at, context, out),
            Outcome::Watching => self.watching(at, context, out),
            Outcome::Backlog { events, done } => self.backlog(events, *done, at, context, out),
            Outcome::Migrated(rest) => self.migrated(rest, context, out),
            Outcome::WatchEnd => self.watch_end(context, out),
            Outcome::WatchTimedOut => self.watch_timed_out(at, context, out),
            Outcome::Cluster(status) => self.cluster(status, context, out),
            Outcome::Health(health) => self.health(*health, context, out),
            Outcome::Lock(outcome) => self.lock(outcome, context, out),
            Outcome::Failed(error) => self.failed(error, at, context, out),
            Outcome::Redirect {
                client_url,
                peer_url,
            } => self.redirect(client_url, peer_url, context, out),
            Outcome::Members(_)
            | Outcome::MemberAdded(_)
            | Outcome::MemberMoved
            | Outcome::MemberGone => self.members(&answer.outcome, context, out),
            Outcome::Removed if matches!(self.kind, AnswerKind::MemberChange) => {
                self.members(&answer.outcome, context, out)
            }
            outcome => self.plain(outcome, at, context, out),
        }
    }

    /// Appends the machine's answer as `render` does, but leaves long values out. They are added to
    /// `shared`, in order, and are sent from the store's own memory.
    pub fn render_sharing(
        &mut self,
        answer: &Answer,
        context: &Context,
        out: &mut Vec<u8>,
        shared: &mut Vec<SharedValue>,
    ) -> Next {
        match &answer.outcome {
            Outcome::Event(event) if matches!(self.kind, AnswerKind::Event { no_value: false }) => {
                self.event(event, answer.at, context, out, Some(shared))
            }
            _ => self.render(answer, context, out),
        }
    }

    /// Whether the rendered bytes are the content of a file, which the connection collects apart
    /// from its output. A failure precedes any content and goes to the client.
    pub fn to_file(&self) -> bool {
        matches!(self.kind, AnswerKind::Migration { to_file: true, .. })
    }

    /// Appends the answer after `Next::Save`. `Err` says why the file could not be written; the
    /// machine may have more of its content then.
    pub fn saved(
        &mut self,
        result: Result<(), &str>,
        context: &Context,
        out: &mut Vec<u8>,
    ) -> Next {
        let (status, content_type, text) = match result {
            Ok(()) => (200, "", ""),
            Err(why) => (500, TEXT, why),
        };
        let head = self.head(status, content_type, context, out);
        let framing = head.full(|out| json::raw(text, out));
        Next::Done {
            keep_alive: framing.keep_alive,
            client_closed: result.is_err(),
        }
    }

    fn head<'a>(
        &self,
        status: u16,
        content_type: &'static str,
        context: &Context,
        out: &'a mut Vec<u8>,
    ) -> ResponseHead<'a> {
        let mut head = ResponseHead::new(status, self.mode, context.date, out);
        for (name, value) in self.cors.headers(context) {
            head.header(name, value);
        }
        if let Some(id) = context.cluster_id {
            head.hexadecimal(CLUSTER_ID, id.number());
        }
        head.content_type(content_type);
        head
    }

    /// The head of an answer of the v2 key space.
    fn key_head<'a>(
        &self,
        status: u16,
        at: Indexes,
        context: &Context,
        out: &'a mut Vec<u8>,
    ) -> ResponseHead<'a> {
        let mut head = self.head(status, JSON, context, out);
        head.number("X-Etcd-Index", at.etcd.0);
        head.number("X-Raft-Index", at.commit.0);
        head.number("X-Raft-Term", at.term.0);
        head
    }

    /// A write was carried out. 201 if the node is new.
    fn event(
        &mut self,
        event: &Event,
        at: Indexes,
        context: &Context,
        out: &mut Vec<u8>,
        shared: Option<&mut Vec<SharedValue>>,
    ) -> Next {
        if matches!(self.kind, AnswerKind::V1Event) {
            return self.v1_event(event, event.node.modified.0, context, out);
        }
        let is_new = match event.action {
            Action::Create => true,
            Action::Set => event.prev.is_none(),
            Action::Get
            | Action::Update
            | Action::CompareAndSwap
            | Action::Delete
            | Action::CompareAndDelete
            | Action::Expire => false,
        };
        let head = self.key_head(if is_new { 201 } else { 200 }, at, context, out);
        let now_ns = context.shown_ns;
        let ending = context.line_end();
        if let AnswerKind::Event { no_value: true } = self.kind {
            return Next::done(head.full(|out| {
                json::event_without_nodes(event.action, out);
                json::raw(ending, out);
            }));
        }
        let Some(shared) = shared else {
            return Next::done(head.full(|out| {
                json::event(event, now_ns, out);
                json::raw(ending, out);
            }));
        };
        let write = |out: &mut Vec<u8>| {
            let left_out = json::event_sharing(event, now_ns, out, shared);
            json::raw(ending, out);
            left_out
        };
        let (framing, moved) = head.full_with(write);
        for value in shared {
            value.at -= moved;
        }
        Next::done(framing)
    }

    fn v1_event(&self, event: &Event, index: u64, context: &Context, out: &mut Vec<u8>) -> Next {
        let head = self.head(200, TEXT, context, out);
        Next::done(head.full(|out| v1::event(event, index, out)))
    }

    fn failed(&self, error: &Error, at: Indexes, context: &Context, out: &mut Vec<u8>) -> Next {
        if self.framing.is_some() {
            return Next::Abort;
        }
        if matches!(
            self.kind,
            AnswerKind::Members | AnswerKind::MemberLeader | AnswerKind::MemberChange
        ) {
            return self.members(&Outcome::Failed(error.clone()), context, out);
        }
        if let AnswerKind::Lock { .. } = self.kind {
            return self.lock_failed(error, at, context, out);
        }
        let replaced = match &self.kind {
            AnswerKind::V1Watch { key } if error.code == Code::EventIndexCleared => {
                Some(Error::new(Code::ClientInternal, key.clone()))
            }
            AnswerKind::Machine if error.code == Code::KeyNotFound => {
                let head = self.head(200, JSON, context, out);
                return Next::done(head.full(|out| json::raw("null\n", out)));
            }
            _ => None,
        };
        let error = replaced.as_ref().unwrap_or(error);
        let content_type = match self.kind {
            AnswerKind::Join => TEXT,
            _ => JSON,
        };
        let mut head = self.head(error.code.status(), content_type, context, out);
        head.number("X-Etcd-Index", at.etcd.0);
        Next::done(head.full(|out| json::error(error, at.etcd, out)))
    }
}
