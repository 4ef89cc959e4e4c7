//! Finding the cluster: a search asks the known machines one after the other.
//!
//! A search has one of three goals:
//! - [`Goal::Join`] is for a machine without a log. It asks all peers, again and again, until one
//!   admits the machine or the attempts are used up. A discovery service is asked first, and may
//!   say that this machine is the first one, which starts the cluster.
//! - [`Goal::Look`] is for a member. It finds out whether the member's place in the cluster is
//!   still its own, and tells new addresses.
//! - [`Goal::Confirm`] is for a member that a peer has told that it lost its place (`claims`).
//!
//! A standby refuses these questions. It is asked for the leader that it knows, and that leader is
//! asked next.
//!
//! The finder leaves calls and takes their replies; it does not change the machine's mode. Start
//! with [`Finder::on_reply`].
use super::registrar::REGISTRATION_TTL_S;
use super::survey::{Survey, Target, with_url};
use crate::core::raft::PeerId;
use crate::core::random::XorShift64;
use crate::core::replica::registry::STORE_VERSION;
use crate::core::seam::{
    Call, CallAnswer, CallId, CallRefusal, ClusterRoom, Introduction, MachineInfo, MemberPlace,
    Question, RefusalReason, Reply, Role, StandbyInfo,
};
use crate::core::timer::Now;

/// The shortest random pause between two attempts, in milliseconds. It is random unless
/// `-retry-interval` sets it. Machines that start together then do not stay in step.
const PAUSE_MS_MIN: u64 = 2_000;
/// The longest random pause between two attempts, in milliseconds.
const PAUSE_MS_MAX: u64 = 4_000;

/// Where and how often to look for the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// The peer URLs, `http://host:port`, that this machine's data directory holds; asked first.
    pub known: Vec<Box<str>>,
    /// The URL of a discovery service's directory, if one is given. The peers that it lists are
    /// asked after `known`.
    pub discovery: Option<Box<str>>,
    /// The peer URLs of `-peers` and `-peers-file`; asked last.
    pub peers: Vec<Box<str>>,
    /// The most attempts; 0: no bound.
    pub attempts_max: u32,
    /// The pause between two attempts, in milliseconds; `None`: random.
    pub pause_ms: Option<u64>,
}

/// The purpose of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// To become a member.
    Join,
    /// To see whether a member's place is still its own.
    Look {
        /// The member's addresses are not those of the log. The search goes on until the cluster
        /// has taken them, however long that takes.
        moved: bool,
        /// The member's cluster. Only machines of this cluster are believed: an address may belong
        /// to another cluster by now.
        cluster: u64,
        /// The member's id. Only machines that have applied its join are believed: others may never
        /// have heard of it.
        id: PeerId,
    },
    /// To see whether it is true that a member was removed, or has lost entries. Each machine is
    /// asked at most once. The first one that confirms it ends the search, and so does the leader
    /// that lists the member.
    Confirm(MemberPlace),
}

/// The outcome of a search, or of one of its attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SearchOutcome {
    /// The cluster has admitted this machine as this member.
    Admitted(PeerId),
    /// This machine is the first one: it starts the cluster.
    First,
    /// This machine cannot go on; the text says why and what to do.
    Failed(Box<str>),
    /// An attempt has failed, for another reason than the one before. The search goes on.
    Retrying {
        /// The reasons of all peers.
        why: Box<str>,
        /// The time to the next attempt, in milliseconds.
        pause_ms: u64,
    },
    /// The list gives this member's peer address to another member. The search goes on.
    Occupied {
        /// The other member.
        name: Box<str>,
        /// The error text in case the other member does answer at that address.
        text: Box<str>,
    },
    /// A machine has applied the removal of this member; or a machine that knows a leader does not
    /// list it.
    Unlisted,
    /// A machine has applied the removal of this member, which was for good.
    Barred,
    /// The leader has acknowledgements of this member past the end of its log.
    LostEntries,
    /// The leader lists this member, and knows of no lost entries.
    Listed,
    /// The cluster has no place for this machine, which waits for one as a standby.
    Refused {
        /// The peer and its reason.
        why: Box<str>,
        /// The members and the sync interval of the cluster.
        info: StandbyInfo,
    },
    /// The search has ended without a finding that changes anything.
    Done,
}

