//! Makes the manual pages from the programs: tern(1) from the table of flags that `-h` prints,
//! tern.conf(5) from `dist/tern.conf`, and those of ternctl from `ternctl man`. `UPDATE=1` writes the
//! pages. Without it they are compared, so that they cannot differ from the programs. Start with
//! `check`.
use crate::{root, text_of};
use std::process::{Command, Stdio};
use tern::VERSION;
use tern_support::server::tern;
use tern_support::skip::{Need, lacks};

const TERN_1: &str = "dist/man/tern.1";
const TERN_CONF_5: &str = "dist/man/tern.conf.5";

/// The text of tern(1) before the flags.
const TERN_1_HEAD: &str = r#".SH NAME
tern \- replicated key\-value store with the HTTP interface of etcd 0.4
.SH SYNOPSIS
.B tern
.RB [ \-name
.IR NAME ]
.RB [ \-data\-dir
.IR DIR ]
.RB [ \-peers
.IR HOST:PORT ,...]
[flags]
.SH DESCRIPTION
tern keeps keys and values in memory and in a log on the disk, alone or with the other machines of a
cluster. It acknowledges a write once it is on the disks of a majority. Clients use HTTP on port 4001;
the machines use port 7001 among themselves.
.PP
Without flags tern founds a cluster of one in the directory
.IR HOSTNAME.etcd .
.SH OPTIONS
A flag is written with one dash or two, its value after a space or after
.BR = ;
the last of several wins. Flags of true or false take their value with
.B =
alone, as in
.BR \-snapshot=false .
"#;

/// The text of tern(1) after the flags.
const TERN_1_TAIL: &str = r#".SH ENVIRONMENT
Every flag except
.BR \-f ", " \-force ", " \-h ", " \-help " and " \-version
is also a variable: its name in capitals with
.B _
for
.BR \- ,
and
.B ETCD_
before it
.RB ( ETCD_PEER_ADDR ;
for
.BR \-v ,
.B \-vv
and
.B \-vvv
.BR ETCD_VERBOSE ", " ETCD_VERY_VERBOSE " and " ETCD_VERY_VERY_VERBOSE ).
Flags override variables, variables override files.
.SH FILES
.TP
.I /etc/tern/tern.conf
The configuration of the service; see
.BR tern.conf (5).
.TP
.I /etc/etcd/etcd.conf
Read if it exists; the file of
.B \-config
overrides it.
.TP
.I /var/lib/tern/data
The data directory of the service.
.SH SIGNALS
.TP
.BR SIGTERM ", " SIGINT
Stop with exit status 0, after the requests under way. A leader hands over first. A second one ends
tern at once.
.TP
.B SIGHUP
Read the certificates again.
.TP
.B SIGUSR1
Log the state of the machine and of each peer.
.SH EXIT STATUS
.TP
.B 0
Stopped by a signal, or
.BR \-h ", " \-help ", " \-version .
.TP
.B 1
tern cannot start or go on; the last line says why.
.SH SEE ALSO
.BR tern.conf (5),
.BR curl (1),
.BR systemctl (1),
.BR journalctl (1)
.PP
The documents in
.IR /usr/share/doc/tern :
.I reference.md
for the interface,
.I operations.md
for the care of a cluster,
.I troubleshooting.md
for the lines of the log,
.I tls.md
for certificates.
"#;

/// The text of tern.conf(5) before the keys.
const TERN_CONF_5_HEAD: &str = r#".SH NAME
tern.conf \- configuration of tern
.SH SYNOPSIS
.I /etc/tern/tern.conf
.SH DESCRIPTION
A file in TOML, which
.BR tern (1)
reads if it is named with
.BR \-config .
Flags and variables win over it. Milliseconds are whole numbers; seconds may have a fraction. Unknown keys are logged and
ignored. Each key is shown with its default, or with an example if there is no default.
"#;

const TERN_CONF_5_TAIL: &str = r#".SH SEE ALSO
.BR tern (1)
"#;

/// The text as roff prints it.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

fn title(name: &str, section: u8) -> String {
    let name = name.to_uppercase();
    format!(
        ".\\\" Made by tests/docs/man.rs; see there.\n.TH {name} {section} \"\" \"tern {VERSION}\"\n"
    )
}

