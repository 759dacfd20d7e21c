//! Looks at what was restored, as it lies on the disk.

use super::restore_items::RestoreItem;
use crate::format::{Finding, Level};
use crate::progress::Progress;
use crate::repository::Repository;
use crate::restore::{Owner, PlacedFiles, RestoreError, Target, survey};
use crate::source::{JudgeOptions, judge};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// How to check.
pub struct Check<'c> {
    pub repository: &'c Repository,
    pub owner: Owner,
    pub temporary_directory: &'c Path,
    pub progress: &'c dyn Progress,
}

impl Check<'_> {
    /// Checks all items at their places.
    pub fn all(&self, items: &[RestoreItem], targets: &[Target]) -> Result<Vec<Finding>, RestoreError> {
        let mut findings = Vec::new();
        for (item, target) in items.iter().zip(targets) {
            self.progress.begin(&format!("checking {}", item.name()), None);
            match &item.goal.root {
                Some(root) if item.is_whole() && !item.goal.is_raw => {
                    let (root, target) = (root.clone(), target.path());
                    let files = PlacedFiles { repository: self.repository, root, target };
                    // What a full-text index says is derived from what else is there; to compare the two takes longer
                    // than the restore, and is what proofs of snapshots are for.
                    let temporary_directory = self.temporary_directory;
                    let (level, stop) = (Level::Full, self.progress.stop());
                    let options = JudgeOptions { level, full_texts: None, temporary_directory, stop };
                    let judged = judge(item.kind, &item.source, &files, &options);
                    if self.progress.interrupted() {
                        return Err(RestoreError::Interrupted);
                    }
                    let unchecked = |source| RestoreError::Unchecked { name: item.name(), source };
                    findings.extend(judged.map_err(unchecked)?.findings);
                }
                // A part can't be judged, nor what nobody claimed to be sound: it is compared once more.
                _ => self.is_as_planned(item, target)?,
            }
        }
        Ok(findings)
    }

    fn is_as_planned(&self, item: &RestoreItem, target: &Target) -> Result<(), RestoreError> {
        let options = item.survey_options(self.owner, false);
        let plan = survey(self.repository, &item.goal, target, &options, self.progress)?;
        plan.unsettled().map_or(Ok(()), |step| {
            let path = target.path();
            let path = if step.path.is_empty() { path } else { path.join(OsStr::from_bytes(&step.path)) };
            Err(RestoreError::Differs { path })
        })
    }
}
