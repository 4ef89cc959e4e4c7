//! Messages between members as bytes, and back.
//!
//! A message is a tag byte, the term, and the fields of its row in the table `Rpc` below. Its
//! length and checksum are in the frame (`frame`).
//!
//! Decoding treats each message as hostile: a length is compared with the bytes that are left
//! before anything is allocated, and a term or index so large that adding to it could overflow is
//! refused. An unknown tag ends the link, so a new message needs a new version of the protocol
//! (`hello::PROTOCOL`).
//!
//! Start reading at the table.
use crate::core::fields::{
    Bytes, Codec, Fields, Flag, Number, OptionalNumber, Tagged, Text, fields,
};
use crate::core::raft::snapshot_head::{bounded, encode_meta, take_index, take_meta, take_term};
use crate::core::raft::*;
use crate::core::varint::{Malformed, Unpack, number_bytes, put_number};
use std::sync::Arc;

fields! {
    Rpc {
        REQUEST_VOTE = 1: RequestVote { pre, hand_over, last_index, last_term } =>
            (pre, hand_over): TwoFlags, last_index: Index, last_term: Term;
        VOTE = 2: Vote { pre, granted, reading } =>
            (pre, granted): TwoFlags, reading: OptionalReading;

        APPEND_ENTRIES = 3: AppendEntries {
            prev_index, prev_term, commit, acked, round, sync_us, round_trip_us, pause_us, clock_ns,
            held_bytes, entries
        } =>
            prev_index: Index, prev_term: Term, commit: Index, acked: Index,
            round: OptionalNumber, sync_us: Number, round_trip_us: Number, pause_us: Number,
            clock_ns: Number, held_bytes: OptionalNumber, entries: Entries;
        ACCEPTED = 4: AppendReply {
            round, sync_us, free_bytes,
            answer: AppendAnswer::Accepted { verified, matched, want_snapshot }
        } =>
            round: OptionalNumber, sync_us: Number, free_bytes: Number, verified: Index,
            matched: Index, want_snapshot: Flag;
        REJECTED = 5: AppendReply {
            round, sync_us, free_bytes, answer: AppendAnswer::Rejected { prev, hint, hint_term }
        } =>
            round: OptionalNumber, sync_us: Number, free_bytes: Number, prev: Index, hint: Index,
            hint_term: Term;
        STALE = 6: AppendReply { round, sync_us, free_bytes, answer: AppendAnswer::Stale } =>
            round: OptionalNumber, sync_us: Number, free_bytes: Number;

        INSTALL_SNAPSHOT = 7: InstallSnapshot { meta, offset, done, data } =>
            offset: Number, done: Flag, meta: SnapshotMeta, data: Bytes;
        SNAPSHOT_REPLY = 8: SnapshotReply { index, offset } =>
            index: Index, offset: Number;
        SNAPSHOT_REFUSED = 16: SnapshotRefused { index } =>
            index: Index;
        TIMEOUT_NOW = 9: TimeoutNow {};

        FETCH = 10: Fetch { index, term } =>
            index: Index, term: Term;
        FETCHED = 11: Fetched { index, term, found } =>
            index: Index, term: Term, found: Tagged;

        REMOVED = 12: Removed { cluster, id } =>
            cluster: Number, id: PeerId;

        FORWARD_READ = 13: Forward { process, number, command: None } =>
            process: Number, number: Number;
        FORWARD = 14: Forward { process, number, command: Some(command) } =>
            process: Number, number: Number, command: Bytes;
        FORWARDED = 15: Forwarded { process, number, answer } =>
            process: Number, number: Number, answer: ForwardAnswer;
    }
}

fields! {
    FetchResult {
        FOUND_BODY = 0: Body(body) => body: Bytes;
        FOUND_DAMAGED = 1: Damaged {};
        FOUND_NEVER_STORED = 2: NeverStored {};
        FOUND_ONLY_IN_SNAPSHOT = 3: OnlyInSnapshot {};
    }
}

/// Appends a message to `out`.
///
/// # Panics
///
/// If an entry is damaged: a leader has no damaged entries.
pub fn encode(message: &Message, out: &mut Vec<u8>) {
    out.push(message.rpc.tag());
    put_number(message.term.0, out);
    message.rpc.put_fields(out);
}

/// How many bytes `encode` appends.
pub fn encoded_len(message: &Message) -> usize {
    1 + number_bytes(message.term.0) + message.rpc.fields_size()
}

/// Reads one message, which takes all of `data`.
///
/// # Errors
///
/// If `data` is not what `encode` appends for some message.
pub fn decode(data: &[u8]) -> Result<Message, Malformed> {
    let mut from = Unpack::new(data);
    let tag = from.byte()?;
    let term = match from.number()? {
        u64::MAX if tag == REMOVED => Term::REMOVED,
        term => Term(bounded(term)?),
    };
    let mut rpc = Rpc::take_fields(tag, &mut from)?;
    if from.left() > 0 {
        return Err(Malformed);
    }
    number_entries(&mut rpc, term)?;
    Ok(Message { term, rpc })
}

