//! The codecs of links by hand: frames that are cut, mixed and damaged; hellos that are welcome and
//! those that are not.
use std::sync::Arc;
use tern::codec::http::upgrade;
use tern::codec::peer::frame::{
    self, FrameContent, FrameFault, Frames, MESSAGE_BYTES_MAX, PIECE_BYTES_MAX,
};
use tern::codec::peer::hello;
use tern::codec::peer::wire;
use tern::core::peers::{Hello, HelloRefusal};
use tern::core::raft::{
    BARRED_MAX, BODY_BYTES_MAX, BarredMember, Configuration, Entry, EntryBody, FetchResult, Index,
    Member, Message, PeerId, Rpc, SnapshotMeta, Term,
};
use tern_support::rng::Rng;

fn vote(term: u64) -> Message {
    Message {
        term: Term(term),
        rpc: Rpc::Vote {
            pre: false,
            granted: true,
            reading: None,
        },
    }
}

fn chunk(bytes: usize) -> Message {
    let data: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8).collect();
    Message {
        term: Term(3),
        rpc: Rpc::InstallSnapshot {
            meta: SnapshotMeta {
                index: Index(9),
                ..SnapshotMeta::default()
            },
            offset: 0,
            done: false,
            data: data.into(),
        },
    }
}

/// A long message with a short one between any two of its pieces.
fn mixed(bytes: usize) -> (Vec<u8>, Vec<Message>) {
    let long = chunk(bytes);
    let mut encoded = Vec::new();
    wire::encode(&long, &mut encoded);
    let (mut wire, mut messages, mut at) = (Vec::new(), Vec::new(), 0);
    while at < encoded.len() {
        at = frame::put_piece(&encoded, at, &mut wire);
        if at < encoded.len() {
            messages.push(vote(at as u64));
            frame::put_urgent(messages.last().expect("just put there"), &mut wire).expect("short");
        }
    }
    messages.push(long);
    (wire, messages)
}

/// Everything that comes out of `wire` when it arrives `step` bytes at a time.
fn receive(wire: &[u8], step: usize) -> Result<Vec<Message>, FrameFault> {
    let (mut frames, mut input, mut out) = (Frames::default(), Vec::new(), Vec::new());
    for part in wire.chunks(step) {
        input.extend_from_slice(part);
        while let Some((used, taken)) = frames.take(&input)? {
            input.drain(..used);
            match taken {
                FrameContent::Message(message) => out.push(message),
                FrameContent::Piece
                | FrameContent::Ping
                | FrameContent::Pong { .. }
                | FrameContent::Alive => {}
            }
        }
    }
    Ok(out)
}

#[test]
fn short_messages_pass_between_the_pieces_of_a_long_one() {
    let (wire, messages) = mixed(100_000);
    assert_eq!(messages.len(), 7);
    for step in [1, 7, 8, 9, PIECE_BYTES_MAX, wire.len()] {
        assert_eq!(receive(&wire, step).as_ref(), Ok(&messages), "by {step}");
    }
}

/// The longest that a correct peer sends: one body of the log, in each message that has one, and a
/// chunk of a snapshot with the largest head.
fn longest_messages() -> [Rpc; 4] {
    let body: Arc<[u8]> = vec![7; BODY_BYTES_MAX as usize].into();
    let (index, term) = (Index(u64::MAX >> 8), Term(u64::MAX >> 8));
    let member = |id| Member {
        id: PeerId(id),
        name: "n".repeat(128).into(),
        peer_url: "p".repeat(1_024).into(),
        client_url: "c".repeat(1_024).into(),
        incarnation: u64::MAX,
        voter: true,
        added_as: None,
    };
    let barred = |id| BarredMember {
        id: PeerId(id),
        incarnation: u64::MAX,
    };
    let configuration = Configuration {
        members: (1..400).map(member).collect(),
        barred: (1..).take(BARRED_MAX).map(barred).collect(),
    };
    let append = Rpc::AppendEntries {
        prev_index: index,
        prev_term: term,
        commit: index,
        acked: index,
        round: Some(u64::MAX - 1),
        sync_us: u32::MAX,
        round_trip_us: u32::MAX,
        pause_us: u32::MAX,
        clock_ns: u64::MAX,
        held_bytes: Some(u64::MAX - 1),
        entries: vec![Entry {
            term,
            index: index.next(),
            body: EntryBody::Good(body.clone()),
        }],
    };
    let fetched = Rpc::Fetched {
        index,
        term,
        found: FetchResult::Body(body.clone()),
    };
    let forward = Rpc::Forward {
        process: u64::MAX,
        number: u64::MAX,
        command: Some(body[..].into()),
    };
    let chunk = Rpc::InstallSnapshot {
        meta: SnapshotMeta {
            cluster: u64::MAX,
            index,
            term,
            configuration,
        },
        offset: u64::MAX >> 8,
        done: false,
        data: vec![7; 1 << 20].into(),
    };
    [append, fetched, forward, chunk]
}

