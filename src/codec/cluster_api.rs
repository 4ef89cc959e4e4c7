//! The questions of machines to each other over HTTP: as requests, and the responses as typed
//! replies.
//!
//! | question | asked at |
//! |---|---|
//! | version, machines, config, join, bootstrap, leader | the peer port of a machine |
//! | register, take lead, registered | a directory in the key space of any etcd (`discovery`) |
//!
//! The functions are pure. `core::machine` decides when to ask which question. Start with
//! [`request`] and [`reply`].
use super::cluster_status::{self, ClusterDocument};
use super::discovery;
use super::http::call::{HttpCall, HttpReply};
use crate::core::command::ClusterConfig;
use crate::core::error::{Code, HAS_LOST_ENTRIES, OTHER_CLUSTER, WAS_BARRED, WAS_REMOVED};
use crate::core::identity;
use crate::core::raft::PeerId;
use crate::core::replica::registry::STORE_VERSION;
use crate::core::seam::{
    Attendance, Call, CallAnswer, CallRefusal, ClusterRoom, Introduction, MachineInfo, MemberPlace,
    Question, RefusalReason, Reply, Role,
};
use serde::Deserialize;

/// The request that asks the question of a call.
pub fn request(call: &Call) -> HttpCall {
    let base = &*call.base;
    let get = |path: &str| HttpCall::get(format!("{base}{path}"), call.timeout_ms);
    match &call.question {
        Question::Version => get("/version"),
        Question::Machines { of: None } => get("/v2/admin/machines"),
        Question::Machines { of: Some(place) } => get(&machines_path(place)),
        Question::MachinesForStandby(standby) => HttpCall {
            header: Some((cluster_status::STANDBY, cluster_status::introduce(standby))),
            ..get("/v2/admin/machines")
        },
        Question::Config => get("/v2/admin/config"),
        Question::Bootstrap => get("/v2/admin/bootstrap"),
        Question::Leader => get("/v2/cluster"),
        Question::Join(introduction) => {
            let url = format!("{base}/join");
            let body = join_body(introduction);
            HttpCall::put(url, "application/json", body, call.timeout_ms)
        }
        Question::Register {
            name,
            peer_url,
            ttl_s,
        } => discovery::register(base, name, peer_url, *ttl_s, call.timeout_ms),
        Question::TakeLead => discovery::take_lead(base, call.timeout_ms),
        Question::Registered { .. } => discovery::list(base, call.timeout_ms),
    }
}

/// Translates the response to a question into the reply for the core.
pub fn reply(question: &Question, response: HttpReply) -> Reply {
    let (status, server, body) = match response {
        HttpReply::Failed { why } => return Reply::Failed { why },
        HttpReply::Answered {
            status,
            server,
            body,
        } => (status, server, body),
    };
    let answer = match question {
        Question::Version => parse_version(status, &body),
        Question::Machines { .. } | Question::MachinesForStandby(_) => {
            parse_machines(status, &body)
        }
        Question::Config => parse_config(status, &body),
        Question::Bootstrap => parse_bootstrap(status, &body),
        Question::Leader => parse_leader(status, &body),
        Question::Join(_) => parse_joined(status, &body),
        Question::Register { .. } => discovery::parse_registering(status, &body),
        Question::TakeLead => discovery::parse_leads(status, &body),
        Question::Registered { scheme } => discovery::parse_registered(status, &body, scheme),
    };
    Reply::Answered {
        foreign: (!server.starts_with("tern/")).then_some(server),
        answer,
    }
}

fn machines_path(place: &MemberPlace) -> String {
    let MemberPlace { cluster, id, last } = place;
    let last = last.map(|last| format!("&last={:x}", last.0));
    let last = last.unwrap_or_default();
    format!("/v2/admin/machines?cluster={cluster:x}&id={:x}{last}", id.0)
}

fn join_body(introduction: &Introduction) -> String {
    let mut body = serde_json::json!({
        "minVersion": STORE_VERSION,
        "maxVersion": STORE_VERSION,
        "name": introduction.name,
        "raftURL": introduction.peer_url,
        "etcdURL": introduction.client_url,
        "incarnation": introduction.incarnation,
    });
    if let Some(place) = introduction.former {
        body["formerCluster"] = place.cluster.into();
        body["formerId"] = place.id.0.into();
    }
    body.to_string()
}

/// One line of the list of machines.
#[derive(Deserialize)]
struct ListedMachine {
    name: Box<str>,
    #[serde(default, rename = "state")]
    state: Box<str>,
    #[serde(default, rename = "clientURL")]
    client_url: Box<str>,
    #[serde(rename = "peerURL")]
    peer_url: Box<str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigBody {
    active_size: f64,
    #[serde(default)]
    sync_interval: f64,
}

/// The body of an error, as the HTTP interface renders it. A body that is something else is read as
/// the default.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ErrorBody {
    error_code: u64,
    message: String,
    cause: String,
}

/// Why a client port is no peer.
const CLIENT_PORT: &str = "a client port answers there. Name the machine's peer port, -peer-addr, \
                           which is 7001 by default";

fn parse_version(status: u16, body: &[u8]) -> Result<CallAnswer, CallRefusal> {
    let text = String::from_utf8_lossy(body);
    match text.trim().parse() {
        Ok(version) if status == 200 => Ok(CallAnswer::Version(version)),
        // The answer of a client port, in the forms of 0.4 and 2.x.
        Err(_) if text.starts_with("etcd ") || text.contains("\"etcdserver\"") => {
            Err(CallRefusal {
                why: CLIENT_PORT.into(),
                reason: RefusalReason::ClientPort,
            })
        }
        Ok(_) | Err(_) => Err(refused("/version", status, body)),
    }
}

