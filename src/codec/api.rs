//! The HTTP interface: turns requests into operations, and answers of the machine into bytes.
//!
//! [`route`] turns a request into a response that does not need the machine, or into an `Op` for
//! the machine and a [`Shape`]. The connection keeps the shape while the request is pending.
//! Answers are written with [`Shape::render`], events with [`Shape::deliver`]. Nothing here does
//! I/O, keeps time or knows raft.
//!
//! Start reading at `ROUTES`.
mod admin;
mod cors;
mod exchange;
mod file_get;
mod keys;
mod proxy;
mod render;
mod v1;

pub use file_get::FileGet;
pub use render::{Delivered, Next, ProxyOutcome, Rendition, Shape, SharedValue};

use crate::codec::http::call::HttpCall;
use crate::codec::http::response::{JSON, TEXT};
use crate::codec::http::{Date, Method, Request, Response};
use crate::core::error::Code;
use crate::core::seam::{Indexes, Op, Query};
use crate::core::timer::Now;
use cors::Cors;
use exchange::{Exchange, Handled};
use render::{AnswerKind, NodeTree, redirect};

/// The port on which a request arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// `-addr`: the key space, for clients.
    Client,
    /// `-peer-addr`: the cluster, for other machines and administrators.
    Peer,
}

/// The settings that the interface depends on. They do not change while the process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiSettings {
    /// `-name`
    pub name: Box<str>,
    /// The advertised client URL, `http://host:port`.
    pub client_url: Box<str>,
    /// The advertised peer URL, `http://host:port`.
    pub peer_url: Box<str>,
    /// Origins that `-cors` allows; `*` allows all.
    pub cors: Vec<Box<str>>,
    /// The 2.x flavour: `/version` as JSON, in-order names of 20 digits, a newline after each
    /// event of a watch.
    pub compat_2: bool,
    /// `-forward`: a standby sends short requests to the leader instead of redirecting.
    pub forward: bool,
}

/// Whether this machine answers requests itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode<'a> {
    /// A member: it answers.
    Member,
    /// A standby: it redirects to the leader, or forwards.
    Standby {
        /// The client URL of the leader that this machine heard of last; `None` if it has not heard
        /// of one.
        leader_url: Option<&'a str>,
    },
}

/// The state of this machine that routing and rendering depend on. Made once a turn.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// This machine.
    pub settings: &'a ApiSettings,
    /// The `Date` header.
    pub date: &'a Date,
    /// The time of this turn.
    pub now: Now,
    /// The current indexes, for responses that are made without the machine.
    pub at: Indexes,
    /// Whether this machine answers requests itself.
    pub mode: Mode<'a>,
}

/// The result of [`route`].
#[derive(Debug)]
pub enum Routed {
    /// Send this. The machine is not needed.
    Answer(Response),
    /// Hand `op` to the machine, and keep `shape` for its answer.
    ToMachine {
        /// The operation.
        op: Op,
        /// How its answer is written.
        shape: Shape,
    },
    /// Make this call to the leader, and keep `shape` for its outcome ([`Shape::proxied`]).
    Proxy {
        /// The call to the leader.
        call: Box<HttpCall>,
        /// How its outcome is written.
        shape: Shape,
    },
}

/// The body of every 404 that is not about a key.
const NOT_FOUND: &str = "404 page not found\n";

