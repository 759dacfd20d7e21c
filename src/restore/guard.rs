//! Makes sure that nobody uses what is about to be overwritten.

use super::plan::Plan;
use crate::hold::{Holder, Holders, Openness, open_file, openness, sqlite_locks_of};
use std::path::PathBuf;

/// What could be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Nobody.
    Free,
    /// Somebody.
    Held,
    /// It can't be told for every file.
    Unknown,
}

/// Whether the files of some targets are in use.
#[derive(Debug, Clone)]
pub struct Guard {
    /// Other processes, whatever their PID namespace, that have a file open or mapped.
    pub open_files: Finding,
    /// SQLite's own locks.
    pub locks: Finding,
    /// Files that are open or locked.
    pub in_use: Vec<PathBuf>,
    /// Who has them, as far as can be seen from here.
    pub holders: Vec<Holder>,
    /// A file about which it can't be told, and why.
    pub unknown: Option<(PathBuf, String)>,
}

/// Looks at every file that is there. Nothing is changed, nobody is kept waiting but for an instant.
pub fn guard(plans: &[&Plan]) -> Guard {
    let files = || plans.iter().flat_map(|plan| &plan.present);
    let (mut in_use, mut hidden) = (Vec::new(), Vec::new());
    let mut unknown = None;
    for path in files() {
        match open_file(path).map(|file| openness(&file)) {
            Ok(Openness::Alone) => {}
            Ok(Openness::Open) => in_use.push(path.clone()),
            Ok(Openness::AloneHere) => {
                let reason = "its file system can be used from other machines, or under another mount";
                unknown.get_or_insert((path.clone(), reason.to_owned()));
            }
            Ok(Openness::Unknown(reason)) => hidden.push((path.clone(), reason)),
            Err(error) => hidden.push((path.clone(), format!("it can't be opened: {error}"))),
        }
    }
    // Where no lease can be had, what /proc shows must do: it is enough where it shows every process.
    let mut holders = Holders::default();
    if !in_use.is_empty() {
        holders = Holders::of(&in_use);
    } else if !hidden.is_empty() {
        let paths: Vec<PathBuf> = hidden.iter().map(|(path, _)| path.clone()).collect();
        holders = Holders::of(&paths);
        in_use.extend(holders.list.iter().map(|holder| holder.path.clone()));
        unknown = unknown.or_else(|| hidden.into_iter().next().filter(|_| !holders.saw_all));
    }
    let open_files = match (in_use.is_empty(), &unknown) {
        (false, _) => Finding::Held,
        (true, Some(_)) => Finding::Unknown,
        (true, None) => Finding::Free,
    };
    let databases = plans.iter().flat_map(|plan| &plan.databases);
    let locked: Vec<PathBuf> =
        databases.filter(|path| sqlite_locks_of(path).unwrap_or(false)).cloned().collect();
    let locks = match (locked.is_empty(), &unknown) {
        (false, _) => Finding::Held,
        (true, Some(_)) => Finding::Unknown,
        (true, None) => Finding::Free,
    };
    in_use.extend(locked);
    in_use.sort_unstable();
    in_use.dedup();
    Guard { open_files, locks, in_use, holders: holders.list, unknown }
}

impl Guard {
    /// Nothing was looked at.
    pub fn word(finding: Finding) -> &'static str {
        match finding {
            Finding::Free => "none",
            Finding::Held => "held",
            Finding::Unknown => "unknown",
        }
    }
}
