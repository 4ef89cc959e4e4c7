//! HTTP as the simulated clients speak it: requests reach the machine as bytes, cut at random
//! places, through the real parser and router, and what comes back is read by a reader of its own
//! and judged like any other answer.
//!
//! `Conn` is one request and its response; `heard` makes an outcome of a response again, so that
//! the model judges the bytes and not the value that they were made of. Start at `World::send_raw`
//! and `World::hear`.
use super::cluster::World;
use super::locks;
use super::params::Tuning;
use super::truth::{Violation, violation};
use super::workload::Want;
use serde_json::Value;
use tern::codec::api::{self, Context, Delivered, Mode, Next, Port, Rendition, Routed, Shape};
use tern::codec::http::{Date, Limits, Parsed, Parser};
use tern::core::error::{Code, Error};
use tern::core::machine::{Answer, Delivery, Indexes, Machine, Op, Outcome, Ticket};
use tern::core::store::{Action, EtcdIndex, Event, ListItem, View};
use tern::core::timer::Now;
use tern_support::rng::Rng;

/// What one machine shows of itself to the interface.
pub struct Front {
    settings: api::ApiSettings,
    date: Date,
    limits: Limits,
}

impl Front {
    pub fn new(name: Box<str>, client_url: Box<str>, peer_url: Box<str>, tuning: &Tuning) -> Front {
        let settings = api::ApiSettings {
            name,
            client_url,
            peer_url,
            cors: Vec::new(),
            compat_2: false,
            forward: false,
            trace: false,
        };
        Front {
            settings,
            date: Date::default(),
            limits: Limits {
                body_bytes_max: tuning.request_bytes_max,
                ..Limits::default()
            },
        }
    }

    /// What surrounds a request or an answer; `standby` as `Machine::standby` tells it, for
    /// requests.
    pub fn context<'a>(
        &'a mut self,
        now: Now,
        at: Indexes,
        standby: Option<Option<&'a str>>,
    ) -> Context<'a> {
        self.date.set(now.wall_ns);
        let mode = standby.map_or(Mode::Member, |leader_url| Mode::Standby { leader_url });
        Context {
            settings: &self.settings,
            date: &self.date,
            now,
            shown_ns: now.wall_ns,
            at,
            cluster_id: None,
            leader_url: None,
            mode,
        }
    }
}

/// The head of a response.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub status: u16,
    pub server: String,
    pub location: Option<String>,
    json: bool,
    at: Indexes,
    /// `None`: in chunks.
    length: Option<usize>,
}

/// A request that was sent as bytes, and what has come back.
pub struct Conn {
    pub slot: usize,
    shape: Option<Shape>,
    /// Path and query, as they were sent.
    target: String,
    watches: bool,
    asks: bool,
    /// The lock module answers with texts, without indexes.
    locks: bool,
    out: Vec<u8>,
    pub head: Option<Head>,
    pub body: Vec<u8>,
    pub whole: bool,
}

type Heard<T> = Result<T, String>;

impl Conn {
    pub fn new(slot: usize, request: &[u8], shape: Option<Shape>) -> Conn {
        let line = request.split(|b| *b == b'\r').next().unwrap_or_default();
        let target = String::from_utf8_lossy(line)
            .split(' ')
            .nth(1)
            .unwrap_or_default()
            .to_string();
        Conn {
            slot,
            shape,
            target,
            watches: false,
            asks: false,
            locks: false,
            out: Vec::new(),
            head: None,
            body: Vec::new(),
            whole: false,
        }
    }

    /// What the machine answers, or a part of it, as bytes.
    pub fn render(&mut self, answer: &Answer, context: &Context) -> Heard<Next> {
        let shape = self.shape.as_mut().expect("it waits for the machine");
        let next = shape.render(answer, context, &mut self.out);
        self.read()?;
        if self.whole != matches!(next, Next::Done { .. }) {
            return Err(format!("{next:?}, but whole: {}", self.whole));
        }
        Ok(next)
    }

    /// An answer without a request.
    pub fn answered(
        &mut self,
        response: &tern::codec::http::Response,
        reply: tern::codec::http::ResponseMode,
        date: &Date,
    ) -> Heard<()> {
        response.encode(reply, date, &mut self.out);
        self.read()
    }

