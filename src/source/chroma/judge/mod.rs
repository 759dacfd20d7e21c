//! Proves that a stored Chroma directory is one that Chroma opens with everything in place.

mod collections;
mod context;
mod database_rows;
mod elements;
mod fingerprint;
mod id_maps;
mod index_files;
mod label_window;
mod link_lists;
mod offenders;
mod pickle_input;
mod pickle_memo;
mod pickle_reader;
mod pickle_stack;
mod queue;
mod replay;
mod schema;
mod segments;
mod sequence_numbers;
mod store;
mod trouble;
mod vectors;
mod window;
mod workspace;

pub use pickle_reader::count_pickle_entries;
pub use store::judge;
