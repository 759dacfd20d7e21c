//! A flat place where bytes are kept under keys, each written whole or not at all.

#[cfg(test)]
mod contract;
mod disk;
mod interface;
mod local;
mod memory;

pub use disk::{Disk, DiskFile, DiskItem, DiskLock, RealDisk};
pub use interface::{Backend, BackendError, ErrorKind, Lock, LockGuard, LockKind};
pub use local::LocalBackend;
pub use memory::MemoryBackend;
