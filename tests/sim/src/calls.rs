//! HTTP calls that machines make to each other: the request travels to the port that its URL names,
//! through the parser and the router to that machine, and the rendered answer travels back.
//! Redirects are followed as the shell follows them. What the network loses is sent again, as TCP
//! does, until the caller's time is over. Start at `World::start_call`.
use super::cluster::{Asker, Ev, Place, World, client_url, slot_of};
use super::http::routed;
use tern::codec::api::{Next, Port, Routed, Shape};
use tern::codec::cluster_api;
use tern::codec::http::Limits;
use tern::codec::http::call::{HttpCall, HttpReply};
use tern::codec::http::client::{BODY_BYTES_MAX, CallFault, CallResponse, ResponseParser};
use tern::codec::http::url::Url;
use tern::core::machine::{Answer, Call, CallId, Op, Query, Question, Ticket};
use tern_support::rng::Rng;

/// Redirects followed in one call.
const REDIRECTS_MAX: usize = 10;

/// A call under way.
pub struct Calling {
    slot: usize,
    /// As the calling machine knows it.
    id: CallId,
    question: Question,
    call: HttpCall,
    url: String,
    redirects: usize,
    /// The machine that works on it, with the ticket and how the answer is to be written.
    asked: Option<(usize, u64)>,
    shape: Option<Shape>,
    out: Vec<u8>,
    /// Nothing listens, or the connection broke.
    broken: bool,
}

/// How far a call has come.
#[derive(Clone, Copy, Debug)]
pub enum Leg {
    Send,
    Arrive,
    Answer,
    Return,
    Over,
}

/// The response in these bytes, read in pieces.
fn response_of(rng: &mut Rng, bytes: &[u8]) -> Result<CallResponse, CallFault> {
    let mut parser = ResponseParser::new(BODY_BYTES_MAX);
    let mut to = 0;
    loop {
        to = if rng.chance(300_000) {
            bytes.len()
        } else {
            to + rng.index(bytes.len() + 1 - to)
        };
        let end = to == bytes.len();
        if let Some(response) = parser.parse(&bytes[..to], end)? {
            return Ok(response);
        }
    }
}

impl World {
    /// A machine calls another.
    pub fn start_call(&mut self, slot: usize, asked: Call) {
        if matches!(asked.question, Question::Join(_)) {
            let asks = self.hosts[slot].directory.on_asks(slot);
            self.fail(asks);
        }
        let call = cluster_api::request(&asked);
        self.last_call += 1;
        let key = self.last_call;
        let limit_us = call.timeout_ms.min(self.p.call_ms) * 1_000;
        self.counts.calls += 1;
        self.trace.note(
            slot,
            "calls",
            key,
            slot_of(&call.url).map_or(99, |s| s as u64),
            call.body.len() as u64,
        );
        self.trace.hash.add_bytes(call.url.as_bytes());
        let url = call.url.to_string();
        let calling = Calling {
            slot,
            id: asked.id,
            question: asked.question,
            call,
            url,
            redirects: 0,
            asked: None,
            shape: None,
            out: Vec::new(),
            broken: false,
        };
        self.callings.insert(key, calling);
        self.queue.push(
            self.now_us,
            Ev::Call {
                key,
                leg: Leg::Send,
            },
        );
        self.queue.push(
            self.now_us + limit_us,
            Ev::Call {
                key,
                leg: Leg::Over,
            },
        );
    }

