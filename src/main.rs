//! The tern binary: parse the configuration, take the ports, open the data directory, run the reactor, exit code.
//!
//! Everything else is in the library. Exit codes: 0 stopped as asked (or `-h`, `-version`), 1 could not start or go on.
use std::process::ExitCode;
use tern::clock::Clock;
use tern::config::{self, Config, Source, Start};
use tern::disk::Disk;
use tern::logger;
use tern::machine::Machine;
use tern::reactor::{Bound, End, Reactor};

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
    let clock = Clock::new();
    logger::set_time(clock.now().wall_ns);
    logger::start(config.verbosity, config.log_json);
    let code = match serve(&config, clock) {
        Ok(End::Stopped) => ExitCode::SUCCESS,
        Ok(End::Aborted) => ExitCode::FAILURE,
        Err(text) => {
            // Once: stdout and stderr often end in the same place.
            match config.log_json {
                true => log::error!("{text}"),
                false => eprintln!("tern: {text}"),
            }
            ExitCode::FAILURE
        }
    };
    logger::finish();
    code
}

/// Runs until it is stopped. The error is a sentence for the user.
fn serve(config: &Config, clock: Clock) -> Result<End, String> {
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    // A busy port is said before the log is read, which may take a while.
    let ports = [
        Bound::new(&config.bind_addr)?,
        Bound::new(&config.peer_bind_addr)?,
    ];
    let (disk, recovered) = Disk::open(config)?;
    let machine = Machine::recover(config.settings(), recovered, random()?, clock.now());
    let reactor = Reactor::new(config, ports, clock, disk, machine)?;
    let [client, peer] = reactor.addresses().map_err(|e| e.to_string())?;
    let version = tern::VERSION;
    log::info!("tern: ready, version {version}, clients on {client}, peers on {peer}");
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
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

/// The seed of all that the machine draws.
fn random() -> Result<u64, String> {
    tern::disk::random().map_err(|e| format!("the system gives no random numbers: {e}"))
}
