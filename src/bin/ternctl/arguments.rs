//! The command line as a whole: the arguments shared by all commands, and the list of commands. The
//! arguments of a command stand in the command's own file. Start with [`CtlCommand`].
use crate::backup::BackupArguments;
use crate::bench::BenchArguments;
use crate::cluster::ClusterCommand;
use crate::export::ExportArguments;
use crate::failure::EXIT_CODES;
use crate::import::ImportArguments;
use crate::keys::{GetArguments, LsArguments, RmArguments, WriteArguments};
use crate::keys::{MkArguments, MkdirArguments, RmdirArguments, SetArguments};
use crate::member::MemberCommand;
use crate::restore::RestoreArguments;
use crate::shared_arguments::SharedArguments;
use crate::texts::{CompletionArguments, ManArguments};
use crate::tls::TlsCommand;
use crate::top::TopArguments;
use crate::watch::{ExecWatchArguments, WatchArguments};
use clap::{Parser, Subcommand};

/// Client of tern, a replicated key-value store with the interface of etcd 0.4 and 2.x.
///
/// Without settings it talks to the tern on this machine. Requests go to the endpoints in order,
/// and to the next one only if the one before cannot have carried them out; redirects to the leader
/// are followed.
#[derive(Debug, Parser)]
#[command(name = "ternctl", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct CtlArguments {
    #[command(flatten)]
    pub shared: SharedArguments,
    #[command(subcommand)]
    pub command: CtlCommand,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum CtlCommand {
    /// Print the value of a key
    Get(GetArguments),
    /// List a directory
    Ls(LsArguments),
    /// Set a key, whether or not it exists
    Set(SetArguments),
    /// Make a key that does not exist
    Mk(MkArguments),
    /// Change the value of a key that exists
    Update(WriteArguments),
    /// Remove a key, or a directory with all that is in it
    Rm(RmArguments),
    /// Make a directory
    Mkdir(MkdirArguments),
    /// Remove an empty directory
    Rmdir(RmdirArguments),
    /// Wait for a change and print it
    Watch(WatchArguments),
    /// Run a program at each change
    ExecWatch(ExecWatchArguments),
    /// List, admit and remove members
    #[command(subcommand)]
    Member(MemberCommand),
    /// Show the cluster and change its settings
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Show the cluster live in the terminal
    Top(TopArguments),
    /// Save the whole key space to a file
    Backup(BackupArguments),
    /// Make the data directory of a new cluster from a backup
    Restore(RestoreArguments),
    /// Print the whole key space as lines of JSON
    Export(ExportArguments),
    /// Load keys from another tern, from etcd or from a file
    Import(ImportArguments),
    /// Make certificates for tern and its clients, and renew them
    #[command(subcommand)]
    Tls(TlsCommand),
    /// Measure how fast the cluster answers
    Bench(BenchArguments),
    /// Print a completion script for a shell
    Completion(CompletionArguments),
    /// Write the manual pages
    Man(ManArguments),
}
