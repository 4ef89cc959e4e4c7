//! The endpoints and certificates of a command: from flags, variables and the configuration file.
//!
//! Each setting is looked for in this order: its flag, its variable `TERNCTL_…`, the variable
//! `ETCDCTL_…` of the same meaning (scripts that used etcdctl go on working), the file, the
//! default. One that is empty counts as not given. Start with [`Endpoints::find`].
use crate::failure::{Failure, file_failed};
use crate::shared_arguments::SharedArguments;
use serde::Deserialize;
use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use tern::codec::http::url::Url;

/// The client port of a tern on this machine with default settings.
const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:4001";
/// The file that is read if no flag names one.
const DEFAULT_FILE: &str = "/etc/tern/ternctl.conf";

/// The machines that a command may talk to, and the certificates for TLS with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Client URLs in the order in which they are tried; at least one. No slash at the end.
    pub urls: Vec<String>,
    /// The authority that signs the servers' certificates. `None`: the authorities of the web.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate and its key.
    pub pair: Option<(PathBuf, PathBuf)>,
}

/// The certificates for TLS with the peer ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificates {
    ca_file: Option<PathBuf>,
    pair: Option<(PathBuf, PathBuf)>,
}

impl PeerCertificates {
    /// The certificates for the peer ports. Without a flag of its own, a setting is that of the
    /// client ports.
    pub fn find(arguments: &SharedArguments, client: &Endpoints) -> PeerCertificates {
        let ca_file = arguments.peer_ca_file.clone();
        let cert_file = arguments.peer_cert_file.clone();
        let pair = cert_file.zip(arguments.peer_key_file.clone());
        PeerCertificates {
            ca_file: ca_file.or_else(|| client.ca_file.clone()),
            pair: pair.or_else(|| client.pair.clone()),
        }
    }

    /// The peer ports at these URLs.
    pub fn at(&self, urls: Vec<String>) -> Endpoints {
        Endpoints {
            urls,
            ca_file: self.ca_file.clone(),
            pair: self.pair.clone(),
        }
    }
}

/// The configuration file, TOML.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SettingsFile {
    #[serde(default)]
    endpoints: Vec<String>,
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
}

impl Endpoints {
    /// Finds the settings of a command.
    ///
    /// # Errors
    ///
    /// A setting is wrong, or the file cannot be read.
    pub fn find(arguments: &SharedArguments) -> Result<Endpoints, Failure> {
        let is_given = |path: &PathBuf| !path.as_os_str().is_empty();
        let named = arguments.config.as_ref().filter(|path| is_given(path));
        let file = read_file(named.map(PathBuf::as_path))?;
        let path = |flag: &Option<PathBuf>, variable: &str, from_file: Option<PathBuf>| {
            let from_env = env::var_os(variable).map(PathBuf::from);
            let sources = [flag.clone(), from_env, from_file];
            sources.into_iter().flatten().find(is_given)
        };
        let ca_file = path(&arguments.ca_file, "ETCDCTL_CA_FILE", file.ca_file);
        let cert_file = path(&arguments.cert_file, "ETCDCTL_CERT_FILE", file.cert_file);
        let key_file = path(&arguments.key_file, "ETCDCTL_KEY_FILE", file.key_file);
        let pair = match (cert_file, key_file) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => return Err(Failure::bad_arguments("--cert-file needs --key-file")),
            (None, Some(_)) => return Err(Failure::bad_arguments("--key-file needs --cert-file")),
        };
        let from_env = env::var("ETCDCTL_ENDPOINTS").unwrap_or_default();
        let sources = [
            arguments.endpoints.clone(),
            from_env.split(',').map(str::to_string).collect(),
            file.endpoints,
            vec![DEFAULT_ENDPOINT.to_string()],
        ];
        let given = |mut urls: Vec<String>| {
            urls.retain(|url| !url.trim().is_empty());
            (!urls.is_empty()).then_some(urls)
        };
        let urls = sources.into_iter().find_map(given).unwrap_or_default();
        let urls: Result<_, _> = urls.iter().map(|url| base_url(url)).collect();
        Ok(Endpoints {
            urls: urls?,
            ca_file,
            pair,
        })
    }
}

/// The URL without a slash at its end and with a scheme.
///
/// # Errors
///
/// It is no URL of a machine.
pub fn base_url(url: &str) -> Result<String, Failure> {
    let url = url.trim().trim_end_matches('/');
    let parsed = Url::parse(url).filter(|parsed| parsed.target.is_empty());
    let parsed = parsed.ok_or_else(|| {
        Failure::bad_arguments(format!(
            "endpoint {url:?}: expected http://HOST:PORT or https://HOST:PORT without a path"
        ))
    })?;
    let scheme = if parsed.secure { "https" } else { "http" };
    Ok(format!("{scheme}://{}", parsed.authority))
}

/// Reads the file that a flag names, or the default one if it exists.
fn read_file(named: Option<&Path>) -> Result<SettingsFile, Failure> {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => String::new(),
        text => text.map_err(file_failed(path.display()))?,
    };
    basic_toml::from_str(&text)
        .map_err(|error| Failure::bad_arguments(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_scheme_host_and_port() {
        for (given, expected) in [
            ("http://10.0.0.1:4001/", "http://10.0.0.1:4001"),
            ("10.0.0.1:4001", "http://10.0.0.1:4001"),
            (" https://n1:4001", "https://n1:4001"),
        ] {
            assert_eq!(base_url(given).expect("a URL"), expected);
        }
        for wrong in ["ftp://a:1", "http://a:1/v2/keys", "http://"] {
            assert!(base_url(wrong).is_err(), "{wrong}");
        }
    }
}
