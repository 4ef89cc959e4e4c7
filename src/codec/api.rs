//! The interface: requests to what the machine is asked for, and its answers to bytes.
//!
//! `route` turns a request into an answer that needs nobody else, or into an `Op` for the machine
//! and a `Shape`, which the connection keeps while the request is parked. What the machine says to
//! it is written by `Shape::render` (answers) and `Shape::deliver` (events). Nothing here does I/O,
//! keeps time or knows raft. Start with `ROUTES`.
mod admin;
mod json;
mod keys;
mod listing;
mod proxy;
pub mod render;
mod stats;
mod v1;

pub use render::{Delivered, Next, ProxyOutcome, Rendition, Shape};

use crate::codec::http::call::HttpCall;
use crate::codec::http::form::{self, Form, FormError};
use crate::codec::http::response::{JSON, TEXT};
use crate::codec::http::{Date, Method, Request, Response};
use crate::core::command::KeyPath;
use crate::core::error::{Code, Error};
use crate::core::escape;
use crate::core::seam::{Indexes, Op};
use crate::core::timer::Now;
use render::AnswerKind;

/// The longest ttl, in seconds: 100 years. Beyond it the time would not fit what clients of 0.4 can
/// read.
const TTL_S_MAX: i64 = 36_525 * 86_400;

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
    /// The 2.x flavour: `/version` as JSON, in-order names of 20 digits, a newline after each
    /// event of a watch.
    pub compat_2: bool,
    /// As a standby: pass short requests on to the leader.
    pub forward: bool,
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
    /// Make this call, whatever its id, and keep the shape for what becomes of it
    /// (`Shape::passed`).
    Pass {
        call: Box<HttpCall>,
        shape: Box<Shape>,
    },
}

/// The body of every 404 that is not about a key.
const NOT_FOUND: &str = "404 page not found\n";

/// The methods that a route answers; others are 404, as in 0.4.
#[derive(Clone, Copy)]
enum Methods {
    Any,
    Of(&'static [Method]),
}

/// Which paths a route answers.
#[derive(Clone, Copy)]
enum Pattern {
    Exact(&'static str),
    /// What follows is handed to the handler.
    Below(&'static str),
}

struct Route(Port, Methods, Pattern, fn(&Ask) -> Routed);

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

/// Every path; the first that fits answers, so the most used stand first.
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
    /// What of the path is left for the handler, if the request is this route's.
    fn rest<'a>(&self, port: Port, method: Method, path: &'a str) -> Option<&'a str> {
        let of_method = match self.1 {
            Any => true,
            Of(methods) => methods.contains(&method),
        };
        match self.2 {
            _ if self.0 != port || !of_method => None,
            Exact(exact) => (path == exact).then_some(""),
            Below(prefix) => path.strip_prefix(prefix),
        }
    }
}

/// Decides what a request means.
pub fn route(port: Port, request: &Request, context: &Context) -> Routed {
    let standby = match context.mode {
        Mode::Standby { .. } if port == Peer => return Routed::Answer(admin::standby()),
        Mode::Standby { leader_url } => Some(leader_url),
        Mode::Peer => None,
    };
    let mut ask = Ask {
        request,
        context,
        cors: Cors::of(request, context.site),
        rest: "",
    };
    if request.method == Method::Options {
        return ask.empty(200);
    }
    if let Some(leader_url) = standby {
        let passed = leader_url
            .filter(|_| context.site.forward)
            .and_then(|url| proxy::pass(&ask, url));
        if let Some(passed) = passed {
            return passed;
        }
        return match leader_url {
            Some(url) => ask.answer(render::redirect(request.method, url, &ask.target())),
            None => ask.fail(Error::new(Code::StandbyInternal, "")),
        };
    }
    if let Some(clean) = cleaned(&request.path) {
        let location = with_query(&clean, request);
        return ask.answer(Response::new(301, "", "").with("Location", location));
    }
    for route in ROUTES {
        if let Some(rest) = route.rest(port, request.method, &request.path) {
            ask.rest = rest;
            return (route.3)(&ask);
        }
    }
    ask.not_found()
}

fn leader(ask: &Ask) -> Routed {
    ask.machine(Op::Leader, AnswerKind::Plain)
}

fn machines(ask: &Ask) -> Routed {
    ask.machine(Op::Machines, AnswerKind::Plain)
}

