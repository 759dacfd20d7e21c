//! Each way in which a restore ends early: code, what was left untouched, what to do next.

use super::told::{self, Restored, Told};
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, interrupted};
use crate::flow::{RestoreFailed, RestoreFailure, SaveError};
use crate::hooks::HookError;
use crate::repository::RepositoryError;
use crate::restore::RestoreError;
use std::path::Path;

/// How many users of files, or unreadable paths, a message names.
const NAMED: usize = 8;

/// A restore that ended early, as a failure with all keys.
pub fn failure_of(failed: RestoreFailed, mut told: Told, items: &[Restored]) -> Failure {
    let RestoreFailed { error, so_far } = failed;
    told.take(so_far);
    let message = error.to_string();
    let bad = |code, hint: &str| Failure::new(ExitCode::RestoredButBad, code, &message).hint(hint);
    match error {
        RestoreFailure::BeforeRestore(HookError::Interrupted) => told.into_failure(interrupted()),
        RestoreFailure::BeforeRestore(_) => told.into_failure(
            Failure::new(ExitCode::HookFailed, "hook_failed", format!("{message}; nothing was changed"))
                .hint("mend it, or leave it out with --no-hooks"),
        ),
        RestoreFailure::CannotPlan(error) => told.into_failure(cannot_plan(error)),
        RestoreFailure::InUse => in_use(told),
        RestoreFailure::Blind { path, reason } => told.into_failure(blind(&path, &reason)),
        RestoreFailure::NoSpace(shortage) => told.into_failure(told::no_space(&shortage)),
        RestoreFailure::Save(error) => told.into_failure(cannot_save(error, &message)),
        RestoreFailure::Unsaved { paths } => {
            let mut failure = Failure::new(ExitCode::Refused, "safety_incomplete", message).hint(
                "nothing was changed; --accept-incomplete-safety goes on all the same, and these can't be brought back",
            );
            failure.details = paths.into_iter().take(NAMED).collect();
            told.into_failure(failure)
        }
        RestoreFailure::Journal(error) => {
            let mut failure = Failure::from(error);
            failure.message = message;
            told.into_failure(failure)
        }
        RestoreFailure::Place(error) => {
            let failure = not_finished(error, &told);
            told.into_failure(failure)
        }
        RestoreFailure::Unsound => {
            let hint = format!(
                "do not start the service on it. `{}` brings back what was there before, or restore another snapshot",
                told.undo_command()
            );
            told.into_bad(items, bad("restored_invalid", &hint))
        }
        RestoreFailure::Unchecked(error) => {
            let failure = unchecked(error);
            told.into_bad(items, failure)
        }
        RestoreFailure::Verify(HookError::Interrupted) => told.into_bad(items, interrupted()),
        RestoreFailure::Verify(_) => {
            let hint = "its files are as in the snapshot; `--resume` runs the check again, `--rollback` undoes the restore";
            told.into_bad(items, bad("verify_failed", hint))
        }
        RestoreFailure::AfterRestore(_) => {
            let hint =
                "the sources are restored and checked: what `after_restore` should have done is left to you";
            told.into_bad(items, bad("after_restore_failed", hint))
        }
    }
}

/// The target or the snapshot makes it impossible; nothing was changed.
pub fn cannot_plan(error: RestoreError) -> Failure {
    let message = format!("{error}; nothing was changed");
    let refused = |code, path: &Path| Failure::new(ExitCode::Refused, code, &message).at(path);
    match &error {
        RestoreError::Repository(_) | RestoreError::Interrupted => {
            let mut failure = match error {
                RestoreError::Repository(error) => Failure::from(error),
                _ => interrupted(),
            };
            failure.message = message;
            failure
        }
        RestoreError::MountPoint { path, .. } => {
            refused("mount_in_the_way", path).hint("unmount it, or restore elsewhere (--target, --map)")
        }
        RestoreError::DanglingLink { path } => {
            refused("dangling_link", path).hint("remove the symlink, or name the real place (--target, --map)")
        }
        RestoreError::Unwritable { path, .. } => refused("target_unwritable", path)
            .hint("is it mounted read-only, or owned by another user? Run as root, or mount it writable"),
        RestoreError::Io { path, source, .. } => refused("target_unusable", path).hint(hint_for(source)),
        RestoreError::Overlap { path, .. } => refused("targets_overlap", path).hint(
            "restore one after the other, or leave one out with --without; a source inside another is best left out of it by \
             `exclude`",
        ),
        RestoreError::HoldsLeftOut { path, .. } => refused("left_out_in_the_way", path)
            .hint("no snapshot holds it: move it away, then run the same restore again"),
        RestoreError::Device { path } => {
            refused("target_unusable", path).hint("name a directory or a file (--target, --map)")
        }
        RestoreError::NotEmpty { path } | RestoreError::InUse { path } | RestoreError::Differs { path } => {
            refused("target_unusable", path)
        }
        RestoreError::Unchecked { .. } => Failure::new(ExitCode::Refused, "target_unusable", &message),
    }
}

/// What may help against an error of the system.
fn hint_for(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "this user may not look there: run as root or as the owner; what a snapshot noted as unreadable is left alone"
        }
        std::io::ErrorKind::NotADirectory => {
            "a file, or a symlink, is where a directory has to be: on the way into a source no symlink is followed. Move it \
             away, or name another place (--target, --map)"
        }
        _ => "mend the cause, or name another place (--target, --map)",
    }
}

