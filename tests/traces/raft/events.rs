//! What happens by command: time passes, messages arrive or are lost, disks sync, crash and come
//! back.
use super::*;

impl World {
    pub(super) fn time(&mut self, ms: u64) {
        let end = self.now_us + ms * 1000;
        loop {
            let due = |id: &u64| {
                let raft = self.nodes[id].raft.as_ref().expect("runs");
                raft.next_deadline().unwrap_or(u64::MAX)
            };
            let next = self.ids().into_iter().min_by_key(due);
            let Some(id) = next.filter(|id| due(id) <= end) else {
                break;
            };
            self.now_us = self.now_us.max(due(&id));
            self.fire(id);
        }
        self.now_us = end;
    }

    /// Time passes, and messages and syncs arrive at once; the trace keeps only changes of role.
    pub(super) fn run(&mut self, ms: u64) {
        let end = self.now_us + ms * 1000;
        self.settle();
        while self.now_us < end {
            self.time((end - self.now_us).div_ceil(1000).min(10));
            self.settle();
        }
        let quiet = |said: &String| said.contains('>') || said.contains(" disk: ");
        self.trace.retain(|said| !quiet(said));
    }

    pub(super) fn timeout(&mut self, id: u64) {
        let due = self.raft(id, |r| r.next_deadline());
        let due = due.unwrap_or_else(|| panic!("{id} waits for nothing"));
        self.now_us = self.now_us.max(due);
        self.fire(id);
    }

    /// A member becomes leader and all members know it; the trace shows only the result.
    pub(super) fn elect(&mut self, id: u64) {
        self.timeout(id);
        self.settle();
        self.trace.clear();
        let shown = &self.nodes[&id].shown;
        assert!(shown.starts_with("leader"), "{id} is not elected");
        self.trace.push(format!("{id} {shown}"));
    }

    pub(super) fn fire(&mut self, id: u64) {
        let now = self.now();
        self.raft(id, |r| r.on_time(now));
        self.collect(id);
    }

    pub(super) fn deliver(&mut self, words: &[&str]) {
        for _ in 0..10_000 {
            let Some(at) = self.queue.iter().position(|m| selected(words, m)) else {
                return;
            };
            let (from, to, message) = self.queue.remove(at).expect("found above");
            self.hand(from, to, message);
        }
        panic!("the members never fall silent");
    }

    pub(super) fn hand(&mut self, from: u64, to: u64, said: Message) {
        if !self.runs(to) {
            self.trace
                .push(format!("{from}>{to} {} (lost)", message(&said)));
            return;
        }
        self.trace.push(format!("{from}>{to} {}", message(&said)));
        let now = self.now();
        self.raft(to, |r| r.on_message(now, PeerId(from), said));
        self.collect(to);
    }

    /// `notice TO CLUSTER ID`: a removal notice for member ID of a cluster arrives.
    pub(super) fn notice(&mut self, words: &[&str]) {
        let rpc = Rpc::Removed {
            cluster: number(words, 2),
            id: PeerId(number(words, 3)),
        };
        let term = Term::REMOVED;
        self.hand(0, number(words, 1), Message { term, rpc });
    }

    /// `claim FROM TO TERM ACKED`: a forged append of a leader that counts acknowledgements up to
    /// `ACKED`.
    pub(super) fn claim(&mut self, words: &[&str]) {
        let rpc = Rpc::AppendEntries {
            prev_index: Index(0),
            prev_term: Term::NONE,
            commit: Index(0),
            acked: Index(number(words, 4)),
            round: None,
            sync_us: 0,
            round_trip_us: 0,
            pause_us: 0,
            clock_ns: 0,
            held_bytes: None,
            entries: Vec::new(),
        };
        let term = Term(number(words, 3));
        self.hand(number(words, 1), number(words, 2), Message { term, rpc });
    }

    pub(super) fn twice(&mut self, words: &[&str]) {
        let again: Vec<_> = self
            .queue
            .iter()
            .filter(|m| selected(words, m))
            .cloned()
            .collect();
        self.queue.extend(again);
    }

