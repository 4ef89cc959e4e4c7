//! Where the value of a setting comes from: flag, variable, file, default. The strongest source
//! that gives a value wins.
//!
//! A variable is the flag's name in capitals with `_` for `-` and `ETCD_` before it. A key of a
//! file is the name with `_` for `-`; in the tables `[peer]` and `[cluster]` it lacks that prefix.
//! An empty variable or key counts as not given. Start with [`Sources::get`].
use super::flags::{self, CommandLine, FlagDefault, FlagKind};
use super::foreign;
use super::{ProcessInputs, UsageError};
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// The configuration file that is read if it exists.
const SYSTEM_FILE: &str = "/etc/etcd/etcd.conf";

/// Variables that are read elsewhere, for tests.
const TEST_VARIABLES: [&str; 1] = ["TERN_TESTS"];

/// The kind of a source. A stronger source compares as less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourceRank {
    /// The command line.
    Flag,
    /// The environment.
    Variable,
    /// The configuration file with this number; that of `-config` is 0 if there is one.
    File(usize),
    /// No source gives a value.
    Default,
}

/// The value of a setting, not checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The value as it was written.
    pub text: String,
    /// The name of the setting for messages: `-addr`, `ETCD_ADDR`, `addr in FILE`.
    pub label: String,
    /// The source that gives the value.
    pub rank: SourceRank,
}

/// All sources.
pub struct Sources<'a> {
    inputs: &'a ProcessInputs<'a>,
    /// The values on the command line, by the names of the flags.
    flags: BTreeMap<&'static str, String>,
    /// The configuration files, the strongest first.
    files: Vec<ConfigFile>,
}

/// A configuration file.
struct ConfigFile {
    path: String,
    /// The values in the file, by the names of the flags. No value is empty.
    values: BTreeMap<&'static str, String>,
}

impl<'a> Sources<'a> {
    /// Reads the configuration files. Adds a warning for each key that is ignored.
    ///
    /// # Errors
    ///
    /// A file cannot be read or is no TOML, or a key has a value of the wrong type.
    pub fn read(
        inputs: &'a ProcessInputs<'a>,
        command_line: CommandLine,
        warnings: &mut Vec<String>,
    ) -> Result<Sources<'a>, UsageError> {
        warnings.extend(command_line.warnings);
        warn_of_unknown_variables(inputs.variables, warnings);
        let mut sources = Sources {
            inputs,
            flags: command_line.values,
            files: Vec::new(),
        };
        if let Some(config) = sources.get("config") {
            let text = read_named(inputs, &config)?;
            let file = ConfigFile::parse(&config.text, &text, warnings)?;
            sources.files.push(file);
        }
        let system = (inputs.read)(SYSTEM_FILE)
            .map_err(|why| UsageError(format!("{SYSTEM_FILE} cannot be read: {why}")))?;
        if let Some(text) = system {
            let file = ConfigFile::parse(SYSTEM_FILE, &text, warnings)?;
            sources.files.push(file);
        }
        Ok(sources)
    }

    /// The value of a setting; `None` if no source gives one and it has no fixed default.
    pub fn get(&self, name: &'static str) -> Option<Value> {
        self.flag_value(name)
            .or_else(|| self.variable_value(name))
            .or_else(|| self.file_value(name))
            .or_else(|| match flags::by_name(name).default {
                FlagDefault::Fixed(text) => Some(Value {
                    text: text.to_string(),
                    label: format!("-{name}"),
                    rank: SourceRank::Default,
                }),
                FlagDefault::Described(_) | FlagDefault::Nothing => None,
            })
    }

    fn flag_value(&self, name: &'static str) -> Option<Value> {
        let text = self.flags.get(name)?;
        if text.is_empty() && flags::by_name(name).kind == FlagKind::List {
            return None;
        }
        Some(Value {
            text: text.clone(),
            label: format!("-{name}"),
            rank: SourceRank::Flag,
        })
    }

    fn variable_value(&self, name: &'static str) -> Option<Value> {
        variables(name).into_iter().find_map(|variable| {
            let text = (self.inputs.env)(&variable).filter(|t| !t.is_empty())?;
            Some(Value {
                text,
                label: variable,
                rank: SourceRank::Variable,
            })
        })
    }

    fn file_value(&self, name: &'static str) -> Option<Value> {
        let mut files = self.files.iter().enumerate();
        files.find_map(|(i, file)| {
            let text = file.values.get(name)?.clone();
            Some(Value {
                text,
                label: format!("{} in {}", key(name), file.path),
                rank: SourceRank::File(i),
            })
        })
    }
}

/// The text of a file that a setting names.
///
/// # Errors
///
/// The file does not exist or cannot be read.
pub fn read_named(inputs: &ProcessInputs, setting: &Value) -> Result<String, UsageError> {
    let why = match (inputs.read)(&setting.text) {
        Ok(Some(text)) => return Ok(text),
        Ok(None) => "there is no such file".to_string(),
        Err(why) => why,
    };
    Err(UsageError(format!(
        "{}: cannot read {}: {why}",
        setting.label, setting.text
    )))
}

