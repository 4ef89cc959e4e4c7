//! One outgoing HTTP call: its URL, the addresses of the host, the connection, the response.
//!
//! A call resolves the host, tries its addresses one after the other, sends the request, parses the
//! response, and starts over at the target of a redirect. The response to a watch is taken part by
//! part. Must not know the meaning of a call. Start with `OutgoingCall::advance`.
use super::connect::Connector;
use super::output::OutBuffer;
use super::resolver::{HostLookup, Resolver};
use super::slots::{PoolKind, SlotId};
use super::sockets::{Output, Socket};
use crate::codec::api::{ProxyOutcome, is_not_taken};
use crate::codec::http::Method;
use crate::codec::http::call::{HttpCall, HttpReply};
use crate::codec::http::client::{
    BODY_BYTES_MAX, CallResponse, ResponseParser, ResponsePart, WRITE_BODY_BYTES_MAX,
};
use crate::codec::http::url::Url;
use crate::core::machine::{CallId, ProxyResult, Question, Ticket};
use crate::core::timer::{Now, earliest};
use mio::Registry;
use mio::event::Event;
use std::net::SocketAddr;

/// Most redirects that one call follows.
const REDIRECTS_MAX: usize = 10;
/// Most bytes of a response with its head and framing, as a multiple of the bound of a body.
const RESPONSE_PER_BODY: u64 = 2;
/// How many bytes are read at once.
const READ_BYTES: usize = 16 * 1024;
/// How long one address of a host is tried before the next one, in microseconds. A firewall may
/// drop all packets to an address without an answer.
const ADDRESS_US: u64 = 1_000_000;

/// The connection of a watch fails once its bytes or keepalive probes are unacknowledged for this
/// time, in milliseconds: a watch has no deadline that would notice a dead host.
const WATCH_PATIENCE_MS: u64 = 10_000;
/// The kernel's receive buffer of the connection of a watch, in bytes; Linux doubles it. While the
/// client of the watch does not read, no more than that waits in the kernel here, and the output piles
/// up at the machine that was asked, whose limits apply.
const WATCH_RECEIVE_BYTES: usize = 128 * 1024;

/// The origin of a call, to which its reply goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallOrigin {
    /// A call of the machine.
    Machine {
        /// Identifies the call to the machine.
        id: CallId,
        /// The question of the call. Decides how the response is parsed.
        question: Question,
    },
    /// A client request, which a standby proxies to the leader.
    Client {
        /// Identifies the request.
        ticket: Ticket,
        /// The request waits for events: its response is taken part by part.
        is_watch: bool,
    },
}

impl CallOrigin {
    /// Whether the machine ignores the reply once it has made the call `later`.
    pub fn is_void_after(&self, later: CallId) -> bool {
        match self {
            CallOrigin::Machine { id, .. } => id.is_void_after(later),
            CallOrigin::Client { .. } => false,
        }
    }

    /// The ticket of a client's request that waits for events; `None` for all other calls.
    pub fn watch(&self) -> Option<Ticket> {
        match self {
            CallOrigin::Client { ticket, is_watch } if *is_watch => Some(*ticket),
            CallOrigin::Client { .. } | CallOrigin::Machine { .. } => None,
        }
    }

    /// Whether this is a client's request that waits for events.
    pub fn is_watch(&self) -> bool {
        self.watch().is_some()
    }
}

/// A call that has ended.
#[derive(Debug)]
pub struct EndedCall {
    /// Where the reply goes.
    pub origin: CallOrigin,
    /// The outcome.
    pub reply: HttpReply,
    /// The headers of the response that a proxied client gets.
    headers: Vec<(&'static str, String)>,
    /// The request was written completely. If the call has failed, the leader may have carried it
    /// out.
    is_sent: bool,
    /// A read whose client is to ask another machine itself: the response is longer than its bound, or
    /// another machine leads now.
    is_redirected: bool,
    /// The call, to be made again.
    call: HttpCall,
}

impl EndedCall {
    /// A call that failed before it began.
    pub fn unstarted(origin: CallOrigin, call: HttpCall, why: &str) -> EndedCall {
        let why = format!("{}: {why}", call.url).into();
        EndedCall {
            origin,
            reply: HttpReply::Failed { why },
            headers: Vec::new(),
            is_sent: false,
            is_redirected: false,
            call,
        }
    }

