//! A capture leaves its source as it would have been without us, also when it is killed.

use crate::support::{Scratch, files_below, has, is_root, missing, run};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Everything that `stat` tells, and the content.
pub fn state(directory: &Path) -> Vec<String> {
    let mut paths: Vec<PathBuf> = files_below(directory);
    paths.push(directory.to_owned());
    paths
        .iter()
        .map(|path| {
            let stat = path.symlink_metadata().unwrap();
            let content = if stat.is_file() {
                icecore::id::Id::of(&std::fs::read(path).unwrap()).hex()
            } else {
                String::new()
            };
            format!(
                "{} {} {:o} {}:{} {} {} {}.{} {}.{} {content}",
                path.display(),
                stat.ino(),
                stat.mode(),
                stat.uid(),
                stat.gid(),
                stat.nlink(),
                stat.size(),
                stat.mtime(),
                stat.mtime_nsec(),
                stat.ctime(),
                stat.ctime_nsec()
            )
        })
        .collect()
}

/// A service that keeps a database open, idle, with committed rows in a log or none.
struct Service(std::process::Child);

impl Service {
    fn start(directory: &Path, mode: &str) -> Self {
        Self::start_by(Command::new("python3"), directory, "app.db", mode)
    }

    /// As the user that `python` runs as, with a database of that name.
    fn start_by(mut python: Command, directory: &Path, database: &str, mode: &str) -> Self {
        let script = format!(
            "import sqlite3,sys\nc=sqlite3.connect('{database}',isolation_level=None)\nc.execute('pragma journal_mode={mode}')\n\
             c.execute('create table if not exists t(a,b)')\nfor i in range(300): c.execute('insert into t values(?,zeroblob(700))',(i,))\n\
             print('ready',flush=True)\n\
             for line in sys.stdin: c.execute('insert into t values(1,2)'); print('written',flush=True)"
        );
        python.args(["-c", &script]).current_dir(directory);
        let mut child =
            python.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
        assert_eq!(Self::line(&mut child), "ready\n");
        Self(child)
    }

    fn line(child: &mut std::process::Child) -> String {
        let mut line = String::new();
        let mut byte = [0u8; 1];
        let stdout = child.stdout.as_mut().unwrap();
        while !line.ends_with('\n') && std::io::Read::read(stdout, &mut byte).unwrap() == 1 {
            line.push(byte[0] as char);
        }
        line
    }