/// Gives the entries of an append their indexes, which are not sent: they follow `prev_index`.
///
/// # Errors
///
/// If the terms of the entries fall, or one is later than the leader's term.
fn number_entries(rpc: &mut Rpc, leader_term: Term) -> Result<(), Malformed> {
    let Rpc::AppendEntries {
        prev_index,
        prev_term,
        entries,
        ..
    } = rpc
    else {
        return Ok(());
    };
    let mut index = *prev_index;
    let mut term = *prev_term;
    for entry in entries {
        if entry.term < term || entry.term > leader_term {
            return Err(Malformed);
        }
        term = entry.term;
        index = index.next();
        entry.index = index;
    }
    Ok(())
}

/// A term is a varint. One above the highest valid term is refused.
impl Codec<Term> for Term {
    fn put(value: &Term, out: &mut Vec<u8>) {
        put_number(value.0, out);
    }

    fn size(value: &Term) -> usize {
        number_bytes(value.0)
    }

    fn take(from: &mut Unpack) -> Result<Term, Malformed> {
        take_term(from)
    }
}

/// An index is a varint. One above the highest valid index is refused.
impl Codec<Index> for Index {
    fn put(value: &Index, out: &mut Vec<u8>) {
        put_number(value.0, out);
    }

    fn size(value: &Index) -> usize {
        number_bytes(value.0)
    }

    fn take(from: &mut Unpack) -> Result<Index, Malformed> {
        take_index(from)
    }
}

impl Codec<PeerId> for PeerId {
    fn put(value: &PeerId, out: &mut Vec<u8>) {
        put_number(value.0, out);
    }

    fn size(value: &PeerId) -> usize {
        number_bytes(value.0)
    }

    fn take(from: &mut Unpack) -> Result<PeerId, Malformed> {
        from.number().map(PeerId)
    }
}

impl Codec<SnapshotMeta> for SnapshotMeta {
    fn put(value: &SnapshotMeta, out: &mut Vec<u8>) {
        encode_meta(value, out);
    }

    /// Encodes the head to learn its size. The cost does not matter: only messages with a long
    /// piece of a snapshot carry a head.
    fn size(value: &SnapshotMeta) -> usize {
        let mut bytes = Vec::new();
        encode_meta(value, &mut bytes);
        bytes.len()
    }

    fn take(from: &mut Unpack) -> Result<SnapshotMeta, Malformed> {
        take_meta(from)
    }
}

/// Two flags as one number, the first in the lowest bit.
struct TwoFlags;

impl Codec<(bool, bool)> for TwoFlags {
    fn put(value: &(bool, bool), out: &mut Vec<u8>) {
        out.push(u8::from(value.0) | u8::from(value.1) << 1);
    }

    fn size(_: &(bool, bool)) -> usize {
        1
    }

    fn take(from: &mut Unpack) -> Result<(bool, bool), Malformed> {
        match from.byte()? {
            flags @ 0..=3 => Ok((flags & 1 != 0, flags & 2 != 0)),
            _ => Err(Malformed),
        }
    }
}

/// A reading that may be absent: its nanoseconds, 0 for none, then the leader's term.
struct OptionalReading;

impl Codec<Option<LeaderReading>> for OptionalReading {
    fn put(value: &Option<LeaderReading>, out: &mut Vec<u8>) {
        OptionalNumber::put(&value.map(|reading| reading.clock_ns), out);
        if let Some(reading) = value {
            Term::put(&reading.term, out);
        }
    }

    fn size(value: &Option<LeaderReading>) -> usize {
        let term = value.map_or(0, |reading| Term::size(&reading.term));
        OptionalNumber::size(&value.map(|reading| reading.clock_ns)) + term
    }

    fn take(from: &mut Unpack) -> Result<Option<LeaderReading>, Malformed> {
        let Some(clock_ns) = OptionalNumber::take(from)? else {
            return Ok(None);
        };
        let term = Term::take(from)?;
        Ok(Some(LeaderReading { term, clock_ns }))
    }
}

/// Entries: how many, then term and body of each. Indexes are not sent, see `number_entries`.
struct Entries;

impl Codec<Vec<Entry>> for Entries {
    fn put(entries: &Vec<Entry>, out: &mut Vec<u8>) {
        put_number(entries.len() as u64, out);
        for entry in entries {
            put_number(entry.term.0, out);
            Bytes::put(body_of(entry), out);
        }
    }

    fn size(entries: &Vec<Entry>) -> usize {
        let mut size = number_bytes(entries.len() as u64);
        for entry in entries {
            size += number_bytes(entry.term.0) + Bytes::size(body_of(entry));
        }
        size
    }

