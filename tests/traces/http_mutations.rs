//! The HTTP codec under random mutations and cuts, and there and back. Starts
//! from the inputs of the traces.
use crate::http::{requests, responses, unescape};
use proptest::prelude::*;
use std::fs;
use tern::codec::http::client::{BODY_BYTES_MAX, CallRequest, ResponseParser};
use tern::codec::http::form::{Form, PARAMETERS_MAX};
use tern::codec::http::response::ResponseHead;
use tern::codec::http::{Date, Limits, Parsed, Parser, Response, ResponseMode, Version};
use tern::core::escape;
use tern_support::rng::Rng;

/// Bytes that framing turns on.
const PLANTS: [&[u8]; 24] = [
    b"\r\n",
    b"\r",
    b"\n",
    b"\0",
    b":",
    b" ",
    b"\t",
    b";",
    b",",
    b"%",
    b"&",
    b"=",
    b"0\r\n\r\n",
    b"ffffffffffffffff",
    b"\r\n\r\n",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: y\r\n",
    b"Expect: 100-continue\r\n",
    b"chunked",
    b"\xff",
    b"9",
];

/// Changes one to four places: flips, cuts, doubles, or plants something that framing turns on.
fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..1 + rng.index(4) {
        let at = rng.index(bytes.len() + 1);
        match rng.index(5) {
            0 if at < bytes.len() => bytes[at] = rng.next_u64() as u8,
            1 => bytes.truncate(at),
            2 => {
                let end = (at + 1 + rng.index(8)).min(bytes.len());
                bytes.drain(at.min(end)..end);
            }
            3 => {
                let end = (at + 1 + rng.index(40)).min(bytes.len());
                let piece = bytes[at.min(end)..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let plant = rng.pick(&PLANTS);
                bytes.splice(at..at, plant.iter().copied());
            }
        }
    }
}

fn cut<'a>(rng: &mut Rng, bytes: &'a [u8]) -> Vec<&'a [u8]> {
    let mut rest = bytes;
    let mut reads = Vec::new();
    while !rest.is_empty() {
        let (read, after) = rest.split_at(1 + rng.index(rest.len()));
        reads.push(read);
        rest = after;
    }
    reads
}

/// The inputs of one command in the traces, but for the very long ones.
fn seeds(command: &str) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for file in fs::read_dir("tests/traces/http").expect("the traces") {
        let text = fs::read_to_string(file.expect("an entry").path()).expect("text");
        let lines = text.lines().filter_map(|l| l.split_once(' '));
        let lines = lines.filter(|(c, _)| *c == command);
        seeds.extend(lines.map(|(_, rest)| unescape(rest)));
    }
    seeds.retain(|s| s.len() < 1_000);
    assert!(seeds.len() >= 10, "{command} has traces");
    seeds
}

/// Feeds cuts of `input`; asserts that the parser never asks the connection to hold more than the
/// limits say.
fn assert_bounds(reads: &[&[u8]], limits: &Limits) {
    let most = limits.head_bytes_max + limits.body_bytes_max as usize;
    let mut parser = Parser::new();
    let mut input = Vec::new();
    for read in reads {
        input.extend_from_slice(read);
        loop {
            let consumed = match parser.parse(&input, limits) {
                Parsed::NeedMore { consumed, .. } => {
                    assert!(input.len() - consumed < most);
                    input.drain(..consumed);
                    break;
                }
                Parsed::Request { consumed, request } => {
                    assert!(request.body.len() as u64 <= limits.body_bytes_max);
                    assert!(request.path.starts_with('/') || request.path == "*");
                    assert!(consumed > 0);
                    consumed
                }
                Parsed::Reject(reject) => {
                    assert!(matches!(reject.status, 400..=599));
                    return;
                }
            };
            input.drain(..consumed);
            parser.reset();
        }
    }
}

#[test]
fn mutated_requests_are_the_same_for_every_cut_and_keep_to_the_bounds() {
    let limits = Limits {
        head_bytes_max: 600,
        body_bytes_max: 300,
    };
    let seeds = seeds("request");
    let mut rng = Rng::new(1);
    let mut whole_ones = 0;
    for _ in 0..20_000 {
        let mut input = seeds[rng.index(seeds.len())].clone();
        let more = rng.index(seeds.len());
        if rng.index(3) == 0 {
            input.extend_from_slice(&seeds[more]);
        }
        mutate(&mut rng, &mut input);
        let reads = cut(&mut rng, &input);
        let whole = requests(&[&input], &limits).replace("100 continue\n", "");
        let cut = requests(&reads, &limits).replace("100 continue\n", "");
        assert_eq!(whole, cut, "{}", input.escape_ascii());
        assert_bounds(&reads, &limits);
        whole_ones += usize::from(whole.contains(" keep\n"));
    }
    assert!(
        whole_ones > 1_000,
        "only {whole_ones} mutations were requests"
    );
}

