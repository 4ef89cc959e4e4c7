//! The sink of the `log` facade: writes one line for each event to stdout, and never blocks.
//!
//! Lines that stdout does not take at once wait in a buffer of bounded size. A line for which the
//! buffer has no room is dropped and counted. The count is logged once the buffer is empty. stdout
//! may be shared with a terminal or another process, so its descriptor is not made non-blocking
//! (`LogOutput`). Must not read a clock: the reactor sets the time. Start with [`start`], then
//! `LineSink::put`.
use crate::codec::api::LogLevel;
use crate::shell::config::Verbosity;
use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// Most bytes of waiting lines.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of one write: a pipe that is ready for writing takes this many without blocking
/// (`PIPE_BUF` on Linux).
const PIECE_BYTES_MAX: usize = 4_096;
/// How many times `finish` waits for the reader of the log.
const LAST_WAITS: usize = 20;
/// How long `finish` waits each time: 10 ms, so at most 0.2 s in all.
const LAST_WAIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};

static LOGGER: OnceLock<StdoutLogger> = OnceLock::new();
/// The wall-clock time of the lines that follow, in nanoseconds since the Unix epoch.
static WALL_NS: AtomicU64 = AtomicU64::new(0);

/// The logger of the process.
struct StdoutLogger {
    /// Whether lines are JSON objects.
    json: bool,
    /// Locked because `log::Log` is shared between threads. A write does not block, so the lock is
    /// held only briefly.
    sink: Mutex<LineSink>,
}

/// Installs the logger. With `json`, lines are JSON objects. A second call has no effect.
///
/// # Panics
///
/// If the process has no descriptor left.
pub fn start(verbosity: Verbosity, json: bool) {
    let level = match verbosity {
        Verbosity::Normal => LevelFilter::Info,
        Verbosity::Verbose => LevelFilter::Debug,
        Verbosity::VeryVerbose | Verbosity::VeryVeryVerbose => LevelFilter::Trace,
    };
    let logger = LOGGER.get_or_init(|| StdoutLogger {
        json,
        sink: Mutex::new(LineSink::new(LogOutput::of(std::io::stdout().as_fd()))),
    });
    if log::set_logger(logger).is_ok() {
        log::set_max_level(level);
    }
}

/// Changes the level, for a client, and logs that.
pub fn set_level(level: LogLevel) {
    let filter = match level {
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warning => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
        LogLevel::Trace => LevelFilter::Trace,
    };
    log::warn!("a client has set the level of the log to {filter} (/config/local/log)");
    log::set_max_level(filter);
}

/// Sets the time of the lines that follow, in nanoseconds since the Unix epoch. Called once a turn.
pub fn set_time(wall_ns: u64) {
    WALL_NS.store(wall_ns, Ordering::Relaxed);
}

/// Writes the waiting lines, as far as stdout takes them now. Returns whether none is left.
pub fn flush() -> bool {
    let Some(logger) = LOGGER.get() else {
        return true;
    };
    let mut sink = logger.lock();
    sink.drain(|text| line(logger.json, Level::Warn, text));
    sink.waiting.is_empty()
}

/// The lines on their way to stdout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinesUsage {
    /// Bytes that stdout has not taken.
    pub waiting_bytes: usize,
    /// The bound on them.
    pub waiting_bytes_max: usize,
    /// How many lines were dropped since the start.
    pub dropped: u64,
}

/// The lines on their way to stdout.
pub fn usage() -> LinesUsage {
    let sink = LOGGER.get().map(StdoutLogger::lock);
    LinesUsage {
        waiting_bytes: sink.as_ref().map_or(0, |sink| sink.waiting.len()),
        waiting_bytes_max: BUFFER_BYTES_MAX,
        dropped: sink.map_or(0, |sink| sink.dropped_total),
    }
}

/// Writes the waiting lines, and waits for a slow reader at most 0.2 s. Called at the end of the
/// process.
pub fn finish() {
    for _ in 0..LAST_WAITS {
        if flush() {
            return;
        }
        let stdout = std::io::stdout();
        let mut asked = [PollFd::new(&stdout, PollFlags::OUT)];
        // The next flush tries to write in any case.
        let _ = poll(&mut asked, Some(&LAST_WAIT));
    }
}

impl StdoutLogger {
    /// Locks the sink. It is usable even after a panic of a thread that held the lock.
    fn lock(&self) -> MutexGuard<'_, LineSink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for StdoutLogger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        // Events of other crates are not for operators.
        metadata.target().starts_with("tern")
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = line(self.json, record.level(), &record.args().to_string());
        let mut sink = self.lock();
        sink.put(text.as_bytes());
        sink.drain(|text| line(self.json, Level::Warn, text));
    }

    fn flush(&self) {
        flush();
    }
}

/// Formats a line: `[tern] Nov 24 06:55:18.526 INFO      | text` in UTC, or a JSON object. Control
/// characters become spaces, so that bytes from a client cannot forge a line.
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

/// Lines on their way to stdout.
struct LineSink {
    output: LogOutput,
    /// Bytes that stdout has not taken; at most [`BUFFER_BYTES_MAX`], and the report of dropped
    /// lines.
    waiting: Vec<u8>,
    /// How many lines were dropped since the last report.
    dropped: u64,
    /// How many lines were dropped since the start.
    dropped_total: u64,
}