    /// The messages go behind all others.
    pub(super) fn late(&mut self, words: &[&str]) {
        let all = std::mem::take(&mut self.queue);
        let (late, rest) = all.into_iter().partition(|m| selected(words, m));
        self.queue = rest;
        let late: VecDeque<_> = late;
        self.queue.extend(late);
    }

    pub(super) fn links(&mut self, words: &[&str]) {
        let all: Vec<u64> = self.nodes.keys().copied().collect();
        let of = |at: usize| match words.get(at) {
            None | Some(&"all") => all.clone(),
            Some(list) => numbers(list),
        };
        for (a, b) in of(1)
            .iter()
            .flat_map(|a| of(2).into_iter().map(|b| (*a, b)))
        {
            let both = words.get(3) != Some(&"oneway");
            let pairs = [Some((a, b)), both.then_some((b, a))];
            for pair in pairs.into_iter().flatten().filter(|(a, b)| a != b) {
                match words[0] {
                    "cut" => self.cut.insert(pair),
                    _ => self.cut.remove(&pair),
                };
            }
        }
        self.queue
            .retain(|(from, to, _)| !self.cut.contains(&(*from, *to)));
    }

    /// `link 2 1 up | closed | ended`: member 2's link to member 1, or the end of the process of
    /// member 1 as member 2 has found it.
    pub(super) fn link(&mut self, words: &[&str]) {
        let (id, to, now) = (number(words, 1), PeerId(number(words, 2)), self.now());
        self.raft(id, |r| match words[3] {
            "ended" => r.on_process_ended(now, to),
            change => r.on_link(now, to, change == "up"),
        });
        self.collect(id);
    }

    /// `sync [IDS] [state | log [N]]`: term and vote become durable, then the log; or only one of
    /// them, or only the first N records of the log.
    pub(super) fn sync(&mut self, words: &[&str]) {
        let ids = match words.get(1) {
            None | Some(&"all") => self.ids(),
            Some(list) => numbers(list),
        };
        for id in ids {
            let which = words.get(2).copied();
            let has_state = which != Some("log") && self.sync_state(id);
            let records_max = words
                .get(3)
                .map_or(usize::MAX, |_| number(words, 3) as usize);
            let has_log = which != Some("state") && self.sync_log(id, records_max);
            if has_state || has_log {
                self.collect(id);
            }
        }
    }

    fn sync_state(&mut self, id: u64) -> bool {
        let now = self.now();
        let node = self.nodes.get_mut(&id).expect("a node");
        let Some(state) = node.unsynced_state.take() else {
            return false;
        };
        let took_us = now.mono_us - node.unsynced_state_us;
        node.disk.log.save_state(state);
        self.raft(id, |r| r.on_state_synced(now, state.seq, took_us));
        true
    }

    fn sync_log(&mut self, id: u64, records_max: usize) -> bool {
        let now = self.now();
        let node = self.nodes.get_mut(&id).expect("a node");
        let count = records_max.min(node.unsynced.len());
        let mut last = None;
        for (lsn, what) in node.unsynced.drain(..count) {
            node.disk.write(what);
            last = Some(lsn);
        }
        let took_us = now.mono_us - node.unsynced_us;
        let Some(lsn) = last else {
            return false;
        };
        self.raft(id, |r| r.on_synced(now, lsn, took_us));
        true
    }

    /// `room ID BYTES`: the member's log takes this many bytes from now on.
    pub(super) fn room(&mut self, id: u64, bytes: u64) {
        self.raft(id, |r| r.on_room(bytes));
        self.collect(id);
    }

    /// `show ID`: a client sees the state that the member has applied.
    pub(super) fn show(&mut self, id: u64) {
        let now = self.now();
        let applied = self.nodes[&id].applied;
        self.raft(id, |r| r.on_shown(now, applied));
        self.collect(id);
    }

