//! Messages between members as bytes, and back.
//!
//! A tag byte, then the fields in order: numbers as LEB128, lengths before bytes. Decoding trusts nothing: each length is
//! checked against what is left before anything is allocated, and whatever is wrong is a value. The frame around a
//! message (its length and checksum) is the link's. Start reading at `encode`.
use super::message::*;

/// What is wrong with the bytes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// It ends too early, or a length is larger than what is left.
    Short,
    /// A tag or a flag that means nothing.
    Unknown,
    /// A number that does not fit, or a term that cannot be.
    Range,
    /// A name or an address that is not UTF-8.
    Text,
    /// Bytes behind the end.
    Long,
}

/// Terms above this are no terms; it leaves room below the notice of removal.
const TERM_MAX: u64 = u64::MAX >> 1;

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

const FOUND_BODY: u8 = 0;
const FOUND_DAMAGED: u8 = 1;
const FOUND_NEVER: u8 = 2;
const FOUND_BEHIND: u8 = 3;

/// Appends a message to `out`.
pub fn encode(message: &Message, out: &mut Vec<u8>) {
    match &message.rpc {
        Rpc::RequestVote {
            pre,
            hand_over,
            last_index,
            last_term,
        } => {
            head(out, REQUEST_VOTE, message.term);
            out.push(u8::from(*pre) | u8::from(*hand_over) << 1);
            numbers(out, &[last_index.0, last_term.0]);
        }
        Rpc::Vote { pre, granted } => {
            head(out, VOTE, message.term);
            out.push(u8::from(*pre) | u8::from(*granted) << 1);
        }
        Rpc::AppendEntries {
            prev_index,
            prev_term,
            commit,
            acked,
            round,
            sync_us,
            entries,
        } => {
            head(out, APPEND_ENTRIES, message.term);
            numbers(out, &[prev_index.0, prev_term.0, commit.0, acked.0, *round]);
            numbers(out, &[u64::from(*sync_us), entries.len() as u64]);
            entries.iter().for_each(|e| entry(out, e));
        }
        Rpc::AppendReply {
            round,
            sync_us,
            answer,
        } => append_reply(out, message.term, *round, *sync_us, answer),
        Rpc::InstallSnapshot {
            meta,
            offset,
            crc,
            done,
            data,
        } => {
            head(out, INSTALL_SNAPSHOT, message.term);
            encode_meta(meta, out);
            numbers(out, &[*offset, u64::from(*crc)]);
            out.push(u8::from(*done));
            bytes(out, data);
        }
        Rpc::SnapshotReply { index, offset } => {
            head(out, SNAPSHOT_REPLY, message.term);
            numbers(out, &[index.0, *offset]);
        }
        Rpc::TimeoutNow => head(out, TIMEOUT_NOW, message.term),
        Rpc::Fetch { index, term } => {
            head(out, FETCH, message.term);
            numbers(out, &[index.0, term.0]);
        }
        Rpc::Fetched { index, term, found } => {
            head(out, FETCHED, message.term);
            numbers(out, &[index.0, term.0]);
            put_found(out, found);
        }
        Rpc::Removed { cluster, id } => {
            head(out, REMOVED, message.term);
            numbers(out, &[*cluster, id.0]);
        }
    }
}

fn put_found(out: &mut Vec<u8>, found: &Found) {
    match found {
        Found::Body(body) => {
            out.push(FOUND_BODY);
            bytes(out, body);
        }
        Found::Damaged => out.push(FOUND_DAMAGED),
        Found::Never => out.push(FOUND_NEVER),
        Found::Behind => out.push(FOUND_BEHIND),
    }
}

