//! The example of a configuration file, `dist/tern.conf`: it has every setting, and each line that
//! shows one is read as that setting.
use tern::shell::config::{ProcessInputs, Start, file_keys, parse};

const EXAMPLE: &str = include_str!("../../dist/tern.conf");

/// The lines that show a setting, without the `#` before them.
fn shown() -> impl Iterator<Item = &'static str> {
    let lines = EXAMPLE.lines();
    let bare = lines.map(|line| line.strip_prefix('#').unwrap_or(line));
    bare.filter(|line| line.starts_with('[') || has_key(line))
}

fn has_key(line: &str) -> bool {
    let Some((key, _)) = line.split_once(" = ") else {
        return false;
    };
    key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// The warnings of a start with this file.
fn warnings_of(text: &str) -> Vec<String> {
    let args = ["-config=example".to_string()];
    let inputs = ProcessInputs {
        args: &args,
        env: &|_| None,
        variables: &[],
        read: &|path| match path {
            "example" => Ok(Some(text.to_string())),
            "/etc/tern/peers" => Ok(Some("10.0.0.2:7001".to_string())),
            _ => Ok(None),
        },
        host_name: "host",
        disk_bytes: &|_| None,
    };
    match parse(&inputs) {
        Ok(Start::Run(config)) => config.warnings.clone(),
        Ok(Start::Print(text)) => panic!("{text}"),
        Err(refusal) => panic!("{}", refusal.0),
    }
}

#[test]
fn the_example_as_it_is_and_with_all_it_shows_is_read_without_a_warning() {
    assert_eq!(warnings_of(EXAMPLE), Vec::<String>::new());
    let all: Vec<&str> = shown().collect();
    assert_eq!(warnings_of(&all.join("\n")), Vec::<String>::new());
}

#[test]
fn the_example_shows_every_setting() {
    let mut table = String::new();
    let mut keys = Vec::new();
    for line in shown() {
        if let Some(name) = line.strip_prefix('[') {
            table = name.replace(']', ".");
        } else if let Some((key, _)) = line.split_once(" = ") {
            keys.push(format!("{table}{key}"));
        }
    }
    for key in file_keys() {
        assert!(keys.contains(&key), "{key} is not shown");
    }
}
