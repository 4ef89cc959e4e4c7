//! Messages between members as bytes, and back.
//!
//! A tag byte, then the fields in order as `command::pack` writes them. Decoding trusts nothing:
//! each length is checked against what is left before anything is allocated, terms and indexes
//! leave room to count on, and whatever is wrong is a value. The frame around a message (its length
//! and checksum) is the link's. A tag that is not known ends the link: another message is another
//! version of the protocol (`hello::PROTOCOL`). Start reading at `encode`.
use crate::core::raft::snapshot_head::{
    bounded, encode_meta, put_numbers, take_index, take_meta, take_term,
};
use crate::core::raft::*;
use crate::core::varint::{Malformed, Unpack, put_number, put_str};

const REQUEST_VOTE: u8 = 1;
const VOTE: u8 = 2;
const APPEND_ENTRIES: u8 = 3;
const ACCEPTED: u8 = 4;
const REJECTED: u8 = 5;
const STALE: u8 = 6;
const INSTALL_SNAPSHOT: u8 = 7;
const SNAPSHOT_REPLY: u8 = 8;
const TIMEOUT_NOW: u8 = 9;
const FETCH: u8 = 10;
const FETCHED: u8 = 11;
const REMOVED: u8 = 12;
const FORWARD_READ: u8 = 13;
const FORWARD: u8 = 14;
const FORWARDED: u8 = 15;

const FOUND_BODY: u64 = 0;
const FOUND_DAMAGED: u64 = 1;
const FOUND_NEVER: u64 = 2;
const FOUND_BEHIND: u64 = 3;

/// Appends a message to `out`.
pub fn encode(message: &Message, out: &mut Vec<u8>) {
    let term = message.term;
    match &message.rpc {
        Rpc::RequestVote {
            pre,
            hand_over,
            last_index,
            last_term,
        } => {
            let flags = flags(*pre, *hand_over);
            put(out, REQUEST_VOTE, term, &[flags, last_index.0, last_term.0]);
        }
        Rpc::Vote { pre, granted } => put(out, VOTE, term, &[flags(*pre, *granted)]),
        Rpc::AppendEntries {
            prev_index,
            prev_term,
            commit,
            acked,
            round,
            sync_us,
            entries,
        } => {
            let indexes = [prev_index.0, prev_term.0, commit.0, acked.0];
            put(out, APPEND_ENTRIES, term, &indexes);
            put_numbers(out, &round_and_sync(*round, *sync_us));
            put_number(entries.len() as u64, out);
            entries.iter().for_each(|e| put_entry(out, e));
        }
        Rpc::AppendReply {
            round,
            sync_us,
            answer,
        } => put_answer(out, term, &round_and_sync(*round, *sync_us), answer),
        Rpc::InstallSnapshot {
            meta,
            offset,
            crc,
            done,
            data,
        } => {
            let fields = [*offset, u64::from(*crc), u64::from(*done)];
            put(out, INSTALL_SNAPSHOT, term, &fields);
            encode_meta(meta, out);
            put_bytes(out, data);
        }
        Rpc::SnapshotReply { index, offset } => {
            put(out, SNAPSHOT_REPLY, term, &[index.0, *offset]);
        }
        Rpc::TimeoutNow => put(out, TIMEOUT_NOW, term, &[]),
        Rpc::Fetch { index, term: at } => put(out, FETCH, term, &[index.0, at.0]),
        Rpc::Fetched {
            index,
            term: at,
            found,
        } => {
            put(out, FETCHED, term, &[index.0, at.0]);
            put_found(out, found);
        }
        Rpc::Removed { cluster, id } => put(out, REMOVED, term, &[*cluster, id.0]),
        Rpc::Forward {
            process,
            number,
            command: None,
        } => put(out, FORWARD_READ, term, &[*process, *number]),
        Rpc::Forward {
            process,
            number,
            command: Some(command),
        } => {
            put(out, FORWARD, term, &[*process, *number]);
            put_bytes(out, command);
        }
        Rpc::Forwarded {
            process,
            number,
            answer,
        } => {
            put(
                out,
                FORWARDED,
                term,
                &[*process, *number, u64::from(answer.is_ok())],
            );
            match answer {
                Ok(index) => put_number(index.0, out),
                Err(cause) => put_str(cause, out),
            }
        }
    }
}

