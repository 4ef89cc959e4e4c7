//! The commands for keys and directories: `get ls set mk update rm mkdir rmdir`.
//!
//! Start with [`get`].
use crate::failure::{ExitReason, Failure, file_failed};
use crate::http::{CtlRequest, HttpAnswer};
use crate::nodes::{KeyAnswer, KeyRecord};
use crate::output::{OutputForm, print, print_json, print_line};
use crate::session::Session;
use crate::table::Table;
use clap::Args;
use std::io::{self, IsTerminal, Read};
use tern::core::command::KeyPath;
use tern::core::escape;
use ureq::http::Method;

#[derive(Debug, Args)]
pub struct GetArguments {
    /// The key, such as /config/host
    #[arg(value_parser = parse_key)]
    key: String,
    /// Ask the leader, which answers with the newest value; without this, the machine that is asked
    /// may be a moment behind
    #[arg(long, short)]
    quorum: bool,
}

#[derive(Debug, Args)]
pub struct LsArguments {
    /// The directory
    #[arg(default_value = "/", value_parser = parse_key)]
    key: String,
    /// List all that is below it
    #[arg(long, short)]
    recursive: bool,
    /// Mark directories with a slash
    #[arg(short)]
    p: bool,
    /// Ask the leader, which answers with the newest state
    #[arg(long, short)]
    quorum: bool,
}

#[derive(Debug, Args)]
pub struct WriteArguments {
    /// The key, such as /config/host
    #[arg(value_parser = parse_key)]
    key: String,
    /// The value; without it, or if it is `-`, all of stdin
    #[arg(allow_hyphen_values = true)]
    value: Option<String>,
    /// Remove the key after so many seconds; 0: never
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<u64>,
}

#[derive(Debug, Args)]
pub struct SetArguments {
    #[command(flatten)]
    write: WriteArguments,
    /// Only if the present value is this one
    #[arg(long, value_name = "VALUE")]
    swap_with_value: Option<String>,
    /// Only if the key was last changed at this index
    #[arg(long, value_name = "INDEX")]
    swap_with_index: Option<u64>,
}

#[derive(Debug, Args)]
pub struct MkArguments {
    #[command(flatten)]
    write: WriteArguments,
    /// Make a key in this directory whose name is a rising number, and print it
    #[arg(long)]
    in_order: bool,
}

#[derive(Debug, Args)]
pub struct MkdirArguments {
    /// The directory
    #[arg(value_parser = parse_key)]
    key: String,
    /// Remove it with all that is in it after so many seconds
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<u64>,
}

#[derive(Debug, Args)]
pub struct RmArguments {
    /// The key
    #[arg(value_parser = parse_key)]
    key: String,
    /// Remove a directory with all that is in it
    #[arg(long, short)]
    recursive: bool,
    /// Only if the present value is this one
    #[arg(long, value_name = "VALUE", conflicts_with = "recursive")]
    with_value: Option<String>,
    /// Only if the key was last changed at this index
    #[arg(long, value_name = "INDEX", conflicts_with = "recursive")]
    with_index: Option<u64>,
}

#[derive(Debug, Args)]
pub struct RmdirArguments {
    /// The directory; it must be empty
    #[arg(value_parser = parse_key)]
    key: String,
}

/// A key as an argument, without empty segments. `.` and `..` name no key: a server answers with the
/// path that they lead to, and the command would be about another key.
///
/// # Errors
///
/// A segment is `.` or `..`.
pub fn parse_key(text: &str) -> Result<String, String> {
    let path = KeyPath::new(text);
    if path.segments().any(|name| name == "." || name == "..") {
        return Err("`.` and `..` cannot be part of a key".to_string());
    }
    Ok(path.as_str().to_string())
}

/// The path of a key in the HTTP interface.
pub fn key_target(key: &str) -> String {
    format!("/v2/keys/{}", escape::path(key.trim_start_matches('/')))
}

/// The parameters of a write, as a form.
#[derive(Default)]
pub struct Parameters(Vec<String>);

