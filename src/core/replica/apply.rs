//! Applies committed entries to the key space and to the views of the cluster, and answers the
//! proposals that wait for them.
//!
//! The effect of an entry depends only on the entry and on the entries before it, so every member
//! gets the same state. Start with `Replica::apply_committed`.
use super::pending::{Proposal, Purpose};
use super::{Replica, registry};
use crate::core::command::{self, ClusterConfig, Command};
use crate::core::error::{Code, Error, NOT_COMMITTED, OUTCOME_UNKNOWN};
use crate::core::raft::{EntryBody, Index, Member, PeerId, Term};
use crate::core::seam::{Fact, Outcome};
use crate::core::store::{Action, depth_of};

/// The work of a slice, see `work_of`: that of this many entries with short keys, a quarter of a
/// millisecond. A turn applies two slices.
const WORK_MAX: usize = 250;
/// So many segments of a key take as long as an entry: each may be a directory to create.
const SEGMENTS_AN_ENTRY: usize = 4;
/// No further entry is applied in a slice after this many bytes of entries.
const BYTES_MAX: usize = 1 << 20;

/// The cost of an applied entry.
struct Applied {
    /// See `work_of`.
    work: usize,
    /// The size of the entry.
    bytes: usize,
}

/// How much work a command is, in entries with short keys.
fn work_of(command: &Command) -> usize {
    let content = command.content();
    let segments = content.map_or(0, |(path, _)| depth_of(path.as_str()));
    1 + segments as usize / SEGMENTS_AN_ENTRY
}

/// Applying, in the order of the log.
impl Replica {
    /// Applies committed entries, at most one slice. Returns whether more are left.
    pub(super) fn apply_committed(&mut self) -> bool {
        let committed = self.raft.committed();
        if self.applied == committed {
            return false;
        }
        let mut work = 0;
        let mut bytes = 0;
        while self.applied < committed && work < WORK_MAX && bytes < BYTES_MAX {
            let applied = self.apply_next();
            work += applied.work;
            bytes += applied.bytes;
        }
        self.raft.on_applied(self.applied, self.store.time().last());
        self.applied < committed
    }

    /// Applies the committed entry after `applied`. Returns its cost.
    fn apply_next(&mut self) -> Applied {
        let index = self.applied.next();
        self.hold_replaced_writes(index);
        let entry = self.raft.entry(index);
        let entry = entry.expect("a committed entry stays in memory until it is applied");
        let EntryBody::Good(body) = &entry.body else {
            unreachable!("raft commits nothing at or past a damaged entry");
        };
        let term = entry.term;
        let size = entry.size();
        let origin = command::origin(body);
        let command = match self.proposed.take(index, term) {
            Some(command) => command,
            None => command::decode(body).expect("a member encoded the entry"),
        };
        self.snapshotting.on_applied(size);
        let outcome = self.execute(index, &command);
        self.applied = index;
        let forwarder = origin.and_then(|origin| self.forwarder_of(origin, &command));
        match (forwarder, outcome) {
            (Some(ticket), Some(outcome)) => {
                self.on_taken();
                self.finish(ticket, outcome);
                self.end_proposals(index, term, &command, None);
            }
            (_, outcome) => self.end_proposals(index, term, &command, outcome),
        }
        self.on_term_applied(term);
        Applied {
            work: work_of(&command),
            bytes: size,
        }
    }

    /// Carries out a command. Returns its outcome if it is a write to the key space.
    fn execute(&mut self, index: Index, command: &Command) -> Option<Outcome> {
        match command {
            Command::Nop | Command::Promote { .. } => {}
            Command::Set { .. }
            | Command::Create { .. }
            | Command::Update { .. }
            | Command::CompareAndSwap { .. }
            | Command::CompareAndDelete { .. }
            | Command::Delete { .. } => {
                let result = self.store.apply(command);
                return Some(match result {
                    Ok(event) => Outcome::Event(event),
                    Err(error) => Outcome::Failed(error),
                });
            }
            Command::Sync { stamp } => {
                self.store.expire(*stamp);
            }
            Command::Join { name, .. } => self.on_joined(index, name),
            Command::Remove { id, .. } => self.on_removed(index, PeerId(*id)),
            Command::SetConfig(config) => self.on_config(index, *config),
        }
        None
    }

    /// Answers the proposals at `index`. The proposal of the entry's term is the entry; proposals
    /// of other terms were not committed.
    fn end_proposals(
        &mut self,
        index: Index,
        term: Term,
        command: &Command,
        mut outcome: Option<Outcome>,
    ) {
        while let Some(proposal) = self.pending.proposal_at(index) {
            let outcome = if proposal.term == term {
                let outcome = outcome.take();
                outcome.unwrap_or_else(|| self.outcome_on_cluster(proposal.purpose, command))
            } else {
                Outcome::Failed(Error::new(Code::RaftInternal, NOT_COMMITTED))
            };
            self.end_proposal(proposal, outcome);
        }
    }

