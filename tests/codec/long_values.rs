//! Long values, which the codec leaves out of an answer, in their places.
use crate::shapes::{Asked, set};
use tern::codec::api::Next;
use tern::core::seam::{Answer, Indexes, Outcome, Ticket};

/// An answer with its long values put into their places has the bytes of one with copies.
#[test]
fn long_values_are_shared_and_escaped_ones_are_copied() {
    let long = "x".repeat(100_000);
    let quoted = "\"".repeat(50_000);
    for (value, prev_value, shared_count) in [
        (long.as_str(), long.as_str(), 2),
        (&long, &quoted, 1),
        (&quoted, &long, 1),
        ("short", &long, 1),
        ("short", "short", 0),
    ] {
        let mut event = set(value, 8);
        event.prev = Some(set(prev_value, 7).node);
        let answer = Answer {
            ticket: Ticket(1),
            at: Indexes::default(),
            outcome: Outcome::Event(Box::new(event)),
        };
        let request = "PUT /v2/keys/a HTTP/1.1\r\nHost: h\r\n\r\n";
        let mut copied = Asked::new(request, false);
        copied.with(|shape, context, out| shape.render(&answer, context, out));

        let mut asked = Asked::new(request, false);
        asked.out.extend_from_slice(b"an earlier answer");
        let mut values = Vec::new();
        let next = asked
            .with(|shape, context, out| shape.render_sharing(&answer, context, out, &mut values));
        assert!(matches!(next, Next::Done { .. }));
        assert_eq!(values.len(), shared_count);
        for value in values.iter().rev() {
            asked.out.splice(value.at..value.at, value.value.bytes());
        }
        assert!(
            asked.out.ends_with(&copied.out),
            "{value:.10} {prev_value:.10}"
        );
        assert_eq!(
            asked.out.len(),
            copied.out.len() + "an earlier answer".len()
        );
    }
}
