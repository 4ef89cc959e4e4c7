//! Messages of a faulty member: each kind, with fields near what matters to the machine that gets
//! them.
//!
//! A part of the messages continues earlier ones: answers to what the machine has sent, the next
//! piece of a snapshot, appends that extend its log. Without these few messages would pass the
//! first checks. Start with [`Forger::draw`].
use crate::bodies;
use crate::host::Host;
use tern::core::cluster_time::TIME_NS_MAX;
use tern::core::raft::*;
use tern_support::rng::Rng;

/// The highest index or term that can be decoded.
const VALUE_MAX: u64 = u64::MAX >> 1;
/// Most messages of a machine that are kept for answers.
const SENT_MAX: usize = 32;

/// What the forger sees of a machine.
pub struct View {
    own: u64,
    ids: Vec<u64>,
    term: u64,
    last: u64,
    last_term: u64,
    commit: u64,
    snapshot: SnapshotMeta,
    wall_ns: u64,
}

impl View {
    /// `None` if the machine is not a member.
    pub fn of(host: &Host) -> Option<View> {
        let raft = host.machine.raft()?;
        let last = raft.last_index();
        let snapshot = raft.snapshot().clone();
        let last_term = raft.entry(last).map_or(snapshot.term, |e| e.term);
        let mut ids: Vec<u64> = raft
            .configuration()
            .members
            .iter()
            .map(|m| m.id.0)
            .collect();
        ids.push(raft.id().0);
        Some(View {
            own: raft.id().0,
            ids,
            term: raft.term().0,
            last: last.0,
            last_term: last_term.0,
            commit: raft.committed().0,
            snapshot,
            wall_ns: host.now.wall_ns,
        })
    }
}

/// A snapshot that is being sent piece by piece.
struct Transfer {
    meta: SnapshotMeta,
    content: Vec<u8>,
    at: usize,
    term: u64,
}

/// Which kinds of messages an episode has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All.
    Any,
    /// No calls of a leader.
    Follower,
}

/// Draws the messages of a faulty member.
pub struct Forger {
    pub rng: Rng,
    part: Part,
    /// In how many of a hundred fields a value is odd.
    odd_percent: u64,
    /// What machines have sent to the faulty member, oldest first.
    sent: Vec<Message>,
    /// Contents of snapshots that can be read, with their heads.
    snapshots: Vec<(SnapshotMeta, Vec<u8>)>,
    transfer: Option<Transfer>,
}

impl Forger {
    pub fn new(mut rng: Rng, part: Part, snapshots: Vec<(SnapshotMeta, Vec<u8>)>) -> Forger {
        let odd_percent = *rng.pick(&[0, 5, 15, 40]);
        Forger {
            rng,
            part,
            odd_percent,
            sent: Vec::new(),
            snapshots,
            transfer: None,
        }
    }

    /// A machine has sent a message to the faulty member.
    pub fn on_sent(&mut self, message: Message) {
        if self.sent.len() == SENT_MAX {
            self.sent.remove(0);
        }
        self.sent.push(message);
    }

    /// A message for the machine of `view`.
    pub fn draw(&mut self, view: &View) -> Message {
        if !self.sent.is_empty() && self.rng.percent(40) {
            let call = self.rng.pick(&self.sent).clone();
            if let Some(answer) = self.answer(&call, view) {
                return answer;
            }
        }
        let rpc = self.rpc(view);
        let term = match rpc {
            Rpc::Removed { .. } if self.rng.percent(70) => Term::REMOVED,
            Rpc::InstallSnapshot { .. } => {
                let term = self.transfer.as_ref().map_or(view.term, |t| t.term);
                Term(self.near(term, view))
            }
            _ => self.term(view),
        };
        Message { term, rpc }
    }