#[test]
fn the_longest_messages_of_a_correct_peer_are_accepted() {
    for rpc in longest_messages() {
        let term = Term(u64::MAX >> 8);
        let message = Message { term, rpc };
        let (mut encoded, mut wire, mut at) = (Vec::new(), Vec::new(), 0);
        wire::encode(&message, &mut encoded);
        while at < encoded.len() {
            at = frame::put_piece(&encoded, at, &mut wire);
        }
        let mut frames = Frames::default();
        let mut at = 0;
        loop {
            let (used, content) = frames.take(&wire[at..]).expect("good").expect("whole");
            at += used;
            if let FrameContent::Message(received) = content {
                assert!(received == message, "it arrives as it was sent");
                break;
            }
        }
        assert_eq!((at, frames.held()), (wire.len(), 0));
    }
}

#[test]
fn a_message_that_does_not_end_is_refused_once_it_is_longer_than_any() {
    let message = vec![7; 2 * PIECE_BYTES_MAX];
    let mut piece = Vec::new();
    frame::put_piece(&message, 0, &mut piece);
    let mut frames = Frames::default();
    while let Ok(taken) = frames.take(&piece) {
        assert_eq!(taken, Some((piece.len(), FrameContent::Piece)));
        assert!(frames.held() <= 17 << 20);
    }
    assert!(frames.held() > MESSAGE_BYTES_MAX - PIECE_BYTES_MAX);
}

#[test]
fn a_message_that_is_too_long_for_a_frame_comes_back_encoded() {
    let long = chunk(PIECE_BYTES_MAX);
    let mut out = b"before".to_vec();
    let encoded = frame::put_urgent(&long, &mut out).expect_err("too long");
    assert_eq!(out, b"before");
    assert_eq!(wire::decode(&encoded), Ok(long));
}

#[test]
fn pings_are_no_messages() {
    let (mut wire, mut frames) = (Vec::new(), Frames::default());
    frame::put_ping(&mut wire);
    frame::put_pong(false, &mut wire);
    frame::put_pong(true, &mut wire);
    frame::put_alive(&mut wire);
    assert_eq!(frames.take(&wire), Ok(Some((8, FrameContent::Ping))));
    for (at, stood_still) in [(8, false), (16, true)] {
        let pong = FrameContent::Pong { stood_still };
        assert_eq!(frames.take(&wire[at..]), Ok(Some((8, pong))));
    }
    assert_eq!(frames.take(&wire[24..]), Ok(Some((8, FrameContent::Alive))));
    assert_eq!(frames.take(&wire[8..15]), Ok(None));
}

/// Every single bit: nothing that was not sent comes out, and nothing panics.
#[test]
fn damage_is_noticed_before_a_message_is_decoded() {
    let (wire, messages) = mixed(20_000);
    let mut damaged = wire.clone();
    for at in (0..wire.len()).filter(|at| *at < 64 || at % 97 == 0 || wire.len() - at < 64) {
        for bit in 0..8 {
            damaged[at] ^= 1 << bit;
            // A length that has grown may leave a frame that is not whole yet.
            let came = receive(&damaged, damaged.len()).unwrap_or_default();
            assert!(came.len() < messages.len(), "byte {at}, bit {bit}");
            assert!(came.iter().all(|m| messages.contains(m)));
            damaged[at] ^= 1 << bit;
        }
    }
}

