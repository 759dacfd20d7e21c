//! The command line: what was typed, what it means, what came of it.

mod args;
mod backup;
mod browse;
mod check;
mod connect;
mod context;
mod exit_code;
mod failure;
mod forget;
mod format_text;
mod init;
mod key;
mod list;
mod manual;
mod place;
mod progress_bar;
mod prune;
mod replicate;
mod report;
mod restore;
mod run;
mod selection;
mod serve;
mod status;
mod unlock;
mod validate;

pub use run::main;
