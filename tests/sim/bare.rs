//! A stand-in for the machine while it is not there: raft with the model as its key space.
use super::model::Model;
use super::views::Views;
use std::collections::BTreeMap;
use tern::command::{self, Command};
use tern::error::{Code, Error};
use tern::machine::*;
use tern::raft::{self, *};
use tern::store::{ListItem, View};
use tern::timer::Now;

pub struct Probe {
    pub id: u64,
    pub term: u64,
    pub commit: u64,
    pub applied: u64,
    pub etcd: u64,
    pub leader: u64,
    pub leads: bool,
}

pub struct Bare {
    pub raft: Raft,
    settings: Settings,
    pub model: Model,
    views: Views,
    applied: u64,
    snap_at: u64,
    snapping: bool,
    pub installed: Option<u64>,
    parked: BTreeMap<u64, (u64, Ticket)>,
    reads: Vec<(u64, Ticket, Op)>,
    due_reads: Vec<(u64, u64)>,
    read_id: u64,
    out: Output,
    answers: Vec<Answer>,
    snapshot: Vec<SnapshotOut>,
    lsn: u64,
    pub removed: bool,
    pub amnesia: bool,
    stopping: bool,
}

fn snap_bytes(index: u64) -> Vec<u8> {
    (0..3_000u64).map(|i| (i.wrapping_mul(index + 7) >> 3) as u8).collect()
}

impl Bare {
    pub fn new(settings: Settings, r: Recovered, model: (Model, Views), seed: u64, now: Now) -> Bare {
        let meta = r.snapshot.map(|s| s.0).unwrap_or_default();
        let applied = meta.index.0;
        let config = RaftConfig {
            id: r.id,
            heartbeat_ms: settings.heartbeat_ms,
            election_ms: settings.election_ms,
            seed,
        };
        let state = RaftState {
            term: r.term,
            vote: r.vote,
            snapshot: meta,
            entries: r.entries,
            commit: r.commit,
        };
        let mut bare = Bare {
            raft: Raft::new(config, state, now),
            settings,
            model: model.0,
            views: model.1,
            applied,
            snap_at: applied,
            snapping: false,
            installed: None,
            parked: BTreeMap::new(),
            reads: Vec::new(),
            due_reads: Vec::new(),
            read_id: 0,
            out: Output::default(),
            answers: Vec::new(),
            snapshot: Vec::new(),
            lsn: 0,
            removed: false,
            amnesia: false,
            stopping: false,
        };
        bare.apply();
        bare
    }

    pub fn probe(&self) -> Probe {
        Probe {
            id: self.raft.id().0,
            term: self.raft.term().0,
            commit: self.raft.committed().0,
            applied: self.applied,
            etcd: self.model.index(),
            leader: self.raft.leader().0,
            leads: self.raft.role() == RaftRole::Leader,
        }
    }

    fn answer(&mut self, ticket: Ticket, outcome: Outcome) {
        let at = Indexes {
            etcd: tern::store::EtcdIndex(self.model.index()),
            commit: self.raft.committed(),
            term: self.raft.term(),
        };
        self.answers.push(Answer { ticket, at, outcome });
    }

    fn refuse(&mut self, ticket: Ticket, why: Refusal) {
        let to = match why {
            Refusal::NotLeader(id) => self.raft.configuration().get(id).cloned(),
            Refusal::Busy | Refusal::Unfit(_) => None,
        };
        let outcome = match to {
            Some(m) => Outcome::Redirect {
                client_url: m.client_url,
                peer_url: m.peer_url,
            },
            None => Outcome::Failed(Error::new(Code::RaftInternal, format!("{why:?}"))),
        };
        self.answer(ticket, outcome);
    }

    fn propose(&mut self, now: Now, ticket: Ticket, command: &Command) {
        match self.raft.propose(now, command) {
            Ok((index, term)) => {
                self.parked.insert(index.0, (term.0, ticket));
            }
            Err(why) => self.refuse(ticket, why),
        }
    }

