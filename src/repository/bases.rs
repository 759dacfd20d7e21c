//! What a new chunk can be told as a difference to: whole copies of what was there before.

use super::codec::{self, DeltaEncoder};
use super::error::RepositoryError;
use super::location::Location;
use super::open::Repository;
use crate::format::{ChunkRef, Encoding, Key, Method, PackKind};
use crate::id::Id;
use std::borrow::Cow;
use std::sync::Arc;

/// So many bases has a delta at most.
const MOST: usize = 4;
/// More bytes than these are no help, and would have to be read for every chunk.
const MOST_BYTES: usize = 2 << 20;

/// A delta is worth it up to this part of what the chunk takes by itself; beyond, the chunk is stored whole, and serves as the
/// next one's base. A node that is read rarely and changes a little each time may go further from its base.
fn worth(kind: PackKind) -> u64 {
    match kind {
        PackKind::Data => 4,
        PackKind::Tree => 2,
    }
}

/// Which copy of a base is read, where there are several.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Choice {
    /// The first that decodes.
    First,
    /// From the `nth` on the first whose id begins as it should: bytes that are stored as they are decode whatever became of them.
    Proven(usize),
}

/// A whole copy of a chunk, and how long it is as stored.
type Whole = (Vec<u8>, u32);

/// Whole chunks, proven when they were read.
#[derive(Default, Clone)]
pub struct Bases {
    /// How their ids begin.
    pub prefixes: Vec<u64>,
    /// Their bytes one after another.
    pub bytes: Arc<Vec<u8>>,
    stored_bytes: u64,
    /// The bytes of the old chunk, if it was a single one.
    was: Option<Arc<Vec<u8>>>,
}

/// A chunk as it will lie in a pack.
pub struct Encoded {
    pub encoding: Encoding,
    pub bases: Box<[u64]>,
    pub stored: Vec<u8>,
}

impl Bases {
    /// What `old` chunks consist of, or are told as differences to. As few as can be read: a delta is no must.
    pub fn of(repository: &Repository, old: &[ChunkRef]) -> Result<Self, RepositoryError> {
        let mut bases = Self::default();
        for chunk in old {
            bases.was = bases.add(repository, &chunk.id)?.filter(|_| old.len() == 1);
        }
        Ok(bases)
    }

    /// The bytes of the old chunk, if it was a single one, and could be read.
    pub fn was(&self) -> Option<Arc<Vec<u8>>> {
        self.was.clone()
    }

    /// Returns the chunk's bytes.
    fn add(&mut self, repository: &Repository, id: &Id) -> Result<Option<Arc<Vec<u8>>>, RepositoryError> {
        let Some(location) = repository.index()?.find(id.prefix()) else { return Ok(None) };
        // To fetch a base from afar costs more than it saves.
        if !repository.backend().is_near(&Key::Pack(location.pack).path()) {
            return Ok(None);
        }
        if !location.encoding.is_difference() {
            let plain = repository.bases().keep(*id, repository.read_chunk(id)?);
            self.push(id.prefix(), Arc::clone(&plain), location.stored_len);
            return Ok(Some(plain));
        }
        let Some(parts) = repository.read_bases(&location, Choice::First)? else { return Ok(None) };
        // Nobody knows the bases' whole ids here: what they make proves them.
        let joined = joined(&parts);
        let again =
            repository.open_chunk(id.prefix(), &location, repository.read_stored(&location)?.into())?;
        let (method, plain_len) = (location.encoding.method, location.plain_len);
        let plain = codec::decode_difference(method, &again, &joined, plain_len).ok();
        let Some(plain) = plain.filter(|plain| repository.naming().id_of(plain) == *id) else {
            return Ok(None);
        };
        for (prefix, (base, stored_len)) in location.bases.iter().zip(parts) {
            self.push(*prefix, Arc::new(base), stored_len);
        }
        Ok(Some(Arc::new(plain)))
    }

    fn push(&mut self, prefix: u64, plain: Arc<Vec<u8>>, stored_len: u32) {
        let fits = self.prefixes.len() < MOST && self.bytes.len() + plain.len() <= MOST_BYTES;
        if fits && !self.prefixes.contains(&prefix) {
            self.prefixes.push(prefix);
            if self.bytes.is_empty() {
                self.bytes = plain;
            } else {
                Arc::make_mut(&mut self.bytes).extend_from_slice(&plain);
            }
            self.stored_bytes += u64::from(stored_len);
        }
    }

    /// What a delta of so many plain bytes may take. What is stored whole instead is the next one's base.
    fn most(&self, kind: PackKind, plain_len: usize) -> usize {
        let whole = plain_len as u64 * self.stored_bytes / (self.bytes.len() as u64).max(1);
        (whole / worth(kind)) as usize
    }
}

