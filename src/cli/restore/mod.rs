//! `restore`: puts a snapshot back, beside or in place; finishes or undoes a restore.

mod again;
mod choose;
mod failed;
mod in_place;
mod refuse;
mod told;
mod verb;

pub use refuse::by_unfinished;
pub use told::skeleton;
pub use verb::run;
