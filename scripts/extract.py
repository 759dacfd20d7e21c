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
import signal
import stat
import struct
import sys
from types import SimpleNamespace

import cbor2
import zstandard
from blake3 import blake3

FORMATS = range(1)
MAX_CHUNK = 16 << 20
MAX_FILE = 1 << 30  # of what is read at once; the format sets no bound, but no file shall fill the memory
STAMP, HEX_ID = re.compile("[0-9]{8}T[0-9]{6}Z"), re.compile("[0-9a-f]{64}")
SOURCE, NAME = re.compile("[a-z][a-z0-9_]*"), re.compile(rb"(?!\.{1,2}\Z)[^/\0]+")
FILE, DIRECTORY, SYMLINK = range(3)
SPECIAL = {3: stat.S_IFIFO, 4: stat.S_IFSOCK, 5: stat.S_IFCHR, 6: stat.S_IFBLK}
UINT, INT = range(2**64), range(-(2**63), 2**63)
OWNER = range(2**32 - 1)  # chown takes the greatest id for "leave it as it is"
ENTRY = {  # key: (what its value may be, the value if it is absent)
    "n": (bytes, b""), "k": (range(7), FILE), "m": (range(0o10000), 0), "u": (OWNER, 0), "g": (OWNER, 0),
    "t": (INT, 0), "z": (range(2**63), 0), "l": ((UINT, UINT, UINT), None), "x": ([(bytes, bytes)], []),
    "s": (bytes, b""), "r": (UINT, 0), "h": ([(UINT, UINT)], None), "c": (bytes, b""), "q": (bytes, b""),
}  # fmt: skip
ROOT = struct.Struct("<32sBQ")


class Damaged(Exception):
    """The repository isn't what docs/format.md says, or needs what this program can't do."""


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
    except (Damaged, OSError, ValueError) as error:
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
    entry = SimpleNamespace()
    for key, (shape, absent) in ENTRY.items():
        check(key not in fields or fits(fields[key], shape), f"an entry's `{key}` is not allowed")
        setattr(entry, key, fields.get(key, absent))
    check(len(entry.q) in (0, ROOT.size) and not (entry.c and entry.q), "an entry's content is not allowed")
    return entry


def parse_pairs(data, layout, total, what):
    """Ids, each with its length or weight; these add up to the total."""
    check(len(data) % struct.calcsize(layout) == 0, f"{what} ends within an item")
    pairs = list(struct.iter_unpack(layout, data))
    check(sum(count for _, count in pairs) == total, f"{what} doesn't add up to {total}")
    return pairs


def parse_records(data, at, what):
    """From kind to last record: the chunks as (id, place), where the records end, where the chunks end."""
    check(at + 5 <= len(data) and data[at] <= 1, f"{what}: damaged, bad kind of pack")
    count, at, offset, places = int.from_bytes(data[at + 1 : at + 5], "little"), at + 5, 8, []
    for _ in range(count):
        check(at + 41 <= len(data), f"{what}: damaged, too short for its records")
        id, stored, plain, encoding = struct.unpack_from("<32sIIB", data, at)
        known = encoding in (0x00, 0x01, 0x12, 0x22, 0x32, 0x42)
        fit = max(stored, plain) <= MAX_CHUNK and (encoding or stored == plain)
        check(known and fit, f"{what}: a record has an unknown encoding or bad lengths")
        places.append((id, (offset, stored, plain, encoding)))
        offset, at = offset + stored, at + 41 + 32 * (encoding >> 4)
    return places, at, offset


def decoded(loads, data, what):
    try:
        return loads(data)
    except Exception as error:  # the decoders of CBOR's tags raise many kinds
        raise Damaged(f"{what} can't be decoded: {error}") from None


def names_in(directory, pattern):
    """The names that fit the layout; the rest is ignored. A copy may lack empty directories."""
    names = os.listdir(directory) if os.path.isdir(directory) else []
    return sorted(name for name in names if pattern.fullmatch(name))


def read(path, offset=0, length=MAX_FILE):
    # O_NONBLOCK: a FIFO in the place of a file would hang the run.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        check(stat.S_ISREG(status.st_mode), f"{path}: not a regular file")
        return os.pread(file.fileno(), min(length, status.st_size), offset)


def read_named(path):
    data = read(path)
    check(blake3(data).hexdigest() == os.path.basename(path), f"{path}: damaged, its name is not its hash")
    return data