/// A heartbeat round, 0 for none, and the time of a sync.
fn round_and_sync(round: Option<u64>, sync_us: u32) -> [u64; 2] {
    [round.unwrap_or(0), u64::from(sync_us)]
}

fn put(out: &mut Vec<u8>, tag: u8, term: Term, fields: &[u64]) {
    out.push(tag);
    put_number(term.0, out);
    put_numbers(out, fields);
}

fn flags(first: bool, second: bool) -> u64 {
    u64::from(first) | u64::from(second) << 1
}

fn put_bytes(out: &mut Vec<u8>, data: &[u8]) {
    put_number(data.len() as u64, out);
    out.extend_from_slice(data);
}

fn put_answer(out: &mut Vec<u8>, term: Term, head: &[u64], answer: &AppendAnswer) {
    match answer {
        AppendAnswer::Accepted {
            verified,
            matched,
            want_snapshot,
        } => {
            put(out, ACCEPTED, term, head);
            put_numbers(out, &[verified.0, matched.0, u64::from(*want_snapshot)]);
        }
        AppendAnswer::Rejected {
            prev,
            hint,
            hint_term,
        } => {
            put(out, REJECTED, term, head);
            put_numbers(out, &[prev.0, hint.0, hint_term.0]);
        }
        AppendAnswer::Stale => put(out, STALE, term, head),
    }
}

fn put_found(out: &mut Vec<u8>, found: &FetchResult) {
    match found {
        FetchResult::Body(body) => {
            put_number(FOUND_BODY, out);
            put_bytes(out, body);
        }
        FetchResult::Damaged => put_number(FOUND_DAMAGED, out),
        FetchResult::NeverStored => put_number(FOUND_NEVER, out),
        FetchResult::OnlyInSnapshot => put_number(FOUND_BEHIND, out),
    }
}

/// Entries are consecutive, so that an index need not be told.
fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    let EntryBody::Good(body) = &entry.body else {
        unreachable!("a leader has no damaged entries");
    };
    put_number(entry.term.0, out);
    put_bytes(out, body);
}

/// Reads one message, which takes all of `data`.
pub fn decode(data: &[u8]) -> Result<Message, Malformed> {
    let mut from = Unpack::new(data);
    let tag = from.byte()?;
    let term = match from.number()? {
        u64::MAX if tag == REMOVED => Term::REMOVED,
        term => Term(bounded(term)?),
    };
    let rpc = take_rpc(&mut from, tag, term)?;
    if from.left() == 0 {
        Ok(Message { term, rpc })
    } else {
        Err(Malformed)
    }
}

fn take_rpc(from: &mut Unpack, tag: u8, term: Term) -> Result<Rpc, Malformed> {
    Ok(match tag {
        REQUEST_VOTE => {
            let (pre, hand_over) = take_flags(from)?;
            Rpc::RequestVote {
                pre,
                hand_over,
                last_index: take_index(from)?,
                last_term: take_term(from)?,
            }
        }
        VOTE => {
            let (pre, granted) = take_flags(from)?;
            Rpc::Vote { pre, granted }
        }
        APPEND_ENTRIES => take_append(from, term)?,
        ACCEPTED | REJECTED | STALE => Rpc::AppendReply {
            round: take_round(from)?,
            sync_us: take_small(from)?,
            answer: take_answer(from, tag)?,
        },
        INSTALL_SNAPSHOT => Rpc::InstallSnapshot {
            offset: from.number()?,
            crc: take_small(from)?,
            done: from.flag()?,
            meta: take_meta(from)?,
            data: take_bytes(from)?,
        },
        SNAPSHOT_REPLY => Rpc::SnapshotReply {
            index: take_index(from)?,
            offset: from.number()?,
        },
        TIMEOUT_NOW => Rpc::TimeoutNow,
        FETCH => Rpc::Fetch {
            index: take_index(from)?,
            term: take_term(from)?,
        },
        FETCHED => Rpc::Fetched {
            index: take_index(from)?,
            term: take_term(from)?,
            found: take_found(from)?,
        },
        REMOVED => Rpc::Removed {
            cluster: from.number()?,
            id: PeerId(from.number()?),
        },
        FORWARD_READ => Rpc::Forward {
            process: from.number()?,
            number: from.number()?,
            command: None,
        },
        FORWARD => Rpc::Forward {
            process: from.number()?,
            number: from.number()?,
            command: Some(take_bytes(from)?),
        },
        FORWARDED => Rpc::Forwarded {
            process: from.number()?,
            number: from.number()?,
            answer: if from.flag()? {
                Ok(take_index(from)?)
            } else {
                Err(from.str()?.into())
            },
        },
        _ => return Err(Malformed),
    })
}

