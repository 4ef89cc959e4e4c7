//! Answers that no recording of etcd covers: pages and streams, limits, the 2.x flavour, parameters
//! of a PUT.
use crate::recorded::{DATE_NS, event, page, settings, store_stats, text};
use serde_json::Value;
use tern::codec::api::{
    ApiSettings, Context, Delivered, Mode, Next, Port, ProxyOutcome, Rendition, Routed, Shape,
    route,
};
use tern::codec::http::{Date, Limits, Parsed, Parser};
use tern::core::cluster_time::Lease;
use tern::core::command::{Command, KeyPath, Naming};
use tern::core::error::{Code, Error, OUTCOME_UNKNOWN};
use tern::core::raft::Index;
use tern::core::seam::{Answer, Delivery, Indexes, Migrated, Op, Outcome, Ticket};
use tern::core::store::{EtcdIndex, Event, ListItem, View};
use tern::core::timer::Now;
use tern_support::client;
use tern_support::recordings::steps;

/// A request routed and its shape, with what surrounds it.
pub struct Asked {
    settings: ApiSettings,
    date: Date,
    at: Indexes,
    shape: Shape,
    pub out: Vec<u8>,
}

impl Asked {
    pub fn new(input: &str, compat_2: bool) -> Asked {
        let mut settings = settings("", 4001);
        settings.compat_2 = compat_2;
        let (date, at) = (Date::new(DATE_NS), Indexes::default());
        let shape = match routed(input, &settings, &date) {
            Routed::ToMachine { shape, .. } => shape,
            other => panic!("{other:?}"),
        };
        Asked {
            settings,
            date,
            at,
            shape,
            out: Vec::new(),
        }
    }

    pub fn with<T>(&mut self, act: impl FnOnce(&mut Shape, &Context, &mut Vec<u8>) -> T) -> T {
        let context = context(&self.settings, &self.date, self.at);
        act(&mut self.shape, &context, &mut self.out)
    }

    pub fn answer(&mut self, outcome: Outcome) -> Next {
        let answer = Answer {
            ticket: Ticket(1),
            at: self.at,
            outcome,
        };
        self.with(|shape, context, out| shape.render(&answer, context, out))
    }

    pub fn deliver(&mut self, event: Event, ends: bool) -> Next {
        let delivery = Delivery {
            etcd: event.node.modified,
            event,
            tickets: Vec::new(),
        };
        self.with(|shape, context, out| {
            let rendition = Rendition::new(&delivery, context);
            let Delivered { shared, tail, next } =
                shape.deliver(&delivery, &rendition, ends, context, out);
            out.extend_from_slice(&rendition.bytes[shared]);
            out.extend_from_slice(tail);
            next
        })
    }

    /// What has been written since the last call, from behind the head.
    pub fn body(&mut self) -> String {
        let out = String::from_utf8(std::mem::take(&mut self.out)).expect("UTF-8");
        match out.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/") => body.to_string(),
            _ => out,
        }
    }
}

pub fn context<'a>(settings: &'a ApiSettings, date: &'a Date, at: Indexes) -> Context<'a> {
    Context {
        settings,
        date,
        now: Now::default(),
        shown_ns: 0,
        at,
        cluster_id: None,
        leader_url: None,
        mode: Mode::Member,
    }
}

pub fn routed(input: &str, settings: &ApiSettings, date: &Date) -> Routed {
    let mut parser = Parser::new();
    match parser.parse(input.as_bytes(), &Limits::default()) {
        Parsed::Request { request, .. } => route(
            Port::Client,
            &request,
            &context(settings, date, Indexes::default()),
        ),
        other => panic!("{other:?}"),
    }
}

pub fn set(value: &str, index: u64) -> Event {
    event(&serde_json::json!({
        "action": "set",
        "node": {"key": "/k", "value": value, "modifiedIndex": index, "createdIndex": index}
    }))
}

pub fn set_json(value: &str, index: u64) -> String {
    format!(
        r#"{{"action":"set","node":{{"key":"/k","value":"{value}","modifiedIndex":{index},"createdIndex":{index}}}}}"#
    )
}

