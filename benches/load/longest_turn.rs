//! The longest turn of a machine's loop, by its own report. Start with [`longest_turn`].
use rustix::process::Signal;
use tern_support::client::until;
use tern_support::server::Server;

/// The longest turn of the loop since the last call, in microseconds of processor time, and its
/// phases if the machine runs with `-v`.
pub fn longest_turn(server: &Server) -> (u64, String) {
    let reports = |log: &str| log.matches("the longest turn since").count();
    let before = reports(&server.log());
    server.signal(Signal::USR1);
    let log = until("it reports", || {
        let log = server.log();
        (reports(&log) > before).then_some(log)
    });
    let text = log.rsplit("last report took ").next().expect("a report");
    let line = text.lines().next().expect("a line");
    let (number, phases) = line.split_once(" us").expect("microseconds");
    let phases = phases.trim_start_matches(", of it ").to_string();
    (number.parse().expect("microseconds"), phases)
}
