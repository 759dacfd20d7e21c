//! What can be typed.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Snapshots of SQLite databases, Chroma stores and the files beside them: cheap, proven, restored in place.
#[derive(Parser)]
#[command(
    name = "icecore",
    version,
    disable_help_subcommand = true,
    after_help = "\
Begin with:
  icecore init -r /srv/backups/app --write-config    make a repository and a commented icecore.toml
  icecore backup                                     one snapshot of what icecore.toml names
  icecore list                                       what there is
  icecore restore latest --target /tmp/look          put it somewhere to look at
  icecore restore latest --confirm-service-stopped   put it back in place

Exit codes: 0 done, 1 unexpected, 2 usage, 3 done but some entries could not be read or owners set, 10 no repository,
11 busy, 12 wrong or missing key, 13 no such snapshot, 14 repository damaged, 15 some replica failed, 16 not enough space, 20 invalid (not published), 21 a source kept
changing or could not be held, 22 refused, 23 restore incomplete, 24 restored but the check of the result failed,
25 a hook failed, 130/143 ended by a signal. Unknown codes mean failure."
)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of every verb. A flag beats the environment, which beats the config.
#[derive(Args, Clone)]
pub struct Global {
    /// The repository: a directory, ssh://user@host/path or s3://bucket/prefix
    #[arg(short, long, global = true, env = "ICECORE_REPOSITORY", value_name = "PATH|URL")]
    pub repo: Option<String>,
    /// The config [default: ./icecore.toml if safely owned, $XDG_CONFIG_HOME/icecore/icecore.toml, /etc/icecore/icecore.toml]
    #[arg(short, long, global = true, env = "ICECORE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The profile that `latest`, parents and retention go by [default: the config's, else "default"]
    #[arg(long, global = true, env = "ICECORE_PROFILE")]
    pub profile: Option<String>,
    /// One JSON document on stdout, whatever happens; nothing on stderr
    #[arg(long, global = true)]
    pub json: bool,
    /// Print errors and warnings only
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// No progress bar, no step lines
    #[arg(long, global = true)]
    pub no_progress: bool,
    /// Wait this long for another run of the same profile, as in 5m
    #[arg(long, global = true, value_name = "DURATION", default_value = "0s")]
    pub retry_lock: String,
    /// Where the index cache of large repositories lives
    #[arg(long, global = true, env = "ICECORE_CACHE_DIR", value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Where scratch copies for validation go
    #[arg(long, global = true, env = "ICECORE_TEMP_DIR", value_name = "DIR")]
    pub temp_dir: Option<PathBuf>,
    /// Where journals of restores go if the repository can't be written [default: $XDG_STATE_HOME/icecore, ~/.local/state/icecore, for root without HOME /var/lib/icecore]
    #[arg(long, global = true, env = "ICECORE_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The age identity file or ssh private key that opens an encrypted repository
    #[arg(long, global = true, env = "ICECORE_IDENTITY", value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// A file whose first line is the passphrase of an encrypted repository, or of the identity [default: asked at a terminal]
    #[arg(long, global = true, env = "ICECORE_PASSPHRASE_FILE", value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Use no repository but the one whose key has this fingerprint, as `init` printed it; `any`: whatever is there
    #[arg(long, global = true, env = "ICECORE_REPOSITORY_KEY", value_name = "FINGERPRINT")]
    pub repository_key: Option<String>,
    /// Keep a chunk index up to this size in memory; a larger one goes to the cache directory (MiB)
    #[arg(long, global = true, env = "ICECORE_INDEX_MEMORY", value_name = "MIB", default_value_t = 128)]
    pub index_memory: u64,
}

#[derive(Subcommand)]
pub enum Verb {
    Init(Init),
    Backup(Backup),
    List(List),
    Show(Show),
    Ls(Ls),
    Cat(Cat),
    Diff(Diff),
    Status(Status),
    Validate(Validate),
    Restore(Restore),
    Forget(Forget),
    Pin(Pin),
    Unpin(Pin),
    Prune(Prune),
    Check(Check),
    Repair(Repair),
    Key(KeyArguments),
    Replicate(Replicate),
    Serve(Serve),
    Completions(Completions),
    Man(Man),
}

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

/// List snapshots, oldest first
#[derive(Args)]
#[command(alias = "snapshots")]
pub struct List {
    /// The newest N
    #[arg(long, value_name = "N")]
    pub last: Option<usize>,
    /// Those that hold this source
    #[arg(long, value_name = "NAME")]
    pub having: Option<String>,
}

