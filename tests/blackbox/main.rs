//! The built binary over real sockets.
//!
//! The crate `tern-support` has the client, a tern process (`server`), many of them (`fleet`) and the
//! networks between them (`net`). `conformance` replays the recorded answers of etcd 0.4.9,
//! `conformance_2x` those of etcd 3.4; `keys`, `watch` and `framing` test what no recording shows;
//! `fairness` has clients that cost the others; `tls` has both ports over TLS; `signals` sends
//! signals; `restart` kills it under load; `start` gives it bad flags and bad directories, `damage`
//! damaged ones; `disk` fills the disk of one machine, `full_disks` those of a cluster; `powercut`
//! takes the power away, `slow` has slow ones. Of clusters: `cluster` and `members` start them,
//! `members_api` changes them as clients of etcd 2.x do, `identity` moves and copies machines,
//! `peers` breaks their links, `outage` kills machines, `forcing` most of them for good, `partition`
//! cuts the network between them, `histories` checks what clients were answered meanwhile, `endurance` takes its time;
//! `standby` has more machines than there is room for, `cycles` and `switches` remove them and take
//! them in again. `rounds` is a script that runs all of these many times.
mod bootstrap;
mod cluster;
mod conformance;
mod conformance_2x;
mod cycles;
mod damage;
mod device;
mod disk;
mod endurance;
mod fairness;
mod forcing;
mod forward;
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
mod partition;
mod peers;
mod powercut;
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
