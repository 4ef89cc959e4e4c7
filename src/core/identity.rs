//! The names and URLs of machines: which ones a cluster accepts.
//!
//! They come from settings, from requests to join, and with entries and snapshots from peers. They
//! end up in key paths, in headers of redirects and on terminals, so each of these ways in checks
//! them here. Pure functions; start with [`is_name`] and [`is_url`].

use ::core::net::{IpAddr, Ipv6Addr};

/// Most characters of a name.
pub const NAME_CHARS_MAX: usize = 128;
/// Most bytes of a URL: the longest host name has 253.
const URL_BYTES_MAX: usize = 512;

/// Whether `text` is the name of a machine: 1 to 128 visible characters without `/`, and neither
/// `.` nor `..`, which HTTP clients remove from paths.
pub fn is_name(text: &str) -> bool {
    let is_visible = |c: char| !c.is_control() && !c.is_whitespace() && !is_format(c);
    let count = text.chars().count();
    (1..=NAME_CHARS_MAX).contains(&count)
        && text.chars().all(|c| is_visible(c) && c != '/')
        && text != "."
        && text != ".."
}

/// Whether a character has no glyph, or changes the order of those around it (Unicode, category
/// Cf, the common ones).
fn is_format(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Whether `text` is the URL of a machine: a scheme (http or https), a host, a port, and nothing
/// else. An IPv6 address is in brackets.
pub fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://");
    let Some(rest) = rest.or_else(|| text.strip_prefix("https://")) else {
        return false;
    };
    let Some((host, port)) = rest.rsplit_once(':') else {
        return false;
    };
    let is_port = port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let v6 = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let is_host = match v6 {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
        None => is_host_name(host),
    };
    text.len() <= URL_BYTES_MAX && is_host && is_port
}

/// Whether the host of a machine's URL is the unspecified address. A machine listens on it, and no
/// other machine can dial it.
pub fn is_unspecified(url: &str) -> bool {
    address_of(url).is_some_and(|address| address.is_unspecified())
}

/// Whether the host of a machine's URL is a loopback address, which means another machine on each
/// host.
pub fn is_loopback(url: &str) -> bool {
    host_of(url).eq_ignore_ascii_case("localhost")
        || address_of(url).is_some_and(|address| address.is_loopback())
}

/// The host of a machine's URL, an IPv6 address with its brackets.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.rsplit_once(':').map_or(rest, |(host, _)| host)
}

/// The host of a machine's URL, if it is an IP address. An IPv4 address may be written as an IPv6
/// one.
fn address_of(url: &str) -> Option<IpAddr> {
    let host = host_of(url);
    let v6 = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let address: IpAddr = v6.unwrap_or(host).parse().ok()?;
    Some(address.to_canonical())
}

/// Whether `text` may be a host name or an IPv4 address.
pub fn is_host_name(text: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !text.is_empty() && text.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_visible_and_no_paths() {
        for name in ["a", "node-1", "küche.2", "...", &"n".repeat(NAME_CHARS_MAX)] {
            assert!(is_name(name), "{name:?}");
        }
        let long = "n".repeat(NAME_CHARS_MAX + 1);
        for name in ["", ".", "..", "a/b", "a b", "a\n", "\u{202e}a", &long] {
            assert!(!is_name(name), "{name:?}");
        }
    }

    #[test]
    fn addresses_that_no_other_host_can_dial() {
        for url in [
            "http://0.0.0.0:1",
            "https://[::]:7001",
            "http://[0:0::0]:1",
            "http://[::ffff:0.0.0.0]:1",
        ] {
            assert!(is_unspecified(url) && !is_loopback(url), "{url}");
        }
        for url in [
            "http://127.0.0.1:1",
            "http://127.3.2.1:1",
            "https://[::1]:7001",
            "http://[0:0:0:0:0:0:0:1]:1",
            "http://[::ffff:127.0.0.1]:1",
            "http://localhost:1",
            "http://LocalHost:1",
        ] {
            assert!(is_loopback(url) && !is_unspecified(url), "{url}");
        }
        for url in [
            "http://10.0.0.1:1",
            "http://127.example.org:1",
            "http://[fe80::1]:1",
            "http://localhost.example:1",
            "http://10.0.0.0:1",
        ] {
            assert!(!is_loopback(url) && !is_unspecified(url), "{url}");
        }
    }

    #[test]
    fn urls_have_a_scheme_a_host_and_a_port() {
        for url in [
            "http://a:1",
            "https://10.0.0.1:7001",
            "http://[fe80::1]:65535",
        ] {
            assert!(is_url(url), "{url:?}");
        }
        for url in [
            "",
            "a:1",
            "ftp://a:1",
            "http://:1",
            "http://a",
            "http://a:65536",
            "http://a:+1",
            "http://a:1/",
            "http://u@a:1",
            "http://a:1\r\nX: y",
            "http://fe80::1:1",
            "http://[::::]:1",
            "http://[..:]:1",
        ] {
            assert!(!is_url(url), "{url:?}");
        }
    }
}
