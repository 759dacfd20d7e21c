//! A file system in memory that remembers every call, and tells what a power cut at any moment could have left of it.

use icecore::backend::{Disk, DiskFile, DiskItem, DiskLock};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

type Bytes = Arc<Vec<u8>>;

/// So many of the newest things that weren't synced are lost one at a time.
const NEWEST: usize = 12;

/// One call that changes something.
#[derive(Debug, Clone)]
enum Call {
    MakeDirectory(PathBuf),
    SyncDirectory(PathBuf),
    Create(PathBuf),
    Write(usize, Bytes),
    SyncFile(usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

/// Directories and files with their bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    directories: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, Bytes>,
}

impl Tree {
    /// Tells it from others, but for the files in a directory of temporaries.
    pub fn digest(&self, temporaries: &Path) -> icecore::id::Id {
        let mut text = format!("{:?}", self.directories);
        for (path, bytes) in self.files.iter().filter(|(path, _)| !path.starts_with(temporaries)) {
            text.push_str(&format!("{path:?} {}", icecore::id::Id::of(bytes)));
        }
        icecore::id::Id::of(text.as_bytes())
    }

    /// Flips a bit in the middle of the first file for which this is said.
    pub fn damage(&mut self, of: impl Fn(&Path) -> bool) {
        let (_, bytes) = self.files.iter_mut().find(|(path, _)| of(path)).unwrap();
        let mut changed = bytes.to_vec();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        *bytes = Arc::new(changed);
    }
}

#[derive(Default)]
struct State {
    directories: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, usize>,
    contents: Vec<Bytes>,
    calls: Vec<Call>,
    begun_with: Tree,
    /// Calls that fail from the one with this number on.
    fails_from: Option<usize>,
    /// Packs in the order in which they got their names, or were to get them.
    packs: Vec<PathBuf>,
    /// One of them goes wrong.
    spoilt: Option<(usize, Spoilt)>,
    /// What was read from the device, or is asked for.
    read_anew: BTreeSet<PathBuf>,
    /// Who reads from the device waits.
    is_shut: bool,
}

/// What goes wrong with a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoilt {
    /// It can't get its name; everything else goes on.
    Name,
    /// A bit of what is read back of it is another.
    Content,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct FaultDisk(Arc<Mutex<State>>);

impl FaultDisk {
    /// A disk with this on it, durably.
    pub fn with(tree: &Tree) -> Self {
        let mut state = State { begun_with: tree.clone(), ..State::default() };
        state.directories.clone_from(&tree.directories);
        for (path, bytes) in &tree.files {
            state.names.insert(path.clone(), state.contents.len());
            state.contents.push(Arc::clone(bytes));
        }
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// How many calls there were so far.
    pub fn calls(&self) -> usize {
        self.state().calls.len()
    }

    /// What is there, if everything reached the disk.
    pub fn tree(&self) -> Tree {
        let state = self.state();
        let files = state.names.iter().map(|(path, file)| (path.clone(), Arc::clone(&state.contents[*file])));
        Tree { directories: state.directories.clone(), files: files.collect() }
    }

    /// From that call on none succeeds.
    pub fn fail_from(&self, call: usize) {
        self.state().fails_from = Some(call);
    }

    /// What a power cut behind the first `calls` calls could have left: everything, only what was synced, all but one thing that
    /// wasn't synced, and some at random.
    pub fn after_a_cut(&self, calls: usize, seeds: u64) -> Vec<Tree> {
        let state = self.state();
        let mut cut = Cut::default();
        cut.durable.directories.clone_from(&state.begun_with.directories);
        for (path, bytes) in &state.begun_with.files {
            let file = cut.files.len();
            cut.files.push(File { durable: Arc::clone(bytes), now: Arc::clone(bytes) });
            cut.names.insert(path.clone(), file);
        }
        cut.seen.clone_from(&cut.names);
        state.calls[..calls].iter().for_each(|call| cut.apply(call));
        let unsure = cut.pending.len() + cut.dirty().len();
        let mut trees = vec![cut.tree(&|_| Fate::Kept), cut.tree(&|_| Fate::Lost)];
        // What is older are names in tmp/ that were given up: nobody syncs those.
        for one in unsure.saturating_sub(NEWEST)..unsure {
            for fate in [Fate::Lost, Fate::Torn, Fate::Zeros] {
                // A name is there or it isn't.
                if one >= cut.pending.len() || fate == Fate::Lost {
                    trees.push(cut.tree(&|number| if number == one { fate } else { Fate::Kept }));
                }
            }
        }
        for seed in 0..seeds {
            let fates = [Fate::Kept, Fate::Lost, Fate::Torn, Fate::Zeros];
            let random = |number: usize| {
                let mixed = (calls as u64) << 32 | (seed << 16) | number as u64;
                fates[(icecore::id::Id::of(&mixed.to_le_bytes()).as_bytes()[0] % 4) as usize]
            };
            trees.push(cut.tree(&random));
        }
        let mut different: Vec<Tree> = Vec::new();
        for tree in trees {
            if !different.contains(&tree) {
                different.push(tree);
            }
        }
        different
    }

    /// Of the packs from now on the one with this number goes wrong; the first is 0.
    pub fn spoil(&self, pack: usize, how: Spoilt) {
        let mut state = self.state();
        state.packs.clear();
        state.spoilt = Some((pack, how));
    }

    /// Whether reads from the device wait from now on.
    pub fn shut(&self, is_shut: bool) {
        self.state().is_shut = is_shut;
    }

    /// What was read from the device.
    pub fn read_anew(&self) -> BTreeSet<PathBuf> {
        self.state().read_anew.clone()
    }

    /// The pack that was to go wrong, if it did.
    pub fn spoilt(&self) -> Option<PathBuf> {
        let state = self.state();
        state.packs.get(state.spoilt?.0).cloned()
    }

    fn call(&self, call: Call) -> io::Result<MutexGuard<'_, State>> {
        Self::call_in(self.state(), call)
    }

