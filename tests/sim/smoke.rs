//! The simulator's part in `cargo test`.
#[path = "linear_tests.rs"]
mod linear_tests;
#[path = "lib.rs"]
mod sim;