fn stats_self(ask: &Ask) -> Routed {
    ask.machine(Op::StatsSelf, AnswerKind::Plain)
}

fn stats_leader(ask: &Ask) -> Routed {
    ask.machine(Op::StatsLeader, AnswerKind::Plain)
}

fn stats_store(ask: &Ask) -> Routed {
    ask.machine(Op::StatsStore, AnswerKind::Plain)
}

fn speed_test(ask: &Ask) -> Routed {
    ask.machine(Op::SpeedTest, AnswerKind::Plain)
}

/// The interface's version, which clients test for; 2.x has it as JSON.
fn version(ask: &Ask) -> Routed {
    if ask.context.site.compat_2 {
        let text = r#"{"etcdserver":"2.3.8","etcdcluster":"2.3.0"}"#;
        return ask.answer(Response::new(200, JSON, text));
    }
    ask.text("etcd 0.4.9")
}

fn migration(ask: &Ask) -> Routed {
    let query = match ask.query() {
        Ok(query) => query,
        Err(answer) => return answer,
    };
    let to_file = match query.get("disk") {
        None | Some("" | "false") => false,
        Some("true") => true,
        Some(other) => {
            let text = format!("invalid parameter: disk={other}\n");
            return ask.answer(Response::new(400, TEXT, text));
        }
    };
    let tree = listing::NodeTree::migration();
    ask.machine(Op::Migrate, AnswerKind::Migration { tree, to_file })
}

/// The clean form of a path that is not clean: no empty, `.` or `..` segment; a trailing slash
/// stays.
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

/// A decoded path, escaped again, with the request's query.
fn with_query(path: &str, request: &Request) -> String {
    let mut target = escape::path(path);
    if let Some(query) = request.query {
        target.push('?');
        target.push_str(query);
    }
    target
}

/// Which `Access-Control-Allow-…` headers an answer carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cors {
    None,
    All,
    /// The place of the origin in the list.
    Origin(usize),
}

impl Cors {
    fn of(request: &Request, site: &Site) -> Cors {
        if site.cors.is_empty() {
            return Cors::None;
        }
        if site.cors.iter().any(|allowed| &**allowed == "*") {
            return Cors::All;
        }
        let place = request
            .origin
            .and_then(|origin| site.cors.iter().position(|allowed| &**allowed == origin));
        place.map_or(Cors::None, Cors::Origin)
    }

    fn headers<'a>(self, context: &Context<'a>) -> impl Iterator<Item = (&'static str, &'a str)> {
        let origin: Option<&str> = match self {
            Cors::None => None,
            Cors::All => Some("*"),
            Cors::Origin(place) => Some(&context.site.cors[place]),
        };
        origin.into_iter().flat_map(|origin| {
            [
                (
                    "Access-Control-Allow-Methods",
                    "POST, GET, OPTIONS, PUT, DELETE",
                ),
                ("Access-Control-Allow-Origin", origin),
                ("Access-Control-Allow-Headers", "accept, content-type"),
            ]
        })
    }

    fn add(self, response: Response, context: &Context) -> Response {
        let headers = self.headers(context);
        headers.fold(response, |response, (name, value)| {
            response.with(name, value)
        })
    }
}

/// The parameters of a request.
struct Parameters<'a>(Form<'a>);

impl Parameters<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)
    }

    /// A boolean parameter: only `true`, in any case, is true.
    fn flag(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }
}

/// A request on its way to its handler.
struct Ask<'a> {
    request: &'a Request<'a>,
    context: &'a Context<'a>,
    cors: Cors,
    /// What the route's pattern left of the path.
    rest: &'a str,
}

impl<'a> Ask<'a> {
    fn machine(&self, op: Op, kind: AnswerKind) -> Routed {
        // Whatever is asked for may be redirected: a new member and one that stops answer nothing
        // themselves.
        let shape = Shape::new(kind, self.request, self.target().into(), self.cors);
        Routed::Ask {
            op,
            shape: Box::new(shape),
        }
    }

    fn answer(&self, response: Response) -> Routed {
        Routed::Answer(self.cors.add(response, self.context))
    }

    fn text(&self, text: &str) -> Routed {
        self.answer(Response::new(200, TEXT, text))
    }