    fn deliver(
        &mut self,
        delivery: &Delivery,
        rendition: &Rendition,
        ends: bool,
        context: &Context,
    ) -> Heard<Next> {
        let shape = self.shape.as_mut().expect("it waits for the machine");
        let Delivered { shared, tail, next } =
            shape.deliver(delivery, rendition, ends, context, &mut self.out);
        self.out.extend_from_slice(&rendition.bytes[shared]);
        self.out.extend_from_slice(tail);
        self.read()?;
        Ok(next)
    }

    /// Reads what has come: the head, then the body as it is framed.
    fn read(&mut self) -> Heard<()> {
        if self.head.is_none() {
            let Some(end) = find(&self.out, b"\r\n\r\n") else {
                return Ok(());
            };
            self.head = Some(head_of(&self.out[..end])?);
            self.out.drain(..end + 4);
        }
        let head = self.head.as_ref().expect("just read");
        if let Some(length) = head.length {
            if self.out.len() > length {
                return Err(format!("{} bytes of a body of {length}", self.out.len()));
            }
            self.whole = self.out.len() == length;
            if self.whole {
                self.body = std::mem::take(&mut self.out);
            }
            return Ok(());
        }
        while !self.whole
            && let Some(line) = find(&self.out, b"\r\n")
        {
            let size = std::str::from_utf8(&self.out[..line])
                .ok()
                .and_then(|t| usize::from_str_radix(t, 16).ok());
            let size = size.ok_or("a chunk without a size")?;
            let (from, to) = (line + 2, line + 2 + size);
            if self.out.len() < to + 2 {
                return Ok(());
            }
            if &self.out[to..to + 2] != b"\r\n" {
                return Err("a chunk without an end".into());
            }
            self.body.extend_from_slice(&self.out[from..to]);
            self.out.drain(..to + 2);
            self.whole = size == 0;
        }
        if self.whole && !self.out.is_empty() {
            Err("bytes behind the end".into())
        } else {
            Ok(())
        }
    }

    /// The events that have come since the last call. Their bytes are dropped.
    fn events(&mut self, now_ns: u64) -> Heard<Vec<Event>> {
        let mut stream = serde_json::Deserializer::from_slice(&self.body).into_iter::<Value>();
        let mut events = Vec::new();
        for value in &mut stream {
            events.push(event_of(&value.map_err(|e| e.to_string())?, now_ns)?);
        }
        let told = stream.byte_offset();
        self.body.drain(..told);
        self.body.shrink_to_fit();
        self.out.shrink_to_fit();
        Ok(events)
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|w| w == what)
}

fn head_of(bytes: &[u8]) -> Heard<Head> {
    let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(|l| l.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let mut head = Head {
        status: status.ok_or("no status")?,
        ..Head::default()
    };
    let mut framed = false;
    for line in lines {
        let (name, value) = line
            .split_once(": ")
            .ok_or_else(|| format!("no header: {line}"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("{name} is no number: {value}"))
        };
        match name {
            "Content-Length" => (head.length, framed) = (Some(number()? as usize), true),
            "Transfer-Encoding" if value == "chunked" => framed = true,
            "Content-Type" => head.json = value == "application/json",
            "Location" => head.location = Some(value.into()),
            "Server" => head.server = value.into(),
            "X-Etcd-Index" => head.at.etcd.0 = number()?,
            "X-Raft-Index" => head.at.commit.0 = number()?,
            "X-Raft-Term" => head.at.term.0 = number()?,
            _ => {}
        }
    }
    // It has no body (RFC 9110 section 15.3.5).
    if head.status == 204 {
        head.length = Some(0);
        framed = true;
    }
    if framed {
        Ok(head)
    } else {
        Err(format!("no length in {text}"))
    }
}

// -- JSON back to values

fn text<'a>(value: &'a Value, name: &str) -> Heard<&'a str> {
    value[name]
        .as_str()
        .ok_or_else(|| format!("no {name} in {value}"))
}

