//! A GET of one file, the most frequent request, answered at once: without a copy of the key or the
//! value, a ticket, or a list of one node.
//!
//! Only if nothing but the file decides the answer. Everything else (parameters, HEAD, directories,
//! errors) goes the way of all requests, see `route`. The bytes of the answer are the same.
use super::cors::Cors;
use super::render::{AnswerKind, NodeTree, Shape, SharedValue};
use super::{Context, Port};
use crate::codec::http::form;
use crate::codec::http::{Method, Request};
use crate::core::command::KeyPath;
use crate::core::store::ViewRef;

/// Such a request.
pub struct FileGet<'a> {
    key: &'a str,
    shape: Shape,
}

impl<'a> FileGet<'a> {
    /// `None` if the request is another one. To be asked on a machine that answers itself.
    pub fn new(port: Port, request: &'a Request, context: &Context) -> Option<FileGet<'a>> {
        if port != Port::Client || request.method != Method::Get || request.query.is_some() {
            return None;
        }
        let key = request.path.strip_prefix("/v2/keys")?;
        // `.` and `..` are redirected, a directory has more to tell, long keys are refused.
        let is_ordinary = KeyPath::is_clean(key) && !key.contains("/.") && key != "/";
        if !is_ordinary || !form::key_fits(key) {
            return None;
        }
        let cors = Cors::of(request, context.site);
        let shape = Shape::new(AnswerKind::Node(NodeTree::nodes()), request, cors);
        Some(FileGet { key, shape })
    }

    /// The clean path of the file.
    pub fn key(&self) -> &'a str {
        self.key
    }

    /// Appends the answer; long values are left out as by `Shape::render_sharing`. Returns whether
    /// the connection stays open. `context.at` has the indexes of the answer.
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
