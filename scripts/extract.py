#!/usr/bin/env python3
"""List and restore the snapshots of an icecore repository, without icecore.

    extract.py REPO               list the snapshots: stamp, profile, kind, sources
    extract.py REPO STAMP DIR     restore one as DIR/<source>/...; DIR must be empty or absent

Written from docs/format.md alone, which explains the words and keys. Damage ends the run with a line on stderr and exit
code 1, and leaves DIR incomplete. Owners, set-id bits and devices need root; what else the system refuses is noted on stderr.
For an encrypted repository unseal.py must lie beside. Needs Python 3.11 on Linux, and: pip install blake3 cbor2 zstandard
"""

import glob, json, os, re, stat, struct, sys  # noqa: E401

import cbor2
import zstandard
from blake3 import blake3

FORMATS, LENGTHS, ENCODINGS = range(1), ((32, 35), (35, 38), (38, 39)), (0, 1, 3, 5, *(n << 4 | m for n in range(1, 5) for m in (2, 4, 6)))
MAX_FILE = 1 << 30  # of what is read at once: the format sets no bound, but no file shall fill the memory
PACK = r"packs/([0-9a-f]{2})/\1[0-9a-f]{62}"
STAMP, SOURCE, NAME = "[0-9]{8}T[0-9]{6}Z", "[a-z][a-z0-9_]*", rb"(?!\.{1,2}\Z)[^/\0]+"
FILE, DIRECTORY, SYMLINK, FIFO, SOCKET, CHARACTER, BLOCK = range(7)
SPECIAL = {FIFO: stat.S_IFIFO, CHARACTER: stat.S_IFCHR, BLOCK: stat.S_IFBLK}
LENGTH, WEIGHT, ROOT = struct.Struct("<32sI"), struct.Struct("<32sQ"), struct.Struct("<32sBQ")
UINT, INT, OFFSET, OWNER = range(2**64), range(-(2**63), 2**63), range(2**63), range(2**32 - 1)
ENTRY = {"n": bytes, "k": range(7), "m": range(0o10000), "u": OWNER, "g": OWNER, "t": INT, "z": OFFSET,
         "l": (UINT, UINT, UINT), "x": [(bytes, bytes)], "s": bytes, "r": UINT, "h": [(UINT, UINT)], "c": bytes, "q": bytes}
ABSENT = {"n": b"", "k": FILE, "m": 0, "u": 0, "g": 0, "t": 0, "z": 0, "x": [], "s": b"", "r": 0, "c": b""}


def check(condition, message):
    if not condition:
        raise ValueError(message)


