//! Watches that a standby with `-forward` passes on.
use crate::recorded::{DATE_NS, settings};
use crate::shapes::context;
use tern::codec::api::{Context, Mode, Next, Port, ProxyOutcome, Routed, route};
use tern::codec::http::client::ResponsePart;
use tern::codec::http::{Date, Limits, Parsed, Parser};
use tern::core::seam::Indexes;

const STANDBY: Mode = Mode::Standby {
    leader_url: Some("http://leader:1"),
};

/// The treatment that a standby gives a request with this query.
fn as_standby(method: &str, query: &str, compat_2: bool) -> Routed {
    let mut settings = settings("", 4001);
    settings.forward = true;
    settings.compat_2 = compat_2;
    let input = format!("{method} /v2/keys/a?{query} HTTP/1.1\r\nHost: x\r\n\r\n");
    let (date, mut parser) = (Date::new(DATE_NS), Parser::new());
    let Parsed::Request { request, .. } = parser.parse(input.as_bytes(), &Limits::default()) else {
        panic!("not a request: {input}");
    };
    let context = Context {
        mode: STANDBY,
        ..context(&settings, &date, Indexes::default())
    };
    route(Port::Client, &request, &context)
}

#[test]
fn only_what_waits_for_events_is_passed_on_as_a_watch() {
    for (query, waits, waits_2x) in [
        ("wait=true", true, true),
        ("wait=tRuE", true, false),
        ("wait=1", false, true),
        ("wait=0", false, false),
        ("wait=false", false, false),
        ("wait=", false, false),
        ("wait=true&quorum=true", false, false),
        ("wait=true&quorum=false", true, true),
        ("quorum=true", false, false),
    ] {
        for (compat_2, waits) in [(false, waits), (true, waits_2x)] {
            let Routed::Proxy { is_watch, .. } = as_standby("GET", query, compat_2) else {
                panic!("{query} is passed on");
            };
            assert_eq!(is_watch, waits, "{query}, {compat_2}");
        }
    }
    // Its answer would have no body to wait for.
    for (query, compat_2) in [("wait=true", false), ("wait=1", true)] {
        let Routed::Answer(answer) = as_standby("HEAD", query, compat_2) else {
            panic!("{query} is redirected");
        };
        assert_eq!(answer.status, 307);
    }
}

/// Half an event whose body ends properly would pass for a whole one.
#[test]
fn a_watch_that_breaks_off_amid_an_event_has_no_end_of_its_body() {
    let settings = settings("", 4001);
    let date = Date::new(DATE_NS);
    let context = context(&settings, &date, Indexes::default());
    for (is_unfinished, is_answered) in [(false, false), (true, false), (true, true)] {
        let Routed::Proxy { mut shape, .. } = as_standby("GET", "wait=true", false) else {
            panic!("it is passed on");
        };
        let mut out = Vec::new();
        let part = ResponsePart {
            proxied_headers: Some(Vec::new()),
            body: b"{\"action".to_vec(),
            is_unfinished,
            consumed: 0,
        };
        shape.proxied_part(part, &context, &mut out);
        let outcome = if is_answered {
            ProxyOutcome::Answered {
                status: 200,
                headers: Vec::new(),
                body: b"\":\"set\"}"[..].into(),
            }
        } else {
            ProxyOutcome::Failed { sent: true }
        };
        let next = shape.proxied(outcome, &context, &mut out);
        let breaks_off = is_unfinished && !is_answered;
        assert_eq!(next == Next::Abort, breaks_off);
        assert_eq!(out.ends_with(b"0\r\n\r\n"), !breaks_off);
    }
}
