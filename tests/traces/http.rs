//! Traces of the HTTP codec: one command with its bytes a line, its outcome beneath, indented.
//!
//! Bytes are written as they are, with `\r \n \t \0 \\ \xNN` and `\(N*text)` for N times a text.
//! Each input of `request` and `response` is fed whole, byte by byte and cut in two at every place;
//! all must come to the same.
use std::fmt::Write;
use tern::codec::http::client::{BODY_BYTES_MAX, ResponseParser};
use tern::codec::http::form::{self, Form};
use tern::codec::http::response::ResponseHead;
use tern::codec::http::{Date, Limits, Parsed, Parser, Request, Response, ResponseMode, Version};
use tern::core::escape;

/// Inputs up to this length are cut at every place, longer ones at so many places.
const CUTS_MAX: usize = 400;

/// The script again, with the outcome of each command beneath it in place of whatever stood there.
pub fn run(script: &str) -> String {
    let mut told = String::new();
    for line in script.lines().filter(|l| !l.starts_with(' ')) {
        told.push_str(line);
        told.push('\n');
        if !line.is_empty() && !line.starts_with('#') {
            for outcome in command(line).lines() {
                writeln!(told, "  {outcome}").expect("a string takes all");
            }
        }
    }
    told
}

fn command(line: &str) -> String {
    let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
    match command {
        "request" => request(&unescape(rest), &Limits::default()),
        "request-of-at-most" => {
            let (max, rest) = rest.split_once(' ').expect("a limit and bytes");
            let limits = Limits {
                body_bytes_max: max.parse().expect("a number of bytes"),
                ..Limits::default()
            };
            request(&unescape(rest), &limits)
        }
        "response" => response(&unescape(rest), false),
        "response-then-closed" => response(&unescape(rest), true),
        "form" => form(rest),
        "path" => path(&text(&unescape(rest))),
        "escape" => {
            let text = text(&unescape(rest));
            format!("{} {}", escape::query(&text), escape::path(&text))
        }
        "answer" => answer(rest),
        other => panic!("no such command: {other}"),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("this command takes text")
}

/// Bytes as the traces write them.
pub fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let kind = rest.as_bytes()[at + 1];
        rest = &rest[at + 2..];
        match kind {
            b'r' => bytes.push(b'\r'),
            b'n' => bytes.push(b'\n'),
            b't' => bytes.push(b'\t'),
            b'0' => bytes.push(0),
            b'\\' => bytes.push(b'\\'),
            b'x' => {
                bytes.push(u8::from_str_radix(&rest[..2], 16).expect("two hex digits"));
                rest = &rest[2..];
            }
            b'(' => {
                let (inside, after) = rest.split_once(')').expect("\\(N*text)");
                let (count, text) = inside.split_once('*').expect("\\(N*text)");
                let text = unescape(text);
                let count: usize = count.parse().expect("a count");
                bytes.extend(text.iter().copied().cycle().take(count * text.len()));
                rest = after;
            }
            other => panic!("\\{} means nothing", other as char),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

/// Long bytes are shown by their beginning and length.
fn show(bytes: &[u8]) -> String {
    match bytes.len() {
        0..=120 => format!("\"{}\"", bytes.escape_ascii()),
        len => format!("\"{}\"... {len} bytes", bytes[..40].escape_ascii()),
    }
}

fn request(input: &[u8], limits: &Limits) -> String {
    let whole = requests(&[input], limits);
    let told = "100 continue\n";
    let same = |cut: &[&[u8]]| {
        let other = requests(cut, limits);
        let places: Vec<usize> = cut.iter().map(|p| p.len()).take(2).collect();
        assert_eq!(
            other.replace(told, ""),
            whole.replace(told, ""),
            "{places:?}"
        );
    };
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    same(&bytes);
    for at in cuts(input.len()) {
        same(&[&input[..at], &input[at..]]);
    }
    whole
}

/// Every place to cut, or `CUTS_MAX` of them.
fn cuts(len: usize) -> impl Iterator<Item = usize> {
    (1..len).step_by(len.div_ceil(CUTS_MAX).max(1))
}

fn show_request(request: &Request) -> String {
    let mut out = format!("{:?} {}", request.method, show(request.path.as_bytes()));
    if let Some(query) = request.query {
        write!(out, " query={}", show(query.as_bytes())).expect("text");
    }
    let headers = [
        ("host", request.host),
        ("type", request.content_type),
        ("origin", request.origin),
    ];
    for (name, value) in headers {
        if let Some(value) = value {
            write!(out, " {name}={}", show(value.as_bytes())).expect("text");
        }
    }
    if !request.body.is_empty() {
        write!(out, " body={}", show(request.body)).expect("text");
    }
    let version = match request.version {
        Version::Http10 => "1.0",
        Version::Http11 => "1.1",
    };
    let after = if request.keep_alive { "keep" } else { "close" };
    writeln!(out, " {version} {after}").expect("text");
    out
}

/// What a connection does with these reads. It leaves each request to a later turn once.
pub fn requests(reads: &[&[u8]], limits: &Limits) -> String {
    let mut out = String::new();
    let mut parser = Parser::new();
    let mut input = Vec::new();
    for read in reads {
        input.extend_from_slice(read);
        loop {
            let consumed = match parser.parse(&input, limits) {
                Parsed::NeedMore {
                    consumed,
                    continue_100,
                } => {
                    if continue_100 {
                        out.push_str("100 continue\n");
                    }
                    input.drain(..consumed);
                    break;
                }
                Parsed::Request { consumed, request } => {
                    let shown = show_request(&request);
                    input.drain(..parser.leave(consumed));
                    let Parsed::Request { consumed, request } = parser.parse(&input, limits) else {
                        panic!("it was left whole: {shown}");
                    };
                    assert_eq!(show_request(&request), shown, "it was left");
                    out.push_str(&shown);
                    consumed
                }
                Parsed::Reject(reject) => {
                    writeln!(out, "{} \"{}\"", reject.status, reject.text).expect("text");
                    return out;
                }
            };
            input.drain(..consumed);
            parser.reset();
            if input.is_empty() {
                break;
            }
        }
    }
    let stage = format!("{:?}", parser.stage());
    if stage != "Idle" {
        writeln!(out, "waits: {stage}").expect("text");
    }
    out
}

fn response(input: &[u8], closed: bool) -> String {
    let whole = responses(&[input], closed);
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(responses(&bytes, closed), whole);
    for at in cuts(input.len()) {
        assert_eq!(
            responses(&[&input[..at], &input[at..]], closed),
            whole,
            "{at}"
        );
    }
    whole
}

/// What a call makes of these reads.
pub fn responses(reads: &[&[u8]], closed: bool) -> String {
    let mut parser = ResponseParser::new(BODY_BYTES_MAX);
    let mut input = Vec::new();
    let ends = closed.then_some(&[][..]);
    let total = reads.len() + ends.iter().count();
    for (i, read) in reads.iter().copied().chain(ends).enumerate() {
        input.extend_from_slice(read);
        match parser.parse(&input, closed && i + 1 == total) {
            Ok(None) => {}
            Ok(Some(response)) => {
                let mut out = format!("{}", response.status);
                for (name, value) in [
                    ("location", &response.location),
                    ("server", &response.server),
                ] {
                    if let Some(value) = value {
                        write!(out, " {name}={}", show(value.as_bytes())).expect("text");
                    }
                }
                return format!("{out} body={}\n", show(&response.body));
            }
            Err(fault) => return format!("fault: {}\n", fault.0),
        }
    }
    "waits\n".to_string()
}

/// `form QUERY [BODY]`.
fn form(rest: &str) -> String {
    let (query, body) = rest.split_once(' ').unwrap_or((rest, ""));
    let (query, body) = (text(&unescape(query)), unescape(body));
    match Form::parse(&query, &body) {
        Ok(form) => {
            let sent: Vec<String> = names(&body).chain(names(query.as_bytes())).collect();
            if sent.len() > 20 {
                return format!("{} pairs\n", sent.len());
            }
            let mut pairs = Vec::new();
            for (place, name) in sent.iter().enumerate() {
                if sent[..place].contains(name) {
                    continue;
                }
                let value = form.get(name).expect("a parameter that was sent");
                pairs.push(format!(
                    "{}={}",
                    show(name.as_bytes()),
                    show(value.as_bytes())
                ));
            }
            format!("[{}]\n", pairs.join(" "))
        }
        Err(error) => format!("{error:?}\n"),
    }
}

/// The names of all parameters in a query or a body, decoded.
fn names(text: &[u8]) -> impl Iterator<Item = String> {
    let pairs = text.split(|b| *b == b'&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let name = pair.split(|b| *b == b'=').next().expect("split gives one");
        let name = escape::decode(name, true).expect("the form was decoded");
        name.into_owned()
    })
}

fn path(raw: &str) -> String {
    match escape::decode(raw.as_bytes(), false) {
        Ok(path) => {
            let fits = if form::key_fits(&path) {
                ""
            } else {
                " too long for a key"
            };
            format!("{}{fits}\n", show(path.as_bytes()))
        }
        Err(error) => format!("{error:?}\n"),
    }
}

/// `answer STATUS 1.0|1.1 keep|close get|head full|stream NAME:VALUE PIECES…`: the answer's bytes,
/// then whether the connection goes on.
fn answer(rest: &str) -> String {
    let words: Vec<String> = rest.split(' ').map(|w| text(&unescape(w))).collect();
    let [status, version, after, method, kind, header, pieces @ ..] = &words[..] else {
        panic!("too few words");
    };
    let mode = ResponseMode {
        version: match version.as_str() {
            "1.0" => Version::Http10,
            "1.1" => Version::Http11,
            _ => panic!("a version"),
        },
        keep_alive: after == "keep",
        head_only: method == "head",
    };
    let status = status.parse().expect("a status");
    let (name, value) = header.split_once(':').expect("a header");
    assert_eq!(name, "X-A", "the only header of these traces");
    let mut out = Vec::new();
    let date = Date::new(0);
    let framing = match kind.as_str() {
        "full" => {
            let response = Response::new(status, "text/plain", pieces.concat());
            response.with("X-A", value).encode(mode, &date, &mut out)
        }
        "stream" => {
            let mut head = ResponseHead::new(status, mode, &date, &mut out);
            head.content_type("text/plain");
            head.header("X-A", value);
            let framing = head.stream();
            for piece in pieces {
                framing.chunk(piece.as_bytes(), &mut out);
            }
            framing.end(&mut out);
            framing
        }
        _ => panic!("full or stream"),
    };
    let out = text(&out).replace(concat!("tern/", env!("CARGO_PKG_VERSION")), "tern/VERSION");
    let after = if framing.keep_alive { "keep" } else { "close" };
    format!(
        "{}\n{after}\n",
        out.escape_default()
            .to_string()
            .replace("\\r\\n", "\n")
            .trim_end()
    )
}
