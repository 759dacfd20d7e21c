//! What the tests share: scratch directories, the program, its JSON, other programs.

use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A scratch directory with a repository place beside the sources.
pub struct Scratch {
    pub directory: tempfile::TempDir,
}

impl Scratch {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    /// Makes a directory.
    pub fn mkdir(&self, below: &str) -> PathBuf {
        let path = self.path(below);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Writes a file, directories above it included.
    pub fn file(&self, below: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(below);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        put(&path, bytes);
        path
    }

    /// Writes a file of so many bytes in which all but these islands, by where they begin, is a hole.
    pub fn sparse(&self, below: &str, len: u64, islands: &[(u64, &[u8])]) -> PathBuf {
        let path = self.file(below, "");
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(len).unwrap();
        islands.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
        path
    }

    /// The program on this scratch directory's repository `repo`, with private cache and no config.
    pub fn icecore(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_icecore"));
        command.current_dir(self.directory.path()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
            .env("HOME", self.path("home"))
            .env("ICECORE_REPOSITORY", self.path("repo"))
            .stdin(Stdio::null());
        if self.path("identity").exists() {
            command.env("ICECORE_IDENTITY", self.path("identity"));
        }
        command
    }

    /// Runs with `--json` and returns exit code and document. There must be exactly one document and an empty stderr.
    pub fn json<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> (i32, Value) {
        document(self.icecore().arg("--json").args(arguments))
    }

    /// As `json`, while these calls fail where they have to do with these files. Needs strace.
    pub fn failing(&self, files: &[&Path], (calls, error): (&str, &str), arguments: &[&str]) -> (i32, Value) {
        let mut traced = Command::new("strace");
        traced.args(["-f", "-qq", "-o"]).arg(self.path("trace"));
        traced.args(files.iter().flat_map(|file| [OsStr::new("-P"), file.as_os_str()]));
        traced.args(["-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:error={error}")]);
        traced.args([env!("CARGO_BIN_EXE_icecore"), "--json"]).args(arguments);
        traced.current_dir(self.directory.path()).env("HOME", self.path("home"));
        let output = traced.env("ICECORE_REPOSITORY", self.path("repo")).output().unwrap();
        let trace = std::fs::read_to_string(self.path("trace")).unwrap();
        assert!(trace.contains("(INJECTED)"), "{arguments:?}, {files:?}: {error} never came");
        (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
    }

    /// As `json`, but must end with 0.
    pub fn ok<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Value {
        let (code, document) = self.json(arguments);
        assert_eq!(code, 0, "{document:#}");
        document
    }

    /// Makes the repository; with `ICECORE_TEST_ENCRYPTED` an encrypted one.
    pub fn init(&self) {
        self.init_as(std::env::var_os("ICECORE_TEST_ENCRYPTED").is_some());
    }

    /// Makes an encrypted repository, which the file `identity` opens; every command gets that.
    pub fn init_encrypted(&self) {
        let recipient = self.new_identity("identity");
        self.ok(["init", "--recipient", &recipient]);
    }

    /// Makes the repository, encrypted or not.
    pub fn init_as(&self, is_encrypted: bool) {
        if is_encrypted {
            self.init_encrypted();
        } else {
            self.ok(["init"]);
        }
    }

    /// Writes an age identity into a file, and returns the recipient that it belongs to.
    pub fn new_identity(&self, name: &str) -> String {
        use age::secrecy::ExposeSecret;
        let identity = age::x25519::Identity::generate();
        self.file(name, identity.to_string().expose_secret());
        identity.to_public().to_string()
    }

    /// As `json`, but as the user nobody, who may write into the scratch directory.
    pub fn json_as_nobody(&self, arguments: &[&str]) -> (i32, Value) {
        use std::os::unix::fs::PermissionsExt;
        let everybody = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(self.directory.path(), everybody).unwrap();
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            env!("CARGO_BIN_EXE_icecore"),
            "--json",
        ]);
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("ICECORE_REPOSITORY", self.path("repo"));
        document(command.env("HOME", "/nonexistent"))
    }

    /// Takes a snapshot and returns its stamp.
    pub fn backup(&self, arguments: &[&str]) -> String {
        let document = self.ok(["backup"].iter().chain(arguments));
        document["stamp"].as_str().unwrap().to_owned()
    }

    /// Takes one of the repository's locks, as another run has it, until it is dropped.
    pub fn hold(&self, lock: &str, how: FlockArg) -> Flock<File> {
        let path = self.path("repo/locks").join(lock);
        let file = File::options().create(true).truncate(false).write(true).open(path).unwrap();
        Flock::lock(file, how).map_err(|(_, errno)| errno).unwrap()
    }

    /// Files of the repository below a directory, with their sizes.
    pub fn repository_files(&self, below: &str) -> Vec<PathBuf> {
        files_below(&self.path("repo").join(below))
    }
}

pub fn put(path: &Path, bytes: impl AsRef<[u8]>) {
    #[expect(clippy::disallowed_methods, reason = "a test's own scratch file needs no durability")]
    std::fs::write(path, bytes).unwrap();
}

/// Runs a command that answers with one JSON document.
pub fn document(command: &mut Command) -> (i32, Value) {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.is_empty(), "stderr beside JSON: {error}");
    assert_eq!(text.trim().lines().count(), 1, "one document: {text}");
    let document: Value = serde_json::from_str(&text).unwrap();
    let code = output.status.code().unwrap();
    assert_eq!(document["exit_code"], code);
    assert_eq!(document["ok"], code == 0);
    (code, document)
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(directory).sort_by_file_name() {
        let entry = entry.unwrap();
        if entry.file_type().is_file() {
            found.push(entry.into_path());
        }
    }
    found
}

