//! `-bootstrap`: all machines are started with one list, and the first one of it founds the cluster.
//!
//! A machine without data asks all machines of the list at once, itself included: a roll call. The
//! first one of the list founds the cluster if, in one roll call of a few seconds,
//! - each machine has answered that it waits, and so has no data and is no standby;
//! - all lists are the same text;
//! - all numbers differ, one for each process;
//! - the first machine has answered with this process's own number.
//!
//! So a machine that lost its disk founds no second cluster: members of the first one do not wait,
//! or do not answer. An address proves nothing, because another machine may answer there; a number
//! does. As soon as a machine answers that it does not wait, the finder asks all of them to admit
//! this machine.
//!
//! A machine that never comes up keeps the cluster from beginning; the log names it. If the
//! founder's disk is lost before another voter has joined, nothing was founded for the others.
//!
//! The roll call leaves calls and takes their replies; `transitions` changes the machine's mode.
//! Start with [`RollCall::end_round`].
use super::finder::{Finder, Goal, Search, SearchOutcome};
use super::{Common, Machine, MachineMode, Outside};
use crate::core::random::{XorShift64, splitmix64};
use crate::core::seam::{
    Attendance, Call, CallAnswer, CallId, Fact, Introduction, Outputs, Question, Recovered, Reply,
    Settings,
};
use crate::core::timer::Now;
use std::collections::BTreeMap;

/// The longest round that may lead to a founding, in microseconds. A process that stood still may
/// hold answers that are no longer true.
const ROUND_US_MAX: u64 = 5_000_000;
/// The shortest random pause between two rounds, in milliseconds, unless `-retry-interval` sets it.
const PAUSE_MS_MIN: u64 = 500;
/// The longest random pause between two rounds, in milliseconds.
const PAUSE_MS_MAX: u64 = 1_000;

/// The answer of a machine of the list in a round.
enum Presence {
    /// It waits as well.
    Waits(Attendance),
    /// It answers, and does not wait: it is a member, or a standby.
    Elsewhere,
    /// It did not answer.
    Silent,
}

/// The state of a machine that waits for its cluster to begin.
pub(super) struct RollCall {
    /// How this machine introduces itself to a cluster.
    introduction: Introduction,
    /// Where to look for the cluster.
    search: Search,
    /// The answer of this machine. Its list is sorted, and names each machine once.
    own: Attendance,
    /// The answers of this round by the places in the list; rounds do not overlap.
    present: BTreeMap<usize, Presence>,
    /// The open calls, with the place in the list that each of them asks.
    open: BTreeMap<CallId, usize>,
    /// When the present round began, in microseconds of the monotonic clock.
    began_us: u64,
    /// When the next round begins, in microseconds of the monotonic clock; `None` during a round.
    next_round_us: Option<u64>,
    /// One attempt to join, while it is under way.
    finder: Option<Box<Finder>>,
    /// The id of the last call; only rises.
    last_call: u64,
    /// Calls that were not taken yet.
    calls: Vec<Call>,
    /// The last report, to report each change once.
    last_report: Option<Fact>,
    random: XorShift64,
}

impl RollCall {
    /// The first round is due at once. `seed` decides the pauses and the number of this process.
    fn new(introduction: Introduction, search: Search, seed: u64) -> RollCall {
        let mut list = search.peers.clone();
        list.sort();
        list.dedup();
        RollCall {
            introduction,
            search: Search {
                attempts_max: 1,
                discovery: None,
                ..search
            },
            own: Attendance {
                number: splitmix64(seed),
                list,
            },
            present: BTreeMap::new(),
            open: BTreeMap::new(),
            began_us: 0,
            next_round_us: Some(0),
            finder: None,
            last_call: 0,
            calls: Vec::new(),
            last_report: None,
            random: XorShift64::new(seed),
        }
    }

    /// The answer to a machine that asks whether this one waits.
    pub(super) fn attendance(&self) -> &Attendance {
        &self.own
    }

    // -- inputs

    /// Time has passed: begins the next round if its pause is over.
    pub(super) fn on_time(&mut self, now: Now) {
        let due = self.next_round_us.take_if(|due| now.mono_us >= *due);
        if due.is_none() {
            return;
        }
        self.began_us = now.mono_us;
        self.present.clear();
        for (place, url) in self.own.list.iter().enumerate() {
            self.last_call += 1;
            let id = CallId(self.last_call);
            self.open.insert(id, place);
            self.calls
                .push(Call::new(id, url.clone(), Question::Bootstrap));
        }
    }

    /// A call has ended. Facts to log are added to `facts`.
    pub(super) fn on_reply(
        &mut self,
        now: Now,
        id: CallId,
        reply: Reply,
        facts: &mut Vec<Fact>,
    ) -> Option<SearchOutcome> {
        if let Some(finder) = &mut self.finder {
            let outcome = finder.on_reply(now, id, reply);
            return self.on_attempt(now, outcome);
        }
        let place = self.open.remove(&id)?;
        let presence = match reply {
            Reply::Failed { .. } => Presence::Silent,
            Reply::Answered {
                answer: Ok(CallAnswer::Bootstrap(Some(waiting))),
                ..
            } => Presence::Waits(waiting),
            Reply::Answered { .. } => Presence::Elsewhere,
        };
        self.present.insert(place, presence);
        if !self.open.is_empty() {
            return None;
        }
        self.end_round(now, facts)
    }

    // -- the end of a round

