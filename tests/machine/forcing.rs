//! Going on alone after the permanent loss of a majority: PROTOCOL rule 17.
use super::rig::*;
use super::seeker::{LIST, search};
use tern::core::command::{self, Command, KeyPath};
use tern::core::machine::*;
use tern::core::peers::{Hello, HelloRefusal, LinkEvent, LinkReportEvent};
use tern::core::raft::{Entry, EntryBody, Index, PeerId, Term};
use tern::core::timer::Now;
use tern_support::durable_disk::restore;

/// The URLs of the other two members.
const OTHERS: [&str; 2] = ["http://127.0.0.1:7002", "http://127.0.0.1:7003"];

fn now() -> Now {
    Now {
        mono_us: 1_000_000,
        wall_ns: EPOCH_NS,
    }
}

fn join(number: u16) -> Command {
    let machine = settings(number);
    Command::Join {
        name: machine.name,
        peer_url: machine.peer_url,
        client_url: machine.client_url,
        incarnation: u64::from(number) * 100,
        replaces: None,
    }
}

fn path(text: &str) -> KeyPath {
    KeyPath::new(text)
}

fn write() -> Command {
    Command::Set {
        path: path("/a"),
        value: Some("1".into()),
        lease: None,
    }
}

/// Three members: the founder with the id 1, and those that joined at 2 and 4. Then a write.
fn three() -> Vec<Command> {
    vec![
        join(2),
        Command::Nop,
        join(3),
        Command::Promote { id: 2 },
        Command::Promote { id: 4 },
        write(),
    ]
}

/// The founder's disk with these entries, `committed` of them known to be committed.
fn recovered(commands: &[Command], committed: usize) -> Recovered {
    let founding = Machine::bootstrap(&settings(1), 77, 5);
    let content = founding.chunks.concat();
    let entry = |(command, index): (&Command, u64)| {
        let mut body = Vec::new();
        command::encode(command, &mut body);
        Entry {
            term: Term(1),
            index: Index(index),
            body: EntryBody::Good(body.into()),
        }
    };
    Recovered {
        term: Term(4),
        vote: None,
        id: Some(PeerId(1)),
        incarnation: 77,
        snapshot: Some((founding.meta, restore(&content).expect("whole"))),
        snapshot_bytes: content.len() as u64,
        entries: commands.iter().zip(2..).map(entry).collect(),
        commit: Index(1 + committed as u64),
        free_bytes: tern::core::raft::room::FREE_BYTES_MAX,
    }
}

/// Asks the voters; `answering` are the URLs of those that are of this cluster. Returns all URLs
/// that were asked, and the orders.
fn force(recovered: Recovered, peers: &[&str], answering: &[&str]) -> (Vec<String>, Ordered) {
    let machine = Machine::force(settings(1), recovered, search(peers, 1), 5, now());
    let mut machine = machine.unwrap_or_else(|text| panic!("{text}"));
    assert!(!machine.listens());
    let mut asked = Vec::new();
    let mut outputs = Outputs::default();
    loop {
        machine.on_time(now());
        outputs.clear();
        machine.advance(now(), &mut outputs);
        let Some(call) = outputs.calls.pop() else {
            break;
        };
        let is_answering = answering.contains(&&*call.base);
        let call = Asked::of(&call);
        asked.push(call.url.to_string());
        let reply = if is_answering {
            call.reply(200, "tern/0.1.0", LIST.as_bytes())
        } else {
            Reply::Failed {
                why: "nobody listens".into(),
            }
        };
        machine.on_reply(now(), call.id, reply);
    }
    (asked, Ordered::take(&mut outputs))
}

fn go_on(recovered: Recovered) -> Founding {
    let founding = Machine::go_on_alone(settings(1), recovered, 99, 7, now());
    founding.unwrap_or_else(|text| panic!("{text}"))
}

#[test]
fn protocol_17_two_of_three_are_lost_and_the_third_goes_on() {
    let (asked, ordered) = force(recovered(&three(), 5), &[], &[]);
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(
        asked
            .iter()
            .zip(OTHERS)
            .all(|(url, of)| url.starts_with(of))
    );
    assert!(ordered.forces && ordered.failed.is_none());

    // The write was appended, and not known to be committed. It is applied.
    let old = recovered(&three(), 5).snapshot.expect("it founded").0;
    let founding = go_on(recovered(&three(), 5));
    let meta = &founding.meta;
    assert_ne!(meta.cluster, old.cluster);
    assert_eq!(
        (founding.id, meta.index, meta.term),
        (PeerId(1), Index(8), Term(5))
    );
    let [own] = &meta.configuration.members[..] else {
        panic!("alone: {:?}", meta.configuration);
    };
    assert_eq!((own.id, own.incarnation, own.voter), (PeerId(1), 99, true));
    let store = restore(&founding.chunks.concat()).expect("whole");
    assert_eq!(store.value(&path("/a")), Some("1"));
    assert!(store.value(&path("/_etcd/machines/node1")).is_some());
    for lost in ["node2", "node3"] {
        let key = path(&format!("/_etcd/machines/{lost}"));
        assert_eq!(store.value(&key), None, "{lost}");
    }
    // Three machines joined, a write, two machines left: each is an event.
    assert_eq!(store.index().0, 6);
}

