//! Dispatches requests of clients, administrators and other machines to the parts that serve them,
//! and answers queries about the cluster.
//!
//! A request is answered at once, or its ticket becomes a row of `Pending`. Start with
//! `Replica::on_request`.
use super::Replica;
use super::pending::{Ending, MemberChange};
use crate::core::error::{Code, Error, HAS_LOST_ENTRIES, OTHER_CLUSTER, WAS_BARRED, WAS_REMOVED};
use crate::core::raft::{Configuration, Index, Member, MemberStanding, PeerId, RaftRole};
use crate::core::seam::{
    FollowerStats, FormerPlace, Indexes, LeaderStats, MachineInfo, MemberPlace, Op, Outcome, Query,
    Role, SelfStats, StandbyInfo, Ticket,
};
use crate::core::store::ViewRef;
use crate::core::timer::Now;

impl Replica {
    /// A request came in, a client is ready for the next part of its answer, or a client closed its
    /// connection.
    pub fn on_request(&mut self, now: Now, ticket: Ticket, op: Op) {
        match op {
            Op::Get { .. } | Op::Watch { .. } | Op::Migrate { .. } => self.on_read(now, ticket, op),
            Op::Write(command) => self.write(now, ticket, command),
            Op::Lock(request) => self.start_lock(now, ticket, *request),
            Op::SpeedTest => self.start_speed_test(now, ticket),
            Op::ConfigPut {
                active_size,
                remove_delay_s,
                sync_interval_s,
            } => self.put_config(now, ticket, active_size, remove_delay_s, sync_interval_s),
            Op::MachineRemove { name, for_good } => {
                self.change_members(now, ticket, MemberChange::Remove { name, for_good });
            }
            Op::ListForStandby(standby) => {
                let interval_ms = self.config().sync_interval_ms;
                self.standbys.on_fetch(now, standby, interval_ms);
                let list = self.machine_list();
                self.answer(ticket, Outcome::MachineList(list));
            }
            Op::Join(join) => self.change_members(now, ticket, MemberChange::Join(join)),
            Op::MemberAdd { peer_urls } => {
                self.change_members(now, ticket, MemberChange::Add { peer_urls });
            }
            Op::MemberMove { id, peer_urls } => {
                self.change_members(now, ticket, MemberChange::Move { id, peer_urls });
            }
            Op::MemberRemove { id } => {
                self.change_members(now, ticket, MemberChange::RemoveById(id));
            }
            Op::ContinueListing => {
                // The same op continues the past events of a stream.
                if !self.maybe_continue_listing(now, ticket) {
                    self.maybe_continue_backlog(ticket);
                }
            }
            Op::ClientClosed => {
                if !self.maybe_abandon_conversation(now, ticket) {
                    self.leave(ticket, Ending::ClientClosed);
                }
            }
            Op::Query(query) => {
                let outcome = self.query(now, &query);
                self.answer(ticket, outcome);
            }
        }
    }

