//! Reads the certificates made by `tls` back from their PEM files. Start with
//! [`IssuedCertificate::parse`].
use std::fmt;
use std::net::IpAddr;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;

/// The purpose of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificatePurpose {
    /// Signs others.
    Authority,
    /// Both ports of a machine: server and client.
    Machine,
    /// A client.
    Client,
}

impl fmt::Display for CertificatePurpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CertificatePurpose::Authority => "authority",
            CertificatePurpose::Machine => "machine",
            CertificatePurpose::Client => "client",
        })
    }
}

/// The fields of a certificate that ternctl sets and reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// The common name of its subject.
    pub name: String,
    pub purpose: CertificatePurpose,
    /// Names and addresses in `subjectAltName`.
    pub hosts: Vec<String>,
    /// When it ends, in seconds of Unix time.
    pub ends_s: u64,
}

impl IssuedCertificate {
    /// Reads a PEM file.
    ///
    /// # Errors
    ///
    /// It holds no certificate; with a sentence.
    pub fn parse(pem: &[u8]) -> Result<IssuedCertificate, String> {
        let (_, block) = parse_x509_pem(pem).map_err(|error| format!("no PEM file: {error}"))?;
        let certificate = block.parse_x509();
        let certificate = certificate.map_err(|error| format!("no certificate: {error}"))?;
        let usage = certificate.extended_key_usage().ok().flatten();
        let is_server = usage.is_some_and(|usage| usage.value.server_auth);
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|names| &names.value.general_names);
        let common_name = certificate.subject().iter_common_name().next();
        Ok(IssuedCertificate {
            name: common_name
                .and_then(|name| name.as_str().ok())
                .unwrap_or_default()
                .to_string(),
            purpose: match (certificate.is_ca(), is_server) {
                (true, _) => CertificatePurpose::Authority,
                (false, true) => CertificatePurpose::Machine,
                (false, false) => CertificatePurpose::Client,
            },
            hosts: names.filter_map(host).collect(),
            ends_s: u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0),
        })
    }
}

fn host(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_string()),
        GeneralName::IPAddress(bytes) => {
            if let Ok(bytes) = <[u8; 4]>::try_from(*bytes) {
                return Some(IpAddr::from(bytes).to_string());
            }
            let bytes = <[u8; 16]>::try_from(*bytes).ok()?;
            Some(IpAddr::from(bytes).to_string())
        }
        _ => None,
    }
}
