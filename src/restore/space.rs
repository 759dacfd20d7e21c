//! Whether there is room for what a restore writes, found out before the first byte.

use super::plan::Plan;
use super::target::Target;
use nix::sys::statvfs::statvfs;
use nix::unistd::geteuid;
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// For directories and what file systems keep for themselves.
const SLACK_BYTES: u64 = 1 << 20;

/// A file system without enough room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    pub place: PathBuf,
    pub needed_bytes: u64,
    pub free_bytes: u64,
}

/// The first file system that has too little room, if one has.
pub fn shortage(plans: &[(&Target, &Plan)]) -> Option<Shortage> {
    let mut wanted: HashMap<u64, (PathBuf, u64, u64)> = HashMap::new();
    let mut add = |place: &Path, needed: u64, freed: u64| {
        let (place, device) = existing(place)?;
        let sum = wanted.entry(device).or_insert((place, 0, 0));
        (sum.1, sum.2) = (sum.1.saturating_add(needed), sum.2.saturating_add(freed));
        Some(())
    };
    for (target, plan) in plans {
        add(&target.path(), plan.needed_bytes, plan.freed_bytes);
    }
    wanted.into_values().find_map(|(place, needed, freed)| {
        let needed_bytes = needed.saturating_sub(freed);
        let free_bytes = free_at(&place)?;
        // Said is what was compared.
        let with_slack = needed_bytes.saturating_add(SLACK_BYTES);
        let is_short = needed_bytes > 0 && with_slack > free_bytes;
        is_short.then_some(Shortage { place, needed_bytes: with_slack, free_bytes })
    })
}

/// The nearest directory that is there, and its file system.
fn existing(place: &Path) -> Option<(PathBuf, u64)> {
    place.ancestors().find_map(|path| Some((path.to_owned(), path.metadata().ok()?.dev())))
}

/// Bytes that this user may fill; `None` where the file system doesn't tell.
fn free_at(place: &Path) -> Option<u64> {
    let stat = statvfs(place).ok()?;
    let blocks = if geteuid().is_root() { stat.blocks_free() } else { stat.blocks_available() };
    (stat.blocks() > 0).then(|| blocks.saturating_mul(stat.fragment_size()))
}
