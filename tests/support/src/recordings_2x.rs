//! The recorded steps of etcd 3.4's v2 interface, and what of an answer counts.
//!
//! Differs from `recordings` in that ids of members and the cluster stand as `{node1}`, `{cluster}`
//! in the steps, that steps carry what to do before them, and in what is left out of a comparison.
//! Start with [`steps`] and [`differences`].
use crate::client::Answer;
use crate::recordings::lines;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// One step of a scenario.
#[derive(Clone, Debug, Deserialize)]
pub struct Step2x {
    pub id: String,
    pub desc: String,
    pub port: u16,
    pub method: String,
    pub target: String,
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    pub body: Option<String>,
    /// The body is the first text, and so many of the second.
    pub body_fill: Option<(String, String, usize)>,
    /// What happens before the step.
    #[serde(default, rename = "do")]
    pub before: Vec<String>,
    #[serde(default)]
    pub background: bool,
    #[serde(default)]
    pub settle: bool,
    #[serde(default)]
    pub unfinished: bool,
    /// Why no server is to answer so: the answer is a fault of etcd, or loses data.
    pub deviates: Option<String>,
    /// The `id` in the answer is the id of this member from here on.
    pub capture: Option<String>,
    /// Fields and headers that are not compared.
    #[serde(default)]
    pub loose: Vec<String>,
    pub expect: Expected2x,
}

/// What an answer must be.
#[derive(Clone, Debug, Deserialize)]
pub struct Expected2x {
    pub status: u16,
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// `None`: no body is compared.
    pub body: Option<String>,
}

/// tern's own answer to a step on which it differs.
#[derive(Clone, Debug, Deserialize)]
pub struct Own2x {
    pub id: String,
    /// On what point tern differs on purpose.
    pub why: String,
    #[serde(default)]
    pub loose: Vec<String>,
    #[serde(flatten)]
    pub expect: Expected2x,
    /// Sent afterwards, so that the key space is what the next steps were recorded on: method,
    /// target, form.
    #[serde(default)]
    pub then: Vec<(String, String, String)>,
}

/// The steps of a scenario.
pub fn steps(scenario: &str) -> Vec<Step2x> {
    lines(&format!("compat-2/{scenario}"))
}

/// tern's own answers, by step.
pub fn own() -> BTreeMap<String, Own2x> {
    let all: Vec<Own2x> = lines("compat-2/tern");
    let count = all.len();
    let own: BTreeMap<_, _> = all.into_iter().map(|own| (own.id.clone(), own)).collect();
    assert_eq!(own.len(), count, "a step has one answer");
    own
}

/// Values that depend on a clock or on other traffic, and versions: only their presence is compared.
const VAGUE: [&str; 14] = [
    "expiration",
    "startTime",
    "uptime",
    "latency",
    "counts",
    "getsSuccess",
    "getsFail",
    "setsSuccess",
    "createSuccess",
    "watchers",
    "recvAppendRequestCnt",
    "sendAppendRequestCnt",
    "etcdserver",
    "etcdcluster",
];

/// Left out while nothing is sent or received.
const RATES: [&str; 4] = [
    "recvPkgRate",
    "recvBandwidthRate",
    "sendPkgRate",
    "sendBandwidthRate",
];

/// Headers that are left out of the comparison.
const LEFT_OUT: [&str; 5] = [
    "Date",
    "Transfer-Encoding",
    "Content-Length",
    "X-Content-Type-Options",
    "Connection",
];

/// Headers of which only the presence is compared.
const PRESENT: [&str; 3] = ["X-Raft-Index", "X-Raft-Term", "X-Etcd-Cluster-Id"];

/// What differs between the answer and what is expected; nothing when it is the same. Ids and
/// addresses in the answer have been replaced by the recorded ones. With `sorted` the order of lists
/// counts.
pub fn differences(
    expect: &Expected2x,
    answer: &Answer,
    loose: &[String],
    sorted: bool,
) -> Vec<String> {
    let mut found = Vec::new();
    if answer.head.status != expect.status {
        found.push(format!("status {}", answer.head.status));
    }
    for (name, value) in &expect.headers {
        if LEFT_OUT.contains(&name.as_str()) || loose.contains(name) {
            continue;
        }
        let given = answer.head.header(name);
        let is_same = match name.as_str() {
            _ if PRESENT.contains(&name.as_str()) => given.is_some(),
            "Allow" => given.is_some_and(|given| words(given) == words(value)),
            _ => given == Some(value),
        };
        if !is_same {
            found.push(format!("{name}: {given:?} is not {value:?}"));
        }
    }
    let recorded = |name: &str| expect.headers.iter().any(|(given, _)| given == name);
    for (name, value) in &answer.head.headers {
        if name.starts_with("Access-Control-") && !recorded(name) {
            found.push(format!("{name}: {value} is too much"));
        }
    }
    if let Some(body) = &expect.body
        && !loose.iter().any(|name| name == "text")
    {
        let given = String::from_utf8_lossy(&answer.body);
        body_differences(body, &given, loose, sorted, &mut found);
    }
    found
}

