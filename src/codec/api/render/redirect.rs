//! Redirects to another machine, and the outcome of requests that were forwarded to the leader.
use super::{AnswerKind, Next, ProxyOutcome, Shape, json};
use crate::codec::api::Context;
use crate::codec::http::client::ResponsePart;
use crate::codec::http::response::{JSON, ResponseHead, TEXT};
use crate::codec::http::{Method, Response};
use crate::core::error::{Code, Error, OUTCOME_UNKNOWN};
use crate::core::escape;

/// Targets up to this many bytes are stored inline, longer ones are allocated. Most keys fit.
const INLINE_BYTES: usize = 64;

/// Path and query of a pending request, for a redirect that may follow.
///
/// Every request keeps one, because leadership may change while it is pending. Redirects are rare:
/// the target is escaped only for one, and a short target costs no allocation.
#[derive(Debug)]
pub(super) struct RedirectTarget {
    /// The decoded path, then the query as it was sent.
    text: TargetText,
    path_bytes: usize,
    /// `None` if the request had no `?`.
    query_bytes: Option<usize>,
}

#[derive(Debug)]
enum TargetText {
    Inline([u8; INLINE_BYTES]),
    Allocated(Box<[u8]>),
}

impl RedirectTarget {
    /// Keeps a decoded path and a query as it was sent.
    pub fn new(path: &str, query: Option<&str>) -> RedirectTarget {
        let after_path = query.unwrap_or_default();
        let end = path.len() + after_path.len();
        let text = if end <= INLINE_BYTES {
            let mut bytes = [0; INLINE_BYTES];
            bytes[..path.len()].copy_from_slice(path.as_bytes());
            bytes[path.len()..end].copy_from_slice(after_path.as_bytes());
            TargetText::Inline(bytes)
        } else {
            TargetText::Allocated([path, after_path].concat().into_bytes().into())
        };
        RedirectTarget {
            text,
            path_bytes: path.len(),
            query_bytes: query.map(str::len),
        }
    }

    /// The part of the path after its last slash, decoded.
    pub fn last_segment(&self) -> &str {
        let bytes: &[u8] = match &self.text {
            TargetText::Inline(bytes) => bytes,
            TargetText::Allocated(bytes) => bytes,
        };
        let path = std::str::from_utf8(&bytes[..self.path_bytes]).expect("copied from a string");
        path.rsplit('/').next().expect("split gives one")
    }

    /// The target as a request line carries it.
    fn escaped(&self) -> String {
        let bytes: &[u8] = match &self.text {
            TargetText::Inline(bytes) => bytes,
            TargetText::Allocated(bytes) => bytes,
        };
        let text = |bytes| std::str::from_utf8(bytes).expect("copied from a string");
        let (path, after_path) = bytes.split_at(self.path_bytes);
        let query = self.query_bytes.map(|length| text(&after_path[..length]));
        target_of(text(path), query)
    }
}

/// A decoded path, escaped again, and a query as it was sent, with escapes for what a URL cannot
/// hold: a `#` would end it.
pub fn target_of(path: &str, query: Option<&str>) -> String {
    let mut target = escape::path(path);
    if let Some(query) = query {
        target.push('?');
        target.push_str(&escape::sent_query(query));
    }
    target
}

/// The media type of pages.
pub const HTML: &str = "text/html; charset=utf-8";

/// 307 to the same target elsewhere, which keeps the method (RFC 9110 section 15.4.8). As in 0.4,
/// the answer to a GET has a body with a link, and the answer to a HEAD its content type. The answer
/// to a write names the leader, for users of a client that does not follow redirects.
pub fn response(method: Method, url: &str, target: &str) -> Response {
    let location = format!("{url}{target}");
    let (content_type, body) = match method {
        Method::Get => (HTML, link(&location, "Temporary Redirect")),
        Method::Head => (HTML, Vec::new()),
        Method::Put | Method::Post | Method::Delete | Method::Options | Method::Other => {
            let text = format!("this machine does not lead: send it to the leader at {url}\n");
            (TEXT, text.into_bytes())
        }
    };
    Response::new(307, content_type, body).with("Location", location)
}

