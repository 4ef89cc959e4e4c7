//! Machines over sockets, with a stranger or a faulty member at their peer ports.
//!
//! A stranger has no effect at all: not on term, leader, log or members. A faulty member is one of
//! three, the other two are real. It sends what contradicts nothing that raft rests on, in any
//! order and number, and what is no message at all; `tests/fuzz` has messages of each kind. No
//! machine ends or wipes its data, and the two take writes again once the faulty member is gone.
use super::links::{CLUSTER, Ports, Wire, ask, get, hello_at, leader_of, put, start_some};
use std::io::Write;
use std::time::Instant;
use tern::codec::http::upgrade;
use tern::codec::peer::{frame, hello};
use tern::core::raft::{
    AppendAnswer, FetchResult, Index, LeaderReading, Message, PeerId, Rpc, Term,
};
use tern_support::alone::alone;
use tern_support::client::{request, until};
use tern_support::rng::Rng;

/// Messages of a run.
const MESSAGES: u64 = 3_000;
/// Bytes by which this process may grow meanwhile.
const GROWTH_BYTES_MAX: u64 = 256 << 20;
/// Writes must resume this long after the last message. It is usually less than 2 s; a machine that
/// runs other tests as well may take longer.
const RESUME_S_MAX: u64 = 20;

/// The memory of this process, in bytes.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = text.split(' ').nth(1).expect("the resident pages");
    pages.parse::<u64>().expect("a number") * 4096
}

fn header(port: u16, name: &str) -> u64 {
    let answer = get(port, "first");
    let value = answer.head.header(name).expect("a header of each answer");
    value.parse().expect("a number")
}

fn members(port: u16) -> String {
    let asked = ask(port, &request("GET", "/v2/admin/machines", &[], b""));
    asked.expect("it listens").text().to_string()
}

/// What a machine shows that no stranger may change.
fn shown(ports: Ports) -> (u64, u64, String) {
    let term = header(ports.client, "X-Raft-Term");
    let index = header(ports.client, "X-Raft-Index");
    (term, index, members(ports.peer))
}

/// Bytes that a stranger sends: hellos with wrong numbers, parts of one, and garbage.
fn strange(rng: &mut Rng, to: usize, all: &[Ports]) -> Vec<u8> {
    let mut said = hello_at(all, 1 + rng.below(4), to);
    match rng.below(4) {
        0 => said.incarnation = rng.next_u64() >> 1,
        1 => {
            said.from = PeerId(1 << 40);
            said.cluster = Some(rng.next_u64() >> 1);
        }
        2 => {
            said.from = PeerId(rng.next_u64() >> 2);
            said.cluster = None;
        }
        _ => (said.incarnation, said.cluster) = (7, Some(CLUSTER + 1)),
    }
    let mut bytes = upgrade::request("tern", &hello::encode(&said));
    match rng.below(4) {
        0 => bytes.truncate(rng.index(bytes.len())),
        1 => {
            let at = rng.index(bytes.len());
            bytes[at] = rng.next_u64() as u8;
        }
        2 => {
            bytes = vec![0; rng.index(5_000)];
            rng.fill(&mut bytes);
        }
        _ => {
            let mut tail = vec![0; rng.index(5_000)];
            rng.fill(&mut tail);
            bytes.extend(tail);
        }
    }
    bytes
}

#[test]
fn strangers_change_nothing() {
    let _alone = alone();
    let machines = start_some(3, 2_000);
    let leader = leader_of(&machines);
    assert_eq!(put(machines[leader - 1].client, "first", "1").status(), 201);
    for ports in &machines {
        until("it has the entry", || {
            (get(ports.client, "first").status() == 200).then_some(())
        });
    }
    let before: Vec<_> = machines.iter().map(|ports| shown(*ports)).collect();
    let grown_from = memory();
    let mut rng = Rng::new(7);
    let mut open = Vec::new();
    for number in 0..MESSAGES / 3 {
        let to = 1 + number as usize % 3;
        let bytes = strange(&mut rng, to, &machines);
        let mut wire = Wire::connect(machines[to - 1].peer);
        // A machine may have closed the connection already.
        let _ = wire.stream.write_all(&bytes);
        open.push(wire);
        if open.len() > 20 {
            open.remove(rng.index(20));
        }
    }
    let after: Vec<_> = machines.iter().map(|ports| shown(*ports)).collect();
    assert_eq!(before, after);
    assert_eq!(leader, leader_of(&machines));
    let grown = memory().saturating_sub(grown_from);
    assert!(grown < GROWTH_BYTES_MAX, "memory is bounded: {grown} bytes");
}

/// What the faulty member knows.
struct Liar {
    rng: Rng,
    term: u64,
    last: u64,
}

impl Liar {
    fn on_message(&mut self, message: &Message) {
        if message.term != Term::REMOVED {
            self.term = self.term.max(message.term.0);
        }
        if let Rpc::AppendEntries {
            prev_index,
            entries,
            ..
        } = &message.rpc
        {
            self.last = self.last.max(prev_index.0 + entries.len() as u64);
        }
    }

    fn number(&mut self) -> u64 {
        let near = self.last + self.rng.below(9);
        *self
            .rng
            .pick(&[0, 1, near, near, self.term, 1 << 40, u64::MAX >> 2])
    }

