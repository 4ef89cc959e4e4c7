//! A reader of a few fields of X.509 certificates (RFC 5280 section 4.1), in DER.
//!
//! It verifies nothing; the TLS library does. The fields make errors and warnings understandable.
//! Start with [`CertificateFacts::read`].
use std::time::UNIX_EPOCH;

const SEQUENCE: u8 = 0x30;
const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The tag of the version, which version 1 does not have.
const VERSION: u8 = 0xa0;
/// The tag of the extensions.
const EXTENSIONS: u8 = 0xa3;
/// The extension basicConstraints, 2.5.29.19.
const BASIC_CONSTRAINTS: [u8; 3] = [0x55, 0x1d, 0x13];

/// The fields of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// 1 to 3.
    pub version: u8,
    /// From when it is valid, in seconds since the Unix epoch.
    pub not_before_s: u64,
    /// Until when it is valid, in seconds since the Unix epoch.
    pub not_after_s: u64,
    /// It says that it is an authority. Version 1 cannot say so.
    pub is_authority: bool,
    /// Its subject is its issuer.
    pub is_self_issued: bool,
}

impl CertificateFacts {
    /// Reads a certificate. Returns `None` if it is malformed: the TLS library has the better error.
    pub fn read(der: &[u8]) -> Option<CertificateFacts> {
        let mut certificate = Elements(Elements(der).expect(SEQUENCE)?);
        let mut fields = Elements(certificate.expect(SEQUENCE)?);
        let version = match fields.maybe(VERSION) {
            Some(version) => Elements(version).expect(INTEGER)?.first()?.checked_add(1)?,
            None => 1,
        };
        fields.expect(INTEGER)?; // the serial number
        fields.expect(SEQUENCE)?; // the algorithm
        let issuer = fields.expect(SEQUENCE)?;
        let mut validity = Elements(fields.expect(SEQUENCE)?);
        let not_before_s = validity.time()?;
        let not_after_s = validity.time()?;
        let subject = fields.expect(SEQUENCE)?;
        Some(CertificateFacts {
            version,
            not_before_s,
            not_after_s,
            is_authority: is_authority(fields).unwrap_or(false),
            is_self_issued: issuer == subject,
        })
    }
}

/// Whether the extensions among these fields say that the certificate is an authority. `None`: they
/// say nothing about it.
fn is_authority(mut fields: Elements) -> Option<bool> {
    let extensions = loop {
        match fields.next()? {
            (EXTENSIONS, content) => break content,
            _ => continue,
        }
    };
    let mut extensions = Elements(Elements(extensions).expect(SEQUENCE)?);
    loop {
        let mut extension = Elements(extensions.expect(SEQUENCE)?);
        if extension.expect(OBJECT_ID)? != BASIC_CONSTRAINTS {
            continue;
        }
        extension.maybe(BOOLEAN); // whether it is critical
        let mut constraints = Elements(Elements(extension.expect(OCTETS)?).expect(SEQUENCE)?);
        return constraints
            .maybe(BOOLEAN)
            .map(|value| value.first() != Some(&0));
    }
}

/// DER elements one after another.
#[derive(Clone, Copy)]
struct Elements<'a>(&'a [u8]);

impl<'a> Elements<'a> {
    /// Takes the next element: its tag and its content. `None` at the end, or if it is malformed.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            // As many bytes of the length follow. A certificate has less than 2^32 bytes.
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = bytes
                    .iter()
                    .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
                (length, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// Takes the next element, which must have this tag.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, content) = self.next()?;
        (found == tag).then_some(content)
    }

    /// Takes the next element if it has this tag.
    fn maybe(&mut self, tag: u8) -> Option<&'a [u8]> {
        let mut ahead = *self;
        let content = ahead.expect(tag)?;
        *self = ahead;
        Some(content)
    }

    /// Takes a time: seconds since the Unix epoch.
    fn time(&mut self) -> Option<u64> {
        let (tag, content) = self.next()?;
        let text = std::str::from_utf8(content)
            .ok()
            .filter(|text| text.is_ascii())?;
        let text = match tag {
            // Two digits of the year (RFC 5280 section 4.1.2.5.1).
            UTC_TIME if *content.first()? < b'5' => format!("20{text}"),
            UTC_TIME => format!("19{text}"),
            GENERALIZED_TIME => text.to_string(),
            _ => return None,
        };
        let digits = text.strip_suffix('Z').filter(|digits| digits.len() == 14)?;
        let part = |from: usize, to: usize| &digits[from..to];
        let written = format!(
            "{}-{}-{}T{}:{}:{}Z",
            part(0, 4),
            part(4, 6),
            part(6, 8),
            part(8, 10),
            part(10, 12),
            part(12, 14)
        );
        let time = humantime::parse_rfc3339(&written).ok()?;
        Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use std::path::PathBuf;

    fn facts(name: &str) -> CertificateFacts {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/testdata/tls");
        let certificate = CertificateDer::from_pem_file(folder.join(name)).expect("a certificate");
        CertificateFacts::read(&certificate).expect("well formed")
    }

    #[test]
    fn certificates_are_read() {
        let authority = facts("authority.pem");
        assert_eq!(authority.version, 3);
        assert!(authority.is_authority && authority.is_self_issued);
        let machine = facts("machine.pem");
        assert!(!machine.is_authority && !machine.is_self_issued);
        let old = facts("version-1.pem");
        assert_eq!((old.version, old.is_authority), (1, false));
        let expired = facts("expired.pem");
        assert!(expired.not_before_s < expired.not_after_s);
        assert_eq!(expired.not_after_s, 1_577_923_200, "2020-01-02");
    }

    /// Whatever is cut or changed, reading ends.
    #[test]
    fn malformed_certificates_are_refused() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/testdata/tls");
        let whole = CertificateDer::from_pem_file(folder.join("machine.pem")).expect("it is there");
        for end in 0..whole.len() {
            assert_eq!(CertificateFacts::read(&whole[..end]), None);
        }
        for place in 0..whole.len() {
            for value in [0, 0x80, 0xff] {
                let mut changed = whole.to_vec();
                changed[place] = value;
                let _ = CertificateFacts::read(&changed);
            }
        }
    }
}
