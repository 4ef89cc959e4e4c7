//! Going on alone after the permanent loss of a majority (`-force-new-cluster`).
//!
//! Raft cannot do this: a minority never knows whether the others are lost. An operator says so by
//! naming the lost cluster (its [`PublicId`]). The steps:
//! 1. [`Machine::force`]: a member of that cluster, whose log has no damaged entry, asks all other
//!    voters whether they are of this cluster. If those that answer and this machine are a majority
//!    of the last committed or of the last appended configuration, the cluster is not lost, and the
//!    process ends. Raft does not run meanwhile.
//! 2. `Order::ForceNewCluster`: the shell calls [`Machine::go_on_alone`], and makes the result
//!    durable in one step.
//!
//! The new cluster has another number, so that no message of an old member is heard. The old
//! members may come back as a majority, and are then the old cluster again. This machine keeps the
//! old number and tells each of them that calls (`peers`); both log an error.
use super::bootstrap::{cluster_number, snapshot_of};
use super::survey::{Survey, Target};
use super::{Common, Machine, MachineMode, Outside, Search};
use crate::core::public_id::PublicId;
use crate::core::raft::{
    BarredMember, Configuration, EntryBody, Index, Member, PeerId, SnapshotMeta,
};
use crate::core::replica::{Replica, registry};
use crate::core::seam::{
    Call, CallId, Founding, MemberPlace, Order, Outputs, Question, Recovered, RefusalReason, Reply,
    Settings,
};
use crate::core::store::{Action, Store};
use crate::core::timer::Now;

/// Asks the other voters one after the other, to judge whether the cluster is lost.
pub(super) struct Forcing {
    survey: Survey,
    /// This machine.
    id: PeerId,
    /// The number of the cluster that is said to be lost.
    cluster: u64,
    /// The last committed and the last appended configuration.
    configurations: [Configuration; 2],
    /// The URLs at which a machine of the cluster has answered.
    answering: Vec<Box<str>>,
    has_begun: bool,
}

impl Forcing {
    fn new(common: &Common, id: PeerId, cluster: u64, configurations: [Configuration; 2]) -> Self {
        Forcing {
            survey: Survey::new(&common.introduction(), 0),
            id,
            cluster,
            configurations,
            answering: Vec::new(),
            has_begun: false,
        }
    }

    /// Asks the listed voters first, then the machines that the settings name: a voter may have
    /// moved there.
    fn begin(&mut self, search: &Search) -> Option<Order> {
        self.has_begun = true;
        let members = self.configurations.iter().flat_map(|c| &c.members);
        let listed = members.filter(|m| m.voter && m.id != self.id);
        let urls = listed.map(|m| &m.peer_url).chain(&search.peers);
        let first = Question::Machines {
            // A machine of the cluster knows that no member has this id. About this machine's own id
            // it might know nothing yet.
            of: Some(MemberPlace {
                cluster: self.cluster,
                id: PeerId::NONE,
                last: None,
            }),
        };
        self.survey.begin(urls.map(|url| Target {
            url: url.clone(),
            first: first.clone(),
        }));
        self.ask_next()
    }

    fn ask_next(&mut self) -> Option<Order> {
        let Some(target) = self.survey.target() else {
            return Some(self.judge());
        };
        self.survey.ask(target.first.clone());
        None
    }

    fn on_reply(&mut self, id: CallId, reply: &Reply) -> Option<Order> {
        self.survey.on_reply(id)?;
        if is_of_cluster(reply) {
            self.answering.push(self.survey.url().into());
        }
        self.survey.advance();
        self.ask_next()
    }

    fn judge(&self) -> Order {
        let is_majority = self.configurations.iter().any(|c| self.is_majority(c));
        if !is_majority {
            return Order::ForceNewCluster;
        }
        let name = PublicId::of_cluster(self.cluster);
        let why = if self.answering.is_empty() {
            "this machine alone is a majority of its voters".to_string()
        } else {
            let answering = self.answering.join(", ");
            format!(
                "with this machine, those that answer are a majority of its voters: {answering}"
            )
        };
        let text = format!(
            "-force-new-cluster={name}: the cluster is not lost: {why}. Start without the flag, and \
             remove machines that are lost with DELETE /v2/admin/machines/NAME"
        );
        Order::Fail(text.into())
    }

    /// Whether this machine and those that answer are a majority. A machine that answers at an
    /// address that is not listed is taken for a voter that has moved.
    fn is_majority(&self, configuration: &Configuration) -> bool {
        let voters = || configuration.members.iter().filter(|m| m.voter);
        let is_at = |m: &Member| m.id == self.id || self.answering.contains(&m.peer_url);
        let at_listed = voters().filter(|m| is_at(m)).count();
        let is_listed = |url: &str| configuration.members.iter().any(|m| *m.peer_url == *url);
        let elsewhere = self.answering.iter().filter(|url| !is_listed(url)).count();
        at_listed + elsewhere > voters().count() / 2
    }

    pub(super) fn take_calls(&mut self, out: &mut Vec<Call>) {
        self.survey.take_calls(out);
    }

    /// When the questions begin, in microseconds of the monotonic clock.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        (!self.has_begun).then_some(0)
    }
}

/// Whether a machine of the cluster in question has answered.
fn is_of_cluster(reply: &Reply) -> bool {
    let Reply::Answered {
        foreign: None,
        answer,
    } = reply
    else {
        return false;
    };
    match answer {
        Ok(_) => true,
        Err(refusal) => refusal.reason == RefusalReason::Removed,
    }
}

