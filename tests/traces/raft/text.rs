//! Members, messages and entries as the scripts show them.
use super::*;

impl World {
    pub(super) fn show_queue(&mut self) {
        for (from, to, said) in &self.queue {
            self.trace.push(format!("{from}>{to} {}", message(said)));
        }
    }

    pub(super) fn show_log(&mut self, id: u64) {
        let node = &self.nodes[&id];
        let raft = node.raft.as_ref().expect("runs");
        let held = (1..=raft.last_index().0).filter_map(|i| raft.entry(Index(i)));
        let entries: Vec<String> = held.map(entry).collect();
        let text = format!(
            "{id} log behind {}: {}",
            raft.snapshot().index.0,
            entries.join(" ")
        );
        self.trace.push(text.trim_end().to_string());
    }

    /// What a restart would find.
    pub(super) fn show_disk(&mut self, id: u64) {
        let log = &self.nodes[&id].disk.log;
        let entries: Vec<String> = log.records().map(|r| entry(&r.entry)).collect();
        let vote = log.vote.map_or(0, |id| id.0);
        let text = format!(
            "{id} disk has term {}, vote {vote}, mark {}: {}",
            log.term.0,
            log.commit.0,
            entries.join(" ")
        );
        self.trace.push(text.trim_end().to_string());
    }

    pub(super) fn show_states(&mut self) {
        for (id, node) in &self.nodes {
            let Some(raft) = &node.raft else {
                self.trace.push(format!("{id} stopped"));
                continue;
            };
            let (commit, last) = (raft.committed().0, raft.last_index().0);
            self.trace
                .push(format!("{id} {}, commit {commit}, last {last}", node.shown));
        }
    }

    pub(super) fn show_members(&mut self, id: u64) {
        let configuration = self.raft(id, |r| r.configuration().clone());
        let members = configuration.members.iter().map(|m| {
            let kind = if m.voter { "voter" } else { "learner" };
            format!("{} {} {kind}", m.id.0, m.name)
        });
        let list: Vec<String> = members.collect();
        let none = list.is_empty().then_some("nobody".to_string());
        self.trace.push(none.unwrap_or(list.join(", ")));
    }
}

pub(super) fn shown(result: Result<(Index, Term), ProposalRefusal>) -> String {
    match result {
        Ok((index, term)) => format!("appends {}/{}", index.0, term.0),
        Err(why) => format!("refuses: {}", refusal(why)),
    }
}

/// Why raft refused a proposal or a read; the leader that it names, or 0.
pub(super) fn refusal(why: ProposalRefusal) -> String {
    match why {
        ProposalRefusal::NotLeader(leader) => {
            format!("NotLeader({:?})", leader.unwrap_or(PeerId::NONE))
        }
        _ => format!("{why:?}"),
    }
}

pub(super) fn entry(entry: &Entry) -> String {
    let place = format!("{}/{}", entry.index.0, entry.term.0);
    let EntryBody::Good(bytes) = &entry.body else {
        return format!("{place}(damaged)");
    };
    match command::decode(bytes).expect("encoded by a member") {
        Command::Set { .. } => place,
        Command::Nop => format!("{place}(nop)"),
        Command::Join {
            name,
            replaces: Some(id),
            ..
        } => {
            format!("{place}(join {name} for {id})")
        }
        Command::Join { name, .. } => format!("{place}(join {name})"),
        Command::Promote { id } => format!("{place}(promote {id})"),
        Command::Remove { id, for_good } => {
            let for_good = if for_good { " for-good" } else { "" };
            format!("{place}(remove {id}{for_good})")
        }
        other => panic!("not in these scripts: {other:?}"),
    }
}

pub(super) fn hard_state(state: &HardState) -> String {
    let vote = state.vote.map_or(0, |id| id.0);
    format!("term {}, vote {vote}", state.term.0)
}

pub(super) fn persist(what: &Persist) -> String {
    match what {
        Persist::Append { entries, .. } => {
            let list: Vec<String> = entries.iter().map(entry).collect();
            format!("append {}", list.join(" "))
        }
        Persist::Installed { meta, keep_tail } => {
            let tail = if *keep_tail {
                "keeps its tail"
            } else {
                "drops its tail"
            };
            format!("snapshot {}/{}, {tail}", meta.index.0, meta.term.0)
        }
        Persist::Mark { commit } => format!("mark {}", commit.0),
        Persist::Release { through } => format!("release {}", through.0),
        Persist::Repair(repaired) => format!("repair {}", entry(repaired)),
    }
}

