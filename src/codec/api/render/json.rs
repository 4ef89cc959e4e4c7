//! Writes JSON directly into the output: strings, times, nodes, events, errors.
//!
//! No tree of values is built: it would cost an allocation for each field, and lose the order of
//! fields that clients of 0.4 may depend on. Times and durations are printed as in 0.4.
//!
//! Start reading at [`event`].
use crate::codec::http::response::push_number;
use crate::core::error::Error;
use crate::core::escape::any_byte;
use crate::core::store::{Action, EtcdIndex, Event, ValueRef, ViewRef};
use std::sync::Arc;

/// A value of at least this many bytes is not copied into the answer to a write or to a GET of one
/// file. Copying a shorter one costs less than a separate buffer in the output queue.
const SHARED_BYTES_MIN: usize = 32 << 10;

/// A long value that is sent from the store's own memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedValue {
    /// The offset in the output where the value belongs, in bytes. The quotes are in the output.
    pub at: usize,
    /// The value, which needs no escape.
    pub value: Arc<str>,
}

/// Whether a string needs no escape (RFC 8259 section 7).
fn is_plain(text: &str) -> bool {
    let needs_escape = |byte| (byte < b' ') | (byte == b'"') | (byte == b'\\');
    !any_byte(text.as_bytes(), needs_escape)
}

const NS: u64 = 1_000_000_000;

/// Appends a string in quotes (RFC 8259 section 7). Most strings need no escape.
pub fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    if is_plain(text) {
        raw(text, out);
    } else {
        escaped(text, out);
    }
    out.push(b'"');
}

/// Appends a string with its escapes. Characters without one are copied in runs.
fn escaped(text: &str, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    let mut run = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if *byte >= b' ' && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[run..at]);
        run = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.push(DIGITS[usize::from(byte >> 4)]);
                out.push(DIGITS[usize::from(byte & 15)]);
            }
        }
    }
    out.extend_from_slice(&bytes[run..]);
}

/// Appends text as it is: names of fields, punctuation.
pub fn raw(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(text.as_bytes());
}

/// Appends `before` and a number.
pub fn number(before: &str, value: u64, out: &mut Vec<u8>) {
    raw(before, out);
    push_number(value, out);
}

/// Appends `before` and a fraction. Infinities and NaN, which JSON lacks, become 0.
pub fn float(before: &str, value: f64, out: &mut Vec<u8>) {
    raw(before, out);
    let value = if value.is_finite() { value } else { 0.0 };
    raw(&value.to_string(), out);
}

fn padded(value: u64, width: usize, out: &mut Vec<u8>) {
    let digits = value.max(1).ilog10() as usize + 1;
    for _ in digits..width {
        out.push(b'0');
    }
    push_number(value, out);
}

/// Appends a time as in RFC 3339, with nanoseconds but without trailing zeros. `ns` counts from the
/// Unix epoch.
pub fn time(ns: u64, out: &mut Vec<u8>) {
    let (second, mut fraction) = (ns / NS, ns % NS);
    let (year, month, day) = civil(second / 86_400);
    padded(year, 4, out);
    for (separator, part) in [
        (b'-', month),
        (b'-', day),
        (b'T', second / 3_600 % 24),
        (b':', second / 60 % 60),
        (b':', second % 60),
    ] {
        out.push(separator);
        padded(part, 2, out);
    }
    if fraction > 0 {
        let mut width = 9;
        while fraction % 10 == 0 {
            fraction /= 10;
            width -= 1;
        }
        out.push(b'.');
        padded(fraction, width, out);
    }
    out.push(b'Z');
}

/// Year, month and day of a day since 1970-01-01, by the era method of H. Hinnant,
/// "chrono-compatible low-level date algorithms": eras of 400 years that begin on 1 March, so that
/// the leap day is the last.
fn civil(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (400 * era + year + carry, month, day)
}

/// Appends a duration: `1m18.5s`, `3.181929783s`, `12.5ms`.
pub fn duration(ns: u64, out: &mut Vec<u8>) {
    let (unit, scale, places) = match ns {
        0 => return raw("0s", out),
        1..1_000 => ("ns", 1, 0),
        1_000..1_000_000 => ("\u{b5}s", 1_000, 3),
        1_000_000..NS => ("ms", 1_000_000, 6),
        _ => ("s", NS, 9),
    };
    let (whole, mut fraction) = (ns / scale, ns % scale);
    let (hours, minutes) = (whole / 3_600, whole / 60 % 60);
    if scale == NS && whole >= 60 {
        if hours > 0 {
            number("", hours, out);
            out.push(b'h');
        }
        number("", minutes, out);
        out.push(b'm');
        number("", whole % 60, out);
    } else {
        number("", whole, out);
    }
    if fraction > 0 {
        let mut width = places;
        while fraction % 10 == 0 {
            fraction /= 10;
            width -= 1;
        }
        out.push(b'.');
        padded(fraction, width, out);
    }
    raw(unit, out);
}

