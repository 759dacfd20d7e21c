//! What becomes of each pack: pure decisions.

use crate::format::PackKind;
use crate::reach::PackState;
use std::time::Duration;

/// Smaller packs than a quarter of the usual size are put together, if there are so many of a kind.
const SMALL: [(PackKind, u64); 2] = [(PackKind::Data, 8 << 20), (PackKind::Tree, 1 << 20)];
const MANY_SMALL: usize = 8;
/// A pack with a quarter of the chunks that one may have isn't small, however short they are: what it is put into is closed by their
/// number too.
const SMALL_CHUNKS: u64 = 1 << 14;

/// How long a condemned file stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grace {
    /// Long enough for every backup and every copy that may have begun before.
    For(Duration),
    /// Nobody else is there.
    Now,
}

impl Grace {
    /// What was condemned then may be deleted now.
    pub fn is_over(self, since_ns: i64, now_ns: i64) -> bool {
        match self {
            Self::Now => true,
            Self::For(grace) => {
                let grace = i64::try_from(grace.as_nanos()).unwrap_or(i64::MAX);
                now_ns.saturating_sub(since_ns) > grace
            }
        }
    }
}

/// What becomes of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Stays,
    /// Its live chunks go to a new pack.
    Rewritten,
    /// Nothing of it is needed.
    Doomed,
    /// It was condemned long enough ago.
    Deleted,
    /// It was condemned, but is needed.
    Pardoned,
}

/// Decides about all packs.
pub fn fates(packs: &[PackState], grace: Grace, now_ns: i64) -> Vec<Fate> {
    let mut fates: Vec<Fate> = packs.iter().map(|pack| fate(pack, grace, now_ns)).collect();
    for (kind, most) in SMALL {
        let is_small = |(pack, fate): &(&PackState, &mut Fate)| {
            let is_short = pack.size < most && pack.chunks < SMALL_CHUNKS;
            pack.kind == kind && is_short && matches!(fate, Fate::Stays | Fate::Rewritten)
        };
        let small: Vec<_> = packs.iter().zip(&mut fates).filter(is_small).collect();
        if small.len() >= MANY_SMALL {
            small.into_iter().for_each(|(_, fate)| *fate = Fate::Rewritten);
        }
    }
    fates
}

fn fate(pack: &PackState, grace: Grace, now_ns: i64) -> Fate {
    match pack.doomed_since {
        Some(_) if pack.live_chunks > 0 => Fate::Pardoned,
        Some(since) if grace.is_over(since, now_ns) => Fate::Deleted,
        None if pack.live_chunks == 0 && grace == Grace::Now => Fate::Deleted,
        Some(_) => Fate::Doomed,
        None if pack.live_chunks == 0 => Fate::Doomed,
        None if pack.live * 2 < pack.stored => Fate::Rewritten,
        None => Fate::Stays,
    }
}

#[cfg(test)]
mod tests {
    use super::{Fate, Grace, fates};
    use crate::format::PackKind;
    use crate::id::Id;
    use crate::reach::PackState;
    use std::time::Duration;

    fn pack(number: u8, stored: u64, live: u64, doomed_since: Option<i64>) -> PackState {
        let (id, kind, size) = (Id::of(&[number]), PackKind::Data, stored + 100);
        PackState { id, kind, size, chunks: 1, stored, live, live_chunks: live.min(1), doomed_since }
    }

    #[test]
    fn a_pack_goes_in_two_steps_and_comes_back_if_it_is_needed() {
        let large = 30 << 20;
        let packs = [
            pack(0, large, large, None),
            pack(1, large, large / 3, None),
            pack(2, large, 0, None),
            pack(3, large, 0, Some(50)),
            pack(4, large, 0, Some(10)),
            pack(5, large, 7, Some(10)),
        ];
        let grace = Grace::For(Duration::from_nanos(60));
        use Fate::{Deleted, Doomed, Pardoned, Rewritten, Stays};
        assert_eq!(fates(&packs, grace, 100), [Stays, Rewritten, Doomed, Doomed, Deleted, Pardoned]);
        assert_eq!(fates(&packs, Grace::Now, 100), [Stays, Rewritten, Deleted, Deleted, Deleted, Pardoned]);
        // A clock that went back deletes nothing early.
        assert_eq!(fates(&packs, grace, 5), [Stays, Rewritten, Doomed, Doomed, Doomed, Pardoned]);
    }

    #[test]
    fn small_packs_are_put_together_when_there_are_many() {
        let few: Vec<_> = (0..7).map(|number| pack(number, 1000, 1000, None)).collect();
        assert!(fates(&few, Grace::Now, 0).iter().all(|fate| *fate == Fate::Stays));
        let many: Vec<_> = (0..8).map(|number| pack(number, 1000, 1000, None)).collect();
        assert!(fates(&many, Grace::Now, 0).iter().all(|fate| *fate == Fate::Rewritten));
        // Of very short chunks no pack would ever be large: they would be put together in every prune.
        let short: Vec<_> = many.into_iter().map(|pack| PackState { chunks: 1 << 16, ..pack }).collect();
        assert!(fates(&short, Grace::Now, 0).iter().all(|fate| *fate == Fate::Stays));
    }
}