    pub fn on_call(&mut self, key: u64, leg: Leg) {
        let Some(calling) = self.callings.get(&key) else {
            return;
        };
        let caller = calling.slot;
        // A call to an address that was left arrives at its first machine, and is not answered.
        let called = self.slot_at(&calling.url).or(slot_of(&calling.url));
        let called = called.filter(|slot| *slot < self.hosts.len());
        let is_nowhere = called.is_none();
        assert!(
            !is_nowhere || self.p.adds_odd_members,
            "machines call machines"
        );
        let called = called.unwrap_or(caller);
        let here = match leg {
            // To a machine that was added and never starts. The call ends when its time is over.
            Leg::Send if is_nowhere => return,
            Leg::Arrive => called,
            Leg::Return | Leg::Over => caller,
            Leg::Send => return self.travel(key, (caller, called), leg, Leg::Arrive),
            Leg::Answer => return self.travel(key, (called, caller), leg, Leg::Return),
        };
        if self.is_paused(here) {
            return self.hosts[here].held_up.push(Ev::Call { key, leg });
        }
        match leg {
            Leg::Arrive => self.on_called(key, called),
            Leg::Return => self.on_returned(key),
            Leg::Send | Leg::Answer => {}
            Leg::Over => {
                let calling = self.drop_call(key);
                let why = format!("{}: no answer in time", calling.url).into();
                self.end_call(calling, HttpReply::Failed { why });
            }
        }
    }

    fn travel(&mut self, key: u64, (from, to): (usize, usize), leg: Leg, then: Leg) {
        match self.net.route(&mut self.rng, self.now_us, from, to)[0] {
            Some(at) => self.queue.push(at, Ev::Call { key, leg: then }),
            None => {
                let at = self.now_us
                    + self
                        .rng
                        .range(self.p.election_ms * 200, self.p.election_ms * 600);
                self.queue.push(at, Ev::Call { key, leg });
            }
        }
    }

    /// A call has come to a machine's port, if there is one.
    fn on_called(&mut self, key: u64, slot: usize) {
        let calling = self.callings.get_mut(&key).expect("seen above");
        let url = Url::parse(&calling.url).expect("machines call URLs");
        let base = format!("http://{}", url.authority).into_boxed_str();
        let port = match base == client_url(slot) {
            true => Port::Client,
            false => Port::Peer,
        };
        let listens = match &self.hosts[slot].place {
            Place::Up(run) if port == Port::Peer => run.core.listens_to_peers(),
            Place::Up(run) => run.core.listens(),
            Place::Down(_) | Place::Empty => false,
        };
        if !listens || (port == Port::Peer && base != self.hosts[slot].peer_url) {
            calling.broken = true;
            return self.on_call(key, Leg::Answer);
        }
        let request = calling.call.encode(&url);
        let epoch = self.hosts[slot].epoch;
        let ticket = self.new_ticket(Asker::Call(key), slot);
        self.input(slot, epoch, |world, run, now| {
            let World {
                hosts,
                rng,
                callings,
                ..
            } = world;
            let mode = run.core.standby();
            let context = hosts[slot].front.context(now, run.core.indexes(), mode);
            let calling = callings.get_mut(&key).expect("seen above");
            match routed(rng, &request, &Limits::default(), port, &context) {
                (Routed::ToMachine { op, shape }, _) => {
                    (calling.asked, calling.shape) = (Some((slot, ticket.0)), Some(shape));
                    if op != Op::Query(Query::Cluster) {
                        return run.core.on_request(now, ticket, op);
                    }
                    // Every mode answers it itself (`Dispatcher::ask`).
                    let outcome = run.core.query(now, &Query::Cluster);
                    let answer = Answer {
                        ticket,
                        at: run.core.indexes(),
                        outcome: outcome.expect("every mode has an answer"),
                    };
                    world.tickets.remove(&ticket.0);
                    world.on_call_answer(slot, key, &answer);
                }
                (Routed::Proxy { .. } | Routed::SetLogLevel { .. }, _) => {
                    unreachable!("what peers ask is never passed on, and sets no level")
                }
                (Routed::Answer(response), reply) => {
                    response.encode(reply, context.date, &mut calling.out);
                    world.tickets.remove(&ticket.0);
                    world.queue.push(
                        world.now_us,
                        Ev::Call {
                            key,
                            leg: Leg::Answer,
                        },
                    );
                }
            }
        });
    }

