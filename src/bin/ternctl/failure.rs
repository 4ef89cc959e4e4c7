//! How a command fails: a sentence for the user, and the exit code of the process.
//!
//! The codes up to 5 are the exit codes of etcd's etcdctl for v2. Start with [`ExitReason`].
use std::fmt;
use std::io;
use std::process::ExitCode;

/// The exit codes, as `ternctl --help` lists them.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    success
  1    an argument, a file or a setting is wrong; nothing was sent
  2    no endpoint could be reached, or none answered
  3    TLS: the server's certificate or ours was refused
  4    refused: the key is missing or exists, a condition failed, a parameter is wrong
  5    the cluster cannot serve the request now (no leader, disk full), or is not healthy
  6    a write was sent and got no answer: it may have happened or not; read before you repeat it
  7    the data is not what it should be: a backup is damaged or cut short
  130  interrupted";

/// Why the process ends with a code other than 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// An argument, a file or a setting is wrong.
    BadArguments = 1,
    /// No endpoint could be reached, or none answered.
    Unreachable = 2,
    /// A TLS handshake failed.
    TlsRefused = 3,
    /// The server refused the request: it would be refused again.
    Refused = 4,
    /// The cluster cannot serve the request at present.
    Unavailable = 5,
    /// A write was sent, and its answer did not arrive.
    OutcomeUnknown = 6,
    /// Data failed its check.
    DamagedData = 7,
}

impl From<ExitReason> for ExitCode {
    fn from(reason: ExitReason) -> ExitCode {
        ExitCode::from(reason as u8)
    }
}

/// A command that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    reason: ExitReason,
    /// The fault and the next step for the user; without a full stop.
    text: String,
}

impl Failure {
    /// A failure with its sentence.
    pub fn new(reason: ExitReason, text: impl Into<String>) -> Failure {
        Failure {
            reason,
            text: text.into(),
        }
    }

    /// A wrong argument, file or setting.
    pub fn bad_arguments(text: impl Into<String>) -> Failure {
        Failure::new(ExitReason::BadArguments, text)
    }

    /// The exit code.
    pub fn reason(&self) -> ExitReason {
        self.reason
    }

    /// Prints the sentence to stderr. Returns the exit code.
    pub fn report(&self) -> ExitCode {
        eprintln!("ternctl: {}", self.text);
        self.reason.into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Makes a failure of the error of a file or a pipe. `what` names the file.
pub fn file_failed(what: impl fmt::Display) -> impl FnOnce(io::Error) -> Failure {
    move |error| {
        let text = match error.kind() {
            io::ErrorKind::NotFound => format!("{what}: there is no such file or folder"),
            _ => format!("cannot read or write {what}: {error}"),
        };
        Failure::bad_arguments(text)
    }
}
