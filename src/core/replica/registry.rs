//! The views of the cluster in the key space (`/_etcd/machines/NAME`, `/_etcd/config`), and the
//! rules for changes of members and config.
//!
//! The views are stored formats. They are written when commands on the cluster are applied. A
//! client may overwrite them, without effect on the cluster. The functions are pure. Start with
//! [`join`] and [`config_with`].
use crate::core::command::{ClusterConfig, Command, KeyPath};
use crate::core::error::{Code, Error};
use crate::core::escape;
use crate::core::identity::{self, NAME_CHARS_MAX};
use crate::core::raft::{Configuration, MEMBERS_MAX, Member, Term};
use crate::core::seam::Join;

/// The store version of this machine. The version range of a joining machine must include it.
pub const STORE_VERSION: u64 = 2;

/// The cluster config that this member has applied, and the one that it has proposed.
#[derive(Default)]
pub struct ConfigState {
    /// The last config that was applied; `None` in a new cluster until its first one is applied.
    in_force: Option<ClusterConfig>,
    /// The last config that this member proposed, and its term. While this member leads in that
    /// term its log contains the config, so later proposals change this one.
    proposed: Option<(Term, ClusterConfig)>,
}

impl ConfigState {
    /// The last config that was applied.
    pub fn in_force(&self) -> Option<ClusterConfig> {
        self.in_force
    }

    /// The last config that this member proposed in this term.
    pub fn proposed_in(&self, term: Term) -> Option<ClusterConfig> {
        match self.proposed {
            Some((proposed_in, config)) if proposed_in == term => Some(config),
            Some(_) | None => None,
        }
    }

    /// This member has proposed a config in its term.
    pub fn on_proposed(&mut self, term: Term, config: ClusterConfig) {
        self.proposed = Some((term, config));
    }

    /// A config was applied.
    pub fn on_applied(&mut self, config: ClusterConfig) {
        self.in_force = Some(config);
    }

    /// The key space was restored from a snapshot; `None` if it contains no config.
    pub fn on_restored(&mut self, config: Option<ClusterConfig>) {
        self.in_force = config;
    }
}

/// The path of a machine's view.
pub fn machine_path(name: &str) -> KeyPath {
    KeyPath::new(&format!("/_etcd/machines/{name}"))
}

/// The value of a machine's view.
pub fn machine_value(member: &Member) -> String {
    let client_url = escape::query(&member.client_url);
    let peer_url = escape::query(&member.peer_url);
    format!("etcd={client_url}&raft={peer_url}")
}

/// The path of the config's view.
pub fn config_path() -> KeyPath {
    KeyPath::new("/_etcd/config")
}

/// Parses the output of `ClusterConfig::to_json`; `None` for any other text.
pub fn parse_config(text: &str) -> Option<ClusterConfig> {
    let rest = text.strip_prefix("{\"activeSize\":")?;
    let (size, rest) = rest.split_once(",\"removeDelay\":")?;
    let (delay_s, rest) = rest.split_once(",\"syncInterval\":")?;
    let interval_s = rest.strip_suffix('}')?;
    let config = config_with(
        ClusterConfig::default(),
        Some(parse_decimal(size)?),
        Some(parse_decimal(delay_s)?),
        Some(parse_decimal(interval_s)?),
    );
    Some(config)
}

/// A decimal number without sign and exponent.
fn parse_decimal(text: &str) -> Option<f64> {
    let is_decimal = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    text.parse().ok().filter(|_| is_decimal)
}

/// `config` with the given fields changed. The size loses its fraction, times are rounded to
/// milliseconds, and all fields are brought within their bounds.
pub fn config_with(
    config: ClusterConfig,
    active_size: Option<f64>,
    remove_delay_s: Option<f64>,
    sync_interval_s: Option<f64>,
) -> ClusterConfig {
    // Casts from floating point saturate, and NaN becomes 0.
    let ms = |s: f64| (s * 1000.0).round() as u64;
    let changed = ClusterConfig {
        active_size: active_size.map_or(config.active_size, |size| size as u32),
        remove_delay_ms: remove_delay_s.map_or(config.remove_delay_ms, ms),
        sync_interval_ms: sync_interval_s.map_or(config.sync_interval_ms, ms),
    };
    changed.clamped()
}

