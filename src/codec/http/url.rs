//! URLs as tern uses them: `http://host:port/path?query` (RFC 3986, RFC 9110 section 4.2). Nothing
//! is resolved or decoded here.
//!
//! Start reading at [`Url::parse`].

/// The parts of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Url<'a> {
    /// Whether the scheme is `https`.
    pub secure: bool,
    /// `host:port` as written, for the header `Host`.
    pub authority: &'a str,
    /// The host, without the brackets of an IPv6 address; not empty.
    pub host: &'a str,
    /// The port; 80 or 443 if none is written.
    pub port: u16,
    /// Path and query; may be empty.
    pub target: &'a str,
}

impl<'a> Url<'a> {
    /// Takes a URL apart. Without a scheme it is `http`. `None` if it is malformed, has a user, or
    /// another scheme.
    pub fn parse(url: &'a str) -> Option<Url<'a>> {
        let fits = |b: u8| b.is_ascii_graphic();
        if !url.bytes().all(fits) {
            return None;
        }
        let (secure, rest) = match url.split_once("://") {
            None => (false, url),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some(_) => return None,
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let target = target.split('#').next().unwrap_or("");
        let (host, port) = split_host(authority)?;
        let port = match port {
            None if secure => 443,
            None => 80,
            Some(port) => port.parse().ok()?,
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~%:".contains(&b);
        (!host.is_empty() && host.bytes().all(plain)).then_some(Url {
            secure,
            authority,
            host,
            port,
            target,
        })
    }

    /// The target of a request to this URL; starts with `/`.
    pub fn path(&self) -> String {
        if self.target.starts_with('/') {
            self.target.to_string()
        } else {
            format!("/{}", self.target)
        }
    }

    /// The URL that a redirect leads to (RFC 9110 section 10.2.2). `location` is a URL, or a path
    /// on the same machine; `None` if it is anything else.
    pub fn join(&self, location: &str) -> Option<String> {
        if location.starts_with('/') && !location.starts_with("//") {
            let scheme = if self.secure { "https" } else { "http" };
            return Some(format!("{scheme}://{}{location}", self.authority));
        }
        let is_url = location.contains("://");
        (is_url && Url::parse(location).is_some()).then(|| location.to_string())
    }
}

/// The host without brackets, and the port's text.
fn split_host(authority: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        return match port {
            "" => Some((host, None)),
            port => Some((host, Some(port.strip_prefix(':')?))),
        };
    }
    match authority.split_once(':') {
        None => Some((authority, None)),
        Some((_, port)) if port.contains(':') => None,
        Some((host, port)) => Some((host, Some(port))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let parts = |text| Url::parse(text).map(|u| (u.secure, u.host, u.port, u.target));
        assert_eq!(parts("http://a:7001"), Some((false, "a", 7001, "")));
        assert_eq!(parts("a.b:1/c?d"), Some((false, "a.b", 1, "/c?d")));
        assert_eq!(parts("https://[::1]:2/x#y"), Some((true, "::1", 2, "/x")));
        assert_eq!(parts("HTTPS://a?q"), Some((true, "a", 443, "?q")));
        assert_eq!(parts("http://[::1]"), Some((false, "::1", 80, "")));
        for bad in [
            "",
            "http://",
            "http://:1",
            "ftp://a",
            "http://a:b",
            "http://a:70000",
            "http://u@a:1",
            "http://a b",
            "http://::1:2",
            "http://[::1",
            "http://[::1]x",
            "http://a\r\n:1",
        ] {
            assert_eq!(Url::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn where_redirects_lead() {
        let url = Url::parse("http://a:1/b?c").expect("a URL");
        assert_eq!(url.join("/d?e").as_deref(), Some("http://a:1/d?e"));
        assert_eq!(url.join("http://x:2/y").as_deref(), Some("http://x:2/y"));
        for bad in ["", "d", "//x/y", "ftp://x", "http://"] {
            assert_eq!(url.join(bad), None, "{bad:?}");
        }
    }
}
