//! A standby: no member of its cluster, it points clients to the leader and waits for room.
//!
//! It asks the machines it knows for the list of members and the cluster config, at once and then
//! every sync interval, and asks to be let in when there is room or when the list names it; for the
//! first time one interval after it became a standby. When none of them is a member any more, it
//! asks where their client ports lead: a standby points to its leader. Pure: it leaves calls and
//! takes their replies. How a machine becomes one, and a member again, is `switching`'s. Start with
//! `Standby::on_reply`.
use super::questions::{self, MS_MAX, Myself, Room, STORE_VERSION, SYNC_INTERVAL_MS_MIN};
use crate::core::raft::PeerId;
use crate::core::seam::{Call, CallId, Fact, MachineInfo, Reply, Role, StandbyInfo};
use crate::core::timer::Now;

/// A standby that knows no leader to point to asks again after this time, if that is less than the
/// interval.
const LEADERLESS_US: u64 = 500_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Machines,
    Config,
    Version,
    Join,
    /// Over a client port.
    Leader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting { until_us: u64 },
    Asking { question: Question, call: CallId },
}

/// When it may ask to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eager {
    /// One interval after it became a standby.
    No,
    /// At once: it had a place that it has lost without knowing. One refusal, and it waits like any
    /// other.
    Yes,
}

/// The state of standby mode.
pub struct Standby {
    myself: Myself,
    info: StandbyInfo,
    /// Peer URLs that are asked when no member that it knows helps.
    others: Vec<Box<str>>,
    began_us: u64,
    eager: Eager,
    /// What the former life left on disk is gone.
    wiped: bool,
    state: State,
    /// Whom this fetch asks and what first, and who is asked now.
    targets: Vec<(Question, Box<str>)>,
    target: usize,
    /// Why the last peer was of no use.
    reason: String,
    started_us: u64,
    /// Who was asked last is no tern: it is never asked to let this machine in.
    foreign: bool,
    last_call: u64,
    calls: Vec<Call>,
    unsaved: bool,
    /// What was told last of why nothing comes of it.
    trouble: String,
    facts: Vec<Fact>,
}

impl Standby {
    /// Begins at once. `calls`: the numbers of calls up to this one are used up. `wiped`: the data
    /// directory holds nothing but its number.
    pub fn new(
        now: Now,
        myself: Myself,
        info: StandbyInfo,
        others: Vec<Box<str>>,
        eager: Eager,
        wiped: bool,
        calls: u64,
    ) -> Standby {
        Standby {
            myself,
            info: StandbyInfo {
                running: true,
                ..info
            },
            others,
            began_us: now.mono_us,
            eager,
            wiped,
            state: State::Waiting {
                until_us: now.mono_us,
            },
            targets: Vec::new(),
            target: 0,
            reason: String::new(),
            started_us: 0,
            foreign: false,
            last_call: calls,
            calls: Vec::new(),
            unsaved: true,
            trouble: String::new(),
            facts: Vec::new(),
        }
    }

    // -- inputs

    /// What the former life left is gone; the data directory has a new number.
    pub fn on_wiped(&mut self, incarnation: u64) {
        self.myself.incarnation = incarnation;
        self.wiped = true;
    }

    /// The next fetch is due.
    pub fn on_time(&mut self, now: Now) {
        let State::Waiting { until_us } = self.state else {
            return;
        };
        if now.mono_us < until_us {
            return;
        }
        self.started_us = now.mono_us;
        self.targets.clear();
        self.target = 0;
        self.reason = "it knows no other machine".into();
        let (leaders, rest): (Vec<_>, Vec<_>) = self
            .info
            .cluster
            .iter()
            .partition(|m| m.state == Role::Leader);
        let known = || leaders.iter().chain(&rest);
        let peers = known()
            .map(|m| &m.peer_url)
            .chain(&self.others)
            .map(|url| (Question::Machines, url.clone()));
        let clients = known().map(|m| (Question::Leader, m.client_url.clone()));
        for (question, url) in peers.chain(clients).collect::<Vec<_>>() {
            self.add_target(self.targets.len(), question, url);
        }
        self.ask_target(now);
    }

    /// A call has ended: as which member it was let in, if that has come of it.
    pub fn on_reply(&mut self, now: Now, id: CallId, reply: Reply) -> Option<PeerId> {
        let State::Asking { question, call } = self.state else {
            return None;
        };
        if call != id {
            return None;
        }
        let (status, server, body) = match reply {
            Reply::Answered {
                status,
                server,
                body,
            } => (status, server, body),
            Reply::Failed { why } => {
                self.next_target(now, &why);
                return None;
            }
        };
        match question {
            Question::Machines => {
                self.on_machines(now, questions::parse_machines(status, &body), &server)
            }
            Question::Config => self.on_config(now, questions::parse_config(status, &body)),
            Question::Version => match questions::parse_version(status, &body) {
                Ok(STORE_VERSION) => self.ask(Question::Join),
                Ok(version) => {
                    self.give_up(
                        now,
                        &format!("the cluster has store version {version}, not {STORE_VERSION}"),
                    );
                }
                Err(why) => self.next_target(now, &why),
            },
            Question::Join => match questions::parse_joined(status, &body) {
                Ok(id) => return Some(id),
                Err(refused) => self.give_up(now, &refused.why),
            },
            Question::Leader => self.on_leader(now, questions::parse_leader(status, &body)),
        }
        None
    }

    // -- a fetch

