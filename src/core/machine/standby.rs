//! A standby: not a member of its cluster. It redirects clients to the leader and waits for room.
//!
//! A fetch asks the known machines for the list of members and the cluster config, at once and then
//! every sync interval. When the cluster has room, or lists this machine's name, the standby asks
//! to join, for the first time one interval after it became a standby. The machines behind all
//! known peer ports may have left the cluster. A machine that refuses to list the members is asked
//! for the leader that it knows as a standby.
//!
//! A machine that was removed for good does not ask to join. It learns that from the answer that
//! confirms its removal, or from the refusal of a join, and keeps it in `standby_info`.
//!
//! The standby leaves calls and takes their replies; `transitions` changes the machine's mode.
//! Start with [`Standby::on_reply`].
use super::survey::{Survey, Target, with_url};
use crate::core::command::ClusterConfig;
use crate::core::raft::PeerId;
use crate::core::replica::registry::STORE_VERSION;
use crate::core::seam::{
    Call, CallAnswer, CallId, CallRefusal, ClusterRoom, Fact, Introduction, MachineInfo, Outcome,
    Question, RefusalReason, Reply, Role, StandbyInfo, StandbyVisitor,
};
use crate::core::timer::Now;

/// The longest pause between two fetches while no leader is known, in microseconds: clients cannot
/// be redirected then.
const LEADERLESS_US: u64 = 500_000;

/// When a standby may ask to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JoinFrom {
    /// One sync interval after it became a standby.
    NextInterval,
    /// At once: this machine learned late that it had lost its place. After one refusal it waits as
    /// with `NextInterval`.
    Now,
    /// This machine was removed for good.
    Never,
}

/// The state of standby mode.
pub(super) struct Standby {
    /// How this machine introduces itself.
    introduction: Introduction,
    /// The members as last listed and the sync interval as last reported; kept on disk.
    info: StandbyInfo,
    /// Peer URLs that are asked after those of the members.
    others: Vec<Box<str>>,
    /// When this machine became a standby, in microseconds of the monotonic clock.
    began_us: u64,
    join_from: JoinFrom,
    /// The machines of this fetch, and the open call.
    survey: Survey,
    /// When the next fetch begins, in microseconds of the monotonic clock; `None` during a fetch.
    next_fetch_us: Option<u64>,
    /// When the present fetch began, in microseconds of the monotonic clock.
    fetch_began_us: u64,
    /// The machine that gave the list is not tern. tern does not join its cluster.
    is_foreign: bool,
    /// Why the last peer of this fetch did not help.
    reason: String,
    /// The reason that was reported last, to report each change once; empty after a success.
    last_reported: String,
    /// `info` has changed and was not taken yet.
    is_unsaved: bool,
    /// For the log; not taken yet.
    facts: Vec<Fact>,
}

impl Standby {
    /// A standby whose first fetch is due at once. Its calls are numbered from `last_call` + 1 on.
    pub(super) fn new(
        now: Now,
        introduction: Introduction,
        info: StandbyInfo,
        others: Vec<Box<str>>,
        join_from: JoinFrom,
        last_call: u64,
    ) -> Standby {
        let introduction = Introduction {
            former: info.former,
            ..introduction
        };
        Standby {
            survey: Survey::new(&introduction, last_call),
            introduction,
            info: StandbyInfo {
                running: true,
                ..info
            },
            others,
            began_us: now.mono_us,
            join_from,
            next_fetch_us: Some(now.mono_us),
            fetch_began_us: 0,
            is_foreign: false,
            reason: String::new(),
            last_reported: String::new(),
            is_unsaved: true,
            facts: Vec::new(),
        }
    }

    // -- inputs

    /// `info` is durable already.
    pub(super) fn on_saved(&mut self) {
        self.is_unsaved = false;
    }

    /// Time has passed: begins a fetch if one is due.
    pub(super) fn on_time(&mut self, now: Now) {
        if self
            .next_fetch_us
            .take_if(|due| now.mono_us >= *due)
            .is_none()
        {
            return;
        }
        self.fetch_began_us = now.mono_us;
        self.reason = "it knows no other machine".into();
        let question = self.list_question();
        self.survey
            .begin(targets(&self.info.cluster, &self.others, &question));
        self.ask_target(now);
    }