/// The source of the `ttl` of a node that expires.
#[derive(Clone, Copy, Debug)]
pub enum Ttl {
    /// The time that is left at this moment, as times are shown, in nanoseconds since the Unix
    /// epoch. A node that is due has no `ttl`.
    LeftAt(u64),
    /// The change of an event gave it, in seconds. It may be negative.
    Given(Option<i64>),
}

impl Ttl {
    /// The number to show; `None` if there is none or it is 0.
    fn seconds(self, expires_ns: u64) -> Option<i64> {
        match self {
            Ttl::LeftAt(now_ns) => Some(seconds_left(expires_ns, now_ns)).filter(|left| *left > 0),
            Ttl::Given(ttl_s) => ttl_s.filter(|ttl_s| *ttl_s != 0),
        }
    }
}

/// Seconds until the expiration, rounded up; 0 or less once it is due.
fn seconds_left(expires_ns: u64, now_ns: u64) -> i64 {
    let left = i128::from(expires_ns) - i128::from(now_ns);
    let whole = left / i128::from(NS) + i128::from(left % i128::from(NS) > 0);
    whole as i64
}

/// Appends `,"expiration":…,"ttl":…` of a node that expires. A `ttl` of 0 is left out.
pub fn expiry(expires_ns: Option<u64>, ttl: Ttl, out: &mut Vec<u8>) {
    let Some(expires_ns) = expires_ns else {
        return;
    };
    raw(",\"expiration\":\"", out);
    time(expires_ns, out);
    raw("\"", out);
    if let Some(seconds) = ttl.seconds(expires_ns) {
        raw(",\"ttl\":", out);
        if seconds < 0 {
            out.push(b'-');
        }
        push_number(seconds.unsigned_abs(), out);
    }
}

/// Appends the fields of a node before its children: `{"key":…` to `ttl`.
pub fn node_head(view: ViewRef, ttl: Ttl, out: &mut Vec<u8>) {
    node_head_sharing(view, ttl, out, None);
}

/// [`node_head`]; a long value is left out and added to `shared`, if that is given.
fn node_head_sharing(
    view: ViewRef,
    ttl: Ttl,
    out: &mut Vec<u8>,
    shared: Option<&mut Vec<SharedValue>>,
) {
    raw("{\"key\":", out);
    string(view.key, out);
    if let Some(value) = view.value {
        raw(",\"value\":", out);
        match (shared, value) {
            (Some(shared), ValueRef::Shared(value))
                if value.len() >= SHARED_BYTES_MIN && is_plain(value) =>
            {
                out.push(b'"');
                shared.push(SharedValue {
                    at: out.len(),
                    value: value.clone(),
                });
                out.push(b'"');
            }
            _ => string(&value, out),
        }
    }
    if view.dir {
        raw(",\"dir\":true", out);
    }
    expiry(view.expires_ns, ttl, out);
}

/// Appends the fields of a node after its children. The root's indexes are 0 and left out.
pub fn node_tail(modified: EtcdIndex, created: EtcdIndex, out: &mut Vec<u8>) {
    if modified.0 > 0 {
        number(",\"modifiedIndex\":", modified.0, out);
    }
    if created.0 > 0 {
        number(",\"createdIndex\":", created.0, out);
    }
    out.push(b'}');
}

fn node(view: ViewRef, ttl: Ttl, out: &mut Vec<u8>, shared: Option<&mut Vec<SharedValue>>) {
    node_head_sharing(view, ttl, out, shared);
    node_tail(view.modified, view.created, out);
}

/// The name of an action.
pub fn action(action: Action) -> &'static str {
    match action {
        Action::Get => "get",
        Action::Set => "set",
        Action::Create => "create",
        Action::Update => "update",
        Action::CompareAndSwap => "compareAndSwap",
        Action::Delete => "delete",
        Action::CompareAndDelete => "compareAndDelete",
        Action::Expire => "expire",
    }
}

/// Appends an event. Its node shows the ttl that the change gave, and the previous node the time that
/// was left of its own at `now_ns`.
pub fn event(event: &Event, now_ns: u64, out: &mut Vec<u8>) {
    write_event(event, now_ns, out, None);
}

/// Appends an event of which the client wants to know only that it happened.
pub fn event_without_nodes(of: Action, out: &mut Vec<u8>) {
    raw("{\"action\":\"", out);
    raw(action(of), out);
    raw("\"}", out);
}

/// Appends the answer to a GET of a file. A long value is left out and added to `shared`. Returns
/// the length of all values in `shared`, in bytes.
pub fn file_sharing(
    file: ViewRef,
    now_ns: u64,
    out: &mut Vec<u8>,
    shared: &mut Vec<SharedValue>,
) -> usize {
    raw("{\"action\":\"get\",\"node\":", out);
    node(file, Ttl::LeftAt(now_ns), out, Some(shared));
    out.push(b'}');
    shared_bytes(shared)
}