/// The state of one search.
pub(super) struct Finder {
    /// How this machine introduces itself.
    introduction: Introduction,
    /// Where to look.
    search: Search,
    goal: Goal,
    /// The peers of this attempt, and the open call.
    survey: Survey,
    /// When the next attempt begins, in microseconds of the monotonic clock. `None` during an
    /// attempt and after the end.
    next_attempt_us: Option<u64>,
    /// How many attempts have failed.
    attempts: u32,
    /// The discovery service has this machine's registration and has said that it is not the first.
    is_registered: bool,
    /// Why this machine cannot join the cluster of the present peer; `None` if it can. It asks for
    /// the members nevertheless, because it becomes a standby of that cluster.
    unfit: Option<String>,
    /// The members and the sync interval, as the present peer has listed them.
    cluster_info: StandbyInfo,
    /// The peer URLs that were listed last, until the owner takes them: by the discovery service, or by
    /// a machine of the cluster that is asked to be joined.
    discovered: Vec<Box<str>>,
    /// Why the peers of this attempt did not help.
    reasons: Vec<String>,
    /// The reasons of the last failed attempt, to report each change once.
    last_reasons: String,
    /// A sentence about a peer that belongs to another cluster, not reported yet.
    other_cluster: Option<Box<str>>,
    /// A peer of another cluster was found before. Only the first one is reported.
    has_seen_other_cluster: bool,
    random: XorShift64,
}

impl Finder {
    /// A search that begins at `from_us` (microseconds of the monotonic clock). Its calls are
    /// numbered from `last_call` + 1 on. `seed` decides the pauses.
    pub(super) fn new(
        introduction: Introduction,
        search: Search,
        goal: Goal,
        from_us: u64,
        last_call: u64,
        seed: u64,
    ) -> Finder {
        Finder {
            survey: Survey::new(&introduction, last_call),
            introduction,
            search,
            goal,
            next_attempt_us: Some(from_us),
            attempts: 0,
            is_registered: false,
            unfit: None,
            cluster_info: StandbyInfo::default(),
            discovered: Vec::new(),
            reasons: Vec::new(),
            last_reasons: String::new(),
            other_cluster: None,
            has_seen_other_cluster: false,
            random: XorShift64::new(seed),
        }
    }

    /// Whether the goal is to confirm that this member has lost its place.
    pub(super) fn confirms(&self) -> bool {
        matches!(self.goal, Goal::Confirm(_))
    }

    /// Whether the goal is to become a member.
    pub(super) fn joins(&self) -> bool {
        self.goal == Goal::Join
    }

    // -- inputs

    /// Time has passed: begins the next attempt if its pause is over.
    pub(super) fn on_time(&mut self, now: Now) -> Option<SearchOutcome> {
        self.next_attempt_us.take_if(|due| now.mono_us >= *due)?;
        self.reasons.clear();
        if self.search.discovery.is_none() {
            return self.begin_peers(now, Vec::new());
        }
        if self.goal == Goal::Join && !self.is_registered {
            self.register();
        } else {
            self.ask_for_registered();
        }
        None
    }

    /// A call has ended.
    pub(super) fn on_reply(&mut self, now: Now, id: CallId, reply: Reply) -> Option<SearchOutcome> {
        let question = self.survey.on_reply(id)?;
        let (foreign, answer) = match reply {
            Reply::Answered { foreign, answer } => (foreign, answer),
            Reply::Failed { why } if question.is_for_discovery() => {
                return self.on_no_discovery(now, &why);
            }
            Reply::Failed { why } => return self.try_next_peer(now, &why),
        };
        if question.is_for_discovery() {
            return match answer {
                Ok(answer) => self.on_answer(now, answer),
                Err(refusal) => self.on_no_discovery(now, &refusal.why),
            };
        }
        if let Some(server) = foreign
            && self.unfit.is_none()
        {
            return self.on_foreign(now, &question, &server);
        }
        match answer {
            Ok(answer) => self.on_answer(now, answer),
            Err(refusal) => self.on_refusal(now, &question, &refusal),
        }
    }

