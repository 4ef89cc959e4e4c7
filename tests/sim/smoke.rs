//! The simulator's part in `cargo test`.
#[path = "linear.rs"]
mod linear;
#[path = "linear_tests.rs"]
mod linear_tests;
#[path = "rng.rs"]
mod rng;
