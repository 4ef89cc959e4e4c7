//! The ids of a cluster and of its members that clients see.
//!
//! The identity of a cluster is a secret that only its members know (`core::peers` admits links by
//! it), and a member's own id names an entry of the log. So neither is shown. Clients see a hash of
//! them, by SipHash-2-4 with the cluster's identity as the key (Aumasson and Bernstein, "SipHash: a
//! fast short-input PRF", 2012). The output of a pseudo-random function does not disclose its key.
//! Start with [`PublicId::of_member`].
use super::raft::PeerId;
use std::fmt;

/// The second half of the key: it separates this use of the identity from others.
const PURPOSE: u64 = u64::from_le_bytes(*b"publicid");
/// The message that gives the id of the cluster itself. No member has this id.
const CLUSTER: u64 = 0;
/// The lowest id with 16 hexadecimal digits.
const LEAST: u64 = 1 << 60;

/// An id of 16 hexadecimal digits, the first of which is not 0: some clients drop leading zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicId(u64);

impl PublicId {
    /// The id of the cluster with this identity.
    pub fn of_cluster(cluster: u64) -> PublicId {
        PublicId::hashed(cluster, CLUSTER)
    }

    /// The id of a member of the cluster with this identity.
    pub fn of_member(cluster: u64, id: PeerId) -> PublicId {
        PublicId::hashed(cluster, id.0)
    }

    /// Parses the text of [`fmt::Display`]; `None` for any other text. The digits may be capitals.
    pub fn parse(text: &str) -> Option<PublicId> {
        let is_hex = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| is_hex)?;
        (number >= LEAST).then_some(PublicId(number))
    }

    /// The id as a number.
    pub fn number(self) -> u64 {
        self.0
    }

    fn hashed(cluster: u64, message: u64) -> PublicId {
        let hash = siphash(cluster, PURPOSE, message);
        PublicId(if hash < LEAST { hash | LEAST } else { hash })
    }
}

impl fmt::Display for PublicId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// SipHash-2-4 of a message of eight bytes.
fn siphash(key0: u64, key1: u64, message: u64) -> u64 {
    const LENGTH: u64 = 8 << 56;
    let mut state = [
        key0 ^ 0x736f_6d65_7073_6575,
        key1 ^ 0x646f_7261_6e64_6f6d,
        key0 ^ 0x6c79_6765_6e65_7261,
        key1 ^ 0x7465_6462_7974_6573,
    ];
    for word in [message, LENGTH] {
        state[3] ^= word;
        rounds(&mut state, 2);
        state[0] ^= word;
    }
    state[2] ^= 0xff;
    rounds(&mut state, 4);
    state[0] ^ state[1] ^ state[2] ^ state[3]
}

fn rounds(state: &mut [u64; 4], count: usize) {
    let [v0, v1, v2, v3] = state;
    for _ in 0..count {
        *v0 = v0.wrapping_add(*v1);
        *v1 = v1.rotate_left(13) ^ *v0;
        *v0 = v0.rotate_left(32);
        *v2 = v2.wrapping_add(*v3);
        *v3 = v3.rotate_left(16) ^ *v2;
        *v0 = v0.wrapping_add(*v3);
        *v3 = v3.rotate_left(21) ^ *v0;
        *v2 = v2.wrapping_add(*v1);
        *v1 = v1.rotate_left(17) ^ *v2;
        *v2 = v2.rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector of eight bytes in the authors' reference implementation (`vectors.h`): the key is
    /// the bytes 0 to 15, the message the bytes 0 to 7.
    #[test]
    fn the_hash_is_siphash_2_4() {
        let word = |first: u8| u64::from_le_bytes(std::array::from_fn(|i| first + i as u8));
        let hash = siphash(word(0), word(8), word(0));
        let expected = [0x62, 0x24, 0x93, 0x9a, 0x79, 0xf5, 0xf5, 0x93];
        assert_eq!(hash.to_le_bytes(), expected);
    }

    #[test]
    fn ids_have_sixteen_digits_and_are_read_back() {
        for id in 0..1_000 {
            let id = PublicId::of_member(7, PeerId(id));
            let text = id.to_string();
            assert_eq!(text.len(), 16);
            assert!(!text.starts_with('0'));
            assert_eq!(PublicId::parse(&text), Some(id));
        }
        for text in [
            "",
            "xyz",
            "0123456789abcdef",
            "1234567890abcdef0",
            "+234567890abcdef",
        ] {
            assert_eq!(PublicId::parse(text), None, "{text}");
        }
    }
}
