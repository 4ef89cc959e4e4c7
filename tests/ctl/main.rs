//! ternctl against real machines.
//!
//! - `run` starts ternctl; `cutter` breaks its connections; `tern-support` has the machines.
//! - Commands: `keys`, `watch`, `members`, `backup` (with `restore`), `moving` (`import` and
//!   `export`), `tls`, `overview` (`cluster status`, `top` and `bench`).
//! - All commands: `endpoints` tests the choice of a machine and every exit code.
//! - `units` checks the units of systemd.
mod backup;
mod cutter;
mod endpoints;
mod keys;
mod members;
mod moving;
mod overview;
mod run;
mod tls;
mod units;
mod watch;
