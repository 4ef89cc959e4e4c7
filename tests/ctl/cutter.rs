//! A proxy that breaks connections: it passes on a given number of bytes of each answer.
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// After so many bytes of the answer it is closed.
    After(usize),
    /// After so many bytes of the answer nothing more comes, and it stays open.
    Stuck(usize),
}

pub struct Cutter {
    address: SocketAddr,
    /// Bytes of answers that were passed on, by connection.
    passed: Arc<Mutex<Vec<usize>>>,
}

impl Cutter {
    /// Passes connections on to `to`. The first ones end as `cuts` say, further ones by themselves.
    pub fn start(to: SocketAddr, cuts: &[Cut]) -> Cutter {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let passed = Arc::new(Mutex::new(Vec::new()));
        let counts = passed.clone();
        let mut cuts: VecDeque<Cut> = cuts.iter().copied().collect();
        // Ends with the process of the test.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let cut = cuts.pop_front();
                let place = {
                    let mut counts = counts.lock().expect("no thread panics with it");
                    counts.push(0);
                    counts.len() - 1
                };
                let counts = counts.clone();
                std::thread::spawn(move || {
                    pass(&client, to, cut, |bytes| {
                        counts.lock().expect("no thread panics with it")[place] += bytes;
                    });
                });
            }
        });
        Cutter { address, passed }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Bytes of answers that were passed on, by connection.
    pub fn passed(&self) -> Vec<usize> {
        self.passed
            .lock()
            .expect("no thread panics with it")
            .clone()
    }
}

/// Passes one connection on until it ends or is cut.
fn pass(client: &TcpStream, to: SocketAddr, cut: Option<Cut>, count: impl Fn(usize)) {
    let Ok(server) = TcpStream::connect(to) else {
        return;
    };
    let mut requests = client.try_clone().expect("a handle");
    let mut to_server = server.try_clone().expect("a handle");
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut requests, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let left = match cut {
        None => usize::MAX,
        Some(Cut::After(bytes) | Cut::Stuck(bytes)) => bytes,
    };
    pass_answer(client, &server, left, &count);
    if let Some(Cut::Stuck(_)) = cut {
        // Longer than any test.
        std::thread::sleep(Duration::from_secs(600));
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}

fn pass_answer(
    mut client: &TcpStream,
    mut server: &TcpStream,
    mut left: usize,
    count: &impl Fn(usize),
) {
    let mut bytes = [0; 16 << 10];
    while left > 0 {
        let room = left.min(bytes.len());
        let Ok(length @ 1..) = server.read(&mut bytes[..room]) else {
            return;
        };
        if client.write_all(&bytes[..length]).is_err() {
            return;
        }
        left -= length;
        count(length);
    }
}