/// Says what is missing. In CI that is a failure; on a user's machine the test is skipped, loudly.
pub fn missing(what: &str) {
    let message = format!("NOT TESTED: {what}");
    assert!(std::env::var_os("CI").is_none(), "{message} (scripts/test installs it)");
    eprintln!("{message}");
}

/// True if a program is there.
pub fn has(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).is_file()));
    if !found {
        missing(&format!("{program} is not installed"));
    }
    found
}

pub fn is_root() -> bool {
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !root {
        missing("this test needs root");
    }
    root
}

/// A loop-mounted file system of its own, unmounted at the end.
pub struct Mounted {
    pub path: PathBuf,
}

impl Mounted {
    /// Makes and mounts one below the scratch directory; `None` (said, and a failure in CI) where that can't be.
    pub fn new(scratch: &Scratch, kind: &str) -> Option<Self> {
        let (program, arguments): (&str, &[&str]) = match kind {
            "xfs" => ("mkfs.xfs", &["-q", "-m", "reflink=1"]),
            "btrfs" => ("mkfs.btrfs", &["-q"]),
            _ => ("mkfs.ext4", &["-q"]),
        };
        let there =
            ["/sbin", "/usr/sbin"].iter().any(|directory| Path::new(directory).join(program).is_file());
        if !is_root() {
            return None;
        }
        if !there {
            missing(&format!("{program} is not installed"));
            return None;
        }
        let image = scratch.path(&format!("{kind}.img"));
        std::fs::File::create(&image).unwrap().set_len(400 << 20).unwrap();
        run(Command::new(program).env("PATH", "/sbin:/usr/sbin:/bin:/usr/bin").args(arguments).arg(&image));
        let path = scratch.mkdir(kind);
        run(Command::new("mount").args(["-o", "loop"]).args([&image, &path]));
        Some(Self { path })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.path).status());
    }
}

/// A directory that is mounted over itself read-only.
pub struct ReadOnly(PathBuf);

impl ReadOnly {
    /// `None` (said, and a failure in CI) without root.
    pub fn new(path: &Path) -> Option<Self> {
        if !is_root() {
            return None;
        }
        run(Command::new("mount").arg("--bind").args([path, path]));
        run(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(path));
        Some(Self(path.to_owned()))
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// The inode that a name leads to.
pub fn inode(path: &Path) -> u64 {
    path.symlink_metadata().unwrap().ino()
}

/// The Python with the packages that `scripts/test` installs.
pub fn python() -> Option<PathBuf> {
    let cache = std::env::var_os("ICECORE_TEST_CACHE").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/icecore-ci"));
    let python = cache.or_else(home)?.join("python/bin/python");
    if python.is_file() {
        return Some(python);
    }
    missing(&format!("{} is not there", python.display()));
    None
}

/// Everything about a file or directory tree that a restore must bring back, one line per path: kind, mode, owner, size,
/// times, link target, extended attributes, content. Directories' own times are left out on request.
pub fn describe(root: &Path, directory_times: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inodes: std::collections::HashMap<u64, usize> = std::collections::HashMap::new();
    for entry in walkdir::WalkDir::new(root).sort_by_file_name() {
        let entry = entry.unwrap();
        let metadata = entry.path().symlink_metadata().unwrap();
        let relative = entry.path().strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        let mut line = format!(
            "{:?} {:o} {}:{} {}",
            String::from_utf8_lossy(&relative),
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            if metadata.is_dir() { 0 } else { metadata.size() }
        );
        if !relative.is_empty() && String::from_utf8(relative.clone()).is_err() {
            line.push_str(&format!(" {relative:?}"));
        }
        if !metadata.is_dir() || directory_times {
            line.push_str(&format!(" {}.{:09}", metadata.mtime(), metadata.mtime_nsec()));
        }
        if metadata.is_symlink() {
            line.push_str(&format!(" -> {:?}", std::fs::read_link(entry.path()).unwrap()));
        }
        if metadata.is_file() {
            line.push_str(&format!(" {}", icecore::id::Id::of(&std::fs::read(entry.path()).unwrap())));
            if metadata.nlink() > 1 {
                let number = inodes.len();
                line.push_str(&format!(" link-group {}", inodes.entry(metadata.ino()).or_insert(number)));
            }
        }
        if !metadata.is_symlink() {
            line.push_str(&format!(" {:?}", attributes(entry.path())));
        }
        if metadata.rdev() != 0 {
            line.push_str(&format!(" device {}", metadata.rdev()));
        }
        lines.push(line);
    }
    lines
}

fn attributes(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0u8; 4096];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let mut found: Vec<(String, Vec<u8>)> = names[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0u8; 4096];
            let name = OsStr::from_bytes(name);
            let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            value.truncate(len);
            (name.to_string_lossy().into_owned(), value)
        })
        .collect();
    found.sort();
    found
}

/// How many cases a property gets: `short` in `scripts/test`, `PROPTEST_CASES` in `scripts/soak`.
pub fn cases(short: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(short)
}

/// Waits until files written before are too old to be racy: a backup then need not read them again.
pub fn settle() {
    std::thread::sleep(std::time::Duration::from_millis(50));
}

/// Pseudo-random bytes that don't compress.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
