//! The steps of a prune, in the order that makes each interruption harmless.

use super::indexes::merge;
use super::plan::{Fate, Grace, fates};
use super::rewrite::{Moved, rewrite};
use super::sound::sound_survey;
use crate::backend::ErrorKind;
use crate::format::{Doomed, DoomedKind, Key};
use crate::id::Id;
use crate::progress::Progress;
use crate::reach::{PackState, Survey};
use crate::repository::{Condemned, Repository, RepositoryError, Snapshot, Snapshots, if_sound};
use crate::stamp::{Stamp, now_nanos};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

/// How to prune.
#[derive(Debug, Clone, Copy)]
pub struct PruneOptions {
    /// How long condemned files stay; `None` deletes at once, while nobody else writes.
    pub grace: Option<Duration>,
    /// How long to wait for others.
    pub patience: Duration,
}

/// What a prune did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    pub deleted_files: u64,
    pub freed_bytes: u64,
    /// Condemned at the end: a later prune deletes it.
    pub condemned_files: u64,
    pub condemned_bytes: u64,
    /// Condemned before, and needed again.
    pub pardoned_files: u64,
    /// To be deleted, but their place keeps them: retention of an object store, or no right to delete.
    pub held_files: u64,
    pub rewritten_packs: u64,
    pub moved_bytes: u64,
    pub warnings: Vec<String>,
}

/// What a prune would do if these snapshots were all; nothing is changed.
pub fn preview(
    repository: &Repository,
    staying: &[&Snapshot],
    grace: Option<Duration>,
    progress: &dyn Progress,
) -> Result<Pruned, RepositoryError> {
    let mut snapshots = repository.snapshots()?;
    let caution = caution(repository, &mut snapshots, grace, &|| repository.has_users())?;
    let condemned = repository.condemned()?;
    let survey = sound_survey(repository, staying, &condemned, progress)?;
    let mut pruned = Pruned::default();
    for (pack, fate) in survey.packs.iter().zip(caution.fates(&survey.packs, now_nanos())) {
        match fate {
            Fate::Stays => {}
            Fate::Pardoned => pruned.pardoned_files += 1,
            Fate::Deleted => {
                pruned.deleted_files += 1;
                pruned.freed_bytes += pack.size;
            }
            Fate::Doomed => {
                pruned.condemned_files += 1;
                pruned.condemned_bytes += pack.size;
            }
            Fate::Rewritten => {
                pruned.rewritten_packs += 1;
                pruned.moved_bytes += pack.live;
                pruned.condemned_files += 1;
                pruned.condemned_bytes += pack.size - pack.live;
            }
        }
    }
    Ok(pruned)
}

/// Forgets these snapshots, and frees what no other reaches. Interrupted anywhere, nothing is lost, and the next prune goes on. What
/// was forgotten is told as it goes. Nothing is, unless everything that stays can be followed.
///
/// First goes what was condemned long enough ago and is still not needed, then what is needed moves out of packs that are mostly
/// garbage, then what is garbage now is condemned. Before a pack is deleted each needed chunk in it was read elsewhere.
pub fn prune(
    repository: &Repository,
    options: &PruneOptions,
    going: &HashSet<Stamp>,
    forgotten: &mut Vec<Stamp>,
    progress: &dyn Progress,
) -> Result<Pruned, RepositoryError> {
    // What is deleted because it is there twice must be there twice.
    repository.backend().read_anew();
    let _alone = repository.lock("prune", options.patience)?;
    let _no_others =
        options.grace.is_none().then(|| repository.lock_out_others(options.patience)).transpose()?;
    let is_in_use = || Ok(options.grace.is_some() && repository.has_users()?);
    // A run that isn't published yet has packs that nobody needs so far.
    let was_in_use = is_in_use()?;
    let mut snapshots = repository.snapshots()?;
    let mut caution = caution(repository, &mut snapshots, options.grace, &is_in_use)?;
    caution.is_in_use |= was_in_use;
    let mut pruned = Pruned { warnings: caution.warnings(), ..Pruned::default() };
    let condemned = repository.condemned()?;
    let stays = |snapshot: &&Snapshot| !going.contains(&snapshot.stamp) || snapshot.pinned;
    let staying: Vec<&Snapshot> = snapshots.list.iter().filter(stays).collect();
    let mut survey = sound_survey(repository, &staying, &condemned, progress)?;
    let mut held = HashSet::new();
    for snapshot in snapshots.list.iter().filter(|snapshot| !stays(snapshot)) {
        match repository.forget(snapshot) {
            Ok(()) => forgotten.push(snapshot.stamp),
            Err(RepositoryError::Backend(error)) if error.kind == ErrorKind::Held => {
                held.insert(snapshot.stamp);
            }
            Err(error) => return Err(error),
        }
    }
    snapshots.list.retain(|snapshot| stays(&snapshot) || held.contains(&snapshot.stamp));
    if !held.is_empty() {
        // They are there still, and so must be what they need.
        pruned.held_files += held.len() as u64;
        let staying: Vec<&Snapshot> = snapshots.list.iter().collect();
        survey = sound_survey(repository, &staying, &condemned, progress)?;
    }
    let run = Run { repository, survey: &survey, caution, now_ns: now_nanos(), progress };
    run.carry_out(&snapshots, &condemned, &mut pruned)?;
    if pruned.held_files > 0 {
        pruned.warnings.push(format!(
            "{} file(s) could not be deleted yet: the store keeps them (retention, or no right to delete); a later prune tries again",
            pruned.held_files
        ));
    }
    Ok(pruned)
}

