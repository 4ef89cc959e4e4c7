//! The answers to `GET /v2/cluster` and `/metrics`: this machine, its view of the cluster, and its
//! figures. Every mode has them.
//! Start with [`Machine::cluster_status`].
use super::{Machine, MachineMode, Outside};
use crate::core::seam::{
    ClusterStatus, ClusterView, CoreFigures, Health, MachineInfo, MachineStatus, MemberCondition,
    MemberStatus, ModeName, Role,
};
use crate::core::timer::Now;

impl Machine {
    /// This machine, and the cluster as it sees it.
    pub(super) fn cluster_status(&self, now: Now) -> ClusterStatus {
        let role = self.role();
        let settings = &self.common.settings;
        ClusterStatus {
            machine: MachineStatus {
                name: settings.name.clone(),
                client_url: settings.client_url.clone(),
                peer_url: settings.peer_url.clone(),
                mode: self.mode_name(),
                role,
                id: self.member().map(|member| member.replica.own_public_id()),
                health: self.health(now),
                log: self.member().map(|member| member.replica.log_status()),
            },
            is_leaders_view: role == Role::Leader,
            view: self.cluster_view(now),
        }
    }

    /// The figures of this machine for `/metrics`.
    pub(super) fn figures(&self, now: Now) -> CoreFigures {
        let is_linked = |id| self.route(id).is_some();
        let member = self.member();
        CoreFigures {
            role: self.role(),
            health: self.health(now),
            member: member.map(|member| member.replica.figures(now, is_linked)),
        }
    }

    /// Whether this machine can serve its clients.
    pub(super) fn health(&self, now: Now) -> Health {
        match &self.mode {
            MachineMode::Member(member) => member.health(now),
            MachineMode::Outside(outside) => outside.health(),
        }
    }

    fn mode_name(&self) -> ModeName {
        match &self.mode {
            MachineMode::Member(member) if member.is_running() => ModeName::Member,
            MachineMode::Outside(Outside::Standby(_)) => ModeName::Standby,
            MachineMode::Member(_) | MachineMode::Outside(_) => ModeName::Outside,
        }
    }

    fn cluster_view(&self, now: Now) -> ClusterView {
        match &self.mode {
            MachineMode::Member(member) => {
                let is_linked = |id| self.route(id).is_some();
                member.replica.cluster_view(now, is_linked)
            }
            MachineMode::Outside(Outside::Standby(standby)) => {
                let mut members: Vec<MemberStatus> =
                    standby.info().cluster.iter().map(listed).collect();
                members.sort_by(|a, b| a.name.cmp(&b.name));
                ClusterView {
                    members,
                    ..ClusterView::default()
                }
            }
            MachineMode::Outside(_) => ClusterView::default(),
        }
    }
}

/// A member as the list of machines names it.
fn listed(machine: &MachineInfo) -> MemberStatus {
    let condition = match machine.state {
        Role::Leader => MemberCondition::Leader,
        Role::Follower | Role::Candidate | Role::Standby => MemberCondition::Listed,
    };
    MemberStatus {
        id: None,
        name: machine.name.clone(),
        client_url: machine.client_url.clone(),
        peer_url: machine.peer_url.clone(),
        is_voter: None,
        condition,
        progress: None,
    }
}