#[test]
fn mutated_responses_are_the_same_for_every_cut() {
    let seeds = seeds("response");
    let mut rng = Rng::new(2);
    for _ in 0..10_000 {
        let mut input = seeds[rng.index(seeds.len())].clone();
        mutate(&mut rng, &mut input);
        let reads = cut(&mut rng, &input);
        assert_eq!(
            responses(&[&input], true),
            responses(&reads, true),
            "{}",
            input.escape_ascii()
        );
    }
}

#[test]
fn mutated_forms_and_paths_decode_or_are_refused() {
    let seeds = seeds("form");
    let mut rng = Rng::new(3);
    for _ in 0..20_000 {
        let mut input = seeds[rng.index(seeds.len())].clone();
        mutate(&mut rng, &mut input);
        if let Ok(form) = Form::parse("a=b", &input) {
            let of_body = input.split(|b| *b == b'&').filter(|pair| !pair.is_empty());
            assert!(of_body.count() < PARAMETERS_MAX, "one more is in the query");
            // Each byte that is no text becomes three.
            let value = form.get("a").expect("the query has it");
            assert!(value.len() <= 3 * input.len() + 1);
        } else {
            let ands = input.iter().filter(|b| **b == b'&').count();
            assert!(input.contains(&b'%') || ands >= PARAMETERS_MAX - 1);
        }
        match escape::decode(&input, false) {
            Ok(text) => assert!(text.len() <= 3 * input.len()),
            Err(_) => assert!(input.contains(&b'%')),
        }
    }
}