/// `now_ns`: the node shows the ttl that it has left then. `None`: the node of an event.
fn view_of(value: &Value, now_ns: Option<u64>) -> Heard<View> {
    let expires = value["expiration"]
        .as_str()
        .map(|t| humantime::parse_rfc3339(t).map_err(|e| format!("{t}: {e}")));
    let expires_ns = match expires {
        None => None,
        Some(time) => Some(
            time?
                .duration_since(std::time::UNIX_EPOCH)
                .map_err(|e| e.to_string())?
                .as_nanos() as u64,
        ),
    };
    if let Some(now_ns) = now_ns {
        let left = expires_ns.and_then(|at| at.checked_sub(now_ns));
        let left = left.map(|ns| ns.div_ceil(1_000_000_000)).filter(|s| *s > 0);
        if value["ttl"].as_u64() != left || value["ttl"].is_null() != left.is_none() {
            return Err(format!("ttl {} is not {left:?} in {value}", value["ttl"]));
        }
    }
    Ok(View {
        key: text(value, "key")
            .or_else(|e| {
                if value["dir"].is_boolean() {
                    Ok("/")
                } else {
                    Err(e)
                }
            })?
            .into(),
        value: value["value"].as_str().map(Into::into),
        dir: value["dir"].as_bool().unwrap_or(false),
        expires_ns,
        modified: EtcdIndex(value["modifiedIndex"].as_u64().unwrap_or(0)),
        created: EtcdIndex(value["createdIndex"].as_u64().unwrap_or(0)),
    })
}

fn event_of(value: &Value, now_ns: u64) -> Heard<Event> {
    let action = match text(value, "action")? {
        "set" => Action::Set,
        "create" => Action::Create,
        "update" => Action::Update,
        "compareAndSwap" => Action::CompareAndSwap,
        "delete" => Action::Delete,
        "compareAndDelete" => Action::CompareAndDelete,
        "expire" => Action::Expire,
        other => return Err(format!("an action {other}")),
    };
    let prev = value
        .get("prevNode")
        .map(|p| view_of(p, Some(now_ns)))
        .transpose()?;
    let node = &value["node"];
    // A ttl of 0 is left out.
    let ttl_s = node["expiration"]
        .is_string()
        .then(|| node["ttl"].as_i64().unwrap_or(0));
    Ok(Event {
        action,
        node: view_of(node, None)?,
        ttl_s,
        prev,
    })
}

/// A tree as the list that it came from.
fn items_of(root: &Value, now_ns: u64) -> Heard<Vec<ListItem>> {
    let (mut items, mut open) = (Vec::new(), vec![(0, root)]);
    while let Some((depth, node)) = open.pop() {
        items.push(ListItem {
            depth,
            view: view_of(node, Some(now_ns))?,
        });
        let children = node["nodes"].as_array().map_or(&[][..], |c| c);
        open.extend(children.iter().rev().map(|c| (depth + 1, c)));
    }
    Ok(items)
}

fn code_of(number: u64) -> Heard<Code> {
    let found = Code::ALL.iter().find(|c| **c as u64 == number);
    found.copied().ok_or_else(|| format!("an error {number}"))
}

/// The content of a whole response of the key space.
fn heard(conn: &Conn, now_ns: u64) -> Heard<Outcome> {
    let head = conn.head.as_ref().ok_or("no head")?;
    if conn.asks && head.status == 404 {
        // A standby names itself on its peer port.
        return Ok(Outcome::NotLeader);
    }
    if head.status == 307 {
        let location = head.location.as_deref().ok_or("307 to nowhere")?;
        let url = location
            .strip_suffix(&*conn.target)
            .ok_or_else(|| format!("{} is sent to {location}", conn.target));
        let client_url: Box<str> = url?.into();
        return Ok(Outcome::Redirect {
            peer_url: client_url.clone(),
            client_url,
        });
    }
    if head.status == TOO_LARGE {
        return Ok(Outcome::NotLeader);
    }
    let value: Value = serde_json::from_slice(&conn.body).map_err(|e| e.to_string())?;
    if let Some(number) = value["errorCode"].as_u64() {
        let code = code_of(number)?;
        if head.status != code.status() || text(&value, "message")? != code.message() {
            return Err(format!("{value} with status {}", head.status));
        }
        if value["index"].as_u64() != Some(head.at.etcd.0) {
            return Err(format!("{value} at {}", head.at.etcd.0));
        }
        return Ok(Outcome::Failed(Error::new(
            code,
            value["cause"].as_str().unwrap_or_default(),
        )));
    }
    if value["action"] == "get" {
        return Ok(Outcome::Page {
            items: items_of(&value["node"], now_ns)?,
            last: true,
        });
    }
    let event = event_of(&value, now_ns)?;
    let is_new =
        event.action == Action::Create || (event.action == Action::Set && event.prev.is_none());
    if head.status != if is_new { 201 } else { 200 } {
        return Err(format!("{value} with status {}", head.status));
    }
    Ok(Outcome::Event(event))
}

