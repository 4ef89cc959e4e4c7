//! Traces of the configuration: flags, environment variables and files, and the settings or the
//! error that they give.
//!
//! The commands of a trace; the output of each stands beneath it, indented:
//! - `tern ARGS…`: parses a command line and prints the settings that differ from the defaults.
//! - `tern-in-full ARGS…`: the same with all settings.
//! - `env NAME=VALUE`, `file PATH TEXT` (`\n` is a new line): set a variable or a file for the
//!   commands that follow.
//! - `fresh`: removes all variables and files.
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use tern::core::public_id::PublicId;
use tern::shell::config::{Config, ProcessInputs, Start, UsageError, parse};
use tern_support::rng::Rng;

/// The environment variables and the files that a command line is parsed with.
#[derive(Default)]
struct World {
    env: BTreeMap<String, String>,
    files: BTreeMap<String, String>,
}

impl World {
    fn start(&self, args: &[String]) -> Result<Start, UsageError> {
        let variables: Vec<String> = self.env.keys().cloned().collect();
        let source = ProcessInputs {
            args,
            variables: &variables,
            env: &|name| self.env.get(name).cloned(),
            read: &|path| match self.files.get(path) {
                Some(text) if text == "unreadable" => Err("permission denied".to_string()),
                found => Ok(found.cloned()),
            },
            host_name: "host",
            disk_bytes: &|_| None,
        };
        parse(&source)
    }

    fn command(&mut self, line: &str) -> String {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        match command {
            "fresh" => *self = World::default(),
            "env" => {
                let (name, value) = rest.split_once('=').expect("NAME=VALUE");
                self.env.insert(name.to_string(), value.to_string());
            }
            "file" => {
                let (path, text) = rest.split_once(' ').expect("a path and a text");
                let text = text.replace("\\n", "\n");
                self.files.insert(path.to_string(), text);
            }
            "tern" | "tern-in-full" => {
                let args: Vec<String> = rest.split_whitespace().map(str::to_string).collect();
                return outcome(&self.start(&args), command == "tern-in-full");
            }
            other => panic!("no such command: {other}"),
        }
        String::new()
    }
}

fn outcome(start: &Result<Start, UsageError>, whole: bool) -> String {
    let config = match start {
        Ok(Start::Run(config)) => config,
        Ok(Start::Print(text)) => {
            let version = env!("CARGO_PKG_VERSION");
            let line = text
                .lines()
                .next()
                .expect("a line")
                .replace(version, "VERSION");
            return format!("prints: {line}\n");
        }
        Err(UsageError(text)) => return format!("wrong: {text}\n"),
    };
    let Ok(Start::Run(default)) = World::default().start(&[]) else {
        panic!("the defaults are right");
    };
    let mut report = String::new();
    for ((name, value), (_, usual)) in fields(config).into_iter().zip(fields(&default)) {
        if value != usual || (whole && name != "warnings") {
            writeln!(report, "{name}: {value}").expect("a string takes all");
        }
    }
    if report.is_empty() {
        report.push_str("the defaults\n");
    }
    report
}

fn lost(cluster: Option<PublicId>) -> String {
    cluster.map_or("none".into(), |id| id.to_string())
}

fn fields(config: &Config) -> Vec<(&'static str, String)> {
    let mut fields = settings(config);
    fields.push(("bootstrap", config.bootstrap.to_string()));
    fields.push(("lost cluster", lost(config.force_new_cluster)));
    fields.push(("warnings", config.warnings.join("; ")));
    fields
}

/// All fields that `fields` does not add.
fn settings(config: &Config) -> Vec<(&'static str, String)> {
    let Config {
        name,
        data_dir,
        addr,
        bind_addr,
        peer_addr,
        peer_bind_addr,
        peers,
        discovery,
        bootstrap: _,
        force,
        force_new_cluster: _,
        tls,
        peer_tls,
        cors,
        read_timeout_ms,
        write_timeout_ms,
        max_retry_attempts,
        retry_interval_ms,
        heartbeat_ms,
        election_ms,
        snapshots,
        snapshot_count,
        cluster,
        verbosity,
        log_json,
        trace,
        forward,
        compat_2: _,
        watch_history: _,
        memory: _,
        memory_bounds: _,
        store_bytes_max: _,
        client_bytes_max: _,
        request_bytes_max: _,
        segment_bytes: _,
        warnings: _,
    } = config;
    let all = vec![
        ("name", name.clone()),
        ("data dir", data_dir.display().to_string()),
        ("client url", config.client_url()),
        ("peer url", config.peer_url()),
        ("addr", addr.clone()),
        ("bind addr", bind_addr.clone()),
        ("peer addr", peer_addr.clone()),
        ("peer bind addr", peer_bind_addr.clone()),
        ("peers", format!("{peers:?}")),
        ("discovery", format!("{discovery:?}")),
        ("force", force.to_string()),
        ("tls", format!("{tls:?}")),
        ("peer tls", format!("{peer_tls:?}")),
        ("cors", format!("{cors:?}")),
        ("read timeout ms", read_timeout_ms.to_string()),
        ("write timeout ms", write_timeout_ms.to_string()),
        ("max retry attempts", max_retry_attempts.to_string()),
        ("retry interval ms", format!("{retry_interval_ms:?}")),
        ("heartbeat ms", heartbeat_ms.to_string()),
        ("election ms", election_ms.to_string()),
        ("snapshots", snapshots.to_string()),
        ("snapshot count", snapshot_count.to_string()),
        ("cluster", format!("{cluster:?}")),
        ("verbosity", format!("{verbosity:?}")),
        ("log json", log_json.to_string()),
        ("trace", trace.to_string()),
        ("forward", forward.to_string()),
    ];
    [all, sizes(config)].concat()
}

