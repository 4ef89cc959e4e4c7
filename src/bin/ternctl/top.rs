//! `top`: the cluster live in the terminal. Each round asks the leader for the members, and each
//! machine for its figures.
//!
//! Start with [`top`]; `screen` draws.
use crate::failure::Failure;
use crate::http::CtlRequest;
use crate::output::print;
use crate::overview;
use crate::screen::Screen;
use crate::session::Session;
use crate::table::Table;
use clap::Args;
use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;
use tern::codec::cluster_status::ClusterDocument;

#[derive(Debug, Args)]
pub struct TopArguments {
    /// How often to ask, in seconds
    #[arg(long, short, value_name = "SECONDS", default_value_t = 2.0)]
    delay: f64,
    /// End after so many rounds; the default is to go on until q or Ctrl-C
    #[arg(long, short, value_name = "NUMBER")]
    number: Option<u64>,
}

/// How many figures of a machine the table has.
const FIGURES: usize = 8;

/// The figures of one machine at one time.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sampled {
    /// When they arrived, in microseconds of the monotonic clock.
    at_us: u64,
    /// How long the machine took to answer, in microseconds.
    took_us: u64,
    /// All metrics by name. A metric with labels is the sum over its labels.
    figures: BTreeMap<String, f64>,
}

impl Sampled {
    fn figure(&self, name: &str) -> Option<f64> {
        self.figures.get(name).copied()
    }

    /// How much a counter has risen a second since an earlier sample.
    fn rate(&self, before: Option<&Sampled>, name: &str) -> Option<f64> {
        let before = before?;
        let seconds = (self.at_us.checked_sub(before.at_us)? as f64) / 1e6;
        let rise = self.figure(name)? - before.figure(name)?;
        // A machine that was started again counts from 0.
        (seconds > 0.0 && rise >= 0.0).then(|| rise / seconds)
    }

    /// The mean of a histogram since an earlier sample, in milliseconds.
    fn mean_ms(&self, before: Option<&Sampled>, name: &str) -> Option<f64> {
        let rise = |part: &str| {
            let name = format!("{name}_{part}");
            Some(self.figure(&name)? - before?.figure(&name)?)
        };
        let count = rise("count").filter(|count| *count > 0.0)?;
        Some(rise("sum")? / count * 1e3)
    }
}

/// `ternctl top`
///
/// # Errors
///
/// No endpoint answers in the first round, or stdout cannot be written to.
pub fn top(session: &Session, arguments: &TopArguments) -> Result<(), Failure> {
    let delay = Duration::try_from_secs_f64(arguments.delay.max(0.1));
    let delay = delay.map_err(|_| Failure::bad_arguments("--delay: expected seconds"))?;
    let mut samples = BTreeMap::new();
    let mut document = overview::fetch(session)?.0;
    let screen = Screen::open();
    let mut rounds = 0;
    loop {
        let mut note = None;
        match overview::fetch(session) {
            Ok((fetched, _)) => document = fetched,
            Err(failure) => note = Some(failure.to_string()),
        }
        let verdict = note.or_else(|| overview::verdict(&document));
        let fresh = sample_all(session, &document);
        let text = drawn(&document, &verdict, &samples, &fresh);
        screen.draw(&text)?;
        samples = fresh;
        rounds += 1;
        if arguments.number == Some(rounds) || screen.is_left_within(delay) {
            break;
        }
    }
    let text = screen.close();
    print(text)
}

/// Asks all machines at the same time. A machine that does not answer is left out.
fn sample_all(session: &Session, document: &ClusterDocument) -> BTreeMap<String, Sampled> {
    let members = document
        .cluster
        .members
        .iter()
        .map(|m| m.client_url.as_str());
    let standbys = document.cluster.standbys.iter();
    let standbys = standbys.filter_map(|standby| standby.client_url.as_deref());
    let urls: Vec<&str> = members
        .chain(standbys)
        .filter(|url| !url.is_empty())
        .collect();
    thread::scope(|scope| {
        let asked: Vec<_> = urls
            .iter()
            .map(|url| (*url, scope.spawn(|| sample(session, url))))
            .collect();
        let answers = asked.into_iter().filter_map(|(url, thread)| {
            let sampled = thread.join().expect("it does not panic")?;
            Some((url.to_string(), sampled))
        });
        answers.collect()
    })
}

fn sample(session: &Session, base: &str) -> Option<Sampled> {
    let start_us = session.clock().now().mono_us;
    let answer = session.call(base, &CtlRequest::get("/metrics")).ok()?;
    let at_us = session.clock().now().mono_us;
    (answer.status == 200).then(|| Sampled {
        at_us,
        took_us: at_us - start_us,
        figures: figures(&answer.text()),
    })
}