    /// `refuse ID [late]`: the member's disk has no room for the snapshot that is coming in; `late`:
    /// for an earlier one than the one that it installs.
    pub(super) fn refuse(&mut self, words: &[&str]) {
        let id = number(words, 1);
        let now = self.now();
        if words.get(2) != Some(&"late") {
            self.with(id, |n| n.installing = None);
        }
        self.raft(id, |r| r.on_no_room_for_snapshot(now));
        self.collect(id);
    }

    pub(super) fn crash(&mut self, id: u64) {
        self.with(id, |n| {
            n.raft = None;
            n.unsynced_state = None;
            n.unsynced.clear();
        });
        self.queue.retain(|(from, _, _)| *from != id);
    }

    pub(super) fn restart(&mut self, words: &[&str]) {
        let id = number(words, 1);
        let disk = self.nodes[&id].disk.clone();
        let room = option(words, "room").map(|room| room.parse().expect("a number"));
        self.start(id, disk, room.unwrap_or(FREE_BYTES_MAX));
    }

    /// `damage ID INDEX…`: the disk of a stopped member spoils entries.
    pub(super) fn damage(&mut self, words: &[&str]) {
        let node = self.nodes.get_mut(&number(words, 1)).expect("a node");
        assert!(node.raft.is_none(), "stop it first");
        for index in numbers(words[2]) {
            node.disk.log.damage(index, DAMAGE_SEED);
        }
    }

    /// `snapshot ID [keep=N]`: the member saves a snapshot and forgets all but N entries before it.
    pub(super) fn snapshot(&mut self, words: &[&str]) {
        let id = number(words, 1);
        let keep = option(words, "keep").map_or(0, |v| v.parse().expect("a number"));
        let node = self.nodes.get_mut(&id).expect("a node");
        let raft = node.raft.as_mut().expect("runs");
        let index = node.applied;
        if raft.durable() < index {
            let waits = format!("{id} has not synced what the snapshot holds");
            return self.trace.push(waits);
        }
        node.older
            .insert(node.disk.snapshot.index, node.disk.bytes.clone());
        node.disk.snapshot = raft.begin_snapshot(index);
        node.disk.bytes = format!("snapshot of all up to {}", index.0).into();
        raft.on_snapshot_saved(index, Index(index.0.saturating_sub(keep)));
        self.collect(id);
    }

    pub(super) fn install(&mut self, id: u64, good: bool) {
        let now = self.now();
        let node = self.nodes.get_mut(&id).expect("a node");
        let Some(meta) = node.installing.take() else {
            return self.trace.push(format!("{id} has nothing to install"));
        };
        if good {
            node.disk.bytes = node.incoming.clone();
            node.applied = meta.index;
        }
        let raft = node.raft.as_mut().expect("runs");
        if good {
            raft.on_installed(now, meta.clone());
            raft.on_applied(meta.index, None);
        } else {
            raft.on_snapshot_unusable(now);
        }
        self.collect(id);
    }

    /// Everything happens that needs no time.
    pub(super) fn settle(&mut self) {
        for _ in 0..1000 {
            self.sync(&["sync"]);
            self.deliver(&["deliver"]);
            let installing = |n: &Node| n.raft.is_some() && n.installing.is_some();
            let ready: Vec<u64> = self
                .ids()
                .into_iter()
                .filter(|id| installing(&self.nodes[id]))
                .collect();
            ready.iter().for_each(|id| self.install(*id, true));
            let busy = |id: &u64| {
                let node = &self.nodes[id];
                node.unsynced_state.is_some() || !node.unsynced.is_empty()
            };
            if ready.is_empty() && self.queue.is_empty() && !self.ids().iter().any(busy) {
                return;
            }
        }
        panic!("the members never settle");
    }
}

/// Whether a message is meant: `WORD [FROM [TO]]`, each a list or `all`.
pub(super) fn selected(words: &[&str], (from, to, _): &(u64, u64, Message)) -> bool {
    let fits = |at: usize, id: &u64| match words.get(at) {
        None | Some(&"all") => true,
        Some(list) => numbers(list).contains(id),
    };
    fits(1, from) && fits(2, to)
}
