//! One machine without a shell: its disk, its clock, and what it has put out.
//!
//! The disk syncs when the world says so and keeps what a restart finds. The host also remembers
//! each entry that its machine has applied, to tell whether one was changed later. An order to wipe
//! or to end the process is an alarm: no message of a peer may lead to one. A wipe is none if
//! another machine has confirmed to this one that it was removed, or has lost entries.
use std::collections::BTreeMap;
use tern::core::cluster_time::Lease;
use tern::core::command::{Command, KeyPath};
use tern::core::machine::*;
use tern::core::peers::{Hello, LinkEvent, LinkId, LinkOrder};
use tern::core::raft::{HardState, Index, Lsn, Message, PeerId, Persist, Term};
use tern::core::timer::Now;
use tern_support::durable::body_hash;
use tern_support::durable_disk::DurableDisk;
use tern_support::survey;

/// 2026-11-24 00:00 UTC.
const EPOCH_NS: u64 = 1_795_478_400_000_000_000;
/// Turns after which a machine that still wants one is said to be caught in a loop.
const TURNS_MAX: usize = 10_000;

pub const START: Now = Now {
    mono_us: 1_000_000,
    wall_ns: EPOCH_NS,
};

pub fn settings(number: u64) -> Settings {
    Settings {
        name: format!("node{number}").into(),
        client_url: format!("http://127.0.0.1:{}", 4000 + number).into(),
        peer_url: format!("http://127.0.0.1:{}", 7000 + number).into(),
        heartbeat_ms: 50,
        election_ms: 200,
        snapshot_count: 40,
        snapshots: true,
        cluster: Default::default(),
        history_events: 1000,
        store_bytes_max: None,
        memory: Default::default(),
        forward: number == 2,
    }
}

/// The number of a machine's data directory.
pub fn incarnation_of(settings: &Settings) -> u64 {
    settings.name.bytes().map(u64::from).sum()
}

/// One machine, its disk and its outputs.
pub struct Host {
    pub machine: Machine,
    pub settings: Settings,
    incarnation: u64,
    pub disk: DurableDisk,
    pub now: Now,
    outputs: Outputs,
    /// Term and vote, handed to the disk and not synced.
    pending_state: Option<HardState>,
    /// Records of the log, handed to the disk and not synced.
    pending: Vec<Persist>,
    lsn: Lsn,
    /// Messages for other machines.
    pub sent: Vec<(PeerId, Message)>,
    /// The open links.
    links: BTreeMap<PeerId, LinkId>,
    /// Peers whose links the machine has closed.
    pub closed: Vec<PeerId>,
    /// An order that no message of a peer may lead to.
    pub alarm: Option<String>,
    answers: Vec<Answer>,
    /// Calls to other machines.
    pub calls: Vec<Call>,
    /// Another machine has confirmed that this one has lost its place.
    pub is_confirmed: bool,
    last_ticket: u64,
    /// Term and hash of each entry that was applied while memory held it.
    pub applied: BTreeMap<Index, (Term, Option<u64>)>,
    last_applied: Index,
}

impl Host {
    /// The founder of a cluster.
    pub fn found() -> Host {
        let settings = settings(1);
        let founding = Machine::bootstrap(&settings, incarnation_of(&settings), 5);
        let disk = DurableDisk::of_founder(founding);
        Host::start(settings, disk, START)
    }

    /// A machine that was admitted and holds nothing.
    pub fn admitted(settings: Settings, id: PeerId, now: Now) -> Host {
        Host::start(settings, DurableDisk::of(id), now)
    }

    /// A machine with what is durable on a disk, as the codecs of the disk would bring it back.
    ///
    /// # Panics
    ///
    /// If something on the disk cannot be read.
    pub fn start(settings: Settings, mut disk: DurableDisk, now: Now) -> Host {
        let incarnation = incarnation_of(&settings);
        let recovered = disk.recover(incarnation);
        let mut machine = Machine::recover(settings.clone(), recovered, disk.id.0, now);
        let looked = machine.begin_place_checks(now, Search::default());
        let last_applied = machine.applied();
        Host {
            machine,
            settings,
            incarnation,
            disk,
            now,
            outputs: Outputs::default(),
            pending_state: None,
            pending: Vec::new(),
            lsn: Lsn(0),
            sent: Vec::new(),
            links: BTreeMap::new(),
            closed: Vec::new(),
            alarm: looked.err().map(|text| format!("does not start: {text}")),
            answers: Vec::new(),
            calls: Vec::new(),
            is_confirmed: false,
            last_ticket: 0,
            applied: BTreeMap::new(),
            last_applied,
        }
    }