pub const DONE: Next = Next::Done {
    keep_alive: true,
    client_closed: false,
};
const CLOSED: Next = Next::Done {
    keep_alive: false,
    client_closed: false,
};
pub const STREAM: &str = "GET /v2/keys/k?wait=true&stream=true HTTP/1.1\r\nHost: x\r\n\r\n";
pub const POLL: &str = "GET /v2/keys/k?wait=true HTTP/1.1\r\nHost: x\r\n\r\n";

pub fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

#[test]
fn a_stream_is_one_chunk_an_event() {
    let mut stream = Asked::new(STREAM, false);
    assert_eq!(stream.answer(Outcome::Watching), Next::Wait);
    assert!(String::from_utf8_lossy(&stream.out).contains("X-Etcd-Index: 0\r\n"));
    assert_eq!(stream.body(), "");
    for index in 1..4 {
        assert_eq!(stream.deliver(set("v", index), false), Next::Wait);
        assert_eq!(stream.body(), chunk(&set_json("v", index)));
    }
    assert_eq!(stream.answer(Outcome::WatchEnd), CLOSED);
    assert_eq!(stream.body(), "0\r\n\r\n");
}

#[test]
fn a_stream_from_the_past_goes_on_with_the_present() {
    let mut stream = Asked::new(STREAM, false);
    let backlog = |events: Vec<Event>| Outcome::Backlog {
        events,
        done: false,
    };
    let past = vec![set("a", 1), set("b", 2)];
    assert_eq!(stream.answer(backlog(past)), Next::ContinueListing);
    let both = chunk(&set_json("a", 1)) + &chunk(&set_json("b", 2));
    assert_eq!(stream.body(), both);
    assert_eq!(stream.answer(backlog(Vec::new())), Next::Wait);
    assert_eq!(stream.deliver(set("c", 3), false), Next::Wait);
    assert_eq!(stream.body(), chunk(&set_json("c", 3)));
}

#[test]
fn a_long_poll_ends_with_its_event() {
    let mut poll = Asked::new(POLL, false);
    assert_eq!(poll.answer(Outcome::Watching), Next::Wait);
    assert_eq!(poll.deliver(set("v", 7), true), DONE);
    assert_eq!(poll.body(), chunk(&set_json("v", 7)) + "0\r\n\r\n");
    let mut ended = Asked::new(POLL, false);
    ended.answer(Outcome::Watching);
    assert_eq!(ended.answer(Outcome::WatchEnd), CLOSED);
    assert_eq!(ended.body(), "0\r\n\r\n");
}

#[test]
fn http_1_0_has_no_chunks() {
    let old = STREAM.replace("1.1", "1.0");
    let mut stream = Asked::new(&old, false);
    assert_eq!(stream.answer(Outcome::Watching), Next::Wait);
    assert_eq!(stream.body(), "");
    assert_eq!(stream.deliver(set("v", 1), false), Next::Wait);
    assert_eq!(stream.body(), set_json("v", 1));
    assert_eq!(stream.deliver(set("w", 2), true), CLOSED);
    assert_eq!(stream.body(), set_json("w", 2));
}

#[test]
fn the_flavour_of_2_x() {
    let mut stream = Asked::new(STREAM, true);
    stream.answer(Outcome::Watching);
    stream.body();
    stream.deliver(set("v", 1), false);
    assert_eq!(stream.body(), chunk(&(set_json("v", 1) + "\n")));
    let version = "GET /version HTTP/1.1\r\nHost: x\r\n\r\n";
    let Routed::Answer(answer) = routed(version, &stream.settings, &stream.date) else {
        panic!("/version is answered at once");
    };
    let json: Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert!(json["etcdserver"].is_string() && json["etcdcluster"].is_string());
    let post = "POST /v2/keys/q HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    for (compat_2, naming) in [(false, Naming::InOrder), (true, Naming::InOrderPadded)] {
        stream.settings.compat_2 = compat_2;
        let Routed::ToMachine { op, .. } = routed(post, &stream.settings, &stream.date) else {
            panic!("a POST asks the machine");
        };
        assert!(matches!(op, Op::Write(Command::Create { naming: n, .. }) if n == naming));
    }
}

