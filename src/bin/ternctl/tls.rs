//! `tls`: an authority and the certificates that it signs, which both ports of tern accept.
//!
//! A certificate is of X.509 version 3, names its hosts in `subjectAltName`, and states its
//! purpose. A machine's certificate is for servers and clients, because a peer is both. No command
//! replaces a file, except `renew`: it writes a new certificate beside the old one and renames it.
//! Start with [`tls`].
use crate::failure::{Failure, file_failed};
use crate::output::{print, print_line};
use crate::table::Table;
use crate::x509::{CertificatePurpose, IssuedCertificate};
use clap::{Args, Subcommand};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tern::shell::clock::Clock;
use tern::shell::disk;

const DAY: Duration = Duration::from_secs(86_400);
/// A certificate is valid from this long before it is made: the clocks of machines differ.
const SKEW: Duration = DAY;
/// The authority's certificate in its folder.
const CA_FILE: &str = "ca.pem";
/// The authority's key in its folder.
const CA_KEY_FILE: &str = "ca.key";
/// The hosts that each machine's certificate has besides the given ones: clients on the machine
/// itself use them.
const OWN_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

#[derive(Debug, Subcommand)]
pub enum TlsCommand {
    /// Make a certificate authority: ca.pem for all machines and clients, ca.key to keep secret
    Ca(CaArguments),
    /// Make the certificate of a machine, for both of its ports
    ///
    /// Give tern NAME.pem as -cert-file and -peer-cert-file, NAME.key as -key-file and
    /// -peer-key-file, ca.pem as -peer-ca-file, and as -ca-file if clients need a certificate, too.
    Machine(MachineArguments),
    /// Make the certificate of a client, for a server with -ca-file
    Client(ClientArguments),
    /// List the certificates of the folder, and when they end
    List(FolderArguments),
    /// Renew the certificates of the folder that end soon; their keys stay
    ///
    /// Copy the new files to their machines, and send SIGHUP to tern (systemctl reload tern): it
    /// reads them again. A renewed ca.pem goes to all machines and clients; certificates that the
    /// former one has signed stay valid.
    Renew(RenewArguments),
}

