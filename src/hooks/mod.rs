//! Commands of the user that bring an application to rest before it is read or written, and let it go on afterwards.

mod command;
mod quiesced;
mod restoring;
mod spec;

pub use command::{HookCommand, HookError};
pub use quiesced::Quiesced;
pub use spec::Hooks;
