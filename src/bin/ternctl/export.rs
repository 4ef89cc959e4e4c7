//! `export`: the key space as lines of JSON, for other programs and for `import`. Start with
//! [`export`].
use crate::failure::{ExitReason, Failure};
use crate::keys::parse_key;
use crate::output::print;
use crate::session::Session;
use crate::source;
use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "\
Each line is a node: {\"key\":…,\"value\":…,\"ttl\":…}; a directory has no value, and what does not
expire no ttl. Of tern all keys are exported, hidden ones included. Of etcd 2.x and 3.4 a hidden key
is exported if --hidden names it: no listing shows it. Indexes are not exported; ternctl backup keeps
them.")]
pub struct ExportArguments {
    /// Only this directory, with all nodes below it
    #[arg(default_value = "/", value_parser = parse_key)]
    key: String,
    /// A hidden key or directory of etcd; may be given several times
    #[arg(long, value_name = "KEY", value_parser = parse_key)]
    hidden: Vec<String>,
}

/// `ternctl export`
///
/// # Errors
///
/// The key is missing, no endpoint answers, or stdout cannot be written to.
pub fn export(session: &Session, arguments: &ExportArguments) -> Result<(), Failure> {
    let nodes = source::read_cluster(session, &arguments.hidden)?;
    let below = arguments.key.as_str();
    let is_wanted = |key: &str| {
        let rest = key.strip_prefix(below);
        below == "/" || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mut text = Vec::new();
    for node in nodes.iter().filter(|node| is_wanted(&node.key)) {
        serde_json::to_writer(&mut text, node).expect("a vector has room");
        text.push(b'\n');
    }
    if text.is_empty() && below != "/" {
        let text = format!("Key not found: {below}. Nothing was exported");
        return Err(Failure::new(ExitReason::Refused, text));
    }
    print(text)
}
