//! The table of flags, the reading of the command line, and the text of `-h`.
//!
//! Variables and keys of files follow from the name of a flag (`sources`). Flags are written as in
//! Go: one dash or two, `-name value` or `-name=value`. Of several with one name, the last one
//! wins. This table is the only place with defaults. Start with [`FLAGS`].
use super::UsageError;
use super::foreign;
use getopts::{Fail, HasArg, Occur, Options};
use std::collections::BTreeMap;

/// The longest line of `-h`, in characters.
const HELP_COLUMNS: usize = 96;
/// The indentation of the help of a flag.
const HELP_INDENT: &str = "      ";

/// The values that a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlagKind {
    /// One text.
    Text,
    /// Texts separated by commas. An empty one counts as not given.
    List,
    /// True or false; true if it stands without a value.
    Bool,
    /// A text without effect, for old command lines.
    Ignored,
}

/// The value of a setting that no source gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlagDefault {
    /// This text, which is checked like one from any source.
    Fixed(&'static str),
    /// A value that depends on something else; described for people.
    Described(&'static str),
    /// The setting has no value.
    Nothing,
}

/// A flag.
pub struct CommandFlag {
    /// Its name without a dash.
    pub name: &'static str,
    /// The values that it takes.
    pub kind: FlagKind,
    /// The word for its value in `-h`.
    hint: &'static str,
    /// Its value if no source gives one.
    pub default: FlagDefault,
    /// Its effect and its consequences, for `-h`.
    help: &'static str,
}

const fn flag(
    name: &'static str,
    kind: FlagKind,
    hint: &'static str,
    default: FlagDefault,
    help: &'static str,
) -> CommandFlag {
    CommandFlag {
        name,
        kind,
        hint,
        default,
        help,
    }
}

use FlagDefault::{Described, Fixed, Nothing};
use FlagKind::{Bool, Ignored, List, Text};

/// A heading of `-h` and the flags below it.
type FlagGroup = (&'static str, &'static [CommandFlag]);

/// All flags in the groups of `-h`.
pub const FLAGS: [FlagGroup; 8] = [
    ("This machine", &MACHINE),
    ("Finding the cluster", &CLUSTER),
    ("Raft and the log", &RAFT),
    ("Clients", &CLIENTS),
    ("TLS", &TLS),
    ("Log lines", &LOG),
    ("Help", &HELP),
    ("Accepted from old command lines, without effect", &IGNORED),
];

#[rustfmt::skip]
const MACHINE: [CommandFlag; 11] = [
    flag("name", Text, "NAME", Described("the host's name"),
        "Name of this machine, unique in the cluster: 1 to 128 visible characters without slashes. A new machine that joins \
         under the name of a member replaces it once that member is silent."),
    flag("data-dir", Text, "DIR", Described("NAME.etcd"),
        "Directory for log, snapshots, term and vote; made with its parents. Each machine needs its own. Without it \
         the machine is a new one."),
    flag("max-memory", Text, "N", Described("limit of the cgroup, or a quarter of the memory"),
        "Bytes of memory that this machine may use, at least 16777216. The bounds of key space, history, log, clients' \
         buffers and requests follow from it, unless they are set; one line of the log names them."),
    flag("addr", Text, "HOST:PORT", Fixed("127.0.0.1:4001"),
        "Client address that is told to clients and to the other machines, which must be able to reach it."),
    flag("bind-addr", Text, "HOST[:PORT]", Described("follows -addr"),
        "Client address to listen on. By default loopback if -addr is a loopback address, otherwise all interfaces, with \
         the port of -addr. Whoever reaches it can read and write all keys and remove members, unless -ca-file is set."),
    flag("peer-addr", Text, "HOST:PORT", Fixed("127.0.0.1:7001"),
        "Peer address that is told to the other machines, which must be able to reach it."),
    flag("peer-bind-addr", Text, "HOST[:PORT]", Described("follows -peer-addr"),
        "Peer address to listen on. By default loopback if -peer-addr is a loopback address, otherwise all interfaces, with \
         the port of -peer-addr. Whoever reaches it can join and remove machines, unless -peer-ca-file is set."),
    flag("config", Text, "FILE", Nothing,
        "Configuration file in TOML. It overrides /etc/etcd/etcd.conf, which is read if it exists."),
    flag("f", Bool, "", Fixed("false"), "The same as -force."),
    flag("force", Bool, "", Fixed("false"),
        "Wipe the data directory at this start: log, snapshots, term and vote, standby_info, and files of etcd. There \
         is no way back, and a restart with the flag wipes again."),
    flag("force-new-cluster", Text, "NUMBER", Nothing,
        "After the permanent loss of a majority: this machine goes on alone with what it holds, as a new cluster. \
         NUMBER names the lost cluster; the log of a machine without a majority tells it. Without effect in the data \
         directory of any other cluster."),
];

#[rustfmt::skip]
const CLUSTER: [CommandFlag; 9] = [
    flag("peers", List, "HOST:PORT,...", Nothing,
        "Peer addresses of machines to join. An empty machine without -peers, -peers-file and -discovery founds a \
         cluster of its own. A list that names only this machine still means to join."),
    flag("peers-file", Text, "FILE", Nothing,
        "File with that list, separated by commas or lines. Of -peers and -peers-file the one from the stronger \
         source counts; of equal ones, -peers-file."),
    flag("discovery", Text, "URL", Nothing,
        "URL of this cluster at a discovery service. The first machine that registers there founds the cluster, the \
         others join it."),
    flag("bootstrap", Bool, "", Fixed("false"),
        "Begin a cluster together: start every machine with this flag and the same -peers list, its own address \
         included. The one whose address sorts first founds the cluster once all of them wait; until then they wait \
         for ever. Without effect on a machine with data."),
    flag("max-retry-attempts", Text, "N", Fixed("3"),
        "Rounds of asking the machines to join before tern gives up and exits; 0: never give up."),
    flag("retry-interval", Text, "SECONDS", Described("random, 2 to 4"),
        "Pause between two rounds. If it is random, machines that start together do not ask together."),
    flag("cluster-active-size", Text, "N", Fixed("9"),
        "How many peers a new cluster keeps, at least 3; further machines are standbys. More peers survive more \
         failures and make each write slower. A running cluster is changed by PUT /v2/admin/config."),
    flag("cluster-remove-delay", Text, "SECONDS", Fixed("1800"),
        "Silence after which a new cluster removes a peer, so that a standby takes its place; at least 2."),
    flag("cluster-sync-interval", Text, "SECONDS", Fixed("5"),
        "How often the standbys of a new cluster fetch the list of machines; at least 1."),
];

#[rustfmt::skip]
const RAFT: [CommandFlag; 6] = [
    flag("peer-heartbeat-interval", Text, "MS", Fixed("50"),
        "Milliseconds between two heartbeats of the leader. Use one value on all machines."),
    flag("peer-election-timeout", Text, "MS", Fixed("200"),
        "Milliseconds without a heartbeat after which a follower starts an election; several heartbeat intervals. \
         Shorter: a dead leader is replaced sooner. Longer: slow networks and disks cause fewer elections."),
    flag("snapshot", Bool, "", Fixed("true"),
        "Write snapshots, and delete the log before them. Off: only when the log would fill the disk."),
    flag("snapshot-count", Text, "N", Fixed("10000"),
        "Log entries between two snapshots. More: less writing, more disk, a longer start."),
    flag("snapshot-bytes", Text, "N", Described("follows -max-memory and the key space"),
        "Bytes of log after which a snapshot is written, too. The log since then is held in memory."),
    flag("segment-bytes", Text, "N", Described("16777216, less with little memory or disk"),
        "Size of a log file in bytes: a multiple of 4096, at least 4 * (-max-request-bytes + 32768). The log takes at \
         least two of them on the disk."),
];

#[rustfmt::skip]
const CLIENTS: [CommandFlag; 10] = [
    flag("cors", List, "ORIGIN,...", Nothing,
        "Origins whose pages may use the client port from a browser, such as http://a.example; * for all."),
    flag("forward", Bool, "", Described("false, with -compat 2 true"),
        "Forward requests to the leader instead of redirecting the client: a follower forwards writes and linearizable \
         reads, a standby short requests and watches."),
    flag("compat", Text, "0.4|2", Fixed("0.4"),
        "Whose clients the answers suit: those of etcd 0.4 or of etcd 2. With 2, -forward is on by default."),
    flag("watch-history", Text, "N", Fixed("1000"),
        "Events kept for watchers that ask for the past (waitIndex). An older index is answered with \
         error 401, and the watcher must read the key again."),
    flag("watch-history-bytes", Text, "N", Described("16777216, less with little memory or disk"),
        "Bytes of these events."),
    flag("max-store-bytes", Text, "N", Described("9/16 of -max-memory"),
        "Bound of the key space in bytes: keys, values and about 100 bytes for each node. The leader refuses writes \
         that would make it larger with error 300, cause `store full`; deletions and expiry go on. Use one value on \
         all machines."),
    flag("max-client-bytes", Text, "N", Described("67108864, less with little memory"),
        "Bytes that the buffers of all clients may hold. Beyond it, those that hold the most for the longest are closed."),
    flag("max-request-bytes", Text, "N", Described("2097152, less with little memory"),
        "Longest body of a request in bytes, at most 16744447. A longer one is answered with status 413."),
    flag("http-read-timeout", Text, "SECONDS", Fixed("300"),
        "Shortens the time in which a request must arrive: 10 s for its head, 30 s for its body. Larger values change nothing."),
    flag("http-write-timeout", Text, "SECONDS", Fixed("300"),
        "Shortens the time for which a client may read nothing of an answer: 10 s. Larger values change nothing."),
];

#[rustfmt::skip]
const TLS: [CommandFlag; 6] = [
    flag("cert-file", Text, "FILE", Nothing,
        "Certificate of the client port (PEM). With it and -key-file the port speaks only https."),
    flag("key-file", Text, "FILE", Nothing, "Private key of -cert-file (PEM)."),
    flag("ca-file", Text, "FILE", Nothing,
        "Certificate authority (PEM). Clients must present a certificate that it has signed. Without it, TLS \
         encrypts but admits every client."),
    flag("peer-cert-file", Text, "FILE", Nothing,
        "Certificate of this machine among the peers (PEM), as server and as client. Use TLS on all machines or none."),
    flag("peer-key-file", Text, "FILE", Nothing, "Private key of -peer-cert-file (PEM)."),
    flag("peer-ca-file", Text, "FILE", Nothing,
        "Certificate authority (PEM) that must have signed the certificates of all peers. Without it, TLS encrypts \
         but admits every peer, and the authorities that the system trusts vouch for the peers that are dialled."),
];

#[rustfmt::skip]
const LOG: [CommandFlag; 5] = [
    flag("v", Bool, "", Fixed("false"), "Also log what helps to find a fault (level DEBUG)."),
    flag("vv", Bool, "", Fixed("false"),
        "Log everything (level TRACE). A release build has no lines of that level."),
    flag("vvv", Bool, "", Fixed("false"), "The same as -vv."),
    flag("log-format", Text, "text|json", Fixed("text"),
        "Write each event to stdout as a line of text, or as a JSON object on a line."),
    flag("trace", Text, "'*'", Nothing,
        "Serve /metrics as /debug/metrics too."),
];

#[rustfmt::skip]
const HELP: [CommandFlag; 3] = [
    flag("h", Bool, "", Fixed("false"), "The same as -help."),
    flag("help", Bool, "", Fixed("false"), "Print this text and exit."),
    flag("version", Bool, "", Fixed("false"), "Print the version and exit."),
];

#[rustfmt::skip]
const IGNORED: [CommandFlag; 3] = [
    flag("max-result-buffer", Ignored, "N", Nothing, ""),
    flag("graphite-host", Ignored, "HOST:PORT", Nothing, ""),
    flag("cpuprofile", Ignored, "FILE", Nothing, ""),
];

/// Names of etcd 0.4 and earlier, and the present names.
pub const OLD_NAMES: [(&str, &str); 20] = [
    ("C", "peers"),
    ("CF", "peers-file"),
    ("n", "name"),
    ("c", "addr"),
    ("cl", "bind-addr"),
    ("s", "peer-addr"),
    ("sl", "peer-bind-addr"),
    ("d", "data-dir"),
    ("m", "max-result-buffer"),
    ("r", "max-retry-attempts"),
    ("maxsize", "cluster-active-size"),
    ("max-cluster-size", "cluster-active-size"),
    ("clientCAFile", "ca-file"),
    ("clientCert", "cert-file"),
    ("clientKey", "key-file"),
    ("serverCAFile", "peer-ca-file"),
    ("serverCert", "peer-cert-file"),
    ("serverKey", "peer-key-file"),
    ("snapshotCount", "snapshot-count"),
    ("peer-heartbeat-timeout", "peer-heartbeat-interval"),
];

/// All flags.
pub fn all() -> impl Iterator<Item = &'static CommandFlag> {
    FLAGS.iter().flat_map(|(_, flags)| flags.iter())
}

