//! A request to the lock module as a sequence of ordinary operations on the key space.
//!
//! A lock is a directory. Each request for it creates a file there, its *place*, which is named in
//! order by the etcd index. The place with the lowest index holds the lock. Any other place waits
//! for the removal of the place before it, so that a release wakes one waiter.
//!
//! - Places are only added behind the existing ones. So a state that shows no place before the own
//!   one proves that none will come, however old the state is. The renewal that follows proves that
//!   the own place still exists, and starts the ttl of the holder.
//! - A waiting place has a ttl of its own and is renewed every third of it. Renewals are refreshes:
//!   they wake no watcher.
//! - A request that ends without the lock removes its place, unless a later request with the same
//!   value has taken it over: that one has renewed it since. A place that cannot be removed expires.
//!
//! One operation is under way at a time; its outcome decides the next one. Must not know tickets,
//! raft or the store. Start with [`Conversation::on_outcome`].
use crate::core::cluster_time::Lease;
use crate::core::command::{Command, KeyPath, Naming};
use crate::core::error::{Code, Error, OUTCOME_UNKNOWN};
use crate::core::seam::{LockHolder, LockOutcome, LockPlace, LockRequest, Op, Outcome};
use crate::core::store::{EtcdIndex, Event, ListItem};
use crate::core::timer::Now;
use std::sync::Arc;

/// How often a waiting place is renewed within its ttl. Two renewals may fail.
const RENEWALS_A_TTL: u64 = 3;

/// The next step after an outcome of an operation.
#[derive(Debug, PartialEq)]
pub enum Reaction {
    /// This operation comes next.
    Ask(Op),
    /// The operation is still under way.
    Wait,
    /// The conversation is over. The outcome is the answer to the client.
    Done(Outcome),
}

/// A request to the lock module.
#[derive(Debug)]
pub struct Conversation {
    request: LockRequest,
    step: LockStep,
    /// Its own place, once it has one. Only an acquisition has.
    place: Option<OwnPlace>,
    /// Until when it waits for the lock, in microseconds of the monotonic clock; `None`: without
    /// limit.
    due_us: Option<u64>,
    /// When its place is to be renewed, in microseconds of the monotonic clock.
    renew_us: u64,
    /// The client has closed its connection: the place is removed as soon as the write under way
    /// has ended.
    is_abandoned: bool,
}

/// The operation under way.
#[derive(Debug)]
enum LockStep {
    /// Lists the places, to find one by its value, or the first one.
    Find(Places),
    /// Creates the own place.
    Create,
    /// Lists the places, to find the one before the own one.
    List(Places),
    /// Waits for the removal of the place before the own one.
    Watch(Predecessor),
    /// Renews the own place while it waits; `None`: the place before it is not known yet.
    Renew(Option<Predecessor>),
    /// Renews the own place, which has none before it.
    Confirm,
    /// Removes the own place. The outcome is the answer then.
    Leave(Outcome),
    /// Renews or removes a place on request. The outcome is the answer then.
    Write(LockOutcome),
}

/// The own place.
#[derive(Clone, Copy, Debug)]
struct OwnPlace {
    index: u64,
    /// The etcd index of the last change by this conversation.
    modified: EtcdIndex,
}

/// The place before the own one.
#[derive(Clone, Copy, Debug)]
struct Predecessor {
    index: u64,
    /// The etcd index at which it was there.
    seen: EtcdIndex,
}

/// The findings of a listing of the places so far.
#[derive(Debug, Default)]
struct Places {
    /// The etcd index of the listing; `None` before its first page.
    seen: Option<EtcdIndex>,
    first: Option<LockHolder>,
    /// The first place with the wanted value.
    with_value: Option<OwnPlace>,
    /// The index of the last place before the own one.
    before: Option<u64>,
    has_own: bool,
}

impl Places {
    fn add(&mut self, item: &ListItem, wanted: Option<&str>, own: Option<u64>) {
        let Some((index, value)) = place_of(item) else {
            return;
        };
        if self.first.as_ref().is_none_or(|first| index < first.index) {
            let value = value.clone();
            self.first = Some(LockHolder { index, value });
        }
        let is_earlier = self.with_value.is_none_or(|found| index < found.index);
        if wanted == Some(&**value) && is_earlier {
            let modified = item.view.modified;
            self.with_value = Some(OwnPlace { index, modified });
        }
        let Some(own) = own else {
            return;
        };
        self.has_own |= index == own;
        if index < own {
            self.before = self.before.max(Some(index));
        }
    }
}

