//! `cluster status`: machines, roles, lag and standbys, as the leader sees them.
//!
//! Start with [`status`]; [`fetch`] and [`members_table`] serve `top`, too.
use crate::failure::{ExitReason, Failure};
use crate::http::{CtlRequest, SendFault};
use crate::output::{OutputForm, print, print_json};
use crate::session::Session;
use crate::table::Table;
use tern::codec::cluster_status::{ClusterDocument, MemberPart};

/// The path of the document.
const CLUSTER: &str = "/v2/cluster";
/// The view of the leader, in `ClusterDocument::view`.
const LEADERS_VIEW: &str = "leader";
/// The state of a member that the leader does not hear.
const SILENT: &str = "silent";

/// The document of the first endpoint that has one, with its text. A document in which a leader
/// speaks is preferred.
///
/// # Errors
///
/// No endpoint has one.
pub fn fetch(session: &Session) -> Result<(ClusterDocument, Vec<u8>), Failure> {
    let mut without_leader = None;
    let mut faults = Vec::new();
    let mut reason = ExitReason::Unreachable;
    for base in session.urls() {
        match fetch_from(session, base) {
            Ok(found) if found.0.view == LEADERS_VIEW => return Ok(found),
            Ok(found) => _ = without_leader.get_or_insert(found),
            Err(fault) => {
                reason = fault.reason();
                faults.push(format!("{base}: {}", fault.text()));
            }
        }
    }
    without_leader.ok_or_else(|| {
        let text = format!("no endpoint answers: {}", faults.join("; "));
        Failure::new(reason, text)
    })
}

/// The document of one machine.
///
/// # Errors
///
/// It does not answer, or is no tern.
pub fn fetch_from(session: &Session, base: &str) -> Result<(ClusterDocument, Vec<u8>), SendFault> {
    let answer = session.call(base, &CtlRequest::get(CLUSTER))?;
    let parsed = ClusterDocument::parse(&answer.body);
    let document = parsed.map_err(|_| {
        let text = format!("no tern with /v2/cluster (status {})", answer.status);
        SendFault::NoAnswer(text)
    })?;
    Ok((document, answer.body))
}

/// `ternctl cluster status`
///
/// # Errors
///
/// No endpoint answers, or the cluster is not healthy.
pub fn status(session: &Session) -> Result<(), Failure> {
    let (document, text) = fetch(session)?;
    let verdict = verdict(&document);
    match session.output() {
        OutputForm::Json => print_json(&text)?,
        OutputForm::Simple | OutputForm::Table => {
            let heading = heading(&document, &verdict);
            print(format!(
                "{heading}\n\n{}{}",
                members_table(&document),
                standbys(&document)
            ))?;
        }
    }
    match verdict {
        None => Ok(()),
        Some(text) => Err(Failure::new(ExitReason::Unavailable, text)),
    }
}

/// The fault of the cluster as a sentence; `None` if the cluster is healthy.
pub fn verdict(document: &ClusterDocument) -> Option<String> {
    let cluster = &document.cluster;
    let machine = &document.machine;
    if document.view != LEADERS_VIEW {
        let why = match (&cluster.leader, &machine.reason) {
            (Some(leader), _) => format!(
                "the leader {} ({}) does not answer",
                leader.name, leader.client_url
            ),
            (None, Some(reason)) if reason.contains("no leader") => reason.clone(),
            (None, Some(reason)) => format!("no leader: {reason}"),
            (None, None) => "no leader".to_string(),
        };
        return Some(format!(
            "the cluster is unhealthy, as {} sees it: {why}",
            machine.name
        ));
    }
    if let Some(reason) = &machine.reason {
        return Some(format!("{} is unhealthy: {reason}", machine.name));
    }
    let silent = cluster
        .members
        .iter()
        .filter(|member| member.state == SILENT);
    let silent: Vec<String> = silent.map(silence).collect();
    if silent.is_empty() {
        return None;
    }
    Some(format!("the cluster is degraded: {}", silent.join(", ")))
}

fn silence(member: &MemberPart) -> String {
    let at = format!("{} ({})", label(member), member.peer_url);
    match member.last_contact_ms {
        None => format!("{at} was not heard yet"),
        Some(ms) => format!("{at} was last heard {} ago", duration(ms)),
    }
}

/// The first line: the cluster in a sentence.
pub fn heading(document: &ClusterDocument, verdict: &Option<String>) -> String {
    let cluster = &document.cluster;
    let unknown = || "unknown".to_string();
    let number = |number: Option<u64>| number.map_or_else(unknown, |n| n.to_string());
    let leader = cluster.leader.as_ref().map(|leader| leader.name.clone());
    format!(
        "cluster {}: {}, leader {}, term {}, log {}, committed {}",
        cluster.id.clone().unwrap_or_else(unknown),
        if verdict.is_none() {
            "healthy"
        } else {
            "NOT HEALTHY"
        },
        leader.unwrap_or_else(|| "none".to_string()),
        number(cluster.term),
        number(cluster.last_index),
        number(cluster.committed_index)
    )
}

/// The members as a table.
pub fn members_table(document: &ClusterDocument) -> Table {
    let mut table = Table::new(&[
        "NAME",
        "KIND",
        "STATE",
        "LAG",
        "LAST CONTACT",
        "CLIENT URL",
        "PEER URL",
    ]);
    for member in &document.cluster.members {
        table.row(vec![
            label(member),
            member.kind.clone().unwrap_or_else(|| "-".to_string()),
            member.state.clone(),
            member.lag.map_or("-".to_string(), |lag| lag.to_string()),
            member.last_contact_ms.map_or("-".to_string(), duration),
            member.client_url.clone(),
            member.peer_url.clone(),
        ]);
    }
    table
}

/// The standbys as a table; empty if there are none.
pub fn standbys(document: &ClusterDocument) -> String {
    let standbys = &document.cluster.standbys;
    if standbys.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["STANDBY", "LAST ASKED", "CLIENT URL"]);
    for standby in standbys {
        table.row(vec![
            standby.name.clone(),
            duration(standby.last_fetch_ms),
            standby.client_url.clone().unwrap_or_default(),
        ]);
    }
    format!("\n{table}")
}

/// The name of a member, also of one that has not started.
pub fn label(member: &MemberPart) -> String {
    if member.name.is_empty() {
        "(not started)".to_string()
    } else {
        member.name.clone()
    }
}

/// Milliseconds for people.
pub fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..120_000 => format!("{}s", ms / 1_000),
        120_000..7_200_000 => format!("{}min", ms / 60_000),
        _ => format!("{}h", ms / 3_600_000),
    }
}
