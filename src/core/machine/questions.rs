//! What one machine asks another, and what the answers mean: version, machines, config and join
//! over its peer port, the leader over its client port.
//!
//! Pure functions; who asks whom and when is the finder's and the standby's. Start with `join`.
use crate::codec::http::{Method, url::Url};
use crate::core::raft::PeerId;
use crate::core::seam::{Call, CallId, MachineInfo, Role};
use serde::Deserialize;

/// How long a question may take.
const ASK_MS: u64 = 3_000;
/// How long a join may take: a leader keeps it for 5 s.
const JOIN_MS: u64 = 8_000;
/// The store version that peers must share.
pub const STORE_VERSION: u64 = 2;
/// The error of a cluster that is full (BEHAVIOUR: errors).
pub const NO_MORE_PEER: u64 = 103;
/// What a sync interval may not go below, in milliseconds (BEHAVIOUR: cluster config) …
pub const SYNC_INTERVAL_MS_MIN: u64 = 1_000;
/// … and not beyond: a hundred years.
pub const MS_MAX: u64 = 100 * 365 * 86_400_000;

/// How this machine introduces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Myself {
    pub name: Box<str>,
    pub client_url: Box<str>,
    pub peer_url: Box<str>,
    pub incarnation: u64,
}

/// What of the cluster config concerns those outside.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Room {
    pub active_size: f64,
    pub sync_interval_ms: u64,
}

/// Why a machine is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The error code of 0.4; 0 for an answer that has none.
    pub code: u64,
    pub why: String,
}

#[derive(Deserialize)]
struct Listed {
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
struct Config {
    active_size: f64,
    #[serde(default)]
    sync_interval: f64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Failure {
    error_code: u64,
    message: String,
    cause: String,
}

/// Whether the header `Server` is tern's.
pub fn is_tern(server: &str) -> bool {
    server.starts_with("tern/")
}

fn get(id: CallId, peer: &str, path: &str) -> Call {
    Call {
        id,
        method: Method::Get,
        url: format!("{peer}{path}").into(),
        content_type: "",
        body: Box::default(),
        timeout_ms: ASK_MS,
    }
}

/// Asks for the store version.
pub fn version(id: CallId, peer: &str) -> Call {
    get(id, peer, "/version")
}

/// Asks for the members; with a cluster and a member of it, only who can tell of that one answers.
pub fn machines(id: CallId, peer: &str, of: Option<(u64, PeerId)>) -> Call {
    match of {
        Some((cluster, member)) => get(
            id,
            peer,
            &format!("/v2/admin/machines?cluster={cluster:x}&id={:x}", member.0),
        ),
        None => get(id, peer, "/v2/admin/machines"),
    }
}

/// Asks for the cluster config.
pub fn config(id: CallId, peer: &str) -> Call {
    get(id, peer, "/v2/admin/config")
}

/// Asks over the client port where the leader is: who is no member points to who is.
pub fn leader(id: CallId, client_url: &str) -> Call {
    get(id, client_url, "/v2/leader")
}

/// Asks to be let in.
pub fn join(id: CallId, peer: &str, me: &Myself) -> Call {
    let body = serde_json::json!({
        "minVersion": STORE_VERSION,
        "maxVersion": STORE_VERSION,
        "name": me.name,
        "raftURL": me.peer_url,
        "etcdURL": me.client_url,
        "incarnation": me.incarnation,
    });
    Call {
        id,
        method: Method::Put,
        url: format!("{peer}/join").into(),
        content_type: "application/json",
        body: body.to_string().into_bytes().into(),
        timeout_ms: JOIN_MS,
    }
}

/// The store version of who was asked.
pub fn parse_version(status: u16, body: &[u8]) -> Result<u64, String> {
    let text = String::from_utf8_lossy(body);
    let version = text.trim().parse().ok().filter(|_| status == 200);
    version.ok_or_else(|| refused("/version", status, body).why)
}

/// The members, the leader among them marked.
pub fn parse_machines(status: u16, body: &[u8]) -> Result<Vec<MachineInfo>, String> {
    match serde_json::from_slice::<Vec<Listed>>(body) {
        Ok(listed) if status == 200 => Ok(listed.into_iter().map(info).collect()),
        Ok(_) | Err(_) => Err(refused("/v2/admin/machines", status, body).why),
    }
}

/// How many machines the cluster wants, and how often its standbys are to ask.
pub fn parse_config(status: u16, body: &[u8]) -> Result<Room, String> {
    match serde_json::from_slice::<Config>(body) {
        // The cast saturates, and what is not a number becomes 0.
        Ok(config) if status == 200 => Ok(Room {
            active_size: config.active_size,
            sync_interval_ms: ((config.sync_interval * 1000.0).round() as u64)
                .clamp(SYNC_INTERVAL_MS_MIN, MS_MAX),
        }),
        Ok(_) | Err(_) => Err(refused("/v2/admin/config", status, body).why),
    }
}

/// The leader's peer URL.
pub fn parse_leader(status: u16, body: &[u8]) -> Result<Box<str>, String> {
    let url = std::str::from_utf8(body)
        .ok()
        .filter(|url| status == 200 && Url::parse(url).is_some());
    url.map(Into::into)
        .ok_or_else(|| refused("/v2/leader", status, body).why)
}

/// As which member this machine was let in.
pub fn parse_joined(status: u16, body: &[u8]) -> Result<PeerId, Refused> {
    if status != 200 {
        return Err(refused("/join", status, body));
    }
    let id = uvarint(body).filter(|id| *id != 0).map(PeerId);
    id.ok_or_else(|| Refused {
        code: 0,
        why: "/join is answered with no index".into(),
    })
}

fn info(listed: Listed) -> MachineInfo {
    let leads = &*listed.state == "leader";
    MachineInfo {
        name: listed.name,
        state: if leads { Role::Leader } else { Role::Follower },
        client_url: listed.client_url,
        peer_url: listed.peer_url,
    }
}

/// What an answer that does not help says.
fn refused(path: &str, status: u16, body: &[u8]) -> Refused {
    let Failure {
        error_code: code,
        message,
        cause,
    } = serde_json::from_slice(body).unwrap_or_default();
    let why = match code {
        0 => format!("{path} is answered with status {status}"),
        code => format!("{path}: error {code}: {message} ({cause})"),
    };
    Refused { code, why }
}

/// The number at the beginning, in groups of seven bits, the lowest first.
fn uvarint(bytes: &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for (place, byte) in bytes.iter().take(9).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