    /// A number near `value`, or one of those that matter, or any.
    fn near(&mut self, value: u64, view: &View) -> u64 {
        if !self.rng.percent(self.odd_percent) {
            return value;
        }
        let rng = &mut self.rng;
        match rng.below(8) {
            0 => value.saturating_add(1),
            1 => value.saturating_sub(1),
            2 => value.saturating_add(rng.below(10)),
            3 => value.saturating_sub(rng.below(10)),
            4 => 0,
            5 => *rng.pick(&[
                1,
                VALUE_MAX,
                VALUE_MAX - 1,
                1 << 62,
                (1 << 62) + 1,
                value.saturating_add(1 << 40),
                value.saturating_add((1 << 40) + 1),
                value.saturating_add(1 << 30),
                u64::MAX,
            ]),
            6 => *rng.pick(&[
                view.term,
                view.last,
                view.commit,
                view.snapshot.index.0,
                view.own,
                view.snapshot.cluster,
            ]),
            _ => rng.next_u64() >> rng.below(64),
        }
    }

    fn term(&mut self, view: &View) -> Term {
        let rise = *self.rng.pick(&[0, 0, 0, 0, 0, 1, 1, 2]);
        Term(self.near(view.term + rise, view))
    }

    fn index(&mut self, value: u64, view: &View) -> Index {
        Index(self.near(value, view))
    }

    fn round(&mut self, view: &View) -> Option<u64> {
        let round = self.rng.below(6);
        Some(self.near(round, view)).filter(|round| *round > 0)
    }

    fn reading(&mut self, view: &View) -> Option<LeaderReading> {
        let term = Term(self.near(view.last_term, view));
        let clock_ns = self.clock_ns();
        (clock_ns > 0).then_some(LeaderReading { term, clock_ns })
    }

    fn clock_ns(&mut self) -> u64 {
        *self.rng.pick(&[
            0,
            1,
            1_700_000_000_000_000_000,
            TIME_NS_MAX,
            TIME_NS_MAX + 1,
        ])
    }

    fn sync_us(&mut self) -> u32 {
        let usual = self.rng.below(2_000) as u32;
        *self
            .rng
            .pick(&[0, 0, usual, usual, 200_000, 10_000_000, u32::MAX])
    }

    fn rpc(&mut self, view: &View) -> Rpc {
        let kinds = if self.part == Part::Any { 20 } else { 12 };
        match self.rng.below(kinds) {
            0 | 1 => Rpc::RequestVote {
                pre: self.rng.percent(40),
                hand_over: self.rng.percent(50),
                last_index: self.index(view.last, view),
                last_term: Term(self.near(view.last_term, view)),
            },
            2 => Rpc::Vote {
                pre: self.rng.percent(50),
                granted: self.rng.percent(80),
                reading: self.reading(view),
            },
            3 | 4 => self.append_reply(view),
            5 => Rpc::SnapshotReply {
                index: self.index(view.snapshot.index.0, view),
                offset: self.near(0, view),
            },
            6 => Rpc::Fetch {
                index: self.index(view.commit, view),
                term: Term(self.near(view.last_term, view)),
            },
            7 => self.fetched(view),
            8 => Rpc::Removed {
                cluster: self.near(view.snapshot.cluster, view),
                id: PeerId(self.near(view.own, view)),
            },
            9 | 10 => self.forward(view),
            11 => self.forwarded(view),
            12..=16 => self.append(view),
            17 | 18 => self.snapshot(view),
            _ => Rpc::TimeoutNow,
        }
    }

