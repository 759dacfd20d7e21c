//! What snapshots reach: the nodes and chunks below their roots, in memory that doesn't grow with the chunks.

mod filter;
mod lasting;
mod survey;
mod walk;

pub use lasting::{Rescued, is_still_lasting, rescue};
pub use survey::{PackState, Survey};
pub use walk::{Lost, Reached, Walk, roots};
