//! Resolves host names to IP addresses without blocking the loop.
//!
//! A numeric address is returned as it is. For a name, a thread asks the system and wakes the poll;
//! it owns nothing but the name. If a later lookup fails or hangs, the last good addresses stay in
//! use. Start with `lookup`: after `HostLookup::Pending` the caller asks again once `collect` has
//! returned true.
use mio::Waker;
use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Most lookups under way at a time. Each has a thread.
const LOOKUPS_MAX: usize = 8;
/// How long addresses are used before the name is looked up again, in microseconds.
const FRESH_US: u64 = 30_000_000;
/// How long after a failed lookup the name is not looked up again, in microseconds. Nor is it after
/// any lookup if a connection has failed since.
const FAILED_US: u64 = 2_000_000;
/// Most names in the cache. A cluster has a few.
const NAMES_MAX: usize = 256;
/// The stack of a thread, in bytes. Enough for `getaddrinfo`; the default is 2 MiB.
const STACK_BYTES: usize = 512 * 1024;

/// The state of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostLookup {
    /// The addresses of the host, at least one.
    Addresses(Vec<IpAddr>),
    /// The system has not answered yet.
    Pending,
    /// The last lookup has failed; with the reason.
    Failed(String),
}

/// The cache entry of a name.
#[derive(Default)]
struct CachedName {
    /// The addresses of the last lookup that succeeded; empty before.
    addresses: Vec<IpAddr>,
    /// Why the last lookup failed; `None` if it succeeded.
    failure: Option<String>,
    /// When the last lookup ended, in microseconds of the monotonic clock; `None` before.
    looked_up_us: Option<u64>,
    /// A connection to one of the addresses has failed since the last lookup.
    is_doubted: bool,
    /// A thread is looking it up.
    is_pending: bool,
}

impl CachedName {
    /// The name is not looked up again before this time, in microseconds of the monotonic clock.
    fn fresh_until_us(&self) -> u64 {
        let is_good = self.failure.is_none() && !self.is_doubted;
        let fresh_us = if is_good { FRESH_US } else { FAILED_US };
        self.looked_up_us.map_or(0, |at_us| at_us + fresh_us)
    }
}

/// The answer of a thread: the name, and its addresses or the reason of the failure.
type Resolved = (Box<str>, Result<Vec<IpAddr>, String>);

/// The cache of host names, and the lookups under way.
pub struct Resolver {
    /// At most `NAMES_MAX`.
    names: BTreeMap<Box<str>, CachedName>,
    /// How many threads are running; at most `LOOKUPS_MAX`.
    pending: usize,
    /// Wakes the poll when a thread has sent its answer.
    waker: Arc<Waker>,
    sender: Sender<Resolved>,
    answers: Receiver<Resolved>,
}

impl Resolver {
    /// A resolver without any names, whose threads wake the poll of `waker`.
    pub fn new(waker: Arc<Waker>) -> Resolver {
        let (sender, answers) = channel();
        Resolver {
            names: BTreeMap::new(),
            pending: 0,
            waker,
            sender,
            answers,
        }
    }

    /// The addresses of a host, if they are cached. Starts a lookup if one is due. `now_us` is in
    /// microseconds of the monotonic clock.
    pub fn lookup(&mut self, host: &str, now_us: u64) -> HostLookup {
        if let Ok(address) = host.parse() {
            return HostLookup::Addresses(vec![address]);
        }
        if !self.names.contains_key(host) {
            self.make_room();
            self.names.insert(host.into(), CachedName::default());
        }
        let name = self.names.get_mut(host).expect("it was just inserted");
        if !name.is_pending && now_us >= name.fresh_until_us() && self.pending < LOOKUPS_MAX {
            match start_lookup(host.into(), self.sender.clone(), self.waker.clone()) {
                Ok(()) => {
                    name.is_pending = true;
                    self.pending += 1;
                }
                Err(e) => name.failure = Some(format!("no thread to resolve it: {e}")),
            }
        }
        if !name.addresses.is_empty() {
            return HostLookup::Addresses(name.addresses.clone());
        }
        match &name.failure {
            Some(why) if !name.is_pending => HostLookup::Failed(why.clone()),
            _ => HostLookup::Pending,
        }
    }

