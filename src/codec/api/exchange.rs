//! [`Exchange`], the argument of every handler: the request with its context, checked access to its
//! parameters, and the responses that a handler makes without the machine.
use super::cors::Cors;
use super::render::{AnswerKind, Shape, json};
use super::{Context, NOT_FOUND, Routed};
use crate::codec::http::form::{self, Form, FormError};
use crate::codec::http::response::{JSON, TEXT};
use crate::codec::http::{Method, Request, Response};
use crate::core::cluster_time::{Lease, TTL_S_MAX};
use crate::core::command::KeyPath;
use crate::core::error::{Code, Error};
use crate::core::seam::Op;
use crate::core::store::EtcdIndex;

/// The media type of form bodies.
pub(super) const FORM: &str = "application/x-www-form-urlencoded";

/// The longest time that a watcher may ask to wait, in seconds: 10 years.
const TIMEOUT_S_MAX: u64 = 3_652 * 86_400;

/// The result of a handler. `Err` is a response that ends the request early, mostly an error.
pub(super) type Handled = Result<Routed, Response>;

/// A request and everything that its response depends on.
pub(super) struct Exchange<'a> {
    pub request: &'a Request<'a>,
    pub context: &'a Context<'a>,
    pub cors: Cors,
    /// The part of the path after the prefix of the route; empty if the route is one exact path.
    pub rest: &'a str,
}

impl<'a> Exchange<'a> {
    /// Hands `op` to the machine; its answer is written as `kind`.
    pub fn to_machine(&self, op: Op, kind: AnswerKind) -> Handled {
        let shape = Shape::new(kind, self.request, self.cors);
        Ok(Routed::ToMachine { op, shape })
    }

    /// 200 with a text.
    pub fn text(&self, text: &str) -> Handled {
        Ok(Routed::Answer(Response::new(200, TEXT, text)))
    }

    /// A status without a body.
    pub fn empty(&self, status: u16) -> Handled {
        Ok(Routed::Answer(Response::new(status, "", "")))
    }

    /// The 404 of an unknown path or method.
    pub fn not_found(&self) -> Handled {
        Ok(Routed::Answer(Response::new(404, TEXT, NOT_FOUND)))
    }

    /// A JSON object with one message, as `/v2/members` and `/v2/auth` answer.
    pub fn message(&self, status: u16, text: &str) -> Response {
        Response::new(status, JSON, json::message(text))
    }

    /// 405, as etcd 2.x answers it; `allowed` names the methods of the path.
    pub fn wrong_method(&self, allowed: &[Method]) -> Response {
        let names: Vec<&str> = allowed.iter().map(|method| method.name()).collect();
        let response = Response::new(405, TEXT, "Method Not Allowed\n");
        if names.is_empty() {
            return response;
        }
        response.with("Allow", names.join(","))
    }

    /// An empty 200 with the index headers of the key space.
    pub fn empty_with_indexes(&self) -> Handled {
        let at = self.context.at;
        let response = Response::new(200, JSON, "")
            .with("X-Etcd-Index", at.etcd.0.to_string())
            .with("X-Raft-Index", at.commit.0.to_string())
            .with("X-Raft-Term", at.term.0.to_string());
        Ok(Routed::Answer(response))
    }

    /// An error with the status of its code.
    pub fn error(&self, code: Code, cause: &str) -> Response {
        self.error_as(JSON, code.status(), Error::new(code, cause))
    }

    /// An error with another status or content type than usual. etcd 2.x knows no index before it
    /// has read the request.
    pub fn error_as(&self, content_type: &'static str, status: u16, error: Error) -> Response {
        let index = if self.context.settings.compat_2 {
            EtcdIndex(0)
        } else {
            self.context.at.etcd
        };
        let mut body = Vec::new();
        json::error(&error, index, &mut body);
        let index = index.0.to_string();
        Response::new(status, content_type, body).with("X-Etcd-Index", index)
    }

    /// The key that the path names.
    ///
    /// # Errors
    ///
    /// 414 if it exceeds the limits of a key.
    pub fn key(&self) -> Result<KeyPath, Response> {
        let path = &self.request.path;
        // The slash before the rest belongs to the key. `/v2/keys` alone is the root.
        let key = match path.strip_prefix("/v2/keys") {
            Some("") => "/",
            Some(_) | None => &path[path.len() - self.rest.len() - 1..],
        };
        self.checked(key)
    }