impl Parameters {
    /// With one more.
    pub fn add(mut self, name: &str, value: &str) -> Parameters {
        self.0.push(format!("{name}={}", escape::query(value)));
        self
    }

    /// With one more, if it has a value.
    pub fn add_if(self, name: &str, value: Option<impl ToString>) -> Parameters {
        match value {
            None => self,
            Some(value) => self.add(name, &value.to_string()),
        }
    }

    /// With the ttl, of which 0 is none.
    fn ttl(self, ttl: Option<u64>) -> Parameters {
        match ttl {
            Some(0) => self.add("ttl", ""),
            ttl => self.add_if("ttl", ttl),
        }
    }

    /// As a body or a query.
    pub fn form(self) -> String {
        self.0.join("&")
    }
}

impl WriteArguments {
    /// The value, from stdin if it is not an argument.
    fn take_value(&mut self) -> Result<String, Failure> {
        if let Some(value) = self.value.take_if(|value| value != "-") {
            return Ok(value);
        }
        if self.value.is_none() && io::stdin().is_terminal() {
            let text = "no value: give it as an argument, or through stdin";
            return Err(Failure::bad_arguments(text));
        }
        let mut value = String::new();
        let read = io::stdin().read_to_string(&mut value);
        read.map_err(file_failed("stdin as UTF-8"))?;
        Ok(value)
    }
}

/// `ternctl get`
///
/// # Errors
///
/// The key is missing or a directory, or the request failed.
pub fn get(session: &Session, arguments: &GetArguments) -> Result<(), Failure> {
    let mut target = key_target(&arguments.key);
    if arguments.quorum {
        target.push_str("?quorum=true");
    }
    let answer = session.ask(&CtlRequest::get(target))?;
    let parsed = KeyAnswer::parse(&answer.body)?;
    let node = parsed.node()?;
    if node.is_dir && session.output() == OutputForm::Simple {
        let text = format!("{} is a directory: ternctl ls {0}", node.key);
        return Err(Failure::new(ExitReason::Refused, text));
    }
    match session.output() {
        OutputForm::Json => print_json(&answer.body),
        OutputForm::Table => print(table_of(&parsed.nodes[..1]).to_string()),
        OutputForm::Simple => print_line(node.value.as_deref().unwrap_or_default()),
    }
}

/// `ternctl ls`
///
/// # Errors
///
/// The directory is missing, or the request failed.
pub fn ls(session: &Session, arguments: &LsArguments) -> Result<(), Failure> {
    let mut target = format!("{}?sorted=true", key_target(&arguments.key));
    if arguments.recursive {
        target.push_str("&recursive=true");
    }
    if arguments.quorum {
        target.push_str("&quorum=true");
    }
    let answer = session.ask(&CtlRequest::get(target))?;
    if session.output() == OutputForm::Json {
        return print_json(&answer.body);
    }
    let parsed = KeyAnswer::parse(&answer.body)?;
    // A directory is not part of its own listing; a file is.
    let first = usize::from(parsed.node()?.is_dir);
    let listed = &parsed.nodes[first..];
    if session.output() == OutputForm::Table {
        return print(table_of(listed).to_string());
    }
    let mark = |node: &KeyRecord| if arguments.p && node.is_dir { "/" } else { "" };
    let lines = listed
        .iter()
        .map(|node| format!("{}{}\n", node.key, mark(node)));
    print(lines.collect::<String>())
}

fn table_of(nodes: &[KeyRecord]) -> Table {
    let mut table = Table::new(&["KEY", "VALUE", "TTL", "MODIFIED", "CREATED"]);
    for node in nodes {
        let value = match &node.value {
            _ if node.is_dir => "(directory)".to_string(),
            value => value.clone().unwrap_or_default(),
        };
        table.row(vec![
            node.key.clone(),
            value,
            node.ttl.map_or("-".to_string(), |ttl| format!("{ttl}s")),
            node.modified.to_string(),
            node.created.to_string(),
        ]);
    }
    table
}