/// 301 to the clean form of a path (RFC 9110 section 15.4.2). etcd 2.x sends a link, 0.4 nothing.
pub fn moved(location: &str, with_body: bool) -> Response {
    let response = if with_body {
        Response::new(301, HTML, link(location, "Moved Permanently"))
    } else {
        Response::new(301, "", "")
    };
    response.with("Location", location)
}

fn link(location: &str, text: &str) -> Vec<u8> {
    let mut out = b"<a href=\"".to_vec();
    for byte in location.bytes() {
        match byte {
            b'&' => json::raw("&amp;", &mut out),
            b'<' => json::raw("&lt;", &mut out),
            b'>' => json::raw("&gt;", &mut out),
            b'"' => json::raw("&#34;", &mut out),
            b'\'' => json::raw("&#39;", &mut out),
            _ => out.push(byte),
        }
    }
    json::raw("\">", &mut out);
    json::raw(text, &mut out);
    json::raw("</a>.\n\n", &mut out);
    out
}

impl Shape {
    /// Redirects the client to another machine: to its client port for a request about keys, to its
    /// peer port for one about the cluster.
    pub(super) fn redirect(
        &self,
        client_url: &str,
        peer_url: &str,
        context: &Context,
        out: &mut Vec<u8>,
    ) -> Next {
        let url = match self.kind {
            AnswerKind::Config
            | AnswerKind::Bootstrap
            | AnswerKind::Machines
            | AnswerKind::Machine
            | AnswerKind::Remove
            | AnswerKind::Join => peer_url,
            AnswerKind::Node(_)
            | AnswerKind::Event { .. }
            | AnswerKind::Watch { .. }
            | AnswerKind::Members
            | AnswerKind::MemberLeader
            | AnswerKind::MemberChange
            | AnswerKind::Health
            | AnswerKind::Lock { .. }
            | AnswerKind::Metrics
            | AnswerKind::Cluster { .. }
            | AnswerKind::V1Get(_)
            | AnswerKind::V1Event
            | AnswerKind::V1Watch { .. }
            | AnswerKind::Plain
            | AnswerKind::Migration { .. }
            | AnswerKind::Proxied { .. } => client_url,
        };
        let response = response(self.method, url, &self.target.escaped());
        self.send(context.with_cluster_id(response), context, out)
    }

    /// Appends the outcome of a call that [`Routed::Proxy`](crate::codec::api::Routed::Proxy) asked
    /// for.
    ///
    /// # Panics
    ///
    /// If the shape belongs to a request that was not forwarded.
    pub fn proxied(&mut self, outcome: ProxyOutcome, context: &Context, out: &mut Vec<u8>) -> Next {
        if let AnswerKind::Cluster { own: Some(own), .. } = &self.kind {
            return self.cluster_of_leader(own, &outcome, context, out);
        }
        let AnswerKind::Proxied {
            leader_url,
            is_amid_event,
        } = &self.kind
        else {
            unreachable!("the request was forwarded");
        };
        if let Some(framing) = self.framing {
            if *is_amid_event && !matches!(outcome, ProxyOutcome::Answered { .. }) {
                return Next::Abort;
            }
            let ProxyOutcome::Answered { body, .. } = outcome else {
                return self.watch_end(context, out);
            };
            framing.chunk(&body, out);
            framing.end(out);
            return Next::done(framing);
        }
        let reads = matches!(self.method, Method::Get | Method::Head);
        let response = match outcome {
            ProxyOutcome::Answered {
                status,
                headers,
                body,
            } => {
                let mut response = Response::new(status, "", body);
                for (name, value) in headers {
                    response = response.with(name, value);
                }
                response
            }
            ProxyOutcome::Redirected if leader_url.is_some() => {
                let url = leader_url.as_deref().unwrap_or_default();
                response(self.method, url, &self.target.escaped())
            }
            // It changed nothing.
            ProxyOutcome::Redirected | ProxyOutcome::Failed { .. } if reads => {
                failure(Code::LeaderElect, "", context)
            }
            // The leader did not receive the whole request: the client may repeat it.
            ProxyOutcome::Redirected | ProxyOutcome::Failed { sent: false } => {
                failure(Code::RaftInternal, "", context)
            }
            ProxyOutcome::Failed { sent: true } => {
                failure(Code::RaftInternal, OUTCOME_UNKNOWN, context)
            }
        };
        self.send(response, context, out)
    }