/// Bytes with good checksums but without sense: a value, never a panic, and nothing is allocated
/// for what is claimed.
#[test]
fn rubbish_is_a_value() {
    let mut rng = Rng::new(1);
    for _ in 0..20_000 {
        let length = (rng.range(1, 40)) as usize;
        let rubbish: Vec<u8> = (0..length).map(|_| rng.below(16) as u8).collect();
        let mut wire = Vec::new();
        frame::put_piece(&rubbish, 0, &mut wire);
        let mut frames = Frames::default();
        match frames.take(&wire) {
            Ok(Some((_, FrameContent::Message(message)))) => {
                let mut again = Vec::new();
                wire::encode(&message, &mut again);
                assert_eq!(again, rubbish, "one encoding for each message");
            }
            Err(_) => {}
            other => panic!("{other:?}"),
        }
        let cut = rng.index(wire.len());
        wire[cut] = rng.next_u64() as u8;
        let _ = frames.take(&wire);
        assert!(frames.held() <= wire.len());
    }
}

fn whole_hello() -> Hello {
    Hello {
        from: PeerId(2),
        to: Some(PeerId(1)),
        process: 200,
        incarnation: 2000,
        cluster: Some(0xc1),
        receiver_incarnation: Some(1000),
        name: "b;c=\u{e9}".into(),
        peer_url: "http://b:7001".into(),
        client_url: "https://[::1]:4001".into(),
    }
}

#[test]
fn hellos_there_and_back() {
    let least = Hello {
        to: None,
        cluster: None,
        receiver_incarnation: None,
        ..whole_hello()
    };
    for sent in [whole_hello(), least] {
        let text = hello::encode(&sent);
        assert!(text.is_ascii() && !text.contains("b;c"), "{text}");
        assert_eq!(hello::parse(&text), Some(sent.clone()));
        assert_eq!(hello::parse(&format!("{text}; later=x")), Some(sent));
    }
}

#[test]
fn malformed_hellos_are_no_hellos() {
    let good = "from=2; process=1; incarnation=1; name=a; peer=http%3A%2F%2Fa%3A1; \
                client=http%3A%2F%2Fa%3A2";
    assert!(hello::parse(good).is_some());
    let long = format!("name={}", "a".repeat(600));
    for (part, bad) in [
        ("from=2", "from=0"),
        ("from=2", "from=2; from=2"),
        ("from=2", "from=2; to=x"),
        ("from=2", "from=2; to=+1"),
        ("from=2", "from=2; to=0"),
        ("from=2", "from=11111111111111111"),
        ("process=1", "process"),
        ("incarnation=1; ", ""),
        ("name=a", "name=%f"),
        ("name=a", "name="),
        ("name=a", "name=a%0Ab"),
        ("name=a", &long),
        ("peer=http%3A%2F%2Fa%3A1", "peer=http%3A%2F%2Fa%3A1%2Fpath"),
        ("peer=http%3A%2F%2Fa%3A1", "peer=a%3A1"),
        ("client=http%3A%2F%2Fa%3A2", "client=rubbish"),
    ] {
        let text = good.replace(part, bad);
        assert_eq!(hello::parse(&text), None, "{text}");
    }
    assert_eq!(hello::parse(""), None);
}

#[test]
fn refusals_there_and_back() {
    let twice = HelloRefusal::Twice {
        other_url: "http://b:7001".into(),
    };
    for refusal in [HelloRefusal::Denied, twice] {
        let text = hello::encode_refusal(&refusal);
        assert_eq!(hello::parse_refusal(&text), Some(refusal));
    }
    assert_eq!(hello::encode_refusal(&HelloRefusal::Denied), "denied");
    assert_eq!(hello::parse_refusal("a later code"), None);
}

#[test]
fn upgrades_are_asked_for_and_granted() {
    let text = hello::encode(&whole_hello());
    let asked = upgrade::request("a:7001", &text);
    let mut parser = tern::codec::http::Parser::new();
    match parser.parse(&asked, &tern::codec::http::Limits::default()) {
        tern::codec::http::Parsed::Request { consumed, request } => {
            assert_eq!(consumed, asked.len());
            assert_eq!(request.upgrade, Some("tern-raft/6"));
            assert_eq!(request.hello, Some(text.as_str()));
        }
        other => panic!("{other:?}"),
    }
    let mut granted = upgrade::granted(&text);
    let head = granted.len();
    granted.extend_from_slice(b"frames");
    let answer = upgrade::UpgradeAnswer {
        status: 101,
        hello: Some(text),
        refused: None,
    };
    assert_eq!(upgrade::parse(&granted), Ok(Some((head, answer))));
    for end in 0..head {
        assert_eq!(upgrade::parse(&granted[..end]), Ok(None));
    }
}
