"""Cuts the power during an in-place restore, again and again, on a real file system.

The restore runs once on a disk that remembers every write and flush (disk.py); repository, journal and targets are all on
it. Then the disk is put together as a power cut at some moment could have left it: all that a flush covered, and of what
was written since then everything, nothing, or any part, each write whole or cut at a sector. The file system is mounted,
and must hold: no database can be opened whose source is half restored; `--resume` leads to the snapshot, `--rollback` to
the state before, also where the journal was not there yet (then nothing was changed).

Usage: cut.py ICECORE WORK_DIRECTORY [--kind ext4|xfs|btrfs] [--cuts N] [--seed N] [--no-pre-snapshot]
"""

import argparse
import json
import os
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
import time
from pathlib import Path

RECORD = struct.Struct("<BQI")
# A cut leaves whole sectors. btrfs mounts only if its superblock of 4 KiB was written whole: for it the disk has such sectors.
SECTOR = {"ext4": 512, "xfs": 512, "btrfs": 4096}
MARKER = b"icecore restore"
MAKE = {"ext4": ["mkfs.ext4", "-q"], "xfs": ["mkfs.xfs", "-q"], "btrfs": ["mkfs.btrfs", "-q"]}


def run(*command, **more):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **more)
    if done.returncode:
        raise SystemExit(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Disk:
    """A recorded disk with a file system, mounted at `place`."""

    def __init__(self, work, kind, megabytes):
        self.work, self.place = work, work / "mounted"
        self.image, self.log, self.fuse = work / "image", work / "log", work / "fuse"
        for directory in (self.place, self.fuse):
            directory.mkdir()
        self.size, self.sector, self.loop = megabytes << 20, SECTOR[kind], None
        with open(self.image, "wb") as image:
            image.truncate(self.size)
        run(*MAKE[kind], self.image)

    def start(self):
        """From here on everything is recorded."""
        shutil.copyfile(self.image, self.work / "base")
        script = Path(__file__).with_name("disk.py")
        arguments = [sys.executable, script, self.fuse, str(self.size), self.image, self.log]
        self.server = subprocess.Popen([str(part) for part in arguments])
        while not (self.fuse / "disk").exists():
            time.sleep(0.05)
        self.loop = run("losetup", "--find", "--show", self.fuse / "disk").strip()
        run("mount", self.loop, self.place)

    def stop(self):
        run("umount", self.place)
        run("losetup", "-d", self.loop)
        run("umount", self.fuse)
        self.server.wait()

    def records(self):
        data, at, found = self.log.read_bytes(), 0, []
        while at < len(data):
            kind, offset, length = RECORD.unpack_from(data, at)
            at += RECORD.size
            found.append((kind, offset, data[at : at + length]))
            at += length
        return found

    def after_cut(self, records, upto, chance):
        """The image after a cut behind `upto` records. Of the writes that no flush covers each one stays with a
        probability of its own, whole or in part."""
        image = self.work / "cut"
        shutil.copyfile(self.work / "base", image)
        flushed = max((number for number in range(upto) if records[number][0] == 2), default=0)
        keep = chance.choice([0, 1, chance.random()])
        with open(image, "r+b") as disk:
            for number, (kind, offset, data) in enumerate(records[:upto]):
                if kind == 2:
                    continue
                if number > flushed:
                    if chance.random() >= keep:
                        continue
                    if keep < 1 and chance.random() < 0.2:
                        data = data[: chance.randrange(0, len(data) + 1, self.sector)]
                disk.seek(offset)
                disk.write(data)
        return image

    def mount(self, image):
        run("mount", "-o", "loop", image, self.place)

    def unmount(self):
        run("umount", self.place)

    def clean_up(self):
        """Whatever a failure has left."""
        for place in (self.place, self.fuse):
            subprocess.run(["umount", "-q", str(place)], check=False)
        if self.loop:
            subprocess.run(["losetup", "-d", self.loop], check=False, stderr=subprocess.DEVNULL)


def make_service(live):
    """A database with a journal to roll back, a store of files around a database, a tree."""
    live.mkdir()
    make_database(live / "app.db", "first")
    fixture = Path(__file__).parents[1] / "fixtures/chroma/1.5.9-whole.tar.gz"
    run("tar", "xzf", fixture, "-C", live, "--no-same-owner")
    (live / "tree/sub").mkdir(parents=True)
    (live / "tree/sub/file").write_bytes(b"1" * 150_000)
    (live / "tree/gone").write_text("gone")


def change_service(live):
    crash = (
        "import sqlite3, os\nc = sqlite3.connect('app.db', isolation_level=None)\nc.execute('pragma cache_size=2')\n"
        "c.execute('begin')\nc.execute('create table u(b)')\nc.execute(\"update t set a = a || 'changed'\")\n"
        "for i in range(400): c.execute('insert into t values(zeroblob(700))')\nos._exit(0)"
    )
    run(sys.executable, "-c", crash, cwd=live)
    connection = sqlite3.connect(live / "store/chroma.sqlite3")
    connection.executescript("create table marked(a); insert into marked values(zeroblob(60000));")
    connection.close()
    for path in live.glob("store/*/data_level0.bin"):
        path.write_bytes(bytes(byte ^ (number % 97 == 0) for number, byte in enumerate(path.read_bytes())))
    (live / "tree/sub/file").write_bytes(b"2" * 90_000)
    (live / "tree/gone").unlink()
    (live / "tree/extra").write_text("extra")


def make_database(path, mark):
    connection = sqlite3.connect(path)
    connection.execute("create table t(a)")
    connection.execute("insert into t values(?)", (mark,))
    connection.executemany("insert into t values(?)", ((f"{number} " * 90,) for number in range(300)))
    connection.commit()
    connection.close()


def vectors(live):
    return {str(path): path.read_bytes() for path in live.glob("store/*/*") if path.is_file()}


def state(live):
    """Everything that a restore brings back: names, kinds, modes, times, contents."""
    found = {}
    for path in sorted(live.rglob("*")):
        own = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(live))] = (own.st_mode, own.st_mtime_ns, content)
    return found