    /// A call has ended. Returns the member id if the cluster has admitted this machine.
    pub(super) fn on_reply(&mut self, now: Now, id: CallId, reply: Reply) -> Option<PeerId> {
        let question = self.survey.on_reply(id)?;
        let (foreign, answer) = match reply {
            Reply::Answered { foreign, answer } => (foreign, answer),
            Reply::Failed { why } => {
                self.try_next_target(now, &why);
                return None;
            }
        };
        match answer {
            Ok(CallAnswer::Machines(listed)) => self.on_machines(now, listed, foreign.is_some()),
            Ok(CallAnswer::Config(room)) => self.on_config(now, room),
            Ok(CallAnswer::Version(version)) => self.on_version(now, version),
            Ok(CallAnswer::Joined(id)) => return Some(id),
            Ok(CallAnswer::Leader(peer_url)) => self.on_leader(now, peer_url),
            Ok(
                CallAnswer::Registering
                | CallAnswer::Leads(_)
                | CallAnswer::Registered(_)
                | CallAnswer::Bootstrap(_),
            ) => {
                unreachable!("a standby does not ask for them")
            }
            Err(refusal) => self.on_refusal(now, &question, foreign.is_some(), &refusal),
        }
        None
    }

    // -- a fetch

    /// The question for the members. It names this machine, for the leader to show.
    fn list_question(&self) -> Question {
        Question::MachinesForStandby(StandbyVisitor {
            name: self.introduction.name.clone(),
            client_url: Some(self.introduction.client_url.clone()),
        })
    }

    fn ask_target(&mut self, now: Now) {
        match self.survey.target() {
            Some(target) => self.survey.ask(target.first.clone()),
            None => self.fail_fetch(now, &self.reason.clone()),
        }
    }

    fn try_next_target(&mut self, now: Now, why: &str) {
        self.reason = with_url(self.survey.url(), why);
        self.survey.advance();
        self.ask_target(now);
    }

    fn on_machines(&mut self, now: Now, listed: Vec<MachineInfo>, is_foreign: bool) {
        // A machine that knows no leader may be cut off: its list may be old, and so may its
        // config.
        if !listed.iter().any(|m| m.state == Role::Leader) {
            return self.try_next_target(now, "it knows no leader now");
        }
        self.is_foreign = is_foreign;
        self.is_unsaved |= self.info.cluster != listed;
        self.info.cluster = listed;
        self.survey.ask(Question::Config);
    }

    fn on_config(&mut self, now: Now, room: ClusterRoom) {
        self.is_unsaved |= self.info.sync_interval_ms != room.sync_interval_ms;
        self.info.sync_interval_ms = room.sync_interval_ms;
        if self.is_foreign {
            let why = "the cluster is not tern, and tern does not join it";
            return self.on_cluster_refused(now, why);
        }
        if self.info.is_barred {
            self.last_reported.clear();
            return self.end_fetch(now);
        }
        let has_room = (self.info.cluster.len() as u64) < room.active_size;
        if !has_room && !self.is_listed() {
            self.last_reported.clear();
            self.join_from = JoinFrom::NextInterval;
            return self.end_fetch(now);
        }
        if self.fetch_began_us >= self.join_from_us() {
            self.survey.ask(Question::Version);
        } else {
            self.end_fetch(now);
        }
    }

    fn is_listed(&self) -> bool {
        let mut listed = self.info.cluster.iter();
        listed.any(|m| m.name == self.introduction.name)
    }

    fn on_version(&mut self, now: Now, version: u64) {
        if version == STORE_VERSION {
            self.survey.ask(Question::Join(self.introduction.clone()));
            return;
        }
        let why = format!("the cluster has store version {version}, not {STORE_VERSION}");
        self.on_cluster_refused(now, &why);
    }

    /// A standby has named the leader's peer port, which is asked next.
    fn on_leader(&mut self, now: Now, peer_url: Box<str>) {
        self.survey.insert_next(Target {
            url: peer_url,
            first: self.list_question(),
        });
        self.survey.advance();
        self.ask_target(now);
    }

    fn on_refusal(
        &mut self,
        now: Now,
        question: &Question,
        is_foreign: bool,
        refusal: &CallRefusal,
    ) {
        let is_list = matches!(question, Question::MachinesForStandby(_));
        // A refusal that answers another question than the one that was asked says nothing.
        if is_list && !is_foreign {
            self.survey.ask(Question::Leader);
        } else if !matches!(question, Question::Join(_)) {
            self.try_next_target(now, &refusal.why);
        } else if refusal.reason == RefusalReason::Barred {
            self.on_barred(now);
        } else {
            self.on_cluster_refused(now, &refusal.why);
        }
    }

    /// The cluster has removed this machine for good.
    fn on_barred(&mut self, now: Now) {
        self.info.is_barred = true;
        self.is_unsaved = true;
        self.facts.push(Fact::Barred);
        self.last_reported.clear();
        self.end_fetch(now);
    }

    /// The cluster itself refuses: other machines of it are not asked.
    fn on_cluster_refused(&mut self, now: Now, why: &str) {
        self.join_from = JoinFrom::NextInterval;
        self.fail_fetch(now, why);
    }

