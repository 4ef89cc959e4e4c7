//! How many connections each port may have, by the limit of descriptors. Start with
//! `connections_max`.
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that clients never get. Half of them are for connections to the peer port, the other
/// half for links, calls, log, snapshots, poll and the standard streams.
const RESERVE: u64 = 128;
/// With a small limit of descriptors, the reserve is the limit divided by this.
const RESERVE_DIVISOR: u64 = 4;
/// The bound on connections if descriptors have no limit. A ticket has 24 bits for the slot.
const CONNECTIONS_MAX: u64 = 1 << 20;

/// Most connections at a time on each port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionsMax {
    /// On the client port. The calls for requests that are passed on count too.
    pub client_port: usize,
    /// On the peer port. A connection that has become a link does not count.
    pub peer_port: usize,
}

/// Raises the soft limit of descriptors to the hard limit. Returns how many connections each port
/// may have: clients get the descriptors without the reserve.
pub fn connections_max() -> ConnectionsMax {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let files = now.unwrap_or(CONNECTIONS_MAX).min(CONNECTIONS_MAX);
    let reserve = RESERVE.min(files / RESERVE_DIVISOR);
    ConnectionsMax {
        client_port: (files - reserve) as usize,
        peer_port: (reserve / 2) as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_of_descriptors_is_kept_from_clients() {
        let most = connections_max();
        assert!(
            most.client_port > most.peer_port && most.peer_port > 0,
            "{most:?}"
        );
        assert!(most.client_port < 1 << 20, "{most:?}");
    }
}