    fn end_round(&mut self, now: Now, facts: &mut Vec<Fact>) -> Option<SearchOutcome> {
        let is_elsewhere = |presence: &Presence| matches!(presence, Presence::Elsewhere);
        if self.present.values().any(is_elsewhere) {
            return self.ask_to_join(now);
        }
        let report = self.difference().or_else(|| self.missing());
        let is_ready = report.is_none();
        if report.is_some() && report != self.last_report {
            facts.extend(report.clone());
        }
        self.last_report = report;
        let is_late = now.mono_us.saturating_sub(self.began_us) > ROUND_US_MAX;
        if is_ready && !is_late && self.number_at(0) == Some(self.own.number) {
            return Some(SearchOutcome::First);
        }
        self.pause(now);
        None
    }

    fn number_at(&self, place: usize) -> Option<u64> {
        match self.present.get(&place) {
            Some(Presence::Waits(waiting)) => Some(waiting.number),
            Some(Presence::Elsewhere | Presence::Silent) | None => None,
        }
    }

    /// The machines of the list that did not answer.
    fn missing(&self) -> Option<Fact> {
        let places = self.present.iter();
        let silent = places.filter(|(_, presence)| matches!(presence, Presence::Silent));
        let urls: Vec<&str> = silent.map(|(place, _)| &*self.own.list[*place]).collect();
        let fact = Fact::BootstrapWaits {
            urls: urls.join(", ").into(),
        };
        (!urls.is_empty()).then_some(fact)
    }

    /// A difference between the machines that wait. Because of it none of them may found the
    /// cluster.
    fn difference(&self) -> Option<Fact> {
        let list = &self.own.list;
        let mut owners: BTreeMap<u64, &str> = BTreeMap::new();
        for (place, presence) in &self.present {
            let Presence::Waits(waiting) = presence else {
                continue;
            };
            let url = &*list[*place];
            if waiting.list != *list {
                let difference = difference_of(list, &waiting.list);
                let why = format!("{url} was started with another list: {difference}");
                return Some(Fact::BootstrapDiffers { why: why.into() });
            }
            if let Some(other) = owners.insert(waiting.number, url) {
                let why = format!("{other} and {url} in the list are the same machine");
                return Some(Fact::BootstrapDiffers { why: why.into() });
            }
        }
        let is_complete = owners.len() == list.len();
        if is_complete && !owners.contains_key(&self.own.number) {
            let why = format!(
                "none of the addresses in the list leads to this machine, -peer-addr is {}",
                self.introduction.peer_url
            );
            return Some(Fact::BootstrapDiffers { why: why.into() });
        }
        None
    }

    fn pause(&mut self, now: Now) {
        let drawn_ms = PAUSE_MS_MIN + self.random.draw() % (PAUSE_MS_MAX - PAUSE_MS_MIN + 1);
        let pause_ms = self.search.pause_ms.unwrap_or(drawn_ms);
        self.next_round_us = Some(now.mono_us + pause_ms * 1000);
    }

    // -- joining

    /// A machine of the list may be a member: asks all to admit this machine, once.
    fn ask_to_join(&mut self, now: Now) -> Option<SearchOutcome> {
        let mut finder = Finder::new(
            self.introduction.clone(),
            self.search.clone(),
            Goal::Join,
            now.mono_us,
            self.last_call,
            self.random.draw(),
        );
        let outcome = finder.on_time(now);
        self.finder = Some(Box::new(finder));
        self.on_attempt(now, outcome)
    }

    /// The outcome of an attempt to join, if it has one.
    fn on_attempt(&mut self, now: Now, outcome: Option<SearchOutcome>) -> Option<SearchOutcome> {
        let Some(SearchOutcome::Failed(_)) = outcome else {
            return outcome;
        };
        if let Some(finder) = self.finder.take() {
            self.last_call = finder.last_call();
        }
        self.pause(now);
        None
    }

    // -- outputs

    /// Moves the calls to make now to `out`.
    pub(super) fn take_calls(&mut self, out: &mut Vec<Call>) {
        out.append(&mut self.calls);
        if let Some(finder) = &mut self.finder {
            finder.take_calls(out);
        }
    }

    /// When `on_time` has something to do, in microseconds of the monotonic clock.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.next_round_us
    }
}

/// One entry that only one of two lists has.
fn difference_of(here: &[Box<str>], there: &[Box<str>]) -> String {
    let only_here = here.iter().find(|url| !there.contains(url));
    let only_there = there.iter().find(|url| !here.contains(url));
    match (only_here, only_there) {
        (Some(url), _) => format!("{url} is missing there"),
        (None, Some(url)) => format!("{url} is missing here"),
        (None, None) => "the order differs".into(),
    }
}

impl Machine {
    /// A machine without a log that was started with the same list as all others. It listens on its
    /// peer port, and joins a cluster or founds it.
    ///
    /// # Panics
    ///
    /// If `recovered` has an id.
    pub fn await_others(
        settings: Settings,
        recovered: Recovered,
        search: Search,
        seed: u64,
    ) -> Machine {
        assert!(recovered.id.is_none(), "a member founds nothing");
        let common = Common::new(settings, &recovered, search.clone(), seed);
        let roll_call = RollCall::new(common.introduction(), search, seed);
        Machine {
            mode: MachineMode::Outside(Outside::Bootstrapping(Box::new(roll_call))),
            common,
            out: Outputs::default(),
        }
    }
}
