//! The cluster as the key space shows it: `/_etcd/machines/NAME` and `/_etcd/config`, and what may
//! change the two.
//!
//! They are views, written when membership and config commands are applied; a client that writes
//! there changes nothing else. Pure: start with `join` and `config_with`.
use crate::core::command::{ClusterConfig, Command, KeyPath};
use crate::core::error::{Code, Error};
use crate::core::escape;
use crate::core::raft::{Configuration, Member};
use crate::core::seam::Join;

/// The store version that this machine speaks; a joining machine must be able to.
pub const STORE_VERSION: u64 = 2;
/// What the cluster config may not go below (BEHAVIOUR: cluster config).
const ACTIVE_SIZE_MIN: u32 = 3;
const REMOVE_DELAY_MS_MIN: u64 = 2_000;
/// The least sync interval, in milliseconds.
pub const SYNC_INTERVAL_MS_MIN: u64 = 1_000;
/// A hundred years: longer times would only make sums overflow.
pub const MS_MAX: u64 = 100 * 365 * 86_400_000;

/// Where a machine is shown.
pub fn machine_path(name: &str) -> KeyPath {
    KeyPath::new(&format!("/_etcd/machines/{name}"))
}

/// How a machine is shown there.
pub fn machine_value(member: &Member) -> String {
    let (client, peer) = (&member.client_url, &member.peer_url);
    format!(
        "etcd={}&raft={}",
        escape::query(client),
        escape::query(peer)
    )
}

/// Where the cluster config is shown.
pub fn config_path() -> KeyPath {
    KeyPath::new("/_etcd/config")
}

/// Reads back what `ClusterConfig::to_json` wrote; `None` of anything else.
pub fn parse_config(text: &str) -> Option<ClusterConfig> {
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).ok()?;
    let number = |name: &str| fields.get(name)?.as_f64();
    let (size, delay) = (number("activeSize")?, number("removeDelay")?);
    let interval = number("syncInterval")?;
    let none = ClusterConfig::default();
    Some(config_with(none, Some(size), Some(delay), Some(interval)))
}

/// A config with some fields changed: a size without its fraction, times in milliseconds, nothing
/// below its least value.
pub fn config_with(
    config: ClusterConfig,
    active_size: Option<f64>,
    remove_delay_s: Option<f64>,
    sync_interval_s: Option<f64>,
) -> ClusterConfig {
    // Casts from floating point saturate, and what is not a number becomes 0.
    let ms = |s: f64| (s * 1000.0).round() as u64;
    let size = active_size.map_or(config.active_size, |size| size as u32);
    let delay = remove_delay_s.map_or(config.remove_delay_ms, ms);
    let interval = sync_interval_s.map_or(config.sync_interval_ms, ms);
    ClusterConfig {
        active_size: size.max(ACTIVE_SIZE_MIN),
        remove_delay_ms: delay.clamp(REMOVE_DELAY_MS_MIN, MS_MAX),
        sync_interval_ms: interval.clamp(SYNC_INTERVAL_MS_MIN, MS_MAX),
    }
}

/// What a request to join comes to. `is_heard` tells whether the old member of that name lives.
pub fn join(
    members: &Configuration,
    config: &ClusterConfig,
    join: &Join,
    is_heard: impl Fn(&Member) -> bool,
) -> Result<Command, Error> {
    if join.name.is_empty() || join.peer_url.is_empty() || join.client_url.is_empty() {
        return Err(Error::new(Code::InvalidForm, "name and URLs are required"));
    }
    if !(join.min_version..=join.max_version).contains(&STORE_VERSION) {
        return Err(Error::new(Code::InvalidForm, "store version 2 is required"));
    }
    let taken = || Err(Error::new(Code::PeerAddressExists, join.client_url.clone()));
    let others = members.members.iter().filter(|m| m.name != join.name);
    if others.clone().any(|m| m.peer_url == join.peer_url) {
        return taken();
    }
    let replaces = match members.by_name(&join.name) {
        None if members.members.len() >= config.active_size as usize => {
            return Err(Error::new(Code::NoMorePeer, ""));
        }
        None => 0,
        Some(old) if is_same(old, join) => 0,
        Some(old) if is_heard(old) => return taken(),
        Some(old) => old.id.0,
    };
    Ok(Command::Join {
        name: join.name.clone(),
        peer_url: join.peer_url.clone(),
        client_url: join.client_url.clone(),
        incarnation: join.incarnation,
        replaces,
    })
}

/// Whether a join comes from the data directory of that member, as far as both are known.
fn is_same(member: &Member, join: &Join) -> bool {
    member.incarnation == 0 || [0, member.incarnation].contains(&join.incarnation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_is_shown_and_read_back() {
        let mut config = ClusterConfig::default();
        let shown = r#"{"activeSize":9,"removeDelay":1800,"syncInterval":5}"#;
        assert_eq!(config.to_json(), shown);
        assert_eq!(parse_config(shown), Some(config));
        config = config_with(config, Some(5.9), Some(5.5), Some(0.1));
        let shown = r#"{"activeSize":5,"removeDelay":5.5,"syncInterval":1}"#;
        assert_eq!(config.to_json(), shown);
        assert_eq!(parse_config(shown), Some(config));
        assert_eq!(parse_config("junk"), None);
        config = config_with(config, Some(-1.0), Some(f64::NAN), Some(f64::INFINITY));
        assert_eq!((config.active_size, config.remove_delay_ms), (3, 2_000));
        assert_eq!(config.sync_interval_ms, MS_MAX);
    }
}