    pub fn on_request(&mut self, now: Now, ticket: Ticket, op: Op) {
        match op {
            Op::Write(command) => self.propose(now, ticket, &command),
            Op::Get { linearizable: true, .. } => {
                self.read_id += 1;
                match self.raft.read(now, ReadId(self.read_id)) {
                    Ok(()) => self.reads.push((self.read_id, ticket, op)),
                    Err(why) => self.refuse(ticket, why),
                }
            }
            Op::Get { .. } => self.get(ticket, &op),
            Op::Join(join) => self.join(now, ticket, join),
            Op::MachineRemove { name } => match self.raft.configuration().by_name(&name) {
                Some(m) => {
                    let id = m.id.0;
                    if self.raft.can_remove(now, PeerId(id)) {
                        self.propose(now, ticket, &Command::Remove { id });
                    } else {
                        self.refuse(ticket, Refusal::Busy);
                    }
                }
                None => self.answer(ticket, Outcome::Failed(Error::new(Code::KeyNotFound, ""))),
            },
            Op::Gone | Op::More => {}
            _ => self.answer(ticket, Outcome::NotLeader),
        }
    }

    fn join(&mut self, now: Now, ticket: Ticket, join: Join) {
        let old = self.raft.configuration().by_name(&join.name);
        let replaces = match old {
            Some(m) if m.incarnation == join.incarnation => 0,
            Some(m) if self.raft.is_heard(now, m.id) => {
                return self.refuse(ticket, Refusal::Busy);
            }
            Some(m) => m.id.0,
            None => 0,
        };
        let command = Command::Join {
            name: join.name,
            peer_url: join.peer_url,
            client_url: join.client_url,
            incarnation: join.incarnation,
            replaces,
        };
        self.propose(now, ticket, &command);
    }

    fn get(&mut self, ticket: Ticket, op: &Op) {
        let Op::Get { path, .. } = op else {
            unreachable!("a read is a get")
        };
        let outcome = match self.model.view_of(path.as_str()) {
            Some(view) => Outcome::Page {
                items: vec![ListItem { depth: 0, view }],
                last: true,
            },
            None => Outcome::Failed(Error::new(Code::KeyNotFound, "")),
        };
        self.answer(ticket, outcome);
    }

    pub fn on_message(&mut self, now: Now, from: PeerId, message: Message) {
        self.raft.on_message(now, from, message);
    }

    pub fn on_link(&mut self, now: Now, id: PeerId, _state: LinkState) {
        self.raft.on_link(now, id);
    }

    pub fn on_synced(&mut self, now: Now, lsn: Lsn) {
        self.raft.on_synced(now, lsn);
    }

    pub fn on_time(&mut self, now: Now) {
        self.raft.on_time(now);
    }

    pub fn on_stop(&mut self, now: Now) {
        self.stopping = true;
        self.raft.hand_over(now, None);
    }

    pub fn on_snapshot(&mut self, now: Now, input: SnapshotIn) {
        match input {
            SnapshotIn::Saved { index, older, .. } => {
                self.snapping = false;
                self.raft.on_snapshot_saved(index, older);
            }
            SnapshotIn::Failed | SnapshotIn::Refused => unreachable!("not here"),
            SnapshotIn::Read { to, index, offset, data } => {
                self.raft.on_chunk(now, ChunkWanted { to, index, offset }, data);
            }
            SnapshotIn::Installed { meta, .. } => {
                self.raft.on_installed(now, true);
                self.installed = Some(meta.index.0);
            }
        }
    }

    pub fn restore(&mut self, index: u64, model: (Model, Views)) {
        (self.model, self.views) = model;
        self.applied = index;
        self.snap_at = index;
        self.raft.on_applied(Index(index));
    }

    fn apply(&mut self) {
        while self.applied < self.raft.committed().0 {
            self.applied += 1;
            let entry = self.raft.entry(Index(self.applied)).expect("it is in the log");
            let Body::Good(bytes) = &entry.body else {
                panic!("a damaged entry is not applied");
            };
            let command = command::decode(bytes).expect("it decodes");
            let term = entry.term.0;
            self.views.apply(&mut self.model, self.applied, &command);
            let result = self.model.apply(&command);
            if matches!(&command, Command::Remove { id } if *id == self.raft.id().0)
                || matches!(&command, Command::Join { replaces, .. } if *replaces == self.raft.id().0)
            {
                self.removed = true;
            }
            let Some((at, ticket)) = self.parked.remove(&self.applied) else {
                continue;
            };
            let outcome = match (result, &command) {
                _ if at != term => Outcome::Failed(Error::new(Code::RaftInternal, "not committed")),
                (Some(Ok(event)), _) => Outcome::Event(Box::new(event)),
                (Some(Err(code)), _) => Outcome::Failed(Error::new(code, "")),
                (None, Command::Join { name, .. }) => {
                    let now = self.raft.configuration_at(Index(self.applied));
                    Outcome::Joined(Index(now.by_name(name).expect("it was let in").id.0))
                }
                (None, _) => Outcome::Removed,
            };
            self.answer(ticket, outcome);
        }
        self.raft.on_applied(Index(self.applied));
        if self.applied >= self.snap_at + self.settings.snapshot_count && !self.snapping {
            let meta = self.raft.snapshot_meta(Index(self.applied));
            (self.snapping, self.snap_at) = (true, self.applied);
            self.snapshot.push(SnapshotOut::Begin(meta));
            self.snapshot.push(SnapshotOut::Chunk(snap_bytes(self.applied)));
            self.snapshot.push(SnapshotOut::Finish);
        }
    }

