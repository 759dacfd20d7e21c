#!/usr/bin/env python3
"""List and restore the snapshots of an icecore repository, without icecore.

    extract.py REPO               list the snapshots: stamp, profile, kind, sources
    extract.py REPO STAMP DIR     restore one as DIR/<source>/...; DIR must be empty or absent

Written from the format's description alone, docs/format.md; its words and keys are explained there.
REPO is only read. Owners and devices need root. What can't be restored on this system is noted on
stderr; damage ends the run with one line there and exit code 1.
Needs Python 3.11 on Linux, and: pip install blake3 cbor2 zstandard
"""

import glob
import json
import os
import re
import stat
import struct
import sys
from types import SimpleNamespace

import cbor2
import zstandard
from blake3 import blake3

FORMATS = range(1)
MAX_CHUNK = 16 << 20
MAX_FILE = 1 << 30  # of what is read at once: the format sets no bound, but no file shall fill the memory
PACK, INDEX = r"packs/([0-9a-f]{2})/\1[0-9a-f]{62}", "index/[0-9a-f]{64}"
STAMP, SOURCE, NAME = "[0-9]{8}T[0-9]{6}Z", "[a-z][a-z0-9_]*", rb"(?!\.{1,2}\Z)[^/\0]+"
FILE, DIRECTORY, SYMLINK = range(3)
SPECIAL = {3: stat.S_IFIFO, 4: stat.S_IFSOCK, 5: stat.S_IFCHR, 6: stat.S_IFBLK}
LENGTH, WEIGHT, ROOT = struct.Struct("<32sI"), struct.Struct("<32sQ"), struct.Struct("<32sBQ")
UINT, INT, OFFSET = range(2**64), range(-(2**63), 2**63), range(2**63)
OWNER = range(2**32 - 1)  # chown takes the greatest id for "leave it as it is"
ENTRY = {  # key: (what its value may be, the value if it is absent)
    "n": (bytes, b""), "k": (range(7), FILE), "m": (range(0o10000), 0), "u": (OWNER, 0), "g": (OWNER, 0),
    "t": (INT, 0), "z": (OFFSET, 0), "l": ((UINT, UINT, UINT), None), "x": ([(bytes, bytes)], []),
    "s": (bytes, b""), "r": (UINT, 0), "h": ([(UINT, UINT)], None), "c": (bytes, b""), "q": (bytes, b""),
}  # fmt: skip


class Damaged(Exception):
    """The repository isn't what docs/format.md says, or needs what this program can't do."""


FAILURES = (Damaged, OSError, ValueError, MemoryError, RecursionError, cbor2.CBORError)


def check(condition, message):
    if not condition:
        raise Damaged(message)