def differences(now, goal):
    return [name for name in sorted(now.keys() | goal.keys()) if now.get(name) != goal.get(name)]


def half_restored(live, work, sides):
    """Names a database that opens though its source is neither as before nor as wanted."""
    for database in ("app.db", "store/chroma.sqlite3"):
        copy = work / "copy.db"
        for suffix in ("", "-journal", "-wal", "-shm"):
            Path(f"{copy}{suffix}").unlink(missing_ok=True)
            source = Path(f"{live / database}{suffix}")
            if source.exists():
                shutil.copyfile(source, f"{copy}{suffix}")
        if not copy.exists():
            continue
        try:
            connection = sqlite3.connect(copy)
            check = connection.execute("pragma integrity_check").fetchone()[0]
            if database == "app.db":
                count, changed = connection.execute("select count(*), sum(a like '%changed') from t").fetchone()
                fits = (count, changed) == (301, 0)
            else:
                marked = connection.execute("select count(*) from sqlite_master where name = 'marked'").fetchone()[0]
                fits = vectors(live) == sides[marked]
            connection.close()
        except (sqlite3.DatabaseError, FileNotFoundError):
            continue
        if check != "ok" or not fits:
            return database
    return None


def read_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("icecore", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--kind", default="ext4", choices=MAKE)
    parser.add_argument("--cuts", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-pre-snapshot", action="store_true")
    return parser.parse_args()


def main():
    options = read_options()
    disk = Disk(options.work, options.kind, {"ext4": 64, "xfs": 320, "btrfs": 160}[options.kind])
    try:
        cut_again_and_again(options, disk)
    finally:
        disk.clean_up()


def cut_again_and_again(options, disk):
    chance = random.Random(options.seed)
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "ICECORE_REPOSITORY": str(disk.place / "repo")}
    saving = ["--no-pre-snapshot"] if options.no_pre_snapshot else []

    def icecore(*arguments):
        command = [str(options.icecore), "--json", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=disk.place)
        return done.returncode, json.loads(done.stdout)

    def must(*arguments):
        code, document = icecore(*arguments)
        assert code == 0, document
        return document

    disk.mount(disk.image)
    live = disk.place / "live"
    make_service(live)
    must("init")
    sources = [f"{name}={live / path}" for name, path in (("app", "app.db"), ("store", "store"), ("tree", "tree"))]
    stamp = must("backup", *sources, "--cold")["stamp"]
    wanted, sides = state(live), [vectors(live)]
    change_service(live)
    before = state(live)
    sides.append(vectors(live))
    disk.unmount()
    disk.start()
    must("restore", stamp, "--confirm-service-stopped", *saving)
    assert state(live) == wanted
    disk.stop()
    records = disk.records()
    flushes = sum(1 for kind, _, _ in records if kind == 2)
    print(f"{options.kind}: {len(records)} records, {flushes} flushes in the log", flush=True)
    midway = 0
    for cut in range(options.cuts):
        upto = chance.randrange(1, len(records) + 1)
        image = disk.after_cut(records, upto, chance)
        for verb, goal in (("--resume", wanted), ("--rollback", before)):
            # A file of its own: a loop device may go on holding the one before for a moment.
            again = options.work / f"again-{cut}{verb}"
            shutil.copyfile(image, again)
            disk.mount(again)
            try:
                label = f"{options.kind}, seed {options.seed}, cut {cut} behind record {upto}, {verb}"
                opened = half_restored(live, options.work, sides)
                assert opened is None, f"{label}: {opened} opens half restored"
                code, document = icecore("restore", verb, "--confirm-service-stopped")
                now = state(live)
                if code == 0:
                    midway += 1
                    assert now == goal, f"{label}: {differences(now, goal)}"
                else:
                    assert code == 13 and now in (before, wanted), f"{label}: {differences(now, before)} {document}"
                must("validate", "--all")
            finally:
                disk.unmount()
                again.unlink()
    print(f"{options.kind}: {options.cuts} cuts, {midway} of {2 * options.cuts} recoveries from midway, none half restored")
    assert midway > 0


if __name__ == "__main__":
    main()