    pub fn advance(&mut self, _now: Now, fx: &mut Effects) {
        self.raft.take_output(&mut self.out);
        for wanted in std::mem::take(&mut self.out.chunks_wanted) {
            let ChunkWanted { to, index, offset } = wanted;
            self.snapshot.push(SnapshotOut::Read { to, index, offset });
        }
        for chunk in std::mem::take(&mut self.out.chunks) {
            let Chunk { meta, offset, data, done } = chunk;
            self.snapshot.push(SnapshotOut::Receive { meta, offset, data, done });
        }
        self.apply();
        for (id, index) in std::mem::take(&mut self.out.reads) {
            self.due_reads.push((id.0, index.0));
        }
        for (id, index) in std::mem::take(&mut self.due_reads) {
            if index > self.applied {
                self.due_reads.push((id, index));
                continue;
            }
            let at = self.reads.iter().position(|r| r.0 == id).expect("it waits");
            let (_, ticket, op) = self.reads.remove(at);
            self.get(ticket, &op);
        }
        for id in std::mem::take(&mut self.out.failed_reads) {
            let at = self.reads.iter().position(|r| r.0 == id.0).expect("it waits");
            let (_, ticket, _) = self.reads.remove(at);
            self.answer(ticket, Outcome::Failed(Error::new(Code::LeaderElect, "")));
        }
        for notice in std::mem::take(&mut self.out.notices) {
            match notice {
                raft::Notice::Removed => self.removed = true,
                raft::Notice::Amnesia => self.amnesia = true,
            }
        }
        self.raft.take_output(&mut self.out);
        self.out.round_trips.clear();
        self.lsn += self.out.persist.len() as u64;
        fx.persist.append(&mut self.out.persist);
        fx.lsn = Lsn(self.lsn);
        fx.send.append(&mut self.out.messages);
        fx.answers.append(&mut self.answers);
        fx.snapshot.append(&mut self.snapshot);
        fx.removed |= self.removed;
        fx.stopped = self.stopping && self.raft.role() != RaftRole::Leader;
    }

    pub fn next_deadline(&self) -> u64 {
        self.raft.next_deadline()
    }
}

/// Kept so that the type of a view is at hand.
pub type Seen = View;

impl Bare {
    pub fn seen(&self) -> super::checks::Seen {
        let p = self.probe();
        super::checks::Seen {
            id: p.id,
            term: p.term,
            commit: p.commit,
            applied: p.applied,
            etcd: p.etcd,
            leader: p.leader,
            leads: p.leads,
        }
    }

    pub fn is_amnesiac(&self) -> bool {
        self.amnesia
    }

    pub fn configuration(&self) -> &Configuration {
        self.raft.configuration()
    }

    pub fn state_hash(&self) -> Option<u64> {
        None
    }
}

/// A cluster of one: its Join is the first entry, in snapshot zero.
pub fn bootstrap(settings: &Settings, incarnation: u64, seed: u64) -> Founding {
    let member = Member {
        id: PeerId(1),
        name: settings.name.clone(),
        peer_url: settings.peer_url.clone(),
        client_url: settings.client_url.clone(),
        incarnation,
        voter: true,
    };
    Founding {
        id: PeerId(1),
        term: Term(1),
        meta: SnapshotMeta {
            cluster: seed,
            index: Index(1),
            term: Term(1),
            configuration: Configuration { members: vec![member] },
        },
        chunks: vec![snap_bytes(1)],
    }
}

impl Bare {
    pub fn on_space(&mut self, _now: Now, _space: Space) {}
}