/// Show all about a snapshot: its sources, how each was captured and proven, what was left out
#[derive(Args)]
pub struct Show {
    /// A stamp, or `latest`
    #[arg(default_value = "latest")]
    pub stamp: String,
}

/// List what a snapshot holds
#[derive(Args)]
pub struct Ls {
    /// A stamp, or `latest`
    pub stamp: String,
    /// A source, or a path inside it
    #[arg(value_name = "NAME[/PATH]")]
    pub place: Option<String>,
    /// Everything below it
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// Print a file of a snapshot
#[derive(Args)]
pub struct Cat {
    /// A stamp, or `latest`
    pub stamp: String,
    /// A source that is one file, or a path inside a source
    #[arg(value_name = "NAME[/PATH]")]
    pub place: String,
    /// Write it into a new file instead of stdout (needed with --json)
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Show what differs between two snapshots
#[derive(Args)]
pub struct Diff {
    /// A stamp, or `latest`
    pub old: String,
    /// A stamp, or `latest`
    pub new: String,
}

/// Say how fresh the backups are
#[derive(Args)]
pub struct Status {
    /// Fail (exit 13) if a source's newest valid snapshot is older, as in 26h
    #[arg(long, value_name = "DURATION")]
    pub max_age: Option<String>,
}

/// Prove snapshots from their stored bytes
///
/// Every chunk is read and hashed, every database checked, every store's files compared. Exit 20 if one is invalid, 14 if
/// stored data is damaged.
#[derive(Args)]
pub struct Validate {
    /// A stamp, or `latest`
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub stamp: Option<String>,
    /// Every snapshot of the repository
    #[arg(long)]
    pub all: bool,
    /// Presence and layout only
    #[arg(long)]
    pub quick: bool,
    /// Fail (exit 13) if `latest` is older than this, as in 26h
    #[arg(long, value_name = "DURATION")]
    pub max_age: Option<String>,
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

/// Remove snapshots by their stamps (their data stays until it is pruned)
#[derive(Args)]
pub struct Forget {
    #[arg(required = true, value_name = "STAMP")]
    pub stamps: Vec<String>,
    /// Also safety snapshots that are younger than `keep_safety` (7 days)
    #[arg(long)]
    pub safety: bool,
}

/// Keep a snapshot whatever the retention policy says (unpin: no longer)
#[derive(Args)]
pub struct Pin {
    #[arg(required = true, value_name = "STAMP")]
    pub stamps: Vec<String>,
}

/// Forget snapshots by policy, then free space
///
/// Keeps 7 daily, 4 weekly (Sunday's) and 6 monthly (the 1st's) snapshots of each source of this profile, or what [retention] in
/// the config or the --keep options say (any of them replaces the whole policy). The newest valid snapshot of each source,
/// pinned ones and safety snapshots younger than 7 days always stay. All times are UTC.
///
/// Freeing has two steps: what no snapshot needs is condemned, and a later prune deletes it if it is still not needed after 24
/// hours. So backups, restores and copies that are going on need no lock. It may be interrupted at any point.
#[derive(Args)]
pub struct Prune {
    /// Keep the newest N snapshots of each source
    #[arg(long, value_name = "N")]
    pub keep_last: Option<u32>,
    /// Keep the newest of each hour, for N hours that have one
    #[arg(long, value_name = "N")]
    pub keep_hourly: Option<u32>,
    /// Keep the newest of each day, for N days that have one
    #[arg(long, value_name = "N")]
    pub keep_daily: Option<u32>,
    /// Keep the newest of each ISO week (Sunday's if there is one), for N weeks
    #[arg(long, value_name = "N")]
    pub keep_weekly: Option<u32>,
    /// Keep the newest of the 1st of each month, else the month's earliest, for N months
    #[arg(long, value_name = "N")]
    pub keep_monthly: Option<u32>,
    /// Keep the newest of each year, for N years
    #[arg(long, value_name = "N")]
    pub keep_yearly: Option<u32>,
    /// Keep all that are at most this much older than the newest, as in 30d
    #[arg(long, value_name = "DURATION")]
    pub keep_within: Option<String>,
    /// Count snapshots by when they came here, not by their names: for replicas that others send to
    #[arg(long)]
    pub by_arrival: bool,
    /// Delete at once what is not needed; waits until no backup runs. Copies by rsync that are going on may break
    #[arg(long, conflicts_with = "grace")]
    pub now: bool,
    /// How long condemned files stay [default: 24h]
    #[arg(long, value_name = "DURATION")]
    pub grace: Option<String>,
    /// Say what would happen to each snapshot, and why, but change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Check that the repository is sound
///
/// Every name, size, trailer, index file and tree is read and compared, and everything that snapshots need must be there.
/// --read-data also reads the packs and proves each chunk. Exit 14 if something is wrong; findings say which snapshots, sources
/// and files are concerned. Takes no lock and changes nothing; data that no snapshot needs is reported and is no error.
#[derive(Args)]
pub struct Check {
    /// Also read packs: all, a percentage (another part each day: 10% daily reads all within 10 days), or a part as in 3/10
    #[arg(long, value_name = "PERCENT|N/M", num_args = 0..=1, default_missing_value = "100", require_equals = true)]
    pub read_data: Option<String>,
}

/// Make a damaged repository sound again
///
/// Reads everything. What reads well in damaged packs is saved into new ones, lost chunks are taken from the live sources where
/// these still have them, index files are made anew from the packs, names from manifests. Snapshots that have lost data are
/// marked as invalid (exit 14). Nothing is deleted: what is damaged goes to quarantine/ in the repository.
#[derive(Args)]
pub struct Repair {
    /// Only say what is wrong, as `check --read-data` does
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Bring copies of the repository elsewhere up to date
///
/// To the replicas of the config, or to the places given: a directory (also on NFS or a USB disk), ssh://user@host/path (icecore
/// must be there too), s3://bucket/prefix. Only what is missing is sent, what arrived is proven, and an interrupted run goes on
/// where it was. Nothing is deleted there: a replica is a repository, and has its own `prune`. One that fails doesn't stop the
/// others (exit 15), one that is `optional` and can't be reached only warns.
///
/// With -r ssh://… it pulls: from a repository on another host to a place here. Without the key of an encrypted repository all
/// files are copied as they are.
#[derive(Args)]
pub struct Replicate {
    /// Places, or names of replicas of the config [default: all of these]
    #[arg(value_name = "TARGET|NAME")]
    pub targets: Vec<String>,
    /// Also snapshots that are older than the newest one there (which may have been forgotten there on purpose)
    #[arg(long)]
    pub all: bool,
    /// Send nothing; only say how far behind each replica is
    #[arg(long)]
    pub status: bool,
    /// Send at most so much a second, as in 500k or 2M
    #[arg(long, value_name = "RATE")]
    pub limit: Option<String>,
}

/// Let another icecore use a repository of this host, over its standard input and output
///
/// What `ssh://` starts at its far end. As a forced command in authorized_keys it limits a key to one repository, and with
/// --append-only to adding: `restrict,command="icecore serve --stdio --append-only /srv/replica" ssh-ed25519 …`. Then nothing that is
/// there can be changed or deleted by whoever has the key; prune there, with --by-arrival.
#[derive(Args)]
pub struct Serve {
    /// Speak over stdin and stdout
    #[arg(long, required = true)]
    pub stdio: bool,
    /// Refuse whatever would change or delete a file
    #[arg(long)]
    pub append_only: bool,
    /// The repository's directory [default: -r]
    pub path: Option<PathBuf>,
}

/// Show and change who can open an encrypted repository
///
/// The repository has one random key; keys/ holds it once for each recipient, wrapped with age. Adding or removing one rewrites no
/// data. Encryption is chosen at `init`, with --recipient or --passphrase.
#[derive(Args)]
pub struct KeyArguments {
    #[command(subcommand)]
    pub action: KeyAction,
}

#[derive(Subcommand)]
pub enum KeyAction {
    /// List for whom the repository's key is wrapped
    List,
    /// Wrap it for another recipient, or for a passphrase
    Add(KeyAdd),
    /// Remove a wrapped key (not the last one)
    Remove {
        /// Its holder, or its whole name
        name: String,
    },
}

#[derive(Args)]
pub struct KeyAdd {
    /// age1…, an ssh public key, or a file that holds one
    #[arg(long, value_name = "KEY", conflicts_with = "passphrase", required_unless_present = "passphrase")]
    pub recipient: Option<String>,
    /// A passphrase, asked for at the terminal, or from --new-passphrase-file
    #[arg(long)]
    pub passphrase: bool,
    /// A file whose first line is the new passphrase
    #[arg(long, value_name = "FILE", requires = "passphrase")]
    pub new_passphrase_file: Option<PathBuf>,
    /// What the key is called [default: recipient or passphrase]
    #[arg(long)]
    pub name: Option<String>,
}

/// Print a completion script for a shell
#[derive(Args)]
pub struct Completions {
    pub shell: clap_complete::Shell,
}

/// Print the manual page, or write one per verb into a directory
#[derive(Args)]
pub struct Man {
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
}