def say(message, file=sys.stderr):  # names must neither break the line nor steer the terminal
    print("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message), file=file)


def attempt(function, *arguments, **options):
    try:
        function(*arguments, **options)
        return True
    except (OSError, ValueError) as error:
        say(f"note: {function.__name__} {os.fsdecode(arguments[0])}: {getattr(error, 'strerror', error)}")


def fits(value, shape):
    """Whether a value is of a shape: a range, a type, [items of one shape], (items of these shapes)."""
    if isinstance(shape, range):
        return type(value) is int and value in shape  # isinstance would take True for 1
    if isinstance(shape, (list, tuple)) and isinstance(value, list):
        shapes = shape * len(value) if isinstance(shape, list) else shape
        return len(value) == len(shapes) and all(map(fits, value, shapes))
    return isinstance(shape, type) and isinstance(value, shape)


def decode(decoder, data, what):
    try:
        return decoder(data)
    except (ValueError, RecursionError, struct.error, cbor2.CBORError) as error:
        raise ValueError(f"{what}: {error}") from None


def parse_entry(fields, what):
    check(isinstance(fields, dict), f"{what}: an entry is not a map")
    wrong = [key for key, shape in ENTRY.items() if key in fields and not fits(fields[key], shape)]
    check(not wrong and not {"c", "q"} <= fields.keys(), f"{what}: wrong keys in an entry: {wrong}")
    return ABSENT | fields


def parse_pairs(data, layout, total, what):
    pairs = list(decode(layout.iter_unpack, data, what))
    check(all(n for _, n in pairs) and sum(n for _, n in pairs) == total, f"{what}: a list doesn't add up to {total}")
    return pairs


def read(path, offset=0, length=MAX_FILE, named=False):
    check(os.path.isfile(path), f"{path}: not there, or not a file")  # a FIFO would hang the run
    with open(path, "rb") as file:
        data = os.pread(file.fileno(), min(length, os.path.getsize(path)), offset)
    check(not named or blake3(data).hexdigest() == path[-64:], f"{path}: damaged, its hash is not its name")
    return data


def unzip(data, size, prefix=b""):
    """One zstd frame. It decides how much memory is taken, so its word is checked first."""
    if zstandard.frame_content_size(data) in (-1, size):
        raw = zstandard.ZstdCompressionDict(prefix, zstandard.DICT_TYPE_RAWCONTENT) if prefix else None
        return zstandard.ZstdDecompressor(dict_data=raw).decompress(data, max_output_size=size)


def planes(data, size):
    result, at = bytearray(size), 16
    for number, length in enumerate(struct.unpack_from("<4I", data)):
        part, wanted = data[at : at + length], (size + 3 - number) // 4
        result[number::4], at = part if length == wanted else unzip(part, wanted), at + length
    return bytes(result)


def runs(data, size, base=None):
    """Runs of floats between what is told apart from them; or runs of bytes that replace those of a base."""
    end, unit, parts = 2 + 4 * struct.unpack_from("<H", data)[0], 4 if base is None else 1, []
    places = list(struct.iter_unpack("<HH", data[2:end]))
    total, part = min(unit * sum(count for _, count in places), size), data[end:]
    if base is None:
        length = struct.unpack_from("<I", part)[0]
        rest, run = part[4 : 4 + length], memoryview(planes(part[4 + length :], total))
        base = rest if length == size - total else unzip(rest, size - total)
    else:
        run = memoryview(part if len(part) == total else unzip(part, total))
    for gap, count in places:
        parts, skipped = [*parts, base[:gap], run[: unit * count]], 0 if unit == 4 else count
        base, run = memoryview(base)[gap + skipped :], run[unit * count :]
    return b"".join([*parts, base])


class Repository:
    def __init__(self, path):
        self.path, self.places = path, {}
        data = read(f"{path}/config")
        ending = re.search(rb',\n  "blake3": "([0-9a-f]{64})"\n}\n\Z', data)
        check(ending and blake3(data[: ending.start()]).hexdigest() == ending[1].decode(), "config: damaged")
        config = decode(json.loads, data, "config")
        check(isinstance(config, dict) and config.get("what") == "icecore repository", "config: not ours")
        check(config.get("format") in FORMATS, f"config: unknown format {config.get('format')}")
        check(config.get("requires") in ([], ["encryption"]), f"config: unknown requirements {config.get('requires')}")
        self.id, self.hash, self.open = config.get("repository"), lambda data: blake3(data).digest(), lambda data, *_: data
        if config["requires"]:
            from unseal import Seals
            keys = self.find("keys/*", r"keys/[A-Za-z0-9_-]{1,64}\.[0-9a-f]{16}\.age")
            seals = Seals([read(f"{path}/{key}") for key in keys], config.get("encryption"), data[: ending.start()])
            self.hash, self.open = seals.hash, seals.open
        self.stamps = [found[-16:] for found in self.find("snapshots/*", f"snapshots/{STAMP}")]

    def find(self, where, pattern):
        return sorted(path for path in glob.iglob(where, root_dir=self.path) if re.fullmatch(pattern, path))

    def show(self, stamp):
        if manifest := self.snapshot(stamp):
            names = ",".join(source["name"] for source in manifest["sources"])
            say(f"{stamp}  {manifest.get('profile')}  {manifest.get('kind')}  {names}", sys.stdout)

    def snapshot(self, stamp):
        """A snapshot's proven manifest; None while only the snapshot's name has arrived."""
        name = re.fullmatch(rb"([0-9a-f]{64})\n", read(f"{self.path}/snapshots/{stamp}", 0, 66))
        check(name, f"{stamp}: damaged, it names no manifest")
        path, what = f"{self.path}/manifests/{name[1].decode()}", f"the manifest of {stamp}"
        if not os.path.lexists(path):
            return say(f"note: {what} is not there, it may be arriving still")
        manifest = decode(cbor2.loads, self.open(read(path, named=True), b"manifest", True, what), what)
        check(isinstance(manifest, dict) and manifest.get("format") in FORMATS, f"{what}: unknown format")
        id, sources = manifest.get("repository"), manifest.get("sources")
        own = manifest.get("stamp") == stamp and isinstance(id, bytes) and id.hex() == self.id
        check(own, f"{what} is another snapshot's or another repository's")
        names = [source.get("name") for source in sources] if fits(sources, [dict]) else [None]
        check(fits(names, [str]) and all(re.fullmatch(SOURCE, n) for n in names), f"{what}: bad source names")
        return manifest

    def load_places(self):
        """Learn where each chunk lies, by how its id begins. Trailers are enough: index files are excerpts of them."""
        for path in self.find("packs/??/*", PACK):
            attempt(self.read_trailer, f"{self.path}/{path}")

    def read_trailer(self, path):
        size = os.path.getsize(path)
        length = int.from_bytes((foot := read(path, max(size - 12, 0)))[:4], "little")
        fit = read(path, 0, 8) + foot[4:] == b"ICEPACK0ICEPEND0" and 5 <= length <= min(size - 20, MAX_FILE)
        check(fit, f"{path}: damaged, not a whole pack")
        data = self.open(read(path, size - 12 - length, length), b"pack trailer", True, path)
        at, offset, own = 5, 8, len(data)
        check(own >= 5 and data[0] <= 1, f"{path}: damaged, not a whole pack")
        for _ in range(int.from_bytes(data[1:5], "little")):
            check(at + 39 <= own, f"{path}: damaged, too short for its records")
            stored, plain, encoding = (int.from_bytes(data[at + i : at + j], "little") for i, j in LENGTHS)
            check(encoding in ENCODINGS, f"{path}: a chunk that is not allowed")
            bases = [data[at + 39 + 8 * n : at + 47 + 8 * n] for n in range(encoding >> 4)]
            place = (path, offset, stored, plain, encoding, bases, data[at : at + 8])
            self.places.setdefault(place[6], []).append(place)
            offset, at = offset + stored, at + 39 + 8 * len(bases)
        check(at == own and offset + length + 12 == size, f"{path}: damaged, its parts don't fill it")

    def chunk(self, id, what, length=None):
        for place in (places := self.places.get(id[:8], ())):
            for data in (self.decoded(place, nth) for nth in range(8)):  # bases may begin alike: the result tells
                if data is not None and self.hash(data) == id and length in (None, len(data)):
                    return data
        raise ValueError(f"{what}: chunk {id.hex()} is {'damaged in ' + places[0][0] if places else 'in no pack'}")

    def decoded(self, place, nth=0):
        (path, offset, stored, plain, encoding, bases, begin), prefix = place, b""
        for base in bases:
            whole = [place for place in self.places.get(base, ()) if not place[5]]
            prefix += (self.decoded(whole[nth % len(whole)]) or b"") if whole else b""
        try:
            data = self.open(read(path, offset, stored), begin + bytes([encoding]) + b"".join(bases), False, path)
            if encoding & 15 == 4:
                return bytes(one ^ other for one, other in zip(unzip(data, plain), prefix.ljust(plain, b"\0")))
            apart, base = {3: planes, 5: runs, 6: runs}.get(encoding & 15), [prefix] if bases else []
            return apart(data, plain, *base) if apart else unzip(data, plain, prefix) if encoding else data
        except (zstandard.ZstdError, struct.error, ValueError, TypeError):
            return None

    def items(self, kind, what, id, level, weight):
        data = self.chunk(id, what)
        check(level <= 15 and data[:2] == bytes((2 if level else kind, level)), f"{what}: wrong kind of node")
        if level:
            for child, below in parse_pairs(data[2:], WEIGHT, weight, what):
                yield from self.items(kind, what, child, level - 1, below)
        elif kind == 0:
            yield from parse_pairs(data[2:], LENGTH, weight, what)
        else:
            entries = decode(cbor2.loads, data[2:], what)
            check(isinstance(entries, list) and len(entries) == weight, f"{what}: a node has a wrong weight")
            yield from (parse_entry(fields, what) for fields in entries)

    def restore(self, stamp, target):
        manifest = self.snapshot(stamp) if stamp in self.stamps else None
        check(manifest, f"{stamp}: no such snapshot")
        os.makedirs(target, exist_ok=True)
        check(not os.listdir(target), f"{target}: not empty")
        self.load_places()
        for source in manifest["sources"]:
            for entry in filter(None, [source.get("root"), *source.get("sidecars", ())]):
                place, entry = os.path.join(target, source["name"]), parse_entry(entry, source["name"])
                parent, name = os.path.split(place) if entry["k"] == DIRECTORY else (place, entry["n"])
                os.makedirs(parent, exist_ok=True)
                self.restore_entry(entry, os.fsencode(parent), os.fsencode(name), {})

    def restore_entry(self, entry, parent, name, links):
        check(re.fullmatch(NAME, name), f"{os.fsdecode(parent)}: the name {name} is not allowed")
        path, last = os.path.join(parent, name), b""
        what, kind = os.fsdecode(path), entry["k"]
        first = links.setdefault(tuple(entry["l"][1:]), path) if "l" in entry else path
        if kind == DIRECTORY:
            os.mkdir(path, 0o700)
            for child in self.items(1, what, *decode(ROOT.unpack, entry["q"], what)) if "q" in entry else ():
                # As no name comes twice, nothing is written through an earlier entry that is a symlink.
                check(last < child["n"], f"{what}: the name {child['n']} is not in order")
                last = child["n"]
                self.restore_entry(child, path, last, links)
        elif first != path and attempt(os.link, first, path, follow_symlinks=False):
            return
        elif kind == FILE:
            with open(path, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
                self.write_content(entry, out, what)
        elif kind == SYMLINK:
            os.symlink(entry["s"], path)
        elif kind == SOCKET or not attempt(os.mknod, path, SPECIAL[kind] | 0o600, entry["r"]):
            return  # a socket is for its listener to make
        set_metadata(entry, path)

    def write_content(self, entry, out, what):
        runs = entry.get("h", [[0, entry["z"]]])
        room, runs, end, left = sum(length for _, length in runs), iter(runs), 0, 0
        root = "q" in entry and decode(ROOT.unpack, entry["q"], what)[:2]
        chunks = self.items(0, what, *root, room) if root else parse_pairs(entry["c"], LENGTH, room, what)
        for id, length in chunks:
            data = memoryview(self.chunk(id, what, length))
            while data:
                while not left:
                    offset, left = next(runs)
                    check(end <= offset <= entry["z"] - left, f"{what}: data overlaps or leaves the file")
                    end = out.seek(offset) + left
                count = out.write(data[:left])
                data, left = data[count:], left - count
        out.truncate(entry["z"])


def set_metadata(entry, path):
    if os.geteuid() == 0:
        attempt(os.chown, path, entry["u"], entry["g"], follow_symlinks=False)
    for name, value in entry["x"]:
        attempt(os.setxattr, path, name, value, follow_symlinks=False)
    own = os.lstat(path)[stat.ST_UID : stat.ST_GID + 1] == (entry["u"], entry["g"])
    if entry["k"] != SYMLINK:
        attempt(os.chmod, path, entry["m"] if own else entry["m"] & 0o1777)  # set-id bits are the owner's
    attempt(os.utime, path, ns=(entry["t"], entry["t"]), follow_symlinks=False)


def main(arguments):
    try:
        match arguments:
            case ["-h" | "--help"]:
                print(__doc__.strip())
            case [path]:
                repository = Repository(path)
                check(all([attempt(repository.show, stamp) for stamp in repository.stamps]), "not all could be read")
            case [path, stamp, target]:
                Repository(path).restore(stamp, target)
            case _:
                return say("usage: extract.py REPO [STAMP DIR]; --help explains") or 2
    except (OSError, ValueError, MemoryError) as error:
        return say(f"error: {error}") or 1


if __name__ == "__main__":
    sys.setrecursionlimit(10_000)  # of directories in directories, as deep as the longest path
    sys.exit(main(sys.argv[1:]))