/// The index and the value of a place. Other nodes in the directory of a lock are none.
fn place_of(item: &ListItem) -> Option<(u64, &Arc<str>)> {
    let value = item.view.value.as_ref().filter(|_| item.depth == 1)?;
    Some((index_of(&item.view.key)?, value))
}

/// The index that names a place.
fn index_of(key: &str) -> Option<u64> {
    let (_, name) = key.rsplit_once('/')?;
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
    name.parse().ok().filter(|_| is_number)
}

fn path_of(lock: &KeyPath, index: u64) -> KeyPath {
    KeyPath::new(&format!("{}/{index}", lock.as_str()))
}

impl Conversation {
    /// Begins a conversation. Returns it with its first operation.
    pub fn start(now: Now, request: LockRequest) -> (Conversation, Op) {
        let timeout_us = match &request {
            LockRequest::Acquire { timeout_us, .. } => *timeout_us,
            _ => None,
        };
        let mut conversation = Conversation {
            request,
            step: LockStep::Create,
            place: None,
            due_us: timeout_us.map(|timeout_us| now.mono_us.saturating_add(timeout_us)),
            renew_us: now.mono_us,
            is_abandoned: false,
        };
        let op = conversation.first_op();
        (conversation, op)
    }

    fn first_op(&mut self) -> Op {
        match &self.request {
            LockRequest::Acquire { value, .. } if value.is_empty() => self.create(),
            LockRequest::Renew {
                place: LockPlace::Index(index),
                ..
            }
            | LockRequest::Release {
                place: LockPlace::Index(index),
                ..
            } => self.write(*index),
            LockRequest::Show { .. } => self.find(false),
            // A former request with the value may have been answered by another machine.
            LockRequest::Acquire { .. }
            | LockRequest::Renew { .. }
            | LockRequest::Release { .. } => self.find(true),
        }
    }

    // -- inputs

    /// The operation under way has an outcome, or a part of one. `at` is the etcd index of it.
    pub fn on_outcome(&mut self, now: Now, outcome: Outcome, at: EtcdIndex) -> Reaction {
        match outcome {
            Outcome::Page { items, last } => self.on_page(now, &items, last, at),
            Outcome::Event(event) => self.on_event(now, &event),
            Outcome::Watching => Reaction::Wait,
            Outcome::Backlog { .. } | Outcome::WatchEnd => Reaction::Ask(self.list()),
            Outcome::WatchTimedOut => self.on_watch_timeout(now),
            failure => self.on_failure(now, failure),
        }
    }

    /// The client has closed its connection. Returns the next operation if the one under way is a
    /// read, which the caller has to cancel; a write is waited for.
    pub fn on_client_closed(&mut self) -> Option<Reaction> {
        self.is_abandoned = true;
        match self.step {
            LockStep::Find(_) | LockStep::List(_) | LockStep::Watch(_) => Some(self.abandon()),
            LockStep::Create
            | LockStep::Renew(_)
            | LockStep::Confirm
            | LockStep::Leave(_)
            | LockStep::Write(_) => None,
        }
    }

    fn on_page(&mut self, now: Now, items: &[ListItem], last: bool, at: EtcdIndex) -> Reaction {
        let wanted = match &self.request {
            LockRequest::Acquire { value, .. } => Some(&**value),
            LockRequest::Renew { place, .. } | LockRequest::Release { place, .. } => match place {
                LockPlace::Value(value) => Some(&**value),
                LockPlace::Index(_) => None,
            },
            LockRequest::Show { .. } => None,
        };
        let own = self.place.map(|place| place.index);
        let (LockStep::Find(places) | LockStep::List(places)) = &mut self.step else {
            return Reaction::Wait;
        };
        places.seen.get_or_insert(at);
        for item in items {
            places.add(item, wanted, own);
        }
        if !last {
            return Reaction::Ask(Op::ContinueListing);
        }
        let places = std::mem::take(places);
        match self.step {
            LockStep::Find(_) => self.on_found(places),
            _ => self.on_listed(now, &places),
        }
    }

