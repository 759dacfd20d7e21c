//! Whether the repository is sound, what is concerned where it isn't, and how it becomes so again.

mod affected;
mod files;
mod inspect;
mod packs;
mod repair;

pub use affected::Affected;
pub use inspect::{Checked, Problem, ReadData, Scope, check};
pub use packs::Part;
pub use repair::{Repaired, Replacements, repair};