/// The request that these bytes are, cut into reads at random places.
pub fn routed(
    rng: &mut Rng,
    bytes: &[u8],
    limits: &Limits,
    port: Port,
    context: &Context,
) -> (Routed, tern::codec::http::ResponseMode) {
    let mut parser = Parser::new();
    let (mut from, mut to) = (0, 0);
    loop {
        assert!(to < bytes.len(), "the request is whole");
        to = match rng.chance(300_000) {
            true => bytes.len(),
            false => to + 1 + rng.index(bytes.len() - to),
        };
        match parser.parse(&bytes[from..to], limits) {
            Parsed::NeedMore { consumed, .. } => from += consumed,
            Parsed::Reject(reject) => {
                return (
                    Routed::Answer(tern::codec::http::Response::reject(reject)),
                    CLOSE,
                );
            }
            Parsed::Request { consumed, request } => {
                assert!(
                    from + consumed == bytes.len(),
                    "the request ends where it ends"
                );
                return (api::route(port, &request, context), request.response_mode());
            }
        }
    }
}

/// The status of a request whose body is longer than the machine's limit.
const TOO_LARGE: u16 = 413;

const CLOSE: tern::codec::http::ResponseMode = tern::codec::http::ResponseMode::CLOSE;

fn misread(slot: usize, why: String) -> Violation {
    Violation {
        check: "http-answer",
        text: format!("m{slot}: {why}"),
    }
}

impl World {
    /// A machine's clock, as far as answers show it.
    pub fn wall_now(&self, slot: usize) -> Now {
        self.now_of(slot, 0)
    }