def say(message, file=sys.stderr):
    # What a repository says must neither break the line nor steer the terminal.
    print("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message), file=file)


def attempt(function, *arguments, **options):
    """Best effort: whether it could be done."""
    try:
        function(*arguments, **options)
        return True
    except FAILURES as error:
        say(f"note: {function.__name__}: {error}")


def fits(value, shape):
    """Whether a value is of a shape: a range, a type, [items of one shape], (items of these shapes)."""
    if isinstance(shape, range):
        return type(value) is int and value in shape  # isinstance would take True for 1
    if isinstance(shape, type):
        return isinstance(value, shape)
    if not isinstance(value, list):
        return False
    shapes = shape * len(value) if isinstance(shape, list) else shape
    return len(value) == len(shapes) and all(map(fits, value, shapes))


def parse_entry(fields):
    check(isinstance(fields, dict), "an entry is not a map")
    entry = SimpleNamespace()
    for key, (shape, absent) in ENTRY.items():
        check(key not in fields or fits(fields[key], shape), f"an entry's `{key}` is not allowed")
        setattr(entry, key, fields.get(key, absent))
    check(len(entry.q) in (0, ROOT.size) and not (entry.c and entry.q), "an entry's content is not allowed")
    return entry


def parse_pairs(data, layout, total, what):
    """Ids, each with its length or weight; these are positive and add up to the total."""
    check(len(data) % layout.size == 0, f"{what}: a list ends within an item")
    pairs = list(layout.iter_unpack(data))
    counts = [count for _, count in pairs]
    check(all(counts) and sum(counts) == total, f"{what}: a list doesn't add up to {total}")
    return pairs


def read(path, offset=0, length=MAX_FILE, named=False):
    # A FIFO in the place of a file would hang the run.
    check(os.path.isfile(path), f"{path}: not there, or not a file")
    with open(path, "rb") as file:
        data = os.pread(file.fileno(), min(length, os.path.getsize(path)), offset)
    proven = not named or blake3(data).hexdigest() == os.path.basename(path)
    check(proven, f"{path}: damaged, its name is not the hash of its bytes")
    return data


class Repository:
    def __init__(self, path):
        self.path, self.places = path, {}
        data = read(f"{path}/config")
        ending = re.search(rb',\n  "blake3": "([0-9a-f]{64})"\n}\n\Z', data)
        proven = ending and blake3(data[: ending.start()]).hexdigest().encode() == ending[1]
        check(proven, "config: damaged, it doesn't end with its hash")
        config = json.loads(data)
        ours = isinstance(config, dict) and config.get("what") == "icecore repository"
        check(ours, "config: not an icecore repository's")
        check(config.get("format") in FORMATS, f"config: unknown format {config.get('format')}")
        check(config.get("requires") == [], f"config: unknown requirements {config.get('requires')}")
        self.id = config.get("repository")

    def find(self, where, pattern):
        """The paths that fit the layout; the rest is ignored. A copy may lack empty directories."""
        return sorted(path for path in glob.iglob(where, root_dir=self.path) if re.fullmatch(pattern, path))

    def list(self):
        """Print the snapshots; whether all could be read."""
        stamps = map(os.path.basename, self.find("snapshots/*", f"snapshots/{STAMP}"))
        return all([attempt(self.show, stamp) for stamp in stamps])

    def show(self, stamp):
        manifest = self.snapshot(stamp)
        if manifest:
            names = ",".join(source["name"] for source in manifest["sources"])
            say(f"{stamp}  {manifest.get('profile')}  {manifest.get('kind')}  {names}", sys.stdout)

    def snapshot(self, stamp):
        """A snapshot's proven manifest; None while only the snapshot's name has arrived."""
        name = re.fullmatch(rb"([0-9a-f]{64})\n", read(f"{self.path}/snapshots/{stamp}", 0, 66))
        check(name, f"{stamp}: damaged, it names no manifest")
        path, what = f"{self.path}/manifests/{name[1].decode()}", f"the manifest of {stamp}"
        if not os.path.lexists(path):
            return say(f"note: {what} is not there, it may be arriving still")
        manifest = cbor2.loads(read(path, named=True))
        known = isinstance(manifest, dict) and manifest.get("format") in FORMATS
        check(known, f"{what} has an unknown format")
        id, sources = manifest.get("repository"), manifest.get("sources")
        own = manifest.get("stamp") == stamp and isinstance(id, bytes) and id.hex() == self.id
        check(own, f"{what} is another snapshot's or another repository's")
        names = [source.get("name") for source in sources] if fits(sources, [dict]) else [None]
        fit = fits(names, [str]) and all(re.fullmatch(SOURCE, name) for name in names)
        check(fit and len(set(names)) == len(names), f"{what} has wrong names of sources")
        return manifest

    def load_places(self):
        """Learn where each chunk lies: (pack, offset, stored length, plain length, encoding) by id."""
        packs = {path[-64:]: f"{self.path}/{path}" for path in self.find("packs/??/*", PACK)}
        for path in self.find("index/*", INDEX):
            attempt(self.read_index, f"{self.path}/{path}", packs)
        for path in packs.values():  # those that no index file lists
            attempt(self.read_trailer, path)

    def read_index(self, path, packs):
        data, at = read(path, named=True), 12
        check(data[:8] == b"ICEINDX0", f"{path}: not an index file")
        for _ in range(int.from_bytes(data[8:12], "little")):
            pack = data[at : at + 32].hex()
            at, _ = self.read_records(data, at + 32, path, packs.get(pack))
            packs.pop(pack, None)
        check(at == len(data), f"{path}: its packs don't fill it")

    def read_trailer(self, path):
        size = os.path.getsize(path)
        foot = read(path, max(size - 12, 0))
        length = int.from_bytes(foot[:4], "little")
        fit = foot[4:] == b"ICEPEND0" and length <= min(size - 20, MAX_FILE)
        check(fit and read(path, 0, 8) == b"ICEPACK0", f"{path}: damaged, not a whole pack")
        at, end = self.read_records(read(path, size - 12 - length, length), 0, path, path)
        check(at == length and end + length + 12 == size, f"{path}: damaged, its parts don't fill it")

    def read_records(self, data, at, what, pack):
        """From kind to last record; returns where the records end and where the pack's chunks end."""
        check(at + 5 <= len(data) and data[at] <= 1, f"{what}: damaged, unknown kind of pack")
        count, at, offset = int.from_bytes(data[at + 1 : at + 5], "little"), at + 5, 8
        for _ in range(count):
            check(at + 41 <= len(data), f"{what}: damaged, too short for its records")
            id, stored, plain, encoding = struct.unpack_from("<32sIIB", data, at)
            known = encoding in (0x00, 0x01, 0x12, 0x22, 0x32, 0x42)
            fit = max(stored, plain) <= MAX_CHUNK and (encoding or stored == plain)
            check(known and fit, f"{what}: a record has an unknown encoding or bad lengths")
            if pack:
                self.places[id] = (*self.places.get(id, ()), (pack, offset, stored, plain, encoding))
            offset, at = offset + stored, at + 41 + 32 * (encoding >> 4)
        return at, offset

    def chunk(self, id, what, length=None):
        """A chunk's proven bytes, from the first of its places that has them."""
        problem = "is in no pack"
        for path, offset, stored, plain, encoding in self.places.get(id, ()):
            problem = f"is damaged in {path}"
            data = read(path, offset, stored)
            try:
                # The frame decides how much memory is taken, so its word is checked first.
                if encoding == 1 and zstandard.frame_content_size(data) in (-1, plain):
                    data = zstandard.decompress(data, max_output_size=plain)
            except zstandard.ZstdError:
                continue
            if blake3(data).digest() == id and length in (None, len(data)):
                return data
            if encoding > 1:
                problem = "is a delta (encoding 2), which this program can't read"
        raise Damaged(f"{what}: chunk {id.hex()} {problem}")

    def items(self, kind, what, id, level, weight):
        """What the lowest nodes of a tree hold, in order: (id, length) or entries."""
        data = self.chunk(id, what)
        fit = data[:2] == bytes((2 if level else kind, level)) and level <= 15
        check(fit, f"{what}: node {id.hex()} is not of the expected kind and level")
        if level:
            for child, below in parse_pairs(data[2:], WEIGHT, weight, what):
                yield from self.items(kind, what, child, level - 1, below)
        elif kind == 0:
            yield from parse_pairs(data[2:], LENGTH, weight, what)
        else:
            entries = cbor2.loads(data[2:])
            fit = isinstance(entries, list) and len(entries) == weight
            check(fit, f"{what}: node {id.hex()} doesn't hold {weight} entries")
            yield from map(parse_entry, entries)

    def restore(self, stamp, target):
        exists = re.fullmatch(STAMP, stamp) and os.path.lexists(f"{self.path}/snapshots/{stamp}")
        manifest = self.snapshot(stamp) if exists else None
        check(manifest, f"{stamp}: no such snapshot")
        os.makedirs(target, exist_ok=True)
        check(not os.listdir(target), f"{target}: not empty")
        self.load_places()
        for source in manifest["sources"]:
            path = os.path.join(os.fsencode(target), source["name"].encode())
            if source.get("root") is None:
                say(f"note: {source['name']} did not exist")
                continue
            root = parse_entry(source["root"])
            if root.k != DIRECTORY:
                check(re.fullmatch(NAME, root.n), f"{source['name']}: the name {root.n} is not allowed")
                os.mkdir(path)
                path = os.path.join(path, root.n)
            self.restore_entry(root, path, {})

    def restore_entry(self, entry, path, links):
        what, last = os.fsdecode(path), b""
        first = entry.l and links.setdefault(tuple(entry.l[1:]), path)
        if entry.k == DIRECTORY:
            os.mkdir(path, 0o700)
            for child in self.items(1, what, *ROOT.unpack(entry.q)) if entry.q else ():
                # In order no name comes twice: nothing is written through an earlier entry, as a symlink.
                fit = re.fullmatch(NAME, child.n) and last < child.n
                check(fit, f"{what}: the name {child.n} is not allowed or not in order")
                last = child.n
                self.restore_entry(child, os.path.join(path, child.n), links)
        elif first not in (None, path) and attempt(os.link, first, path, follow_symlinks=False):
            return
        elif entry.k == FILE:
            with open(path, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
                self.write_content(entry, out, what)
        elif entry.k == SYMLINK:
            os.symlink(entry.s, path)
        elif not attempt(os.mknod, path, SPECIAL[entry.k] | 0o600, entry.r):
            return
        set_metadata(entry, path)

    def write_content(self, entry, out, what):
        runs = [(0, entry.z)] if entry.h is None else entry.h
        ends = [0, *(offset + length for offset, length in runs)]
        fit = all(end <= offset for end, (offset, _) in zip(ends, runs)) and ends[-1] <= entry.z
        check(fit, f"{what}: its runs of data overlap or leave the file")
        room = sum(length for _, length in runs)
        if entry.q:
            check(ROOT.unpack(entry.q)[2] == room, f"{what}: its chunks don't fill it")
            chunks = self.items(0, what, *ROOT.unpack(entry.q))
        else:
            chunks = parse_pairs(entry.c, LENGTH, room, what)
        runs, left = iter(runs), 0
        for id, length in chunks:
            data = memoryview(self.chunk(id, what, length))
            while data:
                while not left:
                    offset, left = next(runs)
                    out.seek(offset)
                count = out.write(data[:left])
                data, left = data[count:], left - count
        out.truncate(entry.z)


def set_metadata(entry, path):
    if os.geteuid() == 0:
        attempt(os.chown, path, entry.u, entry.g, follow_symlinks=False)
    for name, value in entry.x:
        attempt(os.setxattr, path, name, value, follow_symlinks=False)
    if entry.k != SYMLINK:
        # Set-id bits are meant for the recorded owner alone.
        own = os.lstat(path)[stat.ST_UID : stat.ST_GID + 1] == (entry.u, entry.g)
        attempt(os.chmod, path, entry.m if own else entry.m & 0o1777)
    attempt(os.utime, path, ns=(entry.t, entry.t), follow_symlinks=False)


def main(arguments):
    try:
        match arguments:
            case ["-h" | "--help"]:
                print(__doc__.strip())
            case [path]:
                return 0 if Repository(path).list() else 1
            case [path, stamp, target]:
                Repository(path).restore(stamp, target)
            case _:
                say("usage: extract.py REPO [STAMP DIR]; --help explains")
                return 2
    except FAILURES as error:
        say(f"error: {error}")
        return 1


if __name__ == "__main__":
    sys.setrecursionlimit(10_000)  # of directories in directories, as deep as the longest path
    sys.exit(main(sys.argv[1:]))
