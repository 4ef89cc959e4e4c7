//! The metrics, one row each.
use super::{Figures, Metric, MetricKind, Sample, label};
use crate::codec::api::ETCD_VERSION;
use crate::codec::cluster_status;
use crate::core::public_id::PublicId;
use crate::core::seam::{
    Health, LogFigures, MemberFigures, PeerProgressFigures, QueueFigures, Role,
};
use MetricKind::{Counter, Durations, Gauge};

const fn row(name: &'static str, help: &'static str, kind: MetricKind) -> Metric {
    Metric {
        name: Some(name),
        etcd: None,
        help,
        kind,
    }
}

/// A row that is also served under a name of etcd.
const fn both(
    name: &'static str,
    etcd: &'static str,
    help: &'static str,
    kind: MetricKind,
) -> Metric {
    Metric {
        name: Some(name),
        etcd: Some((etcd, None)),
        help,
        kind,
    }
}

/// The sample of a metric without labels.
fn one(value: Option<f64>) -> Vec<Sample> {
    let sample = |value| labelled(String::new(), value);
    value.map(sample).into_iter().collect()
}

fn flag(is: bool) -> Vec<Sample> {
    one(Some(f64::from(u8::from(is))))
}

fn labelled(labels: String, value: f64) -> Sample {
    Sample { labels, value }
}

/// The sample of a metric of members.
fn member(figures: &Figures, read: fn(&MemberFigures) -> u64) -> Vec<Sample> {
    let member = figures.core.member.as_ref();
    one(member.map(|member| read(member) as f64))
}

/// The sample of a metric of the log.
fn log(figures: &Figures, read: fn(&LogFigures) -> u64) -> Vec<Sample> {
    let member = figures.core.member.as_ref();
    one(member.map(|member| read(&member.log) as f64))
}

/// The samples of a metric of peers that only the leader knows.
fn peers(figures: &Figures, read: fn(&PeerProgressFigures) -> f64) -> Vec<Sample> {
    let peers = figures.core.member.iter().flat_map(|member| &member.peers);
    let sample = |name: &str, progress| labelled(label("peer", name), read(progress));
    peers
        .filter_map(|peer| Some(sample(&peer.name, peer.progress.as_ref()?)))
        .collect()
}

/// The samples of a metric of queues.
fn queues(figures: &Figures, read: fn(&QueueFigures) -> u64) -> Vec<Sample> {
    let core = figures.core.member.iter().flat_map(|member| &member.queues);
    let all = core.chain(&figures.process.queues);
    all.map(|queue| labelled(label("queue", queue.name), read(queue) as f64))
        .collect()
}