    /// The places are known, in search of one.
    fn on_found(&mut self, places: Places) -> Reaction {
        if let LockRequest::Show { .. } = self.request {
            return done(LockOutcome::Holder(places.first));
        }
        let Some(found) = places.with_value else {
            return self.on_none_found();
        };
        if let LockRequest::Acquire { .. } = self.request {
            self.place = Some(found);
            let is_first = places.first.is_some_and(|first| first.index == found.index);
            if is_first {
                return Reaction::Ask(self.confirm());
            }
            // The renewal makes this conversation the owner of the place.
            return Reaction::Ask(self.renew(None));
        }
        Reaction::Ask(self.write(found.index))
    }

    fn on_none_found(&mut self) -> Reaction {
        match self.request {
            LockRequest::Acquire { .. } => Reaction::Ask(self.create()),
            _ => done(LockOutcome::Missing),
        }
    }

    /// The places are known, and so is the one before the own one.
    fn on_listed(&mut self, now: Now, places: &Places) -> Reaction {
        if !places.has_own {
            return done(LockOutcome::Lost);
        }
        let (Some(index), Some(seen)) = (places.before, places.seen) else {
            return Reaction::Ask(self.confirm());
        };
        self.wait(now, Predecessor { index, seen })
    }

    /// A write of this conversation was applied.
    fn on_event(&mut self, now: Now, event: &Event) -> Reaction {
        if let LockStep::Create | LockStep::Renew(_) | LockStep::Confirm = self.step {
            let Some(index) = index_of(&event.node.key) else {
                // The event of another write.
                let error = Error::new(Code::RaftInternal, OUTCOME_UNKNOWN);
                return self.on_failure(now, Outcome::Failed(error));
            };
            self.place = Some(OwnPlace {
                index,
                modified: event.node.modified,
            });
            self.renew_us = now.mono_us + self.renewal_us();
            if self.is_abandoned {
                return self.abandon();
            }
        }
        match &self.step {
            LockStep::Renew(Some(before)) => self.wait(now, *before),
            LockStep::Confirm => match self.place {
                Some(OwnPlace { index, .. }) => done(LockOutcome::Acquired { index }),
                None => Reaction::Wait,
            },
            LockStep::Leave(outcome) => Reaction::Done(outcome.clone()),
            LockStep::Write(outcome) => done(outcome.clone()),
            _ => Reaction::Ask(self.list()),
        }
    }

    fn on_watch_timeout(&mut self, now: Now) -> Reaction {
        let LockStep::Watch(before) = self.step else {
            return Reaction::Wait;
        };
        if self.is_due(now) {
            return self.leave(Outcome::Lock(LockOutcome::TimedOut));
        }
        Reaction::Ask(self.renew(Some(before)))
    }

    /// The operation under way has failed.
    fn on_failure(&mut self, now: Now, failure: Outcome) -> Reaction {
        let is_error = |code| matches!(&failure, Outcome::Failed(error) if error.code == code);
        let is_missing = is_error(Code::KeyNotFound);
        // A client has put a file in place of a directory above it.
        let is_gone = is_missing || is_error(Code::NotADirectory);
        if self.is_abandoned {
            let leaves = matches!(self.step, LockStep::Leave(_));
            return if leaves || is_missing {
                Reaction::Done(failure)
            } else {
                self.abandon()
            };
        }
        match &self.step {
            LockStep::Find(_) if is_missing && self.request.is_write() => self.on_none_found(),
            LockStep::List(_) | LockStep::Renew(_) | LockStep::Confirm if is_gone => {
                done(LockOutcome::Lost)
            }
            // The history no longer reaches back to the listing, or the listing was given up.
            LockStep::Watch(_) | LockStep::List(_) | LockStep::Renew(None) => {
                Reaction::Ask(self.list())
            }
            LockStep::Renew(Some(before)) => {
                let before = *before;
                self.renew_us = now.mono_us + self.renewal_us();
                self.wait(now, before)
            }
            LockStep::Confirm => self.leave(failure),
            LockStep::Leave(outcome) => Reaction::Done(outcome.clone()),
            LockStep::Find(_) | LockStep::Create | LockStep::Write(_) => Reaction::Done(failure),
        }
    }

    // -- operations

    fn find(&mut self, linearizable: bool) -> Op {
        self.step = LockStep::Find(Places::default());
        Op::Get {
            path: self.request.lock().clone(),
            recursive: false,
            linearizable,
        }
    }

