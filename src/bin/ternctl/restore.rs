//! `restore`: makes the data directory of a new cluster from a backup.
//!
//! It is the way back after the loss of a cluster: the operator starts one machine with the
//! directory, and the other machines join it. The indexes of the new cluster start above the
//! indexes of the backup. So a client that waits for an index of the lost part gets an error and
//! misses no change. (`import` loads a backup into a running cluster, with new indexes.) Start with
//! [`restore`].
use crate::document::{DocumentNode, KeyDocument};
use crate::failure::{Failure, file_failed};
use crate::output::print_line;
use clap::Args;
use std::fs;
use std::io::IsTerminal;
use std::path::PathBuf;
use tern::core::store::PlainNode;
use tern::shell::config::{self, Config, ProcessInputs, Start};
use tern::shell::disk::restore_nodes;

/// Views of machines of the former cluster, which are left out.
const MACHINES: &str = "/_etcd/machines/";
/// The view of the cluster config.
const CONFIG: &str = "/_etcd/config";

#[derive(Debug, Args)]
#[command(after_help = "\
Start tern with this directory, --name and addresses; it is a cluster of one. Start the other machines
with empty data directories and -peers: they join it. Machines of the former cluster with data must
not join: start them with -f.

What the former cluster acknowledged after the backup is lost. Keys whose ttl ended meanwhile expire at
the start. The indexes go on above those of the backup (--raise-index), so that a client that waits for
an index of the lost part gets error 401, and reads anew, instead of missing changes.")]
pub struct RestoreArguments {
    /// The backup: a file of ternctl backup, or of /v2/migration/snapshot
    backup: PathBuf,
    /// The data directory to make; it must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The name of the machine, the same as its -name
    #[arg(long)]
    name: String,
    /// The advertised client address, the same as its -addr
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:4001")]
    addr: String,
    /// The advertised peer address, the same as its -peer-addr
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7001")]
    peer_addr: String,
    /// By how much the etcd index of the new cluster is above that of the backup
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000_000)]
    raise_index: u64,
}

/// `ternctl restore`
///
/// # Errors
///
/// The backup is damaged, or the directory holds something or cannot be written.
pub fn restore(arguments: &RestoreArguments) -> Result<(), Failure> {
    let path = &arguments.backup;
    let text = fs::read(path).map_err(file_failed(path.display()))?;
    let document = KeyDocument::parse(path, &text)?;
    if !document.is_checked && std::io::stderr().is_terminal() {
        eprintln!("ternctl: {} has no checksum; it is whole", path.display());
    }
    let config = config_of(arguments)?;
    let kept = document
        .nodes
        .iter()
        .filter(|n| !n.path.starts_with(MACHINES));
    let nodes = kept.map(plain);
    let view = document.nodes.iter().find(|node| node.path == CONFIG);
    let note = view.and_then(|node| node.value.as_deref()).unwrap_or("");
    let index = document.index.checked_add(arguments.raise_index);
    let index = index.ok_or_else(|| {
        let text = format!("--raise-index {}: too large", arguments.raise_index);
        Failure::bad_arguments(text)
    })?;
    restore_nodes(&config, index, note, nodes).map_err(Failure::bad_arguments)?;
    print_line(&format!(
        "{} holds {} nodes at index {index}. Next: tern -name {} -data-dir {0} -addr {} -peer-addr {}",
        arguments.data_dir.display(),
        document.nodes.len(),
        arguments.name,
        arguments.addr,
        arguments.peer_addr
    ))
}

fn plain(node: &DocumentNode) -> PlainNode<'_> {
    let path = node.path.as_str();
    PlainNode {
        depth: path.bytes().filter(|b| *b == b'/').count() as u32,
        name: path.rsplit('/').next().unwrap_or(path),
        value: node.value.as_deref(),
        expires_ns: node.expires_ns,
        modified: node.modified,
        created: node.created,
    }
}

/// The settings of the machine that is to use the directory, checked as tern checks them.
fn config_of(arguments: &RestoreArguments) -> Result<Config, Failure> {
    let data_dir = arguments.data_dir.to_str();
    let data_dir = data_dir.ok_or_else(|| Failure::bad_arguments("--data-dir is not UTF-8"))?;
    let args = [
        format!("-name={}", arguments.name),
        format!("-addr={}", arguments.addr),
        format!("-peer-addr={}", arguments.peer_addr),
        format!("-data-dir={data_dir}"),
    ];
    match config::parse(&ProcessInputs::of_args(&args)) {
        Ok(Start::Run(config)) => Ok(*config),
        Ok(Start::Print(_)) => unreachable!("no flag asks for a text"),
        Err(usage) => Err(Failure::bad_arguments(usage.0)),
    }
}
