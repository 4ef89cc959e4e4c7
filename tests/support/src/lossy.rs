//! A cluster on lines that lose or delay packets: its elections, writes, gaps and log lines.
use crate::client::Conn;
use crate::fleet::{leader_of, put, shows, term};
use crate::line::Line;
use crate::net::Net;
use crate::server::Server;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a client waits for an answer before it counts as none. A request of the server's own
/// takes 5 s at most.
const PATIENCE: Duration = Duration::from_secs(8);

/// How long the lines have been as they are when the measurement begins: machines that find
/// themselves on other lines from one moment to the next may need an election.
const SETTLE: Duration = Duration::from_secs(3);

/// The figures of one run.
#[derive(Clone, Debug)]
pub struct Figures {
    /// By how much the term rose.
    pub elections: u64,
    /// How many writes were acknowledged.
    pub writes: usize,
    /// The longest time without an acknowledged write.
    pub gap: Duration,
    /// How many lines all machines together have logged, without those about saved snapshots.
    pub log_lines: usize,
    /// How long it took.
    pub took: Duration,
}

impl Figures {
    /// Acknowledged writes a second.
    pub fn rate(&self) -> f64 {
        self.writes as f64 / self.took.as_secs_f64()
    }
}

/// A cluster whose machines are joined by perfect lines so far, with a leader.
///
/// # Panics
/// If it does not come up.
pub fn cluster(net: &mut Net, args: &[&str]) -> Vec<Server> {
    net.set_line(Line::default());
    let servers = net.cluster(args);
    put(&servers, "first", "one");
    for server in &servers {
        shows(server, "first", "one");
    }
    servers
}

/// The lines change. A little later `clients` clients write for `duration`, each the next value when
/// the last one is acknowledged. A client asks another machine for the leader when it is refused.
pub fn run(
    net: &mut Net,
    servers: &[Server],
    line: Line,
    (clients, duration): (usize, Duration),
) -> Figures {
    net.set_line(line);
    std::thread::sleep(SETTLE);
    let leads = leader_of(servers);
    let before = term(&servers[leads]).expect("a leader answers");
    let lines_before = log_lines(servers);
    let start = Instant::now();
    let acknowledged = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for number in 0..clients {
            let acknowledged = &acknowledged;
            scope.spawn(move || {
                let mut writer = Writer {
                    servers,
                    at: leads,
                    conn: None,
                };
                while start.elapsed() < duration {
                    if writer.write(number) {
                        let mut times = acknowledged.lock().expect("no thread panics with it");
                        times.push(start.elapsed());
                    }
                }
            });
        }
    });
    let took = start.elapsed();
    let log_lines = log_lines(servers) - lines_before;
    let mut times = acknowledged.into_inner().expect("no thread has panicked");
    let writes = times.len();
    times.push(took);
    times.sort_unstable();
    let mut last = Duration::ZERO;
    let mut gap = Duration::ZERO;
    for time in times {
        gap = gap.max(time - last);
        last = time;
    }
    Figures {
        elections: highest_term(servers) - before,
        writes,
        gap,
        log_lines,
        took,
    }
}

fn highest_term(servers: &[Server]) -> u64 {
    let terms = servers.iter().filter_map(term);
    terms.max().expect("a machine answers")
}

fn log_lines(servers: &[Server]) -> usize {
    let count = |server: &Server| {
        let log = server.log();
        let lines = log
            .lines()
            .filter(|line| !line.contains("snapshot of index"));
        lines.count()
    };
    servers.iter().map(count).sum()
}

/// A client that writes.
struct Writer<'a> {
    servers: &'a [Server],
    /// The machine that it takes for the leader.
    at: usize,
    conn: Option<Conn>,
}

impl Writer<'_> {
    /// One write. Returns whether it was acknowledged.
    fn write(&mut self, number: usize) -> bool {
        let at = self.servers[self.at].client_at();
        let conn = self.conn.take().or_else(|| Conn::impatient(at, PATIENCE));
        let target = format!("/v2/keys/client{number}");
        let mut conn = conn.expect("the bridge is perfect");
        match conn.try_ask("PUT", &target, "value=x") {
            Some(answer) if answer.status() < 300 => {
                self.conn = Some(conn);
                return true;
            }
            Some(answer) if answer.status() == 307 => {
                let to = answer.head.header("Location").expect("a location");
                let named = |server: &Server| to.contains(&server.client_at().to_string());
                if let Some(place) = self.servers.iter().position(named) {
                    self.at = place;
                    return false;
                }
            }
            Some(_) | None => {}
        }
        self.at = (self.at + 1) % self.servers.len();
        std::thread::sleep(Duration::from_millis(20));
        false
    }
}