impl LineSink {
    fn new(output: LogOutput) -> LineSink {
        LineSink {
            output,
            waiting: Vec::new(),
            dropped: 0,
            dropped_total: 0,
        }
    }

    /// Adds a line, or drops it if it does not fit.
    fn put(&mut self, line: &[u8]) {
        if self.waiting.len() + line.len() > BUFFER_BYTES_MAX {
            self.dropped += 1;
            self.dropped_total += 1;
        } else {
            self.waiting.extend_from_slice(line);
        }
    }

    /// Writes the waiting bytes. Once all are written, adds a report of the dropped lines. `line`
    /// formats a text as a line.
    fn drain(&mut self, line: impl Fn(&str) -> String) {
        self.write();
        if self.dropped > 0 && self.waiting.is_empty() {
            let text = dropped_text(self.dropped);
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
                // On a full disk the lines wait for room.
                Ok(0) | Err(Errno::AGAIN | Errno::NOSPC | Errno::DQUOT) => break,
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                // The reader has closed stdout: drop the lines. A report would have no reader.
                Err(_) => {
                    let lost = self.waiting[written..].iter().filter(|b| **b == b'\n');
                    self.dropped_total += lost.count() as u64;
                    written = self.waiting.len();
                }
            }
        }
        self.waiting.drain(..written);
    }
}

fn dropped_text(count: u64) -> String {
    format!("{count} lines of this log were dropped: its reader was too slow, or its disk full")
}

/// A way to write to stdout without blocking.
enum LogOutput {
    /// A pipe or terminal, opened a second time. The flag for non-blocking writes holds for this
    /// descriptor alone.
    Reopened(OwnedFd),
    /// A socket. Each write has a flag against blocking.
    Socket(OwnedFd),
    /// A file. Its writes do not wait for a reader.
    File(OwnedFd),
    /// A pipe or terminal that cannot be opened a second time. It is polled before each write.
    Polled(OwnedFd),
}

impl LogOutput {
    fn of(shared: impl AsFd) -> LogOutput {
        let raw = shared.as_fd().as_raw_fd();
        let fd = shared.as_fd().try_clone_to_owned();
        let fd = fd.expect("a descriptor is free at start");
        let kind = fstat(&fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
        match kind {
            Ok(FileType::Socket) => return LogOutput::Socket(fd),
            Ok(FileType::RegularFile) => return LogOutput::File(fd),
            Ok(_) | Err(_) => {}
        }
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match open(format!("/proc/self/fd/{raw}"), flags, Mode::empty()) {
            Ok(own) => LogOutput::Reopened(own),
            Err(_) => LogOutput::Polled(fd),
        }
    }

    /// Writes at most [`PIECE_BYTES_MAX`] bytes. `Errno::AGAIN`: stdout takes nothing now.
    fn write(&self, piece: &[u8]) -> Result<usize, Errno> {
        match self {
            LogOutput::Reopened(fd) | LogOutput::File(fd) => rustix::io::write(fd, piece),
            LogOutput::Socket(fd) => send(fd, piece, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            LogOutput::Polled(fd) => {
                let mut asked = [PollFd::new(fd, PollFlags::OUT)];
                if poll(&mut asked, Some(&Timespec::default()))? == 0 {
                    return Err(Errno::AGAIN);
                }
                rustix::io::write(fd, piece)
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

    fn overflow(output: impl Fn(&std::io::PipeWriter) -> LogOutput) {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let mut sink = LineSink::new(output(&writer));
        let long = "x".repeat(999);
        // A pipe holds 64 KiB, and so does the buffer.
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
        assert_eq!(format!("{last}\n"), plain(&dropped_text(dropped)));
    }

    #[test]
    fn a_full_pipe_drops_lines_and_reports_how_many() {
        overflow(|writer| {
            let output = LogOutput::of(writer.as_fd());
            assert!(matches!(output, LogOutput::Reopened(_)));
            output
        });
    }

    #[test]
    fn a_pipe_that_cannot_be_opened_again_does_not_block() {
        overflow(|writer| LogOutput::Polled(writer.try_clone().expect("a descriptor").into()));
    }

    #[test]
    fn a_closed_pipe_leaves_nothing_waiting() {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut sink = LineSink::new(LogOutput::of(writer.as_fd()));
        drop(reader);
        sink.put(b"line\n");
        sink.drain(plain);
        assert!(sink.waiting.is_empty());
        assert_eq!(sink.dropped_total, 1);
    }

    #[test]
    fn lines_wait_for_room_on_a_full_disk() {
        let full = std::fs::File::options().write(true).open("/dev/full");
        let mut sink = LineSink::new(LogOutput::of(full.expect("the device")));
        let long = "x".repeat(999);
        for _ in 0..66 {
            sink.put(plain(&long).as_bytes());
            sink.drain(plain);
        }
        assert_eq!((sink.waiting.len(), sink.dropped_total), (65_000, 1));
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        sink.output = LogOutput::of(writer.as_fd());
        sink.waiting.drain(1_000..);
        sink.drain(plain);
        drop((sink, writer));
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("lines");
        assert_eq!(text, plain(&long) + &plain(&dropped_text(1)));
    }

    #[test]
    fn lines_have_the_form_of_etcd_0_4() {
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
