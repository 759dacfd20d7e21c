//! Why a restore must not begin, as far as arguments and snapshots tell.

use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::repository::Snapshot;
use crate::restore::OpenJournal;

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

/// An earlier restore was interrupted at the same place.
pub fn by_unfinished(open: &OpenJournal, exit: ExitCode) -> Failure {
    let places: Vec<String> = open.targets().iter().map(|path| path.display().to_string()).collect();
    let message = format!(
        "a restore of snapshot {} into {} was interrupted: what is there may be a mix of old and new",
        open.journal.goal.stamp,
        places.join(", ")
    );
    Failure::new(exit, "restore_incomplete", message).at(&open.path()).hint(
        "nothing was changed. `icecore restore --resume --confirm-service-stopped` finishes it, \
         `icecore restore --rollback --confirm-service-stopped` brings back what was there before",
    )
}
