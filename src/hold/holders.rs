//! Names the processes that have files open, as far as `/proc` shows them.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The first PID namespace's inode (`PROC_PID_INIT_INO` of the kernel): from there every process is seen.
const FIRST_NAMESPACE: u64 = 0xEFFF_FFFC;

/// A process and a file that it has open or mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    pub command: String,
    pub path: PathBuf,
}

/// What `/proc` shows.
#[derive(Debug, Default)]
pub struct Holders {
    pub list: Vec<Holder>,
    /// Every process of this machine could be looked at.
    pub saw_all: bool,
}

impl Holders {
    /// Looks for whoever has one of these files open, other than this process. Each process is named once a file.
    pub fn of(files: &[PathBuf]) -> Self {
        let identified = files.iter().filter_map(|path| Some((identity(path).ok()?, path.as_path())));
        let wanted: HashMap<(u64, u64), &Path> = identified.collect();
        let paths: HashMap<PathBuf, &Path> =
            files.iter().filter_map(|path| Some((path.canonicalize().ok()?, path.as_path()))).collect();
        let mut found = Self { list: Vec::new(), saw_all: is_first_namespace() };
        let Ok(processes) = fs::read_dir("/proc") else { return Self::default() };
        for process in processes.flatten() {
            let pid = process.file_name().to_str().and_then(|name| name.parse().ok());
            let Some(pid) = pid.filter(|pid| *pid != std::process::id()) else { continue };
            let mut add = |path: &Path| {
                let holder = Holder { pid, command: command_of(&process.path()), path: path.to_owned() };
                if !found.list.contains(&holder) {
                    found.list.push(holder);
                }
            };
            let opened = opened_by(&process.path(), &wanted, &mut add);
            let mapped = mapped_by(&process.path(), &paths, &mut add);
            // A process that ended meanwhile has nothing open.
            let denied = |result: io::Result<()>| {
                result.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
            };
            if denied(opened) | denied(mapped) {
                found.saw_all = false;
            }
        }
        found
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

fn is_first_namespace() -> bool {
    fs::metadata("/proc/self/ns/pid").is_ok_and(|metadata| metadata.ino() == FIRST_NAMESPACE)
}

fn opened_by(
    process: &Path,
    wanted: &HashMap<(u64, u64), &Path>,
    add: &mut dyn FnMut(&Path),
) -> io::Result<()> {
    for descriptor in fs::read_dir(process.join("fd"))? {
        if let Ok(identity) = identity(&descriptor?.path())
            && let Some(path) = wanted.get(&identity)
        {
            add(path);
        }
    }
    Ok(())
}

/// A mapping outlives its descriptor. Device numbers differ there on btrfs and overlays, so paths are compared.
fn mapped_by(process: &Path, paths: &HashMap<PathBuf, &Path>, add: &mut dyn FnMut(&Path)) -> io::Result<()> {
    for line in fs::read_to_string(process.join("maps"))?.lines() {
        if let Some(start) = line.find('/')
            && let Some(path) = line.get(start..).and_then(|name| paths.get(Path::new(name)))
        {
            add(path);
        }
    }
    Ok(())
}

/// Its command line, or its name where that is empty.
fn command_of(process: &Path) -> String {
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    if line.trim().is_empty() {
        fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_owned()
    } else {
        line.trim().chars().take(200).collect()
    }
}
