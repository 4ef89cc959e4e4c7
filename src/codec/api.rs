//! The HTTP interface: turns requests into operations, and answers of the machine into bytes.
//!
//! [`route`] turns a request into a response that does not need the machine, or into an `Op` for
//! the machine and a [`Shape`]. The connection keeps the shape while the request is pending.
//! Answers are written with [`Shape::render`], events with [`Shape::deliver`]. Nothing here does
//! I/O, keeps time or knows raft.
//!
//! Start reading at `ROUTES`.
mod admin;
mod auth;
mod cors;
mod dashboard;
mod exchange;
mod file_get;
mod keys;
mod keys_2x;
mod locks;
mod log_level;
mod members;
mod metrics;
mod proxy;
mod render;
mod v1;

pub use file_get::FileGet;
pub use log_level::LogLevel;
pub use metrics::{
    PortFigures, ProcessFigures, RequestKind, RequestMeters, SystemFigures, status_of,
};
pub use proxy::is_not_taken;
pub use render::{Delivered, Next, ProxyOutcome, Rendition, Shape, SharedValue};

use crate::codec::http::call::HttpCall;
use crate::codec::http::response::{JSON, TEXT};
use crate::codec::http::{Date, Method, Reject, Request, Response};
use crate::core::error::Code;
use crate::core::public_id::PublicId;
use crate::core::seam::{Indexes, Op, Query};
use crate::core::store::EtcdIndex;
use crate::core::timer::Now;
use cors::Cors;
use exchange::{Exchange, Handled};
use render::{AnswerKind, MigrationDocument, redirect};

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
    /// `-compat 2`: answer as etcd 2.x and the v2 interface of etcd 3.x do.
    pub compat_2: bool,
    /// `-forward`: a standby sends short requests and watches to the leader instead of redirecting.
    pub forward: bool,
    /// `-trace`: `/metrics` has its name in 0.4 too, `/debug/metrics`.
    pub trace: bool,
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
    /// The time of this turn from which the rest of a ttl is counted, in nanoseconds since the
    /// Unix epoch.
    pub shown_ns: u64,
    /// The current indexes, for responses that are made without the machine.
    pub at: Indexes,
    /// Header `X-Etcd-Cluster-Id`; `None` outside of a cluster.
    pub cluster_id: Option<PublicId>,
    /// Whether this machine answers requests itself.
    pub mode: Mode<'a>,
    /// The client URL of the leader that this member follows; `None` on a leader, on a standby, and
    /// while no leader is known.
    pub leader_url: Option<&'a str>,
}

impl Context<'_> {
    /// Adds the header that names the cluster, inside of one.
    fn with_cluster_id(&self, response: Response) -> Response {
        match self.cluster_id {
            Some(id) => response.with(CLUSTER_ID, id.to_string()),
            None => response,
        }
    }

    /// The end of a JSON body of the key space: etcd 2.x ends each with a line break.
    fn line_end(&self) -> &'static str {
        if self.settings.compat_2 { "\n" } else { "" }
    }
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
    /// Log lines down to this level from now on, and send the response.
    SetLogLevel {
        /// The level.
        level: LogLevel,
        /// The response.
        response: Response,
    },
    /// Make this call to the leader, and keep `shape` for its outcome ([`Shape::proxied`]). For a
    /// watch, parts of the response may precede it ([`Shape::proxied_part`]).
    Proxy {
        /// The call to the leader. Its URL is the target alone: the caller puts that of the machine
        /// to ask before it.
        call: Box<HttpCall>,
        /// How its outcome is written.
        shape: Shape,
        /// The request waits for events: its response is passed on as it arrives.
        is_watch: bool,
    },
}

/// The version of etcd that clients of 2.x see.
const ETCD_VERSION: &str = "2.3.8";

/// The header that names the cluster.
const CLUSTER_ID: &str = "X-Etcd-Cluster-Id";

/// The body of the refusal of a write from a browser page of another origin.
const FOREIGN_ORIGIN: &str = "403 Forbidden: writes from a browser page of this origin are not \
                              allowed. Start tern with -cors and the origin to allow them\n";

/// The page that every machine answers itself, on both ports.
const CLUSTER: &str = "/v2/cluster";

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

const KEY_METHODS: &[Method] = &[
    Method::Head,
    Method::Get,
    Method::Put,
    Method::Post,
    Method::Delete,
];
const MEMBER_METHODS: &[Method] = &[Method::Get, Method::Post, Method::Delete, Method::Put];
const READ_METHODS: &[Method] = &[Method::Get, Method::Head];
const GET_ONLY: &[Method] = &[Method::Get];
const METRICS_METHODS: &[Method] = &[Method::Get, Method::Head, Method::Post];
const LOCK_METHODS: &[Method] = &[Method::Get, Method::Post, Method::Put, Method::Delete];
const SWITCH_METHODS: &[Method] = &[Method::Get, Method::Put, Method::Delete];

