//! The counters of the shell for `/metrics`. `Clients` owns them, because it answers the requests
//! for that page. Start with [`Meters::figures`].
use super::descriptors::ConnectionsMax;
use super::status_lines::ShellStatus;
use super::{logger, process};
use crate::codec::api::{PortFigures, ProcessFigures, RequestMeters};
use crate::core::histogram::Histogram;
use crate::core::machine::QueueFigures;

/// The bounds of this process; they do not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessBounds {
    /// The memory that it may use, in bytes (`-max-memory`).
    pub memory_bytes: u64,
    /// Most connections by port.
    pub connections: ConnectionsMax,
    /// The bytes that connections may hold together (`-max-client-bytes`).
    pub client_bytes: usize,
}

/// The counters of the shell.
pub struct Meters {
    bounds: ProcessBounds,
    requests: RequestMeters,
    /// How long syncs of the log took.
    syncs: Histogram,
    /// How much processor time turns took.
    turns: Histogram,
}

impl Meters {
    /// Nothing is counted yet.
    pub fn new(bounds: ProcessBounds) -> Meters {
        Meters {
            bounds,
            requests: RequestMeters::default(),
            syncs: Histogram::default(),
            turns: Histogram::default(),
        }
    }

    /// The requests of the client port.
    pub fn requests_mut(&mut self) -> &mut RequestMeters {
        &mut self.requests
    }

    /// A sync of the log took `us` microseconds.
    pub fn on_sync(&mut self, us: u64) {
        self.syncs.add(us);
    }

    /// A turn of the loop took `us` microseconds of processor time.
    pub fn on_turn(&mut self, us: u64) {
        self.turns.add(us);
    }

    /// All figures of the process. `proxied_bytes`: how much of the bound `proxied_bytes_max` the
    /// requests that are passed on take.
    pub fn figures(
        &self,
        status: &ShellStatus,
        proxied_bytes: usize,
        proxied_bytes_max: usize,
    ) -> ProcessFigures {
        let queue = |name, bytes: usize, bytes_max: usize| QueueFigures {
            name,
            bytes: bytes as u64,
            bytes_max: bytes_max as u64,
        };
        let port = |port, conns, conns_max| PortFigures {
            port,
            conns,
            conns_max,
        };
        let lines = logger::usage();
        let most = self.bounds.connections;
        ProcessFigures {
            requests: self.requests.clone(),
            syncs: self.syncs.clone(),
            turns: self.turns.clone(),
            conns: [
                port("client", status.client_conns, most.client_port),
                port("peer", status.peer_conns, most.peer_port),
            ],
            queues: vec![
                queue("clients", status.held_bytes, self.bounds.client_bytes),
                queue("proxied", proxied_bytes, proxied_bytes_max),
                queue("log_lines", lines.waiting_bytes, lines.waiting_bytes_max),
            ],
            waiting_events: status.waiting_events,
            dropped_lines: lines.dropped,
            memory_bytes_max: self.bounds.memory_bytes,
            system: process::figures(),
        }
    }
}