/// Reads the number of a heartbeat round; 0 stands for none.
fn take_round(from: &mut Unpack) -> Result<Option<u64>, Malformed> {
    let round = from.number()?;
    Ok((round != 0).then_some(round))
}

/// Terms of entries never go back, and none is newer than its sender's.
fn take_append(from: &mut Unpack, now: Term) -> Result<Rpc, Malformed> {
    let (prev_index, prev_term) = (take_index(from)?, take_term(from)?);
    let (commit, acked) = (take_index(from)?, take_index(from)?);
    let (round, sync_us) = (take_round(from)?, take_small(from)?);
    let mut entries = Vec::new();
    let mut last = (prev_index, prev_term);
    for _ in 0..from.number()? {
        // Grown by what is there, never by what is claimed.
        let term = take_term(from)?;
        if term < last.1 || term > now {
            return Err(Malformed);
        }
        last = (last.0.next(), term);
        entries.push(Entry {
            term,
            index: last.0,
            body: EntryBody::Good(take_bytes(from)?),
        });
    }
    Ok(Rpc::AppendEntries {
        prev_index,
        prev_term,
        commit,
        acked,
        round,
        sync_us,
        entries,
    })
}

fn take_answer(from: &mut Unpack, tag: u8) -> Result<AppendAnswer, Malformed> {
    Ok(match tag {
        ACCEPTED => AppendAnswer::Accepted {
            verified: take_index(from)?,
            matched: take_index(from)?,
            want_snapshot: from.flag()?,
        },
        REJECTED => AppendAnswer::Rejected {
            prev: take_index(from)?,
            hint: take_index(from)?,
            hint_term: take_term(from)?,
        },
        _ => AppendAnswer::Stale,
    })
}

fn take_found(from: &mut Unpack) -> Result<FetchResult, Malformed> {
    Ok(match from.number()? {
        FOUND_BODY => FetchResult::Body(take_bytes(from)?),
        FOUND_DAMAGED => FetchResult::Damaged,
        FOUND_NEVER => FetchResult::NeverStored,
        FOUND_BEHIND => FetchResult::OnlyInSnapshot,
        _ => return Err(Malformed),
    })
}

fn take_flags(from: &mut Unpack) -> Result<(bool, bool), Malformed> {
    match from.number()? {
        flags @ 0..=3 => Ok((flags & 1 != 0, flags & 2 != 0)),
        _ => Err(Malformed),
    }
}

fn take_small(from: &mut Unpack) -> Result<u32, Malformed> {
    u32::try_from(from.number()?).map_err(|_| Malformed)
}