/// A path of the interface of etcd 2.x: with the methods that it answers, each with its handler.
/// Another method gets 405 with `Allow`.
struct Page {
    pattern: Pattern,
    /// As `Allow` lists them.
    methods: &'static [Method],
    handle: fn(&Exchange) -> Handled,
}

const fn page(
    pattern: Pattern,
    methods: &'static [Method],
    handle: fn(&Exchange) -> Handled,
) -> Page {
    Page {
        pattern,
        methods,
        handle,
    }
}

/// The pages of the client port that are served whatever `-compat` says; 0.4 has none of them.
const PAGES: &[Page] = &[
    page(Exact("/health"), GET_ONLY, members::health),
    page(Exact(CLUSTER), READ_METHODS, members::cluster),
    page(Exact("/v2/members"), MEMBER_METHODS, any_member),
    page(Below("/v2/members/"), MEMBER_METHODS, any_member),
    page(Exact("/v2/auth/enable"), SWITCH_METHODS, auth_switch),
    page(Exact("/v2/auth/users"), GET_ONLY, auth::users),
    page(Exact("/v2/auth/users/"), GET_ONLY, auth::users),
    page(Below("/v2/auth/users/"), SWITCH_METHODS, auth_user),
    page(Exact("/v2/auth/roles"), GET_ONLY, auth::roles),
    page(Exact("/v2/auth/roles/"), GET_ONLY, auth::roles),
    page(Below("/v2/auth/roles/"), SWITCH_METHODS, auth_role),
    page(Below("/v3/"), &[Method::Post], v3),
    page(Exact("/metrics"), METRICS_METHODS, metrics::metrics),
    page(Exact("/mod"), GET_ONLY, locks::root),
    page(Exact("/mod/dashboard"), READ_METHODS, dashboard::moved),
    page(Below("/mod/dashboard/"), READ_METHODS, dashboard::dashboard),
    page(Below("/mod/v2/lock/"), LOCK_METHODS, locks::lock),
    page(Below("/mod/v2/leader/"), SWITCH_METHODS, locks::leader),
];

/// The page of the client port under `-trace`.
const PAGES_TRACED: &[Page] = &[page(
    Exact("/debug/metrics"),
    METRICS_METHODS,
    metrics::metrics,
)];

/// The pages of the client port under `-compat 2`, in place of the routes of the same paths.
const PAGES_2X: &[Page] = &[
    page(Below("/v2/keys/"), KEY_METHODS, any_key),
    page(Exact("/v2/keys"), KEY_METHODS, any_key),
    page(Exact("/v2/machines"), READ_METHODS, machines),
    page(Exact("/v2/stats/self"), GET_ONLY, stats_self),
    page(Exact("/v2/stats/leader"), GET_ONLY, stats_leader),
    page(Exact("/v2/stats/store"), GET_ONLY, stats_store),
    page(Exact("/version"), GET_ONLY, version),
    page(Exact("/config/local/log"), &[Method::Put], log_level::put),
];

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
    Route(Peer, GET, Exact("/v2/admin/bootstrap"), admin::bootstrap),
    Route(Peer, READ, Exact(CLUSTER), members::cluster),
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
        pattern.rest(path)
    }
}

impl Pattern {
    /// The part of the path after the prefix, if the path is one of this pattern.
    fn rest(self, path: &str) -> Option<&str> {
        match self {
            Exact(exact) => (path == exact).then_some(""),
            Below(prefix) => path.strip_prefix(prefix),
        }
    }
}

/// The response to a malformed request, of which only the origin is known.
pub fn refusal(reject: Reject, origin: Option<&str>, context: &Context) -> Response {
    let response = context.with_cluster_id(Response::reject(reject));
    Cors::of_origin(origin, context.settings).add(response, context)
}

/// Finds the route of a request and runs its handler.
pub fn route(port: Port, request: &Request, context: &Context) -> Routed {
    if port == Peer && context.mode != Mode::Member && request.path != CLUSTER {
        // A standby refuses every other request on its peer port, without CORS headers.
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
        Ok(Routed::Answer(response)) | Err(response) => {
            let response = context.with_cluster_id(response);
            Routed::Answer(cors.add(response, context))
        }
        Ok(pending) => pending,
    }
}

fn handle<'a>(port: Port, mut exchange: Exchange<'a>) -> Handled {
    let request = exchange.request;
    if request.method == Method::Options {
        return exchange.empty(200);
    }
    if exchange.cors.refuses(request) {
        return Err(Response::new(403, TEXT, FOREIGN_ORIGIN));
    }
    if let Mode::Standby { leader_url } = exchange.context.mode {
        return as_standby(&exchange, leader_url);
    }
    if let Some(clean) = cleaned(&request.path) {
        let location = redirect::target_of(&clean, request.query);
        let with_body = exchange.context.settings.compat_2;
        return Ok(Routed::Answer(redirect::moved(&location, with_body)));
    }
    if port == Client
        && exchange.context.settings.compat_2
        && let Some(handled) = handle_page(&mut exchange, PAGES_2X)
    {
        return handled;
    }
    for route in ROUTES {
        if let Some(rest) = route.rest(port, request.method, &request.path) {
            exchange.rest = rest;
            return (route.3)(&exchange);
        }
    }
    if port == Client
        && let Some(handled) = handle_page(&mut exchange, PAGES)
    {
        return handled;
    }
    if port == Client
        && exchange.context.settings.trace
        && let Some(handled) = handle_page(&mut exchange, PAGES_TRACED)
    {
        return handled;
    }
    exchange.not_found()
}

