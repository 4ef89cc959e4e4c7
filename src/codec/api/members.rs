//! `/v2/members`, `/health` and `/v2/cluster`: the members as clients of etcd 2.x see and change
//! them, and as operators see them.
//!
//! The machine decides about members. Here bodies are read, and requests that need no member are
//! refused: another content type, malformed JSON, an id that no member can have, a URL that is
//! none. Errors are `{"message":…}`, in the words of etcd where it has any. Start with [`get`].
use super::exchange::{Exchange, Handled};
use super::proxy;
use super::render::AnswerKind;
use crate::codec::http::Response;
use crate::codec::http::response::JSON;
use crate::core::public_id::PublicId;
use crate::core::seam::{Op, Query};
use serde::Deserialize;

/// `GET /v2/members` and `GET /v2/members/leader`. A single member has no page.
pub fn get(exchange: &Exchange) -> Handled {
    let kind = match exchange.rest {
        "" => AnswerKind::Members,
        "leader" => AnswerKind::MemberLeader,
        _ => return Err(exchange.message(404, "Not found")),
    };
    exchange.to_machine(Op::Query(Query::Members), kind)
}

/// POST: admit a machine before it starts. The path after `/v2/members` is ignored.
pub fn post(exchange: &Exchange) -> Handled {
    let peer_urls = peer_urls(exchange)?;
    change(exchange, Op::MemberAdd { peer_urls })
}

/// `PUT /v2/members/{id}`: look for a member at another address.
pub fn put(exchange: &Exchange) -> Handled {
    let id = id(exchange)?;
    let peer_urls = peer_urls(exchange)?;
    change(exchange, Op::MemberMove { id, peer_urls })
}

/// `DELETE /v2/members/{id}`
pub fn delete(exchange: &Exchange) -> Handled {
    let id = id(exchange)?;
    change(exchange, Op::MemberRemove { id })
}

/// `/health`
pub fn health(exchange: &Exchange) -> Handled {
    exchange.to_machine(Op::Query(Query::Health), AnswerKind::Health)
}

/// `/v2/cluster`
pub fn cluster(exchange: &Exchange) -> Handled {
    let kind = AnswerKind::Cluster {
        asks_leader: !exchange.request.from_tern,
        own: None,
        is_page: false,
    };
    exchange.to_machine(Op::Query(Query::Cluster), kind)
}

/// Only the leader changes members. With `-forward` a follower asks it for its client.
fn change(exchange: &Exchange, op: Op) -> Handled {
    if exchange.context.settings.forward
        && let Some(leader_url) = exchange.context.leader_url
        && let Some(forwarded) = proxy::forward(exchange, Some(leader_url))
    {
        return Ok(forwarded);
    }
    exchange.to_machine(op, AnswerKind::MemberChange)
}

/// The id in the path.
fn id(exchange: &Exchange) -> Result<PublicId, Response> {
    if exchange.rest.is_empty() {
        return Err(exchange.wrong_method(&[]));
    }
    PublicId::parse(exchange.rest).ok_or_else(|| {
        let text = format!("No such member: {}", exchange.rest);
        exchange.message(404, &text)
    })
}

/// The body of POST and PUT.
#[derive(Deserialize)]
struct MemberBody {
    #[serde(rename = "peerURLs", default)]
    peer_urls: Option<Vec<Box<str>>>,
}

/// The peer URLs in the body, of which there is at least one.
fn peer_urls(exchange: &Exchange) -> Result<Vec<Box<str>>, Response> {
    if !exchange.is_json() {
        let given = exchange.request.content_type.unwrap_or_default();
        let text = format!("Bad Content-Type {given}, accept {JSON}");
        return Err(exchange.message(415, &text));
    }
    let refused = |text: &str| Err(exchange.message(400, text));
    if exchange.request.body.is_empty() {
        return refused("unexpected end of JSON input");
    }
    let Ok(body) = serde_json::from_slice::<MemberBody>(exchange.request.body) else {
        return refused("the body is not a JSON object with a list peerURLs");
    };
    let peer_urls = body.peer_urls.unwrap_or_default();
    if peer_urls.is_empty() {
        return refused("no valid URLs given");
    }
    for url in &peer_urls {
        if let Some(fault) = url_fault(url) {
            return refused(&format!("{fault}: {url}"));
        }
    }
    Ok(peer_urls)
}

/// The fault of a peer URL, in the words of etcd where it has the same rule.
fn url_fault(url: &str) -> Option<&'static str> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Some("URL has no scheme");
    };
    if !["http", "https"].contains(&scheme) {
        return Some("URL scheme must be http or https");
    }
    if rest.contains('/') {
        return Some("URL must not contain a path");
    }
    let is_url = crate::core::identity::is_url(url);
    (!is_url).then_some("URL address does not have the form \"host:port\"")
}
