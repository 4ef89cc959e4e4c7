//! Requests to the lock module, and their outcomes. Start with [`LockRequest`].
use crate::core::cluster_time::Lease;
use crate::core::command::KeyPath;
use std::sync::Arc;

/// A request to the lock module. `lock` is the directory of the lock.
#[derive(Clone, Debug, PartialEq)]
pub enum LockRequest {
    /// Queue for the lock, and wait until it is held. Answer: [`LockOutcome::Acquired`],
    /// `NotAcquired`, `TimedOut` or `Lost`.
    Acquire {
        /// The lock.
        lock: KeyPath,
        /// The value of the place in the queue. A place with the same value is taken over, unless
        /// the value is empty.
        value: Arc<str>,
        /// How long the lock lasts without being renewed, once it is held; `None`: until it is
        /// released.
        lease: Option<Lease>,
        /// The same for the place while it waits. The conversation renews it.
        wait: Lease,
        /// The same as `wait`, in microseconds.
        wait_us: u64,
        /// The longest time to wait, in microseconds; `None`: without limit.
        timeout_us: Option<u64>,
    },
    /// Let a place last longer. Answer: [`LockOutcome::Renewed`] or `Missing`.
    Renew {
        /// The lock.
        lock: KeyPath,
        /// The place.
        place: LockPlace,
        /// How long it lasts from now on; `None`: until it is released.
        lease: Option<Lease>,
    },
    /// Give a place up. Answer: [`LockOutcome::Released`] or `Missing`.
    Release {
        /// The lock.
        lock: KeyPath,
        /// The place.
        place: LockPlace,
    },
    /// Name the holder, from the state of this machine. Answer: [`LockOutcome::Holder`].
    Show {
        /// The lock.
        lock: KeyPath,
    },
}

impl LockRequest {
    /// The directory of the lock.
    pub fn lock(&self) -> &KeyPath {
        match self {
            LockRequest::Acquire { lock, .. }
            | LockRequest::Renew { lock, .. }
            | LockRequest::Release { lock, .. }
            | LockRequest::Show { lock } => lock,
        }
    }

    /// Whether it changes the lock, so that the leader is needed.
    pub fn is_write(&self) -> bool {
        !matches!(self, LockRequest::Show { .. })
    }
}

/// How a request names a place in the queue of a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockPlace {
    /// By the index that its acquisition was answered with.
    Index(u64),
    /// By its value. Of several places the first one is meant.
    Value(Arc<str>),
}

/// The outcome of a request to the lock module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockOutcome {
    /// The lock is held.
    Acquired {
        /// Names the place until it is released.
        index: u64,
    },
    /// Another place holds the lock, and the request was not to wait.
    NotAcquired,
    /// The time to wait is over.
    TimedOut,
    /// The place was removed while it waited.
    Lost,
    /// The place lasts longer.
    Renewed,
    /// The place is removed.
    Released,
    /// No place has the value.
    Missing,
    /// The first place of the queue; `None` if the queue is empty.
    Holder(Option<LockHolder>),
}

/// The place that holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockHolder {
    /// Its index.
    pub index: u64,
    /// Its value.
    pub value: Arc<str>,
}
