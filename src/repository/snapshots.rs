//! The snapshots of a repository: names, manifests, pins and proofs.

use super::error::{RepositoryError, if_sound, well_read};
use super::open::Repository;
use crate::backend::ErrorKind;
use crate::crypto::SealedFile;
use crate::format::{DoomedFile, Finding, Key, Level, Manifest, ProofFile};
use crate::id::Id;
use crate::stamp::Stamp;
use std::collections::{HashMap, HashSet};

/// A published snapshot.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub stamp: Stamp,
    pub manifest_id: Id,
    pub manifest: Manifest,
    pub pinned: bool,
    /// The validation after publication that decides, if there was one.
    pub later_proof: Option<ProofFile>,
}

impl Snapshot {
    /// As far as is known: the newest later validation decides, else the proof that it was published with.
    pub fn is_valid(&self) -> bool {
        self.later_proof.as_ref().map_or_else(|| self.manifest.is_valid(), ProofFile::is_valid)
    }

    /// What it holds of a source was proven in full, by checks of this version.
    pub fn is_proven_in_full(&self, source: &str, validator: u32) -> bool {
        let at_publication = self.manifest.source(source).and_then(|record| record.proof.as_ref());
        let afterwards = self.later_proof.as_ref();
        self.is_valid()
            && (at_publication.is_some_and(|proof| proof.is_full(validator))
                || afterwards.is_some_and(|proof| proof.is_full_of(source, validator)))
    }

    /// A validation after its publication found it bad, and none has taken that back.
    pub fn was_found_bad(&self) -> bool {
        self.later_proof.as_ref().is_some_and(|proof| !proof.is_valid())
    }

    /// It was found bad, and it is the repository that has damaged or lost part of it.
    pub fn has_lost_data(&self) -> bool {
        let findings = self.later_proof.iter().flat_map(|proof| &proof.findings);
        self.was_found_bad() && findings.into_iter().any(Finding::is_about_stored_data)
    }
}

/// The snapshots of a repository, ascending by stamp, and what was skipped.
#[derive(Debug, Clone, Default)]
pub struct Snapshots {
    pub list: Vec<Snapshot>,
    /// Names whose manifest isn't there (yet).
    pub arriving: Vec<Stamp>,
    /// Files that are damaged, with what is wrong: they hide a snapshot.
    pub damaged: Vec<(String, String)>,
}

impl Snapshots {
    /// There is no name, neither a good one nor another.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty() && self.arriving.is_empty() && self.damaged.is_empty()
    }

    /// The snapshot of that stamp.
    pub fn get(&self, stamp: Stamp) -> Option<&Snapshot> {
        self.list.iter().find(|snapshot| snapshot.stamp == stamp)
    }
}

/// So many snapshots are read first, and so many at a time after that.
const FEW: usize = 4;
const MANY: usize = 128;

/// Of later validations the one that decides: the newest, but a quick one that found nothing says nothing against what a
/// full one found.
fn deciding(mut proofs: Vec<&ProofFile>) -> Option<&ProofFile> {
    proofs.sort_by_key(|proof| proof.time_ns);
    proofs.into_iter().fold(None, |before: Option<&ProofFile>, proof| match before {
        Some(before) if before.level == Level::Full && proof.level == Level::Quick && proof.is_valid() => {
            Some(before)
        }
        _ => Some(proof),
    })
}

impl Repository {
    /// Reads every snapshot. A name without its manifest is still arriving; a damaged one is told apart.
    pub fn snapshots(&self) -> Result<Snapshots, RepositoryError> {
        self.latest_snapshots(&mut |_| false)
    }