/// What keeps a prune from freeing all that it might.
struct Caution {
    grace: Grace,
    /// Somebody may be about to publish: nothing new is condemned.
    is_in_use: bool,
    /// What it needs isn't known yet.
    arriving: Option<Stamp>,
    /// There are no others.
    is_first: bool,
}

impl Caution {
    fn fates(&self, packs: &[PackState], now_ns: i64) -> Vec<Fate> {
        let mut fates = fates(packs, self.grace, now_ns);
        for (pack, fate) in packs.iter().zip(&mut fates) {
            if self.is_in_use && *fate == Fate::Doomed && pack.doomed_since.is_none() {
                *fate = Fate::Stays;
            }
        }
        fates
    }

    fn warnings(&self) -> Vec<String> {
        let arriving = self.arriving.map(|stamp| {
            let except = if self.is_first { "" } else { " that was not condemned before" };
            format!(
                "snapshot {stamp} is still arriving: what it needs isn't known, so nothing is deleted{except}"
            )
        });
        let used =
            "another run is using the repository: what nobody needs so far is condemned by a later prune";
        arriving.into_iter().chain(self.is_in_use.then(|| used.to_owned())).collect()
    }
}

/// Looks at what names say, and reads them again where that is called for. What a damaged name hides may be needed, which is an error.
fn caution(
    repository: &Repository,
    snapshots: &mut Snapshots,
    grace: Option<Duration>,
    is_in_use: &dyn Fn() -> Result<bool, RepositoryError>,
) -> Result<Caution, RepositoryError> {
    let grace = grace.map_or(Grace::Now, Grace::For);
    let mut caution = Caution { grace, is_in_use: false, arriving: None, is_first: false };
    if snapshots.is_empty()
        && let Some((path, stamp)) = any_manifest(repository)?
    {
        // A first snapshot's manifest is there before its name: its run is there too, or has given it the name meanwhile.
        caution.is_in_use = is_in_use()?;
        *snapshots = repository.snapshots()?;
        if snapshots.is_empty() {
            if !caution.is_in_use {
                // A directory that is empty by mistake must not cost everything.
                let detail = format!("it names nothing, but there is {path}");
                return Err(RepositoryError::damaged("snapshots", detail));
            }
            // What was condemned may be needed too.
            let grace = Grace::For(Duration::MAX);
            return Ok(Caution { grace, arriving: Some(stamp), is_first: true, ..caution });
        }
    }
    if let Some((file, detail)) = snapshots.damaged.first() {
        return Err(RepositoryError::damaged(
            file,
            format!("it hides a snapshot, and what that needs: {detail}"),
        ));
    }
    caution.arriving = snapshots.arriving.first().copied();
    if caution.arriving.is_some() && grace == Grace::Now {
        caution.grace = Grace::For(Duration::MAX);
    }
    Ok(caution)
}

/// A manifest that can be read.
fn any_manifest(repository: &Repository) -> Result<Option<(String, Stamp)>, RepositoryError> {
    for (path, _) in repository.backend().list("manifests")? {
        let Some(Key::Manifest(id)) = Key::parse(&path) else { continue };
        if let Some(manifest) = if_sound(repository.read_manifest(&id))? {
            return Ok(Some((path, manifest.stamp)));
        }
    }
    Ok(None)
}

struct Run<'a> {
    repository: &'a Repository,
    survey: &'a Survey,
    caution: Caution,
    now_ns: i64,
    progress: &'a dyn Progress,
}