/// All metrics, in the order in which they are written.
pub(super) const TABLE: &[Metric] = &[
    // -- the cluster
    both(
        "tern_has_leader",
        "etcd_server_has_leader",
        "1 while this machine knows a leader, else 0.",
        Gauge(|f| flag(f.core.member.as_ref().is_some_and(|m| m.has_leader))),
    ),
    both(
        "tern_is_leader",
        "etcd_server_is_leader",
        "1 on the leader, else 0.",
        Gauge(|f| flag(f.core.role == Role::Leader)),
    ),
    row(
        "tern_is_standby",
        "1 on a machine that is not a member, else 0.",
        Gauge(|f| flag(f.core.role == Role::Standby)),
    ),
    row(
        "tern_role",
        "1 for the role of this machine, 0 for the others.",
        Gauge(roles),
    ),
    row(
        "tern_healthy",
        "1 while /health answers 200, else 0.",
        Gauge(|f| flag(f.core.health == Health::Healthy)),
    ),
    both(
        "tern_leader_changes_total",
        "etcd_server_leader_changes_seen_total",
        "Leaders that this process has seen come in.",
        Counter(|f| member(f, |m| m.leader_changes)),
    ),
    row(
        "tern_standbys",
        "Standbys that fetched the list of members here lately; all of them ask the leader.",
        Gauge(|f| member(f, |m| m.standbys)),
    ),
    Metric {
        name: Some("tern_peer_linked"),
        etcd: Some(("etcd_network_active_peers", Some(etcd_active_peers))),
        help: "1 while a link to this member is open, else 0.",
        kind: Gauge(links),
    },
    row(
        "tern_peer_lag_entries",
        "Entries of the log that a member lacks; only the leader knows.",
        Gauge(|f| peers(f, |p| p.lag as f64)),
    ),
    row(
        "tern_peer_last_contact_seconds",
        "Time since a member was heard; only the leader knows.",
        Gauge(|f| peers(f, |p| p.silent_ms as f64 / 1e3)),
    ),
    row(
        "tern_peer_round_trip_seconds",
        "Round trip to a member by recent pings; only the leader shows it.",
        Gauge(|f| peers(f, |p| f64::from(p.round_trip_us) / 1e6)),
    ),
    // -- the log
    row(
        "tern_raft_term",
        "The term.",
        Gauge(|f| log(f, |l| l.term.0)),
    ),
    row(
        "tern_raft_first_index",
        "The first entry of the log in memory; a snapshot covers the earlier ones.",
        Gauge(|f| log(f, |l| l.first.0)),
    ),
    row(
        "tern_raft_last_index",
        "The last entry of the log.",
        Gauge(|f| log(f, |l| l.last.0)),
    ),
    row(
        "tern_raft_durable_index",
        "The last entry of the log that is durable on this disk.",
        Gauge(|f| log(f, |l| l.durable.0)),
    ),
    both(
        "tern_raft_committed_index",
        "etcd_server_proposals_committed_total",
        "The last entry that is committed, as far as this machine knows.",
        Gauge(|f| log(f, |l| l.committed.0)),
    ),
    both(
        "tern_raft_applied_index",
        "etcd_server_proposals_applied_total",
        "The last entry that the key space of this machine contains.",
        Gauge(|f| log(f, |l| l.applied.0)),
    ),
    row(
        "tern_snapshot_index",
        "The last entry that the newest snapshot covers.",
        Gauge(|f| log(f, |l| l.snapshot.0)),
    ),
    row(
        "tern_snapshot_bytes",
        "Size of the newest snapshot on disk.",
        Gauge(|f| log(f, |l| l.snapshot_bytes)),
    ),
    row(
        "tern_log_recorded_bytes_total",
        "Records of the log that were handed to the disk to be synced.",
        Counter(|f| log(f, |l| l.recorded_bytes)),
    ),
    row(
        "tern_log_free_bytes",
        "Records that the disk takes for certain; counted up to 1 GiB.",
        Gauge(|f| log(f, |l| l.free_bytes)),
    ),
    row(
        "tern_disk_low",
        "1 while the disk has too little room for client writes, else 0.",
        Gauge(|f| member(f, |m| u64::from(m.is_disk_low))),
    ),
    both(
        "tern_sync_duration_seconds",
        "etcd_disk_wal_fsync_duration_seconds",
        "Time of a sync of the log.",
        Durations(|f| vec![(String::new(), &f.process.syncs)]),
    ),
    row(
        "tern_commit_duration_seconds",
        "Time from the append of an entry here until this machine knows that it is committed.",
        Durations(|f| {
            let member = f.core.member.iter();
            member.map(|m| (String::new(), &m.commit)).collect()
        }),
    ),
    row(
        "tern_apply_duration_seconds",
        "Time from then until the key space contains the entry; 0 within one turn of the loop.",
        Durations(|f| {
            let member = f.core.member.iter();
            member.map(|m| (String::new(), &m.apply)).collect()
        }),
    ),
    both(
        "tern_proposals_pending",
        "etcd_server_proposals_pending",
        "Writes of this machine's clients that wait to be committed and applied.",
        Gauge(|f| member(f, |m| m.pending)),
    ),
    both(
        "tern_proposals_failed_total",
        "etcd_server_proposals_failed_total",
        "Requests of this machine's clients that failed with error 300.",
        Counter(|f| member(f, |m| m.failed)),
    ),
    // -- the key space
    row(
        "tern_etcd_index",
        "The index of the last change of the key space.",
        Gauge(|f| member(f, |m| m.etcd_index.0)),
    ),
    row(
        "tern_store_nodes",
        "Nodes of the key space that take memory.",
        Gauge(|f| member(f, |m| m.nodes)),
    ),
    row(
        "tern_store_bytes",
        "An estimate of the memory of the key space.",
        Gauge(|f| member(f, |m| m.store_bytes)),
    ),
    row(
        "tern_store_bytes_max",
        "The bound on it, -max-store-bytes.",
        Gauge(|f| {
            let member = f.core.member.as_ref();
            let bytes_max = member.and_then(|m| m.store_bytes_max);
            one(bytes_max.map(|bytes_max| bytes_max as f64))
        }),
    ),
    both(
        "tern_watchers",
        "etcd_debugging_store_watchers",
        "Watchers that wait now.",
        Gauge(|f| member(f, |m| m.store.watchers)),
    ),
    row(
        "tern_events_waiting",
        "Events that have not reached all of their watchers.",
        Gauge(|f| one(Some(f.process.waiting_events as f64))),
    ),
    both(
        "tern_expired_total",
        "etcd_debugging_store_expires_total",
        "Nodes that have expired since the key space began.",
        Counter(|f| member(f, |m| m.store.expire_count)),
    ),
    row(
        "tern_store_reads_total",
        "Reads of the key space of this machine.",
        Counter(|f| operations(f, true)),
    ),
    row(
        "tern_store_writes_total",
        "Writes to the key space since it began.",
        Counter(|f| operations(f, false)),
    ),
    // -- clients
    both(
        "tern_http_requests_total",
        "etcd_http_received_total",
        "Requests that came in on the client port other than watches.",
        Counter(|f| {
            let counts = f.process.requests.received();
            counts
                .map(|(method, count)| labelled(label("method", method), count as f64))
                .collect()
        }),
    ),
    row(
        "tern_requests_answered_total",
        "Requests of the client port that were answered.",
        Counter(answered),
    ),
    both(
        "tern_http_errors_total",
        "etcd_http_failed_total",
        "Requests about keys that were answered with an error, by status; without watches.",
        Counter(errors),
    ),
    Metric {
        name: None,
        etcd: Some(("etcd_http_successful_duration_seconds", None)),
        help: "Time of requests about keys that were carried out, by method; without watches.",
        kind: Durations(|f| {
            let durations = f.process.requests.successes();
            durations
                .map(|(method, histogram)| (label("method", method), histogram))
                .collect()
        }),
    },
    row(
        "tern_request_duration_seconds",
        "Time from reading a request to its answer; 0 within one turn of the loop.",
        Durations(|f| {
            let durations = f.process.requests.durations();
            durations
                .map(|(kind, histogram)| (label("kind", kind), histogram))
                .collect()
        }),
    ),
    row(
        "tern_connections",
        "Connections by port, besides the links between members.",
        Gauge(|f| ports(f, |port| port.conns)),
    ),
    row(
        "tern_connections_max",
        "Most connections by port, as descriptors allow.",
        Gauge(|f| ports(f, |port| port.conns_max)),
    ),
    row(
        "tern_queue_bytes",
        "What waits in memory.",
        Gauge(|f| queues(f, |queue| queue.bytes)),
    ),
    row(
        "tern_queue_bytes_max",
        "The bound on what waits in memory.",
        Gauge(|f| queues(f, |queue| queue.bytes_max)),
    ),
    // -- the process
    row(
        "tern_turn_cpu_seconds",
        "Processor time of a turn of the loop.",
        Durations(|f| vec![(String::new(), &f.process.turns)]),
    ),
    row(
        "tern_log_lines_dropped_total",
        "Log lines that were dropped: their reader was too slow, or their disk full.",
        Counter(|f| one(Some(f.process.dropped_lines as f64))),
    ),
    row(
        "tern_memory_bytes_max",
        "The memory that the process may use, -max-memory.",
        Gauge(|f| one(Some(f.process.memory_bytes_max as f64))),
    ),
    Metric {
        name: Some("tern_build_info"),
        etcd: Some(("etcd_server_version", Some(etcd_version))),
        help: "1, with the version as a label.",
        kind: Gauge(|_| vec![labelled(label("version", crate::VERSION), 1.0)]),
    },
    Metric {
        name: Some("tern_member_info"),
        etcd: Some(("etcd_server_id", Some(etcd_id))),
        help: "1, with the id of this member as a label.",
        kind: Gauge(|f| id_sample(f, "id")),
    },
    row(
        "process_start_time_seconds",
        "When the process started, in seconds since the Unix epoch.",
        Gauge(|f| one(f.process.system.map(|s| s.start_s))),
    ),
    row(
        "process_cpu_seconds_total",
        "Processor time of the process.",
        Counter(|f| one(f.process.system.map(|s| s.cpu_s))),
    ),
    row(
        "process_resident_memory_bytes",
        "Resident memory of the process.",
        Gauge(|f| one(f.process.system.map(|s| s.resident_bytes as f64))),
    ),
    row(
        "process_virtual_memory_bytes",
        "Size of the address space of the process.",
        Gauge(|f| one(f.process.system.map(|s| s.virtual_bytes as f64))),
    ),
    row(
        "process_open_fds",
        "Open descriptors.",
        Gauge(|f| one(f.process.system.map(|s| s.open_files as f64))),
    ),
    row(
        "process_max_fds",
        "The most descriptors.",
        Gauge(|f| {
            let files_max = f.process.system.and_then(|s| s.files_max);
            one(files_max.map(|most| most as f64))
        }),
    ),
];

