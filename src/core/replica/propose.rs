//! Proposes changes of the key space, of the cluster config and of the members.
//!
//! A proposal is appended to the log, and its ticket waits for the entry, or it is refused. While
//! no leader is known or raft is busy, the refusal is error 300 without a cause: the client may
//! repeat the request. Start with `Replica::write`, then `Replica::change_members`.
use super::Replica;
use super::pending::{MemberChange, PROPOSAL_US_MAX, Proposal, Purpose, Waiting};
use super::registry;
use crate::core::command::{self, ClusterConfig, Command, Origin};
use crate::core::error::{Code, DISK_FULL, Error};
use crate::core::peers::NewAddress;
use crate::core::public_id::PublicId;
use crate::core::raft::{
    BODY_BYTES_MAX, Index, Member, PeerId, ProposalRefusal, RaftRole, Term, UnfitChange,
};
use crate::core::seam::{Fact, Join, Op, Outcome, Ticket};
use crate::core::store::growth_max;
use crate::core::timer::Now;

/// The cause of the refusal when a removal would leave no majority of voters that answer.
const NO_MAJORITY: &str = "too few of the other voters answer";
/// The cause of the refusal when a write would make the key space larger than it may be.
const STORE_FULL: &str = "store full";
/// A full key space is reported to have room once one of so many parts is free. A key space at its
/// bound must not fill the log.
const ROOM_PARTS: u64 = 16;
/// The cause of the refusal while the log fills its memory.
const LOG_FULL: &str = "the log fills its memory until a snapshot is written";
/// The cause of the refusal while the disks are slower than the writes come.
const TOO_MANY: &str = "too many writes wait to be committed";
/// The cause of the refusal while the disk has room, but the log does not reach into it yet.
const NO_SEGMENT: &str = "the log has no room for so long a value now";

/// Why a leader does not append a client's write.
pub enum WriteRefusal {
    /// It may take the command soon, without anything else having to happen: the cause that a
    /// client is told if it does not.
    NotNow(Command, &'static str),
    /// The answer to the client.
    Final(Outcome),
}

impl WriteRefusal {
    #[cold]
    fn failed(cause: &'static str) -> WriteRefusal {
        WriteRefusal::Final(Outcome::Failed(Error::new(Code::RaftInternal, cause)))
    }

    /// The command is not taken now. One that is longer than any entry never is.
    #[cold]
    fn not_now(command: Command, cause: &'static str) -> WriteRefusal {
        if command::encoded_len(&command) as u64 > BODY_BYTES_MAX {
            return WriteRefusal::failed("the value is too long for an entry of the log");
        }
        WriteRefusal::NotNow(command, cause)
    }

    /// The answer to a client that does not wait.
    #[cold]
    pub fn into_outcome(self) -> Outcome {
        match self {
            WriteRefusal::NotNow(_, cause) => {
                Outcome::Failed(Error::new(Code::RaftInternal, cause))
            }
            WriteRefusal::Final(outcome) => outcome,
        }
    }
}

/// Writes.
impl Replica {
    /// Proposes a client's write here, or forwards it to the leader.
    pub(super) fn write(&mut self, now: Now, ticket: Ticket, command: Command) {
        self.write_until(now, ticket, command, now.mono_us + PROPOSAL_US_MAX);
    }

    /// As `write`, with the deadline in microseconds of the monotonic clock.
    pub(super) fn write_until(&mut self, now: Now, ticket: Ticket, command: Command, due_us: u64) {
        self.maybe_hand_over_full(now);
        if self.forwards_write(ticket) {
            return self.forward(ticket, Op::Write(command), due_us);
        }
        // A deletion passes: a log that takes no values still takes deletions.
        let is_value = command.content().is_some();
        let waits = is_value && self.raft.role() == RaftRole::Leader;
        let held = match self.pending.held_cause().filter(|_| waits) {
            Some(cause) => Some((command, cause)),
            None => self.propose_write(now, ticket, command, due_us),
        };
        if let Some((command, cause)) = held {
            self.hold_until_taken(ticket, command, cause, due_us);
        }
    }

