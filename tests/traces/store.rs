//! The script language of the key space: one command a line, and below it, indented, what it does.
//!
//! - Writes: `set`, `create`, `post`, `post-padded`, `update`, `cas`, `delete`, `cad PATH [VALUE]
//!   [OPTION…]`, `view ACTION PATH [VALUE]`, `sync NOW`, `fill PREFIX COUNT [BYTES]`. Without a
//!   value a directory is made, or the value stays; `''` is an empty value. Options: `expires=N
//!   value=V index=N or-create refresh dir recursive`.
//! - Reads: `get PATH [recursive]`, `list NAME PATH [recursive|all]`, `page NAME MAX`, `past NAME`,
//!   `end NAME`.
//! - Watchers: `watch ID PATH [recursive] [stream] [since=N]`, `backlog ID`, `unwatch ID`.
//! - Snapshots: `begin`, `chunk BYTES`, `abandon`, `rebuild` (shows the key space that the chunks
//!   so far make), `restart` (replaces the key space by one restored from a snapshot of it).
//! - Others: `limits EVENTS BYTES`, `free`, `due`, `stats`, `nodes`.
//!
//! A node is shown as `PATH = VALUE` or `PATH/`, `[modified created]`, `until EXPIRATION`.
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use tern::core::cluster_time::{Lease, Stamp};
use tern::core::command::{Command, KeyPath, Naming};
use tern::core::store::*;

const LIMITS: HistoryLimits = HistoryLimits {
    events: 1000,
    bytes: 16 << 20,
};

/// The script with the outcome of each command below it, in place of the outcomes that it had.
pub fn run(script: &str) -> String {
    let mut bench = Bench {
        store: Store::new(LIMITS),
        limits: LIMITS,
        listings: BTreeMap::new(),
        snapshot: Vec::new(),
        writing: false,
    };
    let mut output = String::new();
    for line in script.lines().filter(|l| !l.starts_with(' ')) {
        output.push_str(line);
        output.push('\n');
        if !line.is_empty() && !line.starts_with('#') {
            for outcome in bench.command(line).lines() {
                writeln!(output, "  {outcome}").expect("a string takes all");
            }
        }
    }
    output
}

struct Bench {
    store: Store,
    limits: HistoryLimits,
    listings: BTreeMap<String, Listing>,
    snapshot: Vec<u8>,
    writing: bool,
}

/// The words of a line.
struct Words<'a> {
    /// The command and its arguments.
    plain: Vec<&'a str>,
    /// The words with `=`, and the flags with an empty value.
    options: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn new(line: &'a str) -> Words<'a> {
        let mut words = Words {
            plain: Vec::new(),
            options: BTreeMap::new(),
        };
        let flags = ["or-create", "refresh", "dir", "recursive", "stream", "all"];
        for (at, word) in line.split_whitespace().enumerate() {
            match word.split_once('=') {
                Some((name, value)) => _ = words.options.insert(name, value),
                None if at > 1 && flags.contains(&word) => _ = words.options.insert(word, ""),
                None => words.plain.push(word),
            }
        }
        words
    }

    fn at(&self, at: usize) -> &'a str {
        self.plain
            .get(at)
            .unwrap_or_else(|| panic!("a word is missing: {:?}", self.plain))
    }

    fn path(&self) -> KeyPath {
        KeyPath::new(self.at(1))
    }

    fn value(&self) -> Option<Arc<str>> {
        self.plain.get(2).map(|v| v.trim_matches('\'').into())
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.options.get(name).map(|n| n.parse().expect("a number"))
    }

    /// The lease that ends at `expires=N`. Its stamp has equal clocks, so times are shown as the
    /// cluster clock has them.
    fn lease(&self) -> Option<Lease> {
        let at_ns = self.number("expires")?;
        Some(Lease::new(at_ns as i64, Stamp::default()))
    }

    fn has(&self, name: &str) -> bool {
        self.options.contains_key(name)
    }

    fn prev_value(&self) -> Option<Box<str>> {
        self.options.get("value").map(|v| Box::from(*v))
    }
}