    /// No connection could be made to the host, or another machine was there: its addresses may have
    /// changed. The next `lookup` looks the name up again.
    pub fn doubt(&mut self, host: &str) {
        if let Some(name) = self.names.get_mut(host) {
            name.is_doubted = true;
        }
    }

    /// Stores the answers of the threads in the cache. Returns whether there were any.
    pub fn collect(&mut self, now_us: u64) -> bool {
        let mut has_answers = false;
        while let Ok((host, answer)) = self.answers.try_recv() {
            has_answers = true;
            self.pending -= 1;
            let Some(name) = self.names.get_mut(&host) else {
                continue;
            };
            name.is_pending = false;
            name.is_doubted = false;
            name.looked_up_us = Some(now_us);
            match answer {
                Ok(addresses) => {
                    name.addresses = addresses;
                    name.failure = None;
                }
                Err(why) => name.failure = Some(why),
            }
        }
        has_answers
    }

    /// Makes room for one more name: removes the name whose lookup is due first. Names that are
    /// being looked up stay.
    fn make_room(&mut self) {
        if self.names.len() < NAMES_MAX {
            return;
        }
        let idle = self.names.iter().filter(|(_, name)| !name.is_pending);
        if let Some((host, _)) = idle.min_by_key(|(_, name)| name.fresh_until_us()) {
            let host = host.clone();
            self.names.remove(&host);
        }
    }
}

/// Starts a thread that looks `host` up and sends the answer.
fn start_lookup(
    host: Box<str>,
    sender: Sender<Resolved>,
    waker: Arc<Waker>,
) -> std::io::Result<()> {
    let builder = std::thread::Builder::new()
        .name("resolver".into())
        .stack_size(STACK_BYTES);
    let thread = builder.spawn(move || {
        let answer = resolve(&host);
        // Sending fails once the reactor has ended. Then the answer is of no use.
        if sender.send((host, answer)).is_ok() {
            let _ = waker.wake();
        }
    });
    thread.map(drop)
}

fn resolve(host: &str) -> Result<Vec<IpAddr>, String> {
    let found = (host, 0).to_socket_addrs().map_err(|e| e.to_string())?;
    let mut addresses = Vec::new();
    for address in found {
        if !addresses.contains(&address.ip()) {
            addresses.push(address.ip());
        }
    }
    if addresses.is_empty() {
        return Err("the name has no address".into());
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Poll, Token};

    /// Waits for the answers of the threads.
    fn answers(resolver: &mut Resolver, now_us: u64) {
        while resolver.pending > 0 {
            std::thread::yield_now();
            resolver.collect(now_us);
        }
    }

    #[test]
    fn a_name_is_looked_up_again_after_a_failed_connection() {
        let poll = Poll::new().expect("a poll");
        let waker = Waker::new(poll.registry(), Token(0)).expect("a waker");
        let mut resolver = Resolver::new(Arc::new(waker));
        assert_eq!(resolver.lookup("localhost", 0), HostLookup::Pending);
        answers(&mut resolver, 0);
        let is_known = |found| matches!(found, HostLookup::Addresses(_));
        assert!(is_known(resolver.lookup("localhost", FAILED_US)));
        assert_eq!(resolver.pending, 0, "it is fresh");
        resolver.doubt("localhost");
        assert!(is_known(resolver.lookup("localhost", FAILED_US - 1)));
        assert_eq!(
            resolver.pending, 0,
            "not more often than after a failed lookup"
        );
        assert!(is_known(resolver.lookup("localhost", FAILED_US)));
        assert_eq!(resolver.pending, 1);
        answers(&mut resolver, FAILED_US);
        assert!(is_known(resolver.lookup("localhost", 2 * FAILED_US)));
        assert_eq!(resolver.pending, 0, "the new answer is believed");
    }
}