    fn take(from: &mut Unpack) -> Result<Vec<Entry>, Malformed> {
        let count = from.number()?;
        // No memory is reserved for the claimed number: the vector grows with the entries that are
        // present.
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(Entry {
                term: take_term(from)?,
                index: Index(0),
                body: EntryBody::Good(Bytes::take(from)?),
            });
        }
        Ok(entries)
    }
}

fn body_of(entry: &Entry) -> &Arc<[u8]> {
    match &entry.body {
        EntryBody::Good(body) => body,
        EntryBody::Faulty { .. } => unreachable!("a leader has no damaged entries"),
    }
}

/// The answer to a forwarded request: a flag, then the index or the cause of the error.
struct ForwardAnswer;

impl Codec<Result<Index, Box<str>>> for ForwardAnswer {
    fn put(answer: &Result<Index, Box<str>>, out: &mut Vec<u8>) {
        Flag::put(&answer.is_ok(), out);
        match answer {
            Ok(index) => Index::put(index, out),
            Err(cause) => Text::put(cause, out),
        }
    }

    fn size(answer: &Result<Index, Box<str>>) -> usize {
        match answer {
            Ok(index) => 1 + Index::size(index),
            Err(cause) => 1 + Text::size(cause),
        }
    }

    fn take(from: &mut Unpack) -> Result<Result<Index, Box<str>>, Malformed> {
        if from.flag()? {
            Ok(Ok(Index::take(from)?))
        } else {
            Ok(Err(Text::take(from)?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: Index = Index(300);
    const TERM: Term = Term(7);

    fn member(id: u64) -> Member {
        Member {
            id: PeerId(id),
            name: "n".into(),
            peer_url: "p".into(),
            client_url: "c".into(),
            incarnation: u64::MAX,
            voter: id == 1,
            added_as: (id == 200).then_some(PeerId(1)),
        }
    }

    fn entry(index: u64, term: u64) -> Entry {
        Entry {
            term: Term(term),
            index: Index(index),
            body: EntryBody::Good(vec![1, 2, 3].into()),
        }
    }

    fn votes() -> Vec<(Rpc, &'static str)> {
        vec![
            (
                Rpc::RequestVote {
                    pre: true,
                    hand_over: false,
                    last_index: INDEX,
                    last_term: TERM,
                },
                "010701ac0207",
            ),
            (
                Rpc::RequestVote {
                    pre: false,
                    hand_over: true,
                    last_index: Index(0),
                    last_term: Term(0),
                },
                "0107020000",
            ),
            (
                Rpc::Vote {
                    pre: true,
                    granted: true,
                    reading: Some(LeaderReading {
                        term: TERM,
                        clock_ns: 1,
                    }),
                },
                "0207030107",
            ),
            (Rpc::TimeoutNow, "0907"),
        ]
    }

    fn appends() -> Vec<(Rpc, &'static str)> {
        let reply = |answer| Rpc::AppendReply {
            round: Some(1),
            sync_us: 200,
            free_bytes: 300,
            answer,
        };
        vec![
            (
                Rpc::AppendEntries {
                    prev_index: INDEX,
                    prev_term: Term(5),
                    commit: INDEX,
                    acked: Index(1),
                    round: Some(9),
                    sync_us: u32::MAX,
                    round_trip_us: 300,
                    pause_us: 300,
                    clock_ns: u64::MAX,
                    held_bytes: Some(300),
                    entries: vec![entry(301, 6), entry(302, 7)],
                },
                "0307ac0205ac020109ffffffff0fac02ac02ffffffffffffffffff01ac020206030102030703010203",
            ),
            (
                reply(AppendAnswer::Accepted {
                    verified: INDEX,
                    matched: Index(299),
                    want_snapshot: true,
                }),
                "040701c801ac02ac02ab0201",
            ),
            (
                reply(AppendAnswer::Rejected {
                    prev: INDEX,
                    hint: Index(2),
                    hint_term: Term(1),
                }),
                "050701c801ac02ac020201",
            ),
            (reply(AppendAnswer::Stale), "060701c801ac02"),
        ]
    }

    fn snapshots() -> Vec<(Rpc, &'static str)> {
        let configuration = Configuration {
            members: vec![member(1), member(200)],
            barred: vec![BarredMember {
                id: PeerId(3),
                incarnation: 300,
            }],
        };
        let meta = SnapshotMeta {
            cluster: 77,
            index: INDEX,
            term: TERM,
            configuration,
        };
        vec![
            (
                Rpc::InstallSnapshot {
                    meta,
                    offset: 1 << 40,
                    done: true,
                    data: vec![9; 4].into(),
                },
                "0707808080808020014dac0207020100ffffffffffffffffff0101016e01700163c80101ffffffffffffffffff0100016e017001630103ac020409090909",
            ),
            (
                Rpc::SnapshotReply {
                    index: INDEX,
                    offset: 1 << 40,
                },
                "0807ac02808080808020",
            ),
            (Rpc::SnapshotRefused { index: INDEX }, "1007ac02"),
        ]
    }

    fn repairs() -> Vec<(Rpc, &'static str)> {
        let fetched = |found| Rpc::Fetched {
            index: INDEX,
            term: TERM,
            found,
        };
        vec![
            (
                Rpc::Fetch {
                    index: INDEX,
                    term: TERM,
                },
                "0a07ac0207",
            ),
            (
                fetched(FetchResult::Body(vec![4; 5].into())),
                "0b07ac020700050404040404",
            ),
            (fetched(FetchResult::Damaged), "0b07ac020701"),
            (fetched(FetchResult::NeverStored), "0b07ac020702"),
            (fetched(FetchResult::OnlyInSnapshot), "0b07ac020703"),
            (
                Rpc::Removed {
                    cluster: 77,
                    id: PeerId(300),
                },
                "0c074dac02",
            ),
        ]
    }

    fn forwards() -> Vec<(Rpc, &'static str)> {
        vec![
            (
                Rpc::Forward {
                    process: u64::MAX,
                    number: 300,
                    command: None,
                },
                "0d07ffffffffffffffffff01ac02",
            ),
            (
                Rpc::Forward {
                    process: 1,
                    number: 2,
                    command: Some(vec![8; 3].into()),
                },
                "0e07010203080808",
            ),
            (
                Rpc::Forwarded {
                    process: 1,
                    number: 2,
                    answer: Ok(INDEX),
                },
                "0f07010201ac02",
            ),
            (
                Rpc::Forwarded {
                    process: 1,
                    number: 2,
                    answer: Err("disk full".into()),
                },
                "0f07010200096469736b2066756c6c",
            ),
        ]
    }

    /// At least one message of each kind, with its bytes in hexadecimal.
    fn samples() -> Vec<(Message, &'static str)> {
        let mut all = votes();
        all.extend(appends());
        all.extend(snapshots());
        all.extend(repairs());
        all.extend(forwards());
        let with_term = all.into_iter().map(|(rpc, bytes)| {
            let message = Message { term: TERM, rpc };
            (message, bytes)
        });
        with_term.collect()
    }

    fn encoded(message: &Message) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(message, &mut bytes);
        bytes
    }

    fn hexadecimal(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A change here is a change of the protocol: `hello::PROTOCOL` then gets another number.
    #[test]
    fn bytes_of_each_message_stay() {
        for (message, expected) in samples() {
            let found = hexadecimal(&encoded(&message));
            assert_eq!(found, expected, "{message:?}");
        }
    }

    #[test]
    fn messages_come_back_and_never_from_a_part() {
        for (message, _) in samples() {
            let mut bytes = encoded(&message);
            assert_eq!(encoded_len(&message), bytes.len());
            assert_eq!(decode(&bytes), Ok(message));
            for end in 0..bytes.len() {
                assert_eq!(
                    decode(&bytes[..end]),
                    Err(Malformed),
                    "the first {end} bytes"
                );
            }
            bytes.push(0);
            assert_eq!(decode(&bytes), Err(Malformed), "one byte too many");
        }
    }

    #[test]
    fn damaged_messages_are_refused_or_have_one_encoding() {
        for (message, _) in samples() {
            let mut bytes = encoded(&message);
            for at in 0..bytes.len() {
                for bit in 0..8 {
                    bytes[at] ^= 1 << bit;
                    if let Ok(other) = decode(&bytes) {
                        assert_eq!(encoded(&other), bytes);
                    }
                    bytes[at] ^= 1 << bit;
                }
            }
        }
    }

    #[test]
    fn claimed_lengths_are_checked() {
        let huge = [255, 255, 255, 255, 255, 255, 255, 255, 127];
        let mut body = vec![FETCHED, 1, 1, 1, FOUND_BODY];
        body.extend(huge);
        assert_eq!(decode(&body), Err(Malformed));
        let mut entries = vec![APPEND_ENTRIES, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        entries.extend(huge);
        assert_eq!(decode(&entries), Err(Malformed));
    }

    #[test]
    fn terms_are_checked() {
        let notice = Message {
            term: Term::REMOVED,
            rpc: Rpc::TimeoutNow,
        };
        let notice = encoded(&notice);
        assert_eq!(
            decode(&notice),
            Err(Malformed),
            "only a removal has this term"
        );
        let later = [APPEND_ENTRIES, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 4, 0];
        assert_eq!(decode(&later), Err(Malformed), "an entry of a later term");
        let earlier = [APPEND_ENTRIES, 3, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0];
        assert_eq!(decode(&earlier), Err(Malformed), "terms do not fall");
    }
}