/// The flag of this name.
///
/// # Panics
///
/// If there is none: the code asks only for flags in the table.
pub fn by_name(name: &str) -> &'static CommandFlag {
    let found = all().find(|flag| flag.name == name);
    found.unwrap_or_else(|| panic!("-{name} is in the table"))
}

/// The flags on the command line.
#[derive(Debug, Default)]
pub struct CommandLine {
    /// The values, by the present names of the flags.
    pub values: BTreeMap<&'static str, String>,
    /// A sentence for each old name that was used.
    pub warnings: Vec<String>,
}

/// Reads the command line.
///
/// # Errors
///
/// A flag is unknown or lacks its value, or a word is no flag.
pub fn read(args: &[String]) -> Result<CommandLine, UsageError> {
    let mut options = Options::new();
    options.long_only(true);
    let present = all().map(|flag| (flag.name, flag.kind));
    let old = OLD_NAMES.iter().map(|(old, now)| (*old, by_name(now).kind));
    for (name, kind) in present.chain(old) {
        let is_short = name.len() == 1;
        let (short, long) = if is_short { (name, "") } else { ("", name) };
        let argument = match kind {
            Bool => HasArg::Maybe,
            Text | List | Ignored => HasArg::Yes,
        };
        options.opt(short, long, "", "", argument, Occur::Multi);
    }
    let matches = options.parse(join_snapshot(args)).map_err(usage_error)?;
    if let Some(word) = matches.free.first() {
        return Err(UsageError(format!(
            "unexpected word \"{word}\": flags are written -name value or -name=value"
        )));
    }
    let mut given = CommandLine::default();
    for flag in all() {
        let old = OLD_NAMES.iter().filter(|(_, now)| *now == flag.name);
        let mut found: Vec<(usize, String)> = Vec::new();
        for name in old.map(|(old, _)| *old).chain([flag.name]) {
            let values = matches.opt_strs_pos(name);
            if name != flag.name && !values.is_empty() {
                given.warnings.push(format!(
                    "-{name} is an old name, use -{} instead",
                    flag.name
                ));
            }
            for at in matches.opt_positions(name) {
                let has_value = values.iter().any(|(valued, _)| *valued == at);
                if !has_value {
                    found.push((at, "true".to_string()));
                }
            }
            found.extend(values);
        }
        if let Some((_, last)) = found.into_iter().max_by_key(|(at, _)| *at) {
            given.values.insert(flag.name, last);
        }
    }
    Ok(given)
}

