//! Joins verbs: what the command line, and any other face, does in one go.

mod check_restored;
mod prove_and_publish;
mod restore_beside;
mod restore_items;
mod restore_safely;
mod retain;
mod save_before;

pub use prove_and_publish::{FlowError, PublishRequest, Published, Unpublished, prove_and_publish};
pub use restore_beside::{BesideError, restore_beside};
pub use restore_items::RestoreItem;
pub use restore_safely::{
    Before, Prospect, RestoreFailed, RestoreFailure, RestoreRequest, Restored, look, look_for_users,
    restore_safely,
};
pub use retain::{CountedBy, arrivals, verdicts};
pub use save_before::{SaveError, SaveTo, open_undo};