    fn on_answer(&mut self, now: Now, answer: CallAnswer) -> Option<SearchOutcome> {
        match answer {
            CallAnswer::Registering => {
                self.ask_discovery(Question::TakeLead);
                None
            }
            CallAnswer::Leads(true) => self.end(SearchOutcome::First),
            CallAnswer::Leads(false) => {
                self.is_registered = true;
                self.ask_for_registered();
                None
            }
            CallAnswer::Registered(peers) => {
                self.discovered.clone_from(&peers);
                self.begin_peers(now, peers)
            }
            CallAnswer::Version(version) => self.on_version(version),
            CallAnswer::Machines(listed) => match self.goal {
                Goal::Join => self.on_machines_to_join(now, listed),
                Goal::Look { .. } => self.on_machines_to_look(now, &listed),
                Goal::Confirm(_) => self.on_machines_to_confirm(now, &listed),
            },
            CallAnswer::Config(room) => self.on_config(room),
            CallAnswer::Joined(id) => match self.goal {
                Goal::Join => self.end(SearchOutcome::Admitted(id)),
                // The leader dials the new address. Asks again until the list shows it.
                Goal::Look { .. } => self.pause(now, self.last_reasons.clone()),
                Goal::Confirm(_) => unreachable!("a member that has a place does not join"),
            },
            CallAnswer::Leader(peer_url) => self.on_leader(now, peer_url),
            CallAnswer::Bootstrap(_) => unreachable!("the finder does not ask for it"),
        }
    }

    // -- the discovery service

    fn register(&mut self) {
        self.ask_discovery(Question::Register {
            name: self.introduction.name.clone(),
            peer_url: self.introduction.peer_url.clone(),
            ttl_s: REGISTRATION_TTL_S,
        });
    }

    fn ask_for_registered(&mut self) {
        let own = &self.introduction.peer_url;
        let scheme = own.split("://").next().unwrap_or("http").into();
        self.ask_discovery(Question::Registered { scheme });
    }

    fn ask_discovery(&mut self, question: Question) {
        let service = self.search.discovery.clone().unwrap_or_default();
        self.survey.ask_at(service, question);
    }

    /// The discovery service does not help. The search goes on without it, unless the service is
    /// the only way to find peers.
    fn on_no_discovery(&mut self, now: Now, why: &str) -> Option<SearchOutcome> {
        let service = self.search.discovery.as_deref().unwrap_or_default();
        let text = with_url(service, why);
        let has_peers = !self.search.known.is_empty() || !self.search.peers.is_empty();
        if !has_peers && self.goal == Goal::Join {
            return self.fail(format!(
                "the discovery service failed: {text}. A new machine needs it, or -peers"
            ));
        }
        self.reasons.push(text);
        self.begin_peers(now, Vec::new())
    }

    // -- the peers

    /// The question that each peer port is asked first.
    fn first_question(&self) -> Question {
        match self.goal {
            Goal::Join => Question::Version,
            Goal::Look { cluster, id, .. } => Question::Machines {
                of: Some(MemberPlace {
                    cluster,
                    id,
                    last: None,
                }),
            },
            Goal::Confirm(place) => Question::Machines { of: Some(place) },
        }
    }

    /// Asks all peers, one after the other.
    fn begin_peers(&mut self, now: Now, discovered: Vec<Box<str>>) -> Option<SearchOutcome> {
        let first = self.first_question();
        let known = self.search.known.iter().cloned();
        let given = self.search.peers.iter().cloned();
        let urls = known.chain(discovered).chain(given);
        self.survey.begin(urls.map(|url| Target {
            url,
            first: first.clone(),
        }));
        self.ask_peer(now)
    }

    /// Asks the present peer its first question, or ends the attempt after the last peer.
    fn ask_peer(&mut self, now: Now) -> Option<SearchOutcome> {
        self.unfit = None;
        let Some(target) = self.survey.target() else {
            return self.end_attempt(now);
        };
        self.survey.ask(target.first.clone());
        None
    }

    fn try_next_peer(&mut self, now: Now, why: &str) -> Option<SearchOutcome> {
        let target = self.survey.target().expect("it was just asked");
        self.reasons.push(with_url(&target.url, why));
        self.survey.advance();
        self.ask_peer(now)
    }

    /// A standby has named the leader's peer port, which is asked next.
    fn on_leader(&mut self, now: Now, peer_url: Box<str>) -> Option<SearchOutcome> {
        self.survey.insert_next(Target {
            url: peer_url,
            first: self.first_question(),
        });
        self.survey.advance();
        self.ask_peer(now)
    }

