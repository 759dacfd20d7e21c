//! A flat place where bytes are kept under keys, each written whole or not at all.

#[cfg(test)]
mod contract;
mod interface;
mod local;
mod memory;

pub use interface::{Backend, BackendError, ErrorKind, Lock, LockGuard};
pub use local::LocalBackend;
pub use memory::MemoryBackend;
