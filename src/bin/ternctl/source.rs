//! The source of a key space for `import` and `export`: a cluster or a file.
//!
//! | source | read by | hidden keys |
//! |---|---|---|
//! | tern, etcd 0.4 | `/v2/migration/snapshot` | all |
//! | etcd 2.x, 3.4 with `--enable-v2` | a listing | paths in `--hidden`: no listing shows them |
//! | a file of `backup` or of that page | | all |
//! | a file of `export` | one JSON object a line | all that were exported |
//!
//! Start with [`read_cluster`] and [`read_file`].
use crate::document::{KeyDocument, expiration_ns};
use crate::failure::{ExitReason, Failure, file_failed};
use crate::http::{CtlRequest, read_whole};
use crate::keys::key_target;
use crate::nodes::{KeyAnswer, KeyRecord};
use crate::session::{EndpointFault, Session, failure_of, unreachable_all};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

/// The cluster's own view, which no other cluster takes over.
const CLUSTER_VIEW: &str = "/_etcd";
const NS_PER_S: u64 = 1_000_000_000;

/// A node on its way from one cluster to another: a line of `export`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortableNode {
    /// The path.
    pub key: String,
    /// A file's value; `None`: a directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Seconds until it expires, when it was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u64>,
}

/// Reads the key space of a cluster. `hidden` are paths of hidden nodes that a listing does not
/// show.
///
/// # Errors
///
/// No endpoint answers, or a named path does not exist.
pub fn read_cluster(session: &Session, hidden: &[String]) -> Result<Vec<PortableNode>, Failure> {
    match read_document(session)? {
        Some(nodes) => Ok(nodes),
        None => read_listing(session, hidden),
    }
}

/// Reads the migration document; `None` if the cluster has none.
fn read_document(session: &Session) -> Result<Option<Vec<PortableNode>>, Failure> {
    let request = CtlRequest::get("/v2/migration/snapshot");
    let mut faults = Vec::new();
    for base in session.urls() {
        let answer = session.download(base, &request).and_then(read_whole);
        match answer {
            Ok(answer) if answer.status == 404 => return Ok(None),
            Ok(answer) => {
                if let Some(failure) = failure_of(&answer) {
                    return Err(failure);
                }
                let document = KeyDocument::parse(Path::new(base), &answer.body)?;
                return Ok(Some(nodes_of(session, document)));
            }
            Err(fault) => faults.push((base.clone(), EndpointFault::Sent(fault))),
        }
    }
    Err(unreachable_all(&faults))
}

/// The nodes of a document that live.
fn nodes_of(session: &Session, document: KeyDocument) -> Vec<PortableNode> {
    let now_ns = session.clock().now().wall_ns;
    let nodes = document.nodes.into_iter().map(|node| PortableNode {
        key: node.path,
        value: node.value,
        ttl: node
            .expires_ns
            .map(|ns| ns.saturating_sub(now_ns).div_ceil(NS_PER_S)),
    });
    without_dead(nodes.collect())
}

/// Leaves out expired nodes with all nodes below them, and the cluster's own view.
fn without_dead(nodes: Vec<PortableNode>) -> Vec<PortableNode> {
    let is_dead = |node: &&PortableNode| node.ttl == Some(0) || node.key == CLUSTER_VIEW;
    let dead: BTreeSet<String> = nodes
        .iter()
        .filter(is_dead)
        .map(|n| n.key.clone())
        .collect();
    let lives = |node: &PortableNode| {
        let mut path = node.key.as_str();
        loop {
            if dead.contains(path) {
                return false;
            }
            match path.rsplit_once('/') {
                Some((parent, _)) => path = parent,
                None => return true,
            }
        }
    };
    nodes.into_iter().filter(lives).collect()
}

/// Reads a listing of the root, and one of each hidden path.
fn read_listing(session: &Session, hidden: &[String]) -> Result<Vec<PortableNode>, Failure> {
    let mut nodes = Vec::new();
    for path in std::iter::once("/").chain(hidden.iter().map(String::as_str)) {
        let target = format!("{}?recursive=true&quorum=true", key_target(path));
        let answer = session.ask(&CtlRequest::get(target))?;
        let listed = KeyAnswer::parse(&answer.body)?.nodes;
        nodes.extend(listed.into_iter().filter(|n| n.key != "/").map(portable));
    }
    Ok(without_dead(nodes))
}

fn portable(record: KeyRecord) -> PortableNode {
    // A key that is due and not yet expired has no ttl.
    let due = record
        .expiration
        .as_deref()
        .and_then(expiration_ns)
        .map(|_| 0);
    let ttl = record.ttl.map(|ttl| ttl.max(0) as u64);
    PortableNode {
        key: record.key,
        value: record.value.filter(|_| !record.is_dir),
        ttl: ttl.or(due),
    }
}

/// Reads a file: a backup, or the lines of an export. `-` is stdin.
///
/// # Errors
///
/// The file cannot be read, is damaged, or is neither.
pub fn read_file(session: &Session, path: &Path) -> Result<Vec<PortableNode>, Failure> {
    let mut text = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().read_to_end(&mut text).map(drop)
    } else {
        fs::read(path).map(|bytes| text = bytes)
    };
    read.map_err(file_failed(path.display()))?;
    if text.trim_ascii_start().starts_with(b"{\"Root\"") {
        let document = KeyDocument::parse(path, &text)?;
        return Ok(nodes_of(session, document));
    }
    let mut nodes = Vec::new();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let node: PortableNode = serde_json::from_slice(line).map_err(|error| {
            let text = format!(
                "{}, line {}: neither a backup nor a line of ternctl export: {error}",
                path.display(),
                number + 1
            );
            Failure::new(ExitReason::DamagedData, text)
        })?;
        nodes.push(node);
    }
    Ok(without_dead(nodes))
}
