//! Answers and events to bytes, straight into a connection's output buffer.
//!
//! Each outcome is written once, by `Shape::render`; what differs between the interfaces (v2, v1,
//! admin) is the shape's kind, chosen when the request was routed. A shape never looks at the key
//! space: it has only what the machine told.
use super::listing::{NodeTree, migration_rest};
use super::{Context, Cors, admin, json, stats, v1};
use crate::codec::http::response::{JSON, ResponseHead, TEXT};
use crate::codec::http::{Framing, Method, Request, Response, ResponseMode};
use crate::core::error::{Code, Error, OUTCOME_UNKNOWN};
use crate::core::seam::{Answer, Delivery, Indexes, Migrated, Outcome};
use crate::core::store::{Action, Event, ListItem};
use std::ops::Range;

/// `Content-Type` of a raft index.
const BYTES: &str = "application/octet-stream";

/// What kind of answer is expected.
#[derive(Debug)]
pub(super) enum AnswerKind {
    Node(NodeTree),
    Event,
    Watch,
    V1Get(v1::V1Listing),
    V1Event,
    /// A v1 watch has no head before its event, and tells its key in an error.
    V1Watch {
        key: Box<str>,
    },
    /// A line of text, or statistics.
    Plain,
    Migration {
        tree: NodeTree,
        to_file: bool,
    },
    Config,
    Machines,
    Machine,
    Remove,
    Join,
    /// The leader is asked in place of this machine.
    Proxied {
        leader_url: Box<str>,
    },
}

/// What became of a request that was passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyOutcome {
    Answered {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Box<[u8]>,
    },
    /// No answer came; `sent`: all of the request had left.
    Failed { sent: bool },
}

/// How the answer to one request is to be written, and how far it has come; kept by the connection
/// while its request is parked.
#[derive(Debug)]
pub struct Shape {
    kind: AnswerKind,
    reply: ResponseMode,
    method: Method,
    cors: Cors,
    /// Path and query for a redirect.
    target: Box<str>,
    /// Set when the head of a body in pieces has been written.
    framing: Option<Framing>,
}

/// What the connection does when it has queued what was rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The request stays parked: an answer or a delivery will come by itself.
    Wait,
    /// When the output has left, say `Op::ContinueListing` with the same ticket.
    More,
    /// The answer is whole. With `gone` say `Op::ClientClosed` with the ticket: the machine may hold
    /// something for it still.
    Done { keep_alive: bool, gone: bool },
    /// The answer cannot be finished: close without ending its body, so that the client sees that
    /// it is cut short.
    Abort,
    /// Of a shape that is `to_file` only: what was rendered was the last of a file's content. Write
    /// the file, `RAFT-migrate.snap` in the data directory with mode 0600, then answer with
    /// `saved`.
    Save { raft: u64 },
}

impl Next {
    fn done(framing: Framing) -> Next {
        Next::Done {
            keep_alive: framing.keep_alive,
            gone: false,
        }
    }
}

/// An event's body, made once for all who wait for it.
#[derive(Clone, Debug)]
pub struct Rendition {
    /// The body as a chunk: size line, JSON, line break.
    pub bytes: Vec<u8>,
    /// Where the JSON stands in it.
    json: Range<usize>,
}

/// What a watcher's connection queues for an event, in this order: what was appended to its output,
/// the part of the rendition's bytes, the tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    pub shared: Range<usize>,
    pub tail: &'static [u8],
    pub next: Next,
}

impl Rendition {
    /// Renders an event as watchers get it.
    pub fn new(delivery: &Delivery, context: &Context) -> Rendition {
        let mut body = Vec::new();
        watch_event(&delivery.event, context, &mut body);
        let mut bytes = Vec::with_capacity(body.len() + 8);
        crate::codec::http::response::push_hexadecimal(body.len(), &mut bytes);
        bytes.extend_from_slice(b"\r\n");
        let json = bytes.len()..bytes.len() + body.len();
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(b"\r\n");
        Rendition { bytes, json }
    }
}

/// An event as a watcher gets it; clients of 2.x want each on a line of its own.
fn watch_event(event: &Event, context: &Context, out: &mut Vec<u8>) {
    json::event(event, context.now.wall_ns, out);
    if context.site.compat_2 {
        out.push(b'\n');
    }
}

