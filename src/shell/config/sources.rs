//! Where a setting's value comes from: flag, then variable, then file; the first that says
//! something wins.
//!
//! A variable is the flag's name in capitals with `_` and `ETCD_` before it; a file's key the name
//! with `_`, in the tables `[peer]` and `[cluster]` without their prefix. An empty variable or key
//! says nothing. Start with `Sources::get`.
use super::flags::{self, Given, Kind};
use super::{Source, Usage};
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// The file that is read when it is there.
const SYSTEM_FILE: &str = "/etc/etcd/etcd.conf";

/// A setting as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub text: String,
    /// What to call it in a complaint: `-addr`, `ETCD_ADDR`, `addr in FILE`.
    pub origin: String,
    /// 0 for a flag; a smaller one wins.
    pub rank: usize,
    /// Which words are a boolean differs: any but `0` and `false` are true in a variable.
    pub from_env: bool,
}

/// All sources together.
pub struct Sources<'a> {
    source: &'a Source<'a>,
    flags: BTreeMap<&'static str, String>,
    /// The one that wins first.
    files: Vec<File>,
}

struct File {
    path: String,
    values: BTreeMap<&'static str, String>,
}

impl<'a> Sources<'a> {
    /// Reads the files; adds to the warnings.
    pub fn read(
        source: &'a Source<'a>,
        given: Given,
        warnings: &mut Vec<String>,
    ) -> Result<Sources<'a>, Usage> {
        warnings.extend(given.warnings);
        let mut sources = Sources {
            source,
            flags: given.values,
            files: Vec::new(),
        };
        if let Some(config) = sources.get("config") {
            let Some(text) = (source.read)(&config.text).map_err(|why| unread(&config, &why))?
            else {
                return Err(unread(&config, "there is no such file"));
            };
            let file = File::parse(&config.text, &text, warnings)?;
            sources.files.push(file);
        }
        let system = (source.read)(SYSTEM_FILE)
            .map_err(|why| Usage(format!("{SYSTEM_FILE} cannot be read: {why}")))?;
        if let Some(text) = system {
            let file = File::parse(SYSTEM_FILE, &text, warnings)?;
            sources.files.push(file);
        }
        Ok(sources)
    }

    /// The value that wins, if any source says something.
    pub fn get(&self, name: &'static str) -> Option<Value> {
        let is_list = flags::all().any(|f| f.name == name && f.kind == Kind::List);
        let flag = self.flags.get(name).filter(|t| !(is_list && t.is_empty()));
        if let Some(text) = flag {
            return Some(Value {
                text: text.clone(),
                origin: format!("-{name}"),
                rank: 0,
                from_env: false,
            });
        }
        for variable in variables(name) {
            let text = (self.source.env)(&variable).filter(|t| !t.is_empty());
            if let Some(text) = text {
                return Some(Value {
                    text,
                    origin: variable,
                    rank: 1,
                    from_env: true,
                });
            }
        }
        let mut files = self.files.iter().enumerate();
        files.find_map(|(i, file)| {
            let text = file.values.get(name)?.clone();
            Some(Value {
                text,
                origin: format!("{} in {}", key(name), file.path),
                rank: 2 + i,
                from_env: false,
            })
        })
    }
}

fn unread(config: &Value, why: &str) -> Usage {
    Usage(format!(
        "{}: cannot read {}: {why}",
        config.origin, config.text
    ))
}

/// Flags that only the command line has: one that wipes must not survive in a unit file, and
/// containers set `ETCD_VERSION` for their own ends.
fn only_a_flag(name: &str) -> bool {
    matches!(name, "f" | "force" | "h" | "help" | "version")
}

fn variables(name: &str) -> Vec<String> {
    match name {
        "v" => vec!["ETCD_VERBOSE".into()],
        "vv" => vec!["ETCD_VERY_VERBOSE".into()],
        "vvv" => vec!["ETCD_VERY_VERY_VERBOSE".into()],
        "snapshot-count" => vec!["ETCD_SNAPSHOT_COUNT".into(), "ETCD_SNAPSHOTCOUNT".into()],
        _ if only_a_flag(name) => Vec::new(),
        _ => vec![format!(
            "ETCD_{}",
            name.to_ascii_uppercase().replace('-', "_")
        )],
    }
}

/// A flag's key in a file, with its table before a dot.
fn key(name: &str) -> String {
    let tables = ["peer-", "cluster-"];
    let table = tables.iter().find(|t| name.starts_with(**t));
    match (name, table) {
        ("v", _) => "verbose".into(),
        ("vv", _) => "very_verbose".into(),
        ("vvv", _) => "very_very_verbose".into(),
        ("cpuprofile", _) => "cpu_profile_file".into(),
        (_, Some(_)) => name.replacen('-', ".", 1).replace('-', "_"),
        (_, None) => name.replace('-', "_"),
    }
}

impl File {
    fn parse(path: &str, text: &str, warnings: &mut Vec<String>) -> Result<File, Usage> {
        let tree: BTreeMap<String, Json> =
            basic_toml::from_str(text).map_err(|why| Usage(format!("{path}: {why}")))?;
        let mut values = BTreeMap::new();
        for (name, value) in flatten(tree) {
            let flag = flags::all().find(|f| !only_a_flag(f.name) && key(f.name) == name);
            let Some(flag) = flag.filter(|f| f.name != "config") else {
                warnings.push(format!("{path}: unknown key {name} is ignored"));
                continue;
            };
            let Some(text) = to_text(&value, flag.kind) else {
                let expected = match flag.kind {
                    Kind::List => "a list of texts or one text with commas",
                    Kind::Text | Kind::Bool | Kind::Ignored => "a text, a number, true or false",
                };
                return Err(Usage(format!(
                    "{name} in {path}: {value} is wrong: expected {expected}"
                )));
            };
            if !text.is_empty() {
                values.insert(flag.name, text);
            }
        }
        Ok(File {
            path: path.to_string(),
            values,
        })
    }
}

/// The keys of the file; those of a table as `table.key`.
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

fn to_text(value: &Json, kind: Kind) -> Option<String> {
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Bool(_) | Json::Number(_) => Some(value.to_string()),
        Json::Array(items) if kind == Kind::List => {
            let texts: Option<Vec<&str>> = items.iter().map(Json::as_str).collect();
            Some(texts?.join(","))
        }
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}
