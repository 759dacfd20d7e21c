//! Puts a snapshot's entries back: into an empty place, or over what is there without changing an inode.
//!
//! `survey` looks and writes a `Plan`, `place` carries it out. In between the state before is saved, and nothing but the
//! target itself tells later how far a restore has come.

mod attributes;
mod content;
mod database;
mod durable;
mod error;
mod extras;
mod guard;
mod holes;
mod journal;
mod leaving;
mod links;
mod make;
mod output;
mod place;
mod placed_files;
mod plan;
mod present;
mod remove;
mod report;
mod sidecars;
mod space;
mod survey;
mod survey_file;
mod target;
mod worker;
mod worker_databases;

pub use error::RestoreError;
pub use extras::Extras;
pub use guard::{Finding, Guard, guard};
pub use journal::{JournalPlace, Journals, OpenJournal};
pub use place::place;
pub use placed_files::PlacedFiles;
pub use plan::{Action, Goal, Main, Plan, Step};
pub use report::{Owner, Placed};
pub use space::{Shortage, shortage};
pub use survey::{SurveyOptions, survey};
pub use target::Target;
pub use worker::Order;
