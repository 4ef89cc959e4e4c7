//! The codecs of links by hand: frames that are cut, mixed and damaged; hellos that are welcome and
//! those that are not.
use tern::codec::http::upgrade;
use tern::codec::peer::frame::{self, FrameContent, FrameFault, Frames, PIECE_BYTES_MAX};
use tern::codec::peer::hello::{Hello, HelloRefusal, judge};
use tern::codec::peer::wire;
use tern::core::raft::{Index, Message, PeerId, Rpc, SnapshotMeta, Term};
use tern_support::rng::Rng;

fn vote(term: u64) -> Message {
    Message {
        term: Term(term),
        rpc: Rpc::Vote {
            pre: false,
            granted: true,
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
                FrameContent::Piece | FrameContent::Ping | FrameContent::Pong => {}
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
    frame::put_pong(&mut wire);
    assert_eq!(frames.take(&wire), Ok(Some((8, FrameContent::Ping))));
    assert_eq!(frames.take(&wire[8..]), Ok(Some((8, FrameContent::Pong))));
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

fn hello(from: u64, to: u64) -> Hello {
    Hello {
        cluster: 0xc1,
        from: PeerId(from),
        to: PeerId(to),
        process: from * 100,
        incarnation: from * 1000,
        name: "b; c=\u{e9}".into(),
    }
}

#[test]
fn hellos_there_and_back() {
    let said = hello(2, 1);
    let text = said.to_string();
    assert!(text.is_ascii() && !text.contains("b; c"), "{text}");
    assert_eq!(Hello::parse(&text), Some(said.clone()));
    assert_eq!(Hello::parse(&format!("{text}; later=x")), Some(said));
    for bad in [
        "",
        "cluster=1",
        "cluster=1; from=0; to=1; process=1; incarnation=1; name=a",
        "cluster=1; from=2; from=2; to=1; process=1; incarnation=1; name=a",
        "cluster=1; from=2; to=x; process=1; incarnation=1; name=a",
        "cluster=1; from=2; to=+1; process=1; incarnation=1; name=a",
        "cluster=1; from=2; to=11111111111111111; process=1; incarnation=1; name=a",
        "cluster=1; from=2; to=1; process=1; incarnation=1; name=%f",
    ] {
        assert_eq!(Hello::parse(bad), None, "{bad}");
    }
}

#[test]
fn hellos_that_are_admitted() {
    let mine = hello(1, 0);
    type Change = fn(&mut Hello);
    let table: &[(&str, Change, Result<(), HelloRefusal>)] = &[
        ("a member", |_| (), Ok(())),
        (
            "new, without data",
            |h| (h.cluster, h.incarnation) = (0, 0),
            Ok(()),
        ),
        (
            "another cluster",
            |h| h.cluster = 9,
            Err(HelloRefusal::OtherCluster),
        ),
        (
            "for another member",
            |h| h.to = PeerId(3),
            Err(HelloRefusal::NotMe),
        ),
        (
            "for no member",
            |h| h.to = PeerId(0),
            Err(HelloRefusal::NotMe),
        ),
        (
            "as myself",
            |h| h.from = PeerId(1),
            Err(HelloRefusal::MySelf),
        ),
        ("myself", |h| h.process = 100, Err(HelloRefusal::MySelf)),
        (
            "another directory",
            |h| h.incarnation = 5,
            Err(HelloRefusal::OtherData),
        ),
    ];
    for (what, change, expected) in table {
        let mut theirs = hello(2, 1);
        change(&mut theirs);
        assert_eq!(judge(&theirs, &mine, Some(2000)), *expected, "{what}");
    }
    let unknown = hello(7, 1);
    assert_eq!(judge(&unknown, &mine, None), Ok(()), "raft will tell it");
    let nobody = Hello::default();
    assert_eq!(judge(&unknown, &nobody, None), Err(HelloRefusal::NoMember));
}

#[test]
fn upgrades_are_asked_for_and_granted() {
    let text = hello(2, 1).to_string();
    let asked = upgrade::request("a:7001", &text);
    let mut parser = tern::codec::http::Parser::new();
    match parser.parse(&asked, &tern::codec::http::Limits::default()) {
        tern::codec::http::Parsed::Request { consumed, request } => {
            assert_eq!(consumed, asked.len());
            assert_eq!(request.upgrade, Some("tern-raft/1"));
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
