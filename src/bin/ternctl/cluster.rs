//! `cluster config get|set`: the settings shared by all machines of a cluster.
//!
//! The client ports do not serve these settings, so the command finds the members first and asks
//! their peer ports. `cluster status` is in `overview`. Start with [`cluster`].
use crate::failure::{ExitReason, Failure};
use crate::http::{CtlRequest, HttpAnswer};
use crate::member::Members;
use crate::output::{OutputForm, print, print_json};
use crate::overview;
use crate::session::Session;
use crate::table::Table;
use clap::{Args, Subcommand};
use serde::Deserialize;
use ureq::http::Method;

/// The path of the cluster config on the peer port.
const CONFIG: &str = "/v2/admin/config";

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show machines, roles, lag and standbys, as the leader sees them
    ///
    /// Exit code 0 if the cluster is healthy; 5 if there is no leader, or a member is silent.
    Status,
    /// Show or change the settings that all machines share
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the settings
    Get,
    /// Change settings while the cluster runs; settings that are not named stay
    Set(ConfigSetArguments),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct ConfigSetArguments {
    /// How many peers the cluster has; further machines are standbys. At least 3
    #[arg(long, value_name = "PEERS")]
    active_size: Option<u32>,
    /// A peer that was silent for so long gives its place to a standby. At least 2 seconds
    #[arg(long, value_name = "SECONDS")]
    remove_delay: Option<u32>,
    /// How often a standby asks for a place. At least 1 second
    #[arg(long, value_name = "SECONDS")]
    sync_interval: Option<u32>,
}

/// The cluster config as the server shows it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SharedConfig {
    active_size: f64,
    remove_delay: f64,
    sync_interval: f64,
}

/// `ternctl cluster`
///
/// # Errors
///
/// The request was refused or failed.
pub fn cluster(session: &Session, command: &ClusterCommand) -> Result<(), Failure> {
    match command {
        ClusterCommand::Status => overview::status(session),
        ClusterCommand::Config(ConfigCommand::Get) => {
            let answer = ask_peers(session, &CtlRequest::get(CONFIG))?;
            print_config(session, &answer)
        }
        ClusterCommand::Config(ConfigCommand::Set(arguments)) => {
            let answer = ask_peers(session, &change(arguments))?;
            print_config(session, &answer)?;
            report_raised(arguments, &parse(&answer)?);
            Ok(())
        }
    }
}

/// Asks on the peer ports: the client port does not serve the config.
fn ask_peers(session: &Session, request: &CtlRequest) -> Result<HttpAnswer, Failure> {
    let members = Members::fetch(session)?;
    session.with_peers(members.peer_urls())?.ask(request)
}

fn change(arguments: &ConfigSetArguments) -> CtlRequest {
    let mut body = serde_json::Map::new();
    for (name, value) in [
        ("activeSize", arguments.active_size),
        ("removeDelay", arguments.remove_delay),
        ("syncInterval", arguments.sync_interval),
    ] {
        if let Some(value) = value {
            body.insert(name.to_string(), value.into());
        }
    }
    let body = serde_json::Value::Object(body).to_string();
    CtlRequest::new(Method::PUT, CONFIG).with_json(body)
}

fn parse(answer: &HttpAnswer) -> Result<SharedConfig, Failure> {
    serde_json::from_slice(&answer.body).map_err(|error| {
        let text = format!("the answer is no cluster config: {error}");
        Failure::new(ExitReason::Unavailable, text)
    })
}

/// Reports on stderr the values below their least ones: the cluster has taken the least instead.
fn report_raised(arguments: &ConfigSetArguments, config: &SharedConfig) {
    for (flag, asked, set) in [
        ("--active-size", arguments.active_size, config.active_size),
        (
            "--remove-delay",
            arguments.remove_delay,
            config.remove_delay,
        ),
        (
            "--sync-interval",
            arguments.sync_interval,
            config.sync_interval,
        ),
    ] {
        if let Some(asked) = asked
            && f64::from(asked) < set
        {
            eprintln!("ternctl: {flag} {asked}: the least is {set}, which is set now");
        }
    }
}

fn print_config(session: &Session, answer: &HttpAnswer) -> Result<(), Failure> {
    if session.output() == OutputForm::Json {
        return print_json(&answer.body);
    }
    let config = parse(answer)?;
    let rows = [
        ("activeSize", format!("{}", config.active_size)),
        ("removeDelay", format!("{}", config.remove_delay)),
        ("syncInterval", format!("{}", config.sync_interval)),
    ];
    if session.output() == OutputForm::Simple {
        let lines = rows.map(|(name, value)| format!("{name} {value}\n"));
        return print(lines.concat());
    }
    let mut table = Table::new(&["SETTING", "VALUE"]);
    for (name, value) in rows {
        table.row(vec![name.to_string(), value]);
    }
    print(table.to_string())
}
