//! What is typed to look at snapshots and to prove them.

use clap::Args;
use std::path::PathBuf;

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
