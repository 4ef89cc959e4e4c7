//! Both ports over TLS: the built binary against clients with, without and with foreign
//! certificates.
//!
//! The certificates in `testdata/tls` are valid for a hundred years: `authority` has signed
//! `machine`; `guest` is signed by an unknown authority. The others are as people make them:
//! `version-1`, `expired` (2020-01-02) and `self-signed` belong to `spare.key`, which
//! `encrypted.key` and `encrypted-sec1.key` hold with the passphrase x.
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, BufRead, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use tern_support::client::until;
use tern_support::server::free_port;

type Tls = StreamOwned<ClientConnection, TcpStream>;

fn file(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/testdata/tls");
    folder.join(name)
}

struct Server {
    child: Child,
    client_port: u16,
    peer_port: u16,
    _home: tempfile::TempDir,
}

fn command(home: &tempfile::TempDir, args: &[&str], ports: (u16, u16)) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tern"));
    command.current_dir(home.path()).stdin(Stdio::null());
    command.args(["-data-dir", "data"]);
    if !args.contains(&"-name") {
        command.args(["-name", "node1"]);
    }
    command.arg(format!("-addr=127.0.0.1:{}", ports.0));
    command.arg(format!("-peer-addr=127.0.0.1:{}", ports.1));
    for arg in args {
        match arg.strip_prefix('@') {
            Some(name) => command.arg(file(name)),
            None => command.arg(arg),
        };
    }
    command
}

impl Server {
    /// Starts it and waits until both ports accept; `@name` is a file of the test data.
    fn start(args: &[&str]) -> Server {
        Server::start_with(args, Stdio::inherit())
    }

    /// As `start`, with its log in a pipe.
    fn logging(args: &[&str]) -> Server {
        Server::start_with(args, Stdio::piped())
    }

