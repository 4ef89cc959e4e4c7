//! The shell in which the commands of a document run: one `bash` from the first block to the last,
//! in an empty directory, with the binaries under test first in its `PATH`.
//!
//! A reader looks again when an answer is not there yet. So a command that only reads, or that the
//! cluster has refused for lack of a leader, is repeated for a while until its output is the shown
//! one. After a command that starts a machine, the session waits for `tern: ready` in the machine's
//! log. Start with [`Session::run_console`].
use crate::blocks;
use std::fs;
use std::io::{BufRead, BufReader, Write};

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tern_support::binary;

/// How long a command may take, and how long its answer is awaited.
const DEADLINE: Duration = Duration::from_secs(120);
/// The pause before a command is repeated.
const PAUSE: Duration = Duration::from_millis(200);
/// Ends the output of a command; the exit code follows.
const END: &str = "@@ended@@ ";

/// The directory of the commands, below that of the session.
const DESK: &str = "desk";

/// A running shell.
pub struct Session {
    home: tempfile::TempDir,
    shell: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

/// The output of a command, without the shell's notes about jobs, and its exit code.
struct Printed {
    lines: Vec<String>,
    code: i32,
}

impl Session {
    /// Starts the shell, with the binaries under test.
    pub fn start() -> Session {
        let home = tempfile::tempdir().expect("a directory");
        let bin = home.path().join("bin");
        fs::create_dir(&bin).expect("a directory");
        let tern = binary();
        for name in ["tern", "ternctl"] {
            let built = tern.with_file_name(name);
            if built.exists() {
                std::os::unix::fs::symlink(built, bin.join(name)).expect("a link");
            }
        }
        let path = std::env::var("PATH").expect("a PATH");
        let mut command = Command::new("bash");
        command.env("PATH", format!("{}:{path}", bin.display()));
        command.env("HOME", home.path());
        command.current_dir(home.path());
        Session::with(home, command)
    }

    /// Starts the shell of another root directory, which has its own binaries.
    pub fn start_in(root: &Path) -> Session {
        let home = tempfile::tempdir_in(root.join("tmp")).expect("a directory");
        let inside = Path::new("/").join(home.path().strip_prefix(root).expect("it is below"));
        let script = format!("cd {} && exec bash \"$@\"", inside.display());
        let mut command = Command::new("chroot");
        command.arg(root).args(["sh", "-c", &script, "sh"]);
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", inside);
        Session::with(home, command)
    }