    fn call_in(mut state: MutexGuard<'_, State>, call: Call) -> io::Result<MutexGuard<'_, State>> {
        if state.fails_from.is_some_and(|first| state.calls.len() >= first) {
            return Err(io::Error::other("the disk is gone"));
        }
        state.calls.push(call);
        Ok(state)
    }
}

/// What becomes of something that wasn't synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Lost,
    /// A file's bytes up to some sector.
    Torn,
    /// A file's length, without its bytes.
    Zeros,
}

struct File {
    durable: Bytes,
    now: Bytes,
}

/// A change of a name that wasn't synced: the file that it leads to then, or none; or a new directory.
enum Change {
    Directory,
    Name(Option<usize>),
}

#[derive(Default)]
struct Cut {
    durable: Tree,
    names: BTreeMap<PathBuf, usize>,
    /// As names are for whoever looks.
    seen: BTreeMap<PathBuf, usize>,
    files: Vec<File>,
    pending: Vec<(PathBuf, Change)>,
}

impl Cut {
    fn apply(&mut self, call: &Call) {
        match call {
            Call::MakeDirectory(path) => self.pending.push((path.clone(), Change::Directory)),
            Call::SyncDirectory(path) => {
                let (synced, rest) = std::mem::take(&mut self.pending)
                    .into_iter()
                    .partition::<Vec<_>, _>(|(name, _)| name.parent() == Some(path));
                self.pending = rest;
                for (name, change) in synced {
                    match change {
                        Change::Directory => drop(self.durable.directories.insert(name)),
                        Change::Name(Some(file)) => drop(self.names.insert(name, file)),
                        Change::Name(None) => drop(self.names.remove(&name)),
                    }
                }
            }
            Call::Create(path) => {
                let file = self.files.len();
                self.files.push(File { durable: Bytes::default(), now: Bytes::default() });
                self.seen.insert(path.clone(), file);
                self.pending.push((path.clone(), Change::Name(Some(file))));
            }
            Call::Write(file, bytes) => self.files[*file].now = Arc::clone(bytes),
            Call::SyncFile(file) => self.files[*file].durable = Arc::clone(&self.files[*file].now),
            Call::Rename(from, to) => {
                let file = self.seen.remove(from).unwrap();
                self.seen.insert(to.clone(), file);
                self.pending.push((to.clone(), Change::Name(Some(file))));
                self.pending.push((from.clone(), Change::Name(None)));
            }
            Call::Remove(path) => {
                self.seen.remove(path);
                self.pending.push((path.clone(), Change::Name(None)));
            }
        }
    }

    /// Files with bytes that weren't synced.
    fn dirty(&self) -> Vec<usize> {
        (0..self.files.len()).filter(|file| self.files[*file].durable != self.files[*file].now).collect()
    }

    /// What is left if each unsure thing has its fate: first names in the order of the calls, then files.
    fn tree(&self, fate: &dyn Fn(usize) -> Fate) -> Tree {
        let mut tree = self.durable.clone();
        let mut names = self.names.clone();
        for (number, (path, change)) in self.pending.iter().enumerate() {
            if fate(number) == Fate::Lost {
                continue;
            }
            match change {
                Change::Directory => drop(tree.directories.insert(path.clone())),
                Change::Name(Some(file)) => drop(names.insert(path.clone(), *file)),
                Change::Name(None) => drop(names.remove(path)),
            }
        }
        let dirty = self.dirty();
        for (path, file) in names {
            let is_reachable = path.ancestors().skip(1).all(|above| {
                above == Path::new("/") || above.as_os_str().is_empty() || tree.directories.contains(above)
            });
            if !is_reachable {
                continue;
            }
            let File { durable, now } = &self.files[file];
            let number = dirty.iter().position(|one| *one == file).map(|place| self.pending.len() + place);
            let bytes = match number.map_or(Fate::Kept, fate) {
                Fate::Kept => Arc::clone(now),
                Fate::Lost => Arc::clone(durable),
                Fate::Torn => Arc::new(now[..(now.len() / 2).next_multiple_of(512).min(now.len())].to_vec()),
                Fate::Zeros => Arc::new(vec![0; now.len()]),
            };
            tree.files.insert(path, bytes);
        }
        tree
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for FaultDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.state();
        state.names.get(path).map(|file| state.contents[*file].to_vec()).ok_or_else(missing)
    }