/// The text of `-h`.
fn help() -> String {
    let output = tern().arg("-h").output().expect("the binary starts");
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// tern(1).
fn tern_1() -> String {
    let help = help();
    let mut page = title("tern", 1) + TERN_1_HEAD;
    let mut flags = 0;
    // Before the first group stands the usage, after the last one a note.
    let groups = help.split("\n\n").filter(|group| group.contains(":\n  -"));
    for group in groups {
        let (name, lines) = group.split_once(":\n").expect("a group has a name");
        page.push_str(&format!(".SS {}\n", escaped(name)));
        for line in lines.lines() {
            if let Some(flag) = line.strip_prefix("  -") {
                flags += 1;
                let (flag, rest) = flag.split_once(' ').unwrap_or((flag, ""));
                page.push_str(&format!(
                    ".TP\n\\fB\\-{}\\fR {}\n",
                    escaped(flag),
                    escaped(rest)
                ));
            } else {
                page.push_str(&format!("{}\n", escaped(line.trim())));
            }
        }
    }
    assert!(flags > 40, "only {flags} flags were found");
    page + TERN_1_TAIL
}

/// tern.conf(5): of each paragraph of the file its comment and the keys below it.
fn tern_conf_5() -> String {
    let file = text_of("dist/tern.conf");
    let mut page = title("tern.conf", 5) + TERN_CONF_5_HEAD;
    let mut keys = 0;
    let (_, settings) = file.split_once("\n\n# -- ").expect("a first section");
    for part in format!("# -- {settings}").split("\n\n") {
        let mut comment = Vec::new();
        let mut shown = Vec::new();
        for line in part.lines() {
            let bare = line.strip_prefix('#').unwrap_or(line);
            if let Some(section) = line.strip_prefix("# -- ") {
                page.push_str(&format!(".SS {}\n", escaped(section)));
            } else if let Some(text) = line.strip_prefix("# ") {
                comment.push(escaped(text));
            } else if line.starts_with('[') {
                page.push_str(&format!("In the table \\fB{}\\fR:\n", escaped(line)));
            } else {
                shown.push(escaped(bare));
            }
        }
        for (at, key) in shown.iter().enumerate() {
            let mark = if at == 0 { ".TP" } else { ".TQ" };
            keys += 1;
            page.push_str(&format!("{mark}\n\\fB{key}\\fR\n"));
        }
        if !comment.is_empty() {
            page.push_str(&comment.join("\n"));
            page.push('\n');
        }
    }
    assert!(keys > 40, "only {keys} keys were found");
    page + TERN_CONF_5_TAIL
}

/// Compares a page with its file, or writes it. Then lets `man` look for faults in it.
fn check(path: &str, page: &str) {
    let file = root().join(path);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, page).expect("it can be written");
    }
    let is_same = text_of(path) == page;
    assert!(
        is_same,
        "{path} is not what the program says now: run this test with UPDATE=1"
    );
    if lacks(Need::Program("man")) {
        return;
    }
    let mut man = Command::new("man");
    man.args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"])
        .arg(file);
    man.env("LC_ALL", "C.UTF-8")
        .env("MANWIDTH", "80")
        .stdin(Stdio::null());
    let output = man.output().expect("man starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{path}: {said}");
}

#[test]
fn tern_1_is_the_table_of_flags() {
    check(TERN_1, &tern_1());
}

#[test]
fn tern_conf_5_is_the_example() {
    check(TERN_CONF_5, &tern_conf_5());
}

/// The names of the pages in a folder that are of ternctl, sorted.
#[cfg(feature = "ctl")]
fn ternctl_pages(folder: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("ternctl")).collect();
    names.sort();
    names
}

/// Only a build with the feature has ternctl.
#[cfg(feature = "ctl")]
#[test]
fn the_pages_of_ternctl_are_those_that_it_writes() {
    let written = tempfile::tempdir().expect("a directory");
    let mut ternctl = Command::new(env!("CARGO_BIN_EXE_ternctl"));
    let status = ternctl.arg("man").arg(written.path()).status();
    assert!(status.expect("the binary starts").success());
    let pages = ternctl_pages(written.path());
    for name in &pages {
        let page = std::fs::read_to_string(written.path().join(name)).expect("UTF-8");
        check(&format!("dist/man/{name}"), &page);
    }
    let kept = ternctl_pages(&root().join("dist/man"));
    assert_eq!(kept, pages, "pages of commands that are gone");
}