/// `/`, and below it `count` children, or a chain as deep.
fn tree(count: u32, deep: bool) -> Vec<ListItem> {
    let item = |depth, key: String, dir: bool| ListItem {
        depth,
        view: View {
            key: key.into(),
            value: (!dir).then(|| "v".into()),
            dir,
            expires_ns: None,
            modified: EtcdIndex(5),
            created: EtcdIndex(4),
        },
    };
    let mut items = vec![item(0, "/".to_string(), true)];
    for number in 1..=count {
        items.push(if deep {
            item(number, "/d".repeat(number as usize), true)
        } else {
            item(1, format!("/{number:05}"), false)
        });
    }
    items
}

fn unchunked(body: &str) -> String {
    let mut whole = String::new();
    let mut rest = body;
    loop {
        let (size, after) = rest.split_once("\r\n").expect("a chunk");
        let size = usize::from_str_radix(size, 16).expect("a size");
        if size == 0 {
            return whole;
        }
        whole.push_str(&after[..size]);
        rest = &after[size + 2..];
    }
}

const LIST: &str = "GET /v2/keys/?recursive=true HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn a_long_listing_comes_in_pages() {
    for deep in [false, true] {
        let items = tree(if deep { 1_024 } else { 5_000 }, deep);
        let mut whole = Asked::new(LIST, false);
        assert_eq!(whole.answer(page(items.clone())), DONE);
        let whole = whole.body();
        let mut paged = Asked::new(LIST, false);
        let mut pages = items.chunks(1_000).peekable();
        while let Some(items) = pages.next() {
            let last = pages.peek().is_none();
            let items = items.to_vec();
            let next = paged.answer(Outcome::Page { items, last });
            assert_eq!(next, if last { DONE } else { Next::ContinueListing });
        }
        assert_eq!(unchunked(&paged.body()), whole);
        assert_eq!(whole.matches("\"key\":").count(), items.len());
        assert_eq!(whole.matches('{').count(), whole.matches('}').count());
        assert_eq!(whole.matches('[').count(), whole.matches(']').count());
    }
}

#[test]
fn a_listing_that_cannot_be_finished_is_cut_short() {
    let mut asked = Asked::new(LIST, false);
    let items = tree(10, false);
    asked.answer(Outcome::Page { items, last: false });
    let error = Error::new(Code::RaftInternal, "");
    assert_eq!(asked.answer(Outcome::Failed(error)), Next::Abort);
    assert!(!asked.body().ends_with("0\r\n\r\n"));
}

#[test]
fn head_reads_one_page_and_lets_go() {
    let mut asked = Asked::new(&LIST.replace("GET", "HEAD"), false);
    let items = tree(10, false);
    let next = asked.answer(Outcome::Page { items, last: false });
    let gone = Next::Done {
        keep_alive: true,
        client_closed: true,
    };
    assert_eq!(next, gone);
    assert_eq!(asked.body(), "");
}

