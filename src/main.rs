//! The tern binary: parse the configuration, open the data directory, run the reactor, exit code.
fn main() {}
