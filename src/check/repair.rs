//! Makes a damaged repository sound again, as far as its bytes, and the live sources, allow. What is removed is kept aside.

use super::affected::Affected;
use super::files::is_sound;
use super::inspect::{Checked, ReadData, Scope, check, inspect};
use super::packs::Part;
use crate::backend::ErrorKind;
use crate::cores::on_all_cores;
use crate::format::{
    ChunkRecord, Finding, Key, Level, ListedChunk, ListedPack, Pack, PackKind, ProofFile, Severity,
};
use crate::id::Id;
use crate::progress::Progress;
use crate::repository::{
    ChunkWriter, IndexWriter, Repository, RepositoryError, Snapshot, Trust, if_sound, well_read,
};
use crate::stamp::{Stamp, now_nanos};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Gives bytes that a live file has at a place, if there are some: a file that a snapshot holds, an offset in it, a length.
pub type Replacements<'a> = dyn Fn(&Snapshot, &Affected, u64, u32) -> Option<Vec<u8>> + 'a;

/// What a repair did.
#[derive(Debug, Default)]
pub struct Repaired {
    /// What it did, in words.
    pub actions: Vec<String>,
    /// Files that were put aside, with where they are now.
    pub quarantined: Vec<(String, String)>,
    pub salvaged_chunks: u64,
    pub replaced_chunks: u64,
    /// Snapshots that are lost, and such as have lost data and are marked as invalid.
    pub lost: Vec<Stamp>,
}

struct Repair<'a> {
    repository: &'a Repository,
    /// The directory of this repair below `quarantine/`.
    batch: String,
    done: Repaired,
    /// Files that couldn't be put aside.
    unread: BTreeSet<String>,
    progress: &'a dyn Progress,
}

/// Repairs. `open` opens the repository anew. Nobody else may write meanwhile. Interrupted anywhere, it can be run again.
pub fn repair(
    open: &dyn Fn() -> Result<Repository, RepositoryError>,
    replacements: &Replacements<'_>,
    patience: Duration,
    progress: &dyn Progress,
) -> Result<(Repaired, Checked), RepositoryError> {
    let repository = open()?;
    let _alone = repository.lock("prune", patience)?;
    let _no_others = repository.lock_out_others(patience)?;
    let scope = Scope { read_data: ReadData::Part(Part::WHOLE) };
    let checked = check(&repository, scope, progress)?;
    let batch = format!("quarantine/{}", Stamp::from_nanos(now_nanos()));
    let (done, unread) = (Repaired::default(), BTreeSet::new());
    let mut repair = Repair { repository: &repository, batch, done, unread, progress };
    repair.names(&checked)?;
    repair.small_files()?;
    repair.packs(&checked)?;
    repair.chunks(&checked, replacements)?;
    repair.indexes(&checked)?;
    repair.tell_unread()?;
    let mut done = repair.done;
    // What was written and put aside is read anew.
    let repository = open()?;
    let doubtful = checked.found.doubtful.clone();
    let after = inspect(&repository, Scope { read_data: ReadData::None }, doubtful, progress)?;
    mark(&repository, &after, &mut done)?;
    Ok((done, after))
}