fn roles(figures: &Figures) -> Vec<Sample> {
    let roles = [Role::Leader, Role::Follower, Role::Candidate, Role::Standby];
    let sample = |role| {
        let is = f64::from(u8::from(figures.core.role == role));
        labelled(label("role", cluster_status::role(role)), is)
    };
    roles.into_iter().map(sample).collect()
}

fn links(figures: &Figures) -> Vec<Sample> {
    let peers = figures.core.member.iter().flat_map(|member| &member.peers);
    peers
        .map(|peer| {
            let is_linked = f64::from(u8::from(peer.is_linked));
            labelled(label("peer", &peer.name), is_linked)
        })
        .collect()
}

/// The same with the ids of both ends.
fn etcd_active_peers(figures: &Figures) -> Vec<Sample> {
    let Some(member) = &figures.core.member else {
        return Vec::new();
    };
    let local = label("Local", &member.id.to_string());
    let peers = member.peers.iter();
    peers
        .map(|peer| {
            let remote = label("Remote", &peer.id.to_string());
            let is_linked = f64::from(u8::from(peer.is_linked));
            labelled(format!("{local},{remote}"), is_linked)
        })
        .collect()
}

fn ports(figures: &Figures, read: fn(&super::PortFigures) -> usize) -> Vec<Sample> {
    let ports = figures.process.conns.iter();
    ports
        .map(|port| labelled(label("port", port.port), read(port) as f64))
        .collect()
}