    /// The call of a watch that ends because another machine leads.
    pub fn moved(ticket: Ticket) -> EndedCall {
        let origin = CallOrigin::Client {
            ticket,
            is_watch: true,
        };
        let call = HttpCall::get(String::new(), 0);
        EndedCall {
            is_redirected: true,
            ..EndedCall::unstarted(origin, call, "another machine leads")
        }
    }

    /// The result for a request that was proxied.
    pub fn proxy_result(&self) -> ProxyResult {
        match &self.reply {
            HttpReply::Answered { status, body, .. } if is_not_taken(*status, body) => {
                ProxyResult::NotTaken
            }
            HttpReply::Answered { .. } => ProxyResult::Answered,
            HttpReply::Failed { .. } if self.is_redirected => ProxyResult::Answered,
            HttpReply::Failed { .. } if self.is_sent => ProxyResult::NotAnswered,
            HttpReply::Failed { .. } => ProxyResult::NotSent,
        }
    }

    /// The call, to be made again.
    pub fn into_call(self) -> HttpCall {
        self.call
    }

    /// The outcome for the client whose request was proxied.
    pub fn into_proxy_outcome(self) -> ProxyOutcome {
        match self.reply {
            HttpReply::Answered { status, body, .. } => ProxyOutcome::Answered {
                status,
                headers: self.headers,
                body,
            },
            HttpReply::Failed { .. } if self.is_redirected && self.call.method == Method::Get => {
                ProxyOutcome::Redirected
            }
            HttpReply::Failed { .. } => ProxyOutcome::Failed { sent: self.is_sent },
        }
    }
}

/// The connectors for calls, by destination.
pub struct Connectors {
    /// To the peer ports of other machines: `-peer-cert-file`, `-peer-ca-file`.
    pub peers: Connector,
    /// To the client port of the leader: `-cert-file`, `-ca-file`.
    pub clients: Connector,
    /// To the discovery service and wherever it redirects: shows no certificate and trusts the
    /// authorities of the system.
    pub discovery: Connector,
}

impl Connectors {
    /// Reads the certificates of all connectors again, see `Connector::reload`.
    ///
    /// # Errors
    /// A file is unusable; the text names the first one. The others are read nevertheless.
    pub fn reload(&mut self) -> Result<(), String> {
        let peers = self.peers.reload();
        let clients = self.clients.reload();
        let discovery = self.discovery.reload();
        peers.and(clients).and(discovery)
    }

    /// The connector for each hop of a call. The address of the hop does not matter: a discovery
    /// service may redirect to another host.
    fn of(&mut self, origin: &CallOrigin) -> &mut Connector {
        match origin {
            CallOrigin::Client { .. } => &mut self.clients,
            CallOrigin::Machine { question, .. } if question.is_for_discovery() => {
                &mut self.discovery
            }
            CallOrigin::Machine { .. } => &mut self.peers,
        }
    }
}

/// Most bytes of the body of the response. A client's read with a longer one is redirected. A
/// write has been carried out by then, so its answer must be returned. An event is as long as the
/// answer to its write.
fn body_bytes_max(origin: &CallOrigin, method: Method) -> u64 {
    match origin {
        CallOrigin::Client { is_watch, .. } if *is_watch || method != Method::Get => {
            WRITE_BODY_BYTES_MAX
        }
        CallOrigin::Client { .. } | CallOrigin::Machine { .. } => BODY_BYTES_MAX,
    }
}

/// Reads a bounded number of bytes, and returns it: the spare capacity of the input may be megabytes.
fn read_once(
    socket: &mut Socket<OutBuffer>,
    bytes_max: usize,
    end: &mut Option<InputEnd>,
) -> usize {
    match socket.read_some(READ_BYTES, bytes_max.min(READ_BYTES)) {
        Ok(count) => {
            if socket.is_ended() {
                *end = Some(InputEnd::Closed);
            }
            count
        }
        Err(e) => {
            *end = Some(InputEnd::Broken(e.to_string()));
            0
        }
    }
}

/// The stage of a call. A redirect starts over with `Resolving`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallStage {
    /// The call waits for the addresses of its host.
    Resolving,
    /// The call tries the addresses in turn; the present one since `since_us`, in microseconds of
    /// the monotonic clock.
    Connecting { since_us: u64 },
    /// The connection is made. The request is being sent, or the response awaited.
    Exchanging,
}

