//! Whether the repository is sound, what is concerned where it isn't, and how it becomes so again.

mod affected;
mod files;
mod inspect;
mod packs;
mod problem;
mod repair;

pub use affected::Affected;
pub use inspect::{Checked, ReadData, Scope, check};
pub use packs::Part;
pub use problem::Problem;
pub use repair::{Repaired, Replacements, repair};
