//! `bench`: how many requests a second the cluster serves, and how long they take, as a client sees
//! it.
//!
//! Each connection sends one request after the other. Writes go to the leader. The keys are removed
//! at the end. Start with [`bench`].
use crate::failure::Failure;
use crate::http::CtlRequest;
use crate::keys::{Parameters, key_target};
use crate::output::{OutputForm, print, print_line};
use crate::overview;
use crate::progress;
use crate::session::Session;
use crate::table::Table;
use clap::{Args, ValueEnum};
use std::sync::Mutex;
use std::thread;
use tern::shell::clock::{self, Clock};
use tern::shell::disk;
use ureq::http::Method;

/// How many keys each connection uses in turn.
const KEYS: u64 = 20;
/// How often the bar moves, in milliseconds.
const TICK_MS: u64 = 50;
const US_PER_S: f64 = 1e6;

#[derive(Debug, Args)]
#[command(after_help = "\
The figures are those of this client: ternctl takes more processor time for a request than tern does.
They tell how long a request takes here, over this line and on these disks, and whether it changes; they
do not tell what tern can serve at most.")]
pub struct BenchArguments {
    /// The operation of each request
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    mode: BenchMode,
    /// How many connections ask at once
    #[arg(long, short, value_name = "NUMBER", default_value_t = 16)]
    connections: u32,
    /// How long
    #[arg(long, short, value_name = "SECONDS", default_value_t = 5)]
    seconds: u32,
    /// The length of a value
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    value_bytes: usize,
}

/// The operation of each request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum BenchMode {
    /// Sets a key: on a majority of disks when it is answered
    #[default]
    Put,
    /// Reads a key
    Get,
    /// Reads a key from the leader, after it has proved that it leads
    Quorum,
}

/// State shared by all connections.
struct Bench<'a> {
    session: &'a Session,
    arguments: &'a BenchArguments,
    /// The directory of the keys.
    dir: String,
    /// The times of all requests so far, in microseconds.
    times_us: Mutex<Vec<u64>>,
}

/// `ternctl bench`
///
/// # Errors
///
/// A request failed.
pub fn bench(session: &Session, arguments: &BenchArguments) -> Result<(), Failure> {
    let session = at_leader(session);
    let number = disk::random().map_err(Failure::bad_arguments)?;
    let bench = Bench {
        session: &session,
        arguments,
        dir: format!("/ternctl-bench-{number:016x}"),
        times_us: Mutex::new(Vec::new()),
    };
    let result = bench.run();
    let target = format!("{}?recursive=true", key_target(&bench.dir));
    let removed = session.ask(&CtlRequest::new(Method::DELETE, target));
    let took_s = result?;
    removed?;
    let mut times_us = bench
        .times_us
        .into_inner()
        .expect("no thread panics with it");
    times_us.sort_unstable();
    report(session.output(), &times_us, took_s)
}

/// The session with the leader as its first endpoint, so that no request is redirected.
fn at_leader(session: &Session) -> Session {
    let mut urls = session.urls().to_vec();
    let document = overview::fetch(session).ok().map(|(document, _)| document);
    if let Some(leader) = document.and_then(|document| document.cluster.leader) {
        urls.retain(|url| *url != leader.client_url);
        urls.insert(0, leader.client_url);
    }
    session.with_urls(urls)
}

impl Bench<'_> {
    /// Runs all connections. Returns the seconds that they took.
    fn run(&self) -> Result<f64, Failure> {
        let connections = 0..self.arguments.connections.max(1);
        if self.arguments.mode != BenchMode::Put {
            connections
                .clone()
                .try_for_each(|number| self.fill(number))?;
        }
        let seconds = u64::from(self.arguments.seconds.max(1));
        let bar = progress::steps("bench", seconds);
        let clock = Clock::new();
        let start_us = clock.now().mono_us;
        let until_us = start_us + seconds * US_PER_S as u64;
        let result: Result<(), Failure> = thread::scope(|scope| {
            let workers: Vec<_> = connections
                .map(|number| scope.spawn(move || self.work(number, until_us)))
                .collect();
            while !workers.iter().all(|worker| worker.is_finished()) {
                clock::pause(TICK_MS);
                let left_us = until_us.saturating_sub(clock.now().mono_us);
                bar.set_position(seconds - (left_us / US_PER_S as u64).min(seconds));
            }
            let mut workers = workers.into_iter();
            workers.try_for_each(|worker| worker.join().expect("it does not panic"))
        });
        bar.finish_and_clear();
        result.map(|()| (clock.now().mono_us - start_us) as f64 / US_PER_S)
    }

    /// The path of a key of one connection.
    fn key(&self, connection: u32, n: u64) -> String {
        key_target(&format!("{}/{connection}-{}", self.dir, n % KEYS))
    }

    fn put(&self, connection: u32, n: u64, value: &str) -> CtlRequest {
        let form = Parameters::default().add("value", value).form();
        CtlRequest::new(Method::PUT, self.key(connection, n)).with_form(form)
    }

    /// Makes the keys that one connection reads.
    fn fill(&self, connection: u32) -> Result<(), Failure> {
        let value = "x".repeat(self.arguments.value_bytes);
        for n in 0..KEYS {
            self.session.ask(&self.put(connection, n, &value))?;
        }
        Ok(())
    }

    /// One connection, until a time in microseconds of the monotonic clock.
    fn work(&self, connection: u32, until_us: u64) -> Result<(), Failure> {
        let clock = Clock::new();
        let value = "x".repeat(self.arguments.value_bytes);
        let mut times_us = Vec::new();
        let mut n = 0;
        let mut start_us = clock.now().mono_us;
        while start_us < until_us {
            let key = || self.key(connection, n);
            let request = match self.arguments.mode {
                BenchMode::Put => self.put(connection, n, &value),
                BenchMode::Get => CtlRequest::get(key()),
                BenchMode::Quorum => CtlRequest::get(format!("{}?quorum=true", key())),
            };
            self.session.ask(&request)?;
            let end_us = clock.now().mono_us;
            times_us.push(end_us - start_us);
            start_us = end_us;
            n += 1;
        }
        let mut all = self.times_us.lock().expect("no thread panics with it");
        all.append(&mut times_us);
        Ok(())
    }
}

/// Prints the figures of times in ascending order.
fn report(form: OutputForm, times_us: &[u64], took_s: f64) -> Result<(), Failure> {
    let at = |share: f64| {
        let place = (times_us.len() as f64 * share) as usize;
        let time_us = times_us.get(place.min(times_us.len().saturating_sub(1)));
        time_us.copied().unwrap_or(0) as f64 / 1e3
    };
    let a_second = times_us.len() as f64 / took_s;
    let figures = [
        ("requests", times_us.len() as f64, 0),
        ("requests a second", a_second, 0),
        ("median, ms", at(0.5), 2),
        ("p99, ms", at(0.99), 2),
        ("longest, ms", at(1.0), 2),
    ];
    if form == OutputForm::Json {
        let fields = figures.map(|(name, value, _)| (name.to_string(), value.into()));
        let fields = serde_json::Map::from_iter(fields);
        return print_line(&serde_json::Value::Object(fields).to_string());
    }
    let mut table = Table::new(&["FIGURE", "VALUE"]);
    for (name, value, digits) in figures {
        table.row(vec![name.to_string(), format!("{value:.digits$}")]);
    }
    print(table.to_string())
}
