"""What an operation of the storm writes, and which state follows: shared by writer.py and verify.py.

An operation is a dict with `op` (its number in its lane, from 1), `kind`, `collection` and `ids`. A lane is a thread
of the writer: its operations follow one another, so what a store holds of its collections is the state after some
prefix of them. A state maps the name of each existing collection to its records: id -> (embedding, document,
metadata), each given as the number of the operation that wrote it last.
"""

import hashlib
import json
from typing import NamedTuple

import numpy


class Size(NamedTuple):
    """How much is written: vectors' dimension, words of a document, ids of a collection and of a call, and so on."""

    dimension: int
    # Fewest words beside those that name the operation, and how many counts of them there are.
    words: tuple
    # Ids of a collection, `fewest` to `most` of them live. Deleted ones come back, which gives them a new place.
    pool: int
    fewest: int
    most: int
    # Ids of one call.
    call: tuple
    # Records until a collection is made anew: with 0.4, which keeps each in its queue, and with later versions.
    rotate: tuple


SIZES = {
    "usual": Size(384, (6, 50), 700, 120, 350, (8, 50), (2000, 3000)),
    # For stores that can be kept in the source tree.
    "small": Size(8, (1, 4), 200, 25, 60, (3, 12), (150, 400)),
}
size = SIZES["usual"]
SPACES = {"first": "l2", "second": "cosine", "third": "l2"}
WORDS = "ice core drill layer dust ash snow firn depth year bubble isotope storm melt".split()


def seed_of(*parts):
    """A number of 64 bits that depends on nothing but the parts."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def vector(collection, id, op):
    """The vector that operation `op` gave to `id`, of length 1: Chroma's own index misses others by itself."""
    values = numpy.random.default_rng(seed_of(collection, id, op)).standard_normal(size.dimension)
    return (values / numpy.linalg.norm(values)).astype(numpy.float32)


def document(collection, id, op):
    """A text that names the operation, and usually goes on for 6 to 55 words."""
    number = seed_of(op, id)
    fewest, counts = size.words
    words = " ".join(WORDS[(number + turn * turn) % len(WORDS)] for turn in range(fewest + number % counts))
    return f"operation {op} of {collection} on {id} {words}"


def metadata(collection, op):
    """Three keys, each told by the operation's number."""
    return {"operation": op, "written": f"operation {op} of {collection}", "ratio": op / 8}


def use(name):
    """Makes this size that of all vectors and documents from now on."""
    global size
    size = SIZES[name]


def apply(state, operation):
    """Changes `state` as the operation does when it succeeds."""
    op, kind, name, ids = (operation[key] for key in ("op", "kind", "collection", "ids"))
    if kind == "create":
        state[name] = {}
    elif kind == "drop":
        del state[name]
    elif kind == "delete":
        for id in ids:
            del state[name][id]
    elif kind == "touch":
        for id in ids:
            state[name][id] = (*state[name][id][:2], op)
    else:
        for id in ids:
            state[name][id] = (op, op, op)


class Lane:
    """One lane's operations, in order, with the times at which each was issued and acknowledged (None: it wasn't)."""

    def __init__(self):
        self.operations = []
        self.issued = []
        self.acknowledged = []
        self.failed = []

    def window(self, begin, end):
        """The shortest and the longest prefix that a capture between these two moments may hold."""
        shortest = sum(1 for moment in self.acknowledged if moment is not None and moment < begin)
        longest = sum(1 for moment in self.issued if moment < end)
        return shortest, longest

    def advance(self, state, index):
        """Applies the operation at this place, unless its call failed."""
        if not self.failed[index]:
            apply(state, self.operations[index])

    def names(self):
        return {operation["collection"] for operation in self.operations}


def read_log(path):
    """The log as lanes by name. A last line that is still being written is left out."""
    lanes = {}
    with open(path, encoding="utf-8") as log:
        for line in log:
            if not line.endswith("\n"):
                break
            entry = json.loads(line)
            if "lane" not in entry:
                continue
            lane = lanes.setdefault(entry["lane"], Lane())
            if entry["event"] == "intent":
                lane.operations.append(entry)
                lane.issued.append(entry["monotonic"])
                lane.acknowledged.append(None)
                lane.failed.append(False)
            elif entry["event"] == "acknowledged":
                lane.acknowledged[entry["op"] - 1] = entry["monotonic"]
            else:
                lane.failed[entry["op"] - 1] = entry["error"]
    return lanes
