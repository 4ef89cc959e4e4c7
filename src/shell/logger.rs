//! The sink of the `log` facade: one line a record to stdout, never waiting for whoever reads it.
//!
//! Lines go through a bounded buffer. When stdout takes no more they wait there, and when the
//! buffer is full they are dropped and counted; the count is told once there is room again. stdout
//! may be shared with a terminal or another process, so it is never made non-blocking itself. Start
//! with `Sink::put`.
use crate::shell::config::Verbosity;
use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Bytes of lines that may wait.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// A pipe that can be written to at all takes so much without blocking (PIPE_BUF on Linux).
const PIECE_BYTES_MAX: usize = 4_096;

/// How often, and each time how long, the end of the process waits for its log's reader: at most
/// 0.2 s in all.
const LAST_CHANCES: usize = 20;
const LAST_CHANCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};

static SINK: OnceLock<Shared> = OnceLock::new();
static WALL_NS: AtomicU64 = AtomicU64::new(0);

struct Shared {
    json: bool,
    sink: Mutex<Sink>,
}

/// Installs the sink; `json`: one JSON object a line. A second call changes nothing.
pub fn start(verbosity: Verbosity, json: bool) {
    let level = match verbosity {
        Verbosity::Normal => LevelFilter::Info,
        Verbosity::Verbose => LevelFilter::Debug,
        Verbosity::VeryVerbose | Verbosity::VeryVeryVerbose => LevelFilter::Trace,
    };
    let shared = SINK.get_or_init(|| Shared {
        json,
        sink: Mutex::new(Sink::new(Output::of(std::io::stdout().as_fd()))),
    });
    if log::set_logger(shared).is_ok() {
        log::set_max_level(level);
    }
}

/// The wall-clock time of the lines that follow, in nanoseconds since the Unix epoch; set once a
/// turn.
pub fn set_time(wall_ns: u64) {
    WALL_NS.store(wall_ns, Ordering::Relaxed);
}

/// Writes what stdout has not taken yet, as far as it takes it now. True when nothing is left.
pub fn flush() -> bool {
    let Some(shared) = SINK.get() else {
        return true;
    };
    let mut sink = shared.sink.lock().unwrap_or_else(PoisonError::into_inner);
    sink.drain(|text| line(shared.json, Level::Warn, text));
    sink.waiting.is_empty()
}

/// Before the process ends: gives a reader that is slow, but alive, a last chance to take what
/// waits.
pub fn finish() {
    for _ in 0..LAST_CHANCES {
        if flush() {
            return;
        }
        let stdout = std::io::stdout();
        let mut asked = [PollFd::new(&stdout, PollFlags::OUT)];
        // Whatever it says, the next attempt shows it.
        let _ = poll(&mut asked, Some(&LAST_CHANCE));
    }
}

impl Log for Shared {
    fn enabled(&self, metadata: &Metadata) -> bool {
        // Other crates have nothing to tell an operator.
        metadata.target().starts_with("tern")
    }

    fn log(&self, record: &Record) {
        if self.enabled(record.metadata()) {
            let text = line(self.json, record.level(), &record.args().to_string());
            let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
            sink.put(text.as_bytes());
            sink.drain(|text| line(self.json, Level::Warn, text));
        }
    }

    fn flush(&self) {
        flush();
    }
}

/// `[tern] Nov 24 06:55:18.526 INFO      | text`, in UTC, or the same as JSON. Control characters
/// become spaces: a client's bytes must not make lines of their own.
fn line(json: bool, level: Level, text: &str) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let time = std::time::UNIX_EPOCH + Duration::from_nanos(WALL_NS.load(Ordering::Relaxed));
    let time = humantime::format_rfc3339_millis(time).to_string();
    let text = text.replace(char::is_control, " ");
    let name = match level {
        Level::Error => "ERROR",
        Level::Warn => "WARNING",
        Level::Info => "INFO",
        Level::Debug => "DEBUG",
        Level::Trace => "TRACE",
    };
    if json {
        let text = serde_json::Value::String(text);
        return format!("{{\"time\":\"{time}\",\"level\":\"{name}\",\"text\":{text}}}\n");
    }
    let month: usize = time[5..7].parse().expect("RFC 3339 has a month there");
    let (month, day, clock) = (MONTHS[month - 1], &time[8..10], &time[11..23]);
    format!("[tern] {month} {day} {clock} {name:<9} | {text}\n")
}

/// Lines on their way out.
struct Sink {
    output: Output,
    waiting: Vec<u8>,
    /// Lines that found no room.
    dropped: u64,
}

impl Sink {
    fn new(output: Output) -> Sink {
        Sink {
            output,
            waiting: Vec::new(),
            dropped: 0,
        }
    }

    fn put(&mut self, line: &[u8]) {
        if self.waiting.len() + line.len() > BUFFER_BYTES_MAX {
            self.dropped += 1;
        } else {
            self.waiting.extend_from_slice(line);
        }
    }

