//! The simulator of tern's core: see README.md beside it. `main.rs` runs ranges of seeds,
//! `../tests/seeds.rs` a few in `cargo test`. Start reading at `run::run`, then `cluster`.
mod barred;
mod calls;
mod checks;
mod clients;
mod cluster;
mod copies;
mod counts;
mod cycles;
mod disk;
mod duties;
pub mod faults;
mod forcing;
mod founding;
mod healing;
mod http;
mod image;
pub mod ledger;
mod locks;
mod model;
mod nemesis;
mod net;
mod params;
mod promises;
mod queue;
mod reads;
pub mod run;
mod shown;
mod times;
mod trace;
mod truth;
mod views;
mod watch;
mod workload;
mod writes;

pub use cluster::Plant;