/// The result of one step of a call.
enum CallStep {
    /// The call waits for the poll, the resolver or a timer.
    Wait,
    /// The next step can be taken at once.
    Again,
    /// The call has ended.
    Done(HttpReply),
}

/// The end of a call's input.
enum InputEnd {
    /// The other side closed the connection.
    Closed,
    /// The connection broke; with the text of the error.
    Broken(String),
}

/// The parts of the shell that a call needs to advance.
pub struct CallTools<'a> {
    /// The poll.
    pub registry: &'a Registry,
    /// Resolves host names.
    pub resolver: &'a mut Resolver,
    /// Makes connections.
    pub connectors: &'a mut Connectors,
    /// The time of this turn.
    pub now: Now,
}

/// One call under way.
pub struct OutgoingCall {
    slot: SlotId,

    origin: CallOrigin,

    call: HttpCall,

    /// The present target: the URL of `call`, or that of the last redirect.
    url: String,

    /// How many redirects the call has followed; at most `REDIRECTS_MAX`.
    redirects: usize,

    /// When the call must have ended, in microseconds of the monotonic clock. `None` once the
    /// response to a watch has begun.
    until_us: Option<u64>,

    stage: CallStage,

    /// The connection to the address that is being tried. `None` between two addresses.
    socket: Option<Socket<OutBuffer>>,

    /// The addresses of the host that have not been tried; the next one is last.
    addresses: Vec<SocketAddr>,

    /// Why the last address was not reachable; empty before.
    trouble: String,

    /// How far the response in the input has been parsed.
    parser: ResponseParser,

    /// `Some` once the connection has ended.
    end: Option<InputEnd>,

    /// The client of a watch has much output to read. Meanwhile the response is not read.
    is_paused: bool,

    /// The headers of the response that a proxied client gets.
    headers: Vec<(&'static str, String)>,

    /// The response is longer than its bound.
    is_too_long: bool,
}

impl OutgoingCall {
    /// A call in slot `slot` that must have ended at `until_us`, in microseconds of the monotonic
    /// clock.
    pub fn new(slot: SlotId, origin: CallOrigin, call: HttpCall, until_us: u64) -> OutgoingCall {
        let bytes_max = body_bytes_max(&origin, call.method);
        let parser = if origin.is_watch() {
            ResponseParser::by_chunks(bytes_max)
        } else {
            ResponseParser::new(bytes_max)
        };
        OutgoingCall {
            slot,
            url: call.url.to_string(),
            origin,
            call,
            redirects: 0,
            until_us: Some(until_us),
            stage: CallStage::Resolving,
            socket: None,
            addresses: Vec::new(),
            trouble: String::new(),
            parser,
            end: None,
            is_paused: false,
            headers: Vec::new(),
            is_too_long: false,
        }
    }

    /// Its slot.
    pub fn slot(&self) -> SlotId {
        self.slot
    }

    /// The origin of the call.
    pub fn origin(&self) -> &CallOrigin {
        &self.origin
    }

    /// Whether the call waits for the addresses of its host.
    pub fn is_resolving(&self) -> bool {
        self.stage == CallStage::Resolving
    }

    /// The poll has reported an event of the connection.
    pub fn on_event(&mut self, event: &Event) {
        if let Some(socket) = &mut self.socket {
            socket.on_event(event);
        }
    }

    /// When the call must advance without any event, in microseconds of the monotonic clock.
    pub fn deadline_us(&self) -> Option<u64> {
        let next_address_us = match self.stage {
            CallStage::Connecting { since_us } if self.limits_connecting() => {
                Some(since_us + ADDRESS_US)
            }
            _ => None,
        };
        earliest(&[self.until_us, next_address_us])
    }

    fn fail(&self, why: impl std::fmt::Display) -> CallStep {
        let why = format!("{}: {why}", self.url).into();
        CallStep::Done(HttpReply::Failed { why })
    }

    /// Whether the present address is given up after `ADDRESS_US`: another one can be tried, or the
    /// request of a client can be sent to another machine.
    fn limits_connecting(&self) -> bool {
        !self.addresses.is_empty() || matches!(self.origin, CallOrigin::Client { .. })
    }