fn append_reply(out: &mut Vec<u8>, term: Term, round: u64, sync_us: u32, answer: &AppendAnswer) {
    let common = [round, u64::from(sync_us)];
    match answer {
        AppendAnswer::Accepted {
            verified,
            matched,
            want_snapshot,
        } => {
            head(out, ACCEPTED, term);
            numbers(out, &common);
            numbers(out, &[verified.0, matched.0]);
            out.push(u8::from(*want_snapshot));
        }
        AppendAnswer::Rejected {
            prev,
            hint,
            hint_term,
        } => {
            head(out, REJECTED, term);
            numbers(out, &common);
            numbers(out, &[prev.0, hint.0, hint_term.0]);
        }
        AppendAnswer::Stale => {
            head(out, STALE, term);
            numbers(out, &common);
        }
    }
}

/// Entries are consecutive, so that an index need not be told.
fn entry(out: &mut Vec<u8>, entry: &Entry) {
    let Body::Good(body) = &entry.body else {
        unreachable!("a leader has no damaged entries");
    };
    number(out, entry.term.0);
    bytes(out, body);
}

/// Appends what heads a snapshot to `out`.
pub fn encode_meta(meta: &SnapshotMeta, out: &mut Vec<u8>) {
    let members = &meta.configuration.members;
    numbers(out, &[meta.cluster, meta.index.0, meta.term.0]);
    number(out, members.len() as u64);
    for member in members {
        numbers(out, &[member.id.0, member.incarnation]);
        out.push(u8::from(member.voter));
        bytes(out, member.name.as_bytes());
        bytes(out, member.peer_url.as_bytes());
        bytes(out, member.client_url.as_bytes());
    }
}

fn head(out: &mut Vec<u8>, tag: u8, term: Term) {
    out.push(tag);
    number(out, term.0);
}