impl Repair<'_> {
    /// Moves a file aside, byte for byte: whether it is there now.
    fn quarantine(&mut self, key: &str) -> Result<bool, RepositoryError> {
        let is_aside = self.keep_aside(key)?;
        if is_aside {
            self.repository.backend().delete(key)?;
        }
        Ok(is_aside)
    }

    /// Copies a file aside, byte for byte: whether it is there now. What can't be read stays where it is, and may be read another time.
    fn keep_aside(&mut self, key: &str) -> Result<bool, RepositoryError> {
        let bytes = match self.repository.backend().get(key) {
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(false),
            Err(error) if error.kind == ErrorKind::Lost => {
                self.unread.insert(key.to_owned());
                return Ok(false);
            }
            other => other?,
        };
        let aside = format!("{}/{key}", self.batch);
        self.repository.backend().put(&aside, &bytes)?;
        self.done.quarantined.push((key.to_owned(), aside));
        Ok(true)
    }

    /// Names and manifests that don't prove themselves. A name is written anew where a manifest tells it.
    fn names(&mut self, checked: &Checked) -> Result<(), RepositoryError> {
        if checked.snapshots.damaged.is_empty() {
            return Ok(());
        }
        let mut unnamed: HashMap<Stamp, Id> = HashMap::new();
        let named: HashSet<Id> = checked.snapshots.list.iter().map(|snapshot| snapshot.manifest_id).collect();
        for (path, _) in self.repository.backend().list("manifests")? {
            let Some(Key::Manifest(id)) = Key::parse(&path) else { continue };
            if named.contains(&id) {
                continue;
            }
            if let Some(manifest) = if_sound(self.repository.read_manifest(&id))? {
                unnamed.insert(manifest.stamp, id);
            }
        }
        for (file, _) in &checked.snapshots.damaged {
            match Key::parse(file) {
                Some(Key::Snapshot(stamp)) => self.name(stamp, &unnamed)?,
                // The manifest is damaged; its name leads nowhere then. Without the name nobody would need what it needs.
                Some(Key::Manifest(id)) if self.keep_aside(file)? => {
                    for (stamp, path) in self.names_of(id)? {
                        self.quarantine(&path)?;
                        self.done.lost.push(stamp);
                        self.done.actions.push(format!("snapshot {stamp} is lost: its manifest is damaged"));
                    }
                    self.repository.backend().delete(file)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn name(&mut self, stamp: Stamp, unnamed: &HashMap<Stamp, Id>) -> Result<(), RepositoryError> {
        let key = Key::Snapshot(stamp).path();
        if let Some(manifest) = unnamed.get(&stamp) {
            self.keep_aside(&key)?;
            // In one step: a manifest without a name would be taken for one that was never published.
            self.repository.backend().put(&key, format!("{manifest}\n").as_bytes())?;
            self.done
                .actions
                .push(format!("the name of snapshot {stamp} was written anew from its manifest"));
        } else if let Some((own, manifest)) = self.led_to(&key, unnamed)? {
            self.repository.backend().put(&Key::Snapshot(own).path(), format!("{manifest}\n").as_bytes())?;
            self.quarantine(&key)?;
            self.done.actions.push(format!("snapshot {own} has its name again: it was called {stamp}"));
        } else if self.quarantine(&key)? {
            self.done.lost.push(stamp);
            self.done.actions.push(format!("snapshot {stamp} is lost: no manifest tells what it held"));
        }
        Ok(())
    }

    /// The snapshot whose manifest a name leads to that is another one's, if it has no other name.
    fn led_to(
        &self,
        key: &str,
        unnamed: &HashMap<Stamp, Id>,
    ) -> Result<Option<(Stamp, Id)>, RepositoryError> {
        let line = if_sound(well_read(key, self.repository.backend().get(key)))?.unwrap_or_default();
        let is_it = |manifest: &Id| line.strip_suffix(b"\n") == Some(manifest.hex().as_bytes());
        Ok(unnamed.iter().find(|(_, manifest)| is_it(manifest)).map(|(stamp, manifest)| (*stamp, *manifest)))
    }

    /// The snapshots whose names lead to a manifest, and these names.
    fn names_of(&self, manifest: Id) -> Result<Vec<(Stamp, String)>, RepositoryError> {
        let mut names = Vec::new();
        for (path, _) in self.repository.backend().list("snapshots")? {
            let Some(Key::Snapshot(stamp)) = Key::parse(&path) else { continue };
            let line = if_sound(well_read(&path, self.repository.backend().get(&path)))?;
            if line.is_some_and(|line| line.starts_with(manifest.hex().as_bytes())) {
                names.push((stamp, path));
            }
        }
        Ok(names)
    }

    /// What couldn't be read, and still can't, stays where it is. What was put in its place can.
    fn tell_unread(&mut self) -> Result<(), RepositoryError> {
        for key in std::mem::take(&mut self.unread) {
            let Err(error) = self.repository.backend().get(&key) else { continue };
            let mut by_hand = vec![key.clone()];
            if let Some(Key::Manifest(id)) = Key::parse(&key) {
                by_hand.extend(self.names_of(id)?.into_iter().map(|(_, path)| path));
            }
            self.done.actions.push(format!(
                "{key} stays where it is: {error}. If it can never be read again, remove {} by hand, and repair once more",
                by_hand.join(" and ")
            ));
        }
        Ok(())
    }

    /// Proofs, lists of what is condemned, and manifests without a name that don't prove themselves.
    fn small_files(&mut self) -> Result<(), RepositoryError> {
        for directory in ["proofs", "doomed", "manifests"] {
            for (path, _) in self.repository.backend().list(directory)? {
                let Some(key) = Key::parse(&path) else { continue };
                if !is_sound(self.repository, &key)? {
                    self.quarantine(&path)?;
                }
            }
        }
        Ok(())
    }

    /// What reads well in damaged packs goes to new ones.
    fn packs(&mut self, checked: &Checked) -> Result<(), RepositoryError> {
        let damaged = &checked.found.damaged;
        if damaged.is_empty() {
            return Ok(());
        }
        let listed = self.listed(damaged)?;
        // All of them go: what two of them hold is nowhere else.
        let going: HashSet<Id> = damaged.iter().copied().collect();
        let aside = damaged.iter().map(|pack| self.keep_aside(&Key::Pack(*pack).path()));
        let aside: Vec<bool> = aside.collect::<Result<_, _>>()?;
        let writer = ChunkWriter::new(self.repository, Trust::Index);
        for (pack, is_aside) in damaged.iter().zip(aside) {
            let before = self.done.salvaged_chunks;
            // What a trailer says may be what is damaged: what the index says of a place is tried too.
            let mut places: BTreeMap<u64, (Option<ChunkRecord>, Option<&ListedChunk>)> = BTreeMap::new();
            let mut kind = None;
            if let Some(listed) = listed.get(pack) {
                kind = Some(listed.kind);
                for (offset, chunk) in listed.places() {
                    places.entry(offset).or_default().1 = Some(chunk);
                }
            }
            match self.repository.read_trailer(*pack) {
                Ok(trailer) => {
                    kind = Some(trailer.kind);
                    let mut offset = Pack::FIRST_OFFSET;
                    for record in trailer.records {
                        let next = offset + u64::from(record.stored_len);
                        places.entry(offset).or_default().0 = Some(record);
                        offset = next;
                    }
                }
                Err(RepositoryError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
            for (offset, (record, chunk)) in places {
                self.salvage(
                    &writer,
                    (*pack, kind.unwrap_or(PackKind::Data)),
                    offset,
                    record,
                    chunk,
                    &going,
                )?;
            }
            let saved = self.done.salvaged_chunks - before;
            let then = if is_aside { ", and it was put aside" } else { "" };
            self.done.actions.push(format!(
                "pack {pack} is damaged: {saved} chunk(s) that are nowhere else were saved{then}"
            ));
        }
        let written = writer.finish(self.progress)?.packs;
        // A pack of which everything was saved, in order, is itself again, under its name.
        for pack in damaged.iter().filter(|pack| !written.contains(pack)) {
            let key = Key::Pack(*pack).path();
            if self.done.quarantined.iter().any(|(from, _)| *from == key) {
                self.repository.backend().delete(&key)?;
            }
        }
        Ok(())
    }

    /// What index files list of packs.
    fn listed(&self, packs: &[Id]) -> Result<HashMap<Id, ListedPack>, RepositoryError> {
        let index = self.repository.index()?;
        let mut listed = HashMap::new();
        for (name, _) in index.files() {
            let Ok(file) = index.read_file(name)? else { continue };
            listed.extend(
                file.packs.into_iter().filter(|one| packs.contains(&one.pack)).map(|one| (one.pack, one)),
            );
        }
        Ok(listed)
    }

    /// Saves the chunk at one place, by what the trailer says of it, or else the index, if it is nowhere else.
    fn salvage(
        &mut self,
        writer: &ChunkWriter<'_>,
        (pack, kind): (Id, PackKind),
        offset: u64,
        record: Option<ChunkRecord>,
        chunk: Option<&ListedChunk>,
        going: &HashSet<Id>,
    ) -> Result<(), RepositoryError> {
        let mut found = None;
        if let Some(record) = record {
            match self.repository.read_record(pack, offset, &record) {
                Ok(stored) => found = Some((record, stored)),
                Err(RepositoryError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if let (None, Some(chunk)) = (&found, chunk) {
            match self.repository.read_listed(pack, offset, chunk) {
                Ok(read) => found = Some(read),
                Err(RepositoryError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let Some((record, stored)) = found else { return Ok(()) };
        let is_whole = !record.encoding.is_difference();
        if !self.repository.prove_copy_outside(&record.id, going, is_whole)? {
            writer.put_stored(kind, &record, &stored)?;
            self.done.salvaged_chunks += 1;
        }
        Ok(())
    }

    /// Chunks that are lost here, and that a live file still has.
    fn chunks(&mut self, checked: &Checked, replacements: &Replacements<'_>) -> Result<(), RepositoryError> {
        if checked.affected.is_empty() {
            return Ok(());
        }
        self.progress.begin("looking for lost chunks in live sources", None);
        let writer = ChunkWriter::new(self.repository, Trust::Nothing);
        let mut found: HashSet<Id> = HashSet::new();
        for affected in &checked.affected {
            let Some(snapshot) = checked.snapshots.get(affected.stamp) else { continue };
            for (at, chunk) in &affected.lost {
                if found.contains(&chunk.id) {
                    continue;
                }
                let Some(bytes) = replacements(snapshot, affected, *at, chunk.len) else { continue };
                if self.repository.naming().id_of(&bytes) == chunk.id {
                    writer.put(PackKind::Data, &bytes)?;
                    found.insert(chunk.id);
                }
            }
        }
        if !found.is_empty() {
            writer.finish(self.progress)?;
            self.done.replaced_chunks = found.len() as u64;
            self.done
                .actions
                .push(format!("{} lost chunk(s) were read from the live sources again", found.len()));
        }
        Ok(())
    }

    /// Lists packs by their trailers, each once it was read back; returns how many that were.
    fn list_anew(&self, packs: &[Id]) -> Result<usize, RepositoryError> {
        if packs.is_empty() {
            return Ok(0);
        }
        let step = format!("reading back {} pack(s) that no index file lists", packs.len());
        self.progress.begin(&step, None);
        let (repository, progress) = (self.repository, self.progress);
        let (writer, count) = (Mutex::new(IndexWriter::new(repository)), AtomicUsize::new(0));
        on_all_cores(packs.len(), |number| {
            RepositoryError::stop(progress)?;
            let Some(pack) = packs.get(number) else { return Ok(()) };
            match repository.prove_to_list(pack) {
                Ok((len, listed)) => {
                    writer.lock().unwrap_or_else(PoisonError::into_inner).add(listed)?;
                    count.fetch_add(1, Ordering::Relaxed);
                    progress.advance(len);
                    Ok(())
                }
                Err(RepositoryError::Damaged { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        })?;
        writer.into_inner().unwrap_or_else(PoisonError::into_inner).finish()?;
        Ok(count.into_inner())
    }

    /// Index files that are damaged or wrong are made anew from the trailers of packs, each of which is read back first.
    fn indexes(&mut self, checked: &Checked) -> Result<(), RepositoryError> {
        let wrong: Vec<String> = checked
            .problems
            .iter()
            .filter(|problem| matches!(Key::parse(&problem.file), Some(Key::Index(_))))
            .map(|problem| problem.file.clone())
            .collect();
        if wrong.is_empty() && checked.found.unlisted.is_empty() {
            return Ok(());
        }
        let wrong: HashSet<String> = wrong.into_iter().collect();
        let mut waiting: HashSet<Id> = HashSet::new();
        for (path, _) in self.repository.backend().list("packs")? {
            waiting.extend(
                Key::parse(&path).and_then(|key| if let Key::Pack(id) = key { Some(id) } else { None }),
            );
        }
        // What this run has written isn't in the index that was loaded; what is condemned doesn't count.
        let condemned: HashSet<Id> =
            self.repository.condemned()?.list.iter().map(|doomed| doomed.id).collect();
        for (path, _) in self.repository.backend().list("index")? {
            let Some(Key::Index(name)) = Key::parse(&path) else { continue };
            if wrong.contains(&path) || condemned.contains(&name) {
                continue;
            }
            if let Ok(file) = self.repository.index()?.read_file(&name)? {
                for pack in &file.packs {
                    waiting.remove(&pack.pack);
                }
            }
        }
        let count = self.list_anew(&waiting.into_iter().collect::<Vec<_>>())?;
        if count > 0 {
            self.done
                .actions
                .push(format!("{count} pack(s) were listed in new index files, by their trailers"));
        }
        wrong.iter().try_for_each(|file| self.quarantine(file).map(drop))
    }
}

/// Snapshots that lost data are invalid from now on; those that were whole, and were said not to be, aren't judged here.
fn mark(repository: &Repository, after: &Checked, done: &mut Repaired) -> Result<(), RepositoryError> {
    let mut by_snapshot: BTreeMap<Stamp, Vec<&Affected>> = BTreeMap::new();
    for affected in &after.affected {
        by_snapshot.entry(affected.stamp).or_default().push(affected);
    }
    for (stamp, affected) in by_snapshot {
        let Some(snapshot) = after.snapshots.get(stamp) else { continue };
        let finding = |affected: &&Affected| Finding {
            code: format!("{}_stored_data_lost", affected.source),
            severity: Severity::Error,
            source: affected.source.clone(),
            path: String::from_utf8_lossy(&affected.path).into_owned(),
            detail: if affected.is_list_lost {
                "part of its list is lost".into()
            } else {
                format!("{} chunk(s) of it are lost", affected.lost.len())
            },
        };
        let sources: HashSet<&String> = affected.iter().map(|affected| &affected.source).collect();
        let proof = ProofFile {
            stamp,
            manifest: snapshot.manifest_id,
            level: Level::Full,
            validator: 0,
            time_ns: now_nanos(),
            sources: sources.into_iter().cloned().collect(),
            findings: affected.iter().take(MOST_FINDINGS).map(finding).collect(),
        };
        repository.add_proof(&proof)?;
        done.lost.push(stamp);
    }
    Ok(())
}

/// The first of each snapshot must do.
const MOST_FINDINGS: usize = 100;
