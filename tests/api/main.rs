//! The interface without a machine: requests routed, answers rendered.
//!
//! `recorded` holds them against the recorded answers, `shapes` against what no recording shows:
//! pages, streams, limits, parameters.
#[allow(dead_code)]
#[path = "../blackbox/client.rs"]
mod client;
#[allow(dead_code)]
#[path = "../blackbox/record.rs"]
mod record;
mod recorded;
mod shapes;