    /// Ends the process and starts it again with what is durable. What was applied must be applied
    /// again, unless a lying leader alone had committed it (`keeps_applied` is false).
    pub fn restart(self, keeps_applied: bool) -> Host {
        let mut host = Host::start(self.settings, self.disk, self.now);
        if keeps_applied {
            host.applied = self.applied;
        }
        host
    }

    pub fn id(&self) -> PeerId {
        self.disk.id
    }

    /// The state of the machine in one line, for the report of a failure.
    pub fn brief(&self) -> String {
        let Some(raft) = self.machine.raft() else {
            return "not a member".into();
        };
        let members = &raft.configuration().members;
        let members: Vec<(u64, bool)> = members.iter().map(|m| (m.id.0, m.voter)).collect();
        format!(
            "{:?} term {} leader {:?} last {} committed {} applied {} snapshot {} members {members:?} \
             due in {:?} us",
            raft.role(),
            raft.term().0,
            raft.leader().map(|id| id.0),
            raft.last_index().0,
            raft.committed().0,
            self.machine.applied().0,
            raft.snapshot().index.0,
            raft.next_deadline()
                .map(|us| us as i64 - self.now.mono_us as i64),
        )
    }

    /// Turns until the machine has nothing to do.
    pub fn turn(&mut self) {
        for _ in 0..TURNS_MAX {
            let has_read = self.one_turn();
            if self.alarm.is_some() || !(has_read || self.machine.wants_turn()) {
                return;
            }
        }
        panic!("the machine never rests");
    }

    /// One turn. Returns whether the disk has told the machine something.
    fn one_turn(&mut self) -> bool {
        self.outputs.clear();
        self.machine.advance(self.now, &mut self.outputs);
        self.pending_state = self.outputs.state.take().or(self.pending_state);
        self.pending.append(&mut self.outputs.persist);
        self.lsn = self.outputs.lsn;
        self.sent.append(&mut self.outputs.send);
        self.answers.append(&mut self.outputs.answers);
        self.calls.append(&mut self.outputs.calls);
        self.take_orders();
        self.take_link_orders();
        self.record_applied();
        let mut has_read = false;
        for output in std::mem::take(&mut self.outputs.snapshot) {
            if let Some(input) = self.disk.on_snapshot_output(output) {
                self.machine.on_snapshot(self.now, input);
                has_read = true;
            }
        }
        has_read
    }

    fn take_orders(&mut self) {
        for order in self.outputs.orders.drain(..) {
            match order {
                Order::Wipe
                | Order::Fail(_)
                | Order::Found
                | Order::ForceNewCluster
                | Order::Stop => {
                    self.alarm = Some(format!("{order:?}"));
                }
                Order::KeepId(_) | Order::KeepStandbyInfo { .. } | Order::FollowMembers => {}
            }
        }
    }

    fn take_link_orders(&mut self) {
        for order in std::mem::take(&mut self.outputs.links) {
            match order {
                // Each machine is dialled by the others.
                LinkOrder::Dial { link, .. } => {
                    let event = LinkEvent::Closed("not dialled here".into());
                    self.machine.on_link(self.now, link, event);
                }
                LinkOrder::Ping(_) | LinkOrder::Pong { .. } => {}
                LinkOrder::Close { link, .. } | LinkOrder::Drop { link, .. } => {
                    let peer = self.links.iter().find(|(_, open)| **open == link);
                    if let Some((peer, _)) = peer {
                        let peer = *peer;
                        self.links.remove(&peer);
                        self.closed.push(peer);
                    }
                }
            }
        }
    }

    /// A peer that knows what members know opens a link. Returns whether it is open.
    pub fn open_link(&mut self, from: PeerId) -> bool {
        if self.links.contains_key(&from) {
            return true;
        }
        let Some(raft) = self.machine.raft() else {
            return false;
        };
        let member = raft.configuration().get(from).cloned().unwrap_or_default();
        let hello = Hello {
            from,
            to: Some(self.disk.id),
            process: from.0,
            incarnation: member.incarnation,
            cluster: Some(raft.snapshot().cluster).filter(|number| *number != 0),
            receiver_incarnation: Some(self.incarnation),
            name: member.name,
            peer_url: member.peer_url,
            client_url: member.client_url,
        };
        match self.machine.on_hello(self.now, &hello, "10.0.0.1") {
            Ok((link, _)) => {
                self.links.insert(from, link);
                true
            }
            Err(_) => false,
        }
    }