fn words(list: &str) -> Vec<&str> {
    let mut words: Vec<&str> = list.split(',').map(str::trim).collect();
    words.sort_unstable();
    words
}

/// The JSON values in a body, one after another; `None` if it is something else.
fn values(body: &str) -> Option<Vec<Value>> {
    let values = serde_json::Deserializer::from_str(body).into_iter();
    let values: Vec<Value> = values.collect::<Result<_, _>>().ok()?;
    let is_json = values.iter().all(|v| v.is_object() || v.is_array());
    is_json.then_some(values)
}

fn body_differences(
    expected: &str,
    given: &str,
    loose: &[String],
    sorted: bool,
    found: &mut Vec<String>,
) {
    let ends = |text: &str| text.ends_with('\n');
    if !expected.is_empty() && !given.is_empty() && ends(expected) != ends(given) {
        found.push(format!("the final line break of {given:?}"));
    }
    match (values(expected), values(given)) {
        (Some(wanted), Some(values)) if !wanted.is_empty() => {
            let mut pairs = Vec::new();
            if wanted.len() != values.len() {
                found.push(format!("{given:?} is not {expected:?}"));
            }
            for (wanted, value) in wanted.into_iter().zip(values) {
                pairs.push((String::new(), wanted, value));
            }
            while let Some((path, wanted, value)) = pairs.pop() {
                compare(path, wanted, value, loose, sorted, &mut pairs, found);
            }
        }
        _ if expected.trim() != given.trim() => {
            found.push(format!("{given:?} is not {expected:?}"));
        }
        _ => {}
    }
}

/// Compares two values, and leaves the pairs below them in `pairs`.
fn compare(
    path: String,
    wanted: Value,
    value: Value,
    loose: &[String],
    sorted: bool,
    pairs: &mut Vec<(String, Value, Value)>,
    found: &mut Vec<String>,
) {
    let is_left_out = |name: &String| loose.contains(name) || RATES.contains(&name.as_str());
    match (wanted, value) {
        (Value::Object(wanted), Value::Object(mut value)) => {
            for (name, wanted) in wanted {
                let given = value.remove(&name);
                if is_left_out(&name) {
                    continue;
                }
                match given {
                    None => found.push(format!("{path}.{name} is missing")),
                    Some(given) if VAGUE.contains(&name.as_str()) => {
                        let is_alike =
                            std::mem::discriminant(&wanted) == std::mem::discriminant(&given);
                        if !is_alike {
                            found.push(format!("{path}.{name}: {given}"));
                        }
                    }
                    Some(given) if name == "ttl" && is_near(&wanted, &given) => {}
                    Some(given) => pairs.push((format!("{path}.{name}"), wanted, given)),
                }
            }
            let rest = value.keys().filter(|name| !is_left_out(name));
            found.extend(rest.map(|name| format!("{path}.{name} is too much")));
        }
        (Value::Array(mut wanted), Value::Array(mut value)) => {
            if !sorted {
                let label =
                    |v: &Value| [&v["key"], &v["name"], &v["peerURLs"], v].map(Value::to_string);
                wanted.sort_by_key(label);
                value.sort_by_key(label);
            }
            if wanted.len() != value.len() {
                found.push(format!("{path}: {} of {}", value.len(), wanted.len()));
            }
            let both = wanted.into_iter().zip(value);
            pairs.extend(both.map(|(wanted, value)| (path.clone(), wanted, value)));
        }
        (wanted, value) if wanted != value => {
            found.push(format!("{path}: {value} is not {wanted}"));
        }
        _ => {}
    }
}

/// Whether two ttls differ by a second at most.
fn is_near(wanted: &Value, given: &Value) -> bool {
    match (wanted.as_i64(), given.as_i64()) {
        (Some(wanted), Some(given)) => wanted > 0 && given > 0 && (wanted - given).abs() <= 1,
        _ => false,
    }
}
