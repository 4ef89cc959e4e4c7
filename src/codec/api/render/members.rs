//! Answers of `/v2/members` and `/health` as JSON.
use super::json::{raw, string};
use super::{AnswerKind, Next, Shape, json};
use crate::codec::api::Context;
use crate::codec::cluster_status;
use crate::codec::http::response::{JSON, TEXT};
use crate::core::error::{Code, Error};
use crate::core::seam::{Health, MemberInfo, MemberListing, Outcome};

impl Shape {
    /// Appends the answer to a request about members.
    pub(super) fn members(&self, outcome: &Outcome, context: &Context, out: &mut Vec<u8>) -> Next {
        let (status, body) = match outcome {
            Outcome::Members(listing) => match self.kind {
                AnswerKind::MemberLeader => leader(listing),
                _ => (200, list(listing)),
            },
            Outcome::MemberAdded(info) => (201, line(info)),
            Outcome::MemberMoved | Outcome::Removed => (204, Vec::new()),
            Outcome::MemberGone => {
                let text = format!("Member permanently removed: {}", self.target.last_segment());
                (410, json::message(&text))
            }
            Outcome::Failed(error) => failure(error),
            _ => unreachable!("rendered by `Shape::render`"),
        };
        let content_type = if status == 204 { "" } else { JSON };
        let head = self.head(status, content_type, context, out);
        Next::done(head.full(|out| out.extend_from_slice(&body)))
    }

    /// Appends the answer to `/health`. It ends with a line break if the machine is not healthy, as
    /// etcd's does; a reason is in no answer of etcd 3.4.
    pub(super) fn health(&self, health: Health, context: &Context, out: &mut Vec<u8>) -> Next {
        let Some(reason) = cluster_status::reason(health) else {
            let head = self.head(200, TEXT, context, out);
            return Next::done(head.full(|out| raw("{\"health\":\"true\"}", out)));
        };
        let head = self.head(503, TEXT, context, out);
        Next::done(head.full(|out| {
            raw("{\"health\":\"false\"", out);
            if !context.settings.compat_2 {
                raw(",\"reason\":", out);
                string(reason, out);
            }
            raw("}\n", out);
        }))
    }
}

fn leader(listing: &MemberListing) -> (u16, Vec<u8>) {
    let mut members = listing.members.iter();
    match members.find(|member| Some(member.id) == listing.leader) {
        Some(leader) => (200, line(leader)),
        None => (503, json::message("During election")),
    }
}

fn failure(error: &Error) -> (u16, Vec<u8>) {
    let (status, text) = match error.code {
        Code::KeyNotFound => (404, format!("No such member: {}", error.cause)),
        Code::PeerAddressExists => (409, "membership: peerURL exists".to_string()),
        Code::InvalidForm => (400, error.cause.to_string()),
        Code::NoMorePeer => (
            403,
            "the cluster has as many members as its activeSize".to_string(),
        ),
        _ if error.cause.is_empty() => (503, "During election".to_string()),
        _ => (500, error.cause.to_string()),
    };
    (status, json::message(&text))
}

fn list(listing: &MemberListing) -> Vec<u8> {
    let mut out = b"{\"members\":[".to_vec();
    for (place, info) in listing.members.iter().enumerate() {
        raw(if place > 0 { "," } else { "" }, &mut out);
        member(info, &mut out);
    }
    raw("]}\n", &mut out);
    out
}

fn line(info: &MemberInfo) -> Vec<u8> {
    let mut out = Vec::new();
    member(info, &mut out);
    out.push(b'\n');
    out
}

fn member(info: &MemberInfo, out: &mut Vec<u8>) {
    raw(&format!("{{\"id\":\"{}\",\"name\":", info.id), out);
    string(&info.name, out);
    raw(",\"peerURLs\":[", out);
    string(&info.peer_url, out);
    raw("],\"clientURLs\":[", out);
    if let Some(client_url) = &info.client_url {
        string(client_url, out);
    }
    raw("]}", out);
}