/// The command for a request to join. `is_heard` tells whether a member was heard within an
/// election timeout.
///
/// If a member has the name already:
/// - A request from the same data directory repeats the join of that member. It changes no address:
///   new addresses come by the hello of a link ([`moves`]).
/// - A request from another directory replaces the member if it was not heard, and is refused
///   otherwise.
///
/// A machine that was added before it started ([`add`]) takes that member's place.
///
/// # Errors
///
/// `InvalidForm` for a request with an unfit name, with a URL that is none or that other members
/// cannot reach (`check_reach`), or of another store version,
/// `PeerAddressExists` if the name or the peer URL belongs to another member, `NoMorePeer` if the
/// cluster is full.
pub fn join(
    members: &Configuration,
    config: &ClusterConfig,
    join: &Join,
    is_heard: impl Fn(&Member) -> bool,
) -> Result<Command, Error> {
    if !identity::is_name(&join.name) {
        let cause = "the name must have 1 to 128 visible characters and no slash";
        return Err(Error::new(Code::InvalidForm, cause));
    }
    if !(join.min_version..=join.max_version).contains(&STORE_VERSION) {
        return Err(Error::new(Code::InvalidForm, "store version 2 is required"));
    }
    if join.client_url == join.peer_url {
        let cause = "client URL and peer URL must differ";
        return Err(Error::new(Code::InvalidForm, cause));
    }
    check_reach(members, &join.name, &join.peer_url, &join.client_url)?;
    let mut others = members.members.iter().filter(|m| m.name != join.name);
    let occupant = others.find(|m| m.peer_url == join.peer_url);
    let expected = occupant.filter(|m| !m.has_started());
    if let Some(other) = occupant
        && expected.is_none()
    {
        let cause = format!(
            "the peer address {} belongs to the member {}: start this machine with another \
             -peer-addr, or remove {} first",
            join.peer_url, other.name, other.name
        );
        return Err(Error::new(Code::PeerAddressExists, cause));
    }
    let taken = |old: &Member| {
        let cause = format!(
            "the name {} belongs to a member at {}: start this machine with another -name, or \
             remove that member first",
            old.name, old.peer_url
        );
        Err(Error::new(Code::PeerAddressExists, cause))
    };
    let replaces = match members.by_name(&join.name) {
        None if expected.is_some() => expected.map(|member| member.id.0),
        Some(old) if expected.is_some() => return taken(old),
        None => check_room(members, config).map(|()| None)?,
        Some(old) if is_from_directory_of(old, join) && has_same_urls(old, join) => None,
        Some(old) if join.incarnation == 0 => return taken(old),
        Some(old) if is_heard(old) => return taken(old),
        Some(old) => Some(old.id.0),
    };
    Ok(Command::Join {
        name: join.name.clone(),
        peer_url: join.peer_url.clone(),
        client_url: join.client_url.clone(),
        incarnation: join.incarnation,
        replaces,
    })
}

/// Checks that the machine that asks to join was not removed for good. It is known by the number of
/// its data directory, or, if that was wiped meanwhile, by the place that it had in this cluster. A
/// machine with an empty directory has neither, and is a new one.
///
/// # Errors
///
/// `RemovedForGood`; the cause says how an operator admits the machine again.
pub fn check_not_barred(members: &Configuration, cluster: u64, join: &Join) -> Result<(), Error> {
    let former = join
        .former
        .filter(|place| place.cluster == cluster || place.cluster == 0);
    let is_barred = members.is_directory_barred(join.incarnation)
        || former.is_some_and(|place| members.is_barred(place.id));
    if !is_barred {
        return Ok(());
    }
    let cause = format!(
        "start {} with an empty data directory, or with -f, to let it join again",
        join.name
    );
    Err(Error::new(Code::RemovedForGood, cause))
}

/// Checks that the cluster may have one more member.
fn check_room(members: &Configuration, config: &ClusterConfig) -> Result<(), Error> {
    if members.members.len() >= MEMBERS_MAX.min(config.active_size as usize) {
        return Err(Error::new(Code::NoMorePeer, ""));
    }
    Ok(())
}

/// Checks that the URLs of the machine `name` are URLs of a machine, and that the other members can
/// reach it there. A loopback address is fit only for a cluster that is on one host as a whole.
///
/// # Errors
///
/// `InvalidForm`; the cause names the URL and the setting.
pub fn check_reach(
    members: &Configuration,
    name: &str,
    peer_url: &str,
    client_url: &str,
) -> Result<(), Error> {
    let mut others = members.members.iter().filter(|m| *m.name != *name);
    let is_on_one_host = others.all(|m| identity::is_loopback(&m.peer_url));
    for (url, setting) in [(peer_url, "-peer-addr"), (client_url, "-addr")] {
        if !identity::is_url(url) {
            let cause = "a URL must be a scheme, a host and a port, such as http://10.0.0.1:7001";
            return Err(Error::new(Code::InvalidForm, cause));
        }
        let is_local = identity::is_loopback(url) && !is_on_one_host;
        if identity::is_unspecified(url) || is_local {
            let cause = format!(
                "other machines cannot reach {url}: set {setting} to an address of this machine \
                 that they can reach"
            );
            return Err(Error::new(Code::InvalidForm, cause));
        }
    }
    Ok(())
}

