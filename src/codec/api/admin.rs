//! The handlers of the peer port: name and version of this machine, join, removal, cluster config,
//! list of machines.
use super::exchange::{Exchange, Handled};
use super::render::AnswerKind;
use crate::codec::cluster_status;
use crate::codec::http::Method;
use crate::codec::http::response::TEXT;
use crate::core::error::{Code, Error};
use crate::core::replica::registry::STORE_VERSION;
use crate::core::seam::{FormerPlace, Join, MemberPlace, Op, Query};
use serde::Deserialize;

/// `/name`
pub fn name(exchange: &Exchange) -> Handled {
    exchange.text(&exchange.context.settings.name)
}

/// `/version`: the version of the key space's format.
pub fn version(exchange: &Exchange) -> Handled {
    exchange.text(&STORE_VERSION.to_string())
}

/// `/version/{n}/check`: 200 if this machine supports version `n` of the format, 403 if not.
pub fn version_check(exchange: &Exchange) -> Handled {
    let Some(number) = exchange.rest.strip_suffix("/check") else {
        return exchange.not_found();
    };
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return exchange.not_found();
    }
    let is_ours = number == STORE_VERSION.to_string();
    exchange.empty(if is_ours { 200 } else { 403 })
}

/// `/upgrade`: there is nothing to upgrade to.
pub fn upgrade(exchange: &Exchange) -> Handled {
    exchange.empty(200)
}

/// `/etcdURL`
pub fn client_url(exchange: &Exchange) -> Handled {
    exchange.text(&exchange.context.settings.client_url)
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
    #[serde(default)]
    former_cluster: u64,
    #[serde(default)]
    former_id: u64,
}

/// `/join`: any method that carries a body.
pub fn join(exchange: &Exchange) -> Handled {
    let body = match serde_json::from_slice::<JoinBody>(exchange.request.body) {
        Ok(body) if !body.name.is_empty() && !body.raft_url.is_empty() => body,
        Ok(_) | Err(_) => {
            let cause = "the body is not a JSON object with name, raftURL and etcdURL";
            return Err(exchange.error_as(TEXT, 400, Error::new(Code::InvalidForm, cause)));
        }
    };
    let join = Join {
        min_version: body.min_version,
        max_version: body.max_version,
        name: body.name,
        peer_url: body.raft_url,
        client_url: body.etcd_url,
        incarnation: body.incarnation,
        former: FormerPlace::new(body.former_cluster, body.former_id),
    };
    exchange.to_machine(Op::Join(join), AnswerKind::Join)
}

/// `/remove/{name}`: DELETE only, 405 for other methods. `rejoin` as for `machine_delete`.
pub fn remove(exchange: &Exchange) -> Handled {
    if exchange.rest.is_empty() {
        return exchange.not_found();
    }
    if exchange.request.method != Method::Delete {
        return exchange.empty(405);
    }
    remove_machine(exchange)
}

/// `GET /v2/admin/bootstrap`: whether this machine waits for its cluster to begin.
pub fn bootstrap(exchange: &Exchange) -> Handled {
    exchange.to_machine(Op::Query(Query::Bootstrap), AnswerKind::Bootstrap)
}

/// `GET /v2/admin/config`
pub fn config_get(exchange: &Exchange) -> Handled {
    exchange.to_machine(Op::Query(Query::ConfigGet), AnswerKind::Config)
}

/// `PUT /v2/admin/config`: a JSON object, whatever its content type says. Fields that are not
/// numbers are ignored.
pub fn config_put(exchange: &Exchange) -> Handled {
    type Fields = std::collections::BTreeMap<String, serde_json::Value>;
    let fields = match serde_json::from_slice::<Fields>(exchange.request.body) {
        Ok(fields) => fields,
        Err(_) => {
            let cause = "the body is not a JSON object";
            return Err(exchange.error(Code::InvalidForm, cause));
        }
    };
    let number = |name: &str| fields.get(name).and_then(serde_json::Value::as_f64);
    let op = Op::ConfigPut {
        active_size: number("activeSize"),
        remove_delay_s: number("removeDelay"),
        sync_interval_s: number("syncInterval"),
    };
    exchange.to_machine(op, AnswerKind::Config)
}

/// `GET /v2/admin/machines`. A tern that asks gives the cluster that it expects here (`cluster`),
/// its own member id (`id`), and the end of its log (`last`) if it asks whether it has lost
/// entries; all in hexadecimal. A standby names itself in a header.
pub fn machines_get(exchange: &Exchange) -> Handled {
    let query = exchange.query()?;
    // A malformed number becomes 0. No cluster and no member has this number, so the answer is an
    // error.
    let number = |name| {
        let text = query.get(name)?;
        Some(u64::from_str_radix(text, 16).unwrap_or(0))
    };
    let op = match number("cluster") {
        None => match exchange.request.standby.and_then(cluster_status::visitor) {
            Some(standby) => Op::ListForStandby(standby),
            None => Op::Query(Query::MachineList),
        },
        Some(cluster) => {
            let id = number("id").unwrap_or(0);
            let place = MemberPlace::new(cluster, id, number("last"));
            Op::Query(Query::MachinesOf(place))
        }
    };
    exchange.to_machine(op, AnswerKind::Machines)
}

/// `GET /v2/admin/machines/{name}`
pub fn machine_get(exchange: &Exchange) -> Handled {
    if exchange.rest.is_empty() || exchange.rest.contains('/') {
        return exchange.not_found();
    }
    let name = exchange.rest.into();
    exchange.to_machine(Op::Query(Query::MachineGet { name }), AnswerKind::Machine)
}

/// `DELETE /v2/admin/machines/{name}`
pub fn machine_delete(exchange: &Exchange) -> Handled {
    if exchange.rest.is_empty() || exchange.rest.contains('/') {
        return exchange.not_found();
    }
    remove_machine(exchange)
}

/// `rejoin=false`: the machine is not admitted again with the data directory that it has.
fn remove_machine(exchange: &Exchange) -> Handled {
    let query = exchange.query()?;
    let for_good = match query.get("rejoin") {
        None | Some("true") => false,
        Some("false") => true,
        Some(_) => return Err(exchange.error(Code::InvalidField, "rejoin must be true or false")),
    };
    let op = Op::MachineRemove {
        name: exchange.rest.into(),
        for_good,
    };
    exchange.to_machine(op, AnswerKind::Remove)
}