    /// A wish as bytes: what the machine is to be asked for, or at once an answer.
    #[allow(
        clippy::result_large_err,
        reason = "an answer is a value here, not an error on a hot path"
    )]
    pub fn send_raw(
        &mut self,
        slot: usize,
        ticket: Ticket,
        want: &Want,
        core: &Machine,
        now: Now,
    ) -> Result<Op, Answer> {
        let at = core.indexes();
        let port = if want.on_peer_port() {
            Port::Peer
        } else {
            Port::Client
        };
        let bytes = want.raw();
        let World { hosts, rng, .. } = self;
        let limits = hosts[slot].front.limits;
        let context = hosts[slot].front.context(now, at, core.standby());
        let (routed, reply) = routed(rng, &bytes, &limits, port, &context);
        let mut conn = Conn::new(slot, &bytes, None);
        conn.watches = matches!(want, Want::Watch { .. });
        conn.asks = matches!(want, Want::Ask(_));
        conn.locks = matches!(want, Want::Lock(_));
        match routed {
            Routed::ToMachine { op, shape } => {
                let meant = want.op();
                if op != meant {
                    let bytes = String::from_utf8_lossy(&bytes);
                    self.fail(violation(
                        "http-request",
                        format!("{bytes:?} is read as {op:?}, it means {meant:?}"),
                    ));
                }
                conn.shape = Some(shape);
                self.conns.insert(ticket.0, conn);
                Ok(op)
            }
            Routed::Proxy { .. } | Routed::SetLogLevel { .. } => {
                unreachable!("no machine of the simulator passes on over HTTP, or is of etcd 2.x")
            }
            Routed::Answer(response) => {
                let outcome = conn.answered(&response, reply, context.date);
                if response.status == TOO_LARGE && bytes.len() as u64 <= limits.body_bytes_max {
                    let text = format!("m{slot} refuses a request of {} bytes", bytes.len());
                    self.fail(violation("http-request", text));
                }
                let outcome = outcome.and_then(|()| heard(&conn, now.wall_ns));
                let outcome = outcome.unwrap_or_else(|why| {
                    self.fail(Err(misread(slot, why)));
                    Outcome::NotLeader
                });
                Err(Answer {
                    ticket,
                    at,
                    outcome,
                })
            }
        }
    }

    /// An answer on its way to a client that asked in bytes: rendered and read again; `None`:
    /// nothing that it tells yet.
    pub fn hear(&mut self, slot: usize, answer: Answer) -> Result<Answer, Violation> {
        let Some(mut conn) = self.conns.remove(&answer.ticket.0) else {
            return Ok(answer);
        };
        self.counts.raw += 1;
        let now = self.wall_now(slot);
        let said = |why| misread(slot, why);
        let context = self.hosts[slot].front.context(now, answer.at, None);
        let next = conn.render(&answer, &context).map_err(said)?;
        let ticket = answer.ticket;
        let outcome = match (&answer.outcome, next) {
            (_, Next::Abort) => answer.outcome,
            (Outcome::Watching, Next::Wait)
            | (Outcome::Page { last: false, .. }, Next::ContinueListing) => answer.outcome,
            (Outcome::WatchEnd | Outcome::WatchTimedOut, Next::Done { .. }) => answer.outcome,
            (Outcome::Lock(outcome), Next::Done { .. }) => {
                let status = conn.head.as_ref().map_or(0, |head| head.status);
                if !locks::says(outcome, status, &conn.body) {
                    let body = String::from_utf8_lossy(&conn.body);
                    return Err(said(format!("{status} {body:?} for {outcome:?}")));
                }
                answer.outcome
            }
            (Outcome::Failed(_), Next::Done { .. }) if conn.locks => answer.outcome,
            (Outcome::Backlog { .. }, next) => {
                let done = matches!(next, Next::Done { .. });
                let events = conn.events(now.wall_ns).map_err(said)?;
                if matches!(next, Next::ContinueListing) != (!done && !events.is_empty()) {
                    return Err(said(format!("{next:?} after {} events", events.len())));
                }
                Outcome::Backlog { events, done }
            }
            (_, Next::Done { .. }) if conn.asks => {
                let json = conn.head.as_ref().is_some_and(|h| h.json);
                if json && serde_json::from_slice::<Value>(&conn.body).is_err() {
                    return Err(said(format!(
                        "no JSON: {}",
                        String::from_utf8_lossy(&conn.body)
                    )));
                }
                answer.outcome
            }
            (_, Next::Done { .. }) => heard(&conn, now.wall_ns).map_err(said)?,
            (outcome, next) => return Err(said(format!("{next:?} after {outcome:?}"))),
        };
        let head = conn.head.as_ref().filter(|_| !conn.locks);
        let at = head.map_or(answer.at, |head| head.at);
        if !conn.whole && !matches!(next, Next::Abort) {
            self.conns.insert(ticket.0, conn);
        }
        Ok(Answer {
            ticket,
            at,
            outcome,
        })
    }

    /// An event on its way to a watcher that asked in bytes, as it reads it.
    pub fn hear_event(
        &mut self,
        slot: usize,
        delivery: &Delivery,
        place: usize,
    ) -> Result<Event, Violation> {
        let (ticket, ends) = delivery.tickets[place];
        let now = self.wall_now(slot);
        let World { hosts, conns, .. } = self;
        let Some(conn) = conns.get_mut(&ticket.0) else {
            return Ok(delivery.event.clone());
        };
        let said = |why| misread(slot, why);
        let context = hosts[slot].front.context(
            now,
            Indexes {
                etcd: delivery.etcd,
                ..Indexes::default()
            },
            None,
        );
        let rendition = Rendition::new(delivery, &context);
        conn.deliver(delivery, &rendition, ends, &context)
            .map_err(said)?;
        let mut events = conn.events(now.wall_ns).map_err(said)?;
        if conn.whole != ends || events.len() != 1 {
            return Err(said(format!(
                "{} events, whole: {}, ends: {ends}",
                events.len(),
                conn.whole
            )));
        }
        if conn.whole {
            conns.remove(&ticket.0);
        }
        Ok(events.remove(0))
    }
}
