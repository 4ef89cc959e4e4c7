//! `-forward`: followers that pass on what only the leader can do, with every message of it in the
//! test's hands.
use super::cluster::cluster;
use super::rig::*;
use tern::core::command::{self, Command, KeyPath, Naming};
use tern::core::error::{Code, Error};
use tern::core::machine::*;
use tern::core::peers::ProcessChange;
use tern::core::raft::{Index, Message, PeerId, Rpc, Term};

/// Three machines that pass on; the leader and the others.
pub fn three() -> (Cluster, PeerId, PeerId, PeerId) {
    let cluster = cluster(
        3,
        Settings {
            forward: true,
            ..settings(1)
        },
    );
    let leader = cluster.leader();
    let others: Vec<PeerId> = cluster
        .rigs
        .keys()
        .copied()
        .filter(|id| *id != leader)
        .collect();
    (cluster, leader, others[0], others[1])
}

/// The messages that a machine sends now, with their receivers.
pub fn sent(cluster: &mut Cluster, id: PeerId) -> Vec<(PeerId, Message)> {
    let rig = cluster.at(id);
    rig.settle();
    std::mem::take(&mut rig.sent)
}

/// Asks a follower, and returns the ticket and the only message that it sends.
pub fn passed(cluster: &mut Cluster, follower: PeerId, op: Op) -> (Ticket, PeerId, Message) {
    let ticket = cluster.at(follower).ask(op);
    let mut sent = sent(cluster, follower);
    assert_eq!(sent.len(), 1, "{sent:?}");
    let (to, message) = sent.remove(0);
    assert!(matches!(message.rpc, Rpc::Forward { .. }), "{message:?}");
    (ticket, to, message)
}

pub fn deliver(cluster: &mut Cluster, from: PeerId, to: PeerId, message: Message) {
    let rig = cluster.at(to);
    rig.machine.on_message(rig.now, from, message);
}

pub fn outcomes(cluster: &mut Cluster, id: PeerId, ticket: Ticket) -> Vec<Outcome> {
    let rig = cluster.at(id);
    rig.settle();
    rig.take_answers(ticket)
}

fn failed(code: Code, cause: &str) -> Vec<Outcome> {
    vec![Outcome::Failed(Error::new(code, cause))]
}

pub fn unknown() -> Vec<Outcome> {
    failed(Code::RaftInternal, "outcome unknown")
}

fn forward(term: Term, process: u64, number: u64, command: Option<&Command>) -> Message {
    let command = command.map(|command| {
        let mut body = Vec::new();
        command::encode(command, &mut body);
        body.into()
    });
    Message {
        term,
        rpc: Rpc::Forward {
            process,
            number,
            command,
        },
    }
}

fn put(value: &str) -> Command {
    Command::Set {
        path: KeyPath::new("/a"),
        value: Some(value.into()),
        lease: None,
    }
}

/// The answers among the messages.
fn answers(sent: &[(PeerId, Message)]) -> Vec<Result<Index, Box<str>>> {
    let answer = |(_, m): &(PeerId, Message)| match &m.rpc {
        Rpc::Forwarded { answer, .. } => Some(answer.clone()),
        _ => None,
    };
    sent.iter().filter_map(answer).collect()
}

#[test]
fn protocol_27_a_follower_answers_what_it_has_applied_itself() {
    let (mut cluster, leader, follower, other) = three();
    let event = |outcome| match outcome {
        Outcome::Event(event) => event,
        other => panic!("{other:?}"),
    };
    let set = event(cluster.done(follower, set("/a", "one")));
    // No message in between: it is here.
    assert_eq!(cluster.at(follower).value("/a").as_deref(), Some("one"));
    let path = KeyPath::new("/q");
    let naming = Naming::InOrder;
    let post = Op::Write(Command::Create {
        path,
        value: Some("job".into()),
        lease: None,
        naming,
    });
    let post = event(cluster.done(other, post));
    assert_eq!(&*post.node.key, format!("/q/{}", set.node.modified.0 + 1));
    let path = KeyPath::new("/a");
    let swap = |prev: &str| Command::CompareAndSwap {
        path: path.clone(),
        value: Some("two".into()),
        lease: None,
        prev_value: Some(prev.into()),
        prev_index: None,
        or_create: false,
        refresh: false,
    };
    let differs = cluster.done(follower, Op::Write(swap("none")));
    assert!(matches!(differs, Outcome::Failed(e) if e.code == Code::CompareFailed));
    let swapped = event(cluster.done(follower, Op::Write(swap("one"))));
    assert_eq!(
        swapped.prev.expect("the old node").value.as_deref(),
        Some("one")
    );
    let delete = Command::Delete {
        path,
        dir: false,
        recursive: false,
    };
    event(cluster.done(other, Op::Write(delete)));
    assert_eq!(cluster.at(leader).value("/a"), None);
    assert!(
        cluster
            .at(follower)
            .machine
            .raft()
            .expect("a member")
            .role()
            != tern::core::raft::RaftRole::Leader
    );
}