    fn with(home: tempfile::TempDir, mut command: Command) -> Session {
        fs::create_dir(home.path().join(DESK)).expect("a directory");
        // Output that goes to no terminal would come with a meter.
        fs::write(home.path().join(".curlrc"), "silent\nshow-error\n").expect("written");
        let settings = ["ETCD_", "TERN_"];
        for (name, _) in std::env::vars() {
            if settings.iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.args(["--noprofile", "--norc"]).env("LC_ALL", "C");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = command.spawn().expect("bash starts");
        let stdout = shell.stdout.take().expect("it is piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let stdin = shell.stdin.take();
        let mut session = Session {
            home,
            shell,
            stdin,
            lines,
        };
        session.write(&format!("cd {DESK}; exec 2>&1"));
        session.write("trap 'kill -9 $(jobs -p) 2> /dev/null' EXIT");
        session
    }

    /// Runs the lines as one script.
    ///
    /// # Errors
    ///
    /// It fails, or a machine that it starts does not get ready.
    pub fn run_script(&mut self, lines: &[String]) -> Result<(), String> {
        let script = lines.join("\n");
        let logs = self.forget_logs(&script);
        let printed = self.run(&script)?;
        if printed.code != 0 {
            let text = printed.lines.join("\n");
            return Err(format!("exit code {}: {text}", printed.code));
        }
        self.await_ready(&logs)
    }

    /// Runs commands one by one, and compares the output of each with the shown output.
    ///
    /// # Errors
    ///
    /// The output of a command differs, or a command fails that shows no output.
    pub fn run_console(&mut self, lines: &[String]) -> Result<(), String> {
        for (command, shown) in blocks::commands(lines)? {
            let logs = self.forget_logs(command);
            self.run_command(command, &shown)?;
            self.await_ready(&logs)?;
        }
        Ok(())
    }

    fn run_command(&mut self, command: &str, shown: &[&str]) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let printed = self.run(command)?;
            let lines: Vec<&str> = printed.lines.iter().map(String::as_str).collect();
            let is_as_shown = match shown {
                [] => printed.code == 0 && !has_no_leader(&lines),
                _ => blocks::matches(shown, &lines),
            };
            if is_as_shown {
                return Ok(());
            }
            let is_repeatable = only_reads(command) || has_no_leader(&lines);
            if !is_repeatable || start.elapsed() > DEADLINE {
                return Err(format!(
                    "$ {command}\nprinted (exit code {}):\n{}\nshown:\n{}\n{}",
                    printed.code,
                    lines.join("\n"),
                    shown.join("\n"),
                    self.logs()
                ));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Runs one command, which may have several lines.
    fn run(&mut self, command: &str) -> Result<Printed, String> {
        self.write(&format!("{command}\nprintf '\\n{END}%s\\n' $?"));
        let start = Instant::now();
        let mut lines = Vec::new();
        loop {
            let left = DEADLINE.saturating_sub(start.elapsed());
            let Ok(line) = self.lines.recv_timeout(left) else {
                let text = lines.join("\n");
                return Err(format!("$ {command}\ndoes not end; it printed:\n{text}"));
            };
            if let Some((fragment, code)) = end_of(&line) {
                lines.push(fragment.to_string());
                while lines.last().is_some_and(String::is_empty) {
                    lines.pop();
                }
                return Ok(Printed { lines, code });
            }
            if !is_note_about_a_job(&line) {
                lines.push(line);
            }
        }
    }

    fn write(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("it runs");
        writeln!(stdin, "{text}").expect("bash reads");
    }

    /// Removes the logs that the command's machines will write, so that a former `ready` counts for
    /// nothing. Returns their names.
    fn forget_logs(&self, command: &str) -> Vec<String> {
        let lines = command.lines().flat_map(|line| line.split(" > ").skip(1));
        let started = lines.filter_map(|rest| rest.split_once(" &"));
        let logs = started.map(|(name, _)| name.to_string());
        let logs: Vec<String> = logs.filter(|name| name.ends_with(".log")).collect();
        for name in &logs {
            let _ = fs::remove_file(self.path(name));
        }
        logs
    }

    fn await_ready(&self, logs: &[String]) -> Result<(), String> {
        let start = Instant::now();
        for name in logs {
            let is_ready = || {
                let text = fs::read_to_string(self.path(name)).unwrap_or_default();
                text.contains("tern: ready")
            };
            while !is_ready() {
                if start.elapsed() > DEADLINE {
                    return Err(format!("{name} has no `ready`\n{}", self.logs()));
                }
                std::thread::sleep(PAUSE);
            }
        }
        Ok(())
    }

    /// The path of a file in the directory of the commands.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(DESK).join(name)
    }

    /// All logs, for the message of a failure.
    fn logs(&self) -> String {
        let entries = fs::read_dir(self.home.path().join(DESK)).expect("the directory");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let mut text = String::new();
        for path in paths.filter(|path| path.extension().is_some_and(|e| e == "log")) {
            let log = fs::read_to_string(&path).unwrap_or_default();
            text.push_str(&format!("-- {}\n{log}", path.display()));
        }
        text
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // At the end of its input the shell runs its trap, which ends the machines.
        self.stdin = None;
        let _ = self.shell.wait();
    }
}

/// The exit code, if the command's output ends in this line, and what stands before it. A job in the
/// background may be in the middle of a line: curl writes its errors in pieces.
fn end_of(line: &str) -> Option<(&str, i32)> {
    let (fragment, code) = line.split_once(END)?;
    Some((fragment, code.parse().expect("printf writes a number")))
}

#[test]
fn the_end_is_found_amid_the_line_of_another_job() {
    assert_eq!(end_of("@@ended@@ 7"), Some(("", 7)));
    assert_eq!(
        end_of("d with outstand@@ended@@ 0"),
        Some(("d with outstand", 0))
    );
    assert_eq!(end_of("ended"), None);
}

/// bash tells of children that a signal has ended.
fn is_note_about_a_job(line: &str) -> bool {
    let rest = line.strip_prefix("bash: line ");
    rest.is_some_and(|rest| rest.contains(" Killed ") || rest.contains(" Terminated "))
}

fn only_reads(command: &str) -> bool {
    let changes = [" -X", " -d ", "--data", "kill ", "tern ", "rm ", "cp "];
    !changes.iter().any(|word| command.contains(word))
}

/// Whether the answer says that nothing has happened, since no machine leads or listens yet.
fn has_no_leader(lines: &[&str]) -> bool {
    let signs = ["\"errorCode\":300,", "\"errorCode\":301,", "curl: (7)"];
    lines
        .iter()
        .any(|line| signs.iter().any(|sign| line.contains(sign)))
}
