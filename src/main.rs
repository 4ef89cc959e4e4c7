//! The tern binary: parses the configuration, binds the ports, opens the data directory and runs
//! the reactor. Everything else is in the library.
//!
//! Exit codes: 0 after SIGTERM or SIGINT, during the start too, `-h` and `-version`; 1 if tern cannot
//! start or go on.
mod allocator;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::flag;
use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tern::core::machine::{Machine, Recovered, Search};
use tern::core::public_id::PublicId;
use tern::core::timer::Now;
use tern::shell::clock::Clock;
use tern::shell::config::{self, Config, ProcessInputs, Start};
use tern::shell::disk::Disk;
use tern::shell::logger;
use tern::shell::reactor::{BoundPort, End, Reactor, check_tls};

fn main() -> ExitCode {
    let signals = StartSignals::catch();
    let (args, variables) = match read_arguments() {
        Ok(read) => read,
        Err(text) => return refuse(&text),
    };
    let inputs = ProcessInputs {
        args: &args,
        env: &|name| std::env::var(name).ok(),
        variables: &variables,
        read: &read_file,
        host_name: &host_name(),
        disk_bytes: &disk_bytes,
    };
    let config = match config::parse(&inputs) {
        Ok(Start::Run(config)) => config,
        Ok(Start::Print(text)) => {
            // A reader such as `head` may close the pipe before the end.
            let _ = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(usage) => return refuse(&usage.0),
    };
    allocator::set_thresholds(config.memory.bytes);
    logger::set_time(Clock::new().now().wall_ns);
    logger::start(config.verbosity, config.log_json);
    let code = match serve(&config, &signals) {
        Ok(End::Stopped) => ExitCode::SUCCESS,
        Ok(End::Aborted) => ExitCode::FAILURE,
        Ok(End::RestartAsFounder | End::ForceNewCluster) => {
            unreachable!("`serve` restarts the loop")
        }
        Ok(End::Failed(text)) => fail(&config, &text),
        Err(text) => fail(&config, &text),
    };
    logger::finish();
    code
}

/// The command line without the name of the program, and the names of all environment variables.
///
/// # Errors
///
/// A setting is not UTF-8; with a sentence for the user.
fn read_arguments() -> Result<(Vec<String>, Vec<String>), String> {
    let mut args = Vec::new();
    let mut variables = Vec::new();
    for arg in std::env::args_os().skip(1) {
        args.push(arg.into_string().map_err(not_utf8)?);
    }
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else {
            continue;
        };
        if name.starts_with("ETCD_") && value.to_str().is_none() {
            return Err(not_utf8(name.into()));
        }
        variables.push(name);
    }
    Ok((args, variables))
}

#[cold]
fn not_utf8(setting: OsString) -> String {
    format!("{}: expected UTF-8", setting.display())
}

/// Reports the fault of a setting.
fn refuse(text: &str) -> ExitCode {
    eprintln!("tern: {text}\ntern -h lists the flags");
    ExitCode::FAILURE
}

/// Reports why tern exits: as a log line if the log is JSON, otherwise on stderr. Never on both,
/// because stdout and stderr often go to the same place.
fn fail(config: &Config, text: &str) -> ExitCode {
    if config.log_json {
        log::error!("{text}");
    } else {
        eprintln!("tern: {text}");
    }
    ExitCode::FAILURE
}

/// The effect of signals before the reactor takes them.
///
/// Until then SIGTERM and SIGINT end the process with exit code 0. Nothing is lost: a start that is
/// cut off is like a crash, which the log survives. Without a handler a signal has no effect on the
/// first process of a container.
struct StartSignals {
    /// The process has not started: SIGTERM and SIGINT end it at once.
    is_starting: Arc<AtomicBool>,
}

impl StartSignals {
    /// Begins to catch signals.
    fn catch() -> StartSignals {
        let is_starting = Arc::new(AtomicBool::new(true));
        for signal in [SIGTERM, SIGINT] {
            let is_starting = is_starting.clone();
            // Fails only for signals that cannot be caught.
            let _ = flag::register_conditional_shutdown(signal, 0, is_starting);
        }
        // SIGXFSZ comes with the error of a write beyond the limit for files (`ulimit -f`), which is
        // handled as a full disk.
        for signal in [SIGHUP, SIGUSR1, SIGXFSZ] {
            let ignored = Arc::new(AtomicBool::new(false));
            let _ = flag::register(signal, ignored);
        }
        StartSignals { is_starting }
    }

    /// A start begins, perhaps not the first one.
    fn on_start(&self) {
        self.is_starting.store(true, Ordering::SeqCst);
    }

    /// The reactor takes the signals from now on.
    fn on_started(&self) {
        self.is_starting.store(false, Ordering::SeqCst);
    }
}

