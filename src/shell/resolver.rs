//! Host names to addresses, without holding up the loop.
//!
//! Numeric addresses need nobody. For a name a helper thread is started that owns nothing but the
//! name, asks the system, and wakes the poll; this is the one exception to the one thread. The last
//! good addresses stay in use when a later question fails or hangs. Start with `find`: who is told
//! to wait asks again after `collect` has said that there is news.
use mio::Waker;
use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Questions under way at once; each has a thread.
const ASKING_MAX: usize = 8;
/// How long an answer is believed before the name is asked for again.
const FRESH_US: u64 = 30_000_000;
/// How long a failure is believed.
const FAILED_US: u64 = 2_000_000;
/// Names remembered; a cluster has a few.
const NAMES_MAX: usize = 256;
/// `getaddrinfo` needs some, the default is 2 MiB.
const STACK_BYTES: usize = 512 * 1024;

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// At least one.
    Addresses(Vec<IpAddr>),
    /// It is being asked for.
    Wait,
    Failed(String),
}

#[derive(Default)]
struct Name {
    addresses: Vec<IpAddr>,
    failure: Option<String>,
    until_us: u64,
    asking: bool,
}

type Answer = (Box<str>, Result<Vec<IpAddr>, String>);

/// The names that were asked for.
pub struct Names {
    names: BTreeMap<Box<str>, Name>,
    asking: usize,
    waker: Arc<Waker>,
    sender: Sender<Answer>,
    answers: Receiver<Answer>,
}

impl Names {
    /// Nobody is asked yet; answers wake the poll of `waker`.
    pub fn new(waker: Waker) -> Names {
        let (sender, answers) = channel();
        Names {
            names: BTreeMap::new(),
            asking: 0,
            waker: Arc::new(waker),
            sender,
            answers,
        }
    }

    /// The addresses of a host, as far as they are known now.
    pub fn find(&mut self, host: &str, now_us: u64) -> Found {
        if let Ok(address) = host.parse() {
            return Found::Addresses(vec![address]);
        }
        if !self.names.contains_key(host) {
            self.forget_some();
            self.names.insert(host.into(), Name::default());
        }
        let name = self.names.get_mut(host).expect("just put there");
        if !name.asking && now_us >= name.until_us && self.asking < ASKING_MAX {
            match ask(host.into(), self.sender.clone(), self.waker.clone()) {
                Ok(()) => {
                    name.asking = true;
                    self.asking += 1;
                }
                Err(e) => name.failure = Some(format!("no thread to resolve it: {e}")),
            }
        }
        match &name.failure {
            _ if !name.addresses.is_empty() => Found::Addresses(name.addresses.clone()),
            Some(why) if !name.asking => Found::Failed(why.clone()),
            _ => Found::Wait,
        }
    }

    /// Takes what the threads have found; true when there was something.
    pub fn collect(&mut self, now_us: u64) -> bool {
        let mut news = false;
        while let Ok((host, answer)) = self.answers.try_recv() {
            news = true;
            self.asking -= 1;
            let Some(name) = self.names.get_mut(&host) else {
                continue;
            };
            name.asking = false;
            match answer {
                Ok(addresses) => {
                    name.addresses = addresses;
                    name.failure = None;
                    name.until_us = now_us + FRESH_US;
                }
                Err(why) => {
                    name.failure = Some(why);
                    name.until_us = now_us + FAILED_US;
                }
            }
        }
        news
    }

    /// Makes room for one more: a name that is not being asked for, the one believed the shortest.
    fn forget_some(&mut self) {
        if self.names.len() < NAMES_MAX {
            return;
        }
        let idle = self.names.iter().filter(|(_, n)| !n.asking);
        if let Some((host, _)) = idle.min_by_key(|(_, n)| n.until_us) {
            let host = host.clone();
            self.names.remove(&host);
        }
    }
}

fn ask(host: Box<str>, sender: Sender<Answer>, waker: Arc<Waker>) -> std::io::Result<()> {
    let builder = std::thread::Builder::new()
        .name("resolver".into())
        .stack_size(STACK_BYTES);
    let thread = builder.spawn(move || {
        let answer = resolve(&host);
        // A reactor that has ended wants no answer.
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
    match addresses.is_empty() {
        true => Err("it has no address".into()),
        false => Ok(addresses),
    }
}