    /// As `snapshots`, but from the newest back until one is `enough`, and, whatever their age, those that a validation found bad.
    pub fn latest_snapshots(
        &self,
        enough: &mut dyn FnMut(&Snapshot) -> bool,
    ) -> Result<Snapshots, RepositoryError> {
        let pins: HashSet<Stamp> =
            self.keys("pins", |key| if let Key::Pin(stamp) = key { Some(stamp) } else { None })?;
        let mut stamps: Vec<Stamp> =
            self.keys("snapshots", |key| if let Key::Snapshot(stamp) = key { Some(stamp) } else { None })?;
        stamps.sort_unstable();
        stamps.reverse();
        let mut proofs: HashMap<Id, Vec<ProofFile>> = HashMap::new();
        for (_, proof) in self.proof_files()? {
            proofs.entry(proof.manifest).or_default().push(proof);
        }
        let mut found = Snapshots::default();
        let bad = proofs.values().flatten().filter(|proof| !proof.is_valid());
        let bad: HashSet<Stamp> = bad.map(|proof| proof.stamp).collect();
        let mut is_enough = false;
        // The newest by themselves: they are enough for most.
        let (newest, rest) = stamps.split_at(stamps.len().min(FEW));
        for some in std::iter::once(newest).chain(rest.chunks(MANY)) {
            let wanted: Vec<Stamp> =
                some.iter().copied().filter(|stamp| !is_enough || bad.contains(stamp)).collect();
            let read = self.at_once("snapshots", &wanted, |stamp| self.read_snapshot(*stamp));
            for (stamp, read) in wanted.into_iter().zip(read) {
                if is_enough && !bad.contains(&stamp) {
                    continue;
                }
                match read {
                    Ok((manifest_id, manifest)) => {
                        let later_proof =
                            proofs.get(&manifest_id).and_then(|own| deciding(own.iter().collect())).cloned();
                        let pinned = pins.contains(&stamp);
                        let snapshot = Snapshot { stamp, manifest_id, manifest, pinned, later_proof };
                        is_enough |= enough(&snapshot);
                        found.list.push(snapshot);
                    }
                    Err(RepositoryError::NoSnapshot { .. }) => found.arriving.push(stamp),
                    Err(RepositoryError::Damaged { file, detail }) => found.damaged.push((file, detail)),
                    Err(error) => return Err(error),
                }
            }
        }
        found.list.reverse();
        found.arriving.reverse();
        self.tell_damaged_names(&mut found)?;
        Ok(found)
    }

    /// A name that leads nowhere, though there is a manifest that says that the name is its own, isn't still arriving.
    fn tell_damaged_names(&self, found: &mut Snapshots) -> Result<(), RepositoryError> {
        if found.arriving.is_empty() {
            return Ok(());
        }
        let named: HashSet<Id> = found.list.iter().map(|snapshot| snapshot.manifest_id).collect();
        let manifests: Vec<Id> =
            self.keys("manifests", |key| if let Key::Manifest(id) = key { Some(id) } else { None })?;
        for id in manifests.iter().filter(|id| !named.contains(*id)) {
            let Some(manifest) = if_sound(self.read_manifest(id))? else { continue };
            let Some(place) = found.arriving.iter().position(|stamp| *stamp == manifest.stamp) else {
                continue;
            };
            // It may have arrived just now.
            if let Err(RepositoryError::NoSnapshot { .. }) = self.read_snapshot(manifest.stamp) {
                found.arriving.remove(place);
                let detail = format!("it leads to no manifest, but manifests/{id} belongs to it");
                found.damaged.push((Key::Snapshot(manifest.stamp).path(), detail));
            }
        }
        Ok(())
    }

    fn keys<T, C: FromIterator<T>>(
        &self,
        directory: &str,
        pick: impl Fn(Key) -> Option<T>,
    ) -> Result<C, RepositoryError> {
        let listed = self.backend().list(directory)?;
        Ok(listed.iter().filter_map(|(path, _)| pick(Key::parse(path)?)).collect())
    }

    fn read_snapshot(&self, stamp: Stamp) -> Result<(Id, Manifest), RepositoryError> {
        let name = Key::Snapshot(stamp).path();
        let absent = || RepositoryError::NoSnapshot { stamp };
        let line = match self.backend().get(&name) {
            Err(error) if error.kind == ErrorKind::NotFound => return Err(absent()),
            other => well_read(&name, other)?,
        };
        let hex = std::str::from_utf8(&line).ok().and_then(|text| text.strip_suffix('\n'));
        let manifest_id = hex
            .and_then(Id::from_hex)
            .ok_or_else(|| RepositoryError::damaged(&name, "it is not one line of 64 hex digits"))?;
        let manifest = match self.read_manifest(&manifest_id) {
            Err(RepositoryError::Backend(error)) if error.kind == ErrorKind::NotFound => return Err(absent()),
            other => other?,
        };
        if manifest.stamp != stamp {
            let detail = format!("it names the manifest of {}", manifest.stamp);
            return Err(RepositoryError::damaged(name, detail));
        }
        Ok((manifest_id, manifest))
    }

    /// Reads a manifest by its id and proves it: its name, its format, its repository.
    pub fn read_manifest(&self, id: &Id) -> Result<Manifest, RepositoryError> {
        let key = Key::Manifest(*id).path();
        let bytes = well_read(&key, self.backend().get(&key))?;
        if Id::of(&bytes) != *id {
            return Err(RepositoryError::damaged(key, "its content does not match its name"));
        }
        let bytes = self.open_file(SealedFile::Manifest, &Key::Manifest(*id), bytes)?;
        let manifest = Manifest::decode(&bytes).map_err(|error| RepositoryError::damaged(&key, error))?;
        if manifest.repository == self.id() {
            Ok(manifest)
        } else {
            Err(RepositoryError::damaged(key, "it belongs to another repository"))
        }
    }

