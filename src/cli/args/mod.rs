//! What can be typed.

mod away;
mod keep;
mod look;
mod save;

pub use away::{KeyAction, KeyAdd, KeyArguments, Replicate, Serve};
pub use keep::{Check, Completions, Forget, Man, Pin, Prune, Repair};
pub use look::{Cat, Diff, List, Ls, Show, Status, Validate};
pub use save::{Backup, Init, LevelArgument, Restore};

use clap::{Args, Parser, Subcommand};
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