    /// The file at `path` in the applied state, for a GET that is answered at once. `None` if this
    /// member must not show its key space, or if there is no file: then the request goes through
    /// `on_request`.
    pub fn get_file<'a>(&'a mut self, path: &'a str) -> Option<(Indexes, ViewRef<'a>)> {
        if !self.has_joined() {
            return None;
        }
        let at = self.indexes();
        let file = self.store.get_file(path)?;
        self.has_shown_file = true;
        Some((at, file))
    }

    /// A client reads the key space, or watches it.
    fn on_read(&mut self, now: Now, ticket: Ticket, mut op: Op) {
        if !self.has_joined() {
            return self.redirect_to_leader(ticket);
        }
        if self.take_linearizable(&mut op) {
            return self.read(now, ticket, op);
        }
        match op {
            Op::Get {
                path, recursive, ..
            } => self.list(now, ticket, &path, recursive),
            Op::Watch {
                path,
                recursive,
                stream,
                since,
                timeout_us,
                ..
            } => {
                let due_us = timeout_us.map(|timeout_us| now.mono_us + timeout_us);
                self.watch(ticket, &path, recursive, stream, since, due_us);
            }
            Op::Migrate {
                moment,
                keeps_moment,
            } => self.list_for_migration(now, ticket, moment, keeps_moment),
            _ => unreachable!("`on_request` hands in reads only"),
        }
    }

    /// Whether a leader must be confirmed before `op` is carried out. Clears the mark for that in
    /// `op`, so that it is an ordinary read afterwards. The leader serves a watch without a round.
    fn take_linearizable(&self, op: &mut Op) -> bool {
        match op {
            Op::Get { linearizable, .. } => std::mem::take(linearizable),
            Op::Watch { on_leader, .. } => {
                std::mem::take(on_leader) && self.raft.role() != RaftRole::Leader
            }
            _ => false,
        }
    }

    /// The answer to a query about the cluster or this machine.
    pub fn query(&self, now: Now, query: &Query) -> Outcome {
        match query {
            Query::Leader => self.leader_url(),
            Query::Machines => self.machine_urls(),
            Query::StatsSelf => Outcome::StatsSelf(Box::new(self.self_stats(now))),
            Query::StatsLeader => self.leader_stats(),
            Query::StatsStore => Outcome::StatsStore(Box::new(self.store.stats())),
            Query::Bootstrap => Outcome::Bootstrap(None),
            Query::ConfigGet => Outcome::Config(self.config()),
            Query::MachineList => Outcome::MachineList(self.machine_list()),
            Query::MachinesOf(place) => self.machines_of(place),
            Query::MachineGet { name } => self.machine(name),
            Query::Members => self.member_listing(),
            Query::Health => Outcome::Health(self.health(now)),
            Query::Cluster | Query::Figures => {
                unreachable!("`Machine::query` answers it in every mode")
            }
        }
    }

    /// Whether this member has applied its own Join, whose index is its id. Before that its key
    /// space is too old to be shown.
    pub(super) fn has_joined(&self) -> bool {
        self.applied.0 >= self.raft.id().0
    }

    /// The members as of the applied index.
    pub(super) fn members(&self) -> &Configuration {
        self.raft.configuration_at(self.applied)
    }

    fn leader_url(&self) -> Outcome {
        let leader = self.raft.leader();
        match leader.and_then(|id| self.members().get(id)) {
            Some(member) => Outcome::Leader {
                peer_url: member.peer_url.clone(),
            },
            None => Outcome::Failed(Error::new(Code::LeaderElect, "")),
        }
    }

    fn machine_urls(&self) -> Outcome {
        let leader = self.raft.leader();
        let members = || self.members().members.iter().filter(|m| m.has_started());
        let first = members().filter(|m| Some(m.id) == leader);
        let others = members().filter(|m| Some(m.id) != leader);
        let client_urls = first.chain(others).map(|m| m.client_url.clone()).collect();
        Outcome::Machines { client_urls }
    }

    fn machine_list(&self) -> Vec<MachineInfo> {
        let members = self.members().members.iter().filter(|m| m.has_started());
        let mut list: Vec<MachineInfo> = members.map(|m| self.machine_info(m)).collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }

    /// The machines, for a member that asks whether it is one of them. Error 300 if it was removed,
    /// has lost entries, or belongs to another cluster, or if its Join is not applied here: then it
    /// might be missing in the list although it is a member.
    fn machines_of(&self, place: &MemberPlace) -> Outcome {
        let MemberPlace { cluster, id, last } = *place;
        let own_cluster = self.raft.snapshot().cluster;
        if cluster != own_cluster {
            // A new member does not know its cluster before its first snapshot.
            let is_known = own_cluster != 0;
            let cause = if is_known { OTHER_CLUSTER } else { "" };
            return Outcome::Failed(Error::new(Code::RaftInternal, cause));
        }
        let cause = match self.raft.standing(id) {
            MemberStanding::Unknown => "that member's join is not known here yet",
            MemberStanding::Removed if self.members().is_barred(id) => WAS_BARRED,
            MemberStanding::Removed => WAS_REMOVED,
            MemberStanding::Member if self.has_lost_entries(id, last) => HAS_LOST_ENTRIES,
            MemberStanding::Member => return Outcome::MachineList(self.machine_list()),
        };
        Outcome::Failed(Error::new(Code::RaftInternal, cause))
    }

    fn has_lost_entries(&self, id: PeerId, last: Option<Index>) -> bool {
        last.is_some_and(|last| self.raft.has_lost_entries(id, last))
    }

    /// The content of `standby_info` when this machine becomes a standby: the other members of its
    /// last configuration, the leader marked.
    pub fn standby_info(&self) -> StandbyInfo {
        let own = self.raft.id();
        let is_other = |id: &PeerId| *id != own;
        let leader = self.raft.leader().filter(is_other);
        let leader = leader.or(self.leadership.last_other_leader().filter(is_other));
        let mut cluster = Vec::new();
        for member in &self.raft.configuration().members {
            if member.id == own || !member.has_started() {
                continue;
            }
            cluster.push(machine_info(member, Some(member.id) == leader));
        }
        StandbyInfo {
            running: true,
            cluster,
            sync_interval_ms: self.config().sync_interval_ms,
            former: FormerPlace::new(self.raft.snapshot().cluster, own.0),
            is_barred: false,
        }
    }

    fn machine(&self, name: &str) -> Outcome {
        match self.members().by_name(name) {
            Some(member) => Outcome::Machine(self.machine_info(member)),
            None => Outcome::Failed(Error::new(Code::KeyNotFound, name)),
        }
    }

    fn machine_info(&self, member: &Member) -> MachineInfo {
        machine_info(member, Some(member.id) == self.raft.leader())
    }

    fn self_stats(&self, now: Now) -> SelfStats {
        let received = self.statistics.received();
        let sent = self.statistics.sent();
        let received_rate = received.rate(now);
        let sent_rate = sent.rate(now);
        let leader = self.raft.leader();
        let leader_start_ns = match leader {
            Some(_) => self.leadership.leader_since_ns(),
            None => now.wall_ns,
        };
        SelfStats {
            name: self.settings.name.clone(),
            id: self.own_public_id(),
            state: self.role(),
            start_ns: self.start_ns,
            leader: self.leader_name(),
            leader_id: leader.and_then(|id| self.public_id_of(id)),
            leader_start_ns,
            leader_uptime_ns: now.wall_ns.saturating_sub(leader_start_ns),
            recv_append_count: received.count(),
            recv_pkg_rate: received_rate.map(|rate| rate.packages),
            recv_bandwidth_rate: received_rate.map(|rate| rate.bytes),
            send_append_count: sent.count(),
            send_pkg_rate: sent_rate.map(|rate| rate.packages),
            send_bandwidth_rate: sent_rate.map(|rate| rate.bytes),
        }
    }

    fn leader_stats(&self) -> Outcome {
        if self.raft.role() != RaftRole::Leader {
            return Outcome::NotLeader;
        }
        Outcome::StatsLeader(LeaderStats {
            leader: self.settings.name.clone(),
            leader_id: self.own_public_id(),
            followers: self.follower_stats(),
        })
    }
}

impl Replica {
    /// The statistics of the other members that have started.
    fn follower_stats(&self) -> Vec<FollowerStats> {
        let own = self.raft.id();
        let members = self.members().members.iter();
        let others = members.filter(|m| m.id != own && m.has_started());
        let stats = |m: &Member| self.statistics.follower(m, self.public_id(m));
        let mut stats: Vec<FollowerStats> = others.map(stats).collect();
        stats.sort_by(|a, b| a.name.cmp(&b.name));
        stats
    }
}

fn machine_info(member: &Member, is_leader: bool) -> MachineInfo {
    let state = if is_leader {
        Role::Leader
    } else {
        Role::Follower
    };
    MachineInfo {
        name: member.name.clone(),
        state,
        client_url: member.client_url.clone(),
        peer_url: member.peer_url.clone(),
    }
}