/// An answer that is not one of the key space.
struct Plain {
    status: u16,
    content_type: &'static str,
    body: Vec<u8>,
}

impl Shape {
    pub(super) fn new(kind: AnswerKind, request: &Request, target: Box<str>, cors: Cors) -> Shape {
        Shape {
            kind,
            reply: request.response_mode(),
            method: request.method,
            cors,
            target,
            framing: None,
        }
    }

    /// Appends what the machine answered, or a part of it.
    pub fn render(&mut self, answer: &Answer, context: &Context, out: &mut Vec<u8>) -> Next {
        let at = answer.at;
        match &answer.outcome {
            Outcome::Event(event) => self.event(event, at, context, out),
            Outcome::Page { items, last } => self.page(items, *last, at, context, out),
            Outcome::Watching => self.watching(at, context, out),
            Outcome::Backlog { events, done } => self.backlog(events, *done, at, context, out),
            Outcome::Migrated(rest) => self.migrated(rest, context, out),
            Outcome::WatchEnd => self.watch_end(context, out),
            Outcome::Failed(error) => self.failed(error, at, context, out),
            Outcome::Redirect {
                client_url,
                peer_url,
            } => self.redirect(client_url, peer_url, context, out),
            outcome => {
                let plain = plain(outcome, at);
                let head = self.head(plain.status, plain.content_type, context, out);
                Next::done(head.full(|out| out.extend_from_slice(&plain.body)))
            }
        }
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
        let Some(framing) = self.framing else {
            return Delivered {
                shared: 0..0,
                tail: b"",
                next: self.v1_event(&delivery.event, delivery.etcd.0, context, out),
            };
        };
        Delivered {
            shared: if framing.is_chunked() {
                0..rendition.bytes.len()
            } else {
                rendition.json.clone()
            },
            tail: if ends { framing.last() } else { b"" },
            next: if ends {
                Next::done(framing)
            } else {
                Next::Wait
            },
        }
    }

    /// True: what is rendered is a file's content, not for the client; the connection gathers it
    /// elsewhere. (A failure is for the client all the same: it comes before any content.)
    pub fn to_file(&self) -> bool {
        matches!(self.kind, AnswerKind::Migration { to_file: true, .. })
    }

