//! The codecs without a machine: requests routed, answers rendered, frames cut and joined.
//!
//! `recorded` compares answers with the recorded ones, `shapes` checks what no recording shows:
//! pages, streams, limits, parameters. `long_values` is about answers without copies. `frames` is
//! what travels between peers. `waits` and `forwarded` are about watches: those with a limit, and those
//! that a standby passes on.
mod cluster_id;
mod forwarded;
mod frames;
mod long_values;
mod recorded;
mod shapes;
mod waits;
