//! Finding the cluster: asks the machines it is told of, one after the other, and asks to be let in.
//!
//! Pure: it leaves calls and takes their replies. `Goal::Join` is for a machine without a log, which goes round the
//! peers until one lets it in or its attempts are used up; `Goal::Look` for one that has a log and only wants to know
//! whether its place in the cluster is still its own. A discovery service is asked first, and may say that this machine
//! is the one to start the cluster. Start with `Finder::on_reply`.
use super::discovery;
use super::seam::{Call, CallId, MachineInfo, Reply, Role};
use crate::http::Method;
use crate::raft::PeerId;
use crate::timer::Now;
use serde::Deserialize;

/// How long a question may take.
const ASK_MS: u64 = 3_000;
/// How long a join may take: a leader keeps it for 5 s.
const JOIN_MS: u64 = 8_000;
/// The pause between two attempts, unless one is given: random, from this …
const PAUSE_MS_MIN: u64 = 2_000;
/// … to this.
const PAUSE_MS_MAX: u64 = 4_000;
/// The store version that peers must share.
const STORE_VERSION: u64 = 2;
/// Error codes of 0.4 (BEHAVIOUR: errors).
const NO_MORE_PEER: u64 = 103;

/// Where and how often to look for the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// The peer URLs, `http://host:port`, of those that this machine knows from before; asked first.
    pub known: Vec<Box<str>>,
    /// The URL of the directory of a discovery service; those that it names are asked next.
    pub discovery: Option<Box<str>>,
    /// The discovery service may make this machine the one that starts the cluster.
    pub may_start: bool,
    /// Peer URLs that are asked last.
    pub peers: Vec<Box<str>>,
    /// 0: for ever.
    pub attempts_max: u32,
    /// Between two attempts; `None`: random between 2 and 4 s.
    pub pause_ms: Option<u64>,
}

/// How this machine introduces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Myself {
    pub name: Box<str>,
    pub client_url: Box<str>,
    pub peer_url: Box<str>,
    pub incarnation: u64,
}

/// What the finder is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// To become a member.
    Join,
    /// To see whether a member's place is still its own, and to tell new addresses; `moved`: they have to be told,
    /// however long it takes.
    Look { moved: bool },
}

/// What has come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The cluster has taken this machine as this member.
    LetIn(PeerId),
    /// This machine is the first one: it starts the cluster.
    Start,
    /// This machine cannot go on; why, and what to do.
    Failed(Box<str>),
    /// An attempt has come to nothing; the next one follows after this time.
    Again { why: Box<str>, pause_ms: u64 },
    /// The cluster does not list this machine.
    Unlisted,
    /// There is no more to ask.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Register,
    Lead,
    Discover,
    Version,
    Machines,
    Config { machines: usize },
    Join,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Asking { question: Question, call: CallId },
    Pausing { until_us: u64 },
    Ended,
}

/// The state of one search.
pub struct Finder {
    myself: Myself,
    search: Search,
    goal: Goal,
    state: State,
    /// The service knows this machine, and that the cluster has been started.
    registered: bool,
    /// The peers of this attempt, and which of them is asked.
    peers: Vec<Box<str>>,
    peer: usize,
    attempts: u32,
    last_call: u64,
    random: u64,
    /// Why the peers of this attempt were of no use.
    reasons: Vec<String>,
    calls: Vec<Call>,
}

