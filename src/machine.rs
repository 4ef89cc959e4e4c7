//! This machine: finding the cluster, peer mode, standby mode, switching between them.
//!
//! `Machine` is the core as one value. The shell gives it inputs (`on_…`), asks for one batch of outputs (`advance`)
//! and carries them out; `seam` holds the types of both directions.
pub mod seam;

pub use seam::*;