    /// No peer has helped: makes another attempt after a pause, or ends the search.
    fn end_attempt(&mut self, now: Now) -> Option<SearchOutcome> {
        self.attempts = self.attempts.saturating_add(1);
        // A discovery service may list others later.
        let is_alone = self.survey.is_empty() && self.search.discovery.is_none();
        if self.survey.is_empty() {
            self.reasons.push("no other machine is named".into());
        }
        let mut why = self.reasons.join("; ");
        if is_alone {
            why = "the list of peers names no other machine".into();
        }
        let attempts_max = self.search.attempts_max;
        let is_over = match self.goal {
            Goal::Join => is_alone || (attempts_max != 0 && self.attempts >= attempts_max),
            Goal::Look { moved, .. } => is_alone || !moved,
            Goal::Confirm(_) => true,
        };
        if !is_over {
            return self.pause(now, why);
        }
        match self.goal {
            Goal::Look { .. } | Goal::Confirm(_) => self.end(SearchOutcome::Done),
            Goal::Join => self.fail(format!(
                "no cluster admitted this machine after {} attempts: {why}. Name running machines \
                 with -peers; without -peers and -discovery a machine begins a cluster of its own",
                self.attempts
            )),
        }
    }

    fn pause(&mut self, now: Now, why: String) -> Option<SearchOutcome> {
        let drawn_ms = PAUSE_MS_MIN + self.random.draw() % (PAUSE_MS_MAX - PAUSE_MS_MIN + 1);
        let pause_ms = self.search.pause_ms.unwrap_or(drawn_ms);
        self.next_attempt_us = Some(now.mono_us + pause_ms * 1000);
        if self.last_reasons == why {
            return None;
        }
        self.last_reasons.clone_from(&why);
        Some(SearchOutcome::Retrying {
            why: why.into(),
            pause_ms,
        })
    }

    // -- answers of peers

    /// The peer is not tern. tern does not join a cluster of etcd, but becomes a standby of it if
    /// the peer lists its members. A member asks the next peer: it knows its cluster.
    fn on_foreign(&mut self, now: Now, question: &Question, server: &str) -> Option<SearchOutcome> {
        let named = if server.is_empty() { "nothing" } else { server };
        let why = format!("it is not tern (its answer names {named} as server)");
        if self.goal != Goal::Join || *question != Question::Version {
            return self.try_next_peer(now, &why);
        }
        self.unfit = Some(format!(
            "{}: {why}, and tern does not join a cluster of etcd",
            self.survey.url()
        ));
        self.survey.ask(Question::Machines { of: None });
        None
    }

    fn on_refusal(
        &mut self,
        now: Now,
        question: &Question,
        refusal: &CallRefusal,
    ) -> Option<SearchOutcome> {
        let joins = self.goal == Goal::Join && matches!(question, Question::Join(_));
        if joins && refusal.reason == RefusalReason::Barred {
            self.cluster_info.is_barred = true;
        }
        let is_final = [RefusalReason::ClusterFull, RefusalReason::Barred];
        if joins && is_final.contains(&refusal.reason) {
            return self.refuse(format!("{}: {}", self.survey.url(), refusal.why));
        }
        // A refusal that answers another question than the one that was asked says nothing.
        if let Question::Machines { of: Some(place) } = question {
            match refusal.reason {
                RefusalReason::Removed => return self.end(SearchOutcome::Unlisted),
                RefusalReason::Barred => return self.end(SearchOutcome::Barred),
                RefusalReason::LostEntries if place.last.is_some() => {
                    return self.end(SearchOutcome::LostEntries);
                }
                _ => {}
            }
        }
        if refusal.reason == RefusalReason::OtherCluster {
            self.on_other_cluster();
        } else if self.unfit.is_none()
            && refusal.reason != RefusalReason::ClientPort
            && matches!(question, Question::Version | Question::Machines { .. })
        {
            // All machines that are known may have become standbys.
            self.survey.ask(Question::Leader);
            return None;
        }
        self.try_next_peer(now, &refusal.why)
    }

    fn on_other_cluster(&mut self) {
        if !self.has_seen_other_cluster {
            self.has_seen_other_cluster = true;
            let why = format!("{} is of another cluster", self.survey.url());
            self.other_cluster = Some(why.into());
        }
    }

    fn on_version(&mut self, version: u64) -> Option<SearchOutcome> {
        if version != STORE_VERSION {
            self.unfit = Some(format!(
                "{} has store version {version}, this tern has {STORE_VERSION}",
                self.survey.url()
            ));
        }
        self.survey.ask(Question::Machines { of: None });
        None
    }

