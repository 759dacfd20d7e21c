//! Whether locks taken here are seen by whoever writes a file.

use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, fstatfs,
};
use std::fs::File;

/// f2fs and ZFS on Linux, by their kernel sources; nix has no names for them.
const F2FS: FsType = FsType(0xF2F5_2010);
const ZFS: FsType = FsType(0x2FC1_2FC1);

/// True on local file systems whose locks are kept by this kernel. On NFS, 9p, virtiofs and FUSE the writer may live
/// behind another kernel, and a lock proves nothing.
pub fn locks_reach(file: &File) -> bool {
    let local =
        [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, TMPFS_MAGIC, OVERLAYFS_SUPER_MAGIC, F2FS, ZFS];
    fstatfs(file).is_ok_and(|stat| local.contains(&stat.filesystem_type()))
}