    /// The machine that was called answers.
    pub fn on_call_answer(&mut self, slot: usize, key: u64, answer: &Answer) {
        let now = self.wall_now(slot);
        let World {
            hosts, callings, ..
        } = self;
        let Some(calling) = callings.get_mut(&key) else {
            return;
        };
        let shape = calling.shape.as_mut().expect("it waits for the machine");
        let next = shape.render(
            answer,
            &hosts[slot].front.context(now, answer.at, None),
            &mut calling.out,
        );
        assert!(
            matches!(next, Next::Done { .. }),
            "what peers ask has one answer: {next:?}"
        );
        calling.asked = None;
        self.queue.push(
            self.now_us,
            Ev::Call {
                key,
                leg: Leg::Answer,
            },
        );
    }

    /// The machine that was called is gone.
    pub fn break_call(&mut self, key: u64) {
        if let Some(calling) = self.callings.get_mut(&key) {
            (calling.asked, calling.broken) = (None, true);
            self.queue.push(
                self.now_us,
                Ev::Call {
                    key,
                    leg: Leg::Answer,
                },
            );
        }
    }

    fn on_returned(&mut self, key: u64) {
        let mut calling = self.drop_call(key);
        let failed = |calling: &Calling, why: &str| HttpReply::Failed {
            why: format!("{}: {why}", calling.url).into(),
        };
        if calling.broken {
            let reply = failed(&calling, "connection refused");
            return self.end_call(calling, reply);
        }
        let response = match response_of(&mut self.rng, &calling.out) {
            Ok(response) => response,
            Err(fault) => panic!(
                "m{} reads {:?}: {}",
                calling.slot,
                String::from_utf8_lossy(&calling.out),
                fault.0
            ),
        };
        if response.status != 307 {
            let server = response.server.unwrap_or_default().into();
            let reply = HttpReply::Answered {
                status: response.status,
                server,
                body: response.body.into(),
            };
            return self.end_call(calling, reply);
        }
        let here = Url::parse(&calling.url).expect("it was called");
        let there = response
            .location
            .as_deref()
            .and_then(|to| here.join(to))
            .expect("a redirect to somewhere");
        if calling.redirects == REDIRECTS_MAX {
            let reply = failed(&calling, "too many redirects");
            return self.end_call(calling, reply);
        }
        self.trace.note(
            calling.slot,
            "call redirected",
            key,
            slot_of(&there).map_or(99, |s| s as u64),
            0,
        );
        calling.redirects += 1;
        calling.url = there;
        calling.out.clear();
        self.callings.insert(key, calling);
        self.queue.push(
            self.now_us,
            Ev::Call {
                key,
                leg: Leg::Send,
            },
        );
    }

    /// Forgets a call; the machine that works on it sees the connection close.
    fn drop_call(&mut self, key: u64) -> Calling {
        let calling = self.callings.remove(&key).expect("it is under way");
        if let Some((slot, ticket)) = calling.asked {
            self.tickets.remove(&ticket);
            let epoch = self.hosts[slot].epoch;
            self.later(slot, epoch, Ticket(ticket), Op::ClientClosed);
        }
        calling
    }

    fn end_call(&mut self, calling: Calling, response: HttpReply) {
        let slot = calling.slot;
        let status = match &response {
            HttpReply::Answered { status, body, .. } => {
                self.trace.hash.add_bytes(body);
                u64::from(*status)
            }
            HttpReply::Failed { .. } => 0,
        };
        self.trace.note(slot, "reply", calling.id.0, status, 0);
        let epoch = self.hosts[slot].epoch;
        self.input(slot, epoch, |_, run, now| {
            let reply = cluster_api::reply(&calling.question, response);
            run.core.on_reply(now, calling.id, reply)
        });
    }

    /// The caller is gone.
    pub fn lose_calls(&mut self, slot: usize) {
        let lost: Vec<u64> = self
            .callings
            .iter()
            .filter(|(_, c)| c.slot == slot)
            .map(|(key, _)| *key)
            .collect();
        for key in lost {
            self.drop_call(key);
        }
    }
}