/// Somebody has files open.
pub fn in_use(told: Told) -> Failure {
    let guard = told.guard.clone();
    let (files, holders) = guard.map(|guard| (guard.in_use, guard.holders)).unwrap_or_default();
    let mut details: Vec<String> = holders
        .iter()
        .take(NAMED)
        .map(|holder| format!("process {} ({}) has {}", holder.pid, holder.command, holder.path.display()))
        .collect();
    let unseen = files.iter().filter(|path| !holders.iter().any(|holder| holder.path == **path));
    details.extend(unseen.take(NAMED).map(|path| {
        format!("{} is open in a process that can't be seen from here (another container?)", path.display())
    }));
    let message = format!("{} file(s) that would be overwritten are in use", files.len());
    let mut failure = Failure::new(ExitCode::Refused, "files_in_use", message)
        .hint("nothing was changed; stop the service that uses them, then run the same restore again");
    failure.path = files.first().map(|path| path.display().to_string());
    failure.details = details;
    told.into_failure(failure)
}

/// Nobody can tell whether files are open.
pub fn blind(path: &Path, reason: &str) -> Failure {
    let message = format!("it can't be told whether {} is in use: {reason}", path.display());
    Failure::new(ExitCode::Refused, "guard_blind", message).at(path).hint(
        "nothing was changed. Run as root or as the files' owner; or make sure yourself that nothing uses them, and say so \
         with --accept-blind-guard",
    )
}

fn cannot_save(error: SaveError, message: &str) -> Failure {
    let mut failure = match error {
        SaveError::Backup(error) => Failure::from(error),
        SaveError::Repository(error) => Failure::from(error),
        SaveError::Journal(error) => Failure::from(error),
    };
    failure.message = format!("{message}; nothing was changed");
    let instead = "`--no-pre-snapshot --state-dir DIR`, which keeps only what is overwritten, in DIR";
    let so = "the safety snapshot goes into the repository";
    failure.hint = match (failure.exit, failure.hint) {
        (ExitCode::Signal(_), hint) => hint,
        (ExitCode::Damaged, Some(mending)) => Some(format!(
            "{so}, and would refer to what is damaged there. To restore first, add {instead}. Then mend: {mending}"
        )),
        (ExitCode::NoSpace, _) | (_, None) => Some(format!("{so}. Free some room there, or add {instead}")),
        (_, Some(hint)) => Some(format!("{so}: {hint}. Or add {instead}")),
    };
    failure
}

/// The target may be a mix of old and new.
fn not_finished(error: RestoreError, told: &Told) -> Failure {
    let place = told
        .journal
        .as_ref()
        .map(|open| format!(" (its journal: {})", open.path().display()))
        .unwrap_or_default();
    let message = format!("the restore is incomplete: {error}{place}");
    let hint = format!(
        "databases that were begun can't be opened until it is finished: mend the cause, then `{}`; or bring back what was \
         there before by `{}`",
        told.resume_command(),
        told.undo_command()
    );
    let mut failure = match error {
        RestoreError::Repository(
            error @ (RepositoryError::Damaged { .. } | RepositoryError::MissingChunk { .. }),
        ) => Failure::from(error),
        RestoreError::Interrupted => interrupted(),
        RestoreError::Io { ref path, .. }
        | RestoreError::MountPoint { ref path, .. }
        | RestoreError::InUse { ref path }
        | RestoreError::Unwritable { ref path, .. } => {
            Failure::new(ExitCode::RestoreIncomplete, "restore_incomplete", "").at(path)
        }
        _ => Failure::new(ExitCode::RestoreIncomplete, "restore_incomplete", ""),
    };
    failure.message = message;
    failure.hint(hint)
}

fn unchecked(error: RestoreError) -> Failure {
    let again = "`--resume` checks it again, `--rollback` undoes the restore";
    match &error {
        RestoreError::Unchecked { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            Failure::new(ExitCode::RestoredButBad, "restored_unchecked", error.to_string()).hint(format!(
                "its bytes are in place; --temp-dir names a place with room for the check; {again}"
            ))
        }
        RestoreError::Interrupted => interrupted(),
        RestoreError::Differs { path } => {
            Failure::new(ExitCode::RestoredButBad, "restored_differs", error.to_string())
                .at(path)
                .hint(format!("somebody writes there, or the disk is failing; {again}"))
        }
        _ => Failure::new(ExitCode::RestoredButBad, "restored_unchecked", error.to_string())
            .hint(format!("its bytes are in place; {again}")),
    }
}

#[cfg(test)]
mod tests {
    use super::cannot_save;
    use crate::flow::SaveError;
    use crate::repository::RepositoryError;

    #[test]
    fn who_cannot_save_learns_what_helps() {
        let damaged = SaveError::Repository(RepositoryError::damaged("a pack", "it is short"));
        let hint = cannot_save(damaged, "m").hint.unwrap();
        assert!(
            hint.contains("damaged there")
                && hint.contains("--no-pre-snapshot")
                && hint.contains("--reread")
                && !hint.contains("room"),
            "{hint}"
        );
        let asked = SaveError::Repository(RepositoryError::Interrupted);
        assert_eq!(cannot_save(asked, "m").hint, None);
    }
}