/// The command that admits a machine before it starts. The member has no name of its own and no
/// client URL until then: host and port of the peer URL, as far as a name may be long, stand for the
/// name, the peer URL for the client URL.
///
/// # Errors
///
/// `InvalidForm` unless there is one URL of a machine, `PeerAddressExists` if one of the URLs
/// belongs to a member, `NoMorePeer` if the cluster is full.
pub fn add(
    members: &Configuration,
    config: &ClusterConfig,
    peer_urls: &[Box<str>],
) -> Result<Command, Error> {
    let peer_url = only_free(members, None, peer_urls)?;
    check_reach(members, "", peer_url, peer_url)?;
    let (_, at) = peer_url.split_once("://").expect("a URL has a scheme");
    let name = at.get(..NAME_CHARS_MAX).unwrap_or(at);
    if members.by_name(name).is_some() {
        return Err(Error::new(Code::PeerAddressExists, name));
    }
    check_room(members, config)?;
    Ok(Command::Join {
        name: name.into(),
        peer_url: peer_url.into(),
        client_url: peer_url.into(),
        incarnation: 0,
        replaces: None,
    })
}

/// The command that gives a member which has not started yet another peer URL; `None` for a member
/// that has started: it shows its addresses itself.
///
/// # Errors
///
/// As of [`add`], but for `NoMorePeer`.
pub fn relocate(
    members: &Configuration,
    member: &Member,
    peer_urls: &[Box<str>],
) -> Result<Option<Command>, Error> {
    let peer_url = only_free(members, Some(member), peer_urls)?;
    check_reach(members, &member.name, peer_url, peer_url)?;
    if member.has_started() || *member.peer_url == *peer_url {
        return Ok(None);
    }
    Ok(Some(Command::Join {
        name: member.name.clone(),
        peer_url: peer_url.into(),
        client_url: peer_url.into(),
        incarnation: 0,
        replaces: None,
    }))
}

/// The only one of `peer_urls`, which belongs to no member other than `owner`.
fn only_free<'a>(
    members: &Configuration,
    owner: Option<&Member>,
    peer_urls: &'a [Box<str>],
) -> Result<&'a str, Error> {
    let owner = owner.map(|member| member.id);
    let others = || members.members.iter().filter(|m| Some(m.id) != owner);
    if let Some(taken) = peer_urls
        .iter()
        .find(|url| others().any(|m| m.peer_url == **url))
    {
        return Err(Error::new(Code::PeerAddressExists, taken.clone()));
    }
    match peer_urls {
        [url] => Ok(url),
        _ => Err(Error::new(Code::InvalidForm, "a member has one peer URL")),
    }
}

/// The member whose join this repeats, under other addresses.
pub fn moves<'a>(members: &'a Configuration, join: &Join) -> Option<&'a Member> {
    let member = members.by_name(&join.name)?;
    let is_own = join.incarnation != 0 && is_from_directory_of(member, join);
    (is_own && !has_same_urls(member, join)).then_some(member)
}

/// Whether a join has the addresses that the list has for `member`.
pub fn has_same_urls(member: &Member, join: &Join) -> bool {
    member.peer_url == join.peer_url && member.client_url == join.client_url
}

/// Whether a join comes from the data directory of `member`. The incarnation 0 stands for an
/// unknown one and counts as the same.
fn is_from_directory_of(member: &Member, join: &Join) -> bool {
    member.incarnation == 0 || [0, member.incarnation].contains(&join.incarnation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_is_shown_and_read() {
        let mut config = ClusterConfig::default();
        let shown = r#"{"activeSize":9,"removeDelay":1800,"syncInterval":5}"#;
        assert_eq!(config.to_json(), shown);
        assert_eq!(parse_config(shown), Some(config));
        config = config_with(config, Some(5.9), Some(5.5), Some(0.1));
        let shown = r#"{"activeSize":5,"removeDelay":5.5,"syncInterval":1}"#;
        assert_eq!(config.to_json(), shown);
        assert_eq!(parse_config(shown), Some(config));
    }

    #[test]
    fn other_texts_are_no_config() {
        for text in [
            "",
            "junk",
            r#"{"activeSize":9,"removeDelay":1800}"#,
            r#"{"activeSize":9,"removeDelay":inf,"syncInterval":5}"#,
            r#"{"activeSize":9,"removeDelay":1800,"syncInterval":5}}"#,
        ] {
            assert_eq!(parse_config(text), None, "{text}");
        }
    }

    #[test]
    fn a_config_stays_within_its_bounds() {
        let (size, delay_s, interval_s) = (Some(-1.0), Some(f64::NAN), Some(f64::INFINITY));
        let config = config_with(ClusterConfig::default(), size, delay_s, interval_s);
        assert_eq!(config.active_size, ClusterConfig::ACTIVE_SIZE_MIN);
        assert_eq!(config.remove_delay_ms, ClusterConfig::REMOVE_DELAY_MS_MIN);
        assert_eq!(config.sync_interval_ms, ClusterConfig::MS_MAX);
        let shown = config.to_json();
        assert_eq!(parse_config(&shown), Some(config));
    }
}
