//! Listings and the migration document, page by page.
use super::{AnswerKind, Next, Shape, SharedValue, json};
use crate::codec::api::Context;
use crate::codec::http::Framing;
use crate::codec::http::response::TEXT;
use crate::core::seam::{Indexes, Migrated};
use crate::core::store::{ListItem, ViewRef};

impl Shape {
    /// A page of a listing. A listing of one page has its length in the head, a longer one is sent
    /// in pieces.
    pub(super) fn page(
        &mut self,
        items: &[ListItem],
        last: bool,
        at: Indexes,
        context: &Context,
        out: &mut Vec<u8>,
    ) -> Next {
        if self.to_file() {
            self.items(items, last, at, context, out);
            return Next::ContinueListing;
        }
        // The history follows the last page of the migration document.
        let is_whole = last && !matches!(self.kind, AnswerKind::Migration { .. });
        if self.mode.head_only {
            return self.page_head_only(is_whole, at, context, out);
        }
        if is_whole && self.framing.is_none() {
            let head = match self.kind {
                AnswerKind::Node(_) => self.key_head(200, at, context, out),
                _ => self.head(200, TEXT, context, out),
            };
            return Next::done(head.full(|out| self.items(items, last, at, context, out)));
        }
        let framing = self.page_framing(at, context, out);
        let mut piece = Vec::new();
        self.items(items, last, at, context, &mut piece);
        // An empty chunk would end the answer.
        if !piece.is_empty() {
            framing.chunk(&piece, out);
        }
        if !is_whole {
            return Next::ContinueListing;
        }
        framing.end(out);
        Next::done(framing)
    }

    /// The answer to a GET of one file. Its bytes are those of a listing that holds the file alone.
    pub(in crate::codec::api) fn file(
        &self,
        file: ViewRef,
        context: &Context,
        out: &mut Vec<u8>,
        shared: &mut Vec<SharedValue>,
    ) -> Framing {
        let head = self.key_head(200, context.at, context, out);
        let now_ns = context.shown_ns;
        let write = |out: &mut Vec<u8>| {
            let left_out = json::file_sharing(file, now_ns, out, shared);
            json::raw(context.line_end(), out);
            left_out
        };
        let (framing, moved) = head.full_with(write);
        for value in shared {
            value.at -= moved;
        }
        framing
    }

    /// The answer to a HEAD. It has no `Content-Length`, because the rest of the listing is not
    /// read.
    fn page_head_only(
        &mut self,
        is_whole: bool,
        at: Indexes,
        context: &Context,
        out: &mut Vec<u8>,
    ) -> Next {
        let framing = self.page_framing(at, context, out);
        Next::Done {
            keep_alive: framing.keep_alive,
            client_closed: !is_whole,
        }
    }

    /// The framing of a listing in pieces. Writes the head with the first one.
    fn page_framing(&mut self, at: Indexes, context: &Context, out: &mut Vec<u8>) -> Framing {
        if let Some(framing) = self.framing {
            return framing;
        }
        let head = match self.kind {
            AnswerKind::Node(_) => self.key_head(200, at, context, out),
            AnswerKind::Migration { .. } => {
                // The moment of the document, for a download that goes on later.
                let mut head = self.head(200, TEXT, context, out);
                head.number("X-Etcd-Index", at.etcd.0);
                head
            }
            _ => self.head(200, TEXT, context, out),
        };
        let framing = head.stream();
        self.framing = Some(framing);
        framing
    }

    fn items(
        &mut self,
        items: &[ListItem],
        last: bool,
        at: Indexes,
        context: &Context,
        out: &mut Vec<u8>,
    ) {
        let now_ns = context.shown_ns;
        match &mut self.kind {
            AnswerKind::Migration { document, .. } => document.items(items, last, now_ns, out),
            AnswerKind::Node(tree) => {
                for item in items {
                    tree.item(item, now_ns, out);
                }
                if last {
                    tree.end(out);
                    json::raw(context.line_end(), out);
                }
            }
            AnswerKind::V1Get(listing) => listing.page(items, last, at.etcd.0, now_ns, out),
            _ => unreachable!("a page answers a read"),
        }
    }

    /// The end of the migration document, after its last page.
    pub(super) fn migrated(
        &mut self,
        rest: &Migrated,
        context: &Context,
        out: &mut Vec<u8>,
    ) -> Next {
        let AnswerKind::Migration { document, to_file } = &mut self.kind else {
            unreachable!("it answers a request for the document");
        };
        if *to_file {
            document.rest(rest, context.shown_ns, out);
            return Next::Save { raft: rest.raft.0 };
        }
        let framing = self.framing.expect("the key space came before the rest");
        let mut piece = Vec::new();
        document.rest(rest, context.shown_ns, &mut piece);
        if !piece.is_empty() {
            framing.chunk(&piece, out);
        }
        framing.end(out);
        Next::done(framing)
    }
}