    /// Another machine leads: a forwarded request is redirected to it.
    pub fn set_leader(&mut self, client_url: Option<Box<str>>) {
        if let AnswerKind::Proxied { leader_url, .. } = &mut self.kind {
            *leader_url = client_url;
        }
    }

    /// Appends a part of the leader's response to a watch. The first part begins with the head. The
    /// outcome of the call follows as [`Shape::proxied`]: the rest of the leader's response, or, if
    /// the call has failed, the end of the body without another event. If it has failed amid an event,
    /// the connection breaks off, or half an event would look like a whole one.
    ///
    /// # Panics
    ///
    /// If the first part has no headers.
    pub fn proxied_part(&mut self, part: ResponsePart, context: &Context, out: &mut Vec<u8>) {
        if let AnswerKind::Proxied { is_amid_event, .. } = &mut self.kind {
            *is_amid_event = part.is_unfinished;
        }
        let framing = match part.proxied_headers {
            None => self.framing.expect("the head came with the first part"),
            Some(headers) => {
                let mut head = ResponseHead::new(200, self.mode, context.date, out);
                for (name, value) in self.cors.headers(context) {
                    head.header(name, value);
                }
                for (name, value) in &headers {
                    head.header(name, value);
                }
                *self.framing.insert(head.stream())
            }
        };
        framing.chunk(&part.body, out);
    }

    /// The status that the outcome of a call counts as. A machine that shows its own view of the
    /// cluster, because the leader did not answer, has carried out the request.
    pub fn proxied_status(&self, outcome: &ProxyOutcome) -> u16 {
        match outcome {
            _ if matches!(self.kind, AnswerKind::Cluster { .. }) => 200,
            ProxyOutcome::Answered { status, .. } => *status,
            ProxyOutcome::Redirected => 307,
            ProxyOutcome::Failed { .. } => 500,
        }
    }

    fn send(&self, response: Response, context: &Context, out: &mut Vec<u8>) -> Next {
        let response = self.cors.add(response, context);
        Next::done(response.encode(self.mode, context.date, out))
    }
}

/// The answer to a request that could not be passed on.
fn failure(code: Code, cause: &str, context: &Context) -> Response {
    let mut body = Vec::new();
    json::error(&Error::new(code, cause), context.at.etcd, &mut body);
    let index = context.at.etcd.0.to_string();
    Response::new(code.status(), JSON, body).with("X-Etcd-Index", index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::http::url::Url;

    #[test]
    fn targets_come_back_short_or_long() {
        let long = format!("/v2/keys/{}", "k".repeat(INLINE_BYTES));
        for path in ["/v2/keys/a", "/", "/v2/keys/\u{e9} b", &long] {
            for query in [None, Some(""), Some("wait=true&x=%20")] {
                let target = RedirectTarget::new(path, query);
                assert_eq!(target.escaped(), target_of(path, query));
            }
        }
        assert_eq!(target_of("/a b", Some("c")), "/a%20b?c");
        let target = target_of("/a#b", Some("c=%20+&d=#\u{e9}{}"));
        assert_eq!(target, "/a%23b?c=%20+&d=%23%C3%A9{}");
        assert!(Url::parse(&format!("http://n1:4001{target}")).is_some_and(|u| u.target == target));
    }
}
