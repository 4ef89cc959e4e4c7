//! Committed entries are carried out: on the key space, on the views of the cluster, and for those
//! who wait for them.
//!
//! What an entry does depends on nothing but the entry and what is applied before it. Start with
//! `apply_some`.
use super::pending::Asker;
use super::propose::NOT_COMMITTED;
use super::{Replica, Standing, registry};
use crate::core::command::{self, ClusterConfig, Command};
use crate::core::error::{Code, Error};
use crate::core::raft::{EntryBody, Index, Member, Term};
use crate::core::seam::{Fact, Outcome};
use crate::core::store::Action;

/// What a turn has time for: entries, and bytes of them.
const ENTRIES_MAX: usize = 2_000;
const BYTES_MAX: usize = 4 << 20;

impl Replica {
    /// Carries out committed entries; true when there are more.
    pub(super) fn apply_some(&mut self) -> bool {
        let committed = self.raft.committed();
        if self.applied == committed {
            return false;
        }
        let (mut entries, mut bytes) = (0, 0);
        while self.applied < committed && entries < ENTRIES_MAX && bytes < BYTES_MAX {
            let index = self.applied.next();
            let entry = self.raft.entry(index);
            let entry = entry.expect("what is committed and not applied is in memory");
            let EntryBody::Good(body) = &entry.body else {
                unreachable!("raft commits nothing past a damaged entry");
            };
            let (term, size) = (entry.term, entry.size());
            let command = command::decode(body).expect("a member encoded it");
            self.saving.count(size);
            entries += 1;
            bytes += size;
            self.apply(index, term, &command);
        }
        self.raft.on_applied(self.applied);
        self.applied < committed
    }

    fn apply(&mut self, index: Index, term: Term, command: &Command) {
        let outcome = self.carry_out(index, command);
        self.applied = index;
        let mut outcome = Some(outcome);
        while let Some(proposal) = self.parked.take(index) {
            let told = if proposal.term == term {
                let outcome = outcome.take().expect("an entry was proposed once");
                outcome.unwrap_or_else(|| self.done(proposal.asker, command))
            } else {
                Outcome::Failed(Error::new(Code::RaftInternal, NOT_COMMITTED))
            };
            self.tell(proposal.asker, told);
        }
    }

    /// What a command does; its outcome if it is one on the key space.
    fn carry_out(&mut self, index: Index, command: &Command) -> Option<Outcome> {
        match command {
            Command::Nop | Command::Promote { .. } => None,
            Command::Set { .. }
            | Command::Create { .. }
            | Command::Update { .. }
            | Command::CompareAndSwap { .. }
            | Command::CompareAndDelete { .. }
            | Command::Delete { .. } => Some(self.on_key_space(command)),
            Command::Sync { now_ns } => {
                self.store.expire(*now_ns);
                None
            }
            Command::Join { name, .. } => {
                self.show_join(index, name);
                None
            }
            Command::Remove { .. } => {
                self.show_removal(index, command);
                None
            }
            Command::SetConfig(config) => {
                self.show_config(*config);
                None
            }
        }
    }

    fn on_key_space(&mut self, command: &Command) -> Outcome {
        match self.store.apply(command) {
            Ok(event) => Outcome::Event(Box::new(event)),
            Err(error) => Outcome::Failed(error),
        }
    }

    /// What is told of a command on the cluster that was carried out.
    fn done(&self, asker: Asker, command: &Command) -> Outcome {
        match (asker, command) {
            (Asker::Join(_), Command::Join { name, .. }) => {
                let members = self.raft.configuration_at(self.applied);
                let member = members.by_name(name).expect("it has just joined");
                Outcome::Joined(Index(member.id.0))
            }
            (Asker::Config(_), Command::SetConfig(config)) => Outcome::Config(*config),
            (Asker::Remove(_), Command::Remove { .. }) => Outcome::Removed,
            _ => unreachable!("who asked for a command waits for that command"),
        }
    }
}

// -- the views of the cluster
impl Replica {
    /// A new member and a changed address raise the etcd index; an unchanged rejoin does not.
    fn show_join(&mut self, index: Index, name: &str) {
        let before = self.raft.configuration_at(index.prev()).by_name(name);
        let after = self.raft.configuration_at(index).by_name(name);
        let after: &Member = after.expect("a join makes a member");
        let addresses = |m: &Member| (m.client_url.clone(), m.peer_url.clone());
        let action = match before {
            None => Some(Action::Create),
            Some(before) if addresses(before) != addresses(after) => Some(Action::Update),
            Some(_) => None,
        };
        let new = before.is_none_or(|before| before.id != after.id);
        let (id, value) = (after.id, registry::machine_value(after));
        if let Some(action) = action {
            let path = registry::machine_path(name);
            self.store.set_view(action, &path, Some(&value));
        }
        if new {
            let name = name.into();
            self.effects.facts.push(Fact::MemberJoined { name, id });
        }
    }

    fn show_removal(&mut self, index: Index, command: &Command) {
        let Command::Remove { id } = command else {
            unreachable!("called for a Remove");
        };
        let before = self.raft.configuration_at(index.prev());
        // Two removals of one member may be in the log; the second changes nothing.
        let Some(member) = before.members.iter().find(|m| m.id.0 == *id) else {
            return;
        };
        let (name, id) = (member.name.clone(), member.id);
        let path = registry::machine_path(&name);
        self.store.set_view(Action::Delete, &path, None);
        self.effects.facts.push(Fact::MemberRemoved { name, id });
        if id == self.raft.id() {
            self.standing = Standing::Removed;
        }
    }

    fn show_config(&mut self, config: ClusterConfig) {
        let text = config.to_json();
        self.store
            .set_view(Action::Set, &registry::config_path(), Some(&text));
        self.store.set_note(&text);
        self.config = Some(config);
        self.effects.facts.push(Fact::ConfigChanged { config });
    }

    /// Reads the config back after a restart or a snapshot: not from the view, which clients may
    /// write over.
    pub(super) fn kept_config(&self) -> Option<ClusterConfig> {
        registry::parse_config(self.store.note())
    }
}