/// Runs until tern is stopped. Never returns `End::RestartAsFounder` or `End::ForceNewCluster`.
///
/// # Errors
///
/// tern cannot start; with a sentence for the user.
fn serve(config: &Config, signals: &StartSignals) -> Result<End, String> {
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    log::info!("{}", config.memory_line());
    let mut config = config.clone();
    let mut joins = config.names_a_cluster();
    loop {
        signals.on_start();
        let end = run(&config, joins, signals)?;
        // A signal counts while the next start is prepared, too.
        signals.on_start();
        // -f wipes once in the life of a process.
        config.force = false;
        match end {
            End::RestartAsFounder => {
                log::info!("this machine is the first of its cluster and founds it");
                joins = false;
            }
            End::ForceNewCluster => {
                Disk::force_new_cluster(&config, Clock::new().now())?;
                log::warn!(
                    "this machine goes on alone as the only member of a new cluster. Other machines \
                     join it with an empty data directory (-f) and -peers"
                );
                config.force_new_cluster = None;
            }
            end => return Ok(end),
        }
    }
}

/// Runs until tern is stopped, or must start again as the founder of a cluster, or as what is left
/// of a lost one. `joins`: whether a machine with an empty data directory joins a cluster. If not,
/// it founds one.
///
/// # Errors
///
/// tern cannot start; with a sentence for the user.
fn run(config: &Config, joins: bool, signals: &StartSignals) -> Result<End, String> {
    check_tls(config)?;
    // The ports come before the disk: a busy one is reported before the log is read, which may take long.
    let ports = [
        BoundPort::new(&config.bind_addr)?,
        BoundPort::new(&config.peer_bind_addr)?,
    ];
    let (disk, recovered) = Disk::open_to(config, joins)?;
    let reactor = reactor_of(config, ports, disk, recovered)?;
    signals.on_started();
    // By now the log that the disk held is applied, and released from memory if this machine is alone.
    Ok(reactor.run(allocator::give_back))
}

/// The loop of the machine that goes on from `recovered`. A function of its own: recovery does not
/// need the stack for a whole machine beneath it.
///
/// # Errors
///
/// tern cannot start; with a sentence for the user.
fn reactor_of(
    config: &Config,
    ports: [BoundPort; 2],
    mut disk: Disk,
    recovered: Recovered,
) -> Result<Box<Reactor>, String> {
    let clock = Clock::new();
    let machine = machine_of(config, &mut disk, recovered, clock.now())?;
    Reactor::new(config, ports, clock, disk, machine)
}

/// The machine that goes on from `recovered`.
///
/// # Errors
///
/// It cannot; with a sentence for the user.
fn machine_of(
    config: &Config,
    disk: &mut Disk,
    recovered: Recovered,
    now: Now,
) -> Result<Machine, String> {
    let settings = config.settings();
    let seed = tern::shell::disk::random()?;
    let search = Search {
        known: disk.take_peers(),
        ..config.search()
    };
    if let Some(info) = disk.take_standby() {
        return Ok(Machine::stand_by(
            settings, recovered, info, search, seed, now,
        ));
    }
    if recovered.id.is_none() && config.bootstrap {
        return Ok(Machine::await_others(settings, recovered, search, seed));
    }
    if recovered.id.is_none() {
        return Ok(Machine::find(settings, recovered, search, seed));
    }
    if forces_new_cluster(config, &recovered) {
        return Ok(Machine::force(settings, recovered, search, seed, now)?);
    }
    let mut machine = Machine::recover(settings, recovered, seed, now);
    machine.begin_place_checks(now, search)?;
    machine.remember_former_clusters(disk.former_clusters());
    Ok(machine)
}

/// Whether `-force-new-cluster` names the cluster of the data directory. If not, it has no effect,
/// so that it may stay on the command line.
fn forces_new_cluster(config: &Config, recovered: &Recovered) -> bool {
    let Some(lost) = config.force_new_cluster else {
        return false;
    };
    let snapshot = recovered
        .snapshot
        .as_ref()
        .filter(|_| recovered.id.is_some());
    let Some((meta, _)) = snapshot else {
        log::warn!("-force-new-cluster={lost} has no effect: -data-dir holds no data of a cluster");
        return false;
    };
    let id = PublicId::of_cluster(meta.cluster);
    if id != lost {
        log::warn!("-force-new-cluster={lost} has no effect: -data-dir is of the cluster {id}");
    }
    id == lost
}

/// The text of a configuration file; `None` if it does not exist.
fn read_file(path: &str) -> Result<Option<String>, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e.to_string()),
    }
}

/// The size of the file system that has the path, or will have it; `None` if it cannot be found out.
fn disk_bytes(path: &Path) -> Option<u64> {
    let absolute = std::path::absolute(path).ok()?;
    let mut existing = absolute.ancestors();
    let stat = existing.find_map(|path| rustix::fs::statvfs(path).ok())?;
    Some(stat.f_blocks.saturating_mul(stat.f_frsize))
}

/// The name of this host, the default of `-name`.
fn host_name() -> String {
    let uname = rustix::system::uname();
    uname.nodename().to_string_lossy().into_owned()
}
