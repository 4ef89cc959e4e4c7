//! The configuration of TLS sessions: certificate, key and authority from PEM files.
//!
//! Every refused client certificate gets the alert `bad_certificate`, as from etcd 0.4. Must not
//! touch sockets: `transport` runs the sessions. Start with [`server_config`] and
//! [`client_config`].
mod certificate;
mod files;

use crate::shell::config::TlsFiles;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore,
    ServerConfig, SignatureScheme,
};
use std::path::Path;
use std::sync::Arc;

/// The files with the trusted authorities of the system: on Debian and Alpine, on Fedora, on
/// OpenSUSE, on others.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The configuration of a port. Logs the warnings about certificate and key at the time `wall_ns`, in
/// nanoseconds since the Unix epoch.
///
/// # Errors
/// A file is unusable; the text names it.
pub fn server_config(
    cert: &Path,
    key: &Path,
    ca: Option<&Path>,
    wall_ns: u64,
) -> Result<Arc<ServerConfig>, String> {
    let config = checked_config(cert, key, ca)?;
    let own = files::own_certificates(cert)?;
    for warning in files::warnings(cert, key, &own, wall_ns / 1_000_000_000) {
        log::warn!("{warning}");
    }
    Ok(config)
}

/// The configuration of a port. With `ca`, each client must show a certificate that this authority
/// has signed.
///
/// # Errors
/// A file is unusable; the text names it.
pub fn checked_config(
    cert: &Path,
    key: &Path,
    ca: Option<&Path>,
) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS: {e}"))?;
    let builder = match ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let roots = Arc::new(roots(ca)?);
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .build()
                    .map_err(|e| format!("{}: {e}", ca.display()))?;
            builder.with_client_cert_verifier(Arc::new(OneAlertVerifier(verifier)))
        }
    };
    let private = files::private_key(key)?;
    builder
        .with_single_cert(files::own_certificates(cert)?, private)
        .map(Arc::new)
        .map_err(|e| files::refused_pair(cert, key, &e))
}

/// The configuration of outgoing connections. They show the certificate of `names`, if it has one.
/// They trust the authority of `files`; without one, the authorities that the system trusts.
///
/// # Errors
/// A file is unusable, or the system has no file of authorities; the text names the file.
pub fn client_config(names: &TlsFiles) -> Result<Arc<ClientConfig>, String> {
    let roots = match &names.ca_file {
        Some(ca) => roots(ca)?,
        None => system_roots()?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS: {e}"))?
        .with_root_certificates(roots);
    let config = match (&names.cert_file, &names.key_file) {
        (Some(cert), Some(key)) => {
            let private = files::private_key(key)?;
            builder
                .with_client_auth_cert(files::own_certificates(cert)?, private)
                .map_err(|e| files::refused_pair(cert, key, &e))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// The fault of a session, for the log: which side's certificate it is about, and the file to
/// look at. `files` are those of this machine.
pub fn explain(error: &rustls::Error, files: &TlsFiles) -> String {
    use rustls::AlertDescription as Alert;
    match error {
        rustls::Error::InvalidCertificate(fault) => {
            let authority = match &files.ca_file {
                Some(ca) => ca.display().to_string(),
                None => "the authorities of the system".to_string(),
            };
            format!("the certificate of the other side does not pass {authority}: {fault}")
        }
        rustls::Error::AlertReceived(
            alert @ (Alert::BadCertificate
            | Alert::UnknownCA
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::UnsupportedCertificate
            | Alert::CertificateRequired
            | Alert::AccessDenied),
        ) => match &files.cert_file {
            Some(cert) => format!(
                "the other side refuses this machine's own certificate {} ({alert:?}): is it \
                 signed by the authority that the other side trusts?",
                cert.display()
            ),
            None => {
                format!("the other side wants a certificate, and this machine has none ({alert:?})")
            }
        },
        other => other.to_string(),
    }
}

/// The authorities in the first file of `SYSTEM_ROOTS` that exists. Entries that are not
/// certificates are skipped.
fn system_roots() -> Result<RootCertStore, String> {
    let path = SYSTEM_ROOTS.iter().map(Path::new).find(|p| p.exists());
    let path = path.ok_or("the system has no file of authorities to trust")?;
    let all =
        CertificateDer::pem_file_iter(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(all.flatten());
    Ok(roots)
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in files::authorities(path)? {
        roots
            .add(certificate)
            .map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(roots)
}

/// The verifier of rustls with the same alert for every refusal.
#[derive(Debug)]
struct OneAlertVerifier(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for OneAlertVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.0
            .verify_client_cert(end_entity, intermediates, now)
            // rustls sends the alert bad_certificate for this error.
            .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::AlertDescription;

    #[test]
    fn an_error_says_whose_certificate_it_is_about_and_names_the_file() {
        let files = TlsFiles {
            ca_file: Some("ca.pem".into()),
            cert_file: Some("own.pem".into()),
            key_file: Some("own.key".into()),
        };
        let fault = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let theirs = explain(&fault, &files);
        assert!(theirs.contains("of the other side does not pass ca.pem"));
        let alert = rustls::Error::AlertReceived(AlertDescription::UnknownCA);
        let own = explain(&alert, &files);
        assert!(
            own.contains("this machine's own certificate own.pem"),
            "{own}"
        );
        let none = explain(&alert, &TlsFiles::default());
        assert!(none.contains("this machine has none"), "{none}");
    }
}
