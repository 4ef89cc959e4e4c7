//! `watch` and `exec-watch`: changes as they happen.
//!
//! A watch outlives the machine that serves it: the next request names the index after the last
//! event, so no event is missed and none comes twice. Start with [`Watching::next`].
use crate::failure::{ExitReason, Failure, file_failed};
use crate::http::{CtlRequest, read_whole};
use crate::keys::{key_target, parse_key};
use crate::nodes::{KeyAnswer, KeyRecord};
use crate::output::{OutputForm, print_json, print_line};
use crate::session::{Session, failure_of};
use clap::Args;
use std::io::Write;
use std::process::{Command, Stdio};
use tern::shell::clock;
use ureq::Body;
use ureq::http::{HeaderMap, Method, Response, StatusCode};

/// The pause before another endpoint is asked, in milliseconds.
const RETRY_PAUSE_MS: u64 = 500;
/// Error 401 of etcd: the server has no longer all events since the index that was asked for.
const EVENTS_CLEARED: &[u8] = b"\"errorCode\":401";
/// The variable with the value, and the longest value in it: Linux starts no program with a variable
/// of more than 128 KiB, its name, the `=` and the zero byte at its end included.
const VALUE_VARIABLE: &str = "ETCD_WATCH_VALUE";
const VARIABLE_VALUE_BYTES_MAX: usize = 128 * 1024 - VALUE_VARIABLE.len() - 2;

#[derive(Debug, Args)]
pub struct WatchArguments {
    #[command(flatten)]
    place: WatchPlace,
    /// Print every change until interrupted, not only the first
    #[arg(long, short)]
    forever: bool,
}

#[derive(Debug, Args)]
pub struct ExecWatchArguments {
    #[command(flatten)]
    place: WatchPlace,
    /// The program and its arguments, after `--`
    ///
    /// It finds the change in ETCD_WATCH_ACTION, ETCD_WATCH_KEY, ETCD_WATCH_VALUE and
    /// ETCD_WATCH_MODIFIED_INDEX, and as JSON on its stdin. The next change waits until it has
    /// ended. A value of more than 131054 bytes, or with a zero byte, is on stdin only.
    #[arg(last = true, required = true)]
    program: Vec<String>,
}

/// The key or directory to watch.
#[derive(Debug, Args)]
struct WatchPlace {
    /// The key or directory
    #[arg(value_parser = parse_key)]
    key: String,
    /// Watch all that is below it, too
    #[arg(long, short)]
    recursive: bool,
    /// Begin with the first change after this index; past changes are kept for a while
    #[arg(long, value_name = "INDEX")]
    after_index: Option<u64>,
}

/// A change, with the text that the server sent.
struct WatchedEvent {
    answer: KeyAnswer,
    json: Vec<u8>,
}

/// A watch that goes on with the next endpoint when one fails.
struct Watching<'a> {
    session: &'a Session,
    place: &'a WatchPlace,
    /// The index of the next event of interest; `None` before the first answer of a server.
    wait_index: Option<u64>,
    /// The place of the endpoint in use.
    endpoint: usize,
    /// A server has answered, so that a broken connection is worth another try.
    has_begun: bool,
}