    /// Its next write succeeds.
    fn write(&mut self) {
        std::io::Write::write_all(self.0.stdin.as_mut().unwrap(), b"write\n").unwrap();
        assert_eq!(Self::line(&mut self.0), "written\n");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn in_use_closed_and_crashed_databases_are_left_alone() {
    if !has("python3") {
        return;
    }
    for mode in ["delete", "wal"] {
        let scratch = Scratch::new();
        scratch.init();
        let directory = scratch.mkdir("service");
        let mut service = Service::start(&directory, mode);
        let before = state(&directory);
        for place in ["db=service/app.db", "tree=service"] {
            scratch.backup(&[place, "--reread"]);
            assert_eq!(state(&directory), before, "{mode}, in use");
        }
        service.write();
        let before = state(&directory);
        drop(service);
        assert_eq!(state(&directory), before, "killed, as a crash");
        scratch.backup(&["db=service/app.db"]);
        assert_eq!(state(&directory), before, "{mode}, after a crash");
        run(Command::new("python3").args(["-c", "import sqlite3; c=sqlite3.connect('app.db'); c.execute('insert into t values(3,4)'); c.commit(); c.close()"]).current_dir(&directory));
        let before = state(&directory);
        scratch.backup(&["db=service/app.db"]);
        assert_eq!(state(&directory), before, "{mode}, closed");
    }
}

/// Runs a program as a user, who may read and write the scratch directory's repository.
fn by(user: u32, program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args([
        format!("--reuid={user}"),
        format!("--regid={user}"),
        "--clear-groups".into(),
        program.into(),
    ]);
    command
}

#[test]
fn whoever_captures_the_service_writes_on() {
    // Debian's own: another user can't run one that root installed for itself.
    if !Path::new("/usr/bin/python3").is_file() || !has("setpriv") || !is_root() {
        return missing("/usr/bin/python3, setpriv or root");
    }
    const OWNER: u32 = 12345;
    for mode in ["delete", "wal"] {
        for user in [0, OWNER, 65534] {
            let scratch = Scratch::new();
            scratch.init();
            let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(scratch.directory.path(), everybody).unwrap();
            let directory = scratch.mkdir("service");
            chown(&directory, Some(OWNER), Some(OWNER)).unwrap();
            run(Command::new("chown").args(["-R", &user.to_string()]).arg(scratch.path("repo")));
            // A store that no collection was made in yet, captured as Chroma's.
            let mut service =
                Service::start_by(by(OWNER, "/usr/bin/python3"), &directory, "chroma.sqlite3", mode);
            service.write();
            run(Command::new("chmod").args(["-R", "a+rX"]).arg(&directory));
            for place in ["db=service/chroma.sqlite3", "tree=service", "store=service"] {
                let before = state(&directory);
                let kind = if place.starts_with("tree") { "tree=tree" } else { "store=chroma" };
                let mut command = by(user, env!("CARGO_BIN_EXE_icecore"));
                command.args(["backup", place, "--reread", "--validate", "quick", "--json"]);
                if !place.starts_with("db") {
                    command.args(["--kind", kind]);
                }
                command.current_dir(scratch.directory.path()).env("HOME", "/nonexistent");
                let output = command.env("ICECORE_REPOSITORY", scratch.path("repo")).output().unwrap();
                let said = String::from_utf8_lossy(&output.stdout);
                assert!(output.status.success(), "{mode}, {place} as {user}: {said}");
                assert_eq!(state(&directory), before, "{mode}, {place} as {user}");
                service.write();
            }
            let before = state(&directory);
            let owners = before.iter().all(|line| line.contains(&format!("{OWNER}:{OWNER}")));
            assert!(owners, "nothing there belongs to anybody else: {before:#?}");
        }
    }
}

#[test]
fn killed_at_every_step() {
    if !has("strace") || !has("python3") {
        return;
    }
    for (mode, kind) in [("delete", "sqlite"), ("wal", "sqlite"), ("delete", "chroma")] {
        let scratch = Scratch::new();
        scratch.init();
        let directory = scratch.mkdir("service");
        let (database, place) = match kind {
            "sqlite" => ("app.db", "app=service/app.db"),
            _ => ("chroma.sqlite3", "app=service"),
        };
        let mut service = Service::start_by(Command::new("python3"), &directory, database, mode);
        let mut killed = 0;
        for call in ["fcntl", "pread64", "openat", "rename", "renameat2", "fsync"] {
            for nth in [1, 2, 3, 5, 8, 13, 21] {
                let before = state(&directory);
                let mut traced = Command::new("strace");
                traced.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
                traced.args([
                    "-e",
                    &format!("inject={call}:signal=KILL:when={nth}"),
                    env!("CARGO_BIN_EXE_icecore"),
                ]);
                traced
                    .args(["--json", "backup", place, "--reread", "--kind", &format!("app={kind}")])
                    .current_dir(scratch.directory.path());
                traced.env("ICECORE_REPOSITORY", scratch.path("repo")).env("HOME", scratch.path("home"));
                let ended = traced.output().unwrap();
                killed += u32::from(ended.status.code().is_none());
                assert_eq!(state(&directory), before, "{mode}, {kind}: killed at {call} {nth}");
                service.write();
            }
        }
        assert!(killed > 15, "{killed} runs were killed");
        // What killed runs left in the repository hinders nobody.
        scratch.backup(&[place]);
        scratch.ok(["validate", "--all"]);
    }
}

#[test]
fn scratch_copies_that_killed_runs_left_are_removed() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("app.json", "{}");
    let left = [scratch.file("tmp/icecore-check-1", "x"), scratch.file("tmp/icecore-rollback-2/copy", "x")];
    let young = scratch.file("tmp/icecore-check-3", "x");
    let others = scratch.file("tmp/notes", "x");
    for old in ["icecore-check-1", "icecore-rollback-2", "notes"] {
        run(Command::new("touch").args(["-d", "2 days ago"]).arg(scratch.path("tmp").join(old)));
    }
    scratch.backup(&["app.json", "--temp-dir", "tmp"]);
    assert!(left.iter().all(|path| !path.exists()));
    assert!(young.exists() && others.exists());
}

#[test]
fn access_times_stay_where_we_own_the_files() {
    let scratch = Scratch::new();
    scratch.init();
    let file = scratch.file("tree/sub/a", "x");
    let old = nix::sys::time::TimeSpec::new(1_000_000_000, 0);
    for path in [&file, &scratch.path("tree/sub"), &scratch.path("tree")] {
        let flags = nix::sys::stat::UtimensatFlags::FollowSymlink;
        nix::sys::stat::utimensat(
            nix::fcntl::AT_FDCWD,
            path,
            &old,
            &nix::sys::time::TimeSpec::UTIME_OMIT,
            flags,
        )
        .unwrap();
    }
    scratch.backup(&["tree"]);
    for path in [&file, &scratch.path("tree/sub"), &scratch.path("tree")] {
        assert_eq!(path.symlink_metadata().unwrap().atime(), 1_000_000_000, "{}", path.display());
    }
}
