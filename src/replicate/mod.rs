//! Brings another place up to date with a repository: what is missing there is sent, nothing is taken away.

mod error;
mod needed;
mod run;
mod send;

pub use error::ReplicateError;
pub use run::{Replicated, Source, Terms, Wanted, prove_alike, replicate};
