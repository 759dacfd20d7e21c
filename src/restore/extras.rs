//! What becomes of names in a target that the snapshot doesn't have.

use super::target::join;
use crate::source::Excludes;
use std::collections::HashSet;

/// What happens to entries in the target that the snapshot doesn't have.
#[derive(Debug, Clone)]
pub enum Extras {
    /// They go, but for what the snapshot left out, about which it says nothing: these paths below the source, and what
    /// its patterns match. `part` is where the target lies in the source, with a `/` behind it unless it is the source.
    RemoveExcept { left_out: HashSet<Vec<u8>>, patterns: Excludes, part: Vec<u8> },
    /// All stay: what the snapshot left out isn't fully known.
    Keep,
}

impl Extras {
    /// What the snapshot noted as left out at this very path below the target: it couldn't be read.
    pub fn is_noted(&self, path: &[u8]) -> bool {
        let Self::RemoveExcept { left_out, part, .. } = self else { return false };
        left_out.contains(&[part.as_slice(), path].concat())
    }

    /// The name in the directory at `above` (below the target) stays, or everything in that directory does.
    pub fn stays(&self, above: &[u8], name: &[u8], is_directory: bool) -> bool {
        let Self::RemoveExcept { left_out, patterns, part } = self else { return true };
        let matches = |place: &[u8], is_directory: bool| {
            left_out.contains(place)
                || (!place.is_empty() && patterns.pattern_for(place, is_directory).is_some())
        };
        let directory = [part.as_slice(), above].concat();
        let path = join(above, name);
        let place = [part.as_slice(), &path].concat();
        matches(directory.strip_suffix(b"/").unwrap_or(&directory), true) || matches(&place, is_directory)
    }
}
