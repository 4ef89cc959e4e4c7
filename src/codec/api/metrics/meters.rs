//! The counters of `/metrics` outside of the core: requests by kind and result, and the figures of
//! the process. Counting allocates only at the first error of each method and status. Start with
//! [`RequestMeters::on_answered`].
use crate::codec::http::Method;
use crate::core::histogram::Histogram;
use crate::core::seam::{Op, Outcome, QueueFigures};
use std::collections::BTreeMap;

/// The methods that requests are counted by. The last one stands for all others.
pub(super) const METHODS: [&str; 6] = ["GET", "HEAD", "PUT", "POST", "DELETE", "OTHER"];

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// A read of the key space.
    Get,
    /// A read that the leader confirms.
    LinearizableGet,
    /// A write by PUT.
    Put,
    /// A write by POST.
    Post,
    /// A deletion.
    Delete,
    /// A watch. Its time is that until its head is written.
    Watch,
    /// Everything else.
    Other,
}

/// The names of the kinds, in their order.
pub(super) const KINDS: [&str; 7] = [
    "get",
    "linearizable_get",
    "put",
    "post",
    "delete",
    "watch",
    "other",
];

impl RequestKind {
    /// The kind of a request that the machine answers.
    pub fn of(method: Method, op: &Op) -> RequestKind {
        match op {
            Op::Get { linearizable, .. } if *linearizable => RequestKind::LinearizableGet,
            Op::Get { .. } => RequestKind::Get,
            Op::Watch { .. } => RequestKind::Watch,
            Op::Write(_) => RequestKind::of_write(method),
            _ => RequestKind::Other,
        }
    }

    /// The kind of a request that the machine does not see: it was refused, redirected, or passed
    /// on.
    pub fn of_path(method: Method, path: &str) -> RequestKind {
        if !path.starts_with("/v2/keys") {
            return RequestKind::Other;
        }
        match method {
            Method::Get | Method::Head => RequestKind::Get,
            _ => RequestKind::of_write(method),
        }
    }

    /// The place of the method in `METHODS`, if this is a request about keys and no watch.
    fn key_method(self) -> Option<usize> {
        match self {
            RequestKind::Get | RequestKind::LinearizableGet => Some(0),
            RequestKind::Put => Some(2),
            RequestKind::Post => Some(3),
            RequestKind::Delete => Some(4),
            RequestKind::Watch | RequestKind::Other => None,
        }
    }

    fn of_write(method: Method) -> RequestKind {
        match method {
            Method::Put => RequestKind::Put,
            Method::Post => RequestKind::Post,
            Method::Delete => RequestKind::Delete,
            Method::Get | Method::Head | Method::Options | Method::Other => RequestKind::Other,
        }
    }
}

/// The names of the results of requests, by the class of the status:
/// - success: carried out (2xx),
/// - refused: a condition did not hold, the key does not exist, or the request is malformed (4xx),
/// - redirected: the client was sent to another machine (3xx),
/// - failed: the cluster could not carry it out, or its outcome is unknown (5xx).
pub(super) const RESULTS: [&str; 4] = ["success", "refused", "redirected", "failed"];

/// The place of a status in `RESULTS`.
fn result_of(status: u16) -> usize {
    match status {
        500.. => 3,
        400..500 => 1,
        300..400 => 2,
        _ => 0,
    }
}

/// The status that a request with this outcome counts as: the right class, and of an error the
/// status itself.
pub fn status_of(outcome: &Outcome) -> u16 {
    match outcome {
        Outcome::Failed(error) => error.code.status(),
        Outcome::Redirect { .. } => 307,
        _ => 200,
    }
}

/// The requests of the client port so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestMeters {
    /// How many have come in, by method; without watches.
    received: [u64; METHODS.len()],
    /// How many were answered, by kind and result.
    answered: [[u64; RESULTS.len()]; KINDS.len()],
    /// How long they took, by kind.
    durations: [Histogram; KINDS.len()],
    /// How many requests about keys were answered with an error, by method and status. Statuses are
    /// few.
    errors: BTreeMap<(&'static str, u16), u64>,
    /// How long requests about keys took that were carried out, by method.
    successes: [Histogram; METHODS.len()],
}