#[derive(Debug, Args)]
pub struct FolderArguments {
    /// The folder of the files
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct CaArguments {
    #[command(flatten)]
    folder: FolderArguments,
    /// The name that the certificate shows
    #[arg(long, default_value = "tern authority")]
    name: String,
    /// How long it is valid
    #[arg(long, value_name = "DAYS", default_value_t = 3650)]
    days: u32,
}

#[derive(Debug, Args)]
pub struct MachineArguments {
    /// The name of the machine, and of the files
    name: String,
    /// Names and addresses of the machine, as in its -addr and -peer-addr; localhost is added
    #[arg(long, value_name = "HOST,…", value_delimiter = ',', required = true)]
    host: Vec<String>,
    #[command(flatten)]
    folder: FolderArguments,
    /// How long it is valid
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    days: u32,
}

#[derive(Debug, Args)]
pub struct ClientArguments {
    /// The name of the client, and of the files
    name: String,
    #[command(flatten)]
    folder: FolderArguments,
    /// How long it is valid
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    days: u32,
}

#[derive(Debug, Args)]
pub struct RenewArguments {
    #[command(flatten)]
    folder: FolderArguments,
    /// Renew certificates that end within so many days
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    within: u32,
    /// How long a new certificate is valid; the authority's for ten times as long
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    days: u32,
}

/// The authority of a folder.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

/// `ternctl tls`
///
/// # Errors
///
/// A file exists, cannot be read or cannot be written.
pub fn tls(command: &TlsCommand) -> Result<(), Failure> {
    match command {
        TlsCommand::Ca(arguments) => ca(arguments),
        TlsCommand::Machine(arguments) => machine(arguments),
        TlsCommand::Client(arguments) => client(arguments),
        TlsCommand::List(arguments) => list(arguments),
        TlsCommand::Renew(arguments) => renew(arguments),
    }
}

fn ca(arguments: &CaArguments) -> Result<(), Failure> {
    let dir = &arguments.folder.dir;
    fs::create_dir_all(dir).map_err(file_failed(dir.display()))?;
    let key = KeyPair::generate().map_err(failed("the key"))?;
    let wanted = IssuedCertificate {
        name: arguments.name.clone(),
        purpose: CertificatePurpose::Authority,
        hosts: Vec::new(),
        ends_s: end_after(arguments.days),
    };
    let certificate = params(&wanted)?.self_signed(&key);
    let pem = certificate.map_err(failed("the certificate"))?.pem();
    write_pair(&dir.join(CA_KEY_FILE), &key, &dir.join(CA_FILE), &pem)?;
    print_line(&format!(
        "{0}/{CA_FILE} goes to all machines and clients. Keep {0}/{CA_KEY_FILE} secret: whoever has it \
         can join the cluster",
        dir.display()
    ))
}

fn machine(arguments: &MachineArguments) -> Result<(), Failure> {
    let mut hosts = arguments.host.clone();
    for own in OWN_HOSTS {
        if !hosts.iter().any(|host| host == own) {
            hosts.push(own.to_string());
        }
    }
    if let Some(wrong) = hosts
        .iter()
        .find(|host| host.contains("://") || host.is_empty())
    {
        let text =
            format!("--host {wrong:?}: expected a name or an address without port and scheme");
        return Err(Failure::bad_arguments(text));
    }
    let wanted = IssuedCertificate {
        name: arguments.name.clone(),
        purpose: CertificatePurpose::Machine,
        hosts,
        ends_s: end_after(arguments.days),
    };
    issue(&arguments.folder.dir, &wanted)
}

fn client(arguments: &ClientArguments) -> Result<(), Failure> {
    let wanted = IssuedCertificate {
        name: arguments.name.clone(),
        purpose: CertificatePurpose::Client,
        hosts: Vec::new(),
        ends_s: end_after(arguments.days),
    };
    issue(&arguments.folder.dir, &wanted)
}

/// Makes a key and its certificate.
fn issue(dir: &Path, wanted: &IssuedCertificate) -> Result<(), Failure> {
    if wanted.name.contains('/') || wanted.name.is_empty() {
        let text = format!("{:?} cannot be the name of a file", wanted.name);
        return Err(Failure::bad_arguments(text));
    }
    let authority = Authority::read(dir)?;
    let key = KeyPair::generate().map_err(failed("the key"))?;
    let pem = authority.sign(wanted, &key)?;
    let at = |suffix: &str| dir.join(format!("{}.{suffix}", wanted.name));
    write_pair(&at("key"), &key, &at("pem"), &pem)?;
    print_line(&format!("{}\n{}", at("pem").display(), at("key").display()))
}

fn list(arguments: &FolderArguments) -> Result<(), Failure> {
    let mut table = Table::new(&["FILE", "FOR", "HOSTS", "ENDS IN"]);
    for (path, certificate) in certificates(&arguments.dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        table.row(vec![
            name.into_owned(),
            certificate.purpose.to_string(),
            certificate.hosts.join(","),
            match days_left(&certificate) {
                days @ 0.. => format!("{days} days"),
                days => format!("ended {} days ago", -days),
            },
        ]);
    }
    print(table.to_string())
}

fn renew(arguments: &RenewArguments) -> Result<(), Failure> {
    let dir = &arguments.folder.dir;
    let mut renewed = 0;
    // The authority first: it signs the others.
    let mut all = certificates(dir)?;
    all.sort_by_key(|(_, certificate)| certificate.purpose != CertificatePurpose::Authority);
    for (path, mut certificate) in all {
        if days_left(&certificate) >= i64::from(arguments.within) {
            continue;
        }
        let key_path = path.with_extension("key");
        let key = read_key(&key_path)?;
        let pem = if certificate.purpose == CertificatePurpose::Authority {
            certificate.ends_s = end_after(arguments.days.saturating_mul(10));
            let signed = params(&certificate)?.self_signed(&key);
            signed.map_err(failed("the certificate"))?.pem()
        } else {
            certificate.ends_s = end_after(arguments.days);
            Authority::read(dir)?.sign(&certificate, &key)?
        };
        replace(&path, &pem)?;
        print_line(&format!("{}: renewed", path.display()))?;
        renewed += 1;
    }
    if renewed == 0 {
        return print_line("nothing to renew");
    }
    Ok(())
}

/// The certificates of the folder that this command has made or could have made.
fn certificates(dir: &Path) -> Result<Vec<(PathBuf, IssuedCertificate)>, Failure> {
    let failed = || file_failed(dir.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed())? {
        let path = entry.map_err(failed())?.path();
        if path.extension().is_some_and(|extension| extension == "pem") {
            let text = fs::read(&path).map_err(file_failed(path.display()))?;
            let certificate = IssuedCertificate::parse(&text)
                .map_err(|why| Failure::bad_arguments(format!("{}: {why}", path.display())))?;
            found.push((path, certificate));
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}

impl Authority {
    fn read(dir: &Path) -> Result<Authority, Failure> {
        let path = dir.join(CA_FILE);
        let pem = fs::read_to_string(&path).map_err(|error| {
            let advice = "ternctl tls ca makes an authority, --dir names its folder";
            Failure::bad_arguments(format!("{}: {error}: {advice}", path.display()))
        })?;
        let key = read_key(&dir.join(CA_KEY_FILE))?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(failed(path.display()))?;
        Ok(Authority { issuer })
    }

    fn sign(&self, wanted: &IssuedCertificate, key: &KeyPair) -> Result<String, Failure> {
        let signed = params(wanted)?.signed_by(key, &self.issuer);
        Ok(signed.map_err(failed("the certificate"))?.pem())
    }
}

fn read_key(path: &Path) -> Result<KeyPair, Failure> {
    let pem = fs::read_to_string(path).map_err(file_failed(path.display()))?;
    KeyPair::from_pem(&pem).map_err(failed(path.display()))
}

/// The fields of a certificate in the form that `rcgen` signs.
fn params(wanted: &IssuedCertificate) -> Result<CertificateParams, Failure> {
    let mut params = CertificateParams::new(wanted.hosts.clone()).map_err(failed("--host"))?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, wanted.name.as_str());
    let epoch = date_time_ymd(1970, 1, 1);
    let now_ns = Clock::new().now().wall_ns;
    params.not_before = epoch + Duration::from_nanos(now_ns).saturating_sub(SKEW);
    params.not_after = epoch + Duration::from_secs(wanted.ends_s);
    // Two certificates of one authority with the same number are refused by some clients.
    let number = [random()?, random()?].map(u64::to_be_bytes).concat();
    params.serial_number = Some(SerialNumber::from_slice(&number));
    params.use_authority_key_identifier_extension = true;
    match wanted.purpose {
        CertificatePurpose::Authority => {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        }
        CertificatePurpose::Machine | CertificatePurpose::Client => {
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            if wanted.purpose == CertificatePurpose::Machine {
                params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
            }
        }
    }
    Ok(params)
}

fn random() -> Result<u64, Failure> {
    disk::random().map_err(Failure::bad_arguments)
}

/// The end of a certificate that is made now, in seconds of Unix time.
fn end_after(days: u32) -> u64 {
    let now_s = Clock::new().now().wall_ns / 1_000_000_000;
    now_s + u64::from(days) * DAY.as_secs()
}

/// Whole days until a certificate ends; negative once it has ended.
fn days_left(certificate: &IssuedCertificate) -> i64 {
    let now_s = Clock::new().now().wall_ns / 1_000_000_000;
    (certificate.ends_s as i64 - now_s as i64).div_euclid(DAY.as_secs() as i64)
}

fn failed(what: impl std::fmt::Display) -> impl FnOnce(rcgen::Error) -> Failure {
    move |error| Failure::bad_arguments(format!("{what}: {error}"))
}

/// Writes a key and its certificate, which do not exist: both or neither.
fn write_pair(key_path: &Path, key: &KeyPair, pem_path: &Path, pem: &str) -> Result<(), Failure> {
    write_new(key_path, &key.serialize_pem(), 0o600)?;
    let written = write_new(pem_path, pem, 0o644);
    if written.is_err() {
        let _ = fs::remove_file(key_path);
    }
    written
}

/// Writes a file that does not exist.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    file.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    })
    .map_err(file_failed(path.display()))
}

/// Replaces a certificate in one step.
fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    let beside = path.with_extension("pem.tmp");
    // Left by an earlier run that was interrupted.
    let _ = fs::remove_file(&beside);
    write_new(&beside, text, 0o644)?;
    fs::rename(&beside, path).map_err(file_failed(path.display()))
}