/// The methods that a route answers. Another method gets 404, as in 0.4.
#[derive(Clone, Copy)]
enum Methods {
    Any,
    Of(&'static [Method]),
}

/// The paths that a route answers.
#[derive(Clone, Copy)]
enum Pattern {
    Exact(&'static str),
    /// All paths with this prefix. `Exchange::rest` is the part after it.
    Below(&'static str),
}

/// Port, methods, paths, handler.
struct Route(Port, Methods, Pattern, fn(&Exchange) -> Handled);

use Methods::{Any, Of};
use Pattern::{Below, Exact};
use Port::{Client, Peer};

const READ: Methods = Of(&[Method::Get, Method::Head]);
const GET: Methods = Of(&[Method::Get]);
const PUT: Methods = Of(&[Method::Put]);
const POST: Methods = Of(&[Method::Post]);
const DELETE: Methods = Of(&[Method::Delete]);
const PUT_POST: Methods = Of(&[Method::Put, Method::Post]);
const READ_POST: Methods = Of(&[Method::Get, Method::Head, Method::Post]);

/// All routes. The first one that matches handles the request, so the most used ones stand first.
const ROUTES: &[Route] = &[
    Route(Client, READ, Below("/v2/keys/"), keys::get),
    Route(Client, PUT, Below("/v2/keys/"), keys::put),
    Route(Client, POST, Below("/v2/keys/"), keys::post),
    Route(Client, DELETE, Below("/v2/keys/"), keys::delete),
    Route(Client, READ, Exact("/v2/leader"), leader),
    Route(Client, READ, Exact("/v2/machines"), machines),
    Route(Client, READ, Exact("/v2/peers"), machines),
    Route(Client, READ, Exact("/v2/stats/self"), stats_self),
    Route(Client, READ, Exact("/v2/stats/leader"), stats_leader),
    Route(Client, READ, Exact("/v2/stats/store"), stats_store),
    Route(Client, READ, Exact("/v2/speedTest"), speed_test),
    Route(Client, GET, Exact("/v2/migration/snapshot"), migration),
    Route(Client, GET, Exact("/version"), version),
    Route(Client, READ, Below("/v1/keys/"), v1::get),
    Route(Client, PUT_POST, Below("/v1/keys/"), v1::put),
    Route(Client, DELETE, Below("/v1/keys/"), v1::delete),
    Route(Client, READ_POST, Below("/v1/watch/"), v1::watch),
    Route(Client, READ, Exact("/v1/leader"), leader),
    Route(Client, READ, Exact("/v1/machines"), machines),
    Route(Client, READ, Exact("/v1/peers"), machines),
    Route(Client, READ, Exact("/v1/stats/self"), stats_self),
    Route(Client, READ, Exact("/v1/stats/leader"), stats_leader),
    Route(Client, READ, Exact("/v1/stats/store"), stats_store),
    Route(Peer, Any, Exact("/name"), admin::name),
    Route(Peer, Any, Exact("/version"), admin::version),
    Route(Peer, Any, Below("/version/"), admin::version_check),
    Route(Peer, Any, Exact("/upgrade"), admin::upgrade),
    Route(Peer, Any, Exact("/join"), admin::join),
    Route(Peer, Any, Below("/remove/"), admin::remove),
    Route(Peer, Any, Exact("/etcdURL"), admin::client_url),
    Route(Peer, GET, Exact("/v2/admin/config"), admin::config_get),
    Route(Peer, PUT, Exact("/v2/admin/config"), admin::config_put),
    Route(Peer, GET, Exact("/v2/admin/machines"), admin::machines_get),
    Route(Peer, GET, Below("/v2/admin/machines/"), admin::machine_get),
    Route(
        Peer,
        DELETE,
        Below("/v2/admin/machines/"),
        admin::machine_delete,
    ),
];

impl Route {
    /// The part of the path for the handler, if the request belongs to this route.
    fn rest<'a>(&self, port: Port, method: Method, path: &'a str) -> Option<&'a str> {
        let Route(route_port, methods, pattern, _) = self;
        let is_method = match methods {
            Any => true,
            Of(methods) => methods.contains(&method),
        };
        if *route_port != port || !is_method {
            return None;
        }
        match pattern {
            Exact(exact) => (path == *exact).then_some(""),
            Below(prefix) => path.strip_prefix(prefix),
        }
    }
}

/// Finds the route of a request and runs its handler.
pub fn route(port: Port, request: &Request, context: &Context) -> Routed {
    if port == Peer && context.mode != Mode::Member {
        // A standby refuses every request on its peer port, without CORS headers.
        return Routed::Answer(Response::new(404, TEXT, NOT_FOUND));
    }
    let cors = Cors::of(request, context.settings);
    let exchange = Exchange {
        request,
        context,
        cors,
        rest: "",
    };
    match handle(port, exchange) {
        Ok(Routed::Answer(response)) | Err(response) => Routed::Answer(cors.add(response, context)),
        Ok(pending) => pending,
    }
}

fn handle<'a>(port: Port, mut exchange: Exchange<'a>) -> Handled {
    let request = exchange.request;
    if request.method == Method::Options {
        return exchange.empty(200);
    }
    if let Mode::Standby { leader_url } = exchange.context.mode {
        return as_standby(&exchange, leader_url);
    }
    if let Some(clean) = cleaned(&request.path) {
        let location = redirect::target_of(&clean, request.query);
        let response = Response::new(301, "", "").with("Location", location);
        return Ok(Routed::Answer(response));
    }
    for route in ROUTES {
        if let Some(rest) = route.rest(port, request.method, &request.path) {
            exchange.rest = rest;
            return (route.3)(&exchange);
        }
    }
    exchange.not_found()
}