    /// Proposes a client's write here, or refuses it. Returns the command, with the cause, if it is
    /// not taken now.
    pub(super) fn propose_write(
        &mut self,
        now: Now,
        ticket: Ticket,
        command: Command,
        due_us: u64,
    ) -> Option<(Command, &'static str)> {
        match self.append_write(now, command, None) {
            Ok((index, term)) => {
                self.wait_for_entry(due_us, ticket, index, term, Purpose::Write);
            }
            Err(WriteRefusal::NotNow(command, cause)) => return Some((command, cause)),
            Err(refusal) => self.answer(ticket, refusal.into_outcome()),
        }
        None
    }

    /// Whether this member leads, and the disks of a majority are full. A log that has not got its
    /// next segment yet has little room, too: a disk is full once no segment can be made.
    pub(super) fn lacks_room(&self) -> bool {
        let leads = self.raft.role() == RaftRole::Leader;
        leads && !self.raft.has_majority_with_room(self.gets_room())
    }

    /// Whether the log gets a further segment if it needs one.
    fn gets_room(&self) -> bool {
        self.log_can_grow && !self.is_disk_low
    }

    /// A leader whose log has no room, while other voters have some, begins to hand over, unless
    /// that has just failed. Returns whether it does.
    pub(super) fn maybe_hand_over_full(&mut self, now: Now) -> bool {
        let is_full = !self.gets_room() && self.raft.is_full_leader() && !self.lacks_room();
        is_full && !self.raft.leaves_writes_to_next_leader() && self.hand_over(now)
    }