impl Bench {
    fn command(&mut self, line: &str) -> String {
        let words = Words::new(line);
        let mut output = match words.at(0) {
            "limits" => {
                self.limits = HistoryLimits {
                    events: words.at(1).parse().expect("a number"),
                    bytes: words.at(2).parse().expect("a number"),
                };
                self.store = Store::new(self.limits);
                "an empty key space".into()
            }
            "fill" => self.fill(&words),
            "sync" => {
                let before = self.store.stats().expire_count;
                let now_ns = words.at(1).parse().expect("a number");
                let more = self.store.expire(Stamp::new(now_ns, now_ns));
                let expired = self.store.stats().expire_count - before;
                let more = if more { ", more is due" } else { "" };
                format!("{expired} expired{more}; index {}", self.store.index().0)
            }
            "view" => {
                let action = match words.at(1) {
                    "create" => Action::Create,
                    "set" => Action::Set,
                    "update" => Action::Update,
                    "delete" => Action::Delete,
                    other => panic!("no such action: {other}"),
                };
                let path = KeyPath::new(words.at(2));
                show_event(
                    &self
                        .store
                        .set_view(action, &path, words.plain.get(3).copied()),
                )
            }
            "get" | "list" | "page" | "past" | "end" => self.read(&words),
            "watch" | "backlog" | "unwatch" => self.wait(&words),
            "begin" | "chunk" | "abandon" | "rebuild" | "restart" => self.snapshot(&words),
            "free" => format!("more: {}", self.store.free_some()),
            "due" => format!("next expiration {:?}", self.store.next_expiry_ns()),
            "stats" => show_stats(&self.store.stats()),
            "nodes" => format!("{} nodes", self.store.nodes()),
            _ => self.write(&words),
        };
        let mut notifications = Vec::new();
        self.store.take_notifications(&mut notifications);
        for Notification { event, watchers } in &notifications {
            let ids: Vec<String> = watchers.iter().map(|(id, _)| id.0.to_string()).collect();
            let event = show_event(event);
            write!(output, "\nwakes {}: {event}", ids.join(" ")).expect("a string takes all");
        }
        output
    }

    fn write(&mut self, words: &Words) -> String {
        match self.store.apply(&parse_write(words)) {
            Ok(event) => show_event(&event),
            Err(error) => {
                let (code, index) = (error.code as u32, self.store.index().0);
                format!(
                    "error {code} {}: {}; index {index}",
                    error.code.message(),
                    error.cause
                )
            }
        }
    }

    fn fill(&mut self, words: &Words) -> String {
        let count: usize = words.at(2).parse().expect("a number");
        let bytes = words
            .plain
            .get(3)
            .map_or(1, |b| b.parse().expect("a number"));
        for i in 0..count {
            let set = Command::Set {
                path: KeyPath::new(&format!("{}{i:05}", words.at(1))),
                value: Some("x".repeat(bytes).into()),
                lease: words.lease(),
            };
            self.store.apply(&set).expect("a fresh file");
        }
        format!("index {}", self.store.index().0)
    }

    fn read(&mut self, words: &Words) -> String {
        let (name, recursive) = (words.at(1), words.has("recursive"));
        match words.at(0) {
            "get" => match self.store.get(&words.path(), recursive) {
                Ok(mut listing) => show_page(&mut self.store, &mut listing, 1000),
                Err(error) => format!("error {} {}", error.code as u32, error.cause),
            },
            "list" => {
                let listing = if words.has("all") {
                    self.store.get_all(false)
                } else {
                    let path = KeyPath::new(words.at(2));
                    self.store.get(&path, recursive).expect("a node is there")
                };
                self.listings.insert(name.into(), listing);
                "opened".into()
            }
            "page" => {
                let listing = self.listings.get_mut(name).expect("an open listing");
                show_page(
                    &mut self.store,
                    listing,
                    words.at(2).parse().expect("a number"),
                )
            }
            "past" => match self.store.history(&self.listings[name]) {
                None => "no longer frozen".into(),
                Some((events, index, _)) => {
                    let events: Vec<String> = events.iter().map(show_event).collect();
                    format!("as of {}\n{}", index.0, events.join("\n"))
                }
            },
            _ => {
                let listing = self.listings.remove(name).expect("an open listing");
                self.store.end_listing(listing);
                "ended".into()
            }
        }
    }

    fn wait(&mut self, words: &Words) -> String {
        let id = WatcherId(words.at(1).parse().expect("a number"));
        let found = match words.at(0) {
            "unwatch" => {
                self.store.unwatch(id);
                return format!("{} wait", self.store.stats().watchers);
            }
            "backlog" => Ok(self.store.backlog(id)),
            _ => self.store.watch(
                id,
                &KeyPath::new(words.at(2)),
                words.has("recursive"),
                words.has("stream"),
                words.number("since"),
            ),
        };
        match found {
            Ok(WatchReply::Waiting) => "waits".into(),
            Ok(WatchReply::Cleared) => "cleared".into(),
            Ok(WatchReply::Backlog(events)) => {
                let events: Vec<String> = events.iter().map(show_event).collect();
                format!("from the past:\n{}", events.join("\n"))
            }
            Err(error) => format!("error {} {}", error.code as u32, error.cause),
        }
    }

