//! Settings of etcd 2.x and 3.x that tern does not have, each with its substitute. They are named
//! when they are met on a command line or in the environment. Start with [`replacement`].

/// The settings by the names of their flags.
const SETTINGS: &[(&str, &str)] = &[
    ("advertise-client-urls", "use -addr HOST:PORT"),
    ("client-cert-auth", "a -ca-file demands certificates"),
    ("debug", "use -v"),
    ("discovery-srv", "use -peers or -discovery"),
    ("election-timeout", "use -peer-election-timeout"),
    ("enable-v2", "tern speaks the v2 interface alone"),
    ("heartbeat-interval", "use -peer-heartbeat-interval"),
    ("initial-advertise-peer-urls", "use -peer-addr HOST:PORT"),
    (
        "initial-cluster",
        "use -bootstrap and -peers HOST:PORT,… on all machines",
    ),
    (
        "initial-cluster-state",
        "a machine with -peers joins, one without starts a cluster",
    ),
    (
        "initial-cluster-token",
        "clusters are told apart by a random number",
    ),
    ("listen-client-urls", "use -bind-addr"),
    ("listen-peer-urls", "use -peer-bind-addr"),
    ("log-level", "use -v"),
    ("log-package-levels", "use -v"),
    ("max-snapshots", "two snapshots are kept"),
    ("max-wals", "the log is cut after each snapshot"),
    (
        "peer-client-cert-auth",
        "a -peer-ca-file demands certificates",
    ),
    ("peer-trusted-ca-file", "use -peer-ca-file"),
    (
        "proxy",
        "a machine beyond -cluster-active-size is a standby; add -forward",
    ),
    (
        "strict-reconfig-check",
        "a removal that leaves no majority is always refused",
    ),
    ("trusted-ca-file", "use -ca-file"),
    ("wal-dir", "the log is in -data-dir"),
];

/// The substitute for the flag `name` of etcd; `None` for an unknown name.
pub fn replacement(name: &str) -> Option<&'static str> {
    let found = SETTINGS.iter().find(|(known, _)| *known == name);
    found.map(|(_, text)| *text)
}
