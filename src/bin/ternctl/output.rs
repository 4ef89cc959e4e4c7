//! The output on stdout: text, tables and JSON.
//!
//! A reader that closes its end early (`ternctl ls | head`) is no failure. Texts of failures go to
//! stderr and are no part of this file. Start with [`print`].
use crate::failure::{Failure, file_failed};
use clap::ValueEnum;
use std::io::{self, ErrorKind, Write};

/// The form of answers on stdout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputForm {
    /// One value or one line for each thing, for scripts.
    #[default]
    Simple,
    /// A table with titles, for people.
    Table,
    /// JSON: for keys the server's own answer.
    Json,
}

/// Writes to stdout at once.
///
/// # Errors
///
/// The write failed. A closed pipe ends the process with success: its reader needs no more output.
pub fn print(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_ref()).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        written => written.map_err(file_failed("stdout")),
    }
}

/// [`print`], with a line break at the end.
///
/// # Errors
///
/// As [`print`].
pub fn print_line(text: &str) -> Result<(), Failure> {
    print(format!("{text}\n"))
}

/// Prints JSON as one line, whether or not the server ended it with a line break.
///
/// # Errors
///
/// As [`print`].
pub fn print_json(json: &[u8]) -> Result<(), Failure> {
    print([json.trim_ascii_end(), b"\n"].concat())
}
