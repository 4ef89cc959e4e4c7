//! The table of flags: names, kinds, help; and the command line read by it.
//!
//! Variables and file keys follow from a flag's name (`sources`). Flags are written as Go's are:
//! one dash or two, `-name value` or `-name=value`, the last of several wins. Start with `FLAGS`.
use super::Usage;
use getopts::{Fail, HasArg, Occur, Options};
use std::collections::BTreeMap;

/// What a flag's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// Separated by commas; an empty one names nothing.
    List,
    /// May stand without a value.
    Bool,
    /// Accepted for the sake of old command lines; has no meaning.
    Ignored,
}

/// One flag.
pub struct Flag {
    pub name: &'static str,
    pub kind: Kind,
    /// What its value is called in the help.
    hint: &'static str,
    help: &'static str,
}

const fn flag(name: &'static str, kind: Kind, hint: &'static str, help: &'static str) -> Flag {
    Flag {
        name,
        kind,
        hint,
        help,
    }
}

use Kind::{Bool, Ignored, List, Text};

/// All flags, in groups as the help shows them.
#[rustfmt::skip]
pub const FLAGS: [(&str, &[Flag]); 8] = [
    ("This machine", &[
        flag("name", Text, "NAME", "its name in the cluster (default: the host's name)"),
        flag("data-dir", Text, "DIR", "log, snapshots and state; made with its parents (default: NAME.etcd)"),
        flag("addr", Text, "HOST:PORT", "client address to advertise (default: 127.0.0.1:4001)"),
        flag("bind-addr", Text, "HOST[:PORT]", "client address to listen on (default: all interfaces, the port of -addr)"),
        flag("peer-addr", Text, "HOST:PORT", "peer address to advertise (default: 127.0.0.1:7001)"),
        flag("peer-bind-addr", Text, "HOST[:PORT]", "peer address to listen on (default: all interfaces, the port of -peer-addr)"),
        flag("config", Text, "FILE", "configuration file, laid over /etc/etcd/etcd.conf"),
        flag("f", Bool, "", "the same as -force"),
        flag("force", Bool, "", "wipe the data directory first: log, snapshots, state, standby_info"),
    ]),
    ("Finding the cluster", &[
        flag("peers", List, "HOST:PORT,...", "peer addresses of machines to join"),
        flag("peers-file", Text, "FILE", "a file with that list, separated by commas or lines"),
        flag("discovery", Text, "URL", "a discovery service's URL for this cluster"),
        flag("max-retry-attempts", Text, "N", "rounds of asking before giving up; 0: never give up (default: 3)"),
        flag("retry-interval", Text, "SECONDS", "between two rounds (default: random, 2 to 4)"),
        flag("cluster-active-size", Text, "N", "peers a new cluster keeps; further machines stand by (default: 9, at least 3)"),
        flag("cluster-remove-delay", Text, "SECONDS", "silence after which a peer is removed (default: 1800, at least 2)"),
        flag("cluster-sync-interval", Text, "SECONDS", "how often a standby fetches the machines (default: 5, at least 1)"),
    ]),
    ("Raft", &[
        flag("peer-heartbeat-interval", Text, "MS", "between two heartbeats of the leader (default: 50)"),
        flag("peer-election-timeout", Text, "MS", "silence of the leader before an election (default: 200)"),
        flag("snapshot", Bool, "", "write snapshots; false: only to spare the disk when it must (default: true)"),
        flag("snapshot-count", Text, "N", "log entries between two snapshots (default: 10000)"),
        flag("segment-bytes", Text, "N", "size of a file of the log (default: 16777216)"),
    ]),
    ("Clients", &[
        flag("cors", List, "ORIGIN,...", "origins that browsers may call from; * for all"),
        flag("forward", Bool, "", "as a follower, pass writes and quorum reads on to the leader"),
        flag("compat", Text, "0.4|2", "2: answer as clients of etcd 2 expect, with -forward (default: 0.4)"),
        flag("watch-history", Text, "N", "events kept for watchers that ask for the past (default: 1000)"),
        flag("max-request-bytes", Text, "N", "longest body of a request (default: 2097152)"),
        flag("http-read-timeout", Text, "SECONDS", "longest that a request may take to arrive (default: 300)"),
        flag("http-write-timeout", Text, "SECONDS", "longest that an answer may take to leave (default: 300)"),
    ]),
    ("TLS", &[
        flag("cert-file", Text, "FILE", "certificate of the client port (PEM); with -key-file it speaks https"),
        flag("key-file", Text, "FILE", "its private key"),
        flag("ca-file", Text, "FILE", "authority that clients' certificates must be signed by"),
        flag("peer-cert-file", Text, "FILE", "certificate of the peer port, as server and as client"),
        flag("peer-key-file", Text, "FILE", "its private key"),
        flag("peer-ca-file", Text, "FILE", "authority that peers' certificates must be signed by"),
    ]),
    ("Log", &[
        flag("v", Bool, "", "verbose"),
        flag("vv", Bool, "", "very verbose"),
        flag("vvv", Bool, "", "everything"),
        flag("log-format", Text, "text|json", "one line of text or one JSON object an event (default: text)"),
        flag("trace", Text, "'*'", "serve /debug/metrics (not in this version yet)"),
    ]),
    ("Help", &[
        flag("h", Bool, "", "the same as -help"),
        flag("help", Bool, "", "print this and exit"),
        flag("version", Bool, "", "print the version and exit"),
    ]),
    ("Accepted for the sake of old command lines, without effect", &[
        flag("max-result-buffer", Ignored, "N", ""),
        flag("graphite-host", Ignored, "HOST:PORT", ""),
        flag("cpuprofile", Ignored, "FILE", ""),
    ]),
];

