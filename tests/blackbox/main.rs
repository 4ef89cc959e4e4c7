//! The built binary over real sockets.
//!
//! `server` starts it on free ports with a directory of its own and ends it by its id; `client`
//! speaks HTTP byte by byte, so that it can send what no library would; `fleet` has what concerns
//! many machines, `net` gives each a network namespace. `conformance` replays the recorded answers
//! of etcd 0.4.9; `keys`, `watch` and `framing` ask what no recording shows; `restart` kills it
//! under load; `start` gives it bad flags and bad directories; `disk` fills its disk, `powercut`
//! takes the power away, `slow` has slow ones. Of clusters: `cluster` and `members` start them,
//! `outage` kills machines, `partition` cuts the network between them, `histories` has what clients
//! were told meanwhile checked, `endurance` takes its time; `standby` has more machines than there
//! is room for, `cycles` and `switches` send them away and take them in again. `rounds` is a script
//! that runs all of these many times.
mod client;
mod cluster;
mod conformance;
mod cycles;
mod disk;
mod endurance;
mod fleet;
mod forward;
mod framing;
mod histories;
mod keys;
mod limits;
#[allow(dead_code)]
#[path = "../sim/linear.rs"]
mod linear;
mod members;
mod net;
mod observers;
mod outage;
mod partition;
mod powercut;
mod record;
mod restart;
#[allow(dead_code)]
#[path = "../sim/rng.rs"]
mod rng;
mod server;
mod slow;
mod snapshots;
mod standby;
mod start;
mod switches;
mod watch;