#[test]
fn the_leaders_clock_decides_when_something_expires() {
    let (mut cluster, leader, follower, _) = three();
    cluster.at(leader).now.wall_ns += 3_600_000_000_000;
    let outcome = cluster.done(follower, set_for("/a", 10_000));
    let Outcome::Event(event) = outcome else {
        panic!("{outcome:?}");
    };
    let shown_ns = event.node.expires_ns.expect("it expires");
    let expected_ns = cluster.at(leader).now.wall_ns + 10_000_000_000;
    assert!(
        shown_ns.abs_diff(expected_ns) < 1_000_000_000,
        "shown by the leader's wall clock"
    );
}

#[test]
fn protocol_27_reads_wait_for_the_proof_and_for_what_was_committed() {
    let (mut cluster, leader, follower, other) = three();
    // The follower does not hold the last write yet.
    cluster.at(leader).ask(set("/a", "new"));
    for _ in 0..3 {
        for (to, message) in sent(&mut cluster, leader) {
            if to == other {
                deliver(&mut cluster, leader, to, message);
            }
        }
        for (to, message) in sent(&mut cluster, other) {
            deliver(&mut cluster, other, to, message);
        }
    }
    assert_eq!(cluster.at(leader).value("/a").as_deref(), Some("new"));
    assert_eq!(cluster.at(follower).value("/a"), None);
    let (ticket, to, message) = passed(&mut cluster, follower, read("/a", false, true));
    assert_eq!(to, leader);
    deliver(&mut cluster, follower, leader, message);
    assert_eq!(
        answers(&sent(&mut cluster, leader)),
        [],
        "no proof without a round"
    );
    // Lost; the next heartbeats are the proof.
    cluster.pass(100_000);
    match cluster.at(follower).answer(ticket) {
        Outcome::Page { items, last: true } => {
            assert_eq!(items[0].view.value.as_deref(), Some("new"))
        }
        other => panic!("{other:?}"),
    }
    // A watch that only the leader may answer waits here once it has proved itself.
    let path = KeyPath::new("/a");
    let watch = Op::Watch {
        path,
        recursive: false,
        stream: false,
        since: None,
        on_leader: true,
        timeout_us: None,
    };
    let ticket = cluster.at(follower).ask(watch);
    cluster.pass(100_000);
    assert_eq!(cluster.at(follower).answer(ticket), Outcome::Watching);
    cluster.done(other, set("/a", "newer"));
    assert_eq!(cluster.at(follower).delivered(ticket).len(), 1);
}

#[test]
fn without_an_answer_the_outcome_is_unknown() {
    let (mut cluster, leader, follower, _) = three();
    let (write, _, _) = passed(&mut cluster, follower, set("/a", "one"));
    let (read, _, _) = passed(&mut cluster, follower, read("/a", false, true));
    // The leader is well; these two messages are lost.
    cluster.pass(4_900_000);
    assert_eq!(outcomes(&mut cluster, follower, write), []);
    cluster.pass(100_000);
    assert_eq!(outcomes(&mut cluster, follower, write), unknown());
    assert_eq!(
        outcomes(&mut cluster, follower, read),
        failed(Code::LeaderElect, "")
    );
    // Nor do links tell it.
    let (write, _, _) = passed(&mut cluster, follower, set("/a", "two"));
    for (id, change) in [
        (PeerId(99), ProcessChange::Gone),
        (leader, ProcessChange::Gone),
    ] {
        let rig = cluster.at(follower);
        rig.machine.on_process(rig.now, id, change);
        assert_eq!(sent(&mut cluster, follower), []);
        assert_eq!(outcomes(&mut cluster, follower, write), []);
    }
    let rig = cluster.at(follower);
    rig.machine.on_process(rig.now, leader, ProcessChange::Up);
    rig.settle();
    rig.sent.clear();
    // Nor is a machine's end.
    let (write, _, _) = passed(&mut cluster, follower, set("/a", "three"));
    let rig = cluster.at(follower);
    rig.machine.on_stop(rig.now);
    rig.settle();
    assert!(!rig.stopped, "it waits for the answer");
    rig.pass(1_100_000);
    assert!(rig.stopped);
    assert_eq!(rig.take_answers(write), unknown());
}

