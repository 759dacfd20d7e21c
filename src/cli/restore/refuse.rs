//! Why a restore must not begin, as far as arguments and snapshots tell.

use crate::backend::ErrorKind;
use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::repository::{RepositoryError, Snapshot};
use crate::restore::{OpenJournal, Target};
use crate::stamp::Stamp;
use std::path::Path;

/// An in-place restore overwrites: the operator has to say that nobody uses the files.
pub fn by_confirmation(arguments: &args::Restore) -> Option<Failure> {
    let message = "an in-place restore overwrites live files; it needs --confirm-service-stopped";
    let hint = "nothing was changed; stop the service first. -n shows what would be done, --target DIR restores beside";
    let failure = || Failure::new(ExitCode::Refused, "confirmation_missing", message).hint(hint);
    (!arguments.confirm_service_stopped).then(failure)
}

/// The snapshot itself is a reason.
pub fn by_snapshot(context: &Context, arguments: &args::Restore, snapshot: &Snapshot) -> Option<Failure> {
    let manifest = &snapshot.manifest;
    if !snapshot.is_valid() && !arguments.accept_invalid {
        let message = format!("snapshot {} did not pass its validation", snapshot.stamp);
        return Some(
            Failure::new(ExitCode::Refused, "snapshot_invalid", message)
                .hint("nothing was changed; --accept-invalid restores it all the same, `icecore show` tells what is wrong"),
        );
    }
    let is_in_place = arguments.target.is_none();
    if is_in_place && manifest.profile != context.profile && !arguments.relocated {
        let message = format!(
            "snapshot {} is of profile {:?}, this is {:?}",
            snapshot.stamp, manifest.profile, context.profile
        );
        return Some(Failure::new(ExitCode::Refused, "other_profile", message).hint(
            "nothing was changed; --relocated restores it here, --profile or the config says who this is",
        ));
    }
    None
}

/// The repository must not be overwritten, nor anything be put into it.
pub fn by_repository(context: &Context, place: &Path) -> Result<(), Failure> {
    let real = |path: &Path| {
        let target = Target { base: path.to_owned(), part: Default::default() };
        target.resolve().map_or_else(|_| path.to_owned(), |found| found.base)
    };
    let Some(repository) = context.local_path().map(|path| real(&path)) else { return Ok(()) };
    let place = real(place);
    if place.starts_with(&repository) || repository.starts_with(&place) {
        let message = format!("{} and the repository {} overlap", place.display(), repository.display());
        let hint = "nothing was changed; restore to a place outside the repository";
        return Err(Failure::new(ExitCode::Refused, "targets_overlap", message).at(&place).hint(hint));
    }
    Ok(())
}

/// Another run has the profile's lock.
pub fn by_running(error: RepositoryError) -> Failure {
    let mut failure = Failure::from(error);
    failure.message = format!("{}; nothing was changed", failure.message);
    failure
}

/// Another run has gone on with the restore that was to be finished or undone.
pub fn by_change(open: &OpenJournal) -> Failure {
    let message = "another run has just finished or undone this restore";
    Failure::new(ExitCode::Busy, "busy", message)
        .at(&open.path())
        .hint("nothing was changed; look with `icecore status`, then decide again")
}

/// A snapshot that an earlier run's journal refers to is gone.
pub fn by_gone(error: RepositoryError, stamp: Stamp, other_way: &str) -> Failure {
    let is_gone = matches!(&error, RepositoryError::Backend(error) if error.kind == ErrorKind::NotFound);
    if !is_gone {
        return error.into();
    }
    let message =
        format!("snapshot {stamp}, which this needs, is gone from the repository: was it forgotten?");
    Failure::new(ExitCode::NoSnapshot, "no_such_snapshot", message)
        .hint(format!("nothing was changed; {other_way}, or restore another snapshot from `icecore list` once the target was \
                       brought to a whole state"))
}

/// An earlier restore was interrupted at the same place.
pub fn by_unfinished(context: &Context, open: &OpenJournal, exit: ExitCode) -> Failure {
    let places: Vec<String> = open.targets().iter().map(|path| path.display().to_string()).collect();
    let what = match &open.journal.undoes {
        Some(_) => "the rollback of a restore".to_owned(),
        None => format!("a restore of snapshot {}", open.journal.goal.stamp),
    };
    let message = format!(
        "{what} into {} was interrupted: what is there may be a mix of old and new (journal: {})",
        places.join(", "),
        open.path().display()
    );
    let command = |verb| format!("{} --journal {} --confirm-service-stopped", context.again(verb), open.id);
    let (resume, rollback) = (command("--resume"), command("--rollback"));
    let hint = match &open.journal.undoes {
        Some(_) => format!("`{rollback}` finishes going back"),
        None => format!("`{resume}` finishes it, `{rollback}` brings back what was there before"),
    };
    Failure::new(exit, "restore_incomplete", message).at(&open.path()).hint(hint)
}
