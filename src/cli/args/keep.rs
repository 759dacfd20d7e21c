//! What is typed to keep and free, and about the repository itself.

use clap::Args;
use std::path::PathBuf;

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