    fn end_proposal(&mut self, proposal: Proposal, outcome: Outcome) {
        match proposal.purpose {
            Purpose::SpeedTest => {
                self.pending.on_speed_test_set(proposal);
                self.on_speed_test_set(proposal.ticket, outcome);
            }
            Purpose::Write
            | Purpose::Config
            | Purpose::Remove
            | Purpose::Join
            | Purpose::MemberAdd
            | Purpose::MemberMove => {
                self.finish(proposal.ticket, outcome);
            }
        }
    }

    /// The outcome of a command on the cluster.
    fn outcome_on_cluster(&self, purpose: Purpose, command: &Command) -> Outcome {
        match (purpose, command) {
            (Purpose::Join, Command::Join { name, .. }) => {
                let members = self.raft.configuration_at(self.applied);
                let member = members.by_name(name).expect("the join is applied");
                Outcome::Joined(Index(member.id.0))
            }
            (Purpose::MemberAdd, Command::Join { name, .. }) => {
                let members = self.raft.configuration_at(self.applied);
                let member = members.by_name(name).expect("the join is applied");
                Outcome::MemberAdded(self.member_info(member))
            }
            (Purpose::MemberMove, Command::Join { .. }) => Outcome::MemberMoved,
            (Purpose::Config, Command::SetConfig(config)) => Outcome::Config(*config),
            (Purpose::Remove, Command::Remove { .. }) => Outcome::Removed,
            // The proposal and its command do not fit.
            _ => Outcome::Failed(Error::new(Code::RaftInternal, OUTCOME_UNKNOWN)),
        }
    }
}

/// The views of the cluster.
impl Replica {
    /// A join was applied. A member whose machine has not started has no view. A new member and a
    /// changed address raise the etcd index; an unchanged rejoin does not.
    fn on_joined(&mut self, index: Index, name: &str) {
        let before = self.raft.configuration_at(index.prev()).by_name(name);
        let after = self.raft.configuration_at(index).by_name(name);
        let after = after.expect("a join makes a member");
        if !after.has_started() {
            return;
        }
        let action = match before {
            None => Some(Action::Create),
            Some(before) if !has_same_addresses(before, after) => Some(Action::Update),
            Some(_) => None,
        };
        let is_new = before.is_none_or(|before| before.id != after.id);
        let joined = Fact::MemberJoined {
            name: name.into(),
            peer_url: after.peer_url.clone(),
        };
        let value = registry::machine_value(after);
        if let Some(action) = action {
            let path = registry::machine_path(name);
            self.store.set_view(action, &path, Some(&value));
        }
        if is_new {
            self.report(index, joined);
        }
    }

    /// A removal was applied. The log may contain two removals of one member; the second changes
    /// nothing.
    fn on_removed(&mut self, index: Index, id: PeerId) {
        let before = self.raft.configuration_at(index.prev());
        let Some(member) = before.get(id).cloned() else {
            return;
        };
        self.removed.add(&member);
        if !member.has_started() {
            return;
        }
        let path = registry::machine_path(&member.name);
        let removed = Fact::MemberRemoved {
            name: member.name.clone(),
            peer_url: member.peer_url.clone(),
        };
        self.store.set_view(Action::Delete, &path, None);
        self.report(index, removed);
        if id == self.raft.id() {
            self.become_removed();
        }
    }

    /// A change of the cluster config was applied.
    fn on_config(&mut self, index: Index, config: ClusterConfig) {
        let text = config.to_json();
        let path = registry::config_path();
        self.store.set_view(Action::Set, &path, Some(&text));
        self.store.set_note(&text);
        self.config.on_applied(config);
        self.report(index, Fact::ConfigChanged { config });
    }

    /// Reports a change of the cluster at `index` as a log line, unless the entry is replayed
    /// history: committed before this process started, or before this machine joined (its id is the
    /// index of its Join).
    fn report(&mut self, index: Index, fact: Fact) {
        let is_history = index <= self.recovered || index <= Index(self.raft.id().0);
        if !is_history {
            self.outputs.facts.push(fact);
        }
    }

    /// Restores the cluster config after a start or a snapshot. It is read from the store's note,
    /// because clients can overwrite the view.
    pub(super) fn restore_config(&mut self) {
        let stored = registry::parse_config(self.store.note());
        self.config.on_restored(stored);
    }
}

fn has_same_addresses(a: &Member, b: &Member) -> bool {
    a.client_url == b.client_url && a.peer_url == b.peer_url
}