/// Handles a request of the client port whose path is one of these pages; `None` for other paths.
fn handle_page<'a>(exchange: &mut Exchange<'a>, pages: &[Page]) -> Option<Handled> {
    let request = exchange.request;
    for page in pages {
        let Some(rest) = page.pattern.rest(&request.path) else {
            continue;
        };
        if !page.methods.contains(&request.method) {
            return Some(Err(exchange.wrong_method(page.methods)));
        }
        exchange.rest = rest;
        return Some((page.handle)(exchange));
    }
    None
}

fn any_key(exchange: &Exchange) -> Handled {
    match exchange.request.method {
        Method::Put => keys_2x::put(exchange),
        Method::Post => keys_2x::post(exchange),
        Method::Delete => keys_2x::delete(exchange),
        Method::Get | Method::Head | Method::Options | Method::Other => keys_2x::get(exchange),
    }
}

fn any_member(exchange: &Exchange) -> Handled {
    match exchange.request.method {
        Method::Put => members::put(exchange),
        Method::Post => members::post(exchange),
        Method::Delete => members::delete(exchange),
        Method::Get | Method::Head | Method::Options | Method::Other => members::get(exchange),
    }
}

fn auth_switch(exchange: &Exchange) -> Handled {
    match exchange.request.method {
        Method::Get => auth::enabled(exchange),
        Method::Delete => auth::disable(exchange),
        _ => auth::enable(exchange),
    }
}

fn auth_user(exchange: &Exchange) -> Handled {
    match exchange.request.method {
        Method::Put => auth::put_user(exchange),
        Method::Delete => auth::delete_user(exchange),
        _ => auth::user(exchange),
    }
}

fn auth_role(exchange: &Exchange) -> Handled {
    match exchange.request.method {
        Method::Put => auth::put_role(exchange),
        Method::Delete => auth::delete_role(exchange),
        _ => auth::role(exchange),
    }
}

/// A request on the client port of a standby. It answers about itself, and sends its clients to the
/// leader with everything else.
fn as_standby(exchange: &Exchange, leader_url: Option<&str>) -> Handled {
    let method = exchange.request.method;
    if READ_METHODS.contains(&method) && exchange.request.path == CLUSTER {
        return members::cluster(exchange);
    }
    if method == Method::Get {
        match &*exchange.request.path {
            "/health" => return members::health(exchange),
            "/metrics" => return metrics::metrics(exchange),
            "/debug/metrics" if exchange.context.settings.trace => {
                return metrics::metrics(exchange);
            }
            "/version" if exchange.context.settings.compat_2 => return version(exchange),
            _ => {}
        }
    }
    if exchange.context.settings.forward
        && let Some(forwarded) = proxy::forward(exchange, leader_url)
    {
        return Ok(forwarded);
    }
    let Some(leader_url) = leader_url else {
        return Err(exchange.error(Code::StandbyInternal, ""));
    };
    let target = redirect::target_of(&exchange.request.path, exchange.request.query);
    let response = redirect::response(method, leader_url, &target);
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
        let text = format!(r#"{{"etcdserver":"{ETCD_VERSION}","etcdcluster":"2.3.0"}}"#);
        return Ok(Routed::Answer(Response::new(200, JSON, text)));
    }
    exchange.text("etcd 0.4.9")
}

/// The JSON gateway of etcd 3.
fn v3(exchange: &Exchange) -> Handled {
    let text = "tern speaks the v2 interface, not v3: set ETCDCTL_API=2, or use a client for v2";
    Err(exchange.message(501, text))
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
    let number = |name: &str| match query.get(name) {
        None => Ok(None),
        Some(text) => match text.parse::<u64>() {
            Ok(number) => Ok(Some(number)),
            Err(_) => {
                let text = format!("invalid parameter: {name}={text}\n");
                Err(Response::new(400, TEXT, text))
            }
        },
    };
    let offset = number("offset")?.unwrap_or(0);
    let op = Op::Migrate {
        moment: number("index")?.map(EtcdIndex),
        keeps_moment: query.get("keep") == Some("true"),
    };
    let document = Box::new(MigrationDocument::new(
        offset,
        query.get("checksum") == Some("true"),
    ));
    exchange.to_machine(op, AnswerKind::Migration { document, to_file })
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
