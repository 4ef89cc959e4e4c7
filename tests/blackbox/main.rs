//! The built binary over real sockets.
//!
//! The crate `tern-support` has the client, a tern process (`server`), many of them (`fleet`) and
//! the networks between them (`net`).
//!
//! - Answers: `conformance` replays the recorded answers of etcd 0.4.9, `conformance_2x` those of
//!   etcd 3.4; `keys`, `watch` and `framing` test the rest of the interface, `metrics` the figures,
//!   `overview` the view of the cluster, `dashboard` the page, `prometheus` scrapes and alerts.
//! - Clients: `limits` and `fairness` have clients whose load could slow down other clients; `tls`
//!   has both ports over TLS.
//! - One process: `signals` sends signals, `restart` kills it under load, `service` runs it as
//!   systemd does; `start` gives it bad flags and bad directories, `damage` damaged ones; `device`
//!   gives it little memory.
//! - Disks: `disk` fills the disk of one machine, `full_disks` the disks of a cluster; `powercut`
//!   takes the power away, `slow` has slow disks, `snapshots` damages snapshot files.
//! - Clusters: `cluster`, `bootstrap` and `members` start them, `members_api` changes them as
//!   clients of etcd 2.x do, `identity` moves and copies machines; `forward` and `locks` have
//!   clients of followers, `forwarded_watches` those of standbys.
//! - Faults of clusters: `peers` breaks their links, `lossy` loses and delays their packets,
//!   `partition` cuts the network between them, `outage` kills machines, `forcing` most of them for
//!   good. Meanwhile `histories` checks the answers to clients and `observers` the events.
//!   `endurance` takes its time.
//! - Standbys: `standby` has more machines than there is room for, `cycles` and `switches` remove
//!   them and take them in again.
//!
//! `rounds` is a script that runs all of these many times.
mod bootstrap;
mod cluster;
mod conformance;
mod conformance_2x;
mod cycles;
mod damage;
mod dashboard;
mod device;
mod disk;
mod endurance;
mod fairness;
mod forcing;
mod forward;
mod forwarded_watches;
mod framing;
mod full_disks;
mod histories;
mod identity;
mod keys;
mod limits;
mod locks;
mod lossy;
mod members;
mod members_api;
mod metrics;
mod observers;
mod outage;
mod overview;
mod partition;
mod peers;
mod powercut;
mod prometheus;
mod restart;
mod service;
mod signals;
mod slow;
mod snapshots;
mod standby;
mod start;
mod switches;
#[cfg(feature = "tls")]
mod tls;
mod watch;
