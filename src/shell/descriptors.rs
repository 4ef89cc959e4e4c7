//! How many connections each port may have, by the limit of descriptors. Start with
//! `connections_max`.
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The peer port gets one of so many descriptors. So do links, calls, log, snapshots, poll and the
/// standard streams.
const SHARE_DIVISOR: u64 = 8;
/// The most that each of these two gets.
const SHARE_MAX: u64 = 64;
/// Log, snapshots, poll, listeners and the standard streams take 17 descriptors, and each other
/// member takes two for links. A file that cannot be opened ends the process, so nine members have
/// room also with a small limit of descriptors, at the cost of the ports.
const OWN_MIN: u64 = 40;
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
/// may have.
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
    if files < 2 * OWN_MIN {
        log::warn!(
            "this process may open {files} files only: a cluster needs {}",
            2 * OWN_MIN
        );
    }
    connections_of(files)
}

/// How many connections each port may have of so many descriptors: half of a very small number.
fn connections_of(files: u64) -> ConnectionsMax {
    let peer_port = SHARE_MAX.min(files / SHARE_DIVISOR);
    let own = peer_port.max(OWN_MIN.min(files / 2));
    ConnectionsMax {
        client_port: (files - own - peer_port) as usize,
        peer_port: peer_port as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ports_leave_the_machine_its_own_descriptors() {
        for files in 16..5_000 {
            let most = connections_of(files);
            let own = files as usize - most.client_port - most.peer_port;
            assert!(own >= OWN_MIN.min(files / 2) as usize, "{files}: {most:?}");
            assert!(most.peer_port > 0 && most.client_port > most.peer_port);
        }
        let most = connections_of(1_024);
        assert_eq!((most.client_port, most.peer_port), (896, 64));
        assert!(connections_max().client_port < 1 << 20);
    }
}
