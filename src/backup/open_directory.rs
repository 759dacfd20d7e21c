//! A directory whose entries come one after another: the parent's as long as nothing differs, else a tree of its own.
//! If nothing does, the parent's tree is taken over as it is, also if another program has cut it in another way.

use crate::format::{Content, Entry, SequenceBuilder};
use crate::id::Id;
use crate::repository::Directory;
use crate::source::Taken;
use std::collections::VecDeque;

/// A directory that is being recorded.
pub struct OpenDirectory {
    /// What the parent has in its place.
    before: Directory,
    /// Up to now the directory holds the first so many entries of the parent's, and nothing else is built; `None`: it
    /// differs.
    kept: Option<usize>,
    builder: SequenceBuilder<Entry>,
    /// Entries whose content may still be worked on: neither kept nor in the builder yet.
    waiting: VecDeque<(Entry, Option<Taken>)>,
}

impl OpenDirectory {
    pub fn new(before: Directory) -> Self {
        Self { before, kept: Some(0), builder: SequenceBuilder::default(), waiting: VecDeque::new() }
    }

    /// Goes on with an entry of which `is_same` says whether the parent's next is it. If not, nothing is done.
    pub fn keep(&mut self, is_same: impl Fn(&Entry) -> bool) -> bool {
        let Some(kept) = self.kept.as_mut().filter(|_| self.waiting.is_empty()) else { return false };
        let goes_on = self.before.entries.get(*kept).is_some_and(is_same);
        *kept += usize::from(goes_on);
        goes_on
    }

    /// Lets an entry wait for its content.
    pub fn wait(&mut self, entry: Entry, taken: Option<Taken>) {
        self.waiting.push_back((entry, taken));
    }

    /// The entry that has waited longest, if more than `most` wait. It is to be pushed next.
    pub fn waited(&mut self, most: usize) -> Option<(Entry, Option<Taken>)> {
        if self.waiting.len() > most { self.waiting.pop_front() } else { None }
    }

    /// Adds an entry whose content is known. `keep` is given each finished node's bytes and answers with its id.
    pub fn push<E>(
        &mut self,
        entry: Entry,
        keep: &mut impl FnMut(Vec<u8>) -> Result<Id, E>,
    ) -> Result<(), E> {
        self.differ(keep)?;
        self.builder.push(entry, keep)
    }

    /// The whole directory, of which nothing waits any more.
    pub fn finish<E>(mut self, keep: &mut impl FnMut(Vec<u8>) -> Result<Id, E>) -> Result<Content, E> {
        if self.kept == Some(self.before.entries.len()) && !self.before.entries.is_empty() {
            return Ok(self.before.content);
        }
        self.differ(keep)?;
        Ok(self.builder.finish(keep)?.map_or(Content::Empty, Content::Sequence))
    }

    fn differ<E>(&mut self, keep: &mut impl FnMut(Vec<u8>) -> Result<Id, E>) -> Result<(), E> {
        let kept = self.kept.take().unwrap_or(0);
        self.before.entries.iter().take(kept).try_for_each(|entry| self.builder.push(entry.clone(), keep))
    }
}

#[cfg(test)]
mod tests {
    use super::OpenDirectory;
    use crate::format::{Content, Entry, EntryKind, SequenceBuilder};
    use crate::id::Id;
    use crate::repository::Directory;
    use proptest::prelude::{prop, proptest};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn entries(sizes: &BTreeMap<u16, u64>) -> Vec<Entry> {
        let entry = |(name, size): (&u16, &u64)| Entry {
            size: *size,
            ..Entry::bare(format!("{name:05}").into_bytes(), EntryKind::File)
        };
        sizes.iter().map(entry).collect()
    }

    fn keep(bytes: Vec<u8>) -> Result<Id, ()> {
        Ok(Id::of(&bytes))
    }

    fn built(entries: &[Entry]) -> Content {
        let mut builder = SequenceBuilder::default();
        entries.iter().try_for_each(|entry| builder.push(entry.clone(), &mut keep)).unwrap();
        builder.finish(&mut keep).unwrap().map_or(Content::Empty, Content::Sequence)
    }

    proptest! {
        /// Whatever the parent has, the directory's tree is the one that its entries make by themselves.
        #[test]
        fn the_tree_that_was_kept_is_the_one_that_would_be_built(
            before in prop::collection::btree_map(0u16..400, 0u64..3, 0..300),
            changes in prop::collection::vec((0u16..400, prop::option::of(0u64..3)), 0..4), lost in 0usize..3,
            most in 0usize..3,
        ) {
            let mut after = before.clone();
            (0..lost).for_each(|_| {
                after.pop_last();
            });
            for (name, size) in changes {
                match size {
                    Some(size) => after.insert(name, size),
                    None => after.remove(&name),
                };
            }
            let (before, after) = (entries(&before), entries(&after));
            let content = built(&before);
            let mut directory = OpenDirectory::new(Directory { entries: Arc::new(before), content });
            for entry in &after {
                if !directory.keep(|next| next == entry) {
                    directory.wait(entry.clone(), None);
                }
                while let Some((entry, _)) = directory.waited(most) {
                    directory.push(entry, &mut keep).unwrap();
                }
            }
            while let Some((entry, _)) = directory.waited(0) {
                directory.push(entry, &mut keep).unwrap();
            }
            assert_eq!(directory.finish(&mut keep).unwrap(), built(&after));
        }
    }
}