/// The bytes of bases one behind another. Most differences have one, which isn't copied.
fn joined(parts: &[Whole]) -> Cow<'_, [u8]> {
    match parts {
        [(only, _)] => only.into(),
        several => several.iter().map(|(plain, _)| plain.as_slice()).collect::<Vec<_>>().concat().into(),
    }
}

/// Encodes chunks, each as a difference to its bases if that is worth it, else by itself.
pub fn encode_all(kind: PackKind, plains: &[&[u8]], bases: &[Cow<'_, Bases>]) -> Vec<Encoded> {
    let pairs = || plains.iter().zip(bases);
    // To start it costs as much as encoding a few chunks, and most need none.
    let mut encoder: Option<DeltaEncoder<'_>> = None;
    let start = || {
        let longest = pairs().filter(|(_, bases)| !bases.bytes.is_empty());
        DeltaEncoder::new(longest.map(|(plain, bases)| plain.len() + bases.bytes.len()).max()?)
    };
    pairs()
        .map(|(plain, bases)| {
            let most = bases.most(kind, plain.len());
            let mut difference = || {
                let own = bases.prefixes.clone().into_boxed_slice();
                let encoding = |method| Encoding::difference(method, own.len());
                if let (Some(encoding), Some(stored)) =
                    (encoding(Method::Patch), codec::encode_patch(plain, &bases.bytes, most))
                {
                    return Some(Encoded { encoding, bases: own, stored });
                }
                let encoding = encoding(Method::Delta).filter(|_| !bases.bytes.is_empty())?;
                if encoder.is_none() {
                    encoder = start();
                }
                let stored = encoder.as_mut()?.encode(plain, &bases.bytes, most)?;
                Some(Encoded { encoding, bases: own, stored })
            };
            difference().unwrap_or_else(|| {
                let (encoding, stored) = codec::encode(plain);
                Encoded { encoding, bases: Box::default(), stored }
            })
        })
        .collect()
}

impl Repository {
    /// A whole copy of a chunk whose id begins like this, and how long it is as stored. It is not proven: what is made of it has
    /// to be. `None` if there is none.
    pub(super) fn read_whole(&self, prefix: u64, choice: Choice) -> Result<Option<Whole>, RepositoryError> {
        let mut whole = self.index()?.find_all(prefix);
        whole.retain(|location| !location.encoding.is_difference());
        let nth = if let Choice::Proven(nth) = choice { nth } else { 0 };
        let (before, from) = whole.split_at(nth % whole.len().max(1));
        let mut failure = None;
        for location in from.iter().chain(before) {
            let stored = self.read_stored(location);
            let plain = stored.and_then(|stored| self.open_chunk(prefix, location, stored.into())).and_then(
                |stored| {
                    codec::decode(location.encoding, stored, location.plain_len)
                        .map(Cow::into_owned)
                        .map_err(|detail| self.damaged_at(location, detail))
                },
            );
            let is_right =
                |plain: &[u8]| choice == Choice::First || self.naming().id_of(plain).prefix() == prefix;
            match plain {
                Ok(plain) if is_right(&plain) => return Ok(Some((plain, location.stored_len))),
                Ok(_) => {
                    failure = Some(self.damaged_at(location, "a base has another id than the index says"))
                }
                Err(error @ RepositoryError::Damaged { .. }) => failure = Some(error),
                Err(error) => return Err(error),
            }
        }
        match (failure, self.beneath()) {
            (Some(failure), _) => Err(failure),
            (None, Some(beneath)) => beneath.read_whole(prefix, choice),
            (None, None) => Ok(None),
        }
    }

    /// The bases of a difference, in order, as `read_whole` gives them; `None` if there is one without a copy.
    fn read_bases(&self, location: &Location, choice: Choice) -> Result<Option<Vec<Whole>>, RepositoryError> {
        location.bases.iter().map(|prefix| self.read_whole(*prefix, choice)).collect()
    }

    /// How many whole copies there are of chunks whose ids begin like this.
    pub(super) fn whole_copies(&self, prefix: u64) -> Result<usize, RepositoryError> {
        let here = self.index()?.find_all(prefix);
        let here = here.iter().filter(|location| !location.encoding.is_difference()).count();
        match self.beneath() {
            Some(beneath) if here == 0 => beneath.whole_copies(prefix),
            _ => Ok(here),
        }
    }

    /// The bytes of a delta from its encoded ones, by this choice among copies of its bases.
    pub(super) fn apply_delta(
        &self,
        location: &Location,
        stored: &[u8],
        choice: Choice,
    ) -> Result<Vec<u8>, RepositoryError> {
        let missing = || self.damaged_at(location, "the base of a delta is missing");
        let parts = self.read_bases(location, choice)?.ok_or_else(missing)?;
        codec::decode_difference(location.encoding.method, stored, &joined(&parts), location.plain_len)
            .map_err(|detail| self.damaged_at(location, detail))
    }
}