/// Joins `-snapshot false` into `-snapshot=false`. The documents of etcd 0.4 use the first form,
/// although its booleans take a value only with `=`.
fn join_snapshot(args: &[String]) -> Vec<String> {
    let mut joined = Vec::with_capacity(args.len());
    let mut words = args.iter().peekable();
    while let Some(word) = words.next() {
        let is_snapshot = word == "-snapshot" || word == "--snapshot";
        match words.peek() {
            Some(value) if is_snapshot && to_bool(value).is_some() => {
                joined.push(format!("{word}={value}"));
                words.next();
            }
            // The word after a flag with a value is its value, even if it looks like a flag.
            Some(value) if takes_next(word) => {
                joined.push(word.clone());
                joined.push(value.to_string());
                words.next();
            }
            Some(_) | None => joined.push(word.clone()),
        }
    }
    joined
}

/// Whether the word after `arg` is its value.
fn takes_next(arg: &str) -> bool {
    let Some(name) = arg.strip_prefix('-') else {
        return false;
    };
    let name = name.strip_prefix('-').unwrap_or(name);
    let old = OLD_NAMES.iter().find(|(old, _)| *old == name);
    let name = old.map_or(name, |(_, now)| *now);
    all().any(|flag| flag.name == name && flag.kind != Bool)
}

