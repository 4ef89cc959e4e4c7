//! The machine driven by hand through its seam: what it promises, and when.
//!
//! `rig` is a shell of a few lines round it, `seeker` one that looks for its cluster, `stand` a
//! standby.
mod admin;
mod barred;
mod caretaker;
mod claims;
mod cluster;
mod discovery;
mod failover;
mod finder;
mod forcing;
mod forward;
mod forward_once;
mod held;
mod links;
mod listings;
mod locks;
mod lookout;
mod memory;
mod odd_requests;
mod patience;
mod reads;
mod rig;
mod roll_call;
mod room;
mod seeker;
mod single;
mod snapshots;
mod stand;
mod standby;
mod store_full;
mod time;