fn numbers(out: &mut Vec<u8>, values: &[u64]) {
    values.iter().for_each(|v| number(out, *v));
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes(out: &mut Vec<u8>, data: &[u8]) {
    number(out, data.len() as u64);
    out.extend_from_slice(data);
}

/// Reads one message, which takes all of `data`.
pub fn decode(data: &[u8]) -> Result<Message, WireError> {
    let mut input = Input(data);
    let tag = input.byte()?;
    let term = match input.number()? {
        u64::MAX if tag == REMOVED => Term::REMOVED,
        term if term <= TERM_MAX => Term(term),
        _ => return Err(WireError::Range),
    };
    let rpc = input.rpc(tag)?;
    match input.0.is_empty() {
        true => Ok(Message { term, rpc }),
        false => Err(WireError::Long),
    }
}

/// Reads what heads a snapshot from the front of `data`; and what is behind it.
pub fn decode_meta(data: &[u8]) -> Result<(SnapshotMeta, &[u8]), WireError> {
    let mut input = Input(data);
    let meta = input.meta()?;
    Ok((meta, input.0))
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn rpc(&mut self, tag: u8) -> Result<Rpc, WireError> {
        Ok(match tag {
            REQUEST_VOTE => {
                let (pre, hand_over) = self.flags()?;
                Rpc::RequestVote {
                    pre,
                    hand_over,
                    last_index: self.index()?,
                    last_term: self.term()?,
                }
            }
            VOTE => {
                let (pre, granted) = self.flags()?;
                Rpc::Vote { pre, granted }
            }
            APPEND_ENTRIES => self.append_entries()?,
            ACCEPTED | REJECTED | STALE => Rpc::AppendReply {
                round: self.number()?,
                sync_us: self.small()?,
                answer: self.answer(tag)?,
            },
            INSTALL_SNAPSHOT => Rpc::InstallSnapshot {
                meta: self.meta()?,
                offset: self.number()?,
                crc: self.small()?,
                done: self.flag()?,
                data: self.bytes()?.into(),
            },
            SNAPSHOT_REPLY => Rpc::SnapshotReply {
                index: self.index()?,
                offset: self.number()?,
            },
            TIMEOUT_NOW => Rpc::TimeoutNow,
            FETCH => Rpc::Fetch {
                index: self.index()?,
                term: self.term()?,
            },
            FETCHED => Rpc::Fetched {
                index: self.index()?,
                term: self.term()?,
                found: self.found()?,
            },
            REMOVED => Rpc::Removed {
                cluster: self.number()?,
                id: PeerId(self.number()?),
            },
            _ => return Err(WireError::Unknown),
        })
    }

    fn append_entries(&mut self) -> Result<Rpc, WireError> {
        let prev_index = self.index()?;
        let (prev_term, commit) = (self.term()?, self.index()?);
        let (acked, round, sync_us) = (self.index()?, self.number()?, self.small()?);
        let count = self.number()?;
        let mut entries = Vec::new();
        for offset in 0..count {
            // Grown by what is there, never by what is claimed.
            let index = prev_index
                .0
                .checked_add(offset + 1)
                .ok_or(WireError::Range)?;
            entries.push(Entry {
                term: self.term()?,
                index: Index(index),
                body: Body::Good(self.bytes()?.into()),
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

    fn answer(&mut self, tag: u8) -> Result<AppendAnswer, WireError> {
        Ok(match tag {
            ACCEPTED => AppendAnswer::Accepted {
                verified: self.index()?,
                matched: self.index()?,
                want_snapshot: self.flag()?,
            },
            REJECTED => AppendAnswer::Rejected {
                prev: self.index()?,
                hint: self.index()?,
                hint_term: self.term()?,
            },
            _ => AppendAnswer::Stale,
        })
    }

    fn found(&mut self) -> Result<Found, WireError> {
        Ok(match self.byte()? {
            FOUND_BODY => Found::Body(self.bytes()?.into()),
            FOUND_DAMAGED => Found::Damaged,
            FOUND_NEVER => Found::Never,
            FOUND_BEHIND => Found::Behind,
            _ => return Err(WireError::Unknown),
        })
    }

    fn meta(&mut self) -> Result<SnapshotMeta, WireError> {
        let (cluster, index, term) = (self.number()?, self.index()?, self.term()?);
        let mut members: Vec<Member> = Vec::new();
        for _ in 0..self.number()? {
            let (id, incarnation) = (PeerId(self.number()?), self.number()?);
            let voter = self.flag()?;
            if members.last().is_some_and(|m| m.id >= id) {
                return Err(WireError::Range);
            }
            members.push(Member {
                id,
                name: self.text()?,
                peer_url: self.text()?,
                client_url: self.text()?,
                incarnation,
                voter,
            });
        }
        Ok(SnapshotMeta {
            cluster,
            index,
            term,
            configuration: Configuration { members },
        })
    }

    fn byte(&mut self) -> Result<u8, WireError> {
        let (first, rest) = self.0.split_first().ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(*first)
    }

    fn flags(&mut self) -> Result<(bool, bool), WireError> {
        match self.byte()? {
            flags @ 0..=3 => Ok((flags & 1 != 0, flags & 2 != 0)),
            _ => Err(WireError::Unknown),
        }
    }

    fn flag(&mut self) -> Result<bool, WireError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Unknown),
        }
    }

    fn number(&mut self) -> Result<u64, WireError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && byte > 1 {
                return Err(WireError::Range);
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::Range)
    }

    fn small(&mut self) -> Result<u32, WireError> {
        u32::try_from(self.number()?).map_err(|_| WireError::Range)
    }

    /// Indexes and terms leave room to count on.
    fn bounded(&mut self) -> Result<u64, WireError> {
        match self.number()? {
            value if value <= TERM_MAX => Ok(value),
            _ => Err(WireError::Range),
        }
    }

    fn index(&mut self) -> Result<Index, WireError> {
        self.bounded().map(Index)
    }

    fn term(&mut self) -> Result<Term, WireError> {
        self.bounded().map(Term)
    }

    fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let length = usize::try_from(self.number()?).map_err(|_| WireError::Short)?;
        if length > self.0.len() {
            return Err(WireError::Short);
        }
        let (data, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(data)
    }

    fn text(&mut self) -> Result<Box<str>, WireError> {
        let text = std::str::from_utf8(self.bytes()?).map_err(|_| WireError::Text)?;
        Ok(text.into())
    }
}
