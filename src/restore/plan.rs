//! What a restore will do to one target, written down before the first byte is changed.

use crate::format::Entry;
use crate::source::Compared;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

/// What shall be at a target.
#[derive(Debug, Clone, Default)]
pub struct Goal {
    /// `None`: nothing.
    pub root: Option<Entry>,
    /// Files that SQLite keeps beside a source that is one database.
    pub sidecars: Vec<Entry>,
    /// Files as they lay, databases among them: nothing was settled.
    pub is_raw: bool,
}

/// What will happen to a database: overwritten in an order that leaves it unreadable until it is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseChange {
    pub main: Main,
    /// Names beside it that belong to what was there before, and go.
    pub stale: Vec<Vec<u8>>,
    /// Names beside it that belong to what is put there.
    pub beside: Vec<Vec<u8>>,
}

/// What will happen to the database's own file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Main {
    /// The file stays, with these chunks written.
    Overwrite { differing: Arc<[u32]> },
    /// There is none that could stay.
    Make,
    /// It goes.
    Remove,
}

/// What will happen to one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing. Only listed if everything is to be listed.
    Keep,
    /// Removed, with everything below it.
    Delete,
    /// Made, with everything below it.
    Create,
    /// Removed and made anew: it is of another kind, or has names elsewhere that must not change.
    Replace,
    /// Made another name of the file at this path.
    Link {
        to: Vec<u8>,
    },
    /// These chunks are written into the file, its length and holes set.
    Write {
        differing: Arc<[u32]>,
        /// Its length is another now.
        resizes: bool,
    },
    Database(DatabaseChange),
    /// Owner, mode, times or extended attributes are set.
    Attributes,
}

/// One name below the target, and what will happen to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Empty: the target itself.
    pub path: Vec<u8>,
    pub action: Action,
    /// Bytes that will be written at most; exactly if everything is to be listed.
    pub bytes: u64,
}

impl Step {
    /// The directory above the target gains or loses names.
    pub fn changes_names_at_target(&self) -> bool {
        let changes = match &self.action {
            Action::Delete | Action::Create | Action::Replace | Action::Link { .. } => true,
            Action::Database(change) => {
                let overwrites = matches!(change.main, Main::Overwrite { .. });
                !overwrites || !change.stale.is_empty() || !change.beside.is_empty()
            }
            Action::Keep | Action::Write { .. } | Action::Attributes => false,
        };
        self.path.is_empty() && changes
    }
}

/// Everything that will happen to one target, in depth-first order, directories after what they hold.
#[derive(Debug, Default)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub kept_files: u64,
    /// Regular files that are there now.
    pub present: Vec<PathBuf>,
    /// Databases among them.
    pub databases: Vec<PathBuf>,
    /// Files that were compared: those large enough to be worth it. Whoever saves the state before needn't read again what is
    /// equal, and may note how the rest differs.
    pub compared: HashMap<Vec<u8>, Compared>,
    /// Names inside what will be made that are further names of files at these paths.
    pub inner_links: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Places below the target where other file systems are mounted.
    pub mounts: Vec<PathBuf>,
    /// What will be left undone, such as a mount point that stays.
    pub problems: Vec<String>,
    /// Bytes that the target's file system has to find, and those that removing gives back.
    pub needed_bytes: u64,
    pub freed_bytes: u64,
}

impl Plan {
    /// The target is as it shall be, but for attributes.
    pub fn is_settled(&self) -> bool {
        self.unsettled().is_none()
    }

    /// The first name whose content isn't as it shall be.
    pub fn unsettled(&self) -> Option<&Step> {
        self.steps.iter().find(|step| match &step.action {
            Action::Keep | Action::Attributes => false,
            // Holes that can't be made leave the content as it is.
            Action::Write { differing, resizes } => *resizes || !differing.is_empty(),
            _ => true,
        })
    }
}