    fn snapshot(&mut self, words: &Words) -> String {
        match words.at(0) {
            "begin" => {
                self.snapshot.clear();
                self.store.snapshot_begin();
                self.writing = true;
                "begun".into()
            }
            "chunk" if !self.writing => "no snapshot is being written".into(),
            "chunk" => {
                let bytes = words.at(1).parse().expect("a number");
                let step = self.store.snapshot_chunk(bytes, &mut self.snapshot);
                self.writing = step == SnapshotStep::More;
                format!("{step:?}")
            }
            "abandon" => {
                self.writing = false;
                self.store.snapshot_abandon();
                "abandoned".into()
            }
            "rebuild" => {
                let mut store = rebuild(&self.snapshot, self.limits);
                let mut listing = store.get_all(false);
                let shown = show_page(&mut store, &mut listing, 1000);
                let (events, index, _) = store.history(&listing).expect("frozen");
                format!("{shown}index {}, {} events", index.0, events.len())
            }
            _ => {
                self.store.snapshot_begin();
                let mut bytes = Vec::new();
                while self.store.snapshot_chunk(50, &mut bytes) == SnapshotStep::More {}
                let again = rebuild(&bytes, self.limits);
                let equal = again.state_hash() == self.store.state_hash();
                self.store = again;
                format!("equal: {equal}; index {}", self.store.index().0)
            }
        }
    }
}

fn parse_write(words: &Words) -> Command {
    let (path, value) = (words.path(), words.value());
    let lease = words.lease();
    let refresh = words.has("refresh");
    let naming = match words.at(0) {
        "post" => Naming::InOrder,
        "post-padded" => Naming::InOrderPadded,
        _ => Naming::Given,
    };
    match words.at(0) {
        "set" => Command::Set { path, value, lease },
        "create" | "post" | "post-padded" => Command::Create {
            path,
            value,
            lease,
            naming,
        },
        "update" => Command::Update {
            path,
            value,
            lease,
            refresh,
        },
        "cas" => Command::CompareAndSwap {
            path,
            value,
            lease,
            prev_value: words.prev_value(),
            prev_index: words.number("index").filter(|index| *index != 0),
            or_create: words.has("or-create"),
            refresh,
        },
        "delete" => Command::Delete {
            path,
            dir: words.has("dir"),
            recursive: words.has("recursive"),
        },
        "cad" => Command::CompareAndDelete {
            path,
            prev_value: words.prev_value(),
            prev_index: words.number("index").filter(|index| *index != 0),
        },
        other => panic!("no such command: {other}"),
    }
}

/// The key space that the bytes of a snapshot make, read in pieces of seven.
fn rebuild(bytes: &[u8], limits: HistoryLimits) -> Store {
    let mut restore = Restore::new(limits);
    for piece in bytes.chunks(7) {
        restore.chunk(piece).expect("a sound snapshot");
    }
    restore.finish().expect("a whole snapshot")
}

fn show_page(store: &mut Store, listing: &mut Listing, max: usize) -> String {
    let mut items = Vec::new();
    let page = store.page(listing, max, &mut items);
    let mut output = String::new();
    let dots = items.len().saturating_sub(20);
    for (at, item) in items.iter().enumerate() {
        if at < 10 || at >= 10 + dots {
            let depth = "  ".repeat(item.depth as usize);
            writeln!(output, "{depth}{}", show_view(&item.view)).expect("a string takes all");
        } else if at == 10 {
            writeln!(output, "… {dots} more").expect("a string takes all");
        }
    }
    match page {
        Page::Done => {}
        Page::Failed(error) => {
            output.push_str(&format!("error {} {}", error.code as u32, error.cause));
        }
        other => output.push_str(&format!("{other:?}")),
    }
    output
}

fn show_view(view: &View) -> String {
    let value = match &view.value {
        Some(value) if value.len() > 20 => format!(" = {} bytes", value.len()),
        Some(value) => format!(" = {value}"),
        None => (if view.dir { "/" } else { "" }).into(),
    };
    let until = view
        .expires_ns
        .map_or(String::new(), |ns| format!(" until {ns}"));
    format!(
        "{}{value} [{} {}]{until}",
        view.key, view.modified.0, view.created.0
    )
}

fn show_event(event: &Event) -> String {
    let prev = event
        .prev
        .as_ref()
        .map_or(String::new(), |p| format!("; was {}", show_view(p)));
    format!("{:?} {}{prev}", event.action, show_view(&event.node))
}

/// The counters that are not 0.
fn show_stats(stats: &Stats) -> String {
    let text = format!("{stats:?}");
    let fields = text
        .trim_start_matches("Stats {")
        .trim_end_matches('}')
        .split(',');
    let counted = fields
        .map(str::trim)
        .filter(|f| !f.is_empty() && !f.ends_with(": 0"));
    counted.collect::<Vec<_>>().join(", ")
}