/// A request on the client port of a standby.
fn as_standby(exchange: &Exchange, leader_url: Option<&str>) -> Handled {
    let Some(leader_url) = leader_url else {
        return Err(exchange.error(Code::StandbyInternal, ""));
    };
    if exchange.context.settings.forward
        && let Some(forwarded) = proxy::forward(exchange, leader_url)
    {
        return Ok(forwarded);
    }
    let target = redirect::target_of(&exchange.request.path, exchange.request.query);
    let response = redirect::response(exchange.request.method, leader_url, &target);
    Ok(Routed::Answer(response))
}

fn leader(exchange: &Exchange) -> Handled {
    exchange.to_machine(Op::Query(Query::Leader), AnswerKind::Plain)
}

fn machines(exchange: &Exchange) -> Handled {
    exchange.to_machine(Op::Query(Query::Machines), AnswerKind::Plain)
}

fn stats_self(exchange: &Exchange) -> Handled {
    exchange.to_machine(Op::Query(Query::StatsSelf), AnswerKind::Plain)
}

fn stats_leader(exchange: &Exchange) -> Handled {
    exchange.to_machine(Op::Query(Query::StatsLeader), AnswerKind::Plain)
}

fn stats_store(exchange: &Exchange) -> Handled {
    exchange.to_machine(Op::Query(Query::StatsStore), AnswerKind::Plain)
}

fn speed_test(exchange: &Exchange) -> Handled {
    exchange.to_machine(Op::SpeedTest, AnswerKind::Plain)
}

/// The version of etcd that clients look for. etcd 2.x answers with JSON.
fn version(exchange: &Exchange) -> Handled {
    if exchange.context.settings.compat_2 {
        let text = r#"{"etcdserver":"2.3.8","etcdcluster":"2.3.0"}"#;
        return Ok(Routed::Answer(Response::new(200, JSON, text)));
    }
    exchange.text("etcd 0.4.9")
}

fn migration(exchange: &Exchange) -> Handled {
    let query = exchange.query()?;
    let to_file = match query.get("disk") {
        None | Some("" | "false") => false,
        Some("true") => true,
        Some(other) => {
            let text = format!("invalid parameter: disk={other}\n");
            return Err(Response::new(400, TEXT, text));
        }
    };
    let tree = NodeTree::migration();
    exchange.to_machine(Op::Migrate, AnswerKind::Migration { tree, to_file })
}

/// The clean form of a path, without empty, `.` and `..` segments (RFC 3986 section 5.2.4) but with
/// its trailing slash. `None` if the path is clean.
fn cleaned(path: &str) -> Option<String> {
    let odd = |pair: &[u8]| pair[0] == b'/' && (pair[1] == b'/' || pair[1] == b'.');
    if !path.as_bytes().windows(2).any(odd) {
        return None;
    }
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    let mut clean = String::with_capacity(path.len());
    for segment in &segments {
        clean.push('/');
        clean.push_str(segment);
    }
    if clean.is_empty() || path.ends_with('/') {
        clean.push('/');
    }
    (clean != path).then_some(clean)
}
