//! The floors: servers that do the least a server of their kind can do. A rival that is faster than
//! tern shows that tern is slow; a floor shows how much there is to gain at all.
//!
//! Each is one epoll loop in a process of its own (this program again, with `--floor KIND PORT`),
//! so that its processor time is told apart from that of the load. None parses more than the end of
//! a request. Start with `Floor::serve`.
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::fs::File;
use std::io::{ErrorKind, Read, Result, Write};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The kind of a floor: its work for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floor {
    /// Answers each request with the same bytes.
    Constant,
    /// Appends a record for each request to a file, syncs once for all requests that have arrived,
    /// and answers them.
    Commits,
    /// Keeps the connection of each GET, and writes the same bytes to all of them after each PUT.
    FanOut,
}

const LISTENER: Token = Token(usize::MAX);
/// The answer to a GET of a key with a value of 64 bytes, with the headers of tern.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
    X-Etcd-Index: 10001\r\nX-Raft-Index: 10003\r\nX-Raft-Term: 2\r\n\
    Date: Mon, 30 Nov 2026 06:00:00 GMT\r\nContent-Length: 163\r\n\r\n\
    {\"action\":\"get\",\"node\":{\"key\":\"/load/0001234\",\"value\":\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
    xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\",\"modifiedIndex\":1234,\"createdIndex\":1234}}";
/// The head of a stream, with the headers of tern.
const STREAM_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
    X-Etcd-Index: 10001\r\nX-Raft-Index: 10003\r\nX-Raft-Term: 2\r\n\
    Date: Mon, 30 Nov 2026 06:00:00 GMT\r\nTransfer-Encoding: chunked\r\n\r\n";
/// An event of that key, as a chunk of the stream.
const EVENT: &[u8] = b"13b\r\n\
    {\"action\":\"set\",\"node\":{\"key\":\"/load/watched\",\"value\":\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
    xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\",\"modifiedIndex\":1234,\"createdIndex\":1234},\"prevNode\":{\
    \"key\":\"/load/watched\",\"value\":\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
    xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\",\"modifiedIndex\":1233,\"createdIndex\":1233}}\n\r\n";
/// The length of a record of `Commits` in bytes, the same as that of tern's log record for a PUT of
/// a 64-byte value.
const RECORD_BYTES: usize = 112;
/// The file of `Commits` is written from its beginning again after this many bytes.
const FILE_BYTES: u64 = 16 << 20;

impl Floor {
    /// By its name on the command line.
    pub fn named(name: &str) -> Option<Floor> {
        let all = [Floor::Constant, Floor::Commits, Floor::FanOut];
        all.into_iter().find(|floor| floor.name() == name)
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Floor::Constant => "constant",
            Floor::Commits => "commits",
            Floor::FanOut => "fan-out",
        }
    }

    /// Serves on this address until the process is killed. `directory` takes the file of `Commits`.
    pub fn serve(self, address: SocketAddr, directory: &Path) -> Result<()> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(address)?;
        let registry = poll.registry();
        registry.register(&mut listener, LISTENER, Interest::READABLE)?;
        let file = match self {
            Floor::Commits => Some(Appended::new(directory)?),
            Floor::Constant | Floor::FanOut => None,
        };
        let mut server = Server {
            poll,
            listener,
            conns: Vec::new(),
            asked: Vec::new(),
            watchers: Vec::new(),
            file,
        };
        let mut events = Events::with_capacity(1024);
        loop {
            server.poll.poll(&mut events, None)?;
            for event in &events {
                match event.token() {
                    LISTENER => server.accept()?,
                    Token(i) => server.read(i, self)?,
                }
            }
            server.answer_asked(self)?;
        }
    }
}

/// A file of blocks that exist already, so that a sync writes no metadata.
struct Appended {
    file: File,
    at: u64,
}

impl Appended {
    fn new(directory: &Path) -> Result<Appended> {
        let file = File::create_new(directory.join("floor"))?;
        file.write_all_at(&vec![7; FILE_BYTES as usize], 0)?;
        file.sync_all()?;
        Ok(Appended { file, at: 0 })
    }

    fn commit(&mut self, records: usize) -> Result<()> {
        let bytes = vec![8; records * RECORD_BYTES];
        if self.at + bytes.len() as u64 > FILE_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(&bytes, self.at)?;
        self.at += bytes.len() as u64;
        self.file.sync_data()
    }
}

struct Server {
    poll: Poll,
    listener: TcpListener,
    /// By token. `None` once it has ended.
    conns: Vec<Option<TcpStream>>,
    /// The connections whose requests are not answered.
    asked: Vec<usize>,
    /// The connections that get events.
    watchers: Vec<usize>,
    file: Option<Appended>,
}

impl Server {
    fn accept(&mut self) -> Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            };
            stream.set_nodelay(true)?;
            let token = Token(self.conns.len());
            let registry = self.poll.registry();
            registry.register(&mut stream, token, Interest::READABLE)?;
            self.conns.push(Some(stream));
        }
    }

    /// Reads one request. They are short, so each arrives as a whole.
    fn read(&mut self, i: usize, floor: Floor) -> Result<()> {
        let mut buffer = [0; 4096];
        let Some(stream) = &mut self.conns[i] else {
            return Ok(());
        };
        match stream.read(&mut buffer) {
            Ok(0) => self.conns[i] = None,
            Ok(_) if floor == Floor::FanOut && buffer[0] == b'G' => {
                self.watchers.push(i);
                self.write(i, STREAM_HEAD)?;
            }
            Ok(_) if floor == Floor::Constant => self.write(i, ANSWER)?,
            Ok(_) => self.asked.push(i),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.conns[i] = None,
        }
        Ok(())
    }

    fn answer_asked(&mut self, floor: Floor) -> Result<()> {
        if self.asked.is_empty() {
            return Ok(());
        }
        if let Some(file) = &mut self.file {
            file.commit(self.asked.len())?;
        }
        for i in std::mem::take(&mut self.asked) {
            self.write(i, ANSWER)?;
            if floor == Floor::FanOut {
                for watcher in self.watchers.clone() {
                    self.write(watcher, EVENT)?;
                }
            }
        }
        Ok(())
    }

    /// Writes to a connection. The load's clients read all the time, so the socket takes all bytes
    /// in one write.
    fn write(&mut self, i: usize, bytes: &[u8]) -> Result<()> {
        let Some(stream) = &mut self.conns[i] else {
            return Ok(());
        };
        if stream.write(bytes).is_err() {
            self.conns[i] = None;
        }
        Ok(())
    }
}
