//! The command line: what was typed, what it means, what came of it.

mod args;
mod backup;
mod browse;
mod check;
mod context;
mod exit_code;
mod failure;
mod forget;
mod format_text;
mod init;
mod list;
mod manual;
mod progress_bar;
mod prune;
mod report;
mod restore;
mod run;
mod selection;
mod status;
mod validate;

pub use run::main;
