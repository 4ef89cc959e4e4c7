//! Answers of the lock module: texts, mostly an index or a value.
use super::json::{self, raw};
use super::{AnswerKind, Next, Shape};
use crate::codec::api::Context;
use crate::codec::http::response::{JSON, TEXT};
use crate::core::error::{Code, Error};
use crate::core::seam::{Indexes, LockOutcome};
use crate::core::store::EtcdIndex;

/// The field of a lock's holder that an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockField {
    /// The value of its place.
    Value,
    /// The index of its place.
    Index,
}

/// The body of an error that the module itself finds, with a line break. It knows no index.
pub fn error(error: &Error) -> Vec<u8> {
    let mut out = Vec::new();
    json::error(error, EtcdIndex(0), &mut out);
    if out.last() != Some(&b'\n') {
        out.push(b'\n');
    }
    out
}

impl Shape {
    /// Appends the answer to a request to the lock module.
    pub(super) fn lock(&self, outcome: &LockOutcome, context: &Context, out: &mut Vec<u8>) -> Next {
        let AnswerKind::Lock { field, cause } = self.kind else {
            unreachable!("only the lock module is answered so");
        };
        let (status, text) = match outcome {
            LockOutcome::Acquired { index } => (200, index.to_string()),
            LockOutcome::Renewed | LockOutcome::Released | LockOutcome::Holder(None) => {
                (200, String::new())
            }
            LockOutcome::Holder(Some(holder)) => match field {
                LockField::Value => (200, holder.value.to_string()),
                LockField::Index => (200, holder.index.to_string()),
            },
            LockOutcome::NotAcquired => (500, "failed to acquire lock\n".to_string()),
            LockOutcome::TimedOut => (500, "lock watch closed\n".to_string()),
            LockOutcome::Lost => (
                500,
                "lock lost: its place in the queue was released, or its ttl passed\n".to_string(),
            ),
            LockOutcome::Missing => {
                let error = error(&Error::new(Code::KeyNotFound, cause));
                let mut head = self.head(404, JSON, context, out);
                head.number("X-Etcd-Index", 0);
                return Next::done(head.full(|out| out.extend_from_slice(&error)));
            }
        };
        let head = self.head(status, TEXT, context, out);
        Next::done(head.full(|out| raw(&text, out)))
    }

    /// Appends an error of the key space as 0.4's modules report it: as a text.
    pub(super) fn lock_failed(
        &self,
        error: &Error,
        at: Indexes,
        context: &Context,
        out: &mut Vec<u8>,
    ) -> Next {
        let text = format!(
            "{}: {} ({}) [{}]\n",
            error.code as u16,
            error.code.message(),
            error.cause,
            at.etcd.0
        );
        let head = self.head(500, TEXT, context, out);
        Next::done(head.full(|out| raw(&text, out)))
    }
}