fn answered(figures: &Figures) -> Vec<Sample> {
    let counts = figures.process.requests.answered();
    counts
        .map(|(kind, result, count)| {
            let labels = format!("{},{}", label("kind", kind), label("result", result));
            labelled(labels, count as f64)
        })
        .collect()
}

fn errors(figures: &Figures) -> Vec<Sample> {
    let counts = figures.process.requests.errors();
    counts
        .map(|(method, status, count)| {
            let code = label("code", &status.to_string());
            labelled(format!("{},{code}", label("method", method)), count as f64)
        })
        .collect()
}

fn operations(figures: &Figures, reads: bool) -> Vec<Sample> {
    let Some(member) = &figures.core.member else {
        return Vec::new();
    };
    let s = &member.store;
    let all = [
        ("get", s.gets_success, s.gets_fail),
        ("set", s.sets_success, s.sets_fail),
        ("create", s.create_success, s.create_fail),
        ("update", s.update_success, s.update_fail),
        ("delete", s.delete_success, s.delete_fail),
        (
            "compareAndSwap",
            s.compare_and_swap_success,
            s.compare_and_swap_fail,
        ),
        (
            "compareAndDelete",
            s.compare_and_delete_success,
            s.compare_and_delete_fail,
        ),
    ];
    let mut samples = Vec::new();
    for (action, successes, failures) in all {
        if (action == "get") != reads {
            continue;
        }
        for (result, count) in [("success", successes), ("fail", failures)] {
            let labels = format!("{},{}", label("action", action), label("result", result));
            samples.push(labelled(labels, count as f64));
        }
    }
    samples
}

fn etcd_version(_: &Figures) -> Vec<Sample> {
    vec![labelled(label("server_version", ETCD_VERSION), 1.0)]
}

fn etcd_id(figures: &Figures) -> Vec<Sample> {
    id_sample(figures, "server_id")
}

fn id_sample(figures: &Figures, name: &str) -> Vec<Sample> {
    let id = figures.core.member.as_ref().map(|member| member.id);
    let sample = |id: PublicId| labelled(label(name, &id.to_string()), 1.0);
    id.map(sample).into_iter().collect()
}