    /// Appends a client's command, unless the disk or the key space has no room for it. A ttl counts
    /// from now on. `origin`: that of a command that a follower has forwarded.
    ///
    /// # Errors
    ///
    /// The command was not appended.
    #[allow(
        clippy::result_large_err,
        reason = "a refusal is rare, and boxing every event would cost each write an allocation"
    )]
    pub(super) fn append_write(
        &mut self,
        now: Now,
        mut command: Command,
        origin: Option<Origin>,
    ) -> Result<(Index, Term), WriteRefusal> {
        if let Some(lease) = command.lease_mut() {
            lease.take(self.stamp(now));
        }
        if self.lacks_room() {
            self.report_no_room();
            return Err(WriteRefusal::failed(DISK_FULL));
        }
        let leads = self.raft.role() == RaftRole::Leader;
        let awaits_segment = !self.raft.has_client_room() && self.gets_room();
        if leads && awaits_segment {
            return Err(WriteRefusal::not_now(command, NO_SEGMENT));
        }
        if self.raft.leaves_writes_to_next_leader() {
            let leader = Some(self.raft.id());
            let outcome = self.outcome_of_refusal(ProposalRefusal::NotLeader(leader));
            return Err(WriteRefusal::Final(outcome));
        }
        let is_full = match command.content() {
            Some(_) => self.is_log_full(),
            None => self.log_bytes() > 2 * self.settings.memory.log_bytes_max,
        };
        let is_full = leads && is_full;
        if is_full && self.snapshotting.is_kept_off(now) {
            return Err(WriteRefusal::failed(DISK_FULL));
        }
        if is_full {
            return Err(WriteRefusal::not_now(command, LOG_FULL));
        }
        if leads {
            // An earlier leadership may have left commands that no log has any more.
            self.proposed.drop_after(self.raft.last_index());
        }
        let growth = self.growth(&command);
        if growth > self.store_room() {
            self.report_full_store();
            return Err(WriteRefusal::failed(STORE_FULL));
        }
        match self.raft.propose_from(now, &command, origin) {
            Ok((index, term)) => {
                self.proposed.add(index, term, command, growth);
                if std::mem::take(&mut self.lacked_room) {
                    self.outputs.facts.push(Fact::RoomForWrites);
                }
                Ok((index, term))
            }
            Err(ProposalRefusal::Busy) => Err(WriteRefusal::not_now(command, TOO_MANY)),
            Err(ProposalRefusal::NoRoom) if self.gets_room() => {
                Err(WriteRefusal::not_now(command, NO_SEGMENT))
            }
            Err(refusal) => Err(WriteRefusal::Final(self.outcome_of_refusal(refusal))),
        }
    }

    /// Reports that a write was refused for want of room on the disks, once until one is taken.
    fn report_no_room(&mut self) {
        if !std::mem::replace(&mut self.lacked_room, true) {
            self.outputs.facts.push(Fact::NoRoomForWrites);
        }
    }

    /// Reports that a write was refused for want of room in the key space, once until it has shrunk.
    fn report_full_store(&mut self) {
        if !self.is_store_full {
            self.is_store_full = true;
            let bytes = self.store.bytes();
            let bytes_max = self.settings.store_bytes_max.unwrap_or(u64::MAX);
            let fact = Fact::StoreFull { bytes, bytes_max };
            self.outputs.facts.push(fact);
        }
    }

    /// Reports that a key space that was full has room again.
    pub(super) fn report_store_room(&mut self) {
        let bytes_max = self.settings.store_bytes_max.unwrap_or(u64::MAX);
        if self.is_store_full && self.store.bytes() < bytes_max / ROOM_PARTS * (ROOM_PARTS - 1) {
            self.is_store_full = false;
            self.outputs.facts.push(Fact::StoreHasRoom);
        }
    }

    /// By how many bytes a command makes the key space larger at most; 0 if its size does not matter here.
    /// Only the leader of a bounded key space refuses: a follower applies whatever is committed.
    fn growth(&self, command: &Command) -> u64 {
        let is_bounded = self.settings.store_bytes_max.is_some();
        if !is_bounded || self.raft.role() != RaftRole::Leader {
            return 0;
        }
        // Far from the bound the tree is not asked: what the command adds at most will do.
        if let Some(growth_max) = growth_max(command)
            && growth_max < self.store_room() / ROOM_PARTS
        {
            return growth_max;
        }
        match self.store.growth(command) {
            Some(growth) => growth,
            // A proposal on the path or above it, applied before, may let it succeed.
            None => match command.path() {
                Some(path) if self.proposed.may_touch(path) => growth_max(command).unwrap_or(0),
                _ => 0,
            },
        }
    }

    /// By how many bytes the key space may still grow. Proposals that are not applied yet count.
    fn store_room(&self) -> u64 {
        let Some(bytes_max) = self.settings.store_bytes_max else {
            return u64::MAX;
        };
        let bytes = self.store.bytes() + self.proposed.growth();
        bytes_max.saturating_sub(bytes)
    }

    /// The request of `ticket` was appended at `index` in `term`: the ticket waits until the entry
    /// is applied, at the longest until `due_us`.
    pub(super) fn wait_for_entry(
        &mut self,
        due_us: u64,
        ticket: Ticket,
        index: Index,
        term: Term,
        purpose: Purpose,
    ) {
        let proposal = Proposal {
            ticket,
            index,
            term,
            purpose,
        };
        self.pending.add_proposal(due_us, proposal);
    }

    /// Proposes a command that no client waits for. Returns `None` if raft refuses.
    pub fn propose_own(&mut self, now: Now, command: &Command) -> Option<Index> {
        self.raft.propose(now, command).ok().map(|(index, _)| index)
    }

    /// The answer to a client whose proposal raft has refused.
    fn outcome_of_refusal(&self, refusal: ProposalRefusal) -> Outcome {
        let failed = |code, cause: &str| Outcome::Failed(Error::new(code, cause));
        match refusal {
            ProposalRefusal::NotLeader(leader) => self
                .redirect(leader)
                .unwrap_or_else(|| failed(Code::RaftInternal, "")),
            ProposalRefusal::Busy => failed(Code::RaftInternal, TOO_MANY),
            ProposalRefusal::NoRoom => failed(Code::RaftInternal, NO_SEGMENT),
            ProposalRefusal::Unfit(UnfitChange::NotAMember) => failed(Code::KeyNotFound, ""),
            ProposalRefusal::Unfit(UnfitChange::LastVoter) => {
                failed(Code::RaftInternal, "the last voter cannot be removed")
            }
            ProposalRefusal::Unfit(UnfitChange::NotALearner) => {
                failed(Code::RaftInternal, "not a learner")
            }
            ProposalRefusal::Unfit(UnfitChange::NameTaken) => failed(Code::PeerAddressExists, ""),
            // The write of a faulty member, whose ttl is out of range. Each other way to a proposal
            // refuses with a cause of its own.
            ProposalRefusal::Unsound => failed(Code::RaftInternal, "the command is out of bounds"),
        }
    }

    /// A redirect to the member `leader`. `None` if it is this machine or no member.
    pub(super) fn redirect(&self, leader: Option<PeerId>) -> Option<Outcome> {
        let leader = leader.filter(|id| *id != self.raft.id())?;
        let member = self.raft.configuration().get(leader)?;
        Some(Outcome::Redirect {
            client_url: member.client_url.clone(),
            peer_url: member.peer_url.clone(),
        })
    }

    /// A redirect to the present leader; error 300 if no leader is known or this machine leads.
    pub(super) fn redirect_or_fail(&self) -> Outcome {
        self.outcome_of_refusal(ProposalRefusal::NotLeader(self.raft.leader()))
    }

    /// Answers with a redirect to the present leader; with error 300 if no leader is known or this
    /// machine leads.
    pub fn redirect_to_leader(&mut self, ticket: Ticket) {
        let outcome = self.redirect_or_fail();
        self.answer(ticket, outcome);
    }
}

