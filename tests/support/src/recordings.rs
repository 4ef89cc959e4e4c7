//! The recorded steps and what of an answer counts.
use crate::client::Answer;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One step of a scenario.
#[derive(Clone, Debug, Deserialize)]
pub struct Step {
    pub id: String,
    pub desc: String,
    pub port: u16,
    #[serde(default)]
    pub method: String,
    #[serde(default)]
    pub target: String,
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    #[serde(default)]
    pub body: String,
    pub raw: Option<String>,
    #[serde(default)]
    pub background: bool,
    #[serde(default)]
    pub settle: bool,
    #[serde(default)]
    pub unfinished: bool,
    #[serde(default)]
    pub deviates: bool,
    pub expect: Expected,
}

/// What an answer must be.
#[derive(Clone, Debug, Deserialize)]
pub struct Expected {
    pub status: Option<u16>,
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    #[serde(default)]
    pub body: String,
}

/// tern's own answer to a step on which it differs.
#[derive(Clone, Debug, Deserialize)]
pub struct Own {
    pub id: String,
    /// On what point tern differs on purpose; for the reader.
    #[serde(rename = "why")]
    pub _why: String,
    /// The body is a raft index, which is another here.
    #[serde(default)]
    pub any_body: bool,
    #[serde(flatten)]
    pub expect: Expected,
    /// The step changes the state on which the next steps were recorded: it is sent to a server of
    /// its own.
    #[serde(default)]
    pub apart: bool,
    /// Sent afterwards, so that the key space is what the next steps were recorded on: method,
    /// target, body.
    #[serde(default)]
    pub then: Vec<(String, String, String)>,
}

/// The lines of a file of recordings: `name` below the folder of all, without its ending.
pub(crate) fn lines<T: for<'a> Deserialize<'a>>(name: &str) -> Vec<T> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../testdata/conformance");
    let path = folder.join(format!("{name}.jsonl"));
    let text =
        std::fs::read_to_string(&path).unwrap_or_else(|bad| panic!("{}: {bad}", path.display()));
    let parse =
        |line| serde_json::from_str(line).unwrap_or_else(|bad| panic!("{name}: {bad}: {line}"));
    text.lines().map(parse).collect()
}

/// The steps of a scenario.
pub fn steps(scenario: &str) -> Vec<Step> {
    lines(scenario)
}

/// tern's own answers, by step.
pub fn own() -> BTreeMap<String, Own> {
    let all: Vec<Own> = lines("tern");
    all.into_iter().map(|own| (own.id.clone(), own)).collect()
}

/// Values that depend on a clock or on other traffic: only their presence is compared.
const VAGUE: [&str; 14] = [
    "expiration",
    "ttl",
    "startTime",
    "uptime",
    "ExpireTime",
    "recvPkgRate",
    "recvBandwidthRate",
    "sendPkgRate",
    "sendBandwidthRate",
    "latency",
    "counts",
    "recvAppendRequestCnt",
    "sendAppendRequestCnt",
    "getsSuccess",
];

/// Makes two answers' bodies comparable: vague values become equal, children that are not sorted
/// are put in order.
pub fn comparable(value: &mut Value, sorted: bool) {
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    if VAGUE.contains(&name.as_str()) || name == "getsFail" {
                        *field = Value::from("left out");
                        continue;
                    }
                    if let (false, "nodes", Value::Array(nodes)) =
                        (sorted, name.as_str(), &mut *field)
                    {
                        nodes.sort_by_key(|node| node["key"].to_string());
                    }
                    open.push(field);
                }
            }
            Value::Array(items) => {
                if !sorted && items.iter().all(|item| item["key"].is_string()) {
                    items.sort_by_key(|item| item["key"].to_string());
                }
                open.extend(items);
            }
            _ => {}
        }
    }
}

/// Headers that are left out of the comparison.
const LEFT_OUT: [&str; 6] = [
    "Date",
    "Transfer-Encoding",
    "Content-Length",
    "X-Content-Type-Options",
    "X-Raft-Index",
    "X-Raft-Term",
];

/// What differs between the answer and what is expected; nothing when it is the same. With `sorted`
/// the order of children counts; with `any_index` the etcd index does not.
pub fn differences(
    expect: &Expected,
    answer: &Answer,
    sorted: bool,
    any_index: bool,
) -> Vec<String> {
    let mut found = Vec::new();
    if Some(answer.head.status) != expect.status {
        found.push(format!(
            "status {} is not {:?}",
            answer.head.status, expect.status
        ));
    }
    for (name, value) in &expect.headers {
        let left_out = LEFT_OUT.contains(&name.as_str()) || (any_index && name == "X-Etcd-Index");
        if !left_out && answer.head.header(name) != Some(value) {
            let given = answer.head.header(name);
            found.push(format!("{name}: {given:?} is not {value:?}"));
        }
    }
    let recorded = |name: &str| expect.headers.iter().any(|(given, _)| given == name);
    for (name, value) in &answer.head.headers {
        if name.starts_with("Access-Control-") && !recorded(name) {
            found.push(format!("{name}: {value} is too much"));
        }
    }
    if !same_body(&expect.body, &answer.body, sorted) {
        let body = String::from_utf8_lossy(&answer.body);
        found.push(format!("body {body:?} is not {:?}", expect.body));
    }
    found
}

/// Whether two bodies are the same: as values when they are JSON, else as bytes.
pub fn same_body(expected: &str, given: &[u8], sorted: bool) -> bool {
    let parse = |text: &[u8]| serde_json::from_slice::<Value>(text).ok();
    match (parse(expected.as_bytes()), parse(given)) {
        (Some(mut expected), Some(mut given)) => {
            comparable(&mut expected, sorted);
            comparable(&mut given, sorted);
            expected == given
        }
        _ => expected.as_bytes() == given,
    }
}
