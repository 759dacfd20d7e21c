//! What several encodings are made of: parts that are stored as they are or as a zstd frame, and lists of runs.

use std::borrow::Cow;

/// Compresses, or says that it isn't worth it.
pub type Compress<'c> = &'c dyn Fn(&[u8]) -> Option<Vec<u8>>;
/// Decompresses to so many bytes at most.
pub type Decompress<'d> = &'d dyn Fn(&[u8], usize) -> Result<Vec<u8>, String>;

/// A part as it is stored: what it was compressed to if that is shorter, else as it is.
pub fn shortest(plain: &[u8], compressed: Option<Vec<u8>>) -> Cow<'_, [u8]> {
    compressed.filter(|compressed| compressed.len() < plain.len()).map_or(plain.into(), Cow::Owned)
}

/// A part from its stored bytes: if they are as many as wanted they are the part, else it is what they decompress to.
pub fn whole<'s>(
    stored: &'s [u8],
    wanted: usize,
    decompress: Decompress<'_>,
) -> Result<Cow<'s, [u8]>, String> {
    if stored.len() == wanted { Ok(stored.into()) } else { decompress(stored, wanted).map(Cow::Owned) }
}

/// A list of runs as it is stored: how many (u16), and the gap before each and its length (u16 each); `None` if something doesn't fit.
pub fn list_of(places: &[(usize, usize)]) -> Option<Vec<u8>> {
    let numbers = places.iter().flat_map(|(gap, len)| [*gap, *len]);
    let mut stored = Vec::with_capacity(2 + 4 * places.len());
    for number in std::iter::once(places.len()).chain(numbers) {
        stored.extend_from_slice(&u16::try_from(number).ok()?.to_le_bytes());
    }
    Some(stored)
}

/// Such a list, and what is stored behind it; `None` if it is cut short.
pub fn places(stored: &[u8]) -> Option<(impl Iterator<Item = (usize, usize)> + Clone, &[u8])> {
    let (count, after) = stored.split_first_chunk()?;
    let (list, after) = after.split_at_checked(4 * usize::from(u16::from_le_bytes(*count)))?;
    let pair =
        |[a, b, c, d]: &[u8; 4]| [[*a, *b], [*c, *d]].map(|bytes| usize::from(u16::from_le_bytes(bytes)));
    Some((list.as_chunks().0.iter().map(pair).map(|[gap, len]| (gap, len)), after))
}