/// The flavour, and sizes, most of them derived from the memory.
fn sizes(config: &Config) -> Vec<(&'static str, String)> {
    vec![
        ("compat 2", config.compat_2.to_string()),
        ("watch history", config.watch_history.to_string()),
        ("memory", format!("{:?}", config.memory)),
        ("memory bounds", format!("{:?}", config.memory_bounds)),
        ("store bytes max", config.store_bytes_max.to_string()),
        ("client bytes max", config.client_bytes_max.to_string()),
        ("request bytes max", config.request_bytes_max.to_string()),
        ("segment bytes", config.segment_bytes.to_string()),
    ]
}

#[test]
fn traces() {
    for file in fs::read_dir("tests/testdata/config").expect("the traces") {
        let path = file.expect("an entry").path();
        let script = fs::read_to_string(&path).expect("text");
        let mut report = String::new();
        let mut world = World::default();
        for line in script.lines().filter(|l| !l.starts_with(' ')) {
            writeln!(report, "{line}").expect("a string takes all");
            if !line.is_empty() && !line.starts_with('#') {
                for outcome in world.command(line).lines() {
                    writeln!(report, "  {outcome}").expect("a string takes all");
                }
            }
        }
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &report).expect("the traces can be written");
        } else {
            assert!(report == script, "{} differs:\n{report}", path.display());
        }
    }
}

#[test]
fn help_fits_a_terminal_and_names_every_flag() {
    let Ok(Start::Print(help)) = World::default().start(&["-h".to_string()]) else {
        panic!("-h prints");
    };
    assert!(help.lines().all(|line| line.len() <= 120), "{help}");
    for flag in [
        "-name ",
        "-peers ",
        "-snapshot ",
        "-vvv ",
        "-cluster-active-size ",
        "-compat ",
    ] {
        assert!(help.contains(&format!("\n  {flag}")), "{flag}");
    }
}

/// A flag, its variable, its key in a file, and a value that is not the default.
const SETTINGS: &str = "\
addr ETCD_ADDR addr h:1
bind-addr ETCD_BIND_ADDR bind_addr 1.2.3.4
bootstrap ETCD_BOOTSTRAP bootstrap true
ca-file ETCD_CA_FILE ca_file x
cluster-active-size ETCD_CLUSTER_ACTIVE_SIZE cluster.active_size 5
cluster-remove-delay ETCD_CLUSTER_REMOVE_DELAY cluster.remove_delay 2.5
cluster-sync-interval ETCD_CLUSTER_SYNC_INTERVAL cluster.sync_interval 2.5
compat ETCD_COMPAT compat 2
cors ETCD_CORS cors http://a
cpuprofile ETCD_CPUPROFILE cpu_profile_file x
data-dir ETCD_DATA_DIR data_dir x
discovery ETCD_DISCOVERY discovery http://a/b
force-new-cluster ETCD_FORCE_NEW_CLUSTER force_new_cluster 1a2b3c4d5e6f7a8b
forward ETCD_FORWARD forward true
graphite-host ETCD_GRAPHITE_HOST graphite_host x
http-read-timeout ETCD_HTTP_READ_TIMEOUT http_read_timeout 2.5
http-write-timeout ETCD_HTTP_WRITE_TIMEOUT http_write_timeout 7
log-format ETCD_LOG_FORMAT log_format json
max-client-bytes ETCD_MAX_CLIENT_BYTES max_client_bytes 2000000
max-memory ETCD_MAX_MEMORY max_memory 33554432
max-request-bytes ETCD_MAX_REQUEST_BYTES max_request_bytes 4096
max-result-buffer ETCD_MAX_RESULT_BUFFER max_result_buffer 9
max-store-bytes ETCD_MAX_STORE_BYTES max_store_bytes 1000000
max-retry-attempts ETCD_MAX_RETRY_ATTEMPTS max_retry_attempts 9
name ETCD_NAME name x
peer-addr ETCD_PEER_ADDR peer.addr h:1
peer-bind-addr ETCD_PEER_BIND_ADDR peer.bind_addr 1.2.3.4
peer-election-timeout ETCD_PEER_ELECTION_TIMEOUT peer.election_timeout 900
peer-heartbeat-interval ETCD_PEER_HEARTBEAT_INTERVAL peer.heartbeat_interval 20
peers ETCD_PEERS peers a:1,b:2
retry-interval ETCD_RETRY_INTERVAL retry_interval 2.5
segment-bytes ETCD_SEGMENT_BYTES segment_bytes 33554432
snapshot ETCD_SNAPSHOT snapshot false
snapshot-bytes ETCD_SNAPSHOT_BYTES snapshot_bytes 1000000
snapshot-count ETCD_SNAPSHOT_COUNT snapshot_count 9
snapshot-count ETCD_SNAPSHOTCOUNT snapshot_count 9
trace ETCD_TRACE trace *
v ETCD_VERBOSE verbose true
vv ETCD_VERY_VERBOSE very_verbose true
vvv ETCD_VERY_VERY_VERBOSE very_very_verbose true
watch-history ETCD_WATCH_HISTORY watch_history 9
watch-history-bytes ETCD_WATCH_HISTORY_BYTES watch_history_bytes 1000000
";
const CONFIG_FILE: &str = "/etc/etcd/etcd.conf";

