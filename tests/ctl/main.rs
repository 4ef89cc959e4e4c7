//! ternctl against real machines.
//!
//! - `run` starts ternctl; `cutter` breaks its connections; `tern-support` has the machines.
//! - `keys` and `watch` test the commands for keys, `endpoints` how a machine is found and every exit
//!   code, `members` those for the cluster, `backup` backups and what is restored from them, `moving`
//!   import and export, `tls` certificates, `overview`
//!   status and top, `units` the units of systemd.
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
