//! Whether locks taken here are seen by whoever writes a file.

use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, fstatfs,
};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::OnceLock;

/// f2fs and ZFS on Linux, by their kernel sources; nix has no names for them.
const F2FS: FsType = FsType(0xF2F5_2010);
const ZFS: FsType = FsType(0x2FC1_2FC1);

/// The layers of the overlays that are mounted: a file there is another inode than the one that is used through the mount,
/// so locks don't meet.
fn overlay_layers() -> &'static [PathBuf] {
    static LAYERS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    LAYERS.get_or_init(|| {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let overlays = mounts.lines().filter_map(|line| line.split_once(" - overlay "));
        let options = overlays.flat_map(|(_, rest)| rest.split([' ', ',']));
        let layers = options.filter_map(|option| {
            ["upperdir=", "lowerdir="].into_iter().find_map(|name| option.strip_prefix(name))
        });
        layers.flat_map(|paths| paths.split(':')).map(PathBuf::from).collect()
    })
}

/// True on local file systems whose locks are kept by this kernel. On NFS, 9p, virtiofs and FUSE the writer may live
/// behind another kernel, and a lock proves nothing; nor does one on a layer of an overlay.
pub fn locks_reach(file: &File) -> bool {
    let local =
        [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, TMPFS_MAGIC, OVERLAYFS_SUPER_MAGIC, F2FS, ZFS];
    let is_layer = || {
        let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default();
        overlay_layers().iter().any(|layer| path.starts_with(layer))
    };
    fstatfs(file).is_ok_and(|stat| local.contains(&stat.filesystem_type())) && !is_layer()
}