#[test]
fn protocol_26_there_is_one_hop() {
    let (mut cluster, leader, follower, other) = three();
    let term = cluster.at(leader).machine.indexes().term;
    deliver(
        &mut cluster,
        other,
        follower,
        forward(term, 7, 1, Some(&put("x"))),
    );
    deliver(&mut cluster, other, follower, forward(term, 7, 2, None));
    let sent = sent(&mut cluster, follower);
    assert_eq!(
        answers(&sent),
        [Err("not taken".into()), Err("not taken".into())]
    );
    assert_eq!(sent.len(), 2, "nothing else");
    // The refusal comes out as one that nothing was appended for.
    let (ticket, _, message) = passed(&mut cluster, follower, set("/a", "y"));
    let Rpc::Forward {
        process, number, ..
    } = message.rpc
    else {
        unreachable!("seen by `passed`")
    };
    let rpc = Rpc::Forwarded {
        process: process + 1,
        number,
        answer: Err("".into()),
    };
    deliver(&mut cluster, leader, follower, Message { term, rpc });
    let rpc = Rpc::Forwarded {
        process,
        number,
        answer: Err("disk full".into()),
    };
    deliver(
        &mut cluster,
        other,
        follower,
        Message {
            term,
            rpc: rpc.clone(),
        },
    );
    assert_eq!(
        outcomes(&mut cluster, follower, ticket),
        [],
        "of another process, or of another member"
    );
    deliver(&mut cluster, leader, follower, Message { term, rpc });
    assert_eq!(
        outcomes(&mut cluster, follower, ticket),
        failed(Code::RaftInternal, "disk full")
    );
}

#[test]
fn each_request_is_taken_once_and_only_in_its_term() {
    let (mut cluster, leader, follower, _) = three();
    let term = cluster.at(leader).machine.indexes().term;
    let last = cluster
        .at(leader)
        .machine
        .raft()
        .expect("a member")
        .last_index();
    for _ in 0..2 {
        deliver(
            &mut cluster,
            follower,
            leader,
            forward(term, 7, 1, Some(&put("x"))),
        );
    }
    assert_eq!(answers(&sent(&mut cluster, leader)), []);
    for (number, message) in [
        forward(Term(term.0 - 1), 7, 2, Some(&put("x"))),
        forward(Term(term.0 + 1), 7, 3, Some(&put("x"))),
        forward(
            term,
            7,
            4,
            Some(&Command::Remove {
                id: follower.0,
                for_good: false,
            }),
        ),
        Message {
            term,
            rpc: Rpc::Forward {
                process: 7,
                number: 5,
                command: Some(vec![99].into()),
            },
        },
    ]
    .into_iter()
    .enumerate()
    {
        deliver(&mut cluster, follower, leader, message);
        let answers = answers(&sent(&mut cluster, leader));
        // Of a term that this process has not seen the whole of it cannot be said whether it was
        // taken.
        let expected: &[Result<Index, Box<str>>] = match number {
            0 | 1 => &[],
            _ => &[Err("not a write".into())],
        };
        assert_eq!(answers, expected);
    }
    deliver(&mut cluster, PeerId(99), leader, forward(term, 7, 9, None));
    assert_eq!(
        answers(&sent(&mut cluster, leader)),
        [],
        "a machine that is no member gets no answer"
    );
    assert_eq!(
        cluster
            .at(leader)
            .machine
            .raft()
            .expect("a member")
            .last_index(),
        last.next()
    );
}

#[test]
fn forwarded_requests_are_bounded() {
    let (mut cluster, _, follower, _) = three();
    let rig = cluster.at(follower);
    let bytes_max = rig.settings.memory.held_bytes_max;
    let mebibyte = "x".repeat(1 << 20);
    let longest = rig.ask(set("/a", &"x".repeat(bytes_max + 1)));
    let second = rig.ask(set("/a", &mebibyte));
    rig.settle();
    assert_eq!(
        (rig.take_answers(longest), rig.take_answers(second)),
        (vec![], failed(Code::RaftInternal, ""))
    );
    rig.again(longest, Op::ClientClosed);
    let count = (bytes_max >> 20) + 1;
    let tickets: Vec<Ticket> = (0..count).map(|_| rig.ask(set("/a", &mebibyte))).collect();
    rig.settle();
    let refused = tickets
        .iter()
        .filter(|t| rig.take_answers(**t) == failed(Code::RaftInternal, ""));
    assert_eq!(refused.count(), 2, "64 MiB and what is round them");
    let tickets: Vec<Ticket> = (0..20_000)
        .map(|_| rig.ask(read("/a", false, true)))
        .collect();
    rig.settle();
    rig.sent.clear();
    let outcomes: Vec<Vec<Outcome>> = tickets
        .iter()
        .rev()
        .take(10)
        .map(|t| rig.take_answers(*t))
        .collect();
    assert!(
        outcomes
            .iter()
            .all(|outcomes| *outcomes == failed(Code::LeaderElect, ""))
    );
}

