//! Everything that needs the built program, real files or real peers.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test says what it found, and stops"
)]

mod architecture;
mod chroma_fixtures;
mod chroma_judge;
mod chroma_real;
mod chroma_store;
mod chroma_storm;
mod command_line;
mod concurrency;
mod crash_matrix;
mod damage;
mod disaster;
mod encryption;
mod errors;
mod extract;
mod far;
mod fault_disk;
mod formats;
mod holds;
mod hooks;
mod hostile_applications;
mod hostile_bytes;
mod increments;
mod index_cache;
mod links;
mod model;
mod pack_lane;
mod power_cut;
mod prune;
mod prune_copies;
mod reencode;
mod repair;
mod replicas;
mod repository_faults;
mod restore_again;
mod restore_bytes;
mod restore_crash;
mod restore_drill;
mod restore_faults;
mod restore_guard;
mod restore_in_place;
mod restore_left_out;
mod restore_mounts;
mod restore_states;
mod rsync;
mod s3;
mod sqlite_live;
mod support;
mod trees;
mod untouched;
