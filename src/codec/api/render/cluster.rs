//! Answers of `/v2/cluster` and of the dashboard: the document of this machine, with the view of the leader where it can be
//! had.
use super::redirect::HTML;
use super::{AnswerKind, Next, ProxyOutcome, Shape};
use crate::codec::api::{Context, dashboard};
use crate::codec::cluster_status::ClusterDocument;
use crate::codec::http::call::HttpCall;
use crate::codec::http::response::JSON;
use crate::core::seam::{ClusterStatus, Outcome};

/// How long the leader may take for its view, in milliseconds. Then this machine shows its own.
const LEADER_TIMEOUT_MS: u64 = 2_000;

impl Shape {
    /// The call that asks the leader for its view, if this request wants it. Its URL is the target
    /// alone. The shape keeps the document of this machine from then on, see [`Shape::proxied`].
    pub fn ask_leader(&mut self, outcome: &Outcome) -> Option<HttpCall> {
        let AnswerKind::Cluster {
            asks_leader, own, ..
        } = &mut self.kind
        else {
            return None;
        };
        let Outcome::Cluster(status) = outcome else {
            return None;
        };
        if !*asks_leader || status.is_leaders_view {
            return None;
        }
        *own = Some(Box::new(ClusterDocument::new(status)));
        Some(HttpCall::get("/v2/cluster".into(), LEADER_TIMEOUT_MS))
    }

    /// Appends the document of this machine.
    pub(super) fn cluster(
        &self,
        status: &ClusterStatus,
        context: &Context,
        out: &mut Vec<u8>,
    ) -> Next {
        self.document(&ClusterDocument::new(status), context, out)
    }

    /// Appends the document of this machine, with the leader's view if it was given.
    pub(super) fn cluster_of_leader(
        &self,
        own: &ClusterDocument,
        outcome: &ProxyOutcome,
        context: &Context,
        out: &mut Vec<u8>,
    ) -> Next {
        let with_view = match outcome {
            ProxyOutcome::Answered { body, .. } => own.with_leaders_view(body),
            ProxyOutcome::Redirected | ProxyOutcome::Failed { .. } => None,
        };
        self.document(with_view.as_ref().unwrap_or(own), context, out)
    }

    fn document(&self, document: &ClusterDocument, context: &Context, out: &mut Vec<u8>) -> Next {
        if !matches!(self.kind, AnswerKind::Cluster { is_page: true, .. }) {
            let head = self.head(200, JSON, context, out);
            return Next::done(head.full(|out| document.write(out)));
        }
        let mut head = self.head(200, HTML, context, out);
        for (name, value) in dashboard::HEADERS {
            head.header(name, value);
        }
        let page = dashboard::page(document);
        Next::done(head.full(|out| out.extend_from_slice(page.as_bytes())))
    }
}