    fn start_with(args: &[&str], log: Stdio) -> Server {
        let home = tempfile::tempdir().expect("a directory");
        let (client_port, peer_port) = (free_port(), free_port());
        let mut command = command(&home, args, (client_port, peer_port));
        command.stdout(log).stderr(Stdio::null());
        let child = command.spawn().expect("it starts");
        let server = Server {
            child,
            client_port,
            peer_port,
            _home: home,
        };
        for port in [client_port, peer_port] {
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection that shows the certificate of this name, if any.
fn connect(port: u16, certificate: Option<&str>) -> Tls {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(file("authority.pem")).expect("a certificate");
    roots.add(authority).expect("an authority");
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match certificate {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let chain = CertificateDer::from_pem_file(file(&format!("{name}.pem")));
            let key = PrivateKeyDer::from_pem_file(file(&format!("{name}.key")));
            builder
                .with_client_auth_cert(vec![chain.expect("a certificate")], key.expect("a key"))
                .expect("they belong together")
        }
    };
    let name = ServerName::try_from("localhost").expect("a name");
    let session = ClientConnection::new(Arc::new(config), name).expect("a session");
    let socket = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    StreamOwned::new(session, socket)
}

fn send(stream: &mut Tls, method: &str, target: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// Reads until `end` has come.
fn read_to(stream: &mut Tls, end: &str) -> io::Result<String> {
    let mut text = Vec::new();
    let mut part = vec![0; 64 * 1024];
    while !text.ends_with(end.as_bytes()) {
        match stream.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => text.extend_from_slice(&part[..count]),
        }
    }
    Ok(String::from_utf8(text).expect("text"))
}

/// One request whose answer ends with `end`.
fn ask(stream: &mut Tls, method: &str, target: &str, body: &str, end: &str) -> String {
    send(stream, method, target, body).expect("sent");
    read_to(stream, end).expect("answered")
}

const CERTIFICATE: [&str; 4] = ["-cert-file", "@machine.pem", "-key-file", "@machine.key"];
const AUTHORITY: [&str; 2] = ["-ca-file", "@authority.pem"];

#[test]
fn the_client_port_speaks_tls() {
    let server = Server::start(&CERTIFICATE);
    let mut stream = connect(server.client_port, None);
    let answer = ask(&mut stream, "PUT", "/v2/keys/foo", "value=bar", "}}");
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    // Larger than any buffer on the way.
    let value = "x".repeat(1_500_000);
    let body = format!("value={value}");
    let answer = ask(&mut stream, "PUT", "/v2/keys/big", &body, "}}");
    assert!(answer.contains(&value));
    let answer = ask(&mut stream, "GET", "/v2/keys/big", "", "}}");
    assert!(answer.contains(&value));
    let url = format!("https://127.0.0.1:{}", server.client_port);
    ask(&mut stream, "GET", "/v2/machines", "", &url);
}

#[test]
fn events_reach_a_watcher_through_tls() {
    let server = Server::start(&CERTIFICATE);
    let mut watcher = connect(server.client_port, None);
    let mut writer = connect(server.client_port, None);
    ask(&mut writer, "PUT", "/v2/keys/w", "value=0", "}}");
    send(&mut watcher, "GET", "/v2/keys/w?wait=true&stream=true", "").expect("sent");
    read_to(&mut watcher, "\r\n\r\n").expect("a head");
    for value in 1..50 {
        ask(
            &mut writer,
            "PUT",
            "/v2/keys/w",
            &format!("value={value}"),
            "}}",
        );
        let event = read_to(&mut watcher, "}}\r\n").expect("an event");
        assert!(event.contains(&format!("\"value\":\"{value}\"")), "{event}");
    }
}

#[test]
fn a_connection_without_tls_is_closed_and_harms_no_other() {
    let server = Server::start(&CERTIFICATE);
    let mut plain = TcpStream::connect(("127.0.0.1", server.client_port)).expect("it listens");
    plain
        .write_all(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n")
        .expect("sent");
    let mut rest = Vec::new();
    // A reset is as good an end as any.
    let _ = plain.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
    let mut stream = connect(server.client_port, None);
    ask(&mut stream, "GET", "/version", "", "0.4.9");
}

/// TLS handshakes that stop after nothing, after half of the first message, or after all of it: each
/// is closed by the deadline of a head, and other clients are served meanwhile.
#[test]
fn handshakes_that_never_end() {
    let server = Server::start(&[&CERTIFICATE[..], &["-http-read-timeout", "1"]].concat());
    let mut hello = Vec::new();
    let mut begun = connect(server.client_port, None);
    begun
        .conn
        .write_tls(&mut hello)
        .expect("a vector takes all");
    let stalled: Vec<TcpStream> = (0..150)
        .map(|number| {
            let socket = TcpStream::connect(("127.0.0.1", server.client_port));
            let mut socket = socket.expect("it listens");
            let bytes = number % 3 * hello.len() / 2;
            socket.write_all(&hello[..bytes]).expect("sent");
            socket
        })
        .collect();
    for _ in 0..5 {
        let mut stream = connect(server.client_port, None);
        ask(&mut stream, "GET", "/version", "", "0.4.9");
    }
    for mut socket in stalled {
        socket
            .set_read_timeout(Some(tern_support::client::DEADLINE))
            .expect("a socket option");
        let ended = socket.read_to_end(&mut Vec::new());
        let is_late = ended.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock);
        assert!(!is_late, "it is closed");
    }
}

#[test]
fn clients_must_show_a_certificate_of_the_authority() {
    let server = Server::start(&[&CERTIFICATE[..], &AUTHORITY].concat());
    let alert = |certificate: Option<&str>| {
        let mut stream = connect(server.client_port, certificate);
        let refused = send(&mut stream, "GET", "/version", "")
            .and_then(|()| read_to(&mut stream, "0.4.9"))
            .expect_err("it is refused");
        match refused
            .get_ref()
            .and_then(|e| e.downcast_ref::<rustls::Error>())
        {
            Some(rustls::Error::AlertReceived(alert)) => *alert,
            _ => panic!("{refused}"),
        }
    };
    assert_eq!(alert(Some("guest")), AlertDescription::BadCertificate);
    assert_eq!(alert(None), AlertDescription::CertificateRequired);
    let mut stream = connect(server.client_port, Some("machine"));
    ask(&mut stream, "GET", "/version", "", "0.4.9");
}

#[test]
fn the_peer_port_has_its_own_certificate() {
    let peer = [
        "-peer-cert-file",
        "@machine.pem",
        "-peer-key-file",
        "@machine.key",
    ];
    let server = Server::start(&[&peer[..], &["-peer-ca-file", "@authority.pem"]].concat());
    let mut stream = connect(server.peer_port, Some("machine"));
    ask(&mut stream, "GET", "/name", "", "node1");
    let mut stream = connect(server.peer_port, Some("guest"));
    send(&mut stream, "GET", "/name", "")
        .and_then(|()| read_to(&mut stream, "node1"))
        .expect_err("it is refused");
    // The client port is plain.
    let mut plain = TcpStream::connect(("127.0.0.1", server.client_port)).expect("it listens");
    plain
        .write_all(b"GET /version HTTP/1.0\r\n\r\n")
        .expect("sent");
    let mut answer = String::new();
    plain.read_to_string(&mut answer).expect("text");
    assert!(answer.ends_with("0.4.9"), "{answer}");
}

/// A machine that does not lead passes requests on over TLS: a follower through its link, a standby as
/// a call to the client port of the leader.
#[test]
fn requests_are_forwarded_through_tls() {
    let peer = [
        "-peer-cert-file",
        "@machine.pem",
        "-peer-key-file",
        "@machine.key",
        "-peer-ca-file",
        "@authority.pem",
    ];
    let args = [
        &CERTIFICATE[..],
        &AUTHORITY[..],
        &peer[..],
        &["-forward", "-cluster-active-size=3"],
    ]
    .concat();
    let first = Server::start(&args);
    let peers = format!("127.0.0.1:{}", first.peer_port);
    let join = |name| Server::start(&[&args[..], &["-name", name, "-peers", &peers]].concat());
    // The last of them to join is a standby.
    let servers = [first, join("node2"), join("node3"), join("node4")];
    let value = "x".repeat(1_500_000);
    for (server, key) in servers.iter().zip(["one", "two", "three", "four"]) {
        let mut stream = connect(server.client_port, Some("machine"));
        let target = format!("/v2/keys/{key}");
        let body = format!("value={value}");
        // The machine may not have joined yet.
        until("the write is taken", || {
            let answer = ask(&mut stream, "PUT", &target, &body, "}");
            answer.starts_with("HTTP/1.1 20").then_some(())
        });
        let read = format!("{target}?quorum=true");
        let answer = ask(&mut stream, "GET", &read, "", "}}");
        assert!(answer.contains(&value), "{}", answer.len());
    }
}

/// SIGHUP: new connections get the certificate that the files hold now. Files that are unusable
/// change nothing.
#[test]
fn sighup_reads_the_certificate_again() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let copy = |from: &str| {
        for ending in ["pem", "key"] {
            let target = path(&format!("own.{ending}"));
            std::fs::copy(file(&format!("{from}.{ending}")), target).expect("copied");
        }
    };
    copy("machine");
    let args = [
        "-cert-file",
        &path("own.pem"),
        "-key-file",
        &path("own.key"),
    ];
    let mut server = Server::logging(&args);
    let log = std::io::BufReader::new(server.child.stdout.take().expect("piped"));
    let mut log = log.lines().map(|line| line.expect("text"));
    let hang_up = || {
        let pid = rustix::process::Pid::from_child(&server.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("it runs");
    };
    // Trusted while it is the certificate of `machine`, which the authority has signed.
    let is_trusted = || {
        let mut stream = connect(server.client_port, None);
        let sent = send(&mut stream, "GET", "/version", "");
        sent.is_ok() && read_to(&mut stream, "etcd 0.4.9").is_ok()
    };
    assert!(is_trusted());
    copy("guest");
    hang_up();
    until("the other certificate is shown", || {
        (!is_trusted()).then_some(())
    });
    std::fs::write(path("own.pem"), "no certificate").expect("written");
    hang_up();
    let is_failure = |line: &String| line.contains("ERROR") && line.contains("own.pem");
    log.find(is_failure).expect("the unusable file is logged");
    assert!(!is_trusted(), "the guest's certificate stays in use");
    copy("machine");
    hang_up();
    until("the first certificate is shown", || {
        is_trusted().then_some(())
    });
}

/// The text with which tern refuses these files at its start.
fn refusal(args: &[&str]) -> String {
    let home = tempfile::tempdir().expect("a directory");
    let mut command = command(&home, args, (free_port(), free_port()));
    let Output { status, stderr, .. } = command.output().expect("it starts");
    let text = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(1), "{text}");
    let mut left = std::fs::read_dir(home.path()).expect("a directory");
    assert!(left.next().is_none(), "no data directory is made: {text}");
    text
}

fn refusal_of(cert: &str, key: &str, ca: Option<&str>) -> String {
    let (cert, key) = (format!("@{cert}"), format!("@{key}"));
    let mut args = vec!["-cert-file", &cert, "-key-file", &key];
    let ca = ca.map(|ca| format!("@{ca}"));
    if let Some(ca) = &ca {
        args.extend(["-ca-file", ca]);
    }
    refusal(&args)
}

/// Each text names the file, its fault and what to do.
#[test]
fn files_that_are_of_no_use_are_named_with_what_to_do() {
    let cases = [
        (
            "missing.pem",
            "machine.key",
            None,
            "missing.pem: No such file",
        ),
        (
            "machine.key",
            "machine.key",
            None,
            "machine.key: a private key, no certificate",
        ),
        (
            "machine.pem",
            "authority.pem",
            None,
            "authority.pem: a certificate, no private key",
        ),
        (
            "version-1.pem",
            "spare.key",
            None,
            "version-1.pem: an X.509 certificate of version 1",
        ),
        ("version-1.pem", "spare.key", None, "-extfile"),
        (
            "machine.pem",
            "encrypted.key",
            None,
            "encrypted.key: the key is encrypted",
        ),
        (
            "machine.pem",
            "encrypted-sec1.key",
            None,
            "encrypted-sec1.key: the key is encrypted",
        ),
        ("machine.pem", "encrypted.key", None, "openssl pkey -in"),
        (
            "machine.pem",
            "guest.key",
            None,
            "guest.key is not the key of the certificate",
        ),
        (
            "machine.pem",
            "machine.key",
            Some("machine.pem"),
            "machine.pem: not the certificate of an authority",
        ),
        (
            "machine.pem",
            "machine.key",
            Some("machine.key"),
            "machine.key: a private key, no certificate",
        ),
    ];
    for (cert, key, ca, expected) in cases {
        let text = refusal_of(cert, key, ca);
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

/// A file that others may not like is used, and the log says why.
#[test]
fn files_that_others_may_refuse_are_used_with_a_warning() {
    let folder = tempfile::tempdir().expect("a directory");
    let key = folder.path().join("open.key");
    std::fs::copy(file("spare.key"), &key).expect("copied");
    let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&key, everyone).expect("changed");
    let key = key.display().to_string();
    let mut server = Server::logging(&["-cert-file", "@expired.pem", "-key-file", &key]);
    let log = std::io::BufReader::new(server.child.stdout.take().expect("piped"));
    let mut log = log.lines().map(|line| line.expect("text"));
    let mut next = |part: &str| {
        let line = log.find(|line| line.contains(part)).expect("it is logged");
        assert!(line.contains("WARNING"), "{line}");
        line
    };
    next("expired.pem expired at 2020-01-02T00:00:00Z");
    assert!(next("(mode 0644)").contains("chmod 600"));
}

/// A certificate that signed itself is its own authority, though it does not say so; one of version
/// 1 cannot say so.
#[test]
fn odd_authorities_are_taken() {
    for ca in ["@self-signed.pem", "@version-1.pem"] {
        let own = ["-cert-file", "@machine.pem", "-key-file", "@machine.key"];
        let server = Server::start(&[&own[..], &["-ca-file", ca]].concat());
        assert!(TcpStream::connect(("127.0.0.1", server.client_port)).is_ok());
    }
}
