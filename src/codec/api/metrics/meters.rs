//! The counters of `/metrics` outside of the core: requests by kind and result, and the figures of
//! the process. Counting allocates nothing. Start with [`RequestMeters::on_answered`].
use crate::codec::http::Method;
use crate::core::histogram::Histogram;
use crate::core::seam::{Op, Outcome, QueueFigures};

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

    fn of_write(method: Method) -> RequestKind {
        match method {
            Method::Put => RequestKind::Put,
            Method::Post => RequestKind::Post,
            Method::Delete => RequestKind::Delete,
            Method::Get | Method::Head | Method::Options | Method::Other => RequestKind::Other,
        }
    }
}

/// The result of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestResult {
    /// It was carried out.
    Success,
    /// Its conditions did not hold, its key does not exist, or it is malformed (status 4xx).
    Refused,
    /// The client was sent to another machine (status 3xx).
    Redirected,
    /// The cluster could not carry it out, or its outcome is unknown (status 5xx).
    Failed,
}

/// The names of the results, in their order.
pub(super) const RESULTS: [&str; 4] = ["success", "refused", "redirected", "failed"];

impl RequestResult {
    /// The result that a status tells.
    pub fn of_status(status: u16) -> RequestResult {
        match status {
            500.. => RequestResult::Failed,
            400..500 => RequestResult::Refused,
            300..400 => RequestResult::Redirected,
            _ => RequestResult::Success,
        }
    }

    /// The result that an outcome tells.
    pub fn of_outcome(outcome: &Outcome) -> RequestResult {
        match outcome {
            Outcome::Failed(error) => RequestResult::of_status(error.code.status()),
            Outcome::Redirect { .. } => RequestResult::Redirected,
            _ => RequestResult::Success,
        }
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

    /// A request is answered, `us` microseconds after the beginning of the turn in which it was
    /// read. An answer within that turn counts as 0.
    pub fn on_answered(&mut self, kind: RequestKind, result: RequestResult, us: u64) {
        self.answered[kind as usize][result as usize] += 1;
        self.durations[kind as usize].add(us);
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
    /// Log lines that were dropped because the reader of the log was too slow.
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
