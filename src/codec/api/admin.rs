//! The peer port: identity of this machine, joining and removing, the cluster config and the list
//! of machines.
use super::ask::{Ask, Handled};
use super::render::AnswerKind;
use crate::codec::http::Method;
use crate::codec::http::response::TEXT;
use crate::core::error::{Code, Error};
use crate::core::replica::registry::STORE_VERSION;
use crate::core::seam::{Join, Op, Query};
use serde::Deserialize;

/// `/name`
pub fn name(ask: &Ask) -> Handled {
    ask.text(&ask.context.site.name)
}

/// `/version`: of the key space's format.
pub fn version(ask: &Ask) -> Handled {
    ask.text(&STORE_VERSION.to_string())
}

/// `/version/{n}/check`: whether this machine understands that version.
pub fn version_check(ask: &Ask) -> Handled {
    let Some(number) = ask.rest.strip_suffix("/check") else {
        return ask.not_found();
    };
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return ask.not_found();
    }
    let is_ours = number == STORE_VERSION.to_string();
    ask.empty(if is_ours { 200 } else { 403 })
}

/// `/upgrade`: there is nothing to upgrade to.
pub fn upgrade(ask: &Ask) -> Handled {
    ask.empty(200)
}

/// `/etcdURL`
pub fn client_url(ask: &Ask) -> Handled {
    ask.text(&ask.context.site.client_url)
}

/// The body of `/join`.
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
pub fn join(ask: &Ask) -> Handled {
    let body = match serde_json::from_slice::<JoinBody>(ask.request.body) {
        Ok(body) if !body.name.is_empty() && !body.raft_url.is_empty() => body,
        Ok(_) | Err(_) => {
            let cause = "the body is not a JSON object with name, raftURL and etcdURL";
            return Err(ask.error_as(TEXT, 400, Error::new(Code::InvalidForm, cause)));
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
    ask.to_machine(Op::Join(join), AnswerKind::Join)
}

/// `/remove/{name}`: DELETE only, 405 for other methods.
pub fn remove(ask: &Ask) -> Handled {
    if ask.rest.is_empty() {
        return ask.not_found();
    }
    if ask.request.method != Method::Delete {
        return ask.empty(405);
    }
    let op = Op::MachineRemove {
        name: ask.rest.into(),
    };
    ask.to_machine(op, AnswerKind::Remove)
}

/// `GET /v2/admin/config`
pub fn config_get(ask: &Ask) -> Handled {
    ask.to_machine(Op::Query(Query::ConfigGet), AnswerKind::Config)
}

/// `PUT /v2/admin/config`: a JSON object, whatever its content type says. Fields that are not
/// numbers are ignored.
pub fn config_put(ask: &Ask) -> Handled {
    type Fields = std::collections::BTreeMap<String, serde_json::Value>;
    let fields = match serde_json::from_slice::<Fields>(ask.request.body) {
        Ok(fields) => fields,
        Err(_) => {
            let cause = "the body is not a JSON object";
            return Err(ask.error(Code::InvalidForm, cause));
        }
    };
    let number = |name: &str| fields.get(name).and_then(serde_json::Value::as_f64);
    let op = Op::ConfigPut {
        active_size: number("activeSize"),
        remove_delay_s: number("removeDelay"),
        sync_interval_s: number("syncInterval"),
    };
    ask.to_machine(op, AnswerKind::Config)
}

/// `GET /v2/admin/machines`. Another tern names in `cluster` the cluster that it expects here, and
/// in `id` its own id, both in hexadecimal.
pub fn machines_get(ask: &Ask) -> Handled {
    let query = ask.query()?;
    // A malformed number becomes 0, which is no cluster and no id: the answer is an error.
    let number = |name| {
        let text = query.get(name)?;
        Some(u64::from_str_radix(text, 16).unwrap_or(0))
    };
    let op = match number("cluster") {
        None => Op::Query(Query::MachineList),
        Some(cluster) => Op::Query(Query::MachinesOf {
            cluster,
            id: number("id").unwrap_or(0),
        }),
    };
    ask.to_machine(op, AnswerKind::Machines)
}

fn with_name(ask: &Ask, op: fn(Box<str>) -> Op, kind: AnswerKind) -> Handled {
    if ask.rest.is_empty() || ask.rest.contains('/') {
        return ask.not_found();
    }
    ask.to_machine(op(ask.rest.into()), kind)
}

/// `GET /v2/admin/machines/{name}`
pub fn machine_get(ask: &Ask) -> Handled {
    with_name(
        ask,
        |name| Op::Query(Query::MachineGet { name }),
        AnswerKind::Machine,
    )
}

/// `DELETE /v2/admin/machines/{name}`
pub fn machine_delete(ask: &Ask) -> Handled {
    with_name(ask, |name| Op::MachineRemove { name }, AnswerKind::Remove)
}
