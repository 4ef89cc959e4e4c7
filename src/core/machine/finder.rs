//! Finding the cluster: asks the machines it is told of, one after the other, and asks to be let
//! in.
//!
//! Pure: it leaves calls and takes their replies. `Goal::Join` is for a machine without a log,
//! which goes round the peers until one lets it in or its attempts are used up; `Goal::Look` for
//! one that has a log and only wants to know whether its place in the cluster is still its own. A
//! discovery service is asked first, and may say that this machine is the one to start the cluster.
//! Start with `Finder::on_reply`.
use super::discovery;
use super::questions::{self, Myself, NO_MORE_PEER, Refused, Room, STORE_VERSION};
use crate::core::error::OTHER_CLUSTER;
use crate::core::raft::PeerId;
use crate::core::seam::{Call, CallId, MachineInfo, Reply, Role, StandbyInfo};
use crate::core::timer::Now;

/// The pause between two attempts, unless one is given: random, from this …
const PAUSE_MS_MIN: u64 = 2_000;
/// … to this.
const PAUSE_MS_MAX: u64 = 4_000;

/// Where and how often to look for the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// The peer URLs, `http://host:port`, of those that this machine knows from before; asked first.
    pub known: Vec<Box<str>>,
    /// The URL of the directory of a discovery service; those that it names are asked next.
    pub discovery: Option<Box<str>>,
    /// Peer URLs that are asked last.
    pub peers: Vec<Box<str>>,
    /// 0: for ever.
    pub attempts_max: u32,
    /// Between two attempts; `None`: random between 2 and 4 s.
    pub pause_ms: Option<u64>,
}

/// What the finder is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// To become a member.
    Join,
    /// To see whether a member's place in this cluster is still its own, and to tell new addresses;
    /// `moved`: they have to be told, however long it takes.
    Look {
        moved: bool,
        cluster: u64,
        id: PeerId,
    },
}