/// Reads Prometheus' text form. Samples of one name with different labels are added up.
fn figures(text: &str) -> BTreeMap<String, f64> {
    let mut figures = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name_end = line.find(['{', ' ']).unwrap_or(line.len());
        let value = line
            .rsplit(' ')
            .next()
            .and_then(|value| value.parse::<f64>().ok());
        if let Some(value) = value {
            *figures.entry(line[..name_end].to_string()).or_default() += value;
        }
    }
    figures
}

/// The text of one round.
fn drawn(
    document: &ClusterDocument,
    verdict: &Option<String>,
    before: &BTreeMap<String, Sampled>,
    fresh: &BTreeMap<String, Sampled>,
) -> String {
    let titles = [
        "NAME",
        "ROLE",
        "STATE",
        "LAG",
        "CONTACT",
        "REQ/S",
        "WRITES/S",
        "REQUEST",
        "SYNC",
        "ANSWERS IN",
        "CONNS",
        "WATCHERS",
        "MEMORY",
    ];
    let mut table = Table::new(&titles);
    let members = document.cluster.members.iter().map(|member| {
        let contact = member
            .last_contact_ms
            .map_or("-".to_string(), overview::duration);
        let lag = member.lag.map_or("-".to_string(), |lag| lag.to_string());
        let kind = member.kind.clone().unwrap_or_else(|| "member".to_string());
        let cells = vec![
            overview::label(member),
            kind,
            member.state.clone(),
            lag,
            contact,
        ];
        (cells, Some(member.client_url.as_str()))
    });
    let standbys = document.cluster.standbys.iter().map(|standby| {
        let contact = overview::duration(standby.last_fetch_ms);
        let dash = || "-".to_string();
        let cells = vec![
            standby.name.clone(),
            "standby".to_string(),
            dash(),
            dash(),
            contact,
        ];
        (cells, standby.client_url.as_deref())
    });
    for (mut cells, url) in members.chain(standbys) {
        let sampled = url.and_then(|url| fresh.get(url));
        let former = url.and_then(|url| before.get(url));
        cells.extend(figure_cells(sampled, former));
        table.row(cells);
    }
    let heading = overview::heading(document, verdict);
    let advice = match verdict {
        None => String::new(),
        Some(text) => format!("{text}\n"),
    };
    format!("{heading}\n{advice}\n{table}")
}

/// The cells of a machine's figures, `-` for each that is unknown.
fn figure_cells(sampled: Option<&Sampled>, before: Option<&Sampled>) -> Vec<String> {
    let Some(sampled) = sampled else {
        return vec!["-".to_string(); FIGURES];
    };
    let rate = |name: &str| sampled.rate(before, name).map(|rate| format!("{rate:.0}"));
    let count = |name: &str| sampled.figure(name).map(|figure| format!("{figure:.0}"));
    let mean = |name: &str| {
        let ms = sampled.mean_ms(before, name);
        ms.map(|ms| format!("{ms:.2}ms"))
    };
    let bytes = sampled.figure("process_resident_memory_bytes");
    let cells = [
        rate("tern_http_requests_total"),
        rate("tern_store_writes_total"),
        mean("tern_request_duration_seconds"),
        mean("tern_sync_duration_seconds"),
        Some(format!("{:.1}ms", sampled.took_us as f64 / 1e3)),
        count("tern_connections"),
        count("tern_watchers"),
        bytes.map(|bytes| format!("{:.1}MB", bytes / 1e6)),
    ];
    cells
        .map(|cell| cell.unwrap_or_else(|| "-".to_string()))
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_rises_by_time_and_never_negative() {
        let sampled = |at_us, text| Sampled {
            at_us,
            took_us: 1,
            figures: figures(text),
        };
        let before = sampled(
            1_000_000,
            "# HELP x y\nx{a=\"1 2\"} 5\nx{a=\"2\"} 5\nh_sum 1\nh_count 2\n",
        );
        let after = sampled(
            3_000_000,
            "x{a=\"1 2\"} 15\nx{a=\"2\"} 15\nh_sum 1.5\nh_count 7\n",
        );
        assert_eq!(after.rate(Some(&before), "x"), Some(10.0));
        assert_eq!(before.rate(Some(&after), "x"), None);
        assert_eq!(after.rate(None, "x"), None);
        assert_eq!(after.mean_ms(Some(&before), "h"), Some(100.0));
    }
}
