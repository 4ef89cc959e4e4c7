//! Chunked bodies: an incremental decoder with bounds.