impl RequestMeters {
    /// A request that is no watch has come in.
    pub fn on_received(&mut self, method: Method) {
        let place = match method {
            Method::Get => 0,
            Method::Head => 1,
            Method::Put => 2,
            Method::Post => 3,
            Method::Delete => 4,
            Method::Options | Method::Other => 5,
        };
        self.received[place] += 1;
    }

    /// A request is answered with `status`, `us` microseconds after the beginning of the turn in
    /// which it was read. An answer within that turn counts as 0.
    pub fn on_answered(&mut self, kind: RequestKind, status: u16, us: u64) {
        let result = result_of(status);
        self.answered[kind as usize][result] += 1;
        self.durations[kind as usize].add(us);
        let Some(method) = kind.key_method() else {
            return;
        };
        if status >= 400 {
            *self.errors.entry((METHODS[method], status)).or_default() += 1;
        } else if status < 300 {
            self.successes[method].add(us);
        }
    }

    /// How many have come in, by method.
    pub(super) fn received(&self) -> impl Iterator<Item = (&'static str, u64)> {
        METHODS.into_iter().zip(self.received)
    }

    /// How many were answered, by kind and result.
    pub(super) fn answered(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let kinds = KINDS.into_iter().zip(self.answered);
        kinds.flat_map(|(kind, results)| {
            let results = RESULTS.into_iter().zip(results);
            results.map(move |(result, count)| (kind, result, count))
        })
    }

    /// How many requests about keys were answered with an error, by method and status.
    pub(super) fn errors(&self) -> impl Iterator<Item = (&'static str, u16, u64)> {
        let errors = self.errors.iter();
        errors.map(|((method, status), count)| (*method, *status, *count))
    }

    /// How long requests about keys took that were carried out, by method; those that there were.
    pub(super) fn successes(&self) -> impl Iterator<Item = (&'static str, &Histogram)> {
        let all = METHODS.into_iter().zip(&self.successes);
        all.filter(|(_, histogram)| histogram.count() > 0)
    }

    /// How long they took, by kind.
    pub(super) fn durations(&self) -> impl Iterator<Item = (&'static str, &Histogram)> {
        KINDS.into_iter().zip(&self.durations)
    }
}

/// The figures of the process and of its connections.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessFigures {
    /// Requests so far.
    pub requests: RequestMeters,
    /// How long syncs of the log took.
    pub syncs: Histogram,
    /// How much processor time the turns of the loop took.
    pub turns: Histogram,
    /// Connections by port, and how many each port may have.
    pub conns: [PortFigures; 2],
    /// The queues in memory, each with its bytes and its bound.
    pub queues: Vec<QueueFigures>,
    /// Events that have not reached all of their watchers.
    pub waiting_events: usize,
    /// Log lines that were dropped: their reader was too slow, or their disk full.
    pub dropped_lines: u64,
    /// The memory that the process may use, in bytes.
    pub memory_bytes_max: u64,
    /// The figures that the operating system reports; `None` without them.
    pub system: Option<SystemFigures>,
}

/// The connections of one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortFigures {
    /// `client` or `peer`.
    pub port: &'static str,
    /// Connections that are no links.
    pub conns: usize,
    /// Most such connections.
    pub conns_max: usize,
}

/// The figures of the process that the operating system reports.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SystemFigures {
    /// Memory that is resident, in bytes.
    pub resident_bytes: u64,
    /// The size of the address space, in bytes.
    pub virtual_bytes: u64,
    /// When the process started, in seconds since the Unix epoch.
    pub start_s: f64,
    /// Processor time, in seconds.
    pub cpu_s: f64,
    /// Open descriptors.
    pub open_files: u64,
    /// The most descriptors; `None`: without limit.
    pub files_max: Option<u64>,
}