#[test]
fn what_is_not_the_leaders_alone_is_not_passed_on() {
    let (mut cluster, leader, follower, _) = three();
    cluster.done(follower, set("/a", "one"));
    let plain = cluster.at(follower).done(get("/a"));
    assert!(matches!(plain, Outcome::Page { .. }));
    for op in [
        Op::SpeedTest,
        Op::MachineRemove {
            name: "node3".into(),
            for_good: false,
        },
        join(&settings(4), 4),
    ] {
        let outcome = cluster.done(follower, op);
        assert!(matches!(outcome, Outcome::Redirect { .. }), "{outcome:?}");
    }
    // Without a leader nothing can be passed on: nothing has happened when the time is over.
    cluster.rigs.remove(&leader);
    let rig = cluster.at(follower);
    rig.pass(1_000_000);
    rig.sent.clear();
    let (write, read) = (rig.ask(set("/a", "two")), rig.ask(read("/a", false, true)));
    rig.pass(4_900_000);
    assert_eq!(
        (rig.take_answers(write), rig.take_answers(read)),
        (vec![], vec![])
    );
    rig.pass(100_000);
    assert_eq!(rig.take_answers(write), failed(Code::RaftInternal, ""));
    assert_eq!(rig.take_answers(read), failed(Code::LeaderElect, ""));
    assert!(
        !rig.sent
            .iter()
            .any(|(_, m)| matches!(m.rpc, Rpc::Forward { .. }))
    );
}

/// Requests that arrive without a leader are done by the next leader, which may be the machine that
/// was asked.
#[test]
fn what_finds_no_leader_waits_for_the_next() {
    let (mut cluster, leader, follower, other) = three();
    cluster.rigs.remove(&leader);
    cluster.at(follower).pass(1_000_000);
    cluster.at(other).pass(1_000_000);
    let asked = [follower, other].map(|id| {
        let rig = cluster.at(id);
        let gone = rig.ask(set("/gone", "x"));
        rig.again(gone, Op::ClientClosed);
        let write = rig.ask(set(&format!("/{}", id.0), "kept"));
        let watch = Op::Watch {
            path: KeyPath::new("/a"),
            recursive: false,
            stream: false,
            since: None,
            on_leader: true,
            timeout_us: None,
        };
        (id, write, rig.ask(read("/a", false, true)), rig.ask(watch))
    });
    cluster.pass(2_000_000);
    for (id, write, read, watch) in asked {
        let rig = cluster.at(id);
        assert!(matches!(rig.answer(write), Outcome::Event(_)));
        assert!(matches!(rig.answer(read), Outcome::Failed(e) if e.code == Code::KeyNotFound));
        assert_eq!(rig.answer(watch), Outcome::Watching);
        assert_eq!(rig.value(&format!("/{}", id.0)).as_deref(), Some("kept"));
        assert_eq!(rig.value("/gone"), None);
    }
}

/// A leader that hands over takes nothing any more: the next one gets what it has refused.
#[test]
fn what_a_leader_refuses_that_hands_over_goes_to_the_next() {
    let (mut cluster, leader, follower, other) = three();
    let last = cluster
        .at(leader)
        .machine
        .raft()
        .expect("a member")
        .last_index();
    let rig = cluster.at(leader);
    rig.machine.on_stop(rig.now);
    let handed = sent(&mut cluster, leader);
    assert!(
        handed.iter().any(|(_, m)| m.rpc == Rpc::TimeoutNow),
        "{handed:?}"
    );
    let (ticket, to, message) = passed(&mut cluster, follower, set("/a", "kept"));
    deliver(&mut cluster, follower, to, message);
    for (to, message) in sent(&mut cluster, leader) {
        deliver(&mut cluster, leader, to, message);
    }
    assert_eq!(
        cluster
            .at(leader)
            .machine
            .raft()
            .expect("a member")
            .last_index(),
        last
    );
    assert_eq!(outcomes(&mut cluster, follower, ticket), []);
    for (to, message) in handed {
        deliver(&mut cluster, leader, to, message);
    }
    cluster.pass(500_000);
    assert!([follower, other].contains(&cluster.leader()));
    assert!(matches!(
        cluster.at(follower).answer(ticket),
        Outcome::Event(_)
    ));
    assert_eq!(cluster.at(other).value("/a").as_deref(), Some("kept"));
}

#[test]
fn a_removed_member_does_not_know_the_outcome() {
    let (mut cluster, leader, follower, _) = three();
    let name = cluster.at(follower).settings.name.clone();
    let (lost, _, _) = passed(&mut cluster, follower, set("/a", "one"));
    let (read, _, _) = passed(&mut cluster, follower, read("/a", false, true));
    assert_eq!(
        cluster.done(
            leader,
            Op::MachineRemove {
                name,
                for_good: false
            }
        ),
        Outcome::Removed
    );
    assert!(cluster.at(follower).removed);
    assert_eq!(outcomes(&mut cluster, follower, lost), unknown());
    assert_eq!(
        outcomes(&mut cluster, follower, read),
        failed(Code::LeaderElect, "")
    );
}