/// The outcome of a file that gives this key this literal. An error names the flag in place of the
/// key, so that both can be compared.
fn by_key(flag: &str, key: &str, literal: &str) -> String {
    let (table, bare) = match key.split_once('.') {
        Some((table, bare)) => (format!("[{table}]\n"), bare),
        None => (String::new(), key),
    };
    let mut world = World::default();
    let text = format!("{table}{bare} = {literal}\n");
    world.files.insert(CONFIG_FILE.to_string(), text);
    let found = outcome(&world.start(&[]), false);
    found.replace(&format!("{key} in {CONFIG_FILE}"), &format!("-{flag}"))
}

/// A flag is a variable and a key too, and means the same there.
#[test]
fn flag_variable_and_key_are_one_setting() {
    for line in SETTINGS.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [flag, variable, key, value] = words[..] else {
            panic!("{line}: not four words");
        };
        let args = [format!("-{flag}={value}")];
        let by_flag = outcome(&World::default().start(&args), false);
        assert_ne!(by_flag, "the defaults\n", "{flag}");
        let mut world = World::default();
        world.env.insert(variable.to_string(), value.to_string());
        let by_variable = outcome(&world.start(&[]), false);
        assert_eq!(by_variable.replace(variable, &format!("-{flag}")), by_flag);
        let by_text = by_key(flag, key, &format!("\"{value}\""));
        assert_eq!(by_text, by_flag, "{key}");
        let is_literal = value.parse::<f64>().is_ok() || value == "true" || value == "false";
        if is_literal {
            assert_eq!(by_key(flag, key, value), by_flag, "{key}");
        }
    }
}

/// Words of a command line, good and bad.
const WORDS: [&str; 34] = [
    "-name",
    "--name=",
    "-addr=",
    "a:1",
    "[::1]:1",
    "[::1",
    "]:1",
    ":",
    "-",
    "--",
    "=",
    "-=",
    "-v",
    "-v=2",
    "-snapshot",
    "false",
    "-peers",
    "a:1,,b:2,",
    "-peers-file",
    "/f",
    "-config",
    "-bind-addr=",
    "::",
    "\u{0}",
    "é",
    "-retry-interval=",
    "1e999",
    "-1",
    "0x1",
    "18446744073709551616",
    "-segment-bytes=",
    "-C",
    "-cl=",
    "-vv",
];
/// A good file of settings, which is then damaged.
const FILE: &str = "name = \"a\"
peers = [\"a:1\"]
[peer]
addr = \"b:1\"
heartbeat_interval = 5
[cluster]
active_size = 5
remove_delay = 1.5
";

/// A command line of a few of the words.
fn draw_args(rng: &mut Rng) -> Vec<String> {
    let mut args = Vec::new();
    for _ in 0..rng.index(5) {
        let mut word = rng.pick(&WORDS).to_string();
        if word.ends_with('=') {
            word.push_str(WORDS[rng.index(WORDS.len())]);
        }
        args.push(word);
    }
    args
}

/// The file with up to two places changed.
fn draw_file(rng: &mut Rng) -> String {
    let mut text: Vec<char> = FILE.chars().collect();
    for _ in 0..rng.index(3) {
        let at = rng.index(text.len().max(1));
        match rng.index(3) {
            0 if at < text.len() => drop(text.remove(at)),
            1 => text.insert(at, *rng.pick(&['"', '[', ']', '=', '\n', '\\', '0', 'é'])),
            _ => text.truncate(at),
        }
    }
    text.into_iter().collect()
}

#[test]
fn words_and_files_of_any_kind_are_taken_or_refused() {
    let mut rng = Rng::new(1);
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..5_000 {
        let args = draw_args(&mut rng);
        let text = draw_file(&mut rng);
        let mut world = World::default();
        for path in ["/f", "/etc/etcd/etcd.conf"] {
            world.files.insert(path.to_string(), text.clone());
        }
        match world.start(&args) {
            Ok(_) => taken += 1,
            Err(UsageError(text)) => {
                assert!(!text.is_empty());
                refused += 1;
            }
        }
    }
    assert!(
        taken > 500 && refused > 500,
        "{taken} taken, {refused} refused"
    );
}