    fn read_range(&self, path: &Path, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let state = self.state();
        let bytes = state.names.get(path).map(|file| &state.contents[*file]).ok_or_else(missing)?;
        let range = offset as usize..(offset.saturating_add(len)) as usize;
        bytes.get(range).map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn read_range_anew(&self, path: &Path, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let mut bytes = self.read_range(path, offset, len)?;
        self.state().read_anew.insert(path.to_owned());
        while self.state().is_shut {
            std::thread::sleep(Duration::from_millis(1));
        }
        let state = self.state();
        let is_spoilt = state.spoilt.is_some_and(|(pack, how)| {
            how == Spoilt::Content && state.packs.get(pack).is_some_and(|pack| pack == path)
        });
        if is_spoilt && let Some(byte) = bytes.get_mut(len as usize / 2) {
            *byte ^= 1;
        }
        Ok(bytes)
    }

    fn modified(&self, _path: &Path) -> io::Result<std::time::SystemTime> {
        Ok(std::time::SystemTime::UNIX_EPOCH)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        let state = self.state();
        state.names.get(path).map(|file| state.contents[*file].len() as u64).ok_or_else(missing)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<DiskItem>> {
        let state = self.state();
        if !state.directories.contains(directory) {
            return Err(missing());
        }
        let item = |path: &Path, is_directory: bool, len: u64| DiskItem {
            name: OsString::from(path.file_name().unwrap()),
            is_directory,
            is_file: !is_directory,
            len,
            modified: None,
        };
        let is_here = |path: &&PathBuf| path.parent() == Some(directory);
        let directories = state.directories.iter().filter(is_here).map(|path| item(path, true, 0));
        let files = state.names.iter().filter(|(path, _)| is_here(path));
        let files = files.map(|(path, file)| item(path, false, state.contents[*file].len() as u64));
        Ok(directories.chain(files).collect())
    }

    fn is_directory(&self, path: &Path) -> bool {
        path == Path::new("/") || self.state().directories.contains(path)
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        if self.is_directory(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.call(Call::MakeDirectory(path.to_owned()))?.directories.insert(path.to_owned());
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.call(Call::SyncDirectory(path.to_owned())).map(drop)
    }

    fn create_temporary(&self, directory: &Path) -> io::Result<Box<dyn DiskFile>> {
        let state = self.state();
        let number = state.contents.len();
        let path = directory.join(format!("put-{number}"));
        let mut state = Self::call_in(state, Call::Create(path.clone()))?;
        state.contents.push(Bytes::default());
        state.names.insert(path.clone(), number);
        drop(state);
        Ok(Box::new(Open { disk: self.clone(), path, number }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if !self.state().names.contains_key(from) {
            return Err(missing());
        }
        if to.components().any(|part| part.as_os_str() == "packs") {
            let mut state = self.state();
            state.packs.push(to.to_owned());
            if state.spoilt == Some((state.packs.len() - 1, Spoilt::Name)) {
                return Err(io::Error::other("a bad sector"));
            }
        }
        let mut state = self.call(Call::Rename(from.to_owned(), to.to_owned()))?;
        let file = state.names.remove(from).unwrap();
        state.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.state().names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if !self.state().names.contains_key(path) {
            return Err(missing());
        }
        self.call(Call::Remove(path.to_owned()))?.names.remove(path);
        Ok(())
    }

    fn try_lock(&self, _path: &Path, _is_shared: bool) -> io::Result<DiskLock> {
        Ok(DiskLock::Unsupported)
    }
}

struct Open {
    disk: FaultDisk,
    path: PathBuf,
    number: usize,
}

impl DiskFile for Open {
    fn path(&self) -> &Path {
        &self.path
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let before = Arc::clone(&self.disk.state().contents[self.number]);
        let after = Arc::new([before.as_slice(), bytes].concat());
        let mut state = self.disk.call(Call::Write(self.number, Arc::clone(&after)))?;
        state.contents[self.number] = after;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.call(Call::SyncFile(self.number)).map(drop)
    }
}