#[derive(Deserialize)]
struct Listed {
    name: Box<str>,
    #[serde(default, rename = "state")]
    state: Box<str>,
    #[serde(default, rename = "clientURL")]
    client_url: Box<str>,
    #[serde(rename = "peerURL")]
    peer_url: Box<str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Size {
    active_size: f64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Failure {
    error_code: u64,
    message: String,
    cause: String,
}

impl Finder {
    /// Begins at once; this machine itself is never asked.
    pub fn new(myself: Myself, search: Search, goal: Goal, seed: u64) -> Finder {
        Finder {
            myself,
            search,
            goal,
            state: State::Pausing { until_us: 0 },
            registered: false,
            peers: Vec::new(),
            peer: 0,
            attempts: 0,
            last_call: 0,
            random: seed | 1,
            reasons: Vec::new(),
            calls: Vec::new(),
        }
    }

    /// The calls to make now.
    pub fn take_calls(&mut self, out: &mut Vec<Call>) {
        out.append(&mut self.calls);
    }

    /// When `on_time` has something to do; `u64::MAX`: never.
    pub fn next_deadline(&self) -> u64 {
        match self.state {
            State::Pausing { until_us } => until_us,
            State::Asking { .. } | State::Ended => u64::MAX,
        }
    }

    /// A pause is over.
    pub fn on_time(&mut self, now: Now) -> Option<Found> {
        let State::Pausing { until_us } = self.state else {
            return None;
        };
        if now.mono_us < until_us {
            return None;
        }
        self.reasons.clear();
        match (&self.search.discovery, self.goal) {
            (Some(_), Goal::Join) if !self.registered => self.ask_service(Question::Register),
            (Some(_), Goal::Join | Goal::Look { .. }) => self.ask_service(Question::Discover),
            (None, Goal::Join | Goal::Look { .. }) => return self.ask_peers(now, Vec::new()),
        }
        None
    }

    /// A call has ended.
    pub fn on_reply(&mut self, now: Now, id: CallId, reply: Reply) -> Option<Found> {
        let State::Asking { question, call } = self.state else {
            return None;
        };
        if call != id {
            return None;
        }
        match reply {
            Reply::Failed { why } => match question {
                Question::Register | Question::Lead | Question::Discover => self.on_no_service(now, &why),
                Question::Version | Question::Machines | Question::Config { .. } | Question::Join => {
                    self.next_peer(now, &why)
                }
            },
            Reply::Answered { status, server, body } => {
                if matches!(question, Question::Register | Question::Lead | Question::Discover) {
                    return self.on_service(now, question, status, &body);
                }
                let is_tern = server.starts_with("tern/");
                if !is_tern {
                    return self.on_foreign(now, &server);
                }
                match question {
                    Question::Register | Question::Lead | Question::Discover => None,
                    Question::Version => self.on_version(now, status, &body),
                    Question::Machines => self.on_machines(now, status, &body),
                    Question::Config { machines } => self.on_config(now, status, &body, machines),
                    Question::Join => self.on_joined(now, status, &body),
                }
            }
        }
    }

    // -- the discovery service

    fn ask_service(&mut self, question: Question) {
        let service = self.search.discovery.as_deref().unwrap_or_default();
        self.last_call += 1;
        let id = CallId(self.last_call);
        let me = &self.myself;
        self.calls.push(match question {
            Question::Register => discovery::register(id, service, &me.name, &me.peer_url),
            Question::Lead => discovery::take_lead(id, service),
            _ => discovery::list(id, service),
        });
        self.state = State::Asking { question, call: id };
    }

    fn on_service(&mut self, now: Now, question: Question, status: u16, body: &[u8]) -> Option<Found> {
        let scheme = self.myself.peer_url.split("://").next().unwrap_or("http");
        let next = match question {
            Question::Register if self.search.may_start => discovery::registered(status, body).map(|()| Question::Lead),
            Question::Register => discovery::registered(status, body).map(|()| Question::Discover),
            Question::Lead => match discovery::leads(status, body) {
                Ok(true) => return self.end(Found::Start),
                Ok(false) => Ok(Question::Discover),
                Err(why) => Err(why),
            },
            _ => match discovery::peers(status, body, scheme) {
                Ok(peers) => return self.ask_peers(now, peers),
                Err(why) => Err(why),
            },
        };
        match next {
            Ok(next) => {
                self.registered = next == Question::Discover;
                self.ask_service(next);
                None
            }
            Err(why) => self.on_no_service(now, &why),
        }
    }

    /// Who has others to ask can do without the service.
    fn on_no_service(&mut self, now: Now, why: &str) -> Option<Found> {
        let service = self.search.discovery.as_deref().unwrap_or_default();
        let text = match why.starts_with(service) {
            true => why.to_string(),
            false => format!("{service}: {why}"),
        };
        let alone = self.search.known.is_empty() && self.search.peers.is_empty();
        if alone && self.goal == Goal::Join {
            return self.fail(format!("the discovery service is of no use: {text}. A new machine needs it, or -peers"));
        }
        self.reasons.push(text);
        self.ask_peers(now, Vec::new())
    }

    // -- asking

    /// Asks all peers in turn: each once, and never this machine itself.
    fn ask_peers(&mut self, now: Now, discovered: Vec<Box<str>>) -> Option<Found> {
        self.peer = 0;
        self.peers.clear();
        let known = self.search.known.iter().cloned();
        let given = self.search.peers.iter().cloned();
        for url in known.chain(discovered).chain(given) {
            if url != self.myself.peer_url && !self.peers.contains(&url) {
                self.peers.push(url);
            }
        }
        self.ask_peer(now)
    }

    /// Asks the present peer its first question, or ends the attempt when all have been asked.
    fn ask_peer(&mut self, now: Now) -> Option<Found> {
        if self.peer >= self.peers.len() {
            return self.end_attempt(now);
        }
        let first = match self.goal {
            Goal::Join => Question::Version,
            Goal::Look { .. } => Question::Machines,
        };
        self.ask(first);
        None
    }

    fn ask(&mut self, question: Question) {
        let peer = &self.peers[self.peer];
        let (method, path, timeout_ms) = match question {
            Question::Register | Question::Lead | Question::Discover => {
                unreachable!("the service is asked that")
            }
            Question::Version => (Method::Get, "/version", ASK_MS),
            Question::Machines => (Method::Get, "/v2/admin/machines", ASK_MS),
            Question::Config { .. } => (Method::Get, "/v2/admin/config", ASK_MS),
            Question::Join => (Method::Put, "/join", JOIN_MS),
        };
        let joins = question == Question::Join;
        self.last_call += 1;
        let call = CallId(self.last_call);
        self.calls.push(Call {
            id: call,
            method,
            url: format!("{peer}{path}").into(),
            content_type: if joins { "application/json" } else { "" },
            body: if joins { self.join_body() } else { Box::default() },
            timeout_ms,
        });
        self.state = State::Asking { question, call };
    }

    fn join_body(&self) -> Box<[u8]> {
        let me = &self.myself;
        let body = serde_json::json!({
            "minVersion": STORE_VERSION,
            "maxVersion": STORE_VERSION,
            "name": me.name,
            "raftURL": me.peer_url,
            "etcdURL": me.client_url,
            "incarnation": me.incarnation,
        });
        body.to_string().into_bytes().into()
    }

    fn next_peer(&mut self, now: Now, why: &str) -> Option<Found> {
        let peer = &self.peers[self.peer];
        // What a call says names the whole URL.
        self.reasons.push(match why.starts_with(&**peer) {
            true => why.to_string(),
            false => format!("{peer}: {why}"),
        });
        self.peer += 1;
        self.ask_peer(now)
    }

    /// Nobody has helped: another attempt later, or none.
    fn end_attempt(&mut self, now: Now) -> Option<Found> {
        self.attempts = self.attempts.saturating_add(1);
        if self.peers.is_empty() {
            self.reasons.push("no other machine is named".into());
        }
        let mut why = self.reasons.join("; ");
        // The service may name others by and by.
        let nobody = self.peers.is_empty() && self.search.discovery.is_none();
        if nobody {
            why = "the list of peers names no other machine".into();
        }
        let over = match self.goal {
            Goal::Join => {
                let most = self.search.attempts_max;
                nobody || (most != 0 && self.attempts >= most)
            }
            Goal::Look { moved } => !moved || nobody,
        };
        if !over {
            let pause_ms = self.pause_ms();
            let until_us = now.mono_us + pause_ms * 1000;
            self.state = State::Pausing { until_us };
            let why = why.into();
            return Some(Found::Again { why, pause_ms });
        }
        self.state = State::Ended;
        match self.goal {
            Goal::Look { .. } => Some(Found::Done),
            Goal::Join => {
                let tries = self.attempts;
                let text = format!(
                    "not let in to a cluster after {tries} attempts: {why}. Name machines that run with -peers; \
                     without -peers and -discovery a machine begins a cluster of its own"
                );
                Some(Found::Failed(text.into()))
            }
        }
    }

    fn pause_ms(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let drawn_ms = PAUSE_MS_MIN + self.random % (PAUSE_MS_MAX - PAUSE_MS_MIN + 1);
        self.search.pause_ms.unwrap_or(drawn_ms)
    }

    // -- being answered

    /// What is no tern is never asked to let tern in. A machine with a log asks on: it knows its cluster.
    fn on_foreign(&mut self, now: Now, server: &str) -> Option<Found> {
        let named = if server.is_empty() { "nothing" } else { server };
        let why = format!("it is not tern (its answer names {named} as server)");
        if matches!(self.goal, Goal::Look { .. }) {
            return self.next_peer(now, &why);
        }
        let peer = &self.peers[self.peer];
        self.fail(format!(
            "{peer}: {why}, and tern does not join a cluster of etcd. Start a cluster of tern beside it, copy the keys, \
             and move the clients"
        ))
    }

    fn on_version(&mut self, now: Now, status: u16, body: &[u8]) -> Option<Found> {
        let text = String::from_utf8_lossy(body);
        match text.trim().parse::<u64>() {
            Ok(STORE_VERSION) if status == 200 => {
                self.ask(Question::Machines);
                None
            }
            Ok(version) if status == 200 => {
                let peer = &self.peers[self.peer];
                self.fail(format!(
                    "{peer} has store version {version}, this tern has {STORE_VERSION}: they cannot be in one cluster"
                ))
            }
            Ok(_) | Err(_) => self.next_peer(now, &told("/version", status, body)),
        }
    }

    fn on_machines(&mut self, now: Now, status: u16, body: &[u8]) -> Option<Found> {
        let listed = serde_json::from_slice::<Vec<Listed>>(body);
        let (200, Ok(listed)) = (status, listed) else {
            return self.next_peer(now, &told("/v2/admin/machines", status, body));
        };
        let listed: Vec<MachineInfo> = listed.into_iter().map(info).collect();
        let me = &self.myself;
        let mine = listed.iter().find(|m| m.name == me.name);
        let others = listed.iter().find(|m| m.name != me.name && m.peer_url == me.peer_url);
        let led = listed.iter().any(|m| m.state == Role::Leader);
        match (self.goal, mine) {
            (Goal::Join, Some(_)) => self.ask(Question::Join),
            (Goal::Join, None) if !led => return self.next_peer(now, "it knows no leader now"),
            (Goal::Join, None) => self.ask(Question::Config { machines: listed.len() }),
            (Goal::Look { .. }, _) if others.is_some() => {
                let other = others.map_or("", |m| &m.name);
                let text = format!(
                    "the peer address {} belongs to {other} in the cluster now: start this machine with another \
                     -peer-addr",
                    me.peer_url
                );
                return self.fail(text);
            }
            (Goal::Look { .. }, Some(mine)) => {
                if (&mine.client_url, &mine.peer_url) == (&me.client_url, &me.peer_url) {
                    return self.end(Found::Done);
                }
                self.ask(Question::Join);
            }
            // Only the notice of a member that has applied the removal proves it: who answers may be behind.
            (Goal::Look { .. }, None) => return self.end(Found::Unlisted),
        }
        None
    }

    fn on_config(&mut self, now: Now, status: u16, body: &[u8], machines: usize) -> Option<Found> {
        match serde_json::from_slice::<Size>(body) {
            Ok(size) if status == 200 => {
                if machines as f64 >= size.active_size {
                    return self.full(machines);
                }
                self.ask(Question::Join);
                None
            }
            Ok(_) | Err(_) => self.next_peer(now, &told("/v2/admin/config", status, body)),
        }
    }

    fn on_joined(&mut self, now: Now, status: u16, body: &[u8]) -> Option<Found> {
        if status == 200 {
            let Some(id) = uvarint(body).filter(|id| *id != 0) else {
                return self.next_peer(now, "/join is answered with no index");
            };
            return self.end(match self.goal {
                Goal::Join => Found::LetIn(PeerId(id)),
                Goal::Look { .. } => Found::Done,
            });
        }
        let failure = serde_json::from_slice::<Failure>(body).unwrap_or_default();
        if failure.error_code == NO_MORE_PEER && self.goal == Goal::Join {
            return self.full(0);
        }
        self.next_peer(now, &told("/join", status, body))
    }

    /// There is no room; a machine that waits for room is not there yet.
    fn full(&mut self, machines: usize) -> Option<Found> {
        let count = match machines {
            0 => String::new(),
            machines => format!(" ({machines} machines)"),
        };
        let peer = &self.peers[self.peer];
        self.fail(format!(
            "{peer}: the cluster is full{count}. Raise its activeSize (PUT /v2/admin/config on a peer port) or remove a \
             machine, then start this one again; it does not wait as a standby"
        ))
    }

    fn fail(&mut self, text: String) -> Option<Found> {
        self.end(Found::Failed(text.into()))
    }

    fn end(&mut self, found: Found) -> Option<Found> {
        self.state = State::Ended;
        Some(found)
    }
}

fn info(listed: Listed) -> MachineInfo {
    let leads = &*listed.state == "leader";
    MachineInfo {
        name: listed.name,
        state: if leads { Role::Leader } else { Role::Follower },
        client_url: listed.client_url,
        peer_url: listed.peer_url,
    }
}

/// What an answer that does not help says.
fn told(path: &str, status: u16, body: &[u8]) -> String {
    let failure = serde_json::from_slice::<Failure>(body).unwrap_or_default();
    match failure.error_code {
        0 => format!("{path} is answered with status {status}"),
        code => {
            let Failure { message, cause, .. } = failure;
            format!("{path}: error {code}: {message} ({cause})")
        }
    }
}

/// The number at the beginning, in groups of seven bits, the lowest first.
fn uvarint(bytes: &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for (place, byte) in bytes.iter().take(9).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
