//! The machine driven by hand through its seam: what it promises, and when.
mod rig;

mod caretaker;
mod cluster;
mod finder;
mod forward;
mod single;
mod snapshots;
mod standby;