impl<'a> Watching<'a> {
    fn new(session: &'a Session, place: &'a WatchPlace) -> Watching<'a> {
        Watching {
            session,
            place,
            wait_index: place.after_index.map(|index| index + 1),
            endpoint: 0,
            has_begun: false,
        }
    }

    fn request(&self) -> CtlRequest {
        let poll_s = self.session.poll_s();
        let mut target = format!("{}?wait=true&timeout={poll_s}", key_target(&self.place.key));
        if self.place.recursive {
            target.push_str("&recursive=true");
        }
        if let Some(index) = self.wait_index {
            target.push_str(&format!("&waitIndex={index}"));
        }
        CtlRequest::get(target)
    }

    /// Waits for the next event.
    ///
    /// # Errors
    ///
    /// The server refuses the watch, or no endpoint answers at the start.
    fn next(&mut self) -> Result<WatchedEvent, Failure> {
        let mut faults = Vec::new();
        loop {
            let base = &self.session.urls()[self.endpoint];
            match self.try_next(&base.clone())? {
                Ok(event) => return Ok(event),
                Err(fault) => faults.push(format!("{base}: {fault}")),
            }
            self.endpoint = (self.endpoint + 1) % self.session.urls().len();
            if !self.has_begun && faults.len() >= self.session.urls().len() {
                let text = format!("no endpoint answers: {}", faults.join("; "));
                return Err(Failure::new(ExitReason::Unreachable, text));
            }
            if faults.len() == 1 && self.has_begun {
                eprintln!("ternctl: {}; the watch goes on", faults[0]);
            }
            clock::pause(RETRY_PAUSE_MS);
        }
    }

    /// A server names its index: events up to it are of no interest.
    fn on_head(&mut self, response: &Response<Body>) {
        if let Some(index) = etcd_index(response.headers()) {
            self.has_begun = true;
            self.wait_index = self.wait_index.max(Some(index + 1));
        }
    }

    /// Waits for the next event at one endpoint. The inner error says why it has none.
    fn try_next(&mut self, base: &str) -> Result<Result<WatchedEvent, String>, Failure> {
        // The head of the answer to a watch may come with its event, or not at all.
        if self.wait_index.is_none() {
            let now = CtlRequest::new(Method::HEAD, key_target(&self.place.key));
            match self.session.open(base, &now) {
                Ok(response) => self.on_head(&response),
                Err(fault) => return Ok(Err(fault.text().to_string())),
            }
        }
        let response = loop {
            let response = match self.session.open(base, &self.request()) {
                Ok(response) => response,
                Err(fault) => return Ok(Err(fault.text().to_string())),
            };
            if response.status() != StatusCode::NO_CONTENT {
                break response;
            }
            // The poll has ended without an event up to the index of the answer.
            self.on_head(&response);
        };
        if response.status().is_success() {
            self.has_begun = true;
        }
        let answer = match read_whole(response) {
            Ok(answer) if answer.body.trim_ascii().is_empty() => {
                return Ok(Err("the server ended the watch".to_string()));
            }
            Ok(answer) => answer,
            Err(fault) => return Ok(Err(fault.text().to_string())),
        };
        let is_cleared = answer
            .body
            .windows(EVENTS_CLEARED.len())
            .any(|w| w == EVENTS_CLEARED);
        if is_cleared && self.has_begun {
            eprintln!("ternctl: changes may be missed: the server has no longer all of them");
            self.wait_index = None;
            return self.try_next(base);
        }
        match failure_of(&answer) {
            Some(failure) if failure.reason() == ExitReason::Refused => return Err(failure),
            Some(failure) => return Ok(Err(failure.to_string())),
            None => {}
        }
        let json = answer.body;
        let answer = KeyAnswer::parse(&json)?;
        self.wait_index = Some(answer.node()?.modified + 1);
        Ok(Ok(WatchedEvent { answer, json }))
    }
}

fn etcd_index(headers: &HeaderMap) -> Option<u64> {
    headers.get("X-Etcd-Index")?.to_str().ok()?.parse().ok()
}

/// `ternctl watch`
///
/// # Errors
///
/// The watch is refused, or no endpoint answers at the start.
pub fn watch(session: &Session, arguments: &WatchArguments) -> Result<(), Failure> {
    let mut watching = Watching::new(session, &arguments.place);
    loop {
        let event = watching.next()?;
        print_event(session.output(), arguments, &event)?;
        if !arguments.forever {
            return Ok(());
        }
    }
}

fn print_event(
    form: OutputForm,
    arguments: &WatchArguments,
    event: &WatchedEvent,
) -> Result<(), Failure> {
    let node = event.answer.node()?;
    let value = node.value.as_deref().unwrap_or_default();
    match form {
        OutputForm::Json => print_json(&event.json),
        OutputForm::Simple if !arguments.place.recursive => print_line(value),
        OutputForm::Simple | OutputForm::Table => {
            let KeyRecord { key, modified, .. } = node;
            let action = &event.answer.action;
            print_line(format!("{modified}  {action}  {key}  {value}").trim_end())
        }
    }
}

/// `ternctl exec-watch`
///
/// # Errors
///
/// The program cannot be started, or as for [`watch`].
pub fn exec_watch(session: &Session, arguments: &ExecWatchArguments) -> Result<(), Failure> {
    let mut watching = Watching::new(session, &arguments.place);
    loop {
        let event = watching.next()?;
        run(&arguments.program, &event)?;
    }
}

/// Runs the program for one event, and waits for its end.
fn run(program: &[String], event: &WatchedEvent) -> Result<(), Failure> {
    let node = event.answer.node()?;
    let mut command = Command::new(&program[0]);
    command
        .args(&program[1..])
        .env("ETCD_WATCH_ACTION", &event.answer.action)
        .env("ETCD_WATCH_KEY", &node.key)
        .env("ETCD_WATCH_MODIFIED_INDEX", node.modified.to_string())
        .stdin(Stdio::piped());
    // A value that no variable can hold is on stdin only.
    let fits = |value: &&String| value.len() <= VARIABLE_VALUE_BYTES_MAX && !value.contains('\0');
    match node.value.as_ref().filter(fits) {
        Some(value) => command.env(VALUE_VARIABLE, value),
        // This ternctl may run for a change, too: its variable is that of another event.
        None => command.env_remove(VALUE_VARIABLE),
    };
    let mut child = command.spawn().map_err(|error| {
        let text = format!("{} cannot be started: {error}", program[0]);
        Failure::bad_arguments(text)
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that reads nothing closes its end.
        let _ = stdin.write_all(&event.json);
    }
    let status = child.wait().map_err(file_failed(&program[0]))?;
    if !status.success() {
        eprintln!("ternctl: {}: {status}; the watch goes on", program[0]);
    }
    Ok(())
}