/// Names of old and what they are called now.
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

/// All flags in a row.
pub fn all() -> impl Iterator<Item = &'static Flag> {
    FLAGS.iter().flat_map(|(_, flags)| flags.iter())
}

/// What the command line says, by the flags' present names.
#[derive(Debug, Default)]
pub struct Given {
    pub values: BTreeMap<&'static str, String>,
    /// Old names that were used.
    pub warnings: Vec<String>,
}

/// Reads the command line.
pub fn read(args: &[String]) -> Result<Given, Usage> {
    let mut options = Options::new();
    options.long_only(true);
    let old = OLD_NAMES.iter().map(|(old, name)| (*old, kind_of(name)));
    let names: Vec<(&str, Kind)> = all().map(|f| (f.name, f.kind)).chain(old).collect();
    for (name, kind) in &names {
        let (short, long) = if name.len() == 1 {
            (*name, "")
        } else {
            ("", *name)
        };
        let argument = match kind {
            Bool => HasArg::Maybe,
            Text | List | Ignored => HasArg::Yes,
        };
        options.opt(short, long, "", "", argument, Occur::Multi);
    }
    let matches = options.parse(join_snapshot(args)).map_err(unreadable)?;
    if let Some(word) = matches.free.first() {
        return Err(Usage(format!(
            "unexpected word \"{word}\": flags are written -name value or -name=value"
        )));
    }
    let mut given = Given::default();
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
            let bare = matches.opt_positions(name).into_iter();
            let bare = bare.filter(|at| values.iter().all(|(valued, _)| valued != at));
            found.extend(bare.map(|at| (at, "true".to_string())));
            found.extend(values.iter().cloned());
        }
        if let Some((_, last)) = found.into_iter().max_by_key(|(at, _)| *at) {
            given.values.insert(flag.name, last);
        }
    }
    Ok(given)
}

fn kind_of(name: &str) -> Kind {
    let found = all().find(|f| f.name == name);
    found.expect("old names stand for present ones").kind
}

/// `-snapshot false` is one flag: 0.4's own documents write it so, though its booleans take a value
/// only with `=`.
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
            // The value of another flag is not looked at, whatever it reads like.
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

/// Whether the word after this one is its value.
fn takes_next(arg: &str) -> bool {
    let Some(name) = arg.strip_prefix('-') else {
        return false;
    };
    let name = name.strip_prefix('-').unwrap_or(name);
    let old = OLD_NAMES.iter().find(|(old, _)| *old == name);
    let name = old.map_or(name, |(_, now)| *now);
    all().any(|f| f.name == name && f.kind != Bool)
}

/// A boolean as Go's flags spell it.
pub fn to_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn unreadable(fail: Fail) -> Usage {
    Usage(match fail {
        Fail::UnrecognizedOption(name) => format!("unknown flag -{name}"),
        Fail::ArgumentMissing(name) => format!("-{name} needs a value"),
        Fail::OptionMissing(name) | Fail::OptionDuplicated(name) => format!("-{name}: once"),
        Fail::UnexpectedArgument(name) => format!("-{name} takes no value"),
    })
}

/// What `-h` prints.
pub fn help() -> String {
    let mut text = String::from(
        "tern: a replicated key-value store with the interface of etcd 0.4\n\n\
         usage: tern [-name NAME] [-data-dir DIR] [-peers HOST:PORT,...] [flags]\n\n\
         One machine alone:   tern -name node0 -data-dir node0\n\
         To join a cluster:   tern -name node1 -peers 10.0.0.1:7001 -addr 10.0.0.2:4001 -peer-addr 10.0.0.2:7001\n",
    );
    for (group, flags) in &FLAGS {
        text.push_str(&format!("\n{group}:\n"));
        for flag in *flags {
            let head = format!("  -{} {}", flag.name, flag.hint);
            let line = format!("{head:<38} {}", flag.help);
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
    text.push_str(
        "\nSwitches are off unless it says otherwise; they take a value with =, as in -snapshot=false.\n\
         Every flag but -f, -force, -h, -help and -version is also a variable (ETCD_PEER_ADDR for -peer-addr,\n\
         ETCD_VERBOSE for -v) and a key of the file (addr in the table [peer]). Flags win over variables,\n\
         variables over files.\n",
    );
    text
}