#[test]
fn the_migration_document() {
    let recorded = steps("endpoints");
    let recorded = recorded.iter().find(|step| step.id == "endpoints/064");
    let whole = &recorded.expect("it was recorded").expect.body;
    let json: Value = serde_json::from_str(whole).expect("JSON");
    let mut items = Vec::new();
    let mut open = vec![(0, &json["Root"])];
    while let Some((depth, node)) = open.pop() {
        let children = node["Children"].as_object();
        items.push(ListItem {
            depth,
            view: View {
                key: text(&node["Path"]).into(),
                value: children.is_none().then(|| text(&node["Value"]).into()),
                dir: children.is_some(),
                expires_ns: None,
                modified: EtcdIndex(node["ModifiedIndex"].as_u64().expect("an index")),
                created: EtcdIndex(node["CreatedIndex"].as_u64().expect("an index")),
            },
        });
        let children = children.into_iter().flatten().rev();
        open.extend(children.map(|(_, child)| (depth + 1, child)));
    }
    let history = &json["WatcherHub"]["EventHistory"]["Queue"]["Events"];
    let events = history.as_array().expect("a ring").iter();
    let rest = Migrated {
        etcd: EtcdIndex(3),
        raft: Index(4),
        events: events.filter(|e| !e.is_null()).map(event).collect(),
        capacity: 1_000,
        stats: store_stats(&json["Stats"]),
    };
    let plain = whole.replace("\\u0026", "&");
    for (query, to_file) in [("", false), ("?disk=false", false), ("?disk=true", true)] {
        let input = format!("GET /v2/migration/snapshot{query} HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut asked = Asked::new(&input, false);
        assert_eq!(asked.shape.to_file(), to_file);
        assert_eq!(asked.answer(page(items.clone())), Next::ContinueListing);
        let next = asked.answer(Outcome::Migrated(Box::new(rest.clone())));
        if !to_file {
            assert_eq!(next, DONE);
            assert_eq!(unchunked(&asked.body()), plain);
            continue;
        }
        assert_eq!(next, Next::Save { raft: 4 });
        assert_eq!(asked.body(), plain);
        assert_eq!(
            asked.with(|shape, context, out| shape.saved(Ok(()), context, out)),
            DONE
        );
        assert!(asked.out.starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert_eq!(asked.body(), "");
        asked.with(|shape, context, out| shape.saved(Err("no room"), context, out));
        assert!(asked.out.starts_with(b"HTTP/1.1 500 "));
    }
    let open = plain.strip_suffix('}').expect("an object");
    let checksum = crc32fast::hash(open.as_bytes());
    let checked = format!("{open},\"Checksum\":\"crc32:{checksum:08x}\"}}");
    resumed("index=3&keep=true", &plain, &items, &rest);
    resumed("index=3&keep=true&checksum=true", &checked, &items, &rest);
}

/// A download goes on at an offset.
fn resumed(parameters: &str, plain: &str, items: &[ListItem], rest: &Migrated) {
    let length = plain.len();
    for offset in [0, 1, 100, length - 40, length - 1, length, length + 5] {
        let target = format!("/v2/migration/snapshot?{parameters}&offset={offset}");
        let mut asked = Asked::new(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"), false);
        assert_eq!(asked.answer(page(items.to_vec())), Next::ContinueListing);
        assert_eq!(
            asked.answer(Outcome::Migrated(Box::new(rest.clone()))),
            DONE
        );
        assert_eq!(unchunked(&asked.body()), plain.get(offset..).unwrap_or(""));
    }
}

#[test]
fn keys_beyond_the_limits_are_414() {
    let settings = settings("", 4001);
    let date = Date::new(DATE_NS);
    for (key, fits) in [
        ("/s".repeat(1_024), true),
        ("/s".repeat(1_025), false),
        (format!("/{}", "k".repeat(8_191)), true),
        (format!("/{}", "k".repeat(8_193)), false),
    ] {
        for (method, path) in [
            ("GET", "v2/keys"),
            ("DELETE", "v2/keys"),
            ("GET", "v1/watch"),
        ] {
            let input = format!("{method} /{path}{key} HTTP/1.1\r\nHost: x\r\n\r\n");
            match routed(&input, &settings, &date) {
                Routed::ToMachine { .. } => assert!(fits),
                Routed::Answer(answer) => assert_eq!((answer.status, fits), (414, false)),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// The command of a PUT on `/k` with this form, or the status of the error.
fn command(form: &str) -> Result<Command, u16> {
    let bytes = client::form("PUT", "/v2/keys/k", form);
    let settings = settings("", 4001);
    let date = Date::new(DATE_NS);
    match routed(
        std::str::from_utf8(&bytes).expect("ASCII"),
        &settings,
        &date,
    ) {
        Routed::ToMachine {
            op: Op::Write(command),
            ..
        } => Ok(command),
        Routed::Answer(answer) => Err(answer.status),
        other => panic!("{other:?}"),
    }
}

/// `dir=true` has no effect on an update: a file takes the value, and the store answers 102 for a
/// directory.
#[test]
fn an_update_with_dir_has_the_value_of_the_request() {
    let update = |value: Option<&str>, lease| Command::Update {
        path: KeyPath::new("/k"),
        value: value.map(Into::into),
        lease,
        refresh: false,
    };
    assert_eq!(
        command("dir=true&prevExist=true&value=x"),
        Ok(update(Some("x"), None))
    );
    assert_eq!(
        command("dir=true&prevExist=true&ttl=5"),
        Ok(update(None, Some(Lease::of_seconds(5))))
    );
    assert_eq!(command("dir=true&prevExist=true"), Err(400));
}

fn update(value: Option<&str>, refresh: bool) -> Result<Command, u16> {
    Ok(Command::Update {
        path: KeyPath::new("/k"),
        value: value.map(Into::into),
        lease: Some(Lease::of_seconds(5)),
        refresh,
    })
}

/// A conditional refresh for five seconds, or a conditional set of this value.
fn swap(
    value: Option<&str>,
    prev_value: Option<&str>,
    prev_index: Option<u64>,
    or_create: bool,
) -> Result<Command, u16> {
    Ok(Command::CompareAndSwap {
        path: KeyPath::new("/k"),
        value: value.map(Into::into),
        lease: value.is_none().then_some(Lease::of_seconds(5)),
        prev_value: prev_value.map(Into::into),
        prev_index,
        or_create,
        refresh: value.is_none(),
    })
}

/// Parameters that no recording shows.
#[test]
fn parameters_of_a_put() {
    let x = Some("x");
    let a = Some("a");
    let cases = [
        ("refresh=true&ttl=5&prevExist=true", update(None, true)),
        ("refresh=TRUE&ttl=5", update(None, true)),
        ("refresh=true&ttl=5&prevExist=true&value=x", Err(400)),
        ("refresh=true&prevExist=true", Err(400)),
        (
            "refresh=true&ttl=5&prevIndex=7",
            swap(None, None, Some(7), false),
        ),
        ("refresh=true&ttl=5&prevValue=a", swap(None, a, None, false)),
        ("prevExist=true&ttl=5", update(None, false)),
        ("prevExist=true&ttl=5&value=x", update(x, false)),
        ("value=x&prevIndex=0", swap(x, None, None, true)),
        (
            "value=x&prevIndex=0&prevExist=true",
            swap(x, None, None, false),
        ),
        ("value=x&prevIndex=0&prevValue=a", swap(x, a, None, false)),
        ("value=x&prevExist=maybe", swap(x, None, None, false)),
        ("value=x&ttl=3155760001", Err(400)),
        ("value=x&value=%", Err(400)),
    ];
    for (form, expected) in cases {
        assert_eq!(command(form), expected, "{form}");
    }
}

/// What a standby with `-forward` makes of a request: the call, as a line and its body, or the
/// answer's status.
fn as_standby(input: &str) -> Result<(String, Shape), u16> {
    let mut settings = settings("", 4001);
    settings.forward = true;
    let (date, mut parser) = (Date::new(DATE_NS), Parser::new());
    let Parsed::Request { request, .. } = parser.parse(input.as_bytes(), &Limits::default()) else {
        panic!("not a request: {input}");
    };
    let mode = Mode::Standby {
        leader_url: Some("http://leader:1"),
    };
    let context = Context {
        mode,
        ..context(&settings, &date, Indexes::default())
    };
    match route(Port::Client, &request, &context) {
        Routed::Proxy { call, shape, .. } => {
            let body = String::from_utf8(call.body.into()).expect("text");
            Ok((
                format!(
                    "{:?} {} {} {body}",
                    call.method, call.url, call.content_type
                ),
                shape,
            ))
        }
        Routed::Answer(answer) => Err(answer.status),
        other => panic!("{other:?}"),
    }
}

/// A standby passes on what is short; everything else it sends to the leader.
#[test]
fn what_a_standby_passes_on() {
    let form =
        "Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\nContent-Length: 7";
    for (request, call) in [
        (
            "GET /v2/keys/a%20b?quorum=true HTTP/1.1\r\nHost: x\r\n\r\n",
            "Get /v2/keys/a%20b?quorum=true  ",
        ),
        (
            "HEAD /v2/keys/a HTTP/1.1\r\nHost: x\r\n\r\n",
            "Get /v2/keys/a  ",
        ),
        (
            "DELETE /v2/keys/a?dir=true HTTP/1.1\r\nHost: x\r\n\r\n",
            "Delete /v2/keys/a?dir=true  ",
        ),
        (
            &format!("PUT /v2/keys/a HTTP/1.1\r\nHost: x\r\n{form}\r\n\r\nvalue=1"),
            "Put /v2/keys/a application/x-www-form-urlencoded value=1",
        ),
        (
            "GET /v1/keys/a HTTP/1.1\r\nHost: x\r\n\r\n",
            "Get /v1/keys/a  ",
        ),
    ] {
        assert_eq!(
            as_standby(request).map(|(call, _)| call),
            Ok(call.to_string())
        );
    }
    for line in [
        "HEAD /v2/keys/a?wait=true HTTP/1.1",
        "GET /v1/watch/a HTTP/1.1",
        "GET /v2/speedTest HTTP/1.1",
        "GET /v2/migration/snapshot HTTP/1.1",
        "PATCH /v2/keys/a HTTP/1.1",
        "GET /v2/keys/a HTTP/1.1\r\nUser-Agent: tern/9",
        "PUT /v2/keys/a HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 0\r\nUser-Agent: tern/",
    ] {
        let input = format!("{line}\r\nHost: x\r\n\r\n");
        assert_eq!(as_standby(&input).map(|(call, _)| call), Err(307), "{line}");
    }
    let text = "PUT /v2/keys/a HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nab";
    assert_eq!(as_standby(text).map(|(call, _)| call), Err(307));
    assert_eq!(
        as_standby("OPTIONS /v2/keys/a HTTP/1.1\r\nHost: x\r\n\r\n").map(|(call, _)| call),
        Err(200)
    );
}

/// The leader's answer is given back as it is; without one a read is sent there, and of a write
/// nothing is known.
#[test]
fn what_a_standby_gives_back() {
    let (settings, date) = (settings("", 4001), Date::new(DATE_NS));
    let context = context(&settings, &date, Indexes::default());
    let give = |method: &str, passed: ProxyOutcome| {
        let (_, mut shape) =
            as_standby(&format!("{method} /v2/keys/a HTTP/1.1\r\nHost: x\r\n\r\n"))
                .expect("passed on");
        let mut out = Vec::new();
        assert!(matches!(
            shape.proxied(passed, &context, &mut out),
            Next::Done {
                keep_alive: true,
                client_closed: false
            }
        ));
        String::from_utf8(out).expect("text")
    };
    let headers = vec![
        ("Content-Type", "application/json".to_string()),
        ("X-Etcd-Index", "7".to_string()),
    ];
    let answered = |status| ProxyOutcome::Answered {
        status,
        headers: headers.clone(),
        body: b"{}".as_slice().into(),
    };
    let text = give("DELETE", answered(404));
    assert!(
        text.starts_with("HTTP/1.1 404 Not Found\r\n") && text.ends_with("\r\n\r\n{}"),
        "{text}"
    );
    assert!(
        text.contains("\r\nX-Etcd-Index: 7\r\n")
            && text.contains("\r\nContent-Type: application/json\r\n")
    );
    let text = give("HEAD", answered(200));
    assert!(
        text.contains("\r\nContent-Length: 2\r\n") && text.ends_with("\r\n\r\n"),
        "{text}"
    );
    let text = give("GET", ProxyOutcome::Redirected);
    assert!(
        text.contains("\r\nLocation: http://leader:1/v2/keys/a\r\n"),
        "{text}"
    );
    for (method, sent, code, is_unknown) in [
        ("GET", true, 301, false),
        ("GET", false, 301, false),
        ("PUT", false, 300, false),
        ("PUT", true, 300, true),
        ("DELETE", true, 300, true),
    ] {
        let text = give(method, ProxyOutcome::Failed { sent });
        assert!(
            text.contains(&format!(r#""errorCode":{code},"#))
                && text.contains(OUTCOME_UNKNOWN) == is_unknown,
            "{text}"
        );
    }
}
