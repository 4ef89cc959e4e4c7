//! `import`: loads a key space into the running cluster, key by key.
//!
//! Several connections write the files at once. A write makes the missing directories of its path.
//! The directories that are empty or have a ttl follow. Start with [`import`].
use crate::endpoints;
use crate::failure::{ExitReason, Failure};
use crate::http::CtlRequest;
use crate::keys::{Parameters, key_target, parse_key};
use crate::output::print_line;
use crate::progress;
use crate::session::{Session, failure_of};
use crate::source::{self, PortableNode};
use clap::Args;
use indicatif::ProgressBar;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use ureq::http::Method;

/// Error 105 of etcd.
const KEY_EXISTS: &[u8] = b"\"errorCode\":105";

#[derive(Debug, Args)]
#[command(after_help = "\
FROM is the client URL of a running tern, etcd 0.4, etcd 2.x or etcd 3.4 with --enable-v2 (its v2 keys:
those of its v3 interface are others), a file of ternctl backup or ternctl export, or - for stdin.

Values, directories, ttls and hidden keys arrive. From etcd 2.x and 3.4 a hidden key (a segment that
begins with _) arrives if --hidden names it: no listing of etcd shows it, so look for such names in
the configuration of its clients (locksmith, fleet and vulcand used some). What does not arrive:
indexes, which are new; the history of events; users and roles. Nothing below /_etcd is imported.

Stop the writers first: what changes at the source meanwhile may be missed.")]
pub struct ImportArguments {
    /// A URL, a file, or - for stdin
    from: String,
    /// A hidden key or directory of etcd; may be given several times
    #[arg(long, value_name = "KEY", value_parser = parse_key)]
    hidden: Vec<String>,
    /// Replace keys that exist
    #[arg(long, conflicts_with = "skip_existing")]
    overwrite: bool,
    /// Leave keys alone that exist, for example to go on after an interruption
    #[arg(long)]
    skip_existing: bool,
    /// How many connections write at once
    #[arg(long, value_name = "NUMBER", default_value_t = 16)]
    connections: usize,
}

/// The rule for a key that exists in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExistingKeys {
    Refuse,
    Overwrite,
    Skip,
}

/// An import under way.
struct Import<'a> {
    session: &'a Session,
    existing: ExistingKeys,
    /// When the source was read, in microseconds of the monotonic clock: ttls count from there.
    read_us: u64,
    /// Nodes written so far.
    written: AtomicU64,
    skipped: AtomicU64,
    bar: ProgressBar,
}

/// `ternctl import`
///
/// # Errors
///
/// The source cannot be read, a key exists, or a write failed.
pub fn import(session: &Session, arguments: &ImportArguments) -> Result<(), Failure> {
    let nodes = if arguments.from.contains("://") {
        let url = endpoints::base_url(&arguments.from)?;
        source::read_cluster(&session.with_urls(vec![url]), &arguments.hidden)?
    } else {
        source::read_file(session, Path::new(&arguments.from))?
    };
    let import = Import {
        session,
        existing: match (arguments.overwrite, arguments.skip_existing) {
            (true, _) => ExistingKeys::Overwrite,
            (false, true) => ExistingKeys::Skip,
            (false, false) => ExistingKeys::Refuse,
        },
        read_us: session.clock().now().mono_us,
        written: AtomicU64::new(0),
        skipped: AtomicU64::new(0),
        bar: progress::steps("import", nodes.len() as u64),
    };
    let (files, dirs): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| node.value.is_some());
    let result = import
        .write_all(&files, arguments.connections.max(1))
        .and_then(|()| import.write_dirs(&dirs, &nodes));
    import.bar.finish_and_clear();
    let written = import.written.load(Ordering::Relaxed);
    let skipped = import.skipped.load(Ordering::Relaxed);
    result.map_err(|failure| {
        let text = format!("{failure}. {written} of {} nodes were written", nodes.len());
        Failure::new(failure.reason(), text)
    })?;
    print_line(&format!("{written} nodes imported, {skipped} skipped"))
}

impl Import<'_> {
    /// Writes files by several connections. The first failure ends it.
    fn write_all(&self, files: &[&PortableNode], connections: usize) -> Result<(), Failure> {
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let work = || {
            while let Some(node) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(found) = self.write(node, true) {
                    next.store(files.len(), Ordering::Relaxed);
                    failure
                        .lock()
                        .expect("no thread panics with it")
                        .get_or_insert(found);
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..connections {
                scope.spawn(work);
            }
        });
        match failure.into_inner().expect("no thread panics with it") {
            None => Ok(()),
            Some(failure) => Err(failure),
        }
    }

    /// Writes the directories that no file has made as they were.
    fn write_dirs(&self, dirs: &[&PortableNode], all: &[PortableNode]) -> Result<(), Failure> {
        let parents = all.iter().filter_map(|node| node.key.rsplit_once('/'));
        let parents: BTreeSet<&str> = parents.map(|(parent, _)| parent).collect();
        for dir in dirs {
            let has_children = parents.contains(dir.key.as_str());
            if !has_children || dir.ttl.is_some() {
                self.write(dir, !has_children)?;
            } else {
                self.count(&self.written);
            }
        }
        Ok(())
    }

    fn count(&self, counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
        self.bar.inc(1);
    }

    /// Writes a node. `is_new`: this import has not made it.
    fn write(&self, node: &PortableNode, is_new: bool) -> Result<(), Failure> {
        let elapsed_s = (self.session.clock().now().mono_us - self.read_us) / 1_000_000;
        let ttl = node.ttl.map(|ttl| ttl.saturating_sub(elapsed_s).max(1));
        let mut parameters = Parameters::default().add_if("ttl", ttl);
        parameters = match &node.value {
            Some(value) => parameters.add("value", value),
            None => parameters.add("dir", "true"),
        };
        if !is_new {
            parameters = parameters.add("prevExist", "true");
        } else if self.existing != ExistingKeys::Overwrite || node.value.is_none() {
            parameters = parameters.add("prevExist", "false");
        }
        let request = CtlRequest::new(Method::PUT, key_target(&node.key));
        let answer = self
            .session
            .try_ask(&request.with_form(parameters.form()))?;
        let Some(failure) = failure_of(&answer) else {
            self.count(&self.written);
            return Ok(());
        };
        let exists = answer
            .body
            .windows(KEY_EXISTS.len())
            .any(|w| w == KEY_EXISTS);
        if !exists {
            return Err(Failure::new(
                failure.reason(),
                format!("{}: {failure}", node.key),
            ));
        }
        match self.existing {
            ExistingKeys::Refuse => {}
            ExistingKeys::Skip => {
                self.count(&self.skipped);
                return Ok(());
            }
            ExistingKeys::Overwrite if node.ttl.is_some() => return self.write(node, false),
            ExistingKeys::Overwrite => {
                self.count(&self.written);
                return Ok(());
            }
        }
        let text = format!(
            "{} exists: --overwrite replaces such keys, --skip-existing leaves them alone",
            node.key
        );
        Err(Failure::new(ExitReason::Refused, text))
    }
}
