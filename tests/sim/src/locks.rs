//! Requests to the lock module, and what their answers prove. Start at [`LockWant`].
use super::cluster::World;
use super::truth::{Checked, violation};
use tern::core::cluster_time::Lease;
use tern::core::command::KeyPath;
use tern::core::machine::{Answer, LockOutcome, LockPlace, LockRequest, Op, Outcome};
use tern_support::rng::Rng;

/// A request to the lock module.
#[derive(Clone, Debug, PartialEq)]
pub struct LockWant {
    /// The number of the lock.
    lock: u64,
    /// The place: a client with the value of another one takes over its place.
    value: u64,
    act: LockAct,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum LockAct {
    Acquire {
        /// 0: until it is released.
        ttl_s: u64,
        timeout_s: Option<u64>,
    },
    Renew {
        ttl_s: u64,
    },
    Release,
    Show,
}

/// The ttl of the place of a waiter for a lock without a ttl, as README says.
const WAITER_TTL_S: u64 = 30;

impl LockWant {
    /// Draws a request. Most places have a short ttl, so that a lock is free again soon.
    pub fn draw(rng: &mut Rng) -> LockWant {
        let act = match rng.below(10) {
            0..5 => LockAct::Acquire {
                ttl_s: *rng.pick(&[0, 1, 1, 2, 3]),
                timeout_s: *rng.pick(&[None, Some(0), Some(1), Some(2)]),
            },
            5..8 => LockAct::Release,
            8 => LockAct::Renew {
                ttl_s: rng.range(1, 3),
            },
            _ => LockAct::Show,
        };
        LockWant {
            lock: rng.below(2),
            value: rng.below(4),
            act,
        }
    }

    fn directory(&self) -> String {
        format!("/_etcd/mod/lock/l{}", self.lock)
    }

    /// The same as a value for the core.
    pub fn op(&self) -> Op {
        let lock = KeyPath::new(&self.directory());
        let lease = |ttl_s: u64| (ttl_s > 0).then(|| Lease::of_seconds(ttl_s as i64));
        let place = LockPlace::Value(format!("c{}", self.value).into());
        Op::Lock(Box::new(match self.act {
            LockAct::Acquire { ttl_s, timeout_s } => {
                let wait_s = if ttl_s == 0 { WAITER_TTL_S } else { ttl_s };
                LockRequest::Acquire {
                    lock,
                    value: format!("c{}", self.value).into(),
                    lease: lease(ttl_s),
                    wait: Lease::of_seconds(wait_s as i64),
                    wait_us: wait_s * 1_000_000,
                    timeout_us: timeout_s.map(|seconds| seconds * 1_000_000),
                }
            }
            LockAct::Renew { ttl_s } => LockRequest::Renew {
                lock,
                place,
                lease: lease(ttl_s),
            },
            LockAct::Release => LockRequest::Release { lock, place },
            LockAct::Show => LockRequest::Show { lock },
        }))
    }

    /// Method, target and form of the same as a request.
    pub fn request(&self) -> (&'static str, String, Option<String>) {
        let target = format!("/mod/v2/lock/l{}", self.lock);
        let value = self.value;
        match self.act {
            LockAct::Acquire { ttl_s, timeout_s } => {
                let timeout = timeout_s.map_or(String::new(), |s| format!("&timeout={s}"));
                let form = format!("value=c{value}&ttl={ttl_s}{timeout}");
                ("POST", target, Some(form))
            }
            LockAct::Renew { ttl_s } => {
                ("PUT", target, Some(format!("value=c{value}&ttl={ttl_s}")))
            }
            LockAct::Release => ("DELETE", format!("{target}?value=c{value}"), None),
            LockAct::Show => ("GET", target, None),
        }
    }
}

/// Whether a response with this status and body says what the machine has answered.
pub fn says(outcome: &LockOutcome, status: u16, body: &[u8]) -> bool {
    let expected = match outcome {
        LockOutcome::Acquired { index } => index.to_string(),
        LockOutcome::Renewed | LockOutcome::Released | LockOutcome::Holder(None) => String::new(),
        LockOutcome::Holder(Some(holder)) => holder.value.to_string(),
        LockOutcome::NotAcquired | LockOutcome::TimedOut | LockOutcome::Lost => {
            return status == 500;
        }
        LockOutcome::Missing => return status == 404,
    };
    status == 200 && body == expected.as_bytes()
}

impl World {
    /// A place that holds the lock was created as it is named, and none is before it: places are
    /// added behind the existing ones only.
    pub fn check_lock(&mut self, slot: usize, want: &LockWant, answer: &Answer) -> Checked {
        let Outcome::Lock(outcome) = &answer.outcome else {
            return Ok(());
        };
        self.counts.locks += 1;
        let LockOutcome::Acquired { index } = *outcome else {
            return Ok(());
        };
        let directory = want.directory();
        let model = &self.truth.model;
        let created = model.event(index).map(|told| &*told.event.node.key);
        if created != Some(&*format!("{directory}/{index}")) {
            let text = format!("m{slot} says that place {index} of {directory} has the lock");
            return violation("lock-order", text);
        }
        let etcd = answer.at.etcd.0;
        let names = model.names_at(&directory, etcd);
        let first = names
            .iter()
            .filter_map(|name| name.parse::<u64>().ok())
            .min();
        if let Some(first) = first.filter(|first| *first < index) {
            let text = format!(
                "m{slot} says at {etcd} that place {index} of {directory} has the lock, before it is {first}"
            );
            return violation("lock-order", text);
        }
        Ok(())
    }
}
