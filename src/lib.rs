//! Frequent, cheap, proven snapshots of SQLite databases, Chroma stores and the files beside them.
//!
//! The map of the rooms is in `docs/architecture.md`, the stored bytes are in `docs/format.md`.

pub mod backend;
pub mod backup;
pub mod catalog;
pub mod check;
pub mod chunking;
pub mod cli;
pub mod config;
pub mod cores;
pub mod crypto;
pub mod differing;
pub mod flow;
pub mod format;
pub mod hold;
pub mod hooks;
pub mod id;
pub mod key;
pub mod progress;
pub mod prune;
pub mod reach;
pub mod replicate;
pub mod repository;
pub mod restore;
pub mod retention;
pub mod serve;
pub mod source;
pub mod stamp;
pub mod validate;
