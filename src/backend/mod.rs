//! A flat place where bytes are kept under keys, each written whole or not at all.

#[cfg(test)]
mod contract;
mod direct;
mod disk;
mod interface;
mod limit;
mod local;
mod memory;
mod near;
mod s3;
mod ssh;
pub mod wire;

pub use direct::Aligned;
pub use disk::{Disk, DiskFile, DiskItem, DiskLock, RealDisk};
pub use interface::{Backend, BackendError, ErrorKind, Lock, LockGuard, LockKind, Piece, hash_anew};
pub use limit::Limit;
pub use local::LocalBackend;
pub use memory::MemoryBackend;
pub use near::NearBackend;
pub use s3::{S3Backend, S3Options};
pub use ssh::{SshBackend, SshOptions};