fn shared_bytes(shared: &[SharedValue]) -> usize {
    shared.iter().map(|shared| shared.value.len()).sum()
}

/// Appends an event. Long values are left out and added to `shared`. Returns the length of all
/// values in `shared`, in bytes.
pub fn event_sharing(
    event: &Event,
    now_ns: u64,
    out: &mut Vec<u8>,
    shared: &mut Vec<SharedValue>,
) -> usize {
    write_event(event, now_ns, out, Some(shared));
    shared_bytes(shared)
}

fn write_event(
    event: &Event,
    now_ns: u64,
    out: &mut Vec<u8>,
    mut shared: Option<&mut Vec<SharedValue>>,
) {
    raw("{\"action\":\"", out);
    raw(action(event.action), out);
    raw("\",\"node\":", out);
    node(
        event.node.borrowed(),
        Ttl::Given(event.ttl_s),
        out,
        shared.as_deref_mut(),
    );
    if let Some(prev) = &event.prev {
        raw(",\"prevNode\":", out);
        node(prev.borrowed(), Ttl::LeftAt(now_ns), out, shared);
    }
    out.push(b'}');
}

/// A JSON object with one message.
pub fn message(text: &str) -> Vec<u8> {
    let mut out = b"{\"message\":".to_vec();
    string(text, &mut out);
    out.push(b'}');
    out
}

/// Appends an error and a line break. An empty cause is left out.
pub fn error(error: &Error, index: EtcdIndex, out: &mut Vec<u8>) {
    number("{\"errorCode\":", error.code as u64, out);
    raw(",\"message\":", out);
    string(error.code.message(), out);
    if !error.cause.is_empty() {
        raw(",\"cause\":", out);
        string(&error.cause, out);
    }
    number(",\"index\":", index.0, out);
    raw("}\n", out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("UTF-8")
    }

    /// A key that is due stays until a leader expires it.
    #[test]
    fn a_node_that_is_due_has_no_ttl() {
        let of = |ttl| text(|out| expiry(Some(5 * NS), ttl, out));
        let expiration = ",\"expiration\":\"1970-01-01T00:00:05Z\"";
        assert_eq!(of(Ttl::LeftAt(7 * NS)), expiration);
        assert_eq!(of(Ttl::LeftAt(5 * NS)), expiration);
        assert_eq!(of(Ttl::LeftAt(NS)), format!("{expiration},\"ttl\":4"));
        assert_eq!(of(Ttl::Given(Some(-2))), format!("{expiration},\"ttl\":-2"));
    }

    #[test]
    fn strings_are_escaped_and_read_back_the_same() {
        let all: String = (0..0x300).filter_map(char::from_u32).collect();
        for sample in [
            "",
            "plain",
            "a\"b\\c",
            "\u{0}\u{1f}\n\r\t",
            "h\u{e9}llo \u{2028}",
            &all,
        ] {
            let json = text(|out| string(sample, out));
            assert_eq!(serde_json::from_str::<String>(&json).expect("JSON"), sample);
        }
        assert_eq!(text(|out| string("a\u{8}\"", out)), r#""a\u0008\"""#);
    }

    #[test]
    fn times_are_printed_as_go_prints_them() {
        for (ns, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_796_021_640_692_666_041, "2026-11-30T06:54:00.692666041Z"),
            (951_827_696_500_000_000, "2000-02-29T12:34:56.5Z"),
            (4_102_444_799_000_000_010, "2099-12-31T23:59:59.00000001Z"),
            (5_671_160_055_876_799_450, "2149-09-17T10:14:15.87679945Z"),
        ] {
            assert_eq!(text(|out| time(ns, out)), expected);
        }
    }

    /// Against the calendar written out day by day.
    #[test]
    fn every_day_of_three_centuries() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for number in 0..110_000 {
            assert_eq!(civil(number), (year, month, day));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let last = match month {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > last {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }

    #[test]
    fn durations_are_printed_as_go_prints_them() {
        for (ns, expected) in [
            (0, "0s"),
            (15, "15ns"),
            (1_500, "1.5\u{b5}s"),
            (532_500_000, "532.5ms"),
            (3_181_929_783, "3.181929783s"),
            (78_500_000_000, "1m18.5s"),
            (3_600_000_000_000, "1h0m0s"),
            (90_061_000_000_001, "25h1m1.000000001s"),
        ] {
            assert_eq!(text(|out| duration(ns, out)), expected);
        }
    }

    #[test]
    fn seconds_are_rounded_up() {
        for (expires, now, left) in [
            (5 * NS, 0, 5),
            (5 * NS, 1, 5),
            (5 * NS, NS - 1, 5),
            (5 * NS, NS, 4),
            (5 * NS, 5 * NS, 0),
            (5 * NS, 5 * NS + 1, 0),
            (4 * NS, 5 * NS, -1),
            (0, 5 * NS + 7, -5),
        ] {
            assert_eq!(seconds_left(expires, now), left);
        }
    }
}