fn parse_machines(status: u16, body: &[u8]) -> Result<CallAnswer, CallRefusal> {
    match serde_json::from_slice::<Vec<ListedMachine>>(body) {
        Ok(listed) if status == 200 => {
            let machines = listed.into_iter().map(machine_info);
            Ok(CallAnswer::Machines(machines.collect()))
        }
        Ok(_) | Err(_) => Err(refused("/v2/admin/machines", status, body)),
    }
}

fn parse_config(status: u16, body: &[u8]) -> Result<CallAnswer, CallRefusal> {
    match serde_json::from_slice::<ConfigBody>(body) {
        // A cast from floating point saturates, and drops a fraction.
        Ok(config) if status == 200 => Ok(CallAnswer::Config(ClusterRoom {
            active_size: config.active_size as u64,
            sync_interval_ms: ((config.sync_interval * 1000.0).round() as u64)
                .clamp(ClusterConfig::SYNC_INTERVAL_MS_MIN, ClusterConfig::MS_MAX),
        })),
        Ok(_) | Err(_) => Err(refused("/v2/admin/config", status, body)),
    }
}

/// The answer to whether a machine waits for its cluster to begin.
#[derive(Deserialize)]
struct BootstrapBody {
    waiting: bool,
    /// In hexadecimal.
    #[serde(default)]
    number: String,
    #[serde(default)]
    list: Vec<Box<str>>,
}

fn parse_bootstrap(status: u16, body: &[u8]) -> Result<CallAnswer, CallRefusal> {
    let refused = || refused("/v2/admin/bootstrap", status, body);
    match serde_json::from_slice::<BootstrapBody>(body) {
        Ok(BootstrapBody { waiting: false, .. }) if status == 200 => {
            Ok(CallAnswer::Bootstrap(None))
        }
        Ok(BootstrapBody { number, list, .. }) if status == 200 => {
            let number = u64::from_str_radix(&number, 16).map_err(|_| refused())?;
            // Its URLs are logged.
            if !list.iter().all(|url| identity::is_url(url)) {
                return Err(refused());
            }
            Ok(CallAnswer::Bootstrap(Some(Attendance { number, list })))
        }
        Ok(_) | Err(_) => Err(refused()),
    }
}

fn parse_leader(status: u16, body: &[u8]) -> Result<CallAnswer, CallRefusal> {
    let refused = || refused("/v2/cluster", status, body);
    match ClusterDocument::parse(body) {
        Ok(document) if status == 200 => {
            let leader = document.cluster.leader.ok_or_else(|| CallRefusal {
                reason: RefusalReason::Other,
                why: "it is no member, and knows no leader now".into(),
            })?;
            // The URL is logged, and asked.
            if !identity::is_url(&leader.peer_url) {
                return Err(refused());
            }
            Ok(CallAnswer::Leader(leader.peer_url.into()))
        }
        Ok(_) | Err(_) => Err(refused()),
    }
}

fn parse_joined(status: u16, body: &[u8]) -> Result<CallAnswer, CallRefusal> {
    if status != 200 {
        return Err(refused("/join", status, body));
    }
    match parse_uvarint(body) {
        Some(id) if id != 0 => Ok(CallAnswer::Joined(PeerId(id))),
        Some(_) | None => Err(CallRefusal {
            reason: RefusalReason::Other,
            why: "/join is answered without an index".into(),
        }),
    }
}

fn machine_info(listed: ListedMachine) -> MachineInfo {
    let leads = &*listed.state == "leader";
    MachineInfo {
        name: listed.name,
        state: if leads { Role::Leader } else { Role::Follower },
        client_url: listed.client_url,
        peer_url: listed.peer_url,
    }
}

/// The refusal in the response to a request for `path`.
fn refused(path: &str, status: u16, body: &[u8]) -> CallRefusal {
    let error: ErrorBody = serde_json::from_slice(body).unwrap_or_default();
    let why = match error.error_code {
        0 => format!("{path} is answered with status {status}"),
        code => format!("{path}: error {code}: {} ({})", error.message, error.cause),
    };
    let reason = if error.error_code == Code::NoMorePeer as u64 {
        RefusalReason::ClusterFull
    } else if error.error_code == Code::RemovedForGood as u64 {
        RefusalReason::Barred
    } else {
        match &*error.cause {
            OTHER_CLUSTER => RefusalReason::OtherCluster,
            WAS_REMOVED => RefusalReason::Removed,
            WAS_BARRED => RefusalReason::Barred,
            HAS_LOST_ENTRIES => RefusalReason::LostEntries,
            _ => RefusalReason::Other,
        }
    };
    CallRefusal {
        reason,
        why: why.into(),
    }
}

/// The number at the start of `bytes`, seven bits a byte, the lowest first. 0.4 answers a join with
/// such a number in a buffer of 8 bytes; the bytes after the number are padding.
fn parse_uvarint(bytes: &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for (place, byte) in bytes.iter().take(9).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_port_is_told_from_a_peer_port() {
        assert_eq!(parse_version(200, b"2"), Ok(CallAnswer::Version(2)));
        let client_port: [&[u8]; 2] = [
            b"etcd 0.4.9",
            br#"{"etcdserver":"2.3.8","etcdcluster":"2.3.0"}"#,
        ];
        for body in client_port {
            let refusal = parse_version(200, body).expect_err("no version");
            assert!(refusal.why.contains("-peer-addr"), "{}", refusal.why);
        }
        let refusal = parse_version(404, b"404 page not found").expect_err("no version");
        assert!(refusal.why.contains("status 404"), "{}", refusal.why);
    }
}
