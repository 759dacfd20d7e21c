//! What is typed about other places, and about who can open a repository.

use clap::{Args, Subcommand};
use std::path::PathBuf;

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