    /// Nobody is asked twice in a fetch, and never this machine itself.
    fn add_target(&mut self, place: usize, question: Question, url: Box<str>) {
        let is_mine = url == self.myself.peer_url || url == self.myself.client_url;
        let is_known = self.targets.iter().any(|(_, known)| *known == url);
        if !is_mine && !is_known && !url.is_empty() {
            self.targets.insert(place, (question, url));
        }
    }

    fn ask_target(&mut self, now: Now) {
        match self.targets.get(self.target) {
            Some((question, _)) => self.ask(*question),
            None => self.complain(now, &self.reason.clone()),
        }
    }

    fn ask(&mut self, question: Question) {
        let (_, url) = &self.targets[self.target];
        self.last_call += 1;
        let id = CallId(self.last_call);
        self.calls.push(match question {
            Question::Machines => questions::machines(id, url, None),
            Question::Config => questions::config(id, url),
            Question::Version => questions::version(id, url),
            Question::Join => questions::join(id, url, &self.myself),
            Question::Leader => questions::leader(id, url),
        });
        self.state = State::Asking { question, call: id };
    }

    fn on_machines(&mut self, now: Now, listed: Result<Vec<MachineInfo>, String>, server: &str) {
        let listed = match listed {
            Ok(listed) => listed,
            Err(why) => return self.next_target(now, &why),
        };
        // Who knows no leader may be cut off: its list is not the newest, and nothing it says of
        // room counts.
        if !listed.iter().any(|m| m.state == Role::Leader) {
            return self.next_target(now, "it knows no leader now");
        }
        self.foreign = !questions::is_tern(server);
        self.unsaved |= self.info.cluster != listed;
        self.info.cluster = listed;
        self.ask(Question::Config);
    }

    fn on_config(&mut self, now: Now, room: Result<Room, String>) {
        let room = match room {
            Ok(room) => room,
            Err(why) => return self.next_target(now, &why),
        };
        self.unsaved |= self.info.sync_interval_ms != room.sync_interval_ms;
        self.info.sync_interval_ms = room.sync_interval_ms;
        let machines = &self.info.cluster;
        let wanted = (machines.len() as f64) < room.active_size.floor() || self.is_named();
        let due = self.started_us >= self.join_from_us() && self.wiped;
        if self.foreign {
            self.give_up(now, "the cluster is not tern, and tern does not join it");
        } else if !wanted {
            self.trouble.clear();
            self.eager = Eager::No;
            self.rest(now);
        } else if due {
            self.ask(Question::Version);
        } else {
            self.rest(now);
        }
    }

    fn is_named(&self) -> bool {
        self.info.cluster.iter().any(|m| m.name == self.myself.name)
    }

    /// Where a client port leads; the one behind it is asked next.
    fn on_leader(&mut self, now: Now, leader: Result<Box<str>, String>) {
        if let Ok(peer_url) = leader {
            self.add_target(self.target + 1, Question::Machines, peer_url);
        }
        self.target += 1;
        self.ask_target(now);
    }

    fn next_target(&mut self, now: Now, why: &str) {
        let (first, url) = &self.targets[self.target];
        if *first == Question::Machines {
            // What a call says names the whole URL.
            self.reason = match why.starts_with(&**url) {
                true => why.to_string(),
                false => format!("{url}: {why}"),
            };
        }
        self.target += 1;
        self.ask_target(now);
    }

    /// It is refused by who speaks for the cluster: no use in asking others.
    fn give_up(&mut self, now: Now, why: &str) {
        self.eager = Eager::No;
        self.complain(now, why);
    }

    /// Says why nothing has come of it, unless that was said before.
    fn complain(&mut self, now: Now, why: &str) {
        if self.trouble != why {
            self.trouble = why.into();
            self.facts.push(Fact::NotLetIn { why: why.into() });
        }
        self.rest(now);
    }

    /// Until the next fetch.
    fn rest(&mut self, now: Now) {
        let join_from_us = self.began_us + self.interval_us();
        let mut until_us = match self.started_us < join_from_us {
            true => join_from_us,
            false => self.started_us + self.interval_us(),
        };
        if self.leader().is_none() {
            until_us = until_us.min(now.mono_us + LEADERLESS_US);
        }
        self.state = State::Waiting { until_us };
    }

    fn join_from_us(&self) -> u64 {
        match self.eager {
            Eager::Yes => self.began_us,
            Eager::No => self.began_us + self.interval_us(),
        }
    }

    fn interval_us(&self) -> u64 {
        self.info
            .sync_interval_ms
            .clamp(SYNC_INTERVAL_MS_MIN, MS_MAX)
            * 1000
    }

    // -- outputs

    /// The calls to make now and what is worth a line; gives what is to be saved, if it has
    /// changed.
    pub fn take_news(
        &mut self,
        calls: &mut Vec<Call>,
        facts: &mut Vec<Fact>,
    ) -> Option<StandbyInfo> {
        calls.append(&mut self.calls);
        facts.append(&mut self.facts);
        std::mem::take(&mut self.unsaved).then(|| self.info.clone())
    }

    /// When `on_time` has something to do; `u64::MAX`: never.
    pub fn next_deadline(&self) -> u64 {
        match self.state {
            State::Waiting { until_us } => until_us,
            State::Asking { .. } => u64::MAX,
        }
    }

    /// What it knows, for who comes after it.
    pub fn info(&self) -> &StandbyInfo {
        &self.info
    }

    /// The leader it last heard of: where clients go. Never this machine itself.
    pub fn leader(&self) -> Option<&MachineInfo> {
        let leader = self.info.cluster.iter().find(|m| m.state == Role::Leader)?;
        let is_other =
            leader.client_url != self.myself.client_url && leader.name != self.myself.name;
        (is_other && !leader.client_url.is_empty()).then_some(leader)
    }
}
