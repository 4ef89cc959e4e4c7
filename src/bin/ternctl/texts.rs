//! Texts about ternctl itself: completion scripts and manual pages.
use crate::failure::{Failure, file_failed};
use crate::output::print;
use clap::{Args, Command};
use clap_complete::Shell;
use std::fs;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct CompletionArguments {
    /// The shell; for bash: ternctl completion bash > /etc/bash_completion.d/ternctl
    shell: Shell,
}

#[derive(Debug, Args)]
pub struct ManArguments {
    /// The folder for the pages, ternctl.1 and one for each command
    dir: PathBuf,
}

/// `ternctl completion`; `command` is the whole command line.
///
/// # Errors
///
/// stdout cannot be written to.
pub fn completion(mut command: Command, arguments: &CompletionArguments) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "ternctl", &mut text);
    print(text)
}

/// `ternctl man`; `command` is the whole command line.
///
/// # Errors
///
/// A page cannot be written.
pub fn man(command: Command, arguments: &ManArguments) -> Result<(), Failure> {
    let dir = &arguments.dir;
    fs::create_dir_all(dir).map_err(file_failed(dir.display()))?;
    clap_mangen::generate_to(command, dir).map_err(file_failed(dir.display()))
}