/// Whether only the command line may have the flag. `-f` in a unit file would wipe at each restart,
/// and container images set `ETCD_VERSION` for other purposes.
fn is_flag_only(name: &str) -> bool {
    matches!(name, "f" | "force" | "h" | "help" | "version")
}

/// Adds a warning for each variable that looks like a setting and is none.
fn warn_of_unknown_variables(names: &[String], warnings: &mut Vec<String>) {
    for name in names {
        let setting = name.strip_prefix("ETCD_");
        let is_for_tests = TEST_VARIABLES.contains(&name.as_str());
        if (setting.is_none() && !name.starts_with("TERN_")) || is_for_tests {
            continue;
        }
        if flags::all().any(|flag| variables(flag.name).contains(name)) {
            continue;
        }
        let setting = setting.unwrap_or_default();
        let flag = setting.to_ascii_lowercase().replace('_', "-");
        warnings.push(match foreign::replacement(&flag) {
            Some(text) => format!("{name} is a setting of etcd and is ignored: {text}"),
            None => format!("{name} is no setting of tern and is ignored"),
        });
    }
}

/// The variables of a setting, the strongest first.
fn variables(name: &str) -> Vec<String> {
    match name {
        "v" => vec!["ETCD_VERBOSE".into()],
        "vv" => vec!["ETCD_VERY_VERBOSE".into()],
        "vvv" => vec!["ETCD_VERY_VERY_VERBOSE".into()],
        "snapshot-count" => vec!["ETCD_SNAPSHOT_COUNT".into(), "ETCD_SNAPSHOTCOUNT".into()],
        _ if is_flag_only(name) => Vec::new(),
        _ => vec![format!(
            "ETCD_{}",
            name.to_ascii_uppercase().replace('-', "_")
        )],
    }
}

/// The key of a setting in a file. A key in a table is written `table.key`.
fn key(name: &str) -> String {
    let is_in_table = name.starts_with("peer-") || name.starts_with("cluster-");
    match name {
        "v" => "verbose".into(),
        "vv" => "very_verbose".into(),
        "vvv" => "very_very_verbose".into(),
        "cpuprofile" => "cpu_profile_file".into(),
        _ if is_in_table => name.replacen('-', ".", 1).replace('-', "_"),
        _ => name.replace('-', "_"),
    }
}

/// The keys that a file may have, in the order of `-h`; a key in a table is written `table.key`.
/// Keys without effect are left out.
pub fn file_keys() -> impl Iterator<Item = String> {
    let flags = flags::all().filter(|flag| flag.kind != FlagKind::Ignored);
    let flags = flags.filter(|flag| !is_flag_only(flag.name) && flag.name != "config");
    flags.map(|flag| key(flag.name))
}

impl ConfigFile {
    fn parse(path: &str, text: &str, warnings: &mut Vec<String>) -> Result<ConfigFile, UsageError> {
        let tree: BTreeMap<String, Json> =
            basic_toml::from_str(text).map_err(|why| UsageError(format!("{path}: {why}")))?;
        let mut values = BTreeMap::new();
        for (name, value) in flatten(tree) {
            let flag = flags::all().find(|f| !is_flag_only(f.name) && key(f.name) == name);
            let Some(flag) = flag.filter(|f| f.name != "config") else {
                warnings.push(format!("{path}: unknown key {name} is ignored"));
                continue;
            };
            let Some(text) = to_text(&value, flag.kind) else {
                let expected = match flag.kind {
                    FlagKind::List => "a list of texts or one text with commas",
                    FlagKind::Text | FlagKind::Bool | FlagKind::Ignored => {
                        "a text, a number, true or false"
                    }
                };
                return Err(UsageError(format!(
                    "{name} in {path}: {value} is wrong: expected {expected}"
                )));
            };
            if !text.is_empty() {
                values.insert(flag.name, text);
            }
        }
        Ok(ConfigFile {
            path: path.to_string(),
            values,
        })
    }
}

/// The keys of a file with their values; a key in a table as `table.key`.
fn flatten(tree: BTreeMap<String, Json>) -> Vec<(String, Json)> {
    let mut flat = Vec::new();
    for (name, value) in tree {
        match value {
            Json::Object(table) => {
                flat.extend(table.into_iter().map(|(k, v)| (format!("{name}.{k}"), v)));
            }
            value => flat.push((name, value)),
        }
    }
    flat
}

/// A value of a file as a flag would have it; `None` if its type does not suit the flag.
fn to_text(value: &Json, kind: FlagKind) -> Option<String> {
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Bool(_) | Json::Number(_) => Some(value.to_string()),
        Json::Array(items) if kind == FlagKind::List => {
            let texts: Option<Vec<&str>> = items.iter().map(Json::as_str).collect();
            Some(texts?.join(","))
        }
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}