#[test]
fn protocol_17_a_cluster_whose_majority_answers_is_not_lost() {
    for committed in [0, 5, 6] {
        let (_, ordered) = force(recovered(&three(), committed), &[], &OTHERS[..1]);
        let text = ordered.failed.expect("it refuses");
        assert!(text.contains(OTHERS[0]) && !ordered.forces, "{text}");
    }
    // A voter that has moved answers at an address that only the settings name.
    let (_, ordered) = force(
        recovered(&three(), 6),
        &["http://c:7001"],
        &["http://c:7001"],
    );
    assert!(ordered.failed.is_some());
}

/// Both the last committed and the last appended configuration count: either may be in force.
#[test]
fn protocol_17_the_committed_and_the_appended_configuration_count() {
    let mut commands = vec![join(2), Command::Promote { id: 2 }, Command::Nop];
    let (_, ordered) = force(recovered(&commands, 3), &[], &[]);
    assert!(ordered.forces, "one of two");
    commands.push(Command::Remove {
        id: 2,
        for_good: false,
    });
    for committed in [3, 4] {
        let (_, ordered) = force(recovered(&commands, committed), &[], &[]);
        let text = ordered.failed.expect("it is the only voter");
        assert!(text.contains("alone is a majority"), "{text}");
    }
    // The founder alone is the committed configuration.
    let (_, ordered) = force(recovered(&three(), 0), &[], &[]);
    assert!(ordered.failed.is_some());
}

#[test]
fn protocol_17_a_damaged_entry_refuses_with_its_index() {
    let damaged = || {
        let mut recovered = recovered(&three(), 5);
        recovered.entries[4].body = EntryBody::Faulty {
            len: 3,
            seed: 1,
            crc: 2,
        };
        recovered
    };
    let search = search(&[], 1);
    let forced = Machine::force(settings(1), damaged(), search, 5, now());
    let founded = Machine::go_on_alone(settings(1), damaged(), 99, 7, now());
    for text in [forced.err(), founded.err()] {
        let text = text.expect("it refuses");
        assert!(text.contains("entry 6 is damaged"), "{text}");
    }
}

/// Entries may remove this member, and let another one have its name.
#[test]
fn protocol_17_entries_count_whatever_they_do_to_this_member() {
    let mut commands = three();
    commands.push(Command::Remove {
        id: 1,
        for_good: false,
    });
    let mut namesake = join(1);
    if let Command::Join { incarnation, .. } = &mut namesake {
        *incarnation = 555;
    }
    for with_namesake in [false, true] {
        if with_namesake {
            commands.push(namesake.clone());
        }
        let founding = go_on(recovered(&commands, 5));
        let [own] = &founding.meta.configuration.members[..] else {
            panic!("alone");
        };
        assert_eq!(
            (own.id, &*own.name, own.incarnation),
            (PeerId(1), "node1", 99)
        );
        let store = restore(&founding.chunks.concat()).expect("whole");
        assert!(store.value(&path("/_etcd/machines/node1")).is_some());
    }
}

fn link_event(facts: &[Fact]) -> Option<&LinkReportEvent> {
    facts.iter().find_map(|fact| match fact {
        Fact::Link(report) => Some(&report.event),
        _ => None,
    })
}

/// The old members are back as a majority, and dial the machine that went on.
#[test]
fn protocol_17_former_members_and_the_machine_that_went_on_both_report() {
    const FORMER: u64 = 4711;
    let mut rig = Rig::serving(settings(1));
    rig.machine.remember_former_clusters(&[FORMER]);
    rig.facts.clear();
    let mut hello = Hello {
        from: PeerId(2),
        to: Some(PeerId(1)),
        process: 8,
        incarnation: 200,
        cluster: Some(FORMER + 1),
        receiver_incarnation: Some(76),
        name: "node2".into(),
        peer_url: OTHERS[0].into(),
        client_url: "http://127.0.0.1:4002".into(),
    };
    let refused = rig.machine.on_hello(rig.now, &hello, "127.0.0.1:9");
    assert_eq!(
        refused,
        Err(HelloRefusal::Denied),
        "a stranger learns nothing"
    );
    rig.turn();
    rig.facts.clear();
    hello.cluster = Some(FORMER);
    let refused = rig.machine.on_hello(rig.now, &hello, "127.0.0.1:9");
    assert_eq!(refused, Err(HelloRefusal::WentOn));
    rig.turn();
    assert_eq!(link_event(&rig.facts), Some(&LinkReportEvent::FormerMember));

    // The old member: the machine at the address of a peer says that it went on.
    let disk = recovered(&three(), 6);
    let mut machine = Machine::recover(settings(1), disk, 5, now());
    let mut outputs = Outputs::default();
    machine.advance(now(), &mut outputs);
    machine.on_time(now());
    machine.advance(now(), &mut outputs);
    let dialled = outputs.links.iter().find_map(|order| match order {
        tern::core::peers::LinkOrder::Dial { link, .. } => Some(*link),
        _ => None,
    });
    let link = dialled.expect("it dials its peers");
    machine.on_link(now(), link, LinkEvent::Refused(Some(HelloRefusal::WentOn)));
    outputs.clear();
    machine.advance(now(), &mut outputs);
    assert_eq!(link_event(&outputs.facts), Some(&LinkReportEvent::WentOn));
}
