//! Frees space: condemns what no snapshot reaches, and deletes what was condemned long enough ago.

mod indexes;
mod plan;
mod rewrite;
mod run;
mod sound;

pub use run::{PruneOptions, Pruned, preview, prune};
