//! ternctl: the command-line client of tern. Reads and writes keys, watches them, shows and changes
//! the cluster, backs it up and restores it, makes certificates.
//!
//! ternctl stands outside the rings. It speaks HTTP through `ureq`. From the library it takes the
//! rules shared with the server: escapes of keys, the clock, the data directory that `restore`
//! makes. Each command has a file of its name. `session` holds the endpoints and the HTTP client of
//! all commands. Start with [`CtlCommand`] in `arguments`.
#![forbid(unsafe_code)]

mod arguments;
mod backup;
mod bench;
mod cluster;
mod document;
mod endpoints;
mod export;
mod failure;
mod http;
mod import;
mod json_pull;
mod json_tree;
mod keys;
mod member;
mod nodes;
mod output;
mod overview;
mod progress;
mod restore;
mod screen;
mod session;
mod shared_arguments;
mod source;
mod table;
mod texts;
mod tls;
mod top;
mod watch;
mod x509;

use arguments::{CtlArguments, CtlCommand};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use failure::{ExitReason, Failure};
use session::Session;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = match CtlArguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // A reader such as `head` may close the pipe before the end.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitReason::BadArguments.into(),
            };
        }
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(arguments: CtlArguments) -> Result<(), Failure> {
    let CtlArguments { shared, command } = arguments;
    match command {
        CtlCommand::Completion(args) => texts::completion(CtlArguments::command(), &args),
        CtlCommand::Man(args) => texts::man(CtlArguments::command(), &args),
        CtlCommand::Restore(args) => restore::restore(&args),
        CtlCommand::Tls(command) => tls::tls(&command),
        command => run_with_session(&Session::new(&shared)?, command),
    }
}

/// Runs a command that talks to a cluster.
fn run_with_session(session: &Session, command: CtlCommand) -> Result<(), Failure> {
    match command {
        CtlCommand::Get(args) => keys::get(session, &args),
        CtlCommand::Ls(args) => keys::ls(session, &args),
        CtlCommand::Set(args) => keys::set(session, args),
        CtlCommand::Mk(args) => keys::mk(session, args),
        CtlCommand::Mkdir(args) => keys::mkdir(session, &args),
        CtlCommand::Rm(args) => keys::rm(session, &args),
        CtlCommand::Rmdir(args) => keys::rmdir(session, &args),
        CtlCommand::Update(args) => keys::update(session, args),
        CtlCommand::Watch(args) => watch::watch(session, &args),
        CtlCommand::ExecWatch(args) => watch::exec_watch(session, &args),
        CtlCommand::Member(command) => member::member(session, &command),
        CtlCommand::Cluster(command) => cluster::cluster(session, &command),
        CtlCommand::Export(args) => export::export(session, &args),
        CtlCommand::Import(args) => import::import(session, &args),
        CtlCommand::Bench(args) => bench::bench(session, &args),
        CtlCommand::Top(args) => top::top(session, &args),
        CtlCommand::Backup(args) => backup::backup(session, &args),
        CtlCommand::Completion(_)
        | CtlCommand::Man(_)
        | CtlCommand::Restore(_)
        | CtlCommand::Tls(_) => {
            unreachable!("`run` handles commands that need no cluster")
        }
    }
}
