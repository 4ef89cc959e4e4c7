//! The head of a snapshot as bytes: the encoding of [`SnapshotMeta`].
//!
//! The same bytes are in the snapshot file, in the log on the disk (as its configuration, and in
//! the record of an installed snapshot) and in the message `InstallSnapshot`. They are cluster,
//! index, term and number of members; then for each member its id, the id that clients know it by
//! (0: the same), its incarnation, whether it is a voter (0 or 1), its name, its peer URL and its
//! client URL; then the number of barred members, and for each its id and its incarnation. A number
//! is a varint, a text is its length and its bytes (`core::varint`).
//!
//! Decoding trusts nothing: each length is checked before memory is allocated, and each error is a
//! value. Start reading at [`encode_meta`].
use super::message::{BarredMember, Configuration, Index, Member, PeerId, SnapshotMeta, Term};
use crate::core::varint::{Malformed, Unpack, put_number, put_str};

/// Highest valid index and term. Larger ones are refused when they are decoded, so that raft can
/// add to valid ones without overflow, and none equals `Term::REMOVED`.
const VALUE_MAX: u64 = u64::MAX >> 1;

/// Appends the encoding of `meta` to `out`.
pub fn encode_meta(meta: &SnapshotMeta, out: &mut Vec<u8>) {
    let members = &meta.configuration.members;
    let count = members.len() as u64;
    put_numbers(out, &[meta.cluster, meta.index.0, meta.term.0, count]);
    for member in members {
        let voter = u64::from(member.voter);
        let added_as = member.added_as.unwrap_or(PeerId::NONE);
        put_numbers(out, &[member.id.0, added_as.0, member.incarnation, voter]);
        put_str(&member.name, out);
        put_str(&member.peer_url, out);
        put_str(&member.client_url, out);
    }
    let barred = &meta.configuration.barred;
    put_number(barred.len() as u64, out);
    for member in barred {
        put_numbers(out, &[member.id.0, member.incarnation]);
    }
}

/// Decodes a head from the front of `data`. Returns the bytes after it as well.
///
/// # Errors
///
/// [`Malformed`] if `data` does not start with a valid head.
pub fn decode_meta(data: &[u8]) -> Result<(SnapshotMeta, &[u8]), Malformed> {
    let mut from = Unpack::new(data);
    let meta = take_meta(&mut from)?;
    let rest = &data[data.len() - from.left()..];
    Ok((meta, rest))
}

/// Decodes a head.
///
/// # Errors
///
/// [`Malformed`] if it is cut short, a number is out of bounds, a text is not UTF-8, or the members
/// are not sorted by id.
pub fn take_meta(from: &mut Unpack) -> Result<SnapshotMeta, Malformed> {
    let cluster = from.number()?;
    let index = take_index(from)?;
    let term = take_term(from)?;
    let count = from.number()?;
    // Not allocated by `count`: it may be any number.
    let mut members: Vec<Member> = Vec::new();
    for _ in 0..count {
        let member = take_member(from)?;
        if members.last().is_some_and(|last| last.id >= member.id) {
            return Err(Malformed);
        }
        members.push(member);
    }
    let count = from.number()?;
    let mut barred = Vec::new();
    for _ in 0..count {
        let id = PeerId(from.number()?);
        let incarnation = from.number()?;
        barred.push(BarredMember { id, incarnation });
    }
    Ok(SnapshotMeta {
        cluster,
        index,
        term,
        configuration: Configuration { members, barred },
    })
}

fn take_member(from: &mut Unpack) -> Result<Member, Malformed> {
    let id = PeerId(from.number()?);
    let added_as = PeerId(from.number()?);
    Ok(Member {
        id,
        added_as: (added_as != PeerId::NONE).then_some(added_as),
        incarnation: from.number()?,
        voter: from.flag()?,
        name: from.str()?.into(),
        peer_url: from.str()?.into(),
        client_url: from.str()?.into(),
    })
}

/// Checks an index or a term.
///
/// # Errors
///
/// [`Malformed`] if it is above the highest valid one.
pub fn bounded(value: u64) -> Result<u64, Malformed> {
    if value > VALUE_MAX {
        return Err(Malformed);
    }
    Ok(value)
}

/// Decodes an index.
///
/// # Errors
///
/// [`Malformed`] if it is cut short or above the highest valid one.
pub fn take_index(from: &mut Unpack) -> Result<Index, Malformed> {
    let value = bounded(from.number()?)?;
    Ok(Index(value))
}

/// Decodes a term.
///
/// # Errors
///
/// [`Malformed`] if it is cut short or above the highest valid one.
pub fn take_term(from: &mut Unpack) -> Result<Term, Malformed> {
    let value = bounded(from.number()?)?;
    Ok(Term(value))
}

/// Appends the encodings of numbers to `out`.
pub fn put_numbers(out: &mut Vec<u8>, numbers: &[u64]) {
    for number in numbers {
        put_number(*number, out);
    }
}
