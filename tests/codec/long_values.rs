//! Answers that are rendered without a copy of what they show: long values, which stay where the
//! store has them, and files that are read at once. Their bytes are those of all other answers.
use crate::recorded::{DATE_NS, settings};
use crate::shapes::{Asked, context, set};
use tern::codec::api::{FileGet, Next, Port, SharedValue};
use tern::codec::http::{Date, Limits, Parsed, Parser};
use tern::core::seam::{Answer, Indexes, Outcome, Ticket};
use tern::core::store::ListItem;

/// Puts the values into their places.
fn put_in(mut out: Vec<u8>, values: &[SharedValue]) -> Vec<u8> {
    for value in values.iter().rev() {
        out.splice(value.at..value.at, value.value.bytes());
    }
    out
}

fn answer(outcome: Outcome) -> Answer {
    Answer {
        ticket: Ticket(1),
        at: Indexes::default(),
        outcome,
    }
}

/// A value that is sent in place, and one that needs escapes.
fn long_values() -> [String; 2] {
    ["x".repeat(100_000), "\"".repeat(50_000)]
}

#[test]
fn long_values_are_left_out_unless_they_need_escapes() {
    let [long, quoted] = &long_values();
    let short = &String::from("short");
    for (value, prev_value, left_out) in [
        (long, long, 2),
        (long, quoted, 1),
        (quoted, long, 1),
        (short, long, 1),
        (short, short, 0),
    ] {
        let mut event = set(value, 8);
        event.prev = Some(set(prev_value, 7).node);
        let answer = answer(Outcome::Event(event));
        let request = "PUT /v2/keys/k HTTP/1.1\r\nHost: h\r\n\r\n";
        let mut copied = Asked::new(request, false);
        copied.with(|shape, context, out| shape.render(&answer, context, out));

        let mut asked = Asked::new(request, false);
        let mut values = Vec::new();
        asked.out.extend_from_slice(b"an earlier answer");
        let next = asked
            .with(|shape, context, out| shape.render_sharing(&answer, context, out, &mut values));
        assert!(matches!(next, Next::Done { .. }));
        assert_eq!(values.len(), left_out);
        let expected = [b"an earlier answer", &copied.out[..]].concat();
        assert!(put_in(asked.out, &values) == expected);
    }
}

#[test]
fn a_file_that_is_read_at_once_has_the_bytes_of_its_page() {
    let settings = settings("", 4001);
    let date = Date::new(DATE_NS);
    let context = context(&settings, &date, Indexes::default());
    let request = "GET /v2/keys/k HTTP/1.1\r\nHost: h\r\n\r\n";
    let [long, quoted] = long_values();
    for value in ["", "short", &long, &quoted] {
        let view = set(value, 8).node;
        let mut parser = Parser::new();
        let parsed = parser.parse(request.as_bytes(), &Limits::default());
        let Parsed::Request { request: get, .. } = parsed else {
            panic!("{parsed:?}");
        };
        let get = FileGet::new(Port::Client, &get, &context).expect("it asks for one key");
        assert_eq!(get.key(), "/k");
        let mut out = Vec::new();
        let mut values = Vec::new();
        assert!(get.render(view.borrowed(), &context, &mut out, &mut values));

        let items = vec![ListItem { depth: 0, view }];
        let page = answer(Outcome::Page { items, last: true });
        let mut asked = Asked::new(request, false);
        asked.with(|shape, context, out| shape.render(&page, context, out));
        assert!(put_in(out, &values) == asked.out);
    }
}

#[test]
fn other_requests_than_for_one_key_are_not_read_at_once() {
    let settings = settings("", 4001);
    let date = Date::new(DATE_NS);
    let context = context(&settings, &date, Indexes::default());
    for start in [
        "GET /v2/keys/k?recursive=true",
        "GET /v2/keys/k?quorum=true",
        "GET /v2/keys/",
        "GET /v2/keys",
        "GET /v2/keysandmore",
        "GET /v2/keys/k/",
        "GET /v2/keys/a//k",
        "GET /v2/keys/a/../k",
        "GET /v1/keys/k",
        "GET /version",
        "HEAD /v2/keys/k",
        "PUT /v2/keys/k",
    ] {
        let input = format!("{start} HTTP/1.1\r\nHost: h\r\n\r\n");
        let mut parser = Parser::new();
        let parsed = parser.parse(input.as_bytes(), &Limits::default());
        let Parsed::Request { request, .. } = parsed else {
            panic!("{parsed:?}");
        };
        assert!(
            FileGet::new(Port::Client, &request, &context).is_none(),
            "{start}"
        );
        assert!(
            FileGet::new(Port::Peer, &request, &context).is_none(),
            "{start}"
        );
    }
}