    /// Ends the fetch, and reports why it failed unless that was reported before.
    fn fail_fetch(&mut self, now: Now, why: &str) {
        if self.last_reported != why {
            self.last_reported = why.into();
            self.facts.push(Fact::StandbyRefused { why: why.into() });
        }
        self.end_fetch(now);
    }

    /// Ends the fetch: the next one is due an interval after its beginning.
    fn end_fetch(&mut self, now: Now) {
        let first_join_us = self.began_us + self.interval_us();
        let mut due_us = if self.fetch_began_us < first_join_us {
            first_join_us
        } else {
            self.fetch_began_us + self.interval_us()
        };
        if self.leader().is_none() {
            due_us = due_us.min(now.mono_us + LEADERLESS_US);
        }
        self.next_fetch_us = Some(due_us);
    }

    fn join_from_us(&self) -> u64 {
        match self.join_from {
            JoinFrom::Now => self.began_us,
            JoinFrom::NextInterval | JoinFrom::Never => self.began_us + self.interval_us(),
        }
    }

    fn interval_us(&self) -> u64 {
        let interval_ms = self.info.sync_interval_ms;
        interval_ms.clamp(ClusterConfig::SYNC_INTERVAL_MS_MIN, ClusterConfig::MS_MAX) * 1000
    }

    // -- outputs

    /// Moves the calls to make now to `calls` and the log lines to `facts`. Returns the new content
    /// of `standby_info` if it has changed.
    pub(super) fn take_outputs(
        &mut self,
        calls: &mut Vec<Call>,
        facts: &mut Vec<Fact>,
    ) -> Option<StandbyInfo> {
        self.survey.take_calls(calls);
        facts.append(&mut self.facts);
        let is_unsaved = std::mem::take(&mut self.is_unsaved);
        is_unsaved.then(|| self.info.clone())
    }

    /// When `on_time` has something to do, in microseconds of the monotonic clock.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.next_fetch_us
    }

    /// The cluster as last reported.
    pub(super) fn info(&self) -> &StandbyInfo {
        &self.info
    }

    /// Whether the last fetch has found the cluster and its leader.
    pub(super) fn has_found_cluster(&self) -> bool {
        self.leader().is_some() && self.last_reported.is_empty()
    }

    /// The last known leader, for redirects; never this machine itself.
    pub(super) fn leader(&self) -> Option<&MachineInfo> {
        leader_of(&self.info, &self.introduction)
    }

    /// The client URL to try after so many attempts: the leader's first, then one of each other
    /// member, in turn.
    pub(super) fn client_url(&self, attempts: u32) -> Option<&str> {
        let leader = self.leader().map(|leader| &*leader.client_url);
        let own_url = &self.introduction.client_url;
        let members = self.info.cluster.iter().map(|member| &*member.client_url);
        let is_other = |url: &&str| !url.is_empty() && **url != **own_url && Some(*url) != leader;
        let urls: Vec<&str> = leader.into_iter().chain(members.filter(is_other)).collect();
        urls.get(attempts as usize % urls.len().max(1)).copied()
    }

    /// The leader does not answer: the next fetch begins soon.
    pub(super) fn hurry(&mut self, now: Now) {
        let soon_us = now.mono_us.max(self.fetch_began_us + LEADERLESS_US);
        self.next_fetch_us = self.next_fetch_us.map(|next_us| next_us.min(soon_us));
    }
}

/// The leader among the members of `info`, unless it is this machine itself.
pub(super) fn leader_of<'a>(
    info: &'a StandbyInfo,
    introduction: &Introduction,
) -> Option<&'a MachineInfo> {
    let leader = info.cluster.iter().find(|m| m.state == Role::Leader)?;
    let is_me = leader.client_url == introduction.client_url || leader.name == introduction.name;
    (!is_me && !leader.client_url.is_empty()).then_some(leader)
}

/// The answer that sends a client to the leader.
pub(super) fn redirect_to(leader: &MachineInfo) -> Outcome {
    Outcome::Redirect {
        client_url: leader.client_url.clone(),
        peer_url: leader.peer_url.clone(),
    }
}

/// The targets of a fetch: the peer ports of the members, the leader's first, then `others`.
fn targets(cluster: &[MachineInfo], others: &[Box<str>], question: &Question) -> Vec<Target> {
    let (leaders, followers): (Vec<_>, Vec<_>) =
        cluster.iter().partition(|m| m.state == Role::Leader);
    let members = leaders.into_iter().chain(followers);
    let urls = members.map(|m| m.peer_url.clone());
    let target = |url| Target {
        url,
        first: question.clone(),
    };
    urls.chain(others.iter().cloned()).map(target).collect()
}