    fn append(&mut self, view: &View) -> Rpc {
        let prev = match self.rng.below(10) {
            0..=5 => (view.last, view.last_term),
            6 => (view.commit, view.last_term),
            7 => (0, 0),
            8 => (self.rng.below(view.last.saturating_add(1)), view.last_term),
            _ => (view.snapshot.index.0, view.snapshot.term.0),
        };
        let prev_index = self.index(prev.0, view);
        let prev_term = Term(self.near(prev.1, view));
        let term = self.near(view.term, view);
        let mut entries = Vec::new();
        for at in 0..*self.rng.pick(&[0, 0, 1, 1, 2, 5]) {
            let index = prev_index.0.saturating_add(at + 1);
            let body = bodies::body(&mut self.rng, &view.ids, index, view.wall_ns);
            entries.push(Entry {
                term: Term(self.near(term.max(prev_term.0), view)),
                index: Index(index),
                body: EntryBody::Good(body.into()),
            });
        }
        let end = prev_index.0.saturating_add(entries.len() as u64);
        let commit = *self.rng.pick(&[view.commit, view.last, end, end]);
        let acked = *self
            .rng
            .pick(&[0, 0, 0, view.commit, view.last, end.saturating_add(1)]);
        Rpc::AppendEntries {
            prev_index,
            prev_term,
            commit: self.index(commit, view),
            acked: self.index(acked, view),
            round: self.round(view),
            sync_us: self.sync_us(),
            round_trip_us: self.sync_us(),
            pause_us: self.sync_us(),
            clock_ns: self.clock_ns(),
            held_bytes: Some(self.near(0, view)).filter(|bytes| *bytes > 0),
            entries,
        }
    }

    fn append_reply(&mut self, view: &View) -> Rpc {
        let answer = match self.rng.below(5) {
            0..=2 => AppendAnswer::Accepted {
                verified: self.index(view.last, view),
                matched: self.index(view.last, view),
                want_snapshot: self.rng.percent(20),
            },
            3 => AppendAnswer::Rejected {
                prev: self.index(view.last, view),
                hint: self.index(view.commit, view),
                hint_term: Term(self.near(view.last_term, view)),
            },
            _ => AppendAnswer::Stale,
        };
        Rpc::AppendReply {
            round: self.round(view),
            sync_us: self.sync_us(),
            free_bytes: self.near(1 << 30, view),
            answer,
        }
    }

    fn fetched(&mut self, view: &View) -> Rpc {
        let index = self
            .rng
            .range(view.snapshot.index.0, view.last.max(view.snapshot.index.0));
        let found = match self.rng.below(4) {
            0 => {
                let body = bodies::body(&mut self.rng, &view.ids, index, view.wall_ns);
                FetchResult::Body(body.into())
            }
            1 => FetchResult::Damaged,
            2 => FetchResult::NeverStored,
            _ => FetchResult::OnlyInSnapshot,
        };
        Rpc::Fetched {
            index: self.index(index, view),
            term: Term(self.near(view.last_term, view)),
            found,
        }
    }

    fn forward(&mut self, view: &View) -> Rpc {
        let command = self.rng.percent(60).then(|| {
            let body = bodies::body(&mut self.rng, &view.ids, view.last + 1, view.wall_ns);
            body.into_boxed_slice()
        });
        // In these tests the number of a process is the id of its member.
        let process = match self.rng.below(3) {
            0 => self.rng.below(6),
            _ => *self.rng.pick(&view.ids),
        };
        Rpc::Forward {
            process,
            number: self.rng.next_u64() >> *self.rng.pick(&[0, 40, 58, 61]),
            command,
        }
    }

    fn forwarded(&mut self, view: &View) -> Rpc {
        let answer = match self.rng.below(3) {
            0 => Err("not leading".into()),
            1 => Err("x".repeat(self.rng.index(5_000)).into()),
            _ => Ok(self.index(view.last + 1, view)),
        };
        Rpc::Forwarded {
            process: self.near(view.own, view),
            number: self.rng.below(10),
            answer,
        }
    }

    /// The next piece of the snapshot under way, or the first one of another.
    fn snapshot(&mut self, view: &View) -> Rpc {
        if self.transfer.is_none() || self.rng.percent(5) {
            self.begin_transfer(view);
        }
        self.piece()
    }

    fn begin_transfer(&mut self, view: &View) {
        let (known, content) = self.rng.pick(&self.snapshots).clone();
        let mut meta = if self.rng.percent(50) {
            view.snapshot.clone()
        } else {
            known
        };
        let index = view.last + self.rng.below(5);
        meta.cluster = self.near(view.snapshot.cluster, view);
        meta.index = self.index(index, view);
        meta.term = Term(self.near(view.last_term, view));
        if self.rng.percent(self.odd_percent) {
            self.change_members(&mut meta.configuration.members, view);
        }
        let mut content = content;
        if self.rng.percent(20) {
            bodies::mutate(&mut self.rng, &mut content);
        }
        let term = *self.rng.pick(&[view.term, view.term, view.term + 1, 0]);
        self.transfer = Some(Transfer {
            meta,
            content,
            at: 0,
            term,
        });
    }