/// Sends a write and prints the new node. `simple` renders the node in the simple form.
fn write(
    session: &Session,
    request: &CtlRequest,
    simple: impl Fn(&KeyRecord) -> Option<String>,
) -> Result<(), Failure> {
    let answer: HttpAnswer = session.ask(request)?;
    if session.output() == OutputForm::Json {
        return print_json(&answer.body);
    }
    let parsed = KeyAnswer::parse(&answer.body)?;
    if session.output() == OutputForm::Table {
        return print(table_of(&parsed.nodes).to_string());
    }
    match simple(parsed.node()?) {
        None => Ok(()),
        Some(line) => print_line(&line),
    }
}

fn value_of(node: &KeyRecord) -> Option<String> {
    node.value.clone()
}

fn nothing(_: &KeyRecord) -> Option<String> {
    None
}

fn put(key: &str, parameters: Parameters) -> CtlRequest {
    CtlRequest::new(Method::PUT, key_target(key)).with_form(parameters.form())
}

/// `ternctl set`
///
/// # Errors
///
/// A condition does not hold, or the request failed.
pub fn set(session: &Session, arguments: SetArguments) -> Result<(), Failure> {
    let mut write_arguments = arguments.write;
    let value = write_arguments.take_value()?;
    let parameters = Parameters::default()
        .add("value", &value)
        .ttl(write_arguments.ttl)
        .add_if("prevValue", arguments.swap_with_value)
        .add_if("prevIndex", arguments.swap_with_index);
    write(session, &put(&write_arguments.key, parameters), value_of)
}

/// `ternctl mk`
///
/// # Errors
///
/// The key exists, or the request failed.
pub fn mk(session: &Session, arguments: MkArguments) -> Result<(), Failure> {
    let mut write_arguments = arguments.write;
    let value = write_arguments.take_value()?;
    let parameters = Parameters::default()
        .add("value", &value)
        .ttl(write_arguments.ttl);
    if arguments.in_order {
        let request = CtlRequest::new(Method::POST, key_target(&write_arguments.key));
        let request = request.with_form(parameters.form());
        return write(session, &request, |node| Some(node.key.clone()));
    }
    let parameters = parameters.add("prevExist", "false");
    write(session, &put(&write_arguments.key, parameters), value_of)
}

/// `ternctl update`
///
/// # Errors
///
/// The key does not exist, or the request failed.
pub fn update(session: &Session, mut arguments: WriteArguments) -> Result<(), Failure> {
    let value = arguments.take_value()?;
    let parameters = Parameters::default()
        .add("value", &value)
        .ttl(arguments.ttl)
        .add("prevExist", "true");
    write(session, &put(&arguments.key, parameters), value_of)
}

/// `ternctl mkdir`
///
/// # Errors
///
/// The directory exists, or the request failed.
pub fn mkdir(session: &Session, arguments: &MkdirArguments) -> Result<(), Failure> {
    let parameters = Parameters::default()
        .add("dir", "true")
        .add("prevExist", "false")
        .ttl(arguments.ttl);
    write(session, &put(&arguments.key, parameters), nothing)
}

/// `ternctl rm`
///
/// # Errors
///
/// The key is missing, a condition does not hold, or the request failed.
pub fn rm(session: &Session, arguments: &RmArguments) -> Result<(), Failure> {
    let recursive = arguments.recursive.then_some("true");
    let parameters = Parameters::default()
        .add_if("recursive", recursive)
        .add_if("prevValue", arguments.with_value.as_deref())
        .add_if("prevIndex", arguments.with_index);
    let target = format!("{}?{}", key_target(&arguments.key), parameters.form());
    write(session, &CtlRequest::new(Method::DELETE, target), nothing)
}

/// `ternctl rmdir`
///
/// # Errors
///
/// The directory is missing or not empty, or the request failed.
pub fn rmdir(session: &Session, arguments: &RmdirArguments) -> Result<(), Failure> {
    let target = format!("{}?dir=true", key_target(&arguments.key));
    write(session, &CtlRequest::new(Method::DELETE, target), nothing)
}