    fn on_machines_to_join(&mut self, now: Now, listed: Vec<MachineInfo>) -> Option<SearchOutcome> {
        if !has_leader(&listed) {
            return self.try_next_peer(now, "it knows no leader now");
        }
        let is_listed = listed.iter().any(|m| m.name == self.introduction.name);
        self.discovered = listed.iter().map(|m| m.peer_url.clone()).collect();
        self.cluster_info.cluster = listed;
        if let Some(why) = self.unfit.take() {
            return self.refuse(why);
        }
        if is_listed {
            // A member that joins again takes no further place, so the size does not matter.
            self.ask_to_join();
        } else {
            self.survey.ask(Question::Config);
        }
        None
    }

    fn on_machines_to_look(&mut self, now: Now, listed: &[MachineInfo]) -> Option<SearchOutcome> {
        let me = &self.introduction;
        let namesake = listed.iter().find(|m| m.name == me.name);
        let occupant = listed
            .iter()
            .find(|m| m.name != me.name && m.peer_url == me.peer_url);
        if let Some(occupant) = occupant {
            let text = format!(
                "the peer address {} belongs to {} in the cluster now, which answers there: start \
                 this machine with another -peer-addr",
                me.peer_url, occupant.name
            );
            let name = occupant.name.clone();
            self.pause(now, self.last_reasons.clone());
            return Some(SearchOutcome::Occupied {
                name,
                text: text.into(),
            });
        }
        match namesake {
            Some(listed)
                if listed.client_url == me.client_url && listed.peer_url == me.peer_url =>
            {
                self.end(SearchOutcome::Done)
            }
            Some(_) => {
                self.ask_to_join();
                None
            }
            None if has_leader(listed) => self.end(SearchOutcome::Unlisted),
            None => self.try_next_peer(now, "it knows no leader now"),
        }
    }

    /// The list of a follower shows this member as long as that follower lags.
    fn on_machines_to_confirm(
        &mut self,
        now: Now,
        listed: &[MachineInfo],
    ) -> Option<SearchOutcome> {
        let url = self.survey.url();
        let mut leaders = listed.iter().filter(|m| m.state == Role::Leader);
        if leaders.any(|leader| &*leader.peer_url == url) {
            return self.end(SearchOutcome::Listed);
        }
        self.try_next_peer(now, "it lists this member, and does not lead")
    }

    fn on_config(&mut self, room: ClusterRoom) -> Option<SearchOutcome> {
        self.cluster_info.sync_interval_ms = room.sync_interval_ms;
        let machines = self.cluster_info.cluster.len();
        if machines as u64 >= room.active_size {
            return self.refuse(format!(
                "{}: the cluster is full ({machines} machines)",
                self.survey.url()
            ));
        }
        self.ask_to_join();
        None
    }

    fn ask_to_join(&mut self) {
        self.survey.ask(Question::Join(self.introduction.clone()));
    }

    // -- the end

    fn refuse(&mut self, why: String) -> Option<SearchOutcome> {
        let info = std::mem::take(&mut self.cluster_info);
        self.end(SearchOutcome::Refused {
            why: why.into(),
            info,
        })
    }

    fn fail(&mut self, text: String) -> Option<SearchOutcome> {
        self.end(SearchOutcome::Failed(text.into()))
    }

    fn end(&mut self, outcome: SearchOutcome) -> Option<SearchOutcome> {
        self.next_attempt_us = None;
        Some(outcome)
    }

    // -- outputs

    /// The id of the last call that it has made.
    pub(super) fn last_call(&self) -> u64 {
        self.survey.last_call()
    }

    /// Moves the calls to make now to `out`.
    pub(super) fn take_calls(&mut self, out: &mut Vec<Call>) {
        self.survey.take_calls(out);
    }

    /// The first peer that was passed over because it belongs to another cluster; returned once.
    pub(super) fn take_other_cluster(&mut self) -> Option<Box<str>> {
        self.other_cluster.take()
    }

    /// The peer URLs that were listed since the last call: a member without a log dials them.
    pub(super) fn take_discovered(&mut self) -> Vec<Box<str>> {
        std::mem::take(&mut self.discovered)
    }

    /// When `on_time` has something to do, in microseconds of the monotonic clock.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.next_attempt_us
    }
}

fn has_leader(listed: &[MachineInfo]) -> bool {
    listed.iter().any(|m| m.state == Role::Leader)
}