impl Goal {
    /// The only cluster whose word counts, and this member. An address may be another cluster's by
    /// now, and who is behind may never have heard of this member: what they list means
    /// nothing.
    fn place(self) -> Option<(u64, PeerId)> {
        match self {
            Goal::Join => None,
            Goal::Look { cluster, id, .. } => Some((cluster, id)),
        }
    }
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
    /// An attempt has come to nothing, for another reason than the one before; the next one follows
    /// after this time.
    Again { why: Box<str>, pause_ms: u64 },
    /// A machine that knows a leader does not list this one.
    Unlisted,
    /// The cluster has no place for this machine, which knows it now: it waits as a standby.
    Refused { why: Box<str>, info: StandbyInfo },
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
    Config,
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
    /// Why the present peer's cluster is none to be in.
    unfit: Option<String>,
    /// The members that the present peer has listed, and its sync interval.
    known: StandbyInfo,
    /// Who is of another cluster.
    stranger: Option<Box<str>>,
    told_stranger: bool,
    last_call: u64,
    random: u64,
    /// Why the peers of this attempt were of no use.
    reasons: Vec<String>,
    /// What was told last of them.
    trouble: String,
    calls: Vec<Call>,
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
            unfit: None,
            known: StandbyInfo::default(),
            stranger: None,
            told_stranger: false,
            last_call: 0,
            random: seed | 1,
            reasons: Vec::new(),
            trouble: String::new(),
            calls: Vec::new(),
        }
    }

    /// The first attempt is made at this time; the numbers of calls up to this one are used up.
    pub fn later(self, until_us: u64, calls: u64) -> Finder {
        Finder {
            state: State::Pausing { until_us },
            last_call: calls,
            ..self
        }
    }

    /// Whether it asks to be let in.
    pub fn joins(&self) -> bool {
        self.goal == Goal::Join
    }

    /// The calls to make now.
    pub fn take_calls(&mut self, out: &mut Vec<Call>) {
        out.append(&mut self.calls);
    }

    /// Who was passed over because it is of another cluster: the first one, once.
    pub fn take_stranger(&mut self) -> Option<Box<str>> {
        let is_new = !std::mem::replace(&mut self.told_stranger, self.stranger.is_some());
        self.stranger.clone().filter(|_| is_new)
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
                Question::Register | Question::Lead | Question::Discover => {
                    self.on_no_service(now, &why)
                }
                Question::Version | Question::Machines | Question::Config | Question::Join => {
                    self.next_peer(now, &why)
                }
            },
            Reply::Answered {
                status,
                server,
                body,
            } => {
                if matches!(
                    question,
                    Question::Register | Question::Lead | Question::Discover
                ) {
                    return self.on_service(now, question, status, &body);
                }
                if !questions::is_tern(&server) && self.unfit.is_none() {
                    return self.on_foreign(now, question, &server);
                }
                match question {
                    Question::Register | Question::Lead | Question::Discover => None,
                    Question::Version => {
                        self.on_version(now, questions::parse_version(status, &body))
                    }
                    Question::Machines => {
                        self.on_machines(now, questions::parse_machines(status, &body))
                    }
                    Question::Config => self.on_config(now, questions::parse_config(status, &body)),
                    Question::Join => self.on_joined(now, questions::parse_joined(status, &body)),
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

    fn on_service(
        &mut self,
        now: Now,
        question: Question,
        status: u16,
        body: &[u8],
    ) -> Option<Found> {
        let scheme = self.myself.peer_url.split("://").next().unwrap_or("http");
        let next = match question {
            Question::Register => discovery::registered(status, body).map(|()| Question::Lead),
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
            return self.fail(format!(
                "the discovery service is of no use: {text}. A new machine needs it, or -peers"
            ));
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
        self.unfit = None;
        let first = match self.goal {
            Goal::Join => Question::Version,
            Goal::Look { .. } => Question::Machines,
        };
        self.ask(first);
        None
    }

    fn ask(&mut self, question: Question) {
        let peer = &self.peers[self.peer];
        self.last_call += 1;
        let call = CallId(self.last_call);
        self.calls.push(match question {
            Question::Register | Question::Lead | Question::Discover => {
                unreachable!("the service is asked that")
            }
            Question::Version => questions::version(call, peer),
            Question::Machines => questions::machines(call, peer, self.goal.place()),
            Question::Config => questions::config(call, peer),
            Question::Join => questions::join(call, peer, &self.myself),
        });
        self.state = State::Asking { question, call };
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
            Goal::Look { moved, .. } => !moved || nobody,
        };
        if !over {
            let pause_ms = self.pause_ms();
            let until_us = now.mono_us + pause_ms * 1000;
            self.state = State::Pausing { until_us };
            let is_new = self.trouble != why;
            self.trouble.clone_from(&why);
            return is_new.then(|| Found::Again {
                why: why.into(),
                pause_ms,
            });
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

    /// What is no tern is never asked to let tern in: this machine becomes a standby of it, if it
    /// tells its members. A machine with a log asks on: it knows its cluster.
    fn on_foreign(&mut self, now: Now, question: Question, server: &str) -> Option<Found> {
        let named = if server.is_empty() { "nothing" } else { server };
        let why = format!("it is not tern (its answer names {named} as server)");
        if matches!(self.goal, Goal::Look { .. }) || question != Question::Version {
            return self.next_peer(now, &why);
        }
        let peer = &self.peers[self.peer];
        self.unfit = Some(format!(
            "{peer}: {why}, and tern does not join a cluster of etcd"
        ));
        self.ask(Question::Machines);
        None
    }

    fn on_version(&mut self, now: Now, version: Result<u64, String>) -> Option<Found> {
        match version {
            Err(why) => return self.next_peer(now, &why),
            Ok(STORE_VERSION) => {}
            Ok(version) => {
                let peer = &self.peers[self.peer];
                self.unfit = Some(format!(
                    "{peer} has store version {version}, this tern has {STORE_VERSION}"
                ));
            }
        }
        self.ask(Question::Machines);
        None
    }

    fn on_machines(&mut self, now: Now, listed: Result<Vec<MachineInfo>, String>) -> Option<Found> {
        let listed = match listed {
            Ok(listed) => listed,
            Err(why) => {
                if why.contains(OTHER_CLUSTER) {
                    let peer = &self.peers[self.peer];
                    self.stranger
                        .get_or_insert_with(|| format!("{peer} is of another cluster").into());
                }
                return self.next_peer(now, &why);
            }
        };
        let me = &self.myself;
        let mine = listed.iter().find(|m| m.name == me.name);
        let others = listed
            .iter()
            .find(|m| m.name != me.name && m.peer_url == me.peer_url);
        let led = listed.iter().any(|m| m.state == Role::Leader);
        match (self.goal, mine) {
            (Goal::Join, _) if !led => return self.next_peer(now, "it knows no leader now"),
            (Goal::Join, mine) => {
                let question = if mine.is_some() {
                    Question::Join
                } else {
                    Question::Config
                };
                self.known.cluster = listed;
                match self.unfit.take() {
                    Some(why) => return self.refused(why),
                    None => self.ask(question),
                }
            }
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
            (Goal::Look { .. }, None) if !led => {
                return self.next_peer(now, "it knows no leader now");
            }
            (Goal::Look { .. }, None) => return self.end(Found::Unlisted),
        }
        None
    }

    fn on_config(&mut self, now: Now, room: Result<Room, String>) -> Option<Found> {
        let room = match room {
            Ok(room) => room,
            Err(why) => return self.next_peer(now, &why),
        };
        self.known.sync_interval_ms = room.sync_interval_ms;
        let machines = self.known.cluster.len();
        if machines as f64 >= room.active_size {
            let peer = &self.peers[self.peer];
            let why = format!("{peer}: the cluster is full ({machines} machines)");
            return self.refused(why);
        }
        self.ask(Question::Join);
        None
    }

    fn on_joined(&mut self, now: Now, joined: Result<PeerId, Refused>) -> Option<Found> {
        match (joined, self.goal) {
            (Ok(id), Goal::Join) => self.end(Found::LetIn(id)),
            (Ok(_), Goal::Look { .. }) => self.end(Found::Done),
            (Err(refused), Goal::Join) if refused.code == NO_MORE_PEER => {
                let peer = &self.peers[self.peer];
                self.refused(format!("{peer}: {}", refused.why))
            }
            (Err(refused), _) => self.next_peer(now, &refused.why),
        }
    }

    /// It waits for room, or for another cluster behind these addresses.
    fn refused(&mut self, why: String) -> Option<Found> {
        let info = std::mem::take(&mut self.known);
        self.end(Found::Refused {
            why: why.into(),
            info,
        })
    }

    fn fail(&mut self, text: String) -> Option<Found> {
        self.end(Found::Failed(text.into()))
    }

    fn end(&mut self, found: Found) -> Option<Found> {
        self.state = State::Ended;
        Some(found)
    }
}