    /// The key below `folder` that the rest of the path names.
    ///
    /// # Errors
    ///
    /// 414 if it exceeds the limits of a key.
    pub fn key_below(&self, folder: &str) -> Result<KeyPath, Response> {
        self.checked(&format!("{folder}/{}", self.rest))
    }

    fn checked(&self, key: &str) -> Result<KeyPath, Response> {
        if !form::key_fits(key) {
            let text = "414 Request-URI Too Long: a key has at most 8 KiB and 1,024 segments";
            return Err(Response::new(414, TEXT, text));
        }
        Ok(KeyPath::new(key))
    }

    /// The parameters of the query alone.
    ///
    /// # Errors
    ///
    /// A parameter is malformed, or a bound of [`form`] is exceeded.
    pub fn query(&self) -> Result<Parameters<'a>, Response> {
        self.parameters(b"")
    }

    /// Whether the content type says that the body is a form.
    pub fn is_form(&self) -> bool {
        self.has_media_type(FORM)
    }

    /// Whether the content type says that the body is JSON.
    pub fn is_json(&self) -> bool {
        self.has_media_type(JSON)
    }

    fn has_media_type(&self, expected: &str) -> bool {
        let content_type = self.request.content_type.unwrap_or_default();
        if content_type == expected {
            return true;
        }
        let media_type = content_type.split(';').next().unwrap_or_default();
        media_type.trim().eq_ignore_ascii_case(expected)
    }

    /// The parameters of body and query.
    ///
    /// # Errors
    ///
    /// 415 if there is a body that is not a form: to ignore it would store an empty value.
    pub fn form(&self) -> Result<Parameters<'a>, Response> {
        if !self.is_form() && !self.request.body.is_empty() {
            let cause = "the body is not application/x-www-form-urlencoded";
            return Err(self.error_as(JSON, 415, Error::new(Code::InvalidForm, cause)));
        }
        self.parameters(self.request.body)
    }

    fn parameters(&self, body: &'a [u8]) -> Result<Parameters<'a>, Response> {
        let query = self.request.query.unwrap_or_default();
        match Form::parse(query, body) {
            Ok(form) => Ok(Parameters(form)),
            Err(FormError::BadEscape) => {
                Err(self.error(Code::InvalidForm, "invalid percent escape"))
            }
            Err(FormError::TooMany) => Err(self.error(Code::InvalidForm, "too many parameters")),
            Err(FormError::TooLarge) => {
                let error = Error::new(Code::InvalidForm, "too many bytes that are not UTF-8");
                Err(self.error_as(JSON, 413, error))
            }
        }
    }

    /// Parses an index: decimal digits without a sign. `cause` is the cause of the error.
    ///
    /// # Errors
    ///
    /// 203 if `given` is `None` or not such a number.
    pub fn index(&self, given: Option<&str>, cause: &str) -> Result<u64, Response> {
        let index = number(given.unwrap_or_default());
        index.ok_or_else(|| self.error(Code::IndexNaN, cause))
    }

    /// How long a watcher waits for an event, in microseconds; `None` without `timeout=SECONDS`.
    ///
    /// # Errors
    ///
    /// 205 if the timeout is not a whole number.
    pub fn timeout_us(&self, query: &Parameters) -> Result<Option<u64>, Response> {
        let Some(text) = query.get("timeout").filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        match number(text) {
            Some(seconds) => Ok(Some(seconds.min(TIMEOUT_S_MAX) * 1_000_000)),
            None => Err(self.error(Code::TimeoutNaN, "timeout")),
        }
    }

    /// The lease with the given ttl; `None` without a ttl. A ttl may be negative: the node is due at
    /// once.
    ///
    /// # Errors
    ///
    /// 202 if the ttl is not a number or above 100 years.
    pub fn lease(&self, form: &Parameters, cause: &str) -> Result<Option<Lease>, Response> {
        let Some(text) = form.get("ttl").filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let seconds: i64 = match text.parse() {
            Ok(seconds) if seconds <= TTL_S_MAX => seconds,
            _ => return Err(self.error(Code::TtlNaN, cause)),
        };
        Ok(Some(Lease::of_seconds(seconds)))
    }
}

/// A number of decimal digits alone, as Go's `strconv.ParseUint` reads it.
pub(super) fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// The parameters of a request.
pub(super) struct Parameters<'a>(Form<'a>);

impl Parameters<'_> {
    /// The first value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)
    }

    /// Whether a boolean parameter is `true`, in any case.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }
}
