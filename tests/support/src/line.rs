//! Lines that lose and delay IP packets between the machines of a [`Net`](crate::net::Net).
//!
//! Each machine's namespace has a TUN device, to which its packets for the other machines are
//! routed. One thread reads the packets of all devices, drops some of them, holds the others back,
//! and writes each to the device of the machine that it is for. TCP above it meets loss and delay as
//! on a real line; a relay of TCP connections would hide every loss. Packets between the test and a
//! machine take the bridge and are neither lost nor delayed.
use crate::rng::Rng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// `TUNSETIFF` of `linux/if_tun.h`: `_IOW('T', 202, int)`.
const TUNSETIFF: u32 = rustix::ioctl::opcode::write::<i32>(b'T', 202);
/// `struct ifreq`: the name of the device, then its flags.
const IFREQ_BYTES: usize = 40;
const NAME_BYTES: usize = 16;
/// `IFF_TUN | IFF_NO_PI`: packets begin with their IP head.
const FLAGS: u16 = 0x1001;
/// Longer than any packet of a device.
const PACKET_BYTES_MAX: usize = 65_536;
/// How often the thread looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(100);

/// The properties of the line between each two machines, the same in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// How many of a hundred packets are lost.
    pub loss_percent: u64,
    /// The time that a packet and its answer need together.
    pub round_trip: Duration,
    /// How many bytes a second leave each machine; `None`: any number.
    pub bytes_per_s: Option<u64>,
}

/// A packet on its way.
struct Packet {
    due: Instant,
    /// Of packets that are due together the first leaves first.
    number: u64,
    to: usize,
    bytes: Vec<u8>,
}

impl PartialEq for Packet {
    fn eq(&self, other: &Packet) -> bool {
        self.number == other.number
    }
}

impl Eq for Packet {}

impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Packet) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The earliest packet is the greatest one: a `BinaryHeap` gives it first.
impl Ord for Packet {
    fn cmp(&self, other: &Packet) -> std::cmp::Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

/// The thread that forwards packets. It ends when this is dropped.
#[derive(Debug)]
pub struct Lines {
    line: Arc<Mutex<Line>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Makes a TUN device in this thread's network namespace. It exists as long as the file is open,
/// also when it is moved to another namespace.
///
/// # Panics
/// If the kernel refuses.
pub fn open_device(name: &str) -> File {
    let mut options = File::options();
    let device = options.read(true).write(true).open("/dev/net/tun");
    let device = device.expect("/dev/net/tun opens");
    let mut request = [0; IFREQ_BYTES];
    assert!(name.len() < NAME_BYTES, "{name} is a short name");
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[NAME_BYTES..NAME_BYTES + 2].copy_from_slice(&FLAGS.to_ne_bytes());
    // SAFETY: TUNSETIFF reads a `struct ifreq`, which is not longer than these bytes, and keeps no
    // pointer to it.
    let made = unsafe {
        let setter = rustix::ioctl::Setter::<TUNSETIFF, [u8; IFREQ_BYTES]>::new(request);
        rustix::ioctl::ioctl(&device, setter)
    };
    made.expect("a TUN device");
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NONBLOCK;
    rustix::fs::fcntl_setfl(&device, flags).expect("it need not block");
    device
}

impl Lines {
    /// Forwards between these devices. A packet is for the machine with its number if `place_of`
    /// gives the number for its destination.
    pub fn start(
        devices: Vec<File>,
        line: Line,
        place_of: impl Fn(Ipv4Addr) -> Option<usize> + Send + 'static,
    ) -> Lines {
        let line = Arc::new(Mutex::new(line));
        let stop = Arc::new(AtomicBool::new(false));
        let mut forwarder = Forwarder {
            devices,
            line: line.clone(),
            rng: Rng::new(5),
            on_the_way: BinaryHeap::new(),
            free: Vec::new(),
            last: 0,
        };
        forwarder.free = vec![Instant::now(); forwarder.devices.len()];
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                forwarder.turn(&place_of);
            }
        });
        Lines {
            line,
            stop,
            thread: Some(thread),
        }
    }

    /// Packets that leave from now on are treated so.
    pub fn set(&self, line: Line) {
        *self.line.lock().expect("no thread panics with it") = line;
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Forwarder {
    devices: Vec<File>,
    line: Arc<Mutex<Line>>,
    rng: Rng,
    on_the_way: BinaryHeap<Packet>,
    /// When each machine's line is free again for its next packet.
    free: Vec<Instant>,
    /// The number of the last packet.
    last: u64,
}

impl Forwarder {
    fn turn(&mut self, place_of: &impl Fn(Ipv4Addr) -> Option<usize>) {
        let next = self.on_the_way.peek().map(|packet| packet.due);
        let wait = next.map_or(LOOK, |due| due.saturating_duration_since(Instant::now()));
        let wait = Timespec::try_from(wait.min(LOOK)).expect("a short time");
        let all = self.devices.iter();
        let mut waiting: Vec<PollFd> = all
            .map(|device| PollFd::from_borrowed_fd(device.as_fd(), PollFlags::IN))
            .collect();
        // A signal interrupts it: then the next turn goes on.
        let _ = poll(&mut waiting, Some(&wait));
        drop(waiting);
        for from in 0..self.devices.len() {
            self.read(from, place_of);
        }
        self.deliver();
    }

    fn read(&mut self, from: usize, place_of: &impl Fn(Ipv4Addr) -> Option<usize>) {
        let line = *self.line.lock().expect("no thread panics with it");
        let mut buffer = [0; PACKET_BYTES_MAX];
        loop {
            let count = match (&self.devices[from]).read(&mut buffer) {
                Ok(count) => count,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            let now = Instant::now();
            // An IPv4 head has the destination at byte 16.
            let Some(to) = buffer[..count].get(16..20) else {
                continue;
            };
            let to = Ipv4Addr::new(to[0], to[1], to[2], to[3]);
            let Some(to) = place_of(to).filter(|_| buffer[0] >> 4 == 4) else {
                continue;
            };
            if self.rng.below(100) < line.loss_percent {
                continue;
            }
            let mut leaves = now;
            if let Some(rate) = line.bytes_per_s {
                let took = Duration::from_secs_f64(count as f64 / rate as f64);
                leaves = self.free[from].max(now) + took;
                self.free[from] = leaves;
            }
            self.last += 1;
            self.on_the_way.push(Packet {
                due: leaves + line.round_trip / 2,
                number: self.last,
                to,
                bytes: buffer[..count].to_vec(),
            });
        }
    }

    fn deliver(&mut self) {
        while let Some(packet) = self.on_the_way.peek() {
            if packet.due > Instant::now() {
                return;
            }
            let packet = self.on_the_way.pop().expect("just seen");
            // A device that is full loses the packet, as a router would.
            let _ = (&self.devices[packet.to]).write(&packet.bytes);
        }
    }
}
