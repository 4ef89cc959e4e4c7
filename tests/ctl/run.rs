//! Runs ternctl and returns its output and its exit code. Start with [`run`].
use std::io::Write;
use std::process::{Child, Command, Output, Stdio};
use tern_support::server::Server;

/// A ternctl without settings from this environment.
pub fn ternctl(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ternctl"));
    for (name, _) in std::env::vars() {
        if ["TERNCTL_", "ETCDCTL_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// One that talks to this machine.
pub fn at(server: &Server, args: &[&str]) -> Command {
    let mut command = ternctl(args);
    command.env("TERNCTL_ENDPOINTS", url(server));
    command
}

/// The client URL of a machine.
pub fn url(server: &Server) -> String {
    format!("http://{}", server.client_at())
}

/// How a command has ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Ended {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Ended {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

impl Ended {
    /// The text on stdout of a command that must have succeeded.
    pub fn text(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self.stdout
    }

    /// The text on stderr of a command that must have failed with this exit code.
    pub fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{} {}", self.stdout, self.stderr);
        self.stderr
    }
}

/// Runs it to its end.
pub fn ended(mut command: Command) -> Ended {
    command.output().expect("ternctl starts").into()
}

/// Runs it to its end on this machine.
pub fn run(server: &Server, args: &[&str]) -> Ended {
    ended(at(server, args))
}

/// The same with a text on stdin.
pub fn run_with_input(server: &Server, args: &[&str], input: &str) -> Ended {
    let mut command = at(server, args);
    command.stdin(Stdio::piped());
    let mut child = started(command);
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    child.wait_with_output().expect("it ends").into()
}

/// Starts a command with pipes for its stdout and stderr.
pub fn started(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("ternctl starts")
}
