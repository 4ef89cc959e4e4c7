//! Watches with `timeout=`.
use crate::recorded::{DATE_NS, settings};
use crate::shapes::{Asked, DONE, POLL, STREAM, chunk, routed, set, set_json};
use tern::codec::api::{Next, Routed};
use tern::codec::http::Date;
use tern::core::seam::Outcome;

/// The status of a limited wait is not known at once, so its head comes with the event or the end.
#[test]
fn a_limited_wait_has_its_head_at_the_end() {
    let limited = POLL.replace("wait=true", "wait=true&timeout=5");
    let mut poll = Asked::new(&limited, false);
    assert_eq!(poll.answer(Outcome::Watching), Next::Wait);
    assert!(poll.out.is_empty());
    assert_eq!(poll.deliver(set("v", 7), true), DONE);
    assert!(poll.out.starts_with(b"HTTP/1.1 200 OK\r\n"));
    assert_eq!(poll.body(), chunk(&set_json("v", 7)) + "0\r\n\r\n");
    let mut late = Asked::new(&limited, false);
    late.answer(Outcome::Watching);
    assert_eq!(late.answer(Outcome::WatchTimedOut), DONE);
    let out = String::from_utf8_lossy(&late.out);
    assert!(out.starts_with("HTTP/1.1 204 No Content\r\n"), "{out}");
    assert!(out.contains("X-Etcd-Index: 0\r\n"), "{out}");
    let mut stream = Asked::new(&STREAM.replace("wait=true", "wait=true&timeout=5"), false);
    stream.answer(Outcome::Watching);
    assert_eq!(stream.deliver(set("v", 7), false), Next::Wait);
    stream.body();
    assert_eq!(stream.answer(Outcome::WatchTimedOut), DONE);
    assert_eq!(stream.body(), "0\r\n\r\n");
}

#[test]
fn a_wait_is_limited_by_a_whole_number() {
    let (date, settings) = (Date::new(DATE_NS), settings("", 4001));
    for bad in ["x", "-1", "1.5", "+1"] {
        let input = POLL.replace("wait=true", &format!("wait=true&timeout={bad}"));
        let Routed::Answer(answer) = routed(&input, &settings, &date) else {
            panic!("{bad} is a number");
        };
        assert_eq!(answer.status, 400);
        let body = String::from_utf8(answer.body).expect("UTF-8");
        assert!(body.contains("\"errorCode\":205"), "{body}");
    }
}
