//! Messages of a faulty member: well-formed, mutated and replayed ones of every kind.
//!
//! An episode starts one machine or three from disks of a real cluster, lets a faulty member send
//! some hundred messages amid the traffic of the others, and checks after each one that no machine
//! panics, wipes its data or ends. Then the link of the faulty member is closed, and the others
//! must take writes again within two seconds and come back from their disks. Raft does not tolerate
//! every lie: `World::is_broken` names those after which writes need not resume.
//!
//! ```text
//! TERN_FUZZ_MESSAGES=10000000 cargo test --profile sim --test fuzz
//! TERN_FUZZ_SEED=42 TERN_FUZZ_MESSAGES=1 cargo test --test fuzz three   # that episode again
//! ```
mod allocator;
mod bodies;
mod episodes;
mod host;
mod messages;
mod world;