    fn change_members(&mut self, members: &mut Vec<Member>, view: &View) {
        if members.is_empty() || self.rng.percent(20) {
            members.push(Member {
                id: PeerId(self.near(view.last, view)),
                name: "new".into(),
                voter: true,
                ..Member::default()
            });
        } else {
            let at = self.rng.index(members.len());
            match self.rng.below(5) {
                0 => drop(members.remove(at)),
                1 => members[at].name = (*self.rng.pick(&["", "..", "a/b", "node1"])).into(),
                2 => members[at].id = PeerId(self.near(view.last, view)),
                3 => members[at].peer_url = "\0".into(),
                _ => members[at].voter = !members[at].voter,
            }
        }
        members.sort_by_key(|m| m.id);
        members.dedup_by_key(|m| m.id);
    }

    fn piece(&mut self) -> Rpc {
        let transfer = self.transfer.as_mut().expect("begun");
        let length = self.rng.range(1, 3_000) as usize;
        let end = (transfer.at + length).min(transfer.content.len());
        let data: Box<[u8]> = transfer.content[transfer.at..end].into();
        let done = end == transfer.content.len();
        let rpc = Rpc::InstallSnapshot {
            meta: transfer.meta.clone(),
            offset: transfer.at as u64,
            done,
            data,
        };
        transfer.at = end;
        if done {
            self.transfer = None;
        }
        rpc
    }

    /// What a correct member might answer to a message of the machine, with an odd field now and
    /// then.
    fn answer(&mut self, call: &Message, view: &View) -> Option<Message> {
        let rpc = match &call.rpc {
            Rpc::RequestVote { pre, .. } => Rpc::Vote {
                pre: *pre,
                granted: true,
                reading: self.reading(view),
            },
            Rpc::AppendEntries {
                prev_index,
                entries,
                round,
                ..
            } => {
                let end = prev_index.0 + entries.len() as u64;
                Rpc::AppendReply {
                    round: *round,
                    sync_us: self.sync_us(),
                    free_bytes: self.near(1 << 30, view),
                    answer: AppendAnswer::Accepted {
                        verified: self.index(end, view),
                        matched: self.index(end, view),
                        want_snapshot: self.rng.percent(5),
                    },
                }
            }
            Rpc::InstallSnapshot {
                meta, offset, data, ..
            } => {
                let next = offset + data.len() as u64;
                Rpc::SnapshotReply {
                    index: self.index(meta.index.0, view),
                    offset: self.near(next, view),
                }
            }
            Rpc::SnapshotReply { index, offset } => self.wanted_piece(*index, *offset)?,
            Rpc::Fetch { index, term } => Rpc::Fetched {
                index: *index,
                term: *term,
                found: match self.rng.below(3) {
                    0 => FetchResult::NeverStored,
                    1 => FetchResult::OnlyInSnapshot,
                    _ => FetchResult::Body(
                        bodies::body(&mut self.rng, &view.ids, index.0, view.wall_ns).into(),
                    ),
                },
            },
            Rpc::Forward {
                process, number, ..
            } => Rpc::Forwarded {
                process: *process,
                number: *number,
                answer: Ok(self.index(view.last + 1, view)),
            },
            _ => return None,
        };
        let term = Term(self.near(call.term.0, view));
        Some(Message { term, rpc })
    }

    /// The piece of the snapshot under way that the machine asks for.
    fn wanted_piece(&mut self, index: Index, offset: u64) -> Option<Rpc> {
        let transfer = self.transfer.as_mut()?;
        let at = usize::try_from(offset).ok()?;
        if transfer.meta.index != index || at > transfer.content.len() {
            return None;
        }
        transfer.at = at;
        Some(self.piece())
    }
}
