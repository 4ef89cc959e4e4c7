//! The fast path for the most frequent request, a plain GET of one file. It is answered at once:
//! key and value are not copied, and there is no ticket and no list of one node.
//!
//! A request with parameters, a HEAD, a directory or an error takes the normal path through
//! `route`. Both paths give the same bytes for a file.
use super::cors::Cors;
use super::render::{AnswerKind, NodeTree, Shape, SharedValue};
use super::{Context, Port, cleaned};
use crate::codec::http::form;
use crate::codec::http::{Method, Request};
use crate::core::store::ViewRef;

/// A plain GET of what may be a file. The store decides whether it is one.
pub struct FileGet<'a> {
    key: &'a str,
    shape: Shape,
}

impl<'a> FileGet<'a> {
    /// `None` if the request needs the normal path. Call it only on a machine that answers requests
    /// itself.
    pub fn new(port: Port, request: &'a Request, context: &Context) -> Option<FileGet<'a>> {
        if port != Port::Client || request.method != Method::Get || request.query.is_some() {
            return None;
        }
        let key = request.path.strip_prefix("/v2/keys")?;
        // The normal path redirects `.` and `..`, lists the root and refuses long keys.
        let is_ordinary = key.starts_with('/') && !key.ends_with('/');
        if !is_ordinary || cleaned(&request.path).is_some() || !form::key_fits(key) {
            return None;
        }
        let cors = Cors::of(request, context.settings);
        let shape = Shape::new(AnswerKind::Node(NodeTree::nodes(context)), request, cors);
        Some(FileGet { key, shape })
    }

    /// The clean path of the file.
    pub fn key(&self) -> &'a str {
        self.key
    }

    /// Appends the answer. Leaves a long value out, as `Shape::render_sharing` does. `context.at`
    /// must be the indexes of the read. Returns whether the connection stays open.
    pub fn render(
        &self,
        file: ViewRef,
        context: &Context,
        out: &mut Vec<u8>,
        shared: &mut Vec<SharedValue>,
    ) -> bool {
        self.shape.file(file, context, out, shared).keep_alive
    }
}