fn chunked(body: &[u8], sizes: &[usize], extension: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = body;
    let mut sizes = sizes.iter().cycle();
    while !rest.is_empty() {
        let size = (*sizes.next().expect("a cycle")).min(rest.len());
        let (piece, after) = rest.split_at(size);
        bytes.extend_from_slice(format!("{size:X}{extension}\r\n").as_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
        rest = after;
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

proptest! {
    #[test]
    fn a_request_comes_out_as_it_was_put_in(
        path in "(/[a-zA-Z0-9 %+?#&ä世\u{1}]{0,12}){1,4}",
        query in proptest::option::of("[a-z0-9=&%;?/+]{0,20}"),
        // In chunks of one byte their extensions are still within the bound for all of them.
        body in proptest::collection::vec(any::<u8>(), 0..200),
        sizes in proptest::option::of(proptest::collection::vec(1usize..40, 1..5)),
        // 300 chunks of one byte have fewer bytes of extensions than a body may have.
        extension in "(;[a-z]{1,5}(=[a-z]{1,5})?)?",
        next in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut input = format!("PUT {}", escape::path(&path)).into_bytes();
        if let Some(query) = &query {
            input.extend_from_slice(format!("?{query}").as_bytes());
        }
        input.extend_from_slice(b" HTTP/1.1\r\nHost: h\r\n");
        match &sizes {
            Some(sizes) => {
                input.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                input.extend_from_slice(&chunked(&body, sizes, &extension));
            }
            None => {
                input.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
                input.extend_from_slice(&body);
            }
        }
        let whole = input.len();
        input.extend_from_slice(&next);
        let mut parser = Parser::new();
        match parser.parse(&input, &Limits::default()) {
            Parsed::Request { consumed, request } => {
                prop_assert_eq!(consumed, whole);
                prop_assert_eq!(request.path.as_ref(), path);
                prop_assert_eq!(request.query, query.as_deref());
                prop_assert_eq!(request.body, body);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn an_answer_is_read_as_it_was_written(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..6),
        stream in any::<bool>(),
        http10 in any::<bool>(),
    ) {
        let mode = ResponseMode {
            version: if http10 { Version::Http10 } else { Version::Http11 },
            keep_alive: true,
            head_only: false,
        };
        let mut bytes = Vec::new();
        if stream {
            let framing = ResponseHead::new(200, mode, &Date::new(0), &mut bytes).stream();
            for piece in &pieces {
                framing.chunk(piece, &mut bytes);
            }
            framing.end(&mut bytes);
        } else {
            Response::new(200, "text/plain", pieces.concat()).encode(mode, &Date::new(0), &mut bytes);
        }
        let response = ResponseParser::new(BODY_BYTES_MAX).parse(&bytes, true).expect("well-formed").expect("whole");
        prop_assert_eq!(response.status, 200);
        prop_assert_eq!(response.body, pieces.concat());
    }

    #[test]
    fn a_call_is_read_as_it_was_sent(value in "\\PC{0,40}", method in "GET|PUT|DELETE") {
        let target = format!("/v2/keys/a?x={}", escape::query(&value));
        let body = format!("value={}", escape::query(&value));
        let call = CallRequest {
            method: &method,
            host: "127.0.0.1:7001",
            target: &target,
            content_type: "application/x-www-form-urlencoded",
            header: None,
            body: body.as_bytes(),
        };
        let bytes = call.encode();
        let mut parser = Parser::new();
        match parser.parse(&bytes, &Limits::default()) {
            Parsed::Request { consumed, request } => {
                prop_assert_eq!(consumed, bytes.len());
                let path = escape::path(&request.path);
                let query = request.query.expect("a query");
                prop_assert_eq!(format!("{path}?{query}"), target);
                let form = Form::parse(query, request.body).expect("well-formed");
                prop_assert_eq!(form.get("value"), Some(value.as_str()));
                prop_assert_eq!(form.get("x"), Some(value.as_str()));
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn escaping_is_undone_by_decoding(text in any::<String>()) {
        let query = escape::query(&text);
        let path = escape::path(&text);
        prop_assert!(query.bytes().chain(path.bytes()).all(|b| b.is_ascii_graphic()));
        let query = escape::decode(query.as_bytes(), true);
        prop_assert_eq!(query.as_deref(), Ok(text.as_str()));
        let path = escape::decode(path.as_bytes(), false);
        prop_assert_eq!(path.as_deref(), Ok(text.as_str()));
    }
}

/// One look at each byte: a body of 2 MiB in reads of one byte, and a head in as many.
#[test]
fn reads_of_one_byte_are_not_quadratic() {
    let limits = Limits::default();
    let body = vec![b'x'; 2 << 20];
    let fixed = format!(
        "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut input = fixed.into_bytes();
    let head = input.len();
    input.extend_from_slice(&body);
    let mut parser = Parser::new();
    // Were the head or the body looked at again for each byte, this would be 10^12 steps.
    for end in head..input.len() {
        assert!(matches!(
            parser.parse(&input[..end], &limits),
            Parsed::NeedMore { consumed: 0, .. }
        ));
    }
    assert!(matches!(
        parser.parse(&input, &limits),
        Parsed::Request { .. }
    ));
}

/// Each recorded request is read as one, or refused with the recorded words.
#[test]
fn recorded_requests_are_requests() {
    let (mut requests, mut refused) = (0, 0);
    for file in fs::read_dir("tests/testdata/conformance").expect("the recordings") {
        let path = file.expect("an entry").path();
        if path.extension().is_none_or(|e| e != "jsonl") {
            continue;
        }
        for line in fs::read_to_string(&path).expect("text").lines() {
            let step: serde_json::Value = serde_json::from_str(line).expect("a step");
            // tern's own answers where it deviates stand in a file beside the recordings.
            if step["expect"].is_null() {
                continue;
            }
            let input = recorded(&step);
            let mut parser = Parser::new();
            match parser.parse(&input, &Limits::default()) {
                Parsed::Request { request, .. } => {
                    let is_form = request
                        .content_type
                        .is_some_and(|t| t.starts_with("application/x-www-form"));
                    let body = if is_form { request.body } else { b"" };
                    let form = Form::parse(request.query.unwrap_or(""), body);
                    assert!(form.is_ok() || step["deviates"] == true, "{line}");
                    requests += 1;
                }
                Parsed::Reject(reject) => {
                    assert_eq!(step["expect"]["status"], reject.status, "{line}");
                    assert_eq!(step["expect"]["body"], reject.text, "{line}");
                    refused += 1;
                }
                Parsed::NeedMore { .. } => panic!("not whole: {line}"),
            }
        }
    }
    assert!(
        requests > 700 && refused >= 3,
        "{requests} requests, {refused} refused"
    );
}

/// The bytes of a recorded request.
fn recorded(step: &serde_json::Value) -> Vec<u8> {
    if let Some(raw) = step["raw"].as_str() {
        // The recordings keep raw bytes as latin-1.
        return raw.chars().map(|c| c as u8).collect();
    }
    let field = |name: &str| step[name].as_str().unwrap_or_default();
    let mut head = format!(
        "{} {} HTTP/1.1\r\nHost: x\r\n",
        field("method"),
        field("target")
    );
    let mut is_chunked = false;
    for header in step["headers"].as_array().into_iter().flatten() {
        let (name, value) = (
            header[0].as_str().expect("a name"),
            header[1].as_str().expect("a value"),
        );
        is_chunked |= name == "Transfer-Encoding";
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let body = field("body").as_bytes();
    let mut input = head.into_bytes();
    if is_chunked {
        input.extend_from_slice(b"\r\n");
        input.extend_from_slice(&chunked(body, &[7], ""));
    } else {
        input.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
        input.extend_from_slice(body);
    }
    input
}