    /// Appends the answer after `Next::Save`; `Err` tells why the file could not be written.
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
        Next::done(head.full(|out| json::raw(text, out)))
    }

    fn head<'a>(
        &self,
        status: u16,
        content_type: &str,
        context: &Context,
        out: &'a mut Vec<u8>,
    ) -> ResponseHead<'a> {
        let mut head = ResponseHead::new(status, self.reply, context.date, out);
        for (name, value) in self.cors.headers(context) {
            head.header(name, value);
        }
        head.content_type(content_type);
        head
    }

    /// The head of an answer of the key space.
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

    fn event(&mut self, event: &Event, at: Indexes, context: &Context, out: &mut Vec<u8>) -> Next {
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
        Next::done(head.full(|out| json::event(event, context.now.wall_ns, out)))
    }

    fn v1_event(&self, event: &Event, index: u64, context: &Context, out: &mut Vec<u8>) -> Next {
        let head = self.head(200, TEXT, context, out);
        Next::done(head.full(|out| v1::event(event, index, context.now.wall_ns, out)))
    }

    /// A listing in one page has its length in the head; a longer one goes out in pieces. HEAD has
    /// no length: it does not read what the length would be of.
    fn page(
        &mut self,
        items: &[ListItem],
        last: bool,
        at: Indexes,
        context: &Context,
        out: &mut Vec<u8>,
    ) -> Next {
        if self.to_file() {
            self.items(items, last, at, context, out);
            return Next::More;
        }
        let is_whole = last && !matches!(self.kind, AnswerKind::Migration { .. });
        let framing = match self.framing {
            Some(framing) => framing,
            None => {
                let head = match self.kind {
                    AnswerKind::Node(_) => self.key_head(200, at, context, out),
                    _ => self.head(200, TEXT, context, out),
                };
                if is_whole && !self.reply.head_only {
                    let write = |out: &mut Vec<u8>| self.items(items, last, at, context, out);
                    return Next::done(head.full(write));
                }
                let framing = head.stream();
                if self.reply.head_only {
                    return Next::Done {
                        keep_alive: framing.keep_alive,
                        gone: !is_whole,
                    };
                }
                framing
            }
        };
        self.framing = Some(framing);
        let mut piece = Vec::new();
        self.items(items, last, at, context, &mut piece);
        framing.chunk(&piece, out);
        if !is_whole {
            return Next::More;
        }
        framing.end(out);
        Next::done(framing)
    }

    fn items(
        &mut self,
        items: &[ListItem],
        last: bool,
        at: Indexes,
        context: &Context,
        out: &mut Vec<u8>,
    ) {
        let now_ns = context.now.wall_ns;
        match &mut self.kind {
            AnswerKind::Node(tree) | AnswerKind::Migration { tree, .. } => {
                items.iter().for_each(|item| tree.item(item, now_ns, out));
                if last {
                    tree.end(out);
                }
            }
            AnswerKind::V1Get(listing) => listing.page(items, last, at.etcd.0, now_ns, out),
            _ => unreachable!("a page answers a read"),
        }
    }

    fn migrated(&mut self, rest: &Migrated, context: &Context, out: &mut Vec<u8>) -> Next {
        if self.to_file() {
            migration_rest(rest, context.now.wall_ns, out);
            return Next::Save { raft: rest.raft.0 };
        }
        let framing = self.framing.expect("the key space came before the rest");
        let mut piece = Vec::new();
        migration_rest(rest, context.now.wall_ns, &mut piece);
        framing.chunk(&piece, out);
        framing.end(out);
        Next::done(framing)
    }

    fn watching(&mut self, at: Indexes, context: &Context, out: &mut Vec<u8>) -> Next {
        if matches!(self.kind, AnswerKind::Watch) && self.framing.is_none() {
            self.framing = Some(self.key_head(200, at, context, out).stream());
        }
        Next::Wait
    }

    fn backlog(
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
            (AnswerKind::Watch, [event]) if done && self.framing.is_none() => {
                let head = self.key_head(200, at, context, out);
                return Next::done(head.full(|out| watch_event(event, context, out)));
            }
            _ => {}
        }
        self.watching(at, context, out);
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
            Next::More
        }
    }

    /// The body ends with nothing more in it and the connection closes: the client asks again.
    fn watch_end(&mut self, context: &Context, out: &mut Vec<u8>) -> Next {
        self.reply.keep_alive = false;
        match self.framing {
            Some(framing) => framing.end(out),
            None => {
                self.head(200, TEXT, context, out).full(|_| {});
            }
        }
        Next::Done {
            keep_alive: false,
            gone: false,
        }
    }

    fn failed(&self, error: &Error, at: Indexes, context: &Context, out: &mut Vec<u8>) -> Next {
        if self.framing.is_some() {
            return Next::Abort;
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

    fn redirect(
        &self,
        client_url: &str,
        peer_url: &str,
        context: &Context,
        out: &mut Vec<u8>,
    ) -> Next {
        let url = match self.kind {
            AnswerKind::Config
            | AnswerKind::Machines
            | AnswerKind::Machine
            | AnswerKind::Remove
            | AnswerKind::Join => peer_url,
            AnswerKind::Node(_)
            | AnswerKind::Event
            | AnswerKind::Watch
            | AnswerKind::V1Get(_)
            | AnswerKind::V1Event
            | AnswerKind::V1Watch { .. }
            | AnswerKind::Plain
            | AnswerKind::Migration { .. }
            | AnswerKind::Proxied { .. } => client_url,
        };
        let response = redirect(self.method, url, &self.target);
        let response = self.cors.add(response, context);
        Next::done(response.encode(self.reply, context.date, out))
    }
}

impl Shape {
    /// Writes what became of a request that was passed on. Who was not reached can still be asked
    /// by the client itself, and read from as often as one likes.
    pub fn passed(&self, passed: ProxyOutcome, context: &Context, out: &mut Vec<u8>) -> Next {
        let AnswerKind::Proxied { leader_url } = &self.kind else {
            unreachable!("it was passed on");
        };
        let reads = matches!(self.method, Method::Get | Method::Head);
        let response = match passed {
            ProxyOutcome::Answered {
                status,
                headers,
                body,
            } => {
                let response = Response::new(status, "", body);
                headers
                    .into_iter()
                    .fold(response, |response, (name, value)| {
                        response.with(name, value)
                    })
            }
            ProxyOutcome::Failed { sent } if !sent || reads => {
                redirect(self.method, leader_url, &self.target)
            }
            ProxyOutcome::Failed { .. } => {
                let mut body = Vec::new();
                let error = Error::new(Code::RaftInternal, OUTCOME_UNKNOWN);
                json::error(&error, context.at.etcd, &mut body);
                let index = context.at.etcd.0.to_string();
                Response::new(error.code.status(), JSON, body).with("X-Etcd-Index", index)
            }
        };
        let response = self.cors.add(response, context);
        Next::done(response.encode(self.reply, context.date, out))
    }
}

/// 307 to the same path and query elsewhere. Only GET gets the text that 0.4 gives it, HEAD its
/// type.
pub(super) fn redirect(method: Method, url: &str, target: &str) -> Response {
    let location = format!("{url}{target}");
    let (content_type, body) = match method {
        Method::Get => ("text/html; charset=utf-8", link(&location)),
        Method::Head => ("text/html; charset=utf-8", Vec::new()),
        Method::Put | Method::Post | Method::Delete | Method::Options | Method::Other => {
            ("", Vec::new())
        }
    };
    Response::new(307, content_type, body).with("Location", location)
}

fn link(location: &str) -> Vec<u8> {
    let mut out = b"<a href=\"".to_vec();
    for byte in location.bytes() {
        match byte {
            b'&' => json::raw("&amp;", &mut out),
            b'<' => json::raw("&lt;", &mut out),
            b'>' => json::raw("&gt;", &mut out),
            b'"' => json::raw("&#34;", &mut out),
            b'\'' => json::raw("&#39;", &mut out),
            _ => out.push(byte),
        }
    }
    json::raw("\">Temporary Redirect</a>.\n\n", &mut out);
    out
}

/// The answers that are neither of the key space nor about a failure.
fn plain(outcome: &Outcome, at: Indexes) -> Plain {
    let mut body = Vec::new();
    let out = &mut body;
    let (status, content_type) = match outcome {
        Outcome::Leader { peer_url } => {
            json::raw(peer_url, out);
            (200, TEXT)
        }
        Outcome::Machines { client_urls } => {
            json::raw(&client_urls.join(", "), out);
            (200, TEXT)
        }
        Outcome::StatsSelf(of) => {
            stats::this(of, out);
            (200, JSON)
        }
        Outcome::StatsLeader(of) => {
            stats::leader(of, out);
            (200, JSON)
        }
        Outcome::StatsStore(of) => {
            stats::store(of, out);
            (200, JSON)
        }
        Outcome::NotLeader => {
            json::raw("not current leader", out);
            (403, TEXT)
        }
        Outcome::SpeedTest => {
            json::raw("speed test success", out);
            (200, TEXT)
        }
        Outcome::Config(config) => {
            admin::config(config, out);
            (200, JSON)
        }
        Outcome::MachineList(machines) => {
            admin::machines(machines, out);
            (200, JSON)
        }
        Outcome::Machine(machine) => {
            admin::machine(machine, out);
            out.push(b'\n');
            (200, JSON)
        }
        Outcome::Removed => {
            admin::raft_index(at.commit.0, out);
            (200, BYTES)
        }
        Outcome::Joined(index) => {
            admin::raft_index(index.0, out);
            (200, BYTES)
        }
        Outcome::Event(_)
        | Outcome::Page { .. }
        | Outcome::Watching
        | Outcome::Backlog { .. }
        | Outcome::Migrated(_)
        | Outcome::WatchEnd
        | Outcome::Failed(_)
        | Outcome::Redirect { .. } => unreachable!("rendered by the shape"),
    };
    Plain {
        status,
        content_type,
        body,
    }
}
