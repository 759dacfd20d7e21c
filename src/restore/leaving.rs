//! What of the present state goes, but never what the snapshot left out: nobody has a copy of that.

use super::error::RestoreError;
use super::plan::Action;
use super::present::stat_at;
use super::remove::{is_mount_point, names, open_below};
use super::survey::Surveyor;
use super::target::{changeable, join};
use crate::format::EntryKind;
use nix::sys::stat::FileStat;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

impl Surveyor<'_> {
    /// Plans the removal of a name that the snapshot doesn't have. A directory that holds what stays, or a mount point,
    /// stays too, without the rest. True if the name goes.
    pub(super) fn leave(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        stat: &FileStat,
    ) -> Result<bool, RestoreError> {
        let shown = self.shown(path);
        if is_mount_point(directory, name) {
            self.present.mount_points.push(shown);
            return Ok(false);
        }
        let first_step = self.plan.steps.len();
        if EntryKind::of_mode(stat.st_mode) == Some(EntryKind::Directory) {
            let below = open_below(directory, name, &shown)?;
            let (mut loses, mut keeps) = (false, false);
            for inner in names(below.as_fd(), &shown)? {
                let inner_path = join(path, &inner);
                let Some(stat) = stat_at(below.as_fd(), &inner, &self.shown(&inner_path))? else { continue };
                let is_directory = EntryKind::of_mode(stat.st_mode) == Some(EntryKind::Directory);
                let goes = !self.options.extras.stays(path, &inner, is_directory)
                    && self.leave(below.as_fd(), &inner, &inner_path, &stat)?;
                loses |= goes;
                keeps |= !goes;
            }
            if loses {
                changeable(below.as_fd(), &shown)?;
            }
            if keeps {
                return Ok(false);
            }
            if !self.options.lists_all {
                self.plan.steps.truncate(first_step);
            }
        }
        self.present.note_one(stat, &shown);
        self.step(path, Action::Delete, 0);
        Ok(true)
    }

    /// What lies at a name makes room for something else, and must hold nothing that stays.
    pub(super) fn give_way(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        stat: &FileStat,
        wanted: &'static str,
    ) -> Result<(), RestoreError> {
        let shown = self.shown(path);
        let mounts_before = self.present.mount_points.len();
        self.present.note_leaving(directory, name, stat, &shown)?;
        if let Some(mount) = self.present.mount_points.get(mounts_before) {
            return Err(RestoreError::MountPoint { path: mount.clone(), wanted });
        }
        match self.first_kept(directory, name, path, stat)? {
            Some(kept) => Err(RestoreError::HoldsLeftOut { path: shown, kept }),
            None => Ok(()),
        }
    }

    /// Something at or below a name that stays.
    fn first_kept(
        &self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        stat: &FileStat,
    ) -> Result<Option<PathBuf>, RestoreError> {
        if EntryKind::of_mode(stat.st_mode) != Some(EntryKind::Directory) {
            return Ok(None);
        }
        let shown = self.shown(path);
        let below = open_below(directory, name, &shown)?;
        for inner in names(below.as_fd(), &shown)? {
            let inner_path = join(path, &inner);
            let Some(stat) = stat_at(below.as_fd(), &inner, &self.shown(&inner_path))? else { continue };
            let is_directory = EntryKind::of_mode(stat.st_mode) == Some(EntryKind::Directory);
            if self.options.extras.stays(path, &inner, is_directory) {
                return Ok(Some(self.shown(&inner_path)));
            }
            if let Some(kept) = self.first_kept(below.as_fd(), &inner, &inner_path, &stat)? {
                return Ok(Some(kept));
            }
        }
        Ok(None)
    }
}
