//! The head of a snapshot as bytes, and the numbers of raft as they are stored and sent.
//!
//! The snapshot file, the log's configuration and the message that installs a snapshot hold the same
//! bytes. Decoding trusts nothing: a length is checked before anything is allocated, terms and
//! indexes leave room to count on, and whatever is wrong is a value.
use super::message::*;
use crate::core::varint::{Malformed, Unpack, put_number, put_str};

/// Terms and indexes above this are none; it leaves room below the notice of removal.
const VALUE_MAX: u64 = u64::MAX >> 1;

/// Appends what heads a snapshot to `out`.
pub fn encode_meta(meta: &SnapshotMeta, out: &mut Vec<u8>) {
    let members = &meta.configuration.members;
    let count = members.len() as u64;
    put_numbers(out, &[meta.cluster, meta.index.0, meta.term.0, count]);
    for member in members {
        put_numbers(
            out,
            &[member.id.0, member.incarnation, u64::from(member.voter)],
        );
        for text in [&member.name, &member.peer_url, &member.client_url] {
            put_str(text, out);
        }
    }
}

/// Reads what heads a snapshot from the front of `data`; and what is behind it.
pub fn decode_meta(data: &[u8]) -> Result<(SnapshotMeta, &[u8]), Malformed> {
    let mut from = Unpack::new(data);
    let meta = take_meta(&mut from)?;
    Ok((meta, &data[data.len() - from.left()..]))
}

/// Reads the head of a snapshot.
pub fn take_meta(from: &mut Unpack) -> Result<SnapshotMeta, Malformed> {
    let (cluster, index, term) = (from.number()?, take_index(from)?, take_term(from)?);
    let mut members: Vec<Member> = Vec::new();
    for _ in 0..from.number()? {
        let (id, incarnation, voter) = (PeerId(from.number()?), from.number()?, from.flag()?);
        if members.last().is_some_and(|m| m.id >= id) {
            return Err(Malformed);
        }
        members.push(Member {
            id,
            incarnation,
            voter,
            name: from.str()?.into(),
            peer_url: from.str()?.into(),
            client_url: from.str()?.into(),
        });
    }
    Ok(SnapshotMeta {
        cluster,
        index,
        term,
        configuration: Configuration { members },
    })
}

/// A term or index that leaves room to count on.
pub fn bounded(value: u64) -> Result<u64, Malformed> {
    (value <= VALUE_MAX).then_some(value).ok_or(Malformed)
}

/// Reads an index within bounds.
pub fn take_index(from: &mut Unpack) -> Result<Index, Malformed> {
    bounded(from.number()?).map(Index)
}

/// Reads a term within bounds.
pub fn take_term(from: &mut Unpack) -> Result<Term, Malformed> {
    bounded(from.number()?).map(Term)
}

/// Appends numbers.
pub fn put_numbers(out: &mut Vec<u8>, fields: &[u64]) {
    fields.iter().for_each(|field| put_number(*field, out));
}
