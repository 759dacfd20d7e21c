//! Joins verbs: what the command line, and any other face, does in one go.

mod prove_and_publish;
mod restore_and_check;

pub use prove_and_publish::{FlowError, PublishRequest, Published, Unpublished, prove_and_publish};
pub use restore_and_check::{RestoreItem, Restored, restore_and_check};