class Repository:
    def __init__(self, path):
        self.path, self.places = path, {}
        data = read(f"{path}/config")
        ending = re.search(rb',\n  "blake3": "([0-9a-f]{64})"\n}\n\Z', data)
        proven = ending and blake3(data[: ending.start()]).hexdigest().encode() == ending[1]
        check(proven, "config: damaged, it doesn't end with its hash")
        config = decoded(json.loads, data, "config")
        check(config.get("what") == "icecore repository", "config: not an icecore repository's")
        check(config.get("format") in FORMATS, f"config: unknown format {config.get('format')}")
        check(config.get("requires") == [], f"config: unknown requirements {config.get('requires')}")
        self.id = config.get("repository")

    def snapshot(self, stamp):
        """A snapshot's proven manifest; None while only the snapshot's name has arrived."""
        name = read(f"{self.path}/snapshots/{stamp}", length=66).decode("latin-1")
        check(HEX_ID.fullmatch(name[:64]) and name[64:] == "\n", f"{stamp}: damaged, it names no manifest")
        path, what = f"{self.path}/manifests/{name[:64]}", f"the manifest of {stamp}"
        if not os.path.lexists(path):
            return None
        manifest = decoded(cbor2.loads, read_named(path), what)
        check(isinstance(manifest, dict) and manifest.get("format") in FORMATS, f"{what} has an unknown format")
        own = manifest.get("stamp") == stamp and manifest.get("repository") == bytes.fromhex(self.id)
        check(own, f"{what} is another snapshot's or another repository's")
        check(fits(manifest.get("sources"), [dict]), f"{what} has no list of sources")
        names = [source.get("name") for source in manifest["sources"]]
        fit = fits(names, [str]) and all(map(SOURCE.fullmatch, names)) and len(set(names)) == len(names)
        check(fit, f"{what}: a source's name is not allowed")
        return manifest

    def load_places(self):
        packs = {}
        for path in glob.iglob(f"{glob.escape(self.path)}/packs/??/*"):
            two, name = path.split("/")[-2:]
            if HEX_ID.fullmatch(name) and name[:2] == two:
                packs[name] = path
        for name in names_in(f"{self.path}/index", HEX_ID):
            attempt(self.read_index, f"{self.path}/index/{name}", packs)
        for path in packs.values():  # those that no index file lists
            attempt(self.read_trailer, path)

    def read_index(self, path, packs):
        data, listed, at = read_named(path), {}, 12
        check(data[:8] == b"ICEINDX0", f"{path}: not an index file")
        for _ in range(int.from_bytes(data[8:12], "little")):
            places, end, _ = parse_records(data, at + 32, path)
            listed[data[at : at + 32].hex()], at = places, end
        check(at == len(data), f"{path}: its packs don't fill it")
        for pack in listed.keys() & packs.keys():
            self.add_places(packs.pop(pack), listed[pack])

    def read_trailer(self, path):
        size = os.path.getsize(path)
        foot = read(path, max(size - 12, 0))
        length = int.from_bytes(foot[:4], "little")
        fit = foot[4:] == b"ICEPEND0" and length <= min(size - 20, MAX_FILE)
        check(fit and read(path, 0, 8) == b"ICEPACK0", f"{path}: damaged, not a whole pack")
        places, at, end = parse_records(read(path, size - 12 - length, length), 0, path)
        check(at == length and end + length + 12 == size, f"{path}: damaged, its parts don't fill it")
        self.add_places(path, places)

    def add_places(self, path, places):
        for id, place in places:
            self.places[id] = (*self.places.get(id, ()), (path, *place))

    def chunk(self, id, length=None):
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
        raise Damaged(f"chunk {id.hex()} {problem}")

    def items(self, kind, id, level, weight):
        """What the lowest nodes of a tree hold, in order: (id, length) or entries."""
        data, what = self.chunk(id), f"node {id.hex()}"
        check(data[:2] == bytes((2 if level else kind, level)), f"{what} is not of the expected kind and level")
        if level:
            for child, below in parse_pairs(data[2:], "<32sQ", weight, what):
                yield from self.items(kind, child, level - 1, below)
        elif kind == 0:
            yield from parse_pairs(data[2:], "<32sI", weight, what)
        else:
            entries = decoded(cbor2.loads, data[2:], what)
            check(fits(entries, [dict]) and len(entries) == weight, f"{what} doesn't hold {weight} entries")
            yield from map(parse_entry, entries)

    def write_content(self, out, entry):
        runs = [(0, entry.z)] if entry.h is None else entry.h
        ends = [0, *(offset + length for offset, length in runs)]
        fit = all(end <= offset for end, (offset, _) in zip(ends, runs)) and ends[-1] <= entry.z
        check(fit, "runs of data overlap or leave the file")
        room = sum(length for _, length in runs)
        if entry.q:
            check(ROOT.unpack(entry.q)[2] == room, "its list of chunks doesn't fill it")
            chunks = self.items(0, *ROOT.unpack(entry.q))
        else:
            chunks = parse_pairs(entry.c, "<32sI", room, "its list of chunks")
        runs, left = iter(runs), 0
        for id, length in chunks:
            data = memoryview(self.chunk(id, length))
            while data:
                while not left:
                    offset, left = next(runs)
                    out.seek(offset)
                count = out.write(data[:left])
                data, left = data[count:], left - count
        out.truncate(entry.z)

    def children(self, entry):
        last = b""
        for child in self.items(1, *ROOT.unpack(entry.q)) if entry.q else ():
            # No name comes twice: nothing is written through an earlier entry, such as a symlink.
            fit = NAME.fullmatch(child.n) and last < child.n
            check(fit, f"the name {child.n} is not allowed or not in order")
            last = child.n
            yield child


def restore_entry(repository, entry, path, links):
    """links: path by device and inode, of one source."""
    first = entry.l and links.setdefault(tuple(entry.l[1:]), path)
    if entry.k == DIRECTORY:
        os.mkdir(path, 0o700)
        for child in repository.children(entry):
            restore_entry(repository, child, os.path.join(path, child.n), links)
    elif first not in (None, path) and attempt(os.link, first, path, follow_symlinks=False):
        return
    elif entry.k == FILE:
        with open(path, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
            repository.write_content(out, entry)
    elif entry.k == SYMLINK:
        os.symlink(entry.s, path)
    elif not attempt(os.mknod, path, SPECIAL[entry.k] | 0o600, entry.r):
        return
    set_metadata(entry, path)


def set_metadata(entry, path):
    mode = entry.m
    if os.geteuid() == 0:
        attempt(os.chown, path, entry.u, entry.g, follow_symlinks=False)
    ...