    fn empty(&self, status: u16) -> Routed {
        self.answer(Response::new(status, "", ""))
    }

    fn not_found(&self) -> Routed {
        self.answer(Response::new(404, TEXT, NOT_FOUND))
    }

    /// An empty answer with the indexes of one from the key space.
    fn with_indexes(&self, status: u16, content_type: &'static str) -> Routed {
        let at = self.context.at;
        let response = Response::new(status, content_type, "")
            .with("X-Etcd-Index", at.etcd.0.to_string())
            .with("X-Raft-Index", at.commit.0.to_string())
            .with("X-Raft-Term", at.term.0.to_string());
        self.answer(response)
    }

    fn fail(&self, error: Error) -> Routed {
        self.fail_as(JSON, error.code.status(), error)
    }

    fn fail_as(&self, content_type: &'static str, status: u16, error: Error) -> Routed {
        let mut body = Vec::new();
        json::error(&error, self.context.at.etcd, &mut body);
        let index = self.context.at.etcd.0.to_string();
        let response = Response::new(status, content_type, body).with("X-Etcd-Index", index);
        self.answer(response)
    }

    /// Path and query for a redirect.
    fn target(&self) -> String {
        with_query(&self.request.path, self.request)
    }

    /// The key that the path names; 414 when it is beyond the limits.
    fn key(&self) -> Result<KeyPath, Routed> {
        let path = &self.request.path;
        // With the slash before it, which the key has too.
        let key = &path[path.len() - self.rest.len() - 1..];
        if !form::key_fits(key) {
            let text = "414 Request-URI Too Long: a key has at most 8 KiB and 1,024 segments";
            return Err(self.answer(Response::new(414, TEXT, text)));
        }
        Ok(KeyPath::new(key))
    }

    /// The parameters of the query alone.
    fn query(&self) -> Result<Parameters<'a>, Routed> {
        self.parameters(b"")
    }

    /// Whether the body is said to be a form.
    fn is_form(&self) -> bool {
        self.request.content_type.is_some_and(|given| {
            let media_type = given.split(';').next().unwrap_or_default();
            media_type
                .trim()
                .eq_ignore_ascii_case("application/x-www-form-urlencoded")
        })
    }

    /// The parameters of body and query. A body that is no form is refused: taking it for an empty
    /// one would store an empty value.
    fn form(&self) -> Result<Parameters<'a>, Routed> {
        if !self.is_form() && !self.request.body.is_empty() {
            let cause = "the body is not application/x-www-form-urlencoded";
            let error = Error::new(Code::InvalidForm, cause);
            return Err(self.fail_as(JSON, 415, error));
        }
        self.parameters(self.request.body)
    }

    fn parameters(&self, body: &'a [u8]) -> Result<Parameters<'a>, Routed> {
        let query = self.request.query.unwrap_or_default();
        Form::parse(query, body).map(Parameters).map_err(|bad| {
            let cause = match bad {
                FormError::BadEscape => "invalid percent escape",
                FormError::TooMany => "too many parameters",
                FormError::TooLarge => {
                    let error = Error::new(Code::InvalidForm, "too many bytes that are no text");
                    return self.fail_as(JSON, 413, error);
                }
            };
            self.fail(Error::new(Code::InvalidForm, cause))
        })
    }

    /// An index: decimal digits, no sign.
    fn index(&self, given: Option<&str>, cause: &str) -> Result<u64, Routed> {
        let text = given.unwrap_or_default();
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = digits.then(|| text.parse().ok()).flatten();
        number.ok_or_else(|| self.fail(Error::new(Code::IndexNaN, cause)))
    }

    /// When a node with the given ttl expires; `None` without one. A ttl may be negative: the time
    /// has passed then.
    fn expires(&self, form: &Parameters, cause: &str) -> Result<Option<u64>, Routed> {
        let Some(text) = form.get("ttl").filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let seconds: Option<i64> = text.parse().ok();
        let Some(seconds) = seconds.filter(|seconds| *seconds <= TTL_S_MAX) else {
            return Err(self.fail(Error::new(Code::TtlNaN, cause)));
        };
        let offset = i128::from(seconds) * 1_000_000_000;
        let expires = i128::from(self.context.now.wall_ns) + offset;
        Ok(Some(expires.clamp(0, i128::from(u64::MAX)) as u64))
    }
}