/// The cluster config.
impl Replica {
    /// Proposes a config with the given fields changed. The others are those of the newest
    /// proposal, so that two changes at the same time both take effect.
    pub(super) fn put_config(
        &mut self,
        now: Now,
        ticket: Ticket,
        active_size: Option<f64>,
        remove_delay_s: Option<f64>,
        sync_interval_s: Option<f64>,
    ) {
        let newest = self.newest_config();
        let config = registry::config_with(newest, active_size, remove_delay_s, sync_interval_s);
        match self.raft.propose(now, &Command::SetConfig(config)) {
            Ok((index, term)) => {
                self.config.on_proposed(term, config);
                let due_us = now.mono_us + PROPOSAL_US_MAX;
                self.wait_for_entry(due_us, ticket, index, term, Purpose::Config);
            }
            Err(refusal) => {
                let outcome = self.outcome_of_refusal(refusal);
                self.answer(ticket, outcome);
            }
        }
    }

    /// The config that this member proposed last in the present term, else the config in force.
    fn newest_config(&self) -> ClusterConfig {
        let proposed = self.config.proposed_in(self.raft.term());
        proposed.unwrap_or_else(|| self.config())
    }

    /// The config in force; before the first one, the config that a new cluster will get.
    pub fn config(&self) -> ClusterConfig {
        let first = self.settings.cluster;
        let in_force = self.config.in_force();
        in_force.unwrap_or_else(|| registry::config_with(first, None, None, None))
    }

    /// Proposes the first config of a new cluster, once in a term, if this member leads. Returns
    /// whether it did.
    pub fn maybe_propose_first_config(&mut self, now: Now) -> bool {
        let term = self.raft.term();
        let is_proposed = self.config.proposed_in(term).is_some();
        if self.config.in_force().is_some() || is_proposed || !self.leads() {
            return false;
        }
        let config = self.config();
        let index = self.propose_own(now, &Command::SetConfig(config));
        if index.is_some() {
            self.config.on_proposed(term, config);
        }
        index.is_some()
    }
}

/// Membership.
#[allow(
    clippy::result_large_err,
    reason = "a refusal is rare, and boxing every event would cost each write an allocation"
)]
impl Replica {
    /// Proposes this machine's addresses if it leads and the cluster has others for it. (A follower
    /// shows them in its hello instead.) `is_taken`: another member answers at the peer URL.
    /// Returns whether it did.
    pub fn maybe_update_own_addresses(&mut self, now: Now, is_taken: bool) -> bool {
        if !self.leads() {
            return false;
        }
        let configuration = self.raft.configuration();
        let Some(own) = configuration.get(self.raft.id()) else {
            return false;
        };
        let client_url = &self.settings.client_url;
        let peer_url = &self.settings.peer_url;
        let is_same = own.client_url == *client_url && own.peer_url == *peer_url;
        if is_taken || is_same {
            return false;
        }
        let command = Command::Join {
            name: own.name.clone(),
            peer_url: peer_url.clone(),
            client_url: client_url.clone(),
            incarnation: own.incarnation,
            replaces: None,
        };
        self.propose_own(now, &command).is_some()
    }