    /// The link to a peer has ended.
    pub fn end_link(&mut self, peer: PeerId) {
        if let Some(link) = self.links.remove(&peer) {
            let event = LinkEvent::Closed("it has ended".into());
            self.machine.on_link(self.now, link, event);
        }
    }

    fn record_applied(&mut self) {
        let applied = self.machine.applied();
        let Some(raft) = self.machine.raft() else {
            return;
        };
        let mut at = self.last_applied.next();
        while at <= applied {
            let Some(entry) = raft.entry(at) else {
                break;
            };
            let now = (entry.term, body_hash(&entry.body));
            let before = *self.applied.entry(at).or_insert(now);
            assert_eq!(before, now, "the applied entry {} was changed", at.0);
            at = at.next();
        }
        self.last_applied = applied;
    }

    /// That no applied entry stands otherwise in memory or on the disk.
    pub fn check_applied(&self) {
        let raft = self.machine.raft().expect("a member");
        for (index, (term, hash)) in &self.applied {
            if let Some(entry) = raft.entry(*index) {
                let found = (entry.term, body_hash(&entry.body));
                let is_damaged = found.1.is_none();
                assert!(
                    found == (*term, *hash) || is_damaged,
                    "the applied entry {} was replaced",
                    index.0
                );
            }
        }
    }

    /// A call has ended.
    pub fn on_reply(&mut self, call: &Call, reply: Reply) {
        if let Reply::Answered {
            answer: Err(refusal),
            ..
        } = &reply
        {
            let reason = refusal.reason;
            let confirms = matches!(
                reason,
                RefusalReason::Removed | RefusalReason::Barred | RefusalReason::LostEntries
            );
            self.is_confirmed |= confirms && survey::asked_place(call).is_some();
        }
        self.machine.on_reply(self.now, call.id, reply);
    }

    /// Whether it holds nothing that a wipe would delete.
    pub fn is_empty(&self) -> bool {
        self.disk.snapshots.is_empty() && self.disk.log.last() == 0
    }

    /// The disk has synced term and vote.
    pub fn sync_state(&mut self) {
        if let Some(state) = self.pending_state.take() {
            self.disk.log.save_state(state);
            self.machine.on_state_synced(self.now, state.seq, 0);
        }
    }

    /// The disk has synced all that it was given.
    pub fn sync(&mut self) {
        self.sync_state();
        for record in std::mem::take(&mut self.pending) {
            self.disk.log.check_order(&record);
            self.disk.log.apply(record);
        }
        self.machine.on_synced(self.now, self.lsn, 0);
    }

    /// Turns and syncs until there is nothing left to do.
    pub fn settle(&mut self) {
        for _ in 0..TURNS_MAX {
            self.turn();
            let has_synced = self.pending_state.is_none() && self.pending.is_empty();
            if has_synced || self.alarm.is_some() {
                return;
            }
            self.sync();
        }
        panic!("the machine and its disk never rest");
    }

    /// Time passes.
    pub fn pass(&mut self, us: u64) {
        self.now.mono_us += us;
        self.now.wall_ns += us * 1000;
        let next = self.machine.next_deadline();
        if next.is_some_and(|next| next <= self.now.mono_us) {
            self.machine.on_time(self.now);
        }
        self.settle();
    }

    pub fn request(&mut self, op: Op) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.machine.on_request(self.now, ticket, op);
        ticket
    }

    /// A client's write.
    pub fn write(&mut self, value: u64) -> Ticket {
        self.request(Op::Write(Command::Set {
            path: KeyPath::new("/probe"),
            value: Some(value.to_string().into()),
            lease: None,
        }))
    }

    /// A client asks for a lock. Without the leadership the machine forwards that, or redirects.
    pub fn acquire(&mut self) {
        self.request(Op::Lock(Box::new(LockRequest::Acquire {
            lock: KeyPath::new("/lock"),
            value: "".into(),
            lease: None,
            wait: Lease::of_seconds(30),
            wait_us: 30_000_000,
            timeout_us: Some(0),
        })));
    }

    /// The outcome of a request, if it has come.
    pub fn take_outcome(&mut self, ticket: Ticket) -> Option<Outcome> {
        let at = self.answers.iter().position(|a| a.ticket == ticket)?;
        Some(self.answers.swap_remove(at).outcome)
    }
}