    fn drain(&mut self, line: impl Fn(&str) -> String) {
        self.write();
        if self.dropped > 0 && self.waiting.is_empty() {
            let text = format!(
                "{} lines of this log were dropped, its reader was too slow",
                self.dropped
            );
            self.dropped = 0;
            self.waiting.extend_from_slice(line(&text).as_bytes());
            self.write();
        }
    }

    fn write(&mut self) {
        let mut written = 0;
        while written < self.waiting.len() {
            let end = self.waiting.len().min(written + PIECE_BYTES_MAX);
            match self.output.write(&self.waiting[written..end]) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                // Whoever read it is gone; there is nobody to tell.
                Err(_) => written = self.waiting.len(),
            }
        }
        self.waiting.drain(..written);
    }
}

/// stdout, as something that never blocks.
enum Output {
    /// A pipe or terminal, opened once more, so that its flags are our own.
    Own(OwnedFd),
    Socket(OwnedFd),
    File(OwnedFd),
    /// A pipe or terminal that cannot be opened: it is asked before each write.
    Asked(OwnedFd),
}

impl Output {
    fn of(shared: impl AsFd) -> Output {
        use rustix::fd::AsRawFd;
        let raw = shared.as_fd().as_raw_fd();
        let fd = shared.as_fd().try_clone_to_owned();
        let fd = fd.expect("a descriptor is free at start");
        let kind = fstat(&fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
        match kind {
            Ok(FileType::Socket) => Output::Socket(fd),
            Ok(FileType::RegularFile) => Output::File(fd),
            Ok(_) | Err(_) => {
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                match open(format!("/proc/self/fd/{raw}"), flags, Mode::empty()) {
                    Ok(own) => Output::Own(own),
                    Err(_) => Output::Asked(fd),
                }
            }
        }
    }

    fn write(&self, piece: &[u8]) -> Result<usize, Errno> {
        match self {
            Output::Own(fd) | Output::File(fd) => rustix::io::write(fd, piece),
            Output::Socket(fd) => send(fd, piece, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            Output::Asked(fd) => {
                let mut asked = [PollFd::new(fd, PollFlags::OUT)];
                match poll(&mut asked, Some(&Timespec::default()))? {
                    0 => Err(Errno::AGAIN),
                    _ => rustix::io::write(fd, piece),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn plain(text: &str) -> String {
        format!("{text}\n")
    }

    fn overflow(output: impl Fn(&std::io::PipeWriter) -> Output) {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let mut sink = Sink::new(output(&writer));
        let long = "x".repeat(999);
        // A pipe holds 64 KiB and the buffer as much again.
        for _ in 0..200 {
            sink.put(plain(&long).as_bytes());
            sink.drain(plain);
        }
        assert!(!sink.waiting.is_empty() && sink.waiting.len() <= BUFFER_BYTES_MAX);
        let dropped = sink.dropped;
        assert!((1..200).contains(&dropped));
        let mut seen = Vec::new();
        let mut piece = vec![0; 1 << 20];
        while !sink.waiting.is_empty() || sink.dropped > 0 {
            let count = reader.read(&mut piece).expect("lines");
            seen.extend_from_slice(&piece[..count]);
            sink.drain(plain);
        }
        drop((sink, writer));
        reader.read_to_end(&mut seen).expect("the rest");
        let text = String::from_utf8(seen).expect("text");
        let whole = text.lines().filter(|l| *l == long).count() as u64;
        assert_eq!(whole + dropped, 200);
        let last = text.lines().last().expect("lines");
        assert_eq!(
            last,
            format!("{dropped} lines of this log were dropped, its reader was too slow")
        );
    }

    #[test]
    fn a_full_pipe_drops_lines_and_tells_how_many() {
        overflow(|writer| {
            let output = Output::of(writer.as_fd());
            assert!(matches!(output, Output::Own(_)));
            output
        });
    }

    #[test]
    fn a_pipe_that_cannot_be_opened_again_does_not_block_either() {
        overflow(|writer| Output::Asked(writer.try_clone().expect("a descriptor").into()));
    }

    #[test]
    fn a_reader_that_went_away_leaves_nothing_waiting() {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut sink = Sink::new(Output::of(writer.as_fd()));
        drop(reader);
        sink.put(b"line\n");
        sink.drain(plain);
        assert!(sink.waiting.is_empty());
    }

    #[test]
    fn lines_look_as_in_0_4() {
        set_time(1_795_503_318_526_000_000);
        assert_eq!(
            line(false, Level::Info, "a\nb"),
            "[tern] Nov 24 06:55:18.526 INFO      | a b\n"
        );
        assert_eq!(
            line(true, Level::Warn, "a \"b\""),
            "{\"time\":\"2026-11-24T06:55:18.526Z\",\"level\":\"WARNING\",\"text\":\"a \\\"b\\\"\"}\n"
        );
    }
}