    /// A leader proposes the addresses that a member's hello has shown. Returns whether it did.
    pub fn maybe_propose_address(&mut self, now: Now, address: &NewAddress) -> bool {
        if !self.leads() {
            return false;
        }
        let Some(member) = self.raft.configuration().get(address.id) else {
            return false;
        };
        let is_same = member.peer_url == address.peer_url
            && member.client_url == address.client_url
            && member.incarnation != 0;
        let configuration = self.raft.configuration();
        let (peer_url, client_url) = (&address.peer_url, &address.client_url);
        let reach = registry::check_reach(configuration, &member.name, peer_url, client_url);
        let is_for_both = peer_url == client_url;
        if is_same || is_for_both || reach.is_err() {
            return false;
        }
        let command = Command::Join {
            name: member.name.clone(),
            peer_url: address.peer_url.clone(),
            client_url: address.client_url.clone(),
            incarnation: address.incarnation,
            replaces: None,
        };
        self.propose_own(now, &command).is_some()
    }

    /// A request to join or to remove a machine. It waits while raft is busy with another change.
    pub(super) fn change_members(&mut self, now: Now, ticket: Ticket, change: MemberChange) {
        if let MemberChange::Join(join) = &change
            && let Some(id) = self.repeated_join(join)
        {
            return self.answer(ticket, Outcome::Joined(id));
        }
        let due_us = now.mono_us + PROPOSAL_US_MAX;
        self.pending.add_member_change(ticket, due_us, change);
        self.maybe_change_members(now, ticket);
    }

    /// The id of the member whose join this repeats: any member that has applied that join can tell
    /// it, without a leader and without an entry. Under other addresses the member is dialled
    /// there, where its hello proves that it has moved. Only the leader can propose the addresses,
    /// and a member with an old log may not know it: so a follower redirects that join to it.
    fn repeated_join(&mut self, join: &Join) -> Option<Index> {
        let members = self.raft.configuration_at(self.applied);
        let member = members.by_name(&join.name)?;
        if join.incarnation == 0 || join.incarnation != member.incarnation {
            return None;
        }
        let id = Index(member.id.0);
        if registry::has_same_urls(member, join) {
            return Some(id);
        }
        registry::check_reach(members, &join.name, &join.peer_url, &join.client_url).ok()?;
        self.hints.push(join.peer_url.clone());
        let follows = self.redirect(self.raft.leader()).is_some();
        (!follows).then_some(id)
    }

    /// Tries all pending changes of membership, in the order in which they came.
    pub(super) fn retry_member_changes(&mut self, now: Now) {
        self.join_pace.on_time(now.mono_us);
        for ticket in self.pending.member_changes() {
            self.maybe_change_members(now, ticket);
        }
    }

    /// Proposes or refuses a pending change of membership. Returns false if it is still pending.
    fn maybe_change_members(&mut self, now: Now, ticket: Ticket) -> bool {
        if self.raft.role() != RaftRole::Leader {
            self.finish(ticket, self.redirect_or_fail());
            return true;
        }
        let Some(Waiting::MemberChange(change)) = self.pending.get(ticket) else {
            return true;
        };
        let members = self.raft.configuration();
        if let MemberChange::Join(join) = &**change
            && let Some(member) = registry::moves(members, join)
            && registry::check_reach(members, &join.name, &join.peer_url, &join.client_url).is_ok()
        {
            let id = Index(member.id.0);
            if id > self.applied {
                // Its Join may never be committed, and another machine may then get the id.
                return false;
            }
            // Its hello proves the address: it is dialled there.
            let peer_url = join.peer_url.clone();
            self.hints.push(peer_url);
            self.finish(ticket, Outcome::Joined(id));
            return true;
        }
        let is_join = matches!(**change, MemberChange::Join(_));
        if is_join && !self.join_pace.is_free() {
            return false;
        }
        if let MemberChange::Join(join) = &**change
            && self.awaits_removal(join)
        {
            return false;
        }
        let made = match &**change {
            MemberChange::Join(join) => self.join_command(now, join),
            MemberChange::Remove { name, for_good } => self.remove_command(now, name, *for_good),
            MemberChange::Add { peer_urls } => self.add_command(peer_urls),
            MemberChange::Move { id, peer_urls } => self.move_command(*id, peer_urls),
            MemberChange::RemoveById(id) => self.remove_command_by_id(now, *id),
        };
        let (command, purpose) = match made {
            Ok(made) => made,
            Err(outcome) => {
                if let (MemberChange::Move { peer_urls, .. }, Outcome::MemberMoved) =
                    (&**change, &outcome)
                {
                    // The member proves the address by its hello: it is dialled there.
                    self.hints.extend(peer_urls.iter().cloned());
                }
                self.finish(ticket, outcome);
                return true;
            }
        };
        match self.raft.propose(now, &command) {
            Ok((index, term)) => {
                self.pending.take(ticket);
                let due_us = now.mono_us + PROPOSAL_US_MAX;
                self.wait_for_entry(due_us, ticket, index, term, purpose);
                if is_join {
                    self.join_pace.on_join();
                }
            }
            Err(ProposalRefusal::Busy | ProposalRefusal::NoRoom) => return false,
            Err(refusal) => self.finish(ticket, self.outcome_of_refusal(refusal)),
        }
        true
    }

