//! The arguments shared by all commands: the endpoints of the cluster, and the form of the output.
//! `endpoints` adds the variables of etcdctl and the configuration file. Start with
//! [`SharedArguments`].
use crate::output::OutputForm;
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use std::path::PathBuf;

/// The arguments shared by all commands.
#[derive(Clone, Debug, Args)]
pub struct SharedArguments {
    /// Client URLs of the machines to try, in this order [default: http://127.0.0.1:4001]
    ///
    /// ETCDCTL_ENDPOINTS is read too, then `endpoints` in the configuration file.
    #[arg(
        long,
        short = 'C',
        value_name = "URL,…",
        env = "TERNCTL_ENDPOINTS",
        hide_env_values = true,
        value_delimiter = ',',
        global = true,
        help_heading = "Connection"
    )]
    pub endpoints: Vec<String>,

    /// The authority that signs the servers' certificates, PEM [default: the web's authorities]
    ///
    /// ETCDCTL_CA_FILE is read too, then `ca_file` in the configuration file.
    #[arg(
        long,
        value_name = "FILE",
        env = "TERNCTL_CA_FILE",
        value_parser = path_or_empty(),
        hide_env_values = true,
        global = true,
        help_heading = "Connection"
    )]
    pub ca_file: Option<PathBuf>,

    /// This client's certificate, PEM, for servers that ask for one; with --key-file
    #[arg(
        long,
        value_name = "FILE",
        env = "TERNCTL_CERT_FILE",
        value_parser = path_or_empty(),
        hide_env_values = true,
        global = true,
        help_heading = "Connection"
    )]
    pub cert_file: Option<PathBuf>,

    /// The key of --cert-file, PEM, not encrypted
    #[arg(
        long,
        value_name = "FILE",
        env = "TERNCTL_KEY_FILE",
        value_parser = path_or_empty(),
        hide_env_values = true,
        global = true,
        help_heading = "Connection"
    )]
    pub key_file: Option<PathBuf>,

    /// As --ca-file, for the peer ports [default: the same]
    ///
    /// `cluster config` and `member remove --for-good` need the peer ports.
    #[arg(long, value_name = "FILE", global = true, help_heading = "Connection")]
    pub peer_ca_file: Option<PathBuf>,

    /// As --cert-file, for the peer ports [default: the same]
    #[arg(
        long,
        value_name = "FILE",
        requires = "peer_key_file",
        global = true,
        help_heading = "Connection"
    )]
    pub peer_cert_file: Option<PathBuf>,

    /// The key of --peer-cert-file
    #[arg(
        long,
        value_name = "FILE",
        requires = "peer_cert_file",
        global = true,
        help_heading = "Connection"
    )]
    pub peer_key_file: Option<PathBuf>,

    /// How long one request may take, waiting for a new leader included, in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 10,
        global = true,
        help_heading = "Connection"
    )]
    pub timeout: u64,

    /// A TOML file with endpoints, ca_file, cert_file, key_file [default: /etc/tern/ternctl.conf]
    #[arg(
        long,
        value_name = "FILE",
        env = "TERNCTL_CONFIG",
        value_parser = path_or_empty(),
        hide_env_values = true,
        global = true,
        help_heading = "Connection"
    )]
    pub config: Option<PathBuf>,

    /// The form of the output: simple for scripts, table for people, or json
    #[arg(
        long,
        short,
        value_enum,
        hide_possible_values = true,
        value_name = "FORM",
        default_value_t,
        global = true
    )]
    pub output: OutputForm,
}

/// The parser of a path that a variable may give. An empty variable is one that is not given:
/// the parser of clap would refuse it. `endpoints` passes over an empty path.
fn path_or_empty() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}
