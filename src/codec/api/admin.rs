//! The peer port: who this machine is, joining and removing, the cluster config and the list of
//! machines.
use super::json::{raw, string};
use super::render::AnswerKind;
use super::{Ask, Routed, stats};
use crate::codec::http::Response;
use crate::codec::http::response::TEXT;
use crate::core::command::ClusterConfig;
use crate::core::error::{Code, Error};
use crate::core::seam::{Join, MachineInfo, Op, Role};
use serde::Deserialize;

/// The version of the key space's format that peers must share.
const STORE_VERSION: &str = "2";

/// `/name`
pub fn name(ask: &Ask) -> Routed {
    ask.text(&ask.context.site.name)
}

/// `/version`
pub fn version(ask: &Ask) -> Routed {
    ask.text(STORE_VERSION)
}

/// `/version/{n}/check`: whether this machine understands that version.
pub fn version_check(ask: &Ask) -> Routed {
    let Some(number) = ask.rest.strip_suffix("/check") else {
        return ask.not_found();
    };
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return ask.not_found();
    }
    ask.empty(if number == STORE_VERSION { 200 } else { 403 })
}

/// `/upgrade`: there is nothing to upgrade to.
pub fn upgrade(ask: &Ask) -> Routed {
    ask.empty(200)
}

/// `/etcdURL`
pub fn client_url(ask: &Ask) -> Routed {
    ask.text(&ask.context.site.client_url)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JoinBody {
    #[serde(default)]
    min_version: u64,
    #[serde(default)]
    max_version: u64,
    name: Box<str>,
    #[serde(rename = "raftURL")]
    raft_url: Box<str>,
    #[serde(rename = "etcdURL")]
    etcd_url: Box<str>,
    #[serde(default)]
    incarnation: u64,
}

/// `/join`: any method that carries a body.
pub fn join(ask: &Ask) -> Routed {
    let body = match serde_json::from_slice::<JoinBody>(ask.request.body) {
        Ok(body) if !body.name.is_empty() && !body.raft_url.is_empty() => body,
        Ok(_) | Err(_) => {
            let cause = "the body is not a JSON object with name, raftURL and etcdURL";
            return ask.fail_as(TEXT, 400, Error::new(Code::InvalidForm, cause));
        }
    };
    let join = Join {
        min_version: body.min_version,
        max_version: body.max_version,
        name: body.name,
        peer_url: body.raft_url,
        client_url: body.etcd_url,
        incarnation: body.incarnation,
    };
    ask.machine(Op::Join(join), AnswerKind::Join)
}

/// `/remove/{name}`: DELETE only; other methods are told so.
pub fn remove(ask: &Ask) -> Routed {
    if ask.rest.is_empty() {
        return ask.not_found();
    }
    if ask.request.method != crate::codec::http::Method::Delete {
        return ask.empty(405);
    }
    ask.machine(
        Op::MachineRemove {
            name: ask.rest.into(),
        },
        AnswerKind::Remove,
    )
}

/// `GET /v2/admin/config`
pub fn config_get(ask: &Ask) -> Routed {
    ask.machine(Op::ConfigGet, AnswerKind::Config)
}

/// `PUT /v2/admin/config`: a JSON object, whatever its content type says; fields that are no
/// numbers are ignored.
pub fn config_put(ask: &Ask) -> Routed {
    type Fields = std::collections::BTreeMap<String, serde_json::Value>;
    let fields = match serde_json::from_slice::<Fields>(ask.request.body) {
        Ok(fields) => fields,
        Err(_) => {
            let cause = "the body is not a JSON object";
            return ask.fail(Error::new(Code::InvalidForm, cause));
        }
    };
    let number = |name: &str| fields.get(name).and_then(serde_json::Value::as_f64);
    let op = Op::ConfigPut {
        active_size: number("activeSize"),
        remove_delay_s: number("removeDelay"),
        sync_interval_s: number("syncInterval"),
    };
    ask.machine(op, AnswerKind::Config)
}

/// `GET /v2/admin/machines`
pub fn machines_get(ask: &Ask) -> Routed {
    let query = match ask.query() {
        Ok(query) => query,
        Err(answer) => return answer,
    };
    // A tern names the cluster that it takes the other for, and its own id; no cluster has the
    // number 0.
    let number = |name| {
        query
            .get(name)
            .map(|text| u64::from_str_radix(text, 16).unwrap_or(0))
    };
    let id = number("id").unwrap_or(0);
    let op = number("cluster").map_or(Op::MachineList, |cluster| Op::MachinesOf { cluster, id });
    ask.machine(op, AnswerKind::Machines)
}

fn with_name(ask: &Ask, op: fn(Box<str>) -> Op, kind: AnswerKind) -> Routed {
    if ask.rest.is_empty() || ask.rest.contains('/') {
        return ask.not_found();
    }
    ask.machine(op(ask.rest.into()), kind)
}

/// `GET /v2/admin/machines/{name}`
pub fn machine_get(ask: &Ask) -> Routed {
    with_name(ask, |name| Op::MachineGet { name }, AnswerKind::Machine)
}

/// `DELETE /v2/admin/machines/{name}`
pub fn machine_delete(ask: &Ask) -> Routed {
    with_name(ask, |name| Op::MachineRemove { name }, AnswerKind::Remove)
}

/// The answer to all on a standby's peer port.
pub fn standby() -> Response {
    Response::new(404, TEXT, super::NOT_FOUND)
}

/// Appends the cluster config and a line break.
pub fn config(config: &ClusterConfig, out: &mut Vec<u8>) {
    raw(&config.to_json(), out);
    out.push(b'\n');
}

/// Appends one machine.
pub fn machine(machine: &MachineInfo, out: &mut Vec<u8>) {
    let state = match machine.state {
        Role::Leader => Role::Leader,
        Role::Follower | Role::Candidate | Role::Standby => Role::Follower,
    };
    raw("{\"name\":", out);
    string(&machine.name, out);
    raw(",\"state\":\"", out);
    raw(stats::role(state), out);
    raw("\",\"clientURL\":", out);
    string(&machine.client_url, out);
    raw(",\"peerURL\":", out);
    string(&machine.peer_url, out);
    out.push(b'}');
}

/// Appends the list of machines and a line break.
pub fn machines(machines: &[MachineInfo], out: &mut Vec<u8>) {
    out.push(b'[');
    for (place, info) in machines.iter().enumerate() {
        raw(if place > 0 { "," } else { "" }, out);
        machine(info, out);
    }
    raw("]\n", out);
}

/// Appends a raft index as 0.4 does: a uvarint in a buffer of 8 bytes.
pub fn raft_index(index: u64, out: &mut Vec<u8>) {
    let mut buffer = [0; 8];
    let mut rest = index;
    for byte in &mut buffer {
        *byte = (rest & 0x7f) as u8;
        rest >>= 7;
        if rest == 0 {
            break;
        }
        *byte |= 0x80;
    }
    out.extend_from_slice(&buffer);
}