    /// Whether a removal for good of the machine that asks to join is in the log, and not applied. It
    /// may never be committed, so the machine is not refused yet: it would never ask again.
    fn awaits_removal(&self, join: &Join) -> bool {
        let cluster = self.raft.snapshot().cluster;
        let is_barred = |members| registry::check_not_barred(members, cluster, join).is_err();
        is_barred(self.raft.configuration()) && !is_barred(self.members())
    }

    fn join_command(&self, now: Now, join: &Join) -> Result<(Command, Purpose), Outcome> {
        let members = self.raft.configuration();
        let is_heard = |member: &Member| self.raft.is_heard(now, member.id);
        let cluster = self.raft.snapshot().cluster;
        let command = registry::check_not_barred(members, cluster, join)
            .and_then(|()| registry::join(members, &self.newest_config(), join, is_heard));
        Ok((command.map_err(Outcome::Failed)?, Purpose::Join))
    }

    /// The command for a removal. A removal takes effect when it is appended, so one that leaves no
    /// majority of voters that answer could never commit, nor could any entry after it.
    fn remove_command(
        &self,
        now: Now,
        name: &str,
        for_good: bool,
    ) -> Result<(Command, Purpose), Outcome> {
        match self.raft.configuration().by_name(name) {
            Some(member) => self.remove_member_command(now, member, for_good),
            None => Err(Outcome::Failed(Error::new(Code::KeyNotFound, name))),
        }
    }

    fn remove_member_command(
        &self,
        now: Now,
        member: &Member,
        for_good: bool,
    ) -> Result<(Command, Purpose), Outcome> {
        // Raft refuses to remove the last voter, with a cause of its own.
        let is_last_voter = self.raft.configuration().voters().eq([member.id]);
        if !is_last_voter && !self.raft.can_remove(now, member.id) {
            let error = Error::new(Code::RaftInternal, NO_MAJORITY);
            return Err(Outcome::Failed(error));
        }
        let id = member.id.0;
        let command = Command::Remove { id, for_good };
        Ok((command, Purpose::Remove))
    }

    fn remove_command_by_id(&self, now: Now, id: PublicId) -> Result<(Command, Purpose), Outcome> {
        let member = self.member_by_id(id)?;
        self.remove_member_command(now, member, false)
    }

    fn add_command(&self, peer_urls: &[Box<str>]) -> Result<(Command, Purpose), Outcome> {
        let members = self.raft.configuration();
        let command = registry::add(members, &self.newest_config(), peer_urls);
        Ok((command.map_err(Outcome::Failed)?, Purpose::MemberAdd))
    }

    fn move_command(
        &self,
        id: PublicId,
        peer_urls: &[Box<str>],
    ) -> Result<(Command, Purpose), Outcome> {
        let member = self.member_by_id(id)?;
        let command = registry::relocate(self.raft.configuration(), member, peer_urls);
        match command.map_err(Outcome::Failed)? {
            Some(command) => Ok((command, Purpose::MemberMove)),
            None => Err(Outcome::MemberMoved),
        }
    }
}
