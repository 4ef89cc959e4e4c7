//! What machines and administrators ask about the cluster: leader, machines, statistics.
use super::Replica;
use super::propose::Wish;
use crate::core::error::{Code, Error, OTHER_CLUSTER};
use crate::core::raft::{Configuration, Member, PeerId, RaftRole};
use crate::core::seam::{
    LeaderStats, MachineInfo, Op, Outcome, Role, SelfStats, StandbyInfo, Ticket,
};
use crate::core::timer::Now;

impl Replica {
    /// Answers what is asked; a change of the cluster goes into the log first.
    pub fn on_request(&mut self, now: Now, ticket: Ticket, op: Op) {
        let reads = matches!(op, Op::Get { .. } | Op::Watch { .. } | Op::Migrate);
        if reads && !self.has_joined() {
            return self.redirect_to_leader(ticket);
        }
        let outcome = match op {
            Op::Get {
                path,
                recursive,
                linearizable: true,
            } => {
                let op = Op::Get {
                    path,
                    recursive,
                    linearizable: false,
                };
                return self.read(now, ticket, op);
            }
            Op::Get {
                path, recursive, ..
            } => return self.list(now, ticket, &path, recursive),
            Op::Watch {
                path,
                recursive,
                stream,
                since,
                on_leader,
            } => {
                if on_leader && self.raft.role() != RaftRole::Leader {
                    let op = Op::Watch {
                        path,
                        recursive,
                        stream,
                        since,
                        on_leader: false,
                    };
                    return self.read(now, ticket, op);
                }
                return self.watch(ticket, &path, recursive, stream, since);
            }
            Op::Write(command) => return self.write(now, ticket, command),
            Op::SpeedTest => return self.speed_test(now, ticket),
            Op::Migrate => return self.migrate(now, ticket),
            Op::ConfigPut {
                active_size,
                remove_delay_s,
                sync_interval_s,
            } => {
                return self.put_config(now, ticket, active_size, remove_delay_s, sync_interval_s);
            }
            Op::MachineRemove { name } => return self.change(now, ticket, Wish::Remove(name)),
            Op::Join(join) => return self.change(now, ticket, Wish::Join(join)),
            Op::ContinueListing => return self.more(now, ticket),
            Op::ClientClosed => return self.forget(ticket),
            Op::Leader => self.leader_url(),
            Op::Machines => self.machine_urls(),
            Op::StatsSelf => Outcome::StatsSelf(Box::new(self.self_stats(now))),
            Op::StatsLeader => self.leader_stats(),
            Op::StatsStore => Outcome::StatsStore(Box::new(self.store.stats())),
            Op::ConfigGet => Outcome::Config(self.config()),
            Op::MachinesOf { cluster, .. } if cluster != self.raft.snapshot().cluster => {
                // A new member does not know yet where it is.
                let cause = if self.raft.snapshot().cluster == 0 {
                    ""
                } else {
                    OTHER_CLUSTER
                };
                Outcome::Failed(Error::new(Code::RaftInternal, cause))
            }
            Op::MachinesOf { id, .. } if id > self.applied.0 => {
                let cause = "that member's join is not known here yet";
                Outcome::Failed(Error::new(Code::RaftInternal, cause))
            }
            Op::MachineList | Op::MachinesOf { .. } => Outcome::MachineList(self.machine_list()),
            Op::MachineGet { name } => self.machine(&name),
        };
        self.answer(ticket, outcome);
    }

    /// A new member shows nothing before it has applied its own join.
    pub(super) fn has_joined(&self) -> bool {
        self.applied.0 >= self.raft.id().0
    }

    /// The members as of what is applied here.
    fn members(&self) -> &Configuration {
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
        let members = &self.members().members;
        let first = members.iter().filter(|m| Some(m.id) == leader);
        let others = members.iter().filter(|m| Some(m.id) != leader);
        let client_urls = first.chain(others).map(|m| m.client_url.clone()).collect();
        Outcome::Machines { client_urls }
    }

    fn machine_list(&self) -> Vec<MachineInfo> {
        let members = self.members().members.iter();
        let mut list: Vec<MachineInfo> = members.map(|m| self.machine_info(m)).collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }

    /// The cluster without this machine, as it last knew it.
    pub fn last_cluster(&self) -> StandbyInfo {
        let own = self.raft.id();
        let leader = [
            self.raft.leader().unwrap_or(PeerId::NONE),
            self.seen.last_leader,
        ]
        .into_iter()
        .find(|id| ![PeerId::NONE, own].contains(id));
        let others = self
            .raft
            .configuration()
            .members
            .iter()
            .filter(|m| m.id != own);
        let infos = others.map(|m| MachineInfo {
            state: if Some(m.id) == leader {
                Role::Leader
            } else {
                Role::Follower
            },
            ..self.machine_info(m)
        });
        StandbyInfo {
            running: true,
            cluster: infos.collect(),
            sync_interval_ms: self.config().sync_interval_ms,
        }
    }

    fn machine(&self, name: &str) -> Outcome {
        match self.members().by_name(name) {
            Some(member) => Outcome::Machine(self.machine_info(member)),
            None => Outcome::Failed(Error::new(Code::KeyNotFound, name)),
        }
    }

    fn machine_info(&self, member: &Member) -> MachineInfo {
        let leads = Some(member.id) == self.raft.leader();
        MachineInfo {
            name: member.name.clone(),
            state: if leads { Role::Leader } else { Role::Follower },
            client_url: member.client_url.clone(),
            peer_url: member.peer_url.clone(),
        }
    }

    fn self_stats(&self, now: Now) -> SelfStats {
        let leader = self.raft.leader().unwrap_or(PeerId::NONE);
        let (received, sent) = (&self.figures.received, &self.figures.sent);
        let (receives, sends) = (received.rate(now), sent.rate(now));
        let since_ns = match leader {
            PeerId::NONE => now.wall_ns,
            _ => self.seen.leader_ns,
        };
        SelfStats {
            name: self.settings.name.clone(),
            state: self.role(),
            start_ns: self.start_ns,
            leader: self.name_of(leader),
            leader_start_ns: since_ns,
            leader_uptime_ns: now.wall_ns.saturating_sub(since_ns),
            recv_append_count: received.count,
            recv_pkg_rate: receives.map(|r| r.packages),
            recv_bandwidth_rate: receives.map(|r| r.bytes),
            send_append_count: sent.count,
            send_pkg_rate: sends.map(|r| r.packages),
            send_bandwidth_rate: sends.map(|r| r.bytes),
        }
    }

    fn leader_stats(&self) -> Outcome {
        if self.raft.role() != RaftRole::Leader {
            return Outcome::NotLeader;
        }
        Outcome::StatsLeader(LeaderStats {
            leader: self.settings.name.clone(),
            followers: self.figures.followers(self.members(), self.raft.id()),
        })
    }
}