    /// Takes steps until the call waits or has ended. Returns the reply if it has ended.
    pub fn advance(&mut self, tools: &mut CallTools) -> Option<HttpReply> {
        if self
            .until_us
            .is_some_and(|until_us| until_us <= tools.now.mono_us)
        {
            let why = format!("{}: no response in time", self.url).into();
            return Some(HttpReply::Failed { why });
        }
        loop {
            let step = match self.stage {
                CallStage::Resolving => self.resolve(tools),
                CallStage::Connecting { since_us } => self.connect(since_us, tools),
                CallStage::Exchanging => self.parse_response(),
            };
            match step {
                CallStep::Again => {}
                CallStep::Wait => return None,
                CallStep::Done(reply) => return Some(reply),
            }
        }
    }

    fn resolve(&mut self, tools: &mut CallTools) -> CallStep {
        let Some(url) = Url::parse(&self.url) else {
            return self.fail("not a URL");
        };
        let found = match tools.resolver.lookup(url.host, tools.now.mono_us) {
            HostLookup::Pending => return CallStep::Wait,
            HostLookup::Failed(why) => return self.fail(why),
            HostLookup::Addresses(found) => found,
        };
        let at = |ip| SocketAddr::new(ip, url.port);
        self.addresses = found.into_iter().rev().map(at).collect();
        self.connect_next(tools)
    }

    /// Begins a connection to the next address.
    fn connect_next(&mut self, tools: &mut CallTools) -> CallStep {
        let url = Url::parse(&self.url).expect("it was resolved");
        let Some(address) = self.addresses.pop() else {
            tools.resolver.doubt(url.host);
            return self.fail(&self.trouble);
        };
        self.stage = CallStage::Connecting {
            since_us: tools.now.mono_us,
        };
        let token = self.slot.token(PoolKind::Calls);
        let connector = tools.connectors.of(&self.origin);
        let registered = connector.connect(&url, address).and_then(|transport| {
            let mut socket = Socket::connecting(transport);
            socket.register_for_both(tools.registry, token)?;
            Ok(socket)
        });
        match registered {
            Ok(socket) => {
                self.socket = Some(socket);
                CallStep::Wait
            }
            Err(e) => {
                self.trouble = e.to_string();
                CallStep::Again
            }
        }
    }

    /// Queues the request if the connection is made, or tries the next address.
    fn connect(&mut self, since_us: u64, tools: &mut CallTools) -> CallStep {
        let is_late = tools.now.mono_us >= since_us + ADDRESS_US && self.limits_connecting();
        let Some(socket) = &mut self.socket else {
            return self.connect_next(tools);
        };
        if socket.awaits_first_event() && !is_late {
            return CallStep::Wait;
        }
        match socket.is_connected() {
            Ok(true) => {
                if self.origin.is_watch() {
                    socket.keep_alive(WATCH_PATIENCE_MS);
                    socket.bound_receive_buffer(WATCH_RECEIVE_BYTES);
                }
                self.stage = CallStage::Exchanging;
                self.queue_request();
                return CallStep::Wait;
            }
            Ok(false) if !is_late => return CallStep::Wait,
            Ok(false) => self.trouble = "no connection in time".into(),
            Err(e) => self.trouble = e.to_string(),
        }
        self.socket = None;
        CallStep::Again
    }

    fn queue_request(&mut self) {
        let url = Url::parse(&self.url).expect("it was resolved");
        if let Some(socket) = &mut self.socket {
            let out = socket.output_mut();
            out.append(Vec::new, |out| *out = self.call.encode(&url));
        }
    }

    /// Stops reading the response, or goes on.
    pub fn set_paused(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
    }

    /// Whether bytes of the response may have arrived and are to be read. The rest of a connection
    /// that the other side has closed is read in any case: it is bounded, and the client learns of
    /// the end.
    pub fn wants_input(&self) -> bool {
        let Some(socket) = &self.socket else {
            return false;
        };
        let may_read = socket.may_read() && (!self.is_paused || socket.is_hung_up());
        may_read && self.stage == CallStage::Exchanging && self.end.is_none()
    }

    /// Reads bytes that have arrived, at most `bytes_max`, and returns their number. The response to
    /// a watch is read once a turn: `take_part` must take those bytes first.
    pub fn fill(&mut self, bytes_max: usize) -> usize {
        let mut bytes = 0;
        while bytes < bytes_max
            && self.wants_input()
            && let Some(socket) = &mut self.socket
            && socket.input().len() as u64 <= RESPONSE_PER_BODY * self.parser.body_bytes_max()
        {
            bytes += read_once(socket, bytes_max - bytes, &mut self.end);
            if self.origin.is_watch() {
                break;
            }
        }
        bytes
    }