    fn claim(&mut self) -> Rpc {
        Rpc::AppendEntries {
            prev_index: Index(0),
            prev_term: Term::NONE,
            commit: Index(0),
            acked: Index(self.number()),
            round: Some(1 + self.rng.below(3)),
            sync_us: *self.rng.pick(&[0, 1_000, u32::MAX]),
            round_trip_us: *self.rng.pick(&[0, 1_000, u32::MAX]),
            pause_us: *self.rng.pick(&[0, 1_000, u32::MAX]),
            held_bytes: Some(self.number()).filter(|bytes| *bytes > 0),
            clock_ns: self.number(),
            entries: Vec::new(),
        }
    }

    /// A message for the machine `to`.
    fn message(&mut self, to: u64) -> Message {
        let mut term = self.term + *self.rng.pick(&[0, 0, 0, 1]);
        let rpc = match self.rng.below(10) {
            0 => {
                term = Term::REMOVED.0;
                Rpc::Removed {
                    cluster: CLUSTER,
                    id: PeerId(to),
                }
            }
            1 | 2 => self.claim(),
            3 => Rpc::RequestVote {
                pre: self.rng.percent(60),
                hand_over: self.rng.percent(30),
                last_index: Index(self.number()),
                last_term: Term(self.number()),
            },
            4 => Rpc::TimeoutNow,
            5 => Rpc::Fetch {
                index: Index(self.number()),
                term: Term(self.number()),
            },
            6 => Rpc::Fetched {
                index: Index(self.number()),
                term: Term(self.number()),
                found: FetchResult::NeverStored,
            },
            7 => Rpc::SnapshotReply {
                index: Index(self.number()),
                offset: self.number(),
            },
            8 => Rpc::Vote {
                pre: self.rng.percent(50),
                granted: false,
                reading: Some(LeaderReading {
                    term: Term(self.number()),
                    clock_ns: self.number(),
                }),
            },
            _ => Rpc::AppendReply {
                round: Some(self.rng.below(9)).filter(|round| *round > 0),
                sync_us: u32::MAX,
                free_bytes: self.number(),
                answer: AppendAnswer::Rejected {
                    prev: Index(self.number()),
                    hint: Index(self.number()),
                    hint_term: Term(self.number()),
                },
            },
        };
        let term = Term(term);
        Message { term, rpc }
    }

    /// A message as bytes, some of them damaged, cut short or repeated.
    fn bytes(&mut self, to: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let message = self.message(to);
        if frame::put_urgent(&message, &mut bytes).is_err() {
            return bytes;
        }
        let length = bytes.len();
        match self.rng.below(30) {
            0 => bytes[self.rng.index(length)] = self.rng.next_u64() as u8,
            1 => bytes.truncate(self.rng.index(length)),
            2 => bytes.extend_from_within(..),
            _ => {}
        }
        bytes
    }
}

/// Opens a link as member 3; `None` while the machine refuses it.
fn open(all: &[Ports], to: usize) -> Option<Wire> {
    let asks = upgrade::request("tern", &hello::encode(&hello_at(all, 3, to)));
    let (mut wire, answer) = Wire::open_at(all[to - 1].peer, &asks);
    if answer.status != 101 {
        return None;
    }
    wire.poll_soon();
    Some(wire)
}

#[test]
fn a_faulty_member_stops_nothing_and_wipes_nothing() {
    let _alone = alone();
    let machines = start_some(2, 200);
    let leader = leader_of(&machines[..2]);
    assert_eq!(put(machines[leader - 1].client, "first", "1").status(), 201);
    let grown_from = memory();
    let mut liar = Liar {
        rng: Rng::new(13),
        term: header(machines[0].client, "X-Raft-Term"),
        last: header(machines[0].client, "X-Raft-Index"),
    };
    let mut wires: [Option<Wire>; 2] = [None, None];
    let mut sent = 0;
    until("all messages are sent", || {
        for to in [1, 2] {
            let slot = &mut wires[to - 1];
            let Some(wire) = slot.take().or_else(|| open(&machines, to)) else {
                continue;
            };
            let mut wire = wire;
            while let Some(message) = wire.ready() {
                liar.on_message(&message);
            }
            for _ in 0..10 {
                let bytes = liar.bytes(to as u64);
                sent += 1;
                if wire.stream.write_all(&bytes).is_err() {
                    break;
                }
            }
            *slot = (!wire.has_ended).then_some(wire);
        }
        (sent >= MESSAGES).then_some(())
    });
    drop(wires);
    let ended = Instant::now();
    until("writes resume", || {
        let mut ports = machines[..2].iter();
        ports
            .any(|ports| [200, 201].contains(&put(ports.client, "after", "x").status()))
            .then_some(())
    });
    let took = ended.elapsed();
    eprintln!("{sent} messages of a faulty member; writes resumed after {took:?}");
    assert!(
        took.as_secs() < RESUME_S_MAX,
        "writes resumed after {took:?}"
    );
    for ports in &machines[..2] {
        until("it has kept its data", || {
            let answer = get(ports.client, "first");
            (answer.status() == 200).then_some(())
        });
    }
    let grown = memory().saturating_sub(grown_from);
    assert!(grown < GROWTH_BYTES_MAX, "memory is bounded: {grown} bytes");
}
