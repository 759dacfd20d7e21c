//! What is typed to take snapshots and to put them back.

use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Make a repository
///
/// Backups never make one by themselves: a disk that isn't mounted must be noticed. With --write-config also writes a
/// commented icecore.toml that names the Chroma stores, databases and JSON files found below the present directory.
#[derive(Args)]
pub struct Init {
    /// Do nothing if there is one already
    #[arg(long)]
    pub if_missing: bool,
    /// Encrypt the repository, for this recipient: age1…, an ssh public key, or a file that holds one (may be repeated)
    #[arg(long = "recipient", value_name = "KEY")]
    pub recipients: Vec<String>,
    /// Encrypt the repository, for whoever knows a passphrase (from --passphrase-file, or asked for at the terminal)
    #[arg(long)]
    pub passphrase: bool,
    /// Also write a config (never over an existing one)
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "icecore.toml")]
    pub write_config: Option<PathBuf>,
}

/// Take one snapshot
///
/// Of the config's sources, or of the paths given. A path's kind is detected: a directory with chroma.sqlite3 is a Chroma
/// store, a file with SQLite's header a database, .json is JSON, all else a tree. Sources are only read, also while
/// services use them. The snapshot is proven from its stored bytes before it is published.
#[derive(Args)]
pub struct Backup {
    /// NAME=PATH or PATH: back these up instead of the config's sources
    #[arg(value_name = "NAME=PATH")]
    pub paths: Vec<String>,
    /// Also this on-demand source
    #[arg(long = "with", value_name = "NAME")]
    pub with_source: Vec<String>,
    /// Only this source
    #[arg(long = "only", value_name = "NAME")]
    pub only: Vec<String>,
    /// All but this source
    #[arg(long = "without", value_name = "NAME")]
    pub without: Vec<String>,
    /// Also the Chroma stores that are on demand
    #[arg(long, overrides_with = "no_chroma")]
    pub chroma: bool,
    /// No Chroma stores
    #[arg(long)]
    pub no_chroma: bool,
    /// Take a path for this kind: chroma, sqlite, json or tree
    #[arg(long = "kind", value_name = "NAME=KIND")]
    pub kinds: Vec<String>,
    /// Leave out what matches this gitignore pattern, in trees given as paths
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// A word to remember the snapshot by
    #[arg(long = "tag", value_name = "WORD")]
    pub tags: Vec<String>,
    /// How thorough the proof is [default: full if none is younger than 24h, else quick]
    #[arg(long, value_name = "LEVEL")]
    pub validate: Option<LevelArgument>,
    /// Nothing is running: take no locks
    #[arg(long)]
    pub cold: bool,
    /// Read every file again, also unchanged ones, and store again what is damaged or missing in the repository
    #[arg(long)]
    pub reread: bool,
    /// How long to try to hold a database that is being written
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    pub lock_wait: String,
    /// The longest that an application's writers may wait [default: auto, twice what the first pass says, 5s to 60s]
    ///
    /// Only where a database can't be cloned: on XFS and btrfs, in WAL mode, and where nothing was committed meanwhile,
    /// writers wait for milliseconds or not at all. Past it several sources are captured one after another, and a single one gives up (exit 21).
    #[arg(long, value_name = "DURATION")]
    pub max_hold: Option<String>,
    /// How sources are held still: auto, lock, reflink, fs-snapshot or optimistic
    ///
    /// auto takes a btrfs snapshot of a store that is a subvolume, else clones databases under SQLite's own locks where the
    /// file system can, else reads under the locks what the first pass lacks. optimistic takes no lock and compares.
    #[arg(long, value_name = "MODE")]
    pub hold: Option<String>,
    /// Read a source from here instead: a snapshot of it that is mounted elsewhere
    #[arg(long = "source-path", value_name = "NAME=PATH")]
    pub source_paths: Vec<String>,
    /// Run no hooks: what they would bring to rest is at rest already
    #[arg(long)]
    pub no_hooks: bool,
    /// Prune afterwards, by the config's policy
    #[arg(long)]
    pub prune: bool,
    /// Afterwards bring the replicas of the config up to date
    #[arg(long)]
    pub replicate: bool,
    /// Only say what would be backed up
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum LevelArgument {
    Quick,
    Full,
}

/// Put a snapshot back
///
/// In place by default: into the existing files and directories, which keep their inodes, so that bind mounts go on
/// working. Only blocks that differ are written. For each source the place is --map, else the config's path for that name,
/// else the recorded path. With --target it goes to DIR/NAME instead and needs no confirmation.
///
/// Before the first byte is changed: nobody may have the files open, whatever container they run in; there must be room;
/// and the present state is saved as it lies, in a safety snapshot. A restore that was interrupted, by a crash too, is
/// finished by --resume or undone by --rollback; until then its databases can't be opened. --rollback also undoes a
/// finished restore.
#[derive(Args)]
pub struct Restore {
    /// A stamp, or `latest`
    #[arg(required_unless_present_any = ["resume", "rollback"], value_name = "STAMP|latest")]
    pub stamp: Option<String>,
    /// Sources, or paths inside them [default: all]
    #[arg(value_name = "NAME[/PATH]")]
    pub places: Vec<String>,
    /// All but this source
    #[arg(long = "without", value_name = "NAME")]
    pub without: Vec<String>,
    /// The Chroma stores (fails if the snapshot has none)
    #[arg(long, conflicts_with = "no_chroma")]
    pub chroma: bool,
    /// No Chroma stores
    #[arg(long)]
    pub no_chroma: bool,
    /// Restore below this directory instead of in place
    #[arg(short, long, value_name = "DIR")]
    pub target: Option<PathBuf>,
    /// Restore a source to this path
    #[arg(long = "map", value_name = "NAME=PATH", conflicts_with = "target")]
    pub maps: Vec<String>,
    /// Give everything to this owner, by number [default: as recorded]
    #[arg(long, value_name = "UID:GID")]
    pub chown: Option<String>,
    /// Restore another profile's snapshot in place
    #[arg(long)]
    pub relocated: bool,
    /// Restore a snapshot that failed its validation
    #[arg(long)]
    pub accept_invalid: bool,
    /// The service that uses these files is stopped
    #[arg(long)]
    pub confirm_service_stopped: bool,
    /// Finish the last in-place restore that was interrupted
    #[arg(long, conflicts_with_all = ["rollback", "stamp", "target", "maps", "chroma", "no_chroma", "without", "chown", "no_pre_snapshot"])]
    pub resume: bool,
    /// Undo the last in-place restore, finished or not
    #[arg(long, conflicts_with_all = ["stamp", "target", "maps", "chroma", "no_chroma", "without", "chown"])]
    pub rollback: bool,
    /// Which restore to finish or undo, by its journal's id [default: the last one that was interrupted, else the last]
    #[arg(long, value_name = "ID")]
    pub journal: Option<String>,
    /// Take no safety snapshot; what is overwritten is kept in an undo journal instead
    #[arg(long)]
    pub no_pre_snapshot: bool,
    /// Go on though it can't be told whether another process has the files open (network file systems, no permission)
    #[arg(long)]
    pub accept_blind_guard: bool,
    /// Go on though part of the present state can't be read, and so not be brought back
    #[arg(long)]
    pub accept_incomplete_safety: bool,
    /// Run no hooks and no verify commands
    #[arg(long)]
    pub no_hooks: bool,
    /// Check everything and list what would be done to each file, but change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}
