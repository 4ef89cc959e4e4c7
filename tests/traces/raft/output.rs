//! Takes what a member hands out after each input, applies what is committed, and checks the member
//! against all others.
use super::*;

impl World {
    pub(super) fn collect(&mut self, id: u64) {
        loop {
            let mut out = RaftOutput::default();
            self.raft(id, |r| r.take_output(&mut out));
            self.carry(id, &mut out);
            self.change(id);
            let again = self.apply(id) | self.read_chunks(id, &out) | self.receive_chunks(id, out);
            if !again {
                break;
            }
        }
        self.check(id);
    }

    fn carry(&mut self, id: u64, out: &mut RaftOutput) {
        let node = self.nodes.get_mut(&id).expect("a node");
        if let Some(state) = out.state.take() {
            self.trace
                .push(format!("{id} disk: {}", hard_state(&state)));
            if node.unsynced_state.is_none() {
                node.unsynced_state_us = self.now_us;
            }
            node.unsynced_state = Some(state);
        }
        for what in out.persist.drain(..) {
            node.lsn += 1;
            self.trace.push(format!("{id} disk: {}", persist(&what)));
            if node.unsynced.is_empty() {
                node.unsynced_us = self.now_us;
            }
            node.unsynced.push_back((Lsn(node.lsn), what));
        }
        assert_eq!(
            node.raft.as_ref().expect("runs").lsn().0,
            node.lsn,
            "one Lsn a Persist"
        );
        for (to, said) in out.messages.drain(..) {
            let mut bytes = Vec::new();
            wire::encode(&said, &mut bytes);
            assert_eq!(
                wire::decode(&bytes),
                Ok(said.clone()),
                "the wire keeps a message"
            );
            if !self.cut.contains(&(id, to.0)) {
                self.queue.push_back((id, to.0, said));
            }
        }
        for (read, index) in out.reads.drain(..) {
            self.trace
                .push(format!("{id} read {} at {}", read.0, index.0));
        }
        for read in out.failed_reads.drain(..) {
            self.trace.push(format!("{id} read {} failed", read.0));
        }
        if let Some(bytes) = out.wanted_room_bytes {
            self.trace
                .push(format!("{id} wants room for {bytes} bytes"));
        }
        for notice in out.notices.drain(..) {
            self.trace.push(match notice {
                RaftNotice::Removed { .. } => format!("{id} is told that it was removed"),
                RaftNotice::LostTail { .. } => {
                    format!("{id} is told that it has lost what it acknowledged")
                }
            });
        }
    }

    /// Says what a member has become, when that changes.
    fn change(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("a node");
        let raft = node.raft.as_ref().expect("runs");
        let role = match raft.role() {
            RaftRole::Follower => match raft.leader() {
                None => "follower of nobody".to_string(),
                Some(leader) => format!("follower of {}", leader.0),
            },
            RaftRole::PreCandidate => "precandidate".to_string(),
            RaftRole::Candidate => "candidate".to_string(),
            RaftRole::Leader => "leader".to_string(),
        };
        let shown = format!("{role}, term {}", raft.term().0);
        if node.shown != shown {
            self.trace.push(format!("{id} {shown}"));
            node.shown = shown;
        }
    }

    fn apply(&mut self, id: u64) -> bool {
        let node = self.nodes.get_mut(&id).expect("a node");
        let raft = node.raft.as_mut().expect("runs");
        let committed = raft.committed();
        if committed <= node.applied || node.installing.is_some() {
            return false;
        }
        let leads = raft.role() == RaftRole::Leader;
        let (mut applied, mut wrong) = (Vec::new(), Vec::new());
        for index in node.applied.0 + 1..=committed.0 {
            let Some(entry) = raft.entry(Index(index)) else {
                continue;
            };
            let kept = (entry.term, entry.body.clone());
            assert!(
                matches!(kept.1, EntryBody::Good(_)),
                "nothing damaged is applied"
            );
            applied.push(kept.clone());
            if self.committed.entry(index).or_insert(kept.clone()) != &kept {
                wrong.push(index);
            }
        }
        assert!(wrong.is_empty(), "{id} commits something else at {wrong:?}");
        let from = node.applied.0 + 1;
        node.applied = committed;
        raft.on_applied(committed, None);
        let range = if from == committed.0 {
            from.to_string()
        } else {
            format!("{from}..{}", committed.0)
        };
        self.trace.push(format!("{id} applies {range}"));
        if leads && let Some((term, _)) = applied.last() {
            self.check_majority(id, committed, *term);
        }
        true
    }

    /// What a leader commits is on a majority of synced disks.
    fn check_majority(&self, id: u64, index: Index, term: Term) {
        let raft = self.nodes[&id].raft.as_ref().expect("runs");
        let configuration = raft.configuration();
        let holds = |v: &PeerId| {
            self.nodes
                .get(&v.0)
                .is_some_and(|n| n.disk.holds(index, term))
        };
        let on = configuration.voters().filter(holds).count();
        assert!(
            on >= configuration.majority(),
            "{index:?} is committed on {on} disks"
        );
    }

    fn read_chunks(&mut self, id: u64, out: &RaftOutput) -> bool {
        let now = self.now();
        for wanted in &out.chunks_wanted {
            let node = &self.nodes[&id];
            let kept = node.older.get(&wanted.index).unwrap_or(&node.disk.bytes);
            let bytes = kept.clone();
            let from = (wanted.offset as usize).min(bytes.len());
            let to = (from + CHUNK).min(bytes.len());
            let piece = Some((bytes[from..to].into(), to == bytes.len()));
            self.raft(id, |r| r.on_chunk(now, *wanted, piece));
        }
        !out.chunks_wanted.is_empty()
    }

    /// The disk writes the chunks at once. Returns whether there was one that is not the last.
    fn receive_chunks(&mut self, id: u64, out: RaftOutput) -> bool {
        let now = self.now();
        let mut received = 0;
        let node = self.nodes.get_mut(&id).expect("a node");
        for chunk in out.chunks {
            if chunk.offset == 0 {
                node.incoming.clear();
            }
            assert_eq!(
                chunk.offset,
                node.incoming.len() as u64,
                "pieces come in order"
            );
            node.incoming.extend_from_slice(&chunk.data);
            if chunk.done {
                let text = String::from_utf8_lossy(&node.incoming);
                self.trace.push(format!("{id} has the snapshot {:?}", text));
                node.installing = Some(chunk.meta);
            } else {
                received += 1;
            }
        }
        for _ in 0..received {
            self.raft(id, |r| r.on_chunk_received(now));
        }
        received > 0
    }

    fn check(&mut self, id: u64) {
        let raft = self.nodes[&id].raft.as_ref().expect("runs");
        if raft.role() == RaftRole::Leader {
            let first = self.leaders.entry(raft.term().0).or_insert(id);
            assert_eq!(*first, id, "two leaders in term {}", raft.term().0);
            for (index, (term, _)) in self.committed.iter().rev().take(5) {
                if *index > raft.snapshot().index.0 && *term < raft.term() {
                    let own = raft.entry(Index(*index)).map(|e| e.term);
                    assert_eq!(
                        own,
                        Some(*term),
                        "leader {id} of term {} lacks {index}",
                        raft.term().0
                    );
                }
            }
        }
    }
}