pub(super) fn message(message: &Message) -> String {
    let rpc = match &message.rpc {
        Rpc::RequestVote {
            pre,
            hand_over,
            last_index,
            last_term,
        } => {
            let kind = if *pre { "prevote?" } else { "vote?" };
            let flag = if *hand_over { " (hand-over)" } else { "" };
            format!("{kind} last {}/{}{flag}", last_index.0, last_term.0)
        }
        Rpc::Vote { pre, granted, .. } => {
            let kind = if *pre { "prevote" } else { "vote" };
            format!("{kind} {}", if *granted { "yes" } else { "no" })
        }
        rpc @ Rpc::AppendEntries { .. } => append(rpc),
        Rpc::AppendReply {
            round,
            free_bytes,
            answer,
            ..
        } => {
            let text = append_reply(answer, *round);
            match *free_bytes {
                FREE_BYTES_MAX => text,
                bytes => format!("{text}, {bytes} bytes free"),
            }
        }
        Rpc::InstallSnapshot {
            meta,
            offset,
            done,
            data,
            ..
        } => {
            let end = if *done { ", the last" } else { "" };
            let (index, term, length) = (meta.index.0, meta.term.0, data.len());
            format!("snapshot {index}/{term} from {offset}, {length} bytes{end}")
        }
        Rpc::SnapshotReply { index, offset } => format!("snapshot {} next {offset}", index.0),
        Rpc::SnapshotRefused { index } => format!("snapshot {} no room", index.0),
        Rpc::TimeoutNow => "timeout now".to_string(),
        Rpc::Fetch { index, term } => format!("fetch {}/{}", index.0, term.0),
        Rpc::Fetched { index, term, found } => {
            let what = fetch_result(found);
            format!("fetched {}/{}: {what}", index.0, term.0)
        }
        Rpc::Removed { id, .. } => format!("{} was removed", id.0),
        Rpc::Forward { .. } | Rpc::Forwarded { .. } => unreachable!("raft sends none"),
    };
    match message.term {
        Term::REMOVED => rpc,
        term => format!("t{} {rpc}", term.0),
    }
}

fn append(rpc: &Rpc) -> String {
    let Rpc::AppendEntries {
        prev_index,
        prev_term,
        commit,
        acked,
        round,
        pause_us,
        held_bytes,
        entries,
        ..
    } = rpc
    else {
        unreachable!("called for appends only");
    };
    let mut text = format!("append {}/{}", prev_index.0, prev_term.0);
    if !entries.is_empty() {
        let list: Vec<String> = entries.iter().map(entry).collect();
        write!(text, " [{}]", list.join(" ")).expect("a string takes it");
    }
    write!(text, " commit {} acked {}", commit.0, acked.0).expect("a string takes it");
    if let Some(round) = round {
        write!(text, " round {round}").expect("a string takes it");
    }
    if *pause_us > 0 {
        write!(text, " quiet").expect("a string takes it");
    }
    if let Some(bytes) = held_bytes {
        write!(text, " holds {bytes} bytes back").expect("a string takes it");
    }
    text
}

fn append_reply(answer: &AppendAnswer, round: Option<u64>) -> String {
    let mut text = match answer {
        AppendAnswer::Accepted {
            verified,
            matched,
            want_snapshot,
        } => {
            let want = if *want_snapshot {
                ", wants a snapshot"
            } else {
                ""
            };
            format!("same to {} durable to {}{want}", verified.0, matched.0)
        }
        AppendAnswer::Rejected {
            prev,
            hint,
            hint_term,
        } => {
            format!("differs at {}, try {}/{}", prev.0, hint.0, hint_term.0)
        }
        AppendAnswer::Stale => "stale".to_string(),
    };
    if let Some(round) = round {
        write!(text, " round {round}").expect("a string takes it");
    }
    text
}

fn fetch_result(found: &FetchResult) -> &'static str {
    match found {
        FetchResult::Body(_) => "here it is",
        FetchResult::Damaged => "damaged here too",
        FetchResult::NeverStored => "never here",
        FetchResult::OnlyInSnapshot => "behind the snapshot",
    }
}
