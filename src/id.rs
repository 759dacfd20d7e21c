//! The 32-byte BLAKE3 address of a chunk or a repository file.

use std::fmt;

/// A BLAKE3 hash (256 bits, <https://github.com/BLAKE3-team/BLAKE3-specs>) that names what it was computed from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id([u8; Id::LEN]);

impl Id {
    /// Bytes in an id.
    pub const LEN: usize = 32;

    /// The id of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Takes 32 raw bytes as an id; `None` if there are not exactly 32.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Reads 64 lower-case hexadecimal digits; `None` for anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 2 * Self::LEN {
            return None;
        }
        let mut bytes = [0u8; Self::LEN];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(*pair.first()?)? << 4 | nibble(*pair.get(1)?)?;
        }
        Some(Self(bytes))
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// 64 lower-case hexadecimal digits.
    pub fn hex(&self) -> String {
        const DIGITS: [char; 16] =
            ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        digits.filter_map(|digit| DIGITS.get(usize::from(digit))).collect()
    }

    /// The first eight bytes as a number: uniformly distributed, so it serves as a hash-table key or to place a cut.
    pub fn prefix(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Id {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.hex())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Id({})", self.hex().get(..12).unwrap_or_default())
    }
}

/// How chunks get their ids: by BLAKE3, in an encrypted repository keyed, so that whoever lacks the key can't tell whether it holds
/// something that he knows.
#[derive(Clone, Copy, Default)]
pub struct Naming(Option<[u8; 32]>);

impl Naming {
    /// Everybody's.
    pub const PLAIN: Self = Self(None);

    /// Those by this key (BLAKE3's keyed mode).
    pub fn keyed(key: [u8; 32]) -> Self {
        Self(Some(key))
    }

    /// The id of a chunk.
    pub fn id_of(&self, chunk: &[u8]) -> Id {
        match &self.0 {
            None => Id::of(chunk),
            Some(key) => Id(*blake3::keyed_hash(key, chunk).as_bytes()),
        }
    }
}

/// Computes an id from bytes that arrive piece by piece.
#[derive(Default, Clone)]
pub struct IdHasher(blake3::Hasher);

impl IdHasher {
    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The id of everything added so far.
    pub fn finish(&self) -> Id {
        Id(*self.0.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::{Id, Naming};

    #[test]
    fn hex_round_trips_and_rejects_everything_else() {
        let id = Id::of(b"ice");
        assert_eq!(Id::from_hex(&id.hex()), Some(id));
        assert_eq!(Id::from_hex(&id.hex().to_uppercase()), None);
        assert_eq!(Id::from_hex(&id.hex()[1..]), None);
        assert_eq!(Id::from_hex(&"é".repeat(32)), None);
    }

    #[test]
    fn a_key_makes_other_ids() {
        let keyed = Naming::keyed([7; 32]);
        assert_eq!(Naming::PLAIN.id_of(b"ice"), Id::of(b"ice"));
        assert_ne!(keyed.id_of(b"ice"), Id::of(b"ice"));
        assert_ne!(keyed.id_of(b"ice"), Naming::keyed([8; 32]).id_of(b"ice"));
    }

    #[test]
    fn the_hash_is_plain_blake3() {
        // Test vector of the BLAKE3 specification: the hash of no bytes.
        assert_eq!(Id::of(b"").hex(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
    }
}