    fn create(&mut self) -> Op {
        self.step = LockStep::Create;
        let LockRequest::Acquire {
            lock, value, wait, ..
        } = &self.request
        else {
            unreachable!("only an acquisition has a place of its own");
        };
        Op::Write(Command::Create {
            path: lock.clone(),
            value: Some(value.clone()),
            lease: Some(*wait),
            naming: Naming::InOrder,
        })
    }

    fn list(&mut self) -> Op {
        self.step = LockStep::List(Places::default());
        Op::Get {
            path: self.request.lock().clone(),
            recursive: false,
            linearizable: false,
        }
    }

    /// Waits for the removal of the place before the own one, until the renewal or the end of the
    /// time to wait.
    fn wait(&mut self, now: Now, before: Predecessor) -> Reaction {
        if self.is_due(now) {
            let is_patient = matches!(
                self.request,
                LockRequest::Acquire {
                    timeout_us: Some(1..),
                    ..
                }
            );
            return self.leave(Outcome::Lock(if is_patient {
                LockOutcome::TimedOut
            } else {
                LockOutcome::NotAcquired
            }));
        }
        self.step = LockStep::Watch(before);
        let until_us = self
            .due_us
            .map_or(self.renew_us, |due_us| due_us.min(self.renew_us));
        Reaction::Ask(Op::Watch {
            path: path_of(self.request.lock(), before.index),
            recursive: false,
            stream: false,
            since: Some(before.seen.0 + 1),
            on_leader: false,
            timeout_us: Some(until_us.saturating_sub(now.mono_us)),
        })
    }

    fn renew(&mut self, before: Option<Predecessor>) -> Op {
        self.step = LockStep::Renew(before);
        self.renewal()
    }

    fn confirm(&mut self) -> Op {
        self.step = LockStep::Confirm;
        self.renewal()
    }

    /// Renews the own place: with the ttl of the lock once it is held, else with that of a waiter.
    fn renewal(&self) -> Op {
        let LockRequest::Acquire {
            lock, lease, wait, ..
        } = &self.request
        else {
            unreachable!("only an acquisition has a place of its own");
        };
        let place = self.place.expect("it is renewed once it is there");
        let lease = match self.step {
            LockStep::Confirm => *lease,
            _ => Some(*wait),
        };
        refresh(path_of(lock, place.index), lease)
    }

    /// Renews or removes the place `index`, as the request says.
    fn write(&mut self, index: u64) -> Op {
        let path = path_of(self.request.lock(), index);
        if let LockRequest::Renew { lease, .. } = self.request {
            self.step = LockStep::Write(LockOutcome::Renewed);
            return refresh(path, lease);
        }
        self.step = LockStep::Write(LockOutcome::Released);
        Op::Write(Command::Delete {
            path,
            dir: false,
            recursive: false,
        })
    }

    /// Removes the own place unless it was taken over, and then ends with `outcome`.
    fn leave(&mut self, outcome: Outcome) -> Reaction {
        let Some(place) = self.place else {
            return Reaction::Done(outcome);
        };
        self.step = LockStep::Leave(outcome);
        Reaction::Ask(Op::Write(Command::CompareAndDelete {
            path: path_of(self.request.lock(), place.index),
            prev_value: None,
            prev_index: Some(place.modified.0),
        }))
    }

    /// The client is gone.
    fn abandon(&mut self) -> Reaction {
        self.leave(Outcome::WatchEnd)
    }

    // -- state

    /// Whether the client is gone, so that the answer is not to be sent.
    pub fn is_abandoned(&self) -> bool {
        self.is_abandoned
    }

    fn is_due(&self, now: Now) -> bool {
        self.due_us.is_some_and(|due_us| now.mono_us >= due_us)
    }

    /// The time between two renewals of the own place, in microseconds.
    fn renewal_us(&self) -> u64 {
        match self.request {
            LockRequest::Acquire { wait_us, .. } => wait_us / RENEWALS_A_TTL,
            _ => 0,
        }
    }
}

fn refresh(path: KeyPath, lease: Option<Lease>) -> Op {
    Op::Write(Command::Update {
        path,
        value: None,
        lease,
        refresh: true,
    })
}

fn done(outcome: LockOutcome) -> Reaction {
    Reaction::Done(Outcome::Lock(outcome))
}