fn take_bytes<T: for<'a> From<&'a [u8]>>(from: &mut Unpack) -> Result<T, Malformed> {
    let length = usize::try_from(from.number()?).map_err(|_| Malformed)?;
    Ok(from.bytes(length)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Message> {
        let member = |id| Member {
            id: PeerId(id),
            name: "n".into(),
            peer_url: "http://p".into(),
            client_url: "http://c".into(),
            incarnation: u64::MAX,
            voter: id == 1,
        };
        let (index, term) = (Index(300), Term(7));
        let entry = |at, term| Entry {
            term: Term(term),
            index: Index(at),
            body: EntryBody::Good(vec![1, 2, 3].into()),
        };
        let rpcs = vec![
            Rpc::RequestVote {
                pre: true,
                hand_over: false,
                last_index: index,
                last_term: term,
            },
            Rpc::AppendEntries {
                prev_index: index,
                prev_term: Term(5),
                commit: index,
                acked: Index(1),
                round: Some(9),
                sync_us: u32::MAX,
                entries: vec![entry(301, 6), entry(302, 7)],
            },
            Rpc::AppendReply {
                round: Some(1),
                sync_us: 2,
                answer: AppendAnswer::Rejected {
                    prev: index,
                    hint: Index(2),
                    hint_term: Term(1),
                },
            },
            Rpc::InstallSnapshot {
                meta: SnapshotMeta {
                    cluster: 77,
                    index,
                    term,
                    configuration: Configuration {
                        members: vec![member(1), member(200)],
                    },
                },
                offset: 1 << 40,
                crc: 5,
                done: true,
                data: vec![9; 40].into(),
            },
            Rpc::Fetched {
                index,
                term,
                found: FetchResult::Body(vec![4; 5].into()),
            },
            Rpc::Forward {
                process: u64::MAX,
                number: 300,
                command: None,
            },
            Rpc::Forward {
                process: 1,
                number: 2,
                command: Some(vec![8; 9].into()),
            },
            Rpc::Forwarded {
                process: 1,
                number: 2,
                answer: Ok(index),
            },
            Rpc::Forwarded {
                process: 1,
                number: 2,
                answer: Err("disk full".into()),
            },
        ];
        rpcs.into_iter().map(|rpc| Message { term, rpc }).collect()
    }

    #[test]
    fn there_and_back_and_never_from_a_part() {
        for message in samples() {
            let mut bytes = Vec::new();
            encode(&message, &mut bytes);
            assert_eq!(decode(&bytes), Ok(message));
            for end in 0..bytes.len() {
                assert_eq!(decode(&bytes[..end]), Err(Malformed), "{end} bytes of it");
            }
            bytes.push(0);
            assert_eq!(decode(&bytes), Err(Malformed), "a byte too many");
        }
    }

    #[test]
    fn damage_is_a_value() {
        for message in samples() {
            let mut bytes = Vec::new();
            encode(&message, &mut bytes);
            for at in 0..bytes.len() {
                for bit in 0..8 {
                    bytes[at] ^= 1 << bit;
                    if let Ok(other) = decode(&bytes) {
                        let mut again = Vec::new();
                        encode(&other, &mut again);
                        assert_eq!(again, bytes, "one encoding for each message");
                    }
                    bytes[at] ^= 1 << bit;
                }
            }
        }
    }

    #[test]
    fn lengths_and_terms_from_outside_are_checked() {
        let huge = [255, 255, 255, 255, 255, 255, 255, 255, 127];
        let mut claimed = vec![FETCHED, 1, 1, 1, FOUND_BODY as u8];
        claimed.extend(huge);
        assert_eq!(decode(&claimed), Err(Malformed));
        let mut many = vec![APPEND_ENTRIES, 1, 0, 0, 0, 0, 0, 0];
        many.extend(huge);
        assert_eq!(decode(&many), Err(Malformed));
        let (term, rpc) = (Term::REMOVED, Rpc::TimeoutNow);
        let mut bytes = Vec::new();
        encode(&Message { term, rpc }, &mut bytes);
        assert_eq!(decode(&bytes), Err(Malformed), "the notice is no term");
        let newer = [APPEND_ENTRIES, 3, 0, 0, 0, 0, 0, 0, 1, 4, 0];
        assert_eq!(decode(&newer), Err(Malformed), "an entry of a later term");
    }
}