/// A boolean, spelled as in Go's flags.
pub fn to_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The flag that was probably meant: it has the same letters, or the shortest one that begins with
/// them.
fn similar_to(name: &str) -> Option<&'static str> {
    let letters = |name: &str| name.replace(['-', '_'], "").to_ascii_lowercase();
    let given = letters(name);
    let begins = all().filter(|flag| given.len() > 1 && letters(flag.name).starts_with(&given));
    begins.map(|flag| flag.name).min_by_key(|flag| flag.len())
}

fn usage_error(fail: Fail) -> UsageError {
    UsageError(match fail {
        Fail::UnrecognizedOption(name) => match foreign::replacement(&name) {
            Some(text) => format!("-{name} is a flag of etcd, not of tern: {text}"),
            None => match similar_to(&name) {
                Some(flag) => format!("unknown flag -{name}: did you mean -{flag}?"),
                None => format!("unknown flag -{name}"),
            },
        },
        Fail::ArgumentMissing(name) => format!("-{name} needs a value"),
        Fail::UnexpectedArgument(name) => format!("-{name} takes no value"),
        Fail::OptionMissing(name) | Fail::OptionDuplicated(name) => {
            format!("-{name} must be given once")
        }
    })
}

/// The text of `-h`.
pub fn help() -> String {
    let mut text = String::from(
        "tern: a replicated key-value store with the interface of etcd 0.4\n\n\
         usage: tern [-name NAME] [-data-dir DIR] [-peers HOST:PORT,...] [flags]\n\n\
         A machine alone:     tern -name node0 -data-dir node0\n\
         To join a cluster:   tern -name node1 -peers 10.0.0.1:7001 -addr 10.0.0.2:4001 \
         -peer-addr 10.0.0.2:7001\n",
    );
    for (group, flags) in &FLAGS {
        text.push_str(&format!("\n{group}:\n"));
        for flag in *flags {
            push_flag(&mut text, flag);
        }
    }
    text.push_str(
        "\nFlags of true or false take their value with =, as in -snapshot=false.\n\
         Every flag except -f, -force, -h, -help and -version is also an environment variable\n\
         (ETCD_PEER_ADDR for -peer-addr, ETCD_VERBOSE for -v) and a key of the configuration file (addr in\n\
         the table [peer]). Flags override variables, variables override files.\n",
    );
    text
}

/// Adds the lines about one flag.
fn push_flag(text: &mut String, flag: &CommandFlag) {
    text.push_str(&format!("  -{} ", flag.name));
    if !flag.hint.is_empty() {
        text.push_str(&format!("{} ", flag.hint));
    }
    match flag.default {
        Fixed(value) | Described(value) => text.push_str(&format!("(default: {value})")),
        Nothing if flag.kind == Ignored => {}
        Nothing => text.push_str("(no default)"),
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    let mut column = 0;
    for word in flag.help.split_whitespace() {
        if column == 0 {
            text.push_str(HELP_INDENT);
            column = HELP_INDENT.len();
        } else if column + 1 + word.len() > HELP_COLUMNS {
            text.push('\n');
            text.push_str(HELP_INDENT);
            column = HELP_INDENT.len();
        } else {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += word.len();
    }
    if column > 0 {
        text.push('\n');
    }
}