impl Machine {
    /// A member of the cluster that its operator says to be lost. `Order::ForceNewCluster` follows,
    /// or `Order::Fail`.
    ///
    /// # Errors
    ///
    /// An entry is damaged; with a sentence for the user.
    ///
    /// # Panics
    ///
    /// If the machine is not a member, or its cluster's number is unknown.
    pub fn force(
        settings: Settings,
        recovered: Recovered,
        search: Search,
        seed: u64,
        now: Now,
    ) -> Result<Machine, Box<str>> {
        refuse_damage(&recovered)?;
        let id = recovered.id.expect("only a member has a cluster");
        let common = Common::new(settings.clone(), &recovered, search, seed);
        let commit = recovered.commit;
        let replica = Replica::new(settings, recovered, seed, now);
        let raft = replica.raft();
        let cluster = raft.snapshot().cluster;
        assert!(cluster != 0, "the lost cluster was named");
        let committed = raft.configuration_at(commit.max(raft.snapshot().index));
        let configurations = [committed.clone(), raft.configuration().clone()];
        let forcing = Forcing::new(&common, id, cluster, configurations);
        Ok(Machine {
            mode: MachineMode::Outside(Outside::Forcing(Box::new(forcing))),
            common,
            out: Outputs::default(),
        })
    }

    /// The beginning of the new cluster: all entries applied, whatever they do to this member; the
    /// views of the other members removed, with an event each; this machine as the only member,
    /// under its former id and with the incarnation given. `seed` must come from the system's
    /// random source: the cluster's number is drawn from it.
    ///
    /// # Errors
    ///
    /// An entry is damaged; with a sentence for the user.
    ///
    /// # Panics
    ///
    /// If the machine is not a member.
    pub fn go_on_alone(
        settings: Settings,
        mut recovered: Recovered,
        incarnation: u64,
        seed: u64,
        now: Now,
    ) -> Result<Founding, Box<str>> {
        refuse_damage(&recovered)?;
        let id = recovered.id.expect("only a member has a cluster");
        let begin = recovered
            .snapshot
            .as_ref()
            .map_or(Index(0), |(m, _)| m.index);
        let last = recovered.entries.last().map_or(begin, |entry| entry.index);
        recovered.commit = last;
        let replica = Replica::new(settings.clone(), recovered, seed, now);
        let term = replica.raft().term().next();
        let members = replica.raft().configuration().clone();
        let listed = members.get(id).cloned();
        let own = Member {
            voter: true,
            incarnation,
            ..listed.unwrap_or(Member {
                id,
                name: settings.name,
                peer_url: settings.peer_url,
                client_url: settings.client_url,
                ..Member::default()
            })
        };
        let mut store = replica.into_store();
        leave_others(&mut store, &members, &own);
        Ok(Founding {
            id,
            term,
            meta: SnapshotMeta {
                cluster: cluster_number(seed),
                index: last.next(),
                term,
                configuration: Configuration {
                    barred: barred_without(&members, own.id),
                    members: vec![own],
                },
            },
            chunks: snapshot_of(&mut store),
        })
    }

    /// The numbers of the clusters that this machine has left by going on alone. A machine that
    /// dials with one of them is told so.
    pub fn remember_former_clusters(&mut self, clusters: &[u64]) {
        self.common.peers.remember_former_clusters(clusters);
    }

    pub(super) fn on_forcing_time(&mut self) {
        if let MachineMode::Outside(Outside::Forcing(forcing)) = &mut self.mode
            && !forcing.has_begun
        {
            let order = forcing.begin(&self.common.search);
            self.out.orders.extend(order);
        }
    }

    pub(super) fn on_forcing_reply(&mut self, id: CallId, reply: &Reply) {
        if let MachineMode::Outside(Outside::Forcing(forcing)) = &mut self.mode {
            let order = forcing.on_reply(id, reply);
            self.out.orders.extend(order);
        }
    }
}

/// Refuses a log with a damaged entry: its effect is unknown, and with a majority lost there may be
/// no other copy.
fn refuse_damage(recovered: &Recovered) -> Result<(), Box<str>> {
    let is_faulty = |body: &EntryBody| matches!(body, EntryBody::Faulty { .. });
    let faulty = recovered.entries.iter().find(|e| is_faulty(&e.body));
    match faulty {
        None => Ok(()),
        Some(entry) => Err(format!(
            "-force-new-cluster: the log entry {} is damaged. Go on with another machine of the \
             cluster, or restore the directory from a backup",
            entry.index.0
        )
        .into()),
    }
}

/// The members that stay barred when the member `own` goes on alone. It may have been removed for
/// good itself.
fn barred_without(members: &Configuration, own: PeerId) -> Vec<BarredMember> {
    let mut barred = members.barred.clone();
    barred.retain(|member| member.id != own);
    barred
}

/// Removes the views of the other members, and makes that of this machine if it is missing.
fn leave_others(store: &mut Store, members: &Configuration, own: &Member) {
    let others = members.members.iter().filter(|m| m.id != own.id);
    for other in others.filter(|m| m.has_started()) {
        let path = registry::machine_path(&other.name);
        store.set_view(Action::Delete, &path, None);
    }
    let path = registry::machine_path(&own.name);
    if store.value(&path).is_none() {
        let value = registry::machine_value(own);
        store.set_view(Action::Create, &path, Some(&value));
    }
}