    /// Publishes a manifest under its stamp, or, where that is taken, the next free second. When this returns the
    /// snapshot exists and is durable. Chunks and index must be durable already.
    pub fn publish(&self, manifest: &mut Manifest) -> Result<Id, RepositoryError> {
        loop {
            while self.backend().size(&Key::Snapshot(manifest.stamp).path()).is_ok() {
                manifest.stamp = manifest.stamp.next();
            }
            let bytes = self.seal_file(SealedFile::Manifest, manifest.encode())?;
            let id = Id::of(&bytes);
            let key = Key::Manifest(id).path();
            self.backend().put(&key, &bytes)?;
            if self.backend().get_anew(&key)? != bytes {
                return Err(RepositoryError::damaged(key, "it does not read back as written"));
            }
            let name = Key::Snapshot(manifest.stamp).path();
            match self.backend().put_new(&name, format!("{id}\n").as_bytes()) {
                Ok(()) => return Ok(id),
                Err(error) if error.kind == ErrorKind::Exists => {
                    // A store may have made it, and have lost the answer.
                    if self.backend().get_anew(&name)? == format!("{id}\n").as_bytes() {
                        return Ok(id);
                    }
                    // Where it can't be deleted it stays, without a name.
                    drop(self.backend().delete(&key));
                    manifest.stamp = manifest.stamp.next();
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Removes a snapshot's name, then its manifest. Its chunks stay until they are pruned.
    pub fn forget(&self, snapshot: &Snapshot) -> Result<(), RepositoryError> {
        self.backend().delete(&Key::Snapshot(snapshot.stamp).path())?;
        for key in [Key::Manifest(snapshot.manifest_id), Key::Pin(snapshot.stamp)] {
            match self.backend().delete(&key.path()) {
                // Without its name it is garbage, which a prune deletes once it can.
                Err(error) if error.kind == ErrorKind::Held => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Keeps a snapshot whatever the retention policy says, or no longer.
    pub fn set_pinned(&self, stamp: Stamp, pinned: bool) -> Result<(), RepositoryError> {
        let key = Key::Pin(stamp).path();
        if pinned {
            self.backend().put(&key, b"")?
        } else {
            self.backend().delete(&key)?
        }
        Ok(())
    }

    /// All proof files that read well; a damaged one proves nothing and is left aside.
    pub fn proof_files(&self) -> Result<Vec<(Id, ProofFile)>, RepositoryError> {
        let ids: Vec<Id> =
            self.keys("proofs", |key| if let Key::Proof(id) = key { Some(id) } else { None })?;
        let decoded = |id: Id, bytes: Vec<u8>| {
            (Id::of(&bytes) == id).then_some(())?;
            let bytes = self.open_file(SealedFile::Proof, &Key::Proof(id), bytes).ok()?;
            Some((id, ProofFile::decode(&bytes).ok()?))
        };
        let read = self.at_once("proofs", &ids, |id| {
            let key = Key::Proof(*id).path();
            let bytes = if_sound(well_read(&key, self.backend().get(&key)))?;
            Ok(bytes.and_then(|bytes| decoded(*id, bytes)))
        });
        read.into_iter().filter_map(Result::transpose).collect()
    }

    /// Records the result of a later validation.
    pub fn add_proof(&self, proof: &ProofFile) -> Result<(), RepositoryError> {
        let bytes = self.seal_file(SealedFile::Proof, proof.encode())?;
        Ok(self.backend().put(&Key::Proof(Id::of(&bytes)).path(), &bytes)?)
    }

    /// These bytes are the file of that name, and a small one can be opened and decoded.
    pub fn proves_itself(&self, key: &Key, bytes: Vec<u8>) -> bool {
        let what = match key {
            Key::Manifest(_) => SealedFile::Manifest,
            Key::Proof(_) => SealedFile::Proof,
            Key::Doomed(_) => SealedFile::Doomed,
            _ => return key.proves(&bytes),
        };
        let opened = key.proves(&bytes).then(|| self.open_file(what, key, bytes).ok()).flatten();
        opened.is_some_and(|bytes| match what {
            SealedFile::Manifest => Manifest::decode(&bytes).is_ok(),
            SealedFile::Proof => ProofFile::decode(&bytes).is_ok(),
            _ => DoomedFile::decode(&bytes).is_ok(),
        })
    }
}
