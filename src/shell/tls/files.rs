//! Reads certificates and keys. Its errors name the fault of a file and the next step.
//!
//! An unusable file is an error. A certificate that other machines refuse at the present time is a
//! warning, because the clock of a board may be wrong. Start with [`certificates`] and
//! [`private_key`].
use super::certificate::CertificateFacts;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

/// The content of a file that a setting names.
///
/// # Errors
/// It cannot be read; the text says what to check.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| {
        let name = path.display();
        let next = match e.kind() {
            ErrorKind::NotFound => "Check the path in the setting",
            ErrorKind::PermissionDenied => "The user that tern runs as must be able to read it",
            _ => "It must be a file in PEM",
        };
        format!("cannot read {name}: {e}. {next}")
    })
}

/// The certificates of a file, in their order.
///
/// # Errors
/// The file cannot be read, or has none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let name = path.display();
    let text = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|e| format!("{name}: {e}"))?;
    if !all.is_empty() {
        return Ok(all);
    }
    let text = String::from_utf8_lossy(&text);
    Err(if text.contains("PRIVATE KEY-----") {
        format!("{name}: a private key, no certificate: are the two files swapped?")
    } else {
        format!("{name}: no certificate in it; it must be PEM: -----BEGIN CERTIFICATE-----")
    })
}

/// The certificates that this machine shows: its own, then the authorities between.
///
/// # Errors
/// The file has none, or its first one is not of version 3.
pub fn own_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = certificates(path)?;
    let facts = all.first().and_then(|own| CertificateFacts::read(own));
    match facts {
        Some(CertificateFacts { version, .. }) if version < 3 => Err(format!(
            "{}: an X.509 certificate of version {version}, as `openssl x509 -req` makes without \
             extensions; TLS clients take version 3 only. Make it again with -extfile FILE, where \
             FILE has the line subjectAltName=DNS:NAME,IP:ADDRESS",
            path.display()
        )),
        _ => Ok(all),
    }
}

/// The authorities that a file names.
///
/// # Errors
/// The file has no certificate, or none that can have signed another.
pub fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = certificates(path)?;
    let may_sign = |certificate: &CertificateDer| {
        // A certificate that signed itself is its own authority. Version 1 has no word for one.
        let facts = CertificateFacts::read(certificate);
        facts.is_none_or(|f| f.is_authority || f.is_self_issued || f.version < 3)
    };
    if all.iter().any(may_sign) {
        return Ok(all);
    }
    Err(format!(
        "{}: not the certificate of an authority (its basicConstraints do not say CA:TRUE): name \
         the certificate of the authority that has signed the others, not one that it has signed",
        path.display()
    ))
}

/// The private key of a file.
///
/// # Errors
/// The file cannot be read, or has no key that can be used without a passphrase.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let name = path.display();
    let bytes = read(path)?;
    let text = String::from_utf8_lossy(&bytes);
    let is_encrypted =
        text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED");
    if is_encrypted {
        return Err(format!(
            "{name}: the key is encrypted, and tern asks for no passphrase. Decrypt it: \
             (umask 077; openssl pkey -in {name} -out {name}.plain), and name that file"
        ));
    }
    let key = PrivateKeyDer::from_pem_slice(&bytes);
    key.map_err(|e| {
        if text.contains("BEGIN CERTIFICATE-----") {
            format!("{name}: a certificate, no private key: are the two files swapped?")
        } else {
            format!(
                "{name}: no private key in it ({e}); it must be PEM: -----BEGIN PRIVATE KEY-----"
            )
        }
    })
}

/// The text for a refusal of certificate and key together.
pub fn refused_pair(cert: &Path, key: &Path, error: &rustls::Error) -> String {
    let (cert, key) = (cert.display(), key.display());
    match error {
        rustls::Error::InconsistentKeys(_) => format!(
            "{key} is not the key of the certificate {cert}: `openssl x509 -in {cert} -noout \
             -pubkey` and `openssl pkey -in {key} -pubout` must print the same"
        ),
        other => format!("{cert} and {key}: {other}"),
    }
}

/// The warnings about the files of this machine, one sentence each: other machines refuse the
/// certificate, or other users can read the key. `wall_s` is the time, in seconds since the Unix
/// epoch.
pub fn warnings(cert: &Path, key: &Path, own: &[CertificateDer], wall_s: u64) -> Vec<String> {
    let mut found = Vec::new();
    let facts = own.first().and_then(|own| CertificateFacts::read(own));
    let until = "Others refuse it until it is replaced and SIGHUP sent";
    match facts {
        Some(facts) if facts.not_after_s < wall_s => found.push(format!(
            "{} expired at {} (it is {} by the clock of this machine). {until}",
            cert.display(),
            written(facts.not_after_s),
            written(wall_s)
        )),
        Some(facts) if facts.not_before_s > wall_s => found.push(format!(
            "{} is valid from {} on, and it is {} by the clock of this machine. Others refuse it \
             before that time",
            cert.display(),
            written(facts.not_before_s),
            written(wall_s)
        )),
        _ => {}
    }
    let mode = std::fs::metadata(key).map(|data| data.permissions().mode() & 0o777);
    if let Ok(mode) = mode
        && mode & 0o007 != 0
    {
        found.push(format!(
            "{} can be read by every user of this machine (mode {mode:04o}): chmod 600 {}",
            key.display(),
            key.display()
        ));
    }
    found
}

fn written(time_s: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(time_s)).to_string()
}
