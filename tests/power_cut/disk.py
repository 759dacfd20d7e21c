"""A disk that remembers: one file `disk` in a FUSE file system, whose writes and flushes go into a log.

Usage: disk.py MOUNT_POINT SIZE IMAGE LOG. A loop device on MOUNT_POINT/disk carries a real file system; what a power cut
at any moment would have left of it is put together from IMAGE and LOG (see cut.py).
"""

import errno
import os
import stat
import struct
import sys

from fuse import FUSE, FuseOSError, Operations

RECORD = struct.Struct("<BQI")  # kind (1 write, 2 flush), offset, length


class Disk(Operations):
    def __init__(self, size, image, log):
        self.size = size
        self.image = os.open(image, os.O_RDWR | os.O_CREAT)
        os.ftruncate(self.image, size)
        self.log = open(log, "ab", buffering=0)

    def getattr(self, path, handle=None):
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if path == "/disk":
            return {"st_mode": stat.S_IFREG | 0o600, "st_size": self.size, "st_nlink": 1}
        raise FuseOSError(errno.ENOENT)

    def readdir(self, path, handle):
        return [".", "..", "disk"]

    def open(self, path, flags):
        return 1

    def read(self, path, length, offset, handle):
        return os.pread(self.image, length, offset)

    def write(self, path, data, offset, handle):
        os.pwrite(self.image, data, offset)
        self.log.write(RECORD.pack(1, offset, len(data)) + data)
        return len(data)

    def fsync(self, path, only_data, handle):
        self.log.write(RECORD.pack(2, 0, 0))
        return 0

    def truncate(self, path, length, handle=None):
        pass


if __name__ == "__main__":
    mount_point, size, image, log = sys.argv[1:]
    FUSE(Disk(int(size), image, log), mount_point, foreground=True, nothreads=True, big_writes=True, allow_other=True)
