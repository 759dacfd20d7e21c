//! Brings another place up to date with a repository: what is missing there is sent, nothing is taken away.

mod choose;
mod done;
mod error;
mod needed;
mod publish;
mod run;
mod send;

pub use choose::Wanted;
pub use done::Replicated;
pub use error::ReplicateError;
pub use run::{Source, Terms, prove_alike, replicate, stamps};