    /// Takes the part of the response to a watch that `advance` has parsed; `None` if there is
    /// nothing new. From the first part on the call has no deadline.
    pub fn take_part(&mut self) -> Option<ResponsePart> {
        let socket = self.socket.as_mut()?;
        if self.stage != CallStage::Exchanging {
            return None;
        }
        let part = self.parser.take_part()?;
        socket.consume(part.consumed);
        if socket.input().is_empty() {
            // A watch that waits holds no buffer.
            socket.take_input();
        }
        self.until_us = None;
        Some(part)
    }

    /// Writes until the request is sent or the socket takes no more.
    pub fn flush(&mut self) {
        if self.stage != CallStage::Exchanging || self.end.is_some() {
            return;
        }
        if let Some(socket) = &mut self.socket
            && socket.flush(drop).is_err()
        {
            // A response may have arrived before the connection broke.
            socket.expect_end();
        }
    }

    fn parse_response(&mut self) -> CallStep {
        let socket = self.socket.as_ref().expect("it is connected");
        if socket.input().len() as u64 > RESPONSE_PER_BODY * self.parser.body_bytes_max() {
            self.is_too_long = true;
            return self.fail("over-long response");
        }
        let is_ended = self.end.is_some();
        match (self.parser.parse(socket.input(), is_ended), &self.end) {
            (Ok(Some(response)), _) => self.on_response(response),
            // A broken connection is the cause of an incomplete response.
            (Ok(None) | Err(_), Some(InputEnd::Broken(why))) => self.fail(why),
            (Ok(None), Some(InputEnd::Closed)) => self.fail("closed without a response"),
            (Ok(None), None) => CallStep::Wait,
            (Err(fault), _) => {
                self.is_too_long = fault.is_too_long();
                self.fail(fault.0)
            }
        }
    }

    fn on_response(&mut self, response: CallResponse) -> CallStep {
        let is_redirect = match response.status {
            307 | 308 => true,
            301 | 302 => matches!(self.call.method, Method::Get | Method::Head),
            _ => false,
        };
        if is_redirect {
            return self.follow(response.location.as_deref());
        }
        self.headers = response.proxied_headers;
        CallStep::Done(HttpReply::Answered {
            status: response.status,
            server: response.server.unwrap_or_default().into(),
            body: response.body.into(),
        })
    }

    /// Begins the next hop of a redirect.
    fn follow(&mut self, location: Option<&str>) -> CallStep {
        // The machine that redirects has not taken the request.
        self.stage = CallStage::Resolving;
        if self.redirects == REDIRECTS_MAX {
            return self.fail("too many redirects");
        }
        let here = Url::parse(&self.url).expect("it was called");
        let Some(there) = location.and_then(|to| here.join(to)) else {
            return self.fail("a redirect without a usable Location");
        };
        self.redirects += 1;
        self.url = there;
        self.socket = None;
        self.end = None;
        self.parser = self.parser.again();
        CallStep::Again
    }

    /// The call has ended with `reply`.
    pub fn into_ended(self, reply: HttpReply) -> EndedCall {
        let socket = self.socket.as_ref();
        let is_flushed = socket.is_some_and(|socket| socket.output().is_empty());
        EndedCall {
            origin: self.origin,
            reply,
            headers: self.headers,
            is_sent: is_flushed && self.stage == CallStage::Exchanging,
            is_redirected: self.is_too_long,
            call: self.call,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_discovery_service_is_shown_no_certificate_of_a_peer() {
        let connector = || Connector::new(&Default::default());
        let mut connectors = Connectors {
            peers: connector(),
            clients: connector(),
            discovery: connector(),
        };
        let of = |question| CallOrigin::Machine {
            id: CallId::REGISTRAR,
            question,
        };
        let discovery: *const Connector = &connectors.discovery;
        assert!(std::ptr::eq(
            discovery,
            connectors.of(&of(Question::TakeLead))
        ));
        let peers: *const Connector = &connectors.peers;
        assert!(std::ptr::eq(peers, connectors.of(&of(Question::Version))));
    }
}
