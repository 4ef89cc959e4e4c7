//! Relations between key paths in text form: ancestry, order, depth.
//!
//! Pure functions. A path is clean, as `KeyPath` makes it: it starts with `/`, has no empty segment
//! and no trailing slash; the root is `/`.
use std::cmp::Ordering;

/// Whether `path` is a descendant of `top`.
pub fn is_below(path: &str, top: &str) -> bool {
    let top = top.strip_suffix('/').unwrap_or(top);
    path.len() > top.len() + 1 && path.as_bytes()[top.len()] == b'/' && path.starts_with(top)
}

/// Whether `path` is `top` or a descendant of it.
pub fn is_within(path: &str, top: &str) -> bool {
    path == top || is_below(path, top)
}

/// The number of segments in a path; 0 for the root.
pub fn depth_of(path: &str) -> u32 {
    if path == "/" {
        return 0;
    }
    path.bytes().filter(|byte| *byte == b'/').count() as u32
}

/// The byte offset of the last segment. For the root this is its end.
pub fn name_start(path: &str) -> usize {
    path.rfind('/').map_or(0, |slash| slash + 1)
}

/// The last segment; empty for the root.
pub fn name_of(path: &str) -> &str {
    &path[name_start(path)..]
}

/// The order of a depth-first traversal: segment by segment, so that the descendants of a directory
/// come before its next sibling. Plain byte order would put `/a-` between `/a` and `/a/b`.
pub fn traversal_order(a: &str, b: &str) -> Ordering {
    let rank = |byte: u8| if byte == b'/' { 0 } else { u16::from(byte) + 1 };
    a.bytes().map(rank).cmp(b.bytes().map(rank))
}

/// The ancestors of `key` from which `key` is visible, deepest first. A name that starts with `_`
/// is hidden from all directories above it, so the list ends there.
pub fn visible_ancestors(key: &str) -> impl Iterator<Item = &str> {
    let mut rest = if key == "/" { "" } else { key };
    std::iter::from_fn(move || {
        let (above, name) = rest.rsplit_once('/')?;
        if name.starts_with('_') {
            rest = "";
            return None;
        }
        rest = above;
        Some(if above.is_empty() { "/" } else { above })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ancestry_is_by_segments() {
        assert!(is_below("/a/b", "/a"));
        assert!(is_below("/a", "/"));
        assert!(!is_below("/", "/"));
        assert!(!is_below("/a", "/a"));
        assert!(!is_below("/ab", "/a"));
        assert!(!is_below("/a", "/a/b"));
        assert!(!is_below("/é", "/\u{c3}"));
    }

    #[test]
    fn descendants_come_before_the_next_sibling() {
        let mut paths = ["/b", "/a-", "/a/b", "/", "/a", "/a/b/c"];
        paths.sort_by(|a, b| traversal_order(a, b));
        assert_eq!(paths, ["/", "/a", "/a/b", "/a/b/c", "/a-", "/b"]);
    }

    #[test]
    fn a_hidden_name_ends_the_visible_ancestors() {
        let above = |key| visible_ancestors(key).collect::<Vec<_>>();
        assert_eq!(above("/a/b/c"), ["/a/b", "/a", "/"]);
        assert_eq!(above("/a/_b/c"), ["/a/_b"]);
        assert_eq!(above("/_a"), [] as [&str; 0]);
        assert_eq!(above("/"), [] as [&str; 0]);
    }

    #[test]
    fn the_last_segment_and_the_depth() {
        assert_eq!((name_of("/a/bc"), depth_of("/a/bc")), ("bc", 2));
        assert_eq!((name_of("/"), depth_of("/")), ("", 0));
    }
}
