//! [`Exchange`], the argument of every handler: the request with its context, checked access to its
//! parameters, and the responses that a handler makes without the machine.
use super::cors::Cors;
use super::render::{AnswerKind, Shape, json};
use super::{Context, NOT_FOUND, Routed};
use crate::codec::http::form::{self, Form, FormError};
use crate::codec::http::response::{JSON, TEXT};
use crate::codec::http::{Request, Response};
use crate::core::command::KeyPath;
use crate::core::error::{Code, Error};
use crate::core::seam::Op;

/// The media type of form bodies.
pub(super) const FORM: &str = "application/x-www-form-urlencoded";

/// The longest ttl, in seconds: 100 years. Clients of 0.4 cannot read much later expirations.
const TTL_S_MAX: i64 = 36_525 * 86_400;

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

    /// An error with another status or content type than usual.
    pub fn error_as(&self, content_type: &'static str, status: u16, error: Error) -> Response {
        let mut body = Vec::new();
        json::error(&error, self.context.at.etcd, &mut body);
        let index = self.context.at.etcd.0.to_string();
        Response::new(status, content_type, body).with("X-Etcd-Index", index)
    }

    /// The key that the path names.
    ///
    /// # Errors
    ///
    /// 414 if it exceeds the limits of a key.
    pub fn key(&self) -> Result<KeyPath, Response> {
        let path = &self.request.path;
        // The slash before the rest belongs to the key.
        let key = &path[path.len() - self.rest.len() - 1..];
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
        let Some(content_type) = self.request.content_type else {
            return false;
        };
        let media_type = content_type.split(';').next().unwrap_or_default();
        media_type.trim().eq_ignore_ascii_case(FORM)
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
        let text = given.unwrap_or_default();
        let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(index) if is_number => Ok(index),
            _ => Err(self.error(Code::IndexNaN, cause)),
        }
    }

    /// When a node with the given ttl expires, in nanoseconds since the Unix epoch; `None` without
    /// a ttl. A ttl may be negative: the node is due at once.
    ///
    /// # Errors
    ///
    /// 202 if the ttl is not a number or above 100 years.
    pub fn expires(&self, form: &Parameters, cause: &str) -> Result<Option<u64>, Response> {
        let Some(text) = form.get("ttl").filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let seconds: i64 = match text.parse() {
            Ok(seconds) if seconds <= TTL_S_MAX => seconds,
            _ => return Err(self.error(Code::TtlNaN, cause)),
        };
        let ttl_ns = i128::from(seconds) * 1_000_000_000;
        let expires_ns = i128::from(self.context.now.wall_ns) + ttl_ns;
        Ok(Some(expires_ns.clamp(0, i128::from(u64::MAX)) as u64))
    }
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
