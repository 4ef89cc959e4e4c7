//! Three machines with default settings on lines that lose or delay packets: the leader stays, writes
//! go on, and the log is quiet.
use std::time::Duration;
use tern_support::alone::alone;
use tern_support::line::Line;
use tern_support::lossy::{Figures, cluster, run};
use tern_support::namespace;
use tern_support::net::Net;
use tern_support::skip::{Need, lacks};

/// Clients that write.
const CLIENTS: usize = 8;
/// How long they write.
const DURATION: Duration = Duration::from_secs(20);
/// More lines than an episode for each pair of machines and an election need.
const LOG_LINES_MAX: usize = 20;

/// The figures on such a line. `None`: the test was run in its namespaces, or is skipped.
fn figures(line: Line) -> Option<Figures> {
    if !namespace::enter() || lacks(Need::Tun) {
        return None;
    }
    let _alone = alone();
    let mut net = Net::start(3);
    let servers = cluster(&mut net, &[]);
    let figures = run(&mut net, &servers, line, (CLIENTS, DURATION));
    assert!(figures.elections <= 1, "{figures:?}");
    assert!(figures.log_lines <= LOG_LINES_MAX, "{figures:?}");
    Some(figures)
}

#[test]
fn protocol_23_five_percent_loss_needs_no_tuning() {
    let line = Line {
        loss_percent: 5,
        ..Line::default()
    };
    if let Some(figures) = figures(line) {
        assert!(figures.writes >= 20 * CLIENTS, "{figures:?}");
    }
}

#[test]
fn protocol_23_a_round_trip_of_300_ms_needs_no_tuning() {
    let line = Line {
        round_trip: Duration::from_millis(300),
        ..Line::default()
    };
    if let Some(figures) = figures(line) {
        // One round trip and two syncs of 100 ms a write; half of that rate is enough.
        let most = DURATION.as_millis() as usize * CLIENTS / 500;
        assert!(figures.writes >= most / 2, "{figures:?}");
    }
}
