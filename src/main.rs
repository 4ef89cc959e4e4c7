//! The tern binary: parse the configuration, take the ports, open the data directory, run the
//! reactor, exit code.
//!
//! Everything else is in the library. Exit codes: 0 stopped as asked (or `-h`, `-version`), 1 could
//! not start or go on.
use std::process::ExitCode;
use tern::core::machine::{Machine, Search};
use tern::core::raft::PeerId;
use tern::shell::clock::Clock;
use tern::shell::config::{self, Config, Source, Start};
use tern::shell::disk::Disk;
use tern::shell::logger;
use tern::shell::reactor::{Bound, End, Reactor};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let source = Source {
        args: &args,
        env: &|name| std::env::var(name).ok(),
        read: &read,
        host_name: &host_name(),
    };
    let config = match config::parse(&source) {
        Ok(Start::Run(config)) => config,
        Ok(Start::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(usage) => {
            eprintln!("tern: {}\ntern -h lists the flags", usage.0);
            return ExitCode::FAILURE;
        }
    };
    logger::set_time(Clock::new().now().wall_ns);
    logger::start(config.verbosity, config.log_json);
    let code = match serve(&config) {
        Ok(End::Stopped) => ExitCode::SUCCESS,
        Ok(End::Aborted) => ExitCode::FAILURE,
        Ok(End::Found) => unreachable!("`serve` starts again"),
        Ok(End::Failed(text)) => say(&config, &text),
        Err(text) => say(&config, &text),
    };
    logger::finish();
    code
}

/// Says why it ends; once, for stdout and stderr often end in the same place.
fn say(config: &Config, text: &str) -> ExitCode {
    match config.log_json {
        true => log::error!("{text}"),
        false => eprintln!("tern: {text}"),
    }
    ExitCode::FAILURE
}

/// Runs until it is stopped. The error is a sentence for the user.
fn serve(config: &Config) -> Result<End, String> {
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    refuse_unserved(config)?;
    let mut config = config.clone();
    let mut joins = config.names_a_cluster();
    loop {
        match run(&config, joins)? {
            End::Found => {
                log::info!("this machine is the first of its cluster");
                joins = false;
            }
            end => return Ok(end),
        }
        // It was wiped once, at the first start.
        config.force = false;
    }
}

/// What is not there yet is not passed over in silence.
fn refuse_unserved(config: &Config) -> Result<(), String> {
    if config.trace {
        return Err("-trace is not in this version yet: there is no /debug/metrics".into());
    }
    Ok(())
}

/// Runs until it is stopped, or has to start anew.
fn run(config: &Config, joins: bool) -> Result<End, String> {
    // A busy port is said before the log is read, which may take a while.
    let ports = [
        Bound::new(&config.bind_addr)?,
        Bound::new(&config.peer_bind_addr)?,
    ];
    let (mut disk, recovered) = Disk::open_to(config, joins)?;
    let clock = Clock::new();
    let settings = config.settings();
    let seed = tern::shell::disk::random()?;
    let now = clock.now();
    let search = Search {
        known: disk.take_peers(),
        ..config.search()
    };
    let machine = if let Some(info) = disk.take_standby() {
        Machine::stand_by(settings, recovered, info, search, seed, now)
    } else if recovered.id == PeerId::NONE {
        Machine::find(settings, recovered, search, seed, now)
    } else {
        let mut machine = Machine::recover(settings, recovered, seed, now);
        machine.look_around(search);
        machine
    };
    let reactor = Reactor::new(config, ports, clock, disk, machine)?;
    Ok(reactor.run())
}

/// A file of the configuration, if there is one of that name.
fn read(path: &str) -> Result<Option<String>, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e.to_string()),
    }
}

fn host_name() -> String {
    let uname = rustix::system::uname();
    uname.nodename().to_string_lossy().into_owned()
}
