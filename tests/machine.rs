//! The machine driven by hand through its seam: what it promises, and when.
#[path = "machine/rig.rs"]
mod rig;

#[path = "machine/caretaker.rs"]
mod caretaker;
#[path = "machine/cluster.rs"]
mod cluster;
#[path = "machine/finder.rs"]
mod finder;
#[path = "machine/forward.rs"]
mod forward;
#[path = "machine/single.rs"]
mod single;
#[path = "machine/snapshots.rs"]
mod snapshots;
#[path = "machine/standby.rs"]
mod standby;
