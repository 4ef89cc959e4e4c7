//! The timer wheel's script language: one command a line, what it leads to beneath it, indented.
//!
//! `at T` starts a wheel at that time; `schedule NAME T`, `cancel NAME`, `advance T`. Each answers
//! with what fired or came back, and with the next deadline. Times are microseconds and may be
//! written `1_000`.
use std::collections::BTreeMap;
use std::fmt::Write;
use tern::core::timer::{TimerHandle, TimerWheel};

/// The script again, with the outcome of each command beneath it in place of whatever stood there.
pub fn run(script: &str) -> String {
    let mut bench = Bench {
        wheel: TimerWheel::new(),
        handles: BTreeMap::new(),
    };
    let mut told = String::new();
    for line in script.lines().filter(|l| !l.starts_with(' ')) {
        told.push_str(line);
        told.push('\n');
        if !line.is_empty() && !line.starts_with('#') {
            let outcome = bench.command(line);
            writeln!(told, "  {outcome}").expect("a string takes all");
        }
    }
    told
}

struct Bench {
    wheel: TimerWheel<String>,
    handles: BTreeMap<String, TimerHandle>,
}

impl Bench {
    fn command(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let outcome = match words[..] {
            ["at", time] => {
                self.wheel = TimerWheel::new();
                self.wheel.advance(parse(time), &mut Vec::new());
                String::from("started")
            }
            ["schedule", name, time] => {
                let handle = self.wheel.schedule(parse(time), name.to_string());
                self.handles.insert(name.to_string(), handle);
                String::from("scheduled")
            }
            ["cancel", name] => match self.wheel.cancel(self.handles[name]) {
                Some(payload) => format!("cancelled {payload}"),
                None => String::from("nothing to cancel"),
            },
            ["advance", time] => {
                let mut fired = Vec::new();
                self.wheel.advance(parse(time), &mut fired);
                format!("fired [{}]", fired.join(" "))
            }
            _ => panic!("no such command: {line}"),
        };
        match self.wheel.next_deadline() {
            None => format!("{outcome}; nothing waits"),
            Some(next_us) => format!("{outcome}; {} wait, next at {next_us}", self.wheel.len()),
        }
    }
}

fn parse(time: &str) -> u64 {
    time.replace('_', "").parse().expect("a time")
}
