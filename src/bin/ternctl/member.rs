//! `member list|add|remove`: the machines that hold the data.
//!
//! Start with [`Members::fetch`].
use crate::failure::{ExitReason, Failure};
use crate::http::CtlRequest;
use crate::output::{OutputForm, print, print_json, print_line};
use crate::session::Session;
use crate::table::Table;
use clap::{Args, Subcommand};
use serde::Deserialize;
use tern::core::escape;
use ureq::http::Method;

/// The path of the members in the HTTP interface.
const MEMBERS: &str = "/v2/members";

#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// List the members
    List,
    /// Admit a machine before it starts
    ///
    /// Not needed as a rule: a machine that is started with -peers joins by itself. The machine that
    /// joins from this peer URL gets the place; without one the place is removed after removeDelay.
    Add(AddArguments),
    /// Remove a member
    ///
    /// It becomes a standby and comes back when there is room, unless --for-good is given. tern
    /// refuses if too few of the others answer to go on.
    Remove(RemoveArguments),
}

#[derive(Debug, Args)]
pub struct AddArguments {
    /// The peer URL of the machine, such as http://10.0.0.4:7001
    peer_url: String,
}

#[derive(Debug, Args)]
pub struct RemoveArguments {
    /// Its name or its id
    member: String,
    /// Do not admit it again with the data directory that it has
    #[arg(long)]
    for_good: bool,
}

/// A line of the list.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MemberLine {
    id: String,
    /// Empty until it has started.
    #[serde(default)]
    name: String,
    #[serde(default, rename = "peerURLs")]
    peer_urls: Vec<String>,
    #[serde(default, rename = "clientURLs")]
    client_urls: Vec<String>,
}

/// The answer of `/v2/members`.
#[derive(Debug, Deserialize)]
pub struct Members {
    members: Vec<MemberLine>,
}

impl Members {
    /// Asks for the members, and sorts them by name.
    ///
    /// # Errors
    ///
    /// The request failed.
    pub fn fetch(session: &Session) -> Result<Members, Failure> {
        let answer = session.ask(&CtlRequest::get(MEMBERS))?;
        let parsed = serde_json::from_slice::<Members>(&answer.body);
        let mut members = parsed.map_err(|error| no_list(&error))?;
        members.members.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(members)
    }

    /// The peer URLs of all members.
    pub fn peer_urls(&self) -> Vec<String> {
        let members = self.members.iter();
        members
            .flat_map(|member| member.peer_urls.clone())
            .collect()
    }

    /// The member of this name, or else of this id.
    fn find(&self, wanted: &str) -> Result<&MemberLine, Failure> {
        let mut members = self.members.iter();
        let named = members.clone().find(|member| member.name == wanted);
        let found = named.or_else(|| members.find(|member| member.id == wanted));
        found.ok_or_else(|| {
            let names = self.members.iter().map(MemberLine::label);
            let names: Vec<&str> = names.collect();
            let text = format!("no member {wanted:?}: there are {}", names.join(", "));
            Failure::new(ExitReason::Refused, text)
        })
    }
}

impl MemberLine {
    /// Its name, or its id until it has one.
    fn label(&self) -> &str {
        if self.name.is_empty() {
            &self.id
        } else {
            &self.name
        }
    }
}

fn no_list(error: &serde_json::Error) -> Failure {
    let text = format!("the answer is no list of members: {error}");
    Failure::new(ExitReason::Unavailable, text)
}

/// `ternctl member`
///
/// # Errors
///
/// The request was refused or failed.
pub fn member(session: &Session, command: &MemberCommand) -> Result<(), Failure> {
    match command {
        MemberCommand::List => list(session),
        MemberCommand::Add(arguments) => add(session, arguments),
        MemberCommand::Remove(arguments) => remove(session, arguments),
    }
}

fn list(session: &Session) -> Result<(), Failure> {
    if session.output() == OutputForm::Json {
        let answer = session.ask(&CtlRequest::get(MEMBERS))?;
        return print_json(&answer.body);
    }
    let members = Members::fetch(session)?.members;
    if session.output() == OutputForm::Simple {
        let lines = members.iter().map(|m| format!("{}\n", m.label()));
        return print(lines.collect::<String>());
    }
    let leader = session.ask(&CtlRequest::get(format!("{MEMBERS}/leader")));
    let leader = leader.ok().and_then(|answer| {
        let leader: Option<MemberLine> = serde_json::from_slice(&answer.body).ok();
        leader.map(|member| member.id)
    });
    let mut table = Table::new(&["NAME", "ID", "PEER URL", "CLIENT URL", "LEADER"]);
    for member in members {
        let is_leader = leader.as_ref() == Some(&member.id);
        let name = if member.name.is_empty() {
            "(not started)".to_string()
        } else {
            member.name
        };
        table.row(vec![
            name,
            member.id,
            member.peer_urls.join(","),
            member.client_urls.join(","),
            if is_leader { "yes" } else { "" }.to_string(),
        ]);
    }
    print(table.to_string())
}

fn add(session: &Session, arguments: &AddArguments) -> Result<(), Failure> {
    let body = serde_json::json!({ "peerURLs": [arguments.peer_url] });
    let request = CtlRequest::new(Method::POST, MEMBERS).with_json(body.to_string());
    let answer = session.ask(&request)?;
    if session.output() == OutputForm::Json {
        return print_json(&answer.body);
    }
    let added: MemberLine = serde_json::from_slice(&answer.body).map_err(|e| no_list(&e))?;
    print_line(&format!(
        "admitted {} as {}: start that machine with -peers and an empty data directory",
        arguments.peer_url, added.id
    ))
}

fn remove(session: &Session, arguments: &RemoveArguments) -> Result<(), Failure> {
    let members = Members::fetch(session)?;
    let member = members.find(&arguments.member)?;
    if !arguments.for_good {
        let target = format!("{MEMBERS}/{}", member.id);
        session.ask(&CtlRequest::new(Method::DELETE, target))?;
        return print_line(&format!(
            "removed {}: it becomes a standby, and comes back when there is room",
            member.label()
        ));
    }
    if member.name.is_empty() {
        let text = "a member that has not started cannot come back: remove it without --for-good";
        return Err(Failure::bad_arguments(text));
    }
    let name = escape::path(&member.name);
    let target = format!("/v2/admin/machines/{name}?rejoin=false");
    let peers = session.with_peers(members.peer_urls())?;
    peers.ask(&CtlRequest::new(Method::DELETE, target))?;
    print_line(&format!(
        "removed {} for good: to let it in again, start it with an empty data directory",
        member.name
    ))
}