impl Run<'_> {
    fn carry_out(
        &self,
        snapshots: &Snapshots,
        condemned: &Condemned,
        pruned: &mut Pruned,
    ) -> Result<(), RepositoryError> {
        let fates = self.caution.fates(&self.survey.packs, self.now_ns);
        let of_fate = |wanted: Fate| {
            let packs = self.survey.packs.iter().zip(&fates).filter(move |(_, fate)| **fate == wanted);
            packs.map(|(pack, _)| pack.id).collect::<Vec<Id>>()
        };
        pruned.pardoned_files = of_fate(Fate::Pardoned).len() as u64;
        let mut list: BTreeMap<(DoomedKind, Id), i64> = BTreeMap::new();
        let index = self.repository.index()?;
        for doomed in &condemned.list {
            if doomed.kind != DoomedKind::Pack || index.has_pack(&doomed.id) {
                list.insert((doomed.kind, doomed.id), doomed.since_ns);
            }
        }
        for pack in of_fate(Fate::Pardoned) {
            list.remove(&(DoomedKind::Pack, pack));
        }
        // What is deleted frees room for what is written.
        self.delete_packs(&of_fate(Fate::Deleted), &mut list, pruned)?;
        let moved = rewrite(self.repository, self.survey, &of_fate(Fate::Rewritten), self.progress)?;
        self.tell(&moved, pruned);
        let doomed = of_fate(Fate::Doomed).into_iter().chain(moved.emptied.iter().copied());
        for pack in doomed {
            list.entry((DoomedKind::Pack, pack)).or_insert(self.now_ns);
        }
        self.orphans(snapshots, &mut list)?;
        let mut told: BTreeSet<Doomed> = condemned.list.iter().copied().collect();
        self.condemn(&mut told, &mut list)?;
        if self.caution.grace == Grace::Now {
            let emptied: Vec<Id> = moved.emptied.into_iter().collect();
            self.delete_packs(&emptied, &mut list, pruned)?;
        }
        for index in merge(self.repository)? {
            list.entry((DoomedKind::Index, index)).or_insert(self.now_ns);
        }
        self.condemn(&mut told, &mut list)?;
        self.delete_others(&mut list, pruned)?;
        self.remove_proofs(snapshots, pruned)?;
        self.condemn(&mut told, &mut list)?;
        pruned.condemned_files = list.len() as u64;
        let sizes: HashMap<Id, u64> = self.survey.packs.iter().map(|pack| (pack.id, pack.size)).collect();
        pruned.condemned_bytes = list.keys().filter_map(|(_, id)| sizes.get(id)).sum();
        Ok(())
    }

    fn tell(&self, moved: &Moved, pruned: &mut Pruned) {
        pruned.rewritten_packs = moved.emptied.len() as u64;
        pruned.moved_bytes = moved.written.stored_bytes;
        let left = moved.left.iter();
        pruned.warnings.extend(left.map(|(_, why)| {
            format!("{why}; the pack is left as it is (`icecore check --read-data` tells what it concerns)")
        }));
        if moved.is_short_of_space {
            pruned.warnings.push(
                "there is no room to put packs together; what is garbage as a whole goes all the same".into(),
            );
        }
    }

    /// Condemns what is listed, and what somebody else has condemned since this run looked: a pack that didn't read back. `told`:
    /// what this run has seen or condemned.
    fn condemn(
        &self,
        told: &mut BTreeSet<Doomed>,
        list: &mut BTreeMap<(DoomedKind, Id), i64>,
    ) -> Result<(), RepositoryError> {
        let before = self.repository.condemned()?;
        for doomed in before.list.iter().filter(|doomed| !told.contains(doomed)) {
            list.insert((doomed.kind, doomed.id), doomed.since_ns);
        }
        let list =
            list.iter().map(|((kind, id), since_ns)| Doomed { kind: *kind, id: *id, since_ns: *since_ns });
        let list: Vec<Doomed> = list.collect();
        told.extend(&list);
        self.repository.condemn(&before, list)
    }

    /// Deletes packs of which nothing is needed that isn't elsewhere too. They stay condemned until they are gone.
    fn delete_packs(
        &self,
        packs: &[Id],
        list: &mut BTreeMap<(DoomedKind, Id), i64>,
        pruned: &mut Pruned,
    ) -> Result<(), RepositoryError> {
        let going: HashSet<Id> = packs.iter().copied().collect();
        for pack in packs {
            RepositoryError::stop(self.progress)?;
            if let Some(needed) = self.needed_in(*pack, &going)? {
                list.remove(&(DoomedKind::Pack, *pack));
                pruned.pardoned_files += 1;
                pruned.warnings.push(format!("pack {pack} stays: {needed}"));
                continue;
            }
            let size = self.repository.backend().size(&Key::Pack(*pack).path()).unwrap_or(0);
            if !self.is_deleted(&Key::Pack(*pack).path(), pruned)? {
                continue;
            }
            list.remove(&(DoomedKind::Pack, *pack));
            pruned.deleted_files += 1;
            pruned.freed_bytes += size;
        }
        if !packs.is_empty() {
            self.repository.index()?.refresh()?;
        }
        Ok(())
    }

    /// False where its place keeps a file.
    fn is_deleted(&self, key: &str, pruned: &mut Pruned) -> Result<bool, RepositoryError> {
        match self.repository.backend().delete(key) {
            Err(error) if error.kind == ErrorKind::Held => {
                pruned.held_files += 1;
                Ok(false)
            }
            other => other.map(|()| true).map_err(RepositoryError::from),
        }
    }

    /// A needed chunk of which no other copy reads well.
    fn needed_in(&self, pack: Id, going: &HashSet<Id>) -> Result<Option<String>, RepositoryError> {
        let trailer = match self.repository.read_trailer(pack) {
            Err(RepositoryError::Damaged { detail, .. }) => {
                return Ok(Some(format!("it is damaged: {detail}")));
            }
            Err(RepositoryError::Backend(error)) if error.kind == ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        for record in trailer.records.iter().filter(|record| self.survey.is_reached(record.id.prefix())) {
            let is_whole = !record.encoding.is_difference();
            if !self.repository.prove_copy_outside(&record.id, going, is_whole)? {
                return Ok(Some(format!("no other copy of chunk {} reads well", record.id)));
            }
        }
        Ok(None)
    }

    /// Manifests without a name: a run that is about to publish has one, and one that was killed leaves it.
    fn orphans(
        &self,
        snapshots: &Snapshots,
        list: &mut BTreeMap<(DoomedKind, Id), i64>,
    ) -> Result<(), RepositoryError> {
        let named: HashSet<Id> = snapshots.list.iter().map(|snapshot| snapshot.manifest_id).collect();
        let mut there = HashSet::new();
        for (path, _) in self.repository.backend().list("manifests")? {
            let Some(Key::Manifest(id)) = Key::parse(&path) else { continue };
            there.insert(id);
            if named.contains(&id) {
                list.remove(&(DoomedKind::Manifest, id));
            } else {
                list.entry((DoomedKind::Manifest, id)).or_insert(self.now_ns);
            }
        }
        list.retain(|(kind, id), _| *kind != DoomedKind::Manifest || there.contains(id));
        Ok(())
    }

    /// Index files that others stand in for, and manifests without a name.
    fn delete_others(
        &self,
        list: &mut BTreeMap<(DoomedKind, Id), i64>,
        pruned: &mut Pruned,
    ) -> Result<(), RepositoryError> {
        let over: Vec<Doomed> = list
            .iter()
            .map(|((kind, id), since_ns)| Doomed { kind: *kind, id: *id, since_ns: *since_ns })
            .filter(|doomed| doomed.kind != DoomedKind::Pack)
            .filter(|doomed| self.caution.grace.is_over(doomed.since_ns, self.now_ns))
            .collect();
        for doomed in over {
            // Published meanwhile.
            if doomed.kind == DoomedKind::Manifest && self.has_name(doomed.id)? {
                list.remove(&(doomed.kind, doomed.id));
                continue;
            }
            let key = doomed.key().path();
            let size = self.repository.backend().size(&key).unwrap_or(0);
            if !self.is_deleted(&key, pruned)? {
                continue;
            }
            list.remove(&(doomed.kind, doomed.id));
            pruned.deleted_files += 1;
            pruned.freed_bytes += size;
        }
        Ok(())
    }

    fn has_name(&self, manifest: Id) -> Result<bool, RepositoryError> {
        let Some(manifest) = if_sound(self.repository.read_manifest(&manifest))? else { return Ok(false) };
        Ok(self.repository.backend().has(&Key::Snapshot(manifest.stamp).path())?)
    }

    /// Results about snapshots that are no more.
    fn remove_proofs(&self, snapshots: &Snapshots, pruned: &mut Pruned) -> Result<(), RepositoryError> {
        if !snapshots.arriving.is_empty() {
            return Ok(());
        }
        let named: HashSet<Id> = snapshots.list.iter().map(|snapshot| snapshot.manifest_id).collect();
        for (id, proof) in self.repository.proof_files()? {
            let key = Key::Manifest(proof.manifest).path();
            if !named.contains(&proof.manifest) && !self.repository.backend().has(&key)? {
                self.is_deleted(&Key::Proof(id).path(), pruned)?;
            }
        }
        Ok(())
    }
}
