#!/usr/bin/env python3
"""Makes tests/fixtures/chroma anew: small captures that real Chroma judged, and the codes that icecore must give.

`storms` lets real Chroma of each version write small stores, copies them carelessly, and keeps what real Chroma then
calls broken; icecore captures some as well, which must be whole. `pack` takes, of all that was kept, a few that differ
in code or symptom, those with the fewest codes and bytes first, stores each as an archive, unpacks it, and lets
icecore and real Chroma judge it once more. What is broken but not flagged is listed, never packed: the validator has a
gap there, or no file can tell. Runs under any Python 3.10; nothing of Chroma is imported here.
"""

import argparse
import gzip
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIXTURES = HERE.parent / "fixtures" / "chroma"
# What a round of copies runs with: each order at a rate, with one writer thread or three.
COPIES = (
    ("database-first", 3e6, 1),
    ("database-last", 3e6, 1),
    ("directory", 30e6, 1),
    ("database-last", 30e6, 3),
    ("database-first", 30e6, 3),
)
SMALL = ["--size", "small", "--sync-threshold", "12", "--batch-size", "6", "--warm-up", "60"]
# Larger archives are left out, in bytes.
LARGEST = 140_000
ORDERS = {
    "database-first": "the database by SQLite's own backup, then the directories of vectors",
    "database-last": "the directories of vectors, then the database by SQLite's own backup",
    "directory": "file after file in directory order",
}
# What real Chroma's complaint is called in a file's name; the gravest first.
SYMPTOMS = (
    ("crash", r"^crash"),
    ("error-finding-id", r"Error finding id"),
    ("no-embedding", r"Error getting embedding"),
    ("label-not-found", r"Label not found"),
    ("torn-pickle", r"EOFError|Ran out of input|UnpicklingError|deserializing pickle"),
    ("no-attribute", r"has no attribute"),
    ("no-header", r"Cannot open header"),
    ("wrong-count", r"count\(\) says"),
    ("index-error", r"IndexError"),
    ("key-error", r"KeyError"),
    ("logs-not-applied", r"Failed to (apply|pull) logs"),
    ("malformed", r"malformed"),
    ("unknown-ids", r"ids that aren't there"),
    ("old-vectors", r"another version's"),
    ("not-found", r"not found"),
    ("content", r"^content"),
)
RANKS = {name: rank for rank, (name, _) in enumerate(SYMPTOMS)}


def pythons():
    """Version -> Python of each chromadb that scripts/chroma-storm installed."""
    cache = Path(os.environ.get("ICECORE_TEST_CACHE", Path.home() / ".cache" / "icecore-ci"))
    found = {"1.5.9": cache / "python"}
    found.update({place.name.removeprefix("chroma-"): place for place in cache.glob("chroma-*")})
    found = {version: place / "bin" / "python" for version, place in found.items()}
    return {version: python for version, python in found.items() if python.exists()}


def storm(python, options, seed, *arguments):
    """One round. That it ends with 1 doesn't matter: what it kept does."""
    command = [python, HERE / "storm.py", "--icecore", options.icecore, *SMALL, "--keep", options.candidates]
    command += ["--seed", seed, *arguments]
    subprocess.run([*map(str, command)], stdout=subprocess.DEVNULL)


def storms(options):
    for turn in range(options.rounds):
        for version, python in sorted(pythons().items()):
            for number, (order, rate, threads) in enumerate(COPIES):
                seed = options.seed + turn * len(COPIES) + number
                copies = ["--method", "cp", "--order", order, "--slow", rate, "--threads", threads]
                storm(python, options, seed, *copies, "--snapshots", "12")
            if turn == 0:
                storm(python, options, options.seed, "--churn", "--keep-all", "--snapshots", "6")
            print(f"round {turn + 1}: {version}, {len(list(options.candidates.iterdir()))} kept", flush=True)


class Candidate:
    """A capture that storm.py kept."""

    def __init__(self, place):
        self.place, self.evidence = place, json.loads((place / "verdict.json").read_text())
        self.version, self.verdict = self.evidence["version"], self.evidence["verdict"]
        self.broken = self.evidence["broken"]
        self.whole = not self.broken and f"{self.version}-icecore-" in place.name
        self.errors = errors_of(self.evidence["document"])
        self.packed = archive(place / "store")
        reason = self.verdict["reason"] or ""
        self.symptom = next((name for name, pattern in SYMPTOMS if re.search(pattern, reason)), reason.split(":")[0])

    def made(self):
        options = self.evidence["options"]
        writers = "one thread" if options["threads"] == 1 else "three threads"
        if self.whole:
            return f"captured and restored by icecore, while {writers} wrote and collections came and went"
        return f"copied at {options['slow'] / 1e6:g} MB/s, {ORDERS[options['order']]}, while {writers} wrote"

    def judged(self, store, options):
        """(error codes by icecore, verdict of real Chroma) of this store, which lies as it was packed."""
        with tempfile.TemporaryDirectory() as scratch:
            command = [options.icecore, "-r", f"{scratch}/repository", "--cache-dir", f"{scratch}/cache", "--json"]
            subprocess.run([*command, "init"], check=True, stdout=subprocess.DEVNULL)
            backup = ["backup", f"store={store}", "--kind", "store=chroma", "--cold", "--validate", "full"]
            document = json.loads(subprocess.run([*command, *backup], capture_output=True, text=True).stdout)
        times = [str(self.evidence[name]) for name in ("begin", "end")]
        command = [pythons()[self.version], HERE / "verify.py", store, self.place / "log.jsonl", *times]
        command += ["--size", "small"]
        verdict = subprocess.run([*map(str, command)], capture_output=True, text=True)
        return errors_of(document), json.loads(verdict.stdout)


def errors_of(document):
    """Codes of a backup's findings that are errors, without the source's name."""
    found = {found["code"] for found in document["findings"] if found["severity"] == "error"}
    return sorted(code.removeprefix("store_") for code in found)


def orphans(store):
    """Directories of collections that were dropped, as far as the database can be read without settling it."""
    try:
        with closing(sqlite3.connect(f"file:{store}/chroma.sqlite3?immutable=1", uri=True)) as database:
            known = {name for (name,) in database.execute("SELECT id FROM segments")}
    except sqlite3.Error:
        return []
    return [place for place in store.iterdir() if place.is_dir() and place.name not in known]


def archive(store):
    """The directory as `store/`, without orphans, as the bytes of a .tar.gz that name no user and no time of packing."""

    def owned(entry):
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        return entry

    packed, without = io.BytesIO(), set(orphans(store))
    with gzip.GzipFile("", "wb", 9, packed, mtime=0) as zipped:
        with tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar:
            tar.add(store, "store", recursive=False, filter=owned)
            for place in sorted(set(store.iterdir()) - without):
                tar.add(place, f"store/{place.name}", filter=owned)
    return packed.getvalue()


def chosen(candidates, most):
    """(capture, name of its kind) of broken ones: each has a code that none before has; then each a new symptom.

    For codes, those with few go first, for they tell most about a single check, and those of versions with few so far;
    for symptoms, the gravest and then the smallest.
    """
    left = [found for found in candidates if found.broken and found.errors and len(found.packed) <= LARGEST]
    taken = []

    def few(found):
        others = sum(other.version == found.version for other, _ in taken)
        return (len(found.errors) + others, len(found.packed))

    def take(features, worth, named):
        seen = {feature for other, _ in taken for feature in features(other)}
        while len(taken) < most:
            new = [found for found in left if not seen.issuperset(features(found))]
            if not new:
                break
            best = min(new, key=worth)
            taken.append((best, named(best, seen)))
            seen.update(features(best))

    take(
        lambda found: found.errors,
        few,
        lambda found, seen: f"{next(code for code in found.errors if code not in seen)}-{found.symptom}",
    )
    take(
        lambda found: [found.symptom],
        lambda found: (RANKS.get(found.symptom, len(RANKS)), len(found.packed)),
        lambda found, _: f"{found.errors[0]}-{found.symptom}",
    )
    return taken


def pack(options):
    places = [file.parent for file in sorted(options.candidates.rglob("verdict.json"))]
    candidates = [Candidate(place) for place in places if (place / "store").exists()]
    for found in candidates:
        if found.broken and not found.errors:
            print(f"BROKEN, NOT FLAGGED: {found.place}: {found.verdict['reason'][:200]}")
    whole = {}
    for found in sorted((found for found in candidates if found.whole), key=lambda found: -len(found.packed)):
        whole[found.version] = found
    options.output.mkdir(parents=True, exist_ok=True)
    for file in options.output.glob("*.tar.gz"):
        file.unlink()
    entries = []
    for found, kind in [*chosen(candidates, options.most), *((found, "whole") for found in whole.values())]:
        target = options.output / f"{found.version}-{kind}.tar.gz"
        target.write_bytes(found.packed)
        with tempfile.TemporaryDirectory() as scratch:
            subprocess.run(["tar", "xzf", target, "-C", scratch], check=True)
            errors, verdict = found.judged(Path(scratch) / "store", options)
        if verdict["ok"] == found.broken or bool(errors) != found.broken:
            print(f"left out, judged otherwise when packed: {found.place}: {errors} {verdict}")
            target.unlink()
            continue
        counts = verdict["counts"]
        said = verdict["reason"] or f"whole: {counts['ids']} ids in {counts['collections']} collections"
        # Its paths are of the machine that made it.
        said = re.sub(r"/\S*/(?=store)", "", said)[:300]
        entries.append(
            {"file": target.name, "chroma": found.version, "made": found.made(), "chroma_said": said, "errors": errors}
        )
        print(f"{target.name}: {target.stat().st_size} bytes: {' '.join(errors)}: {said[:120]}", flush=True)
    entries.sort(key=lambda entry: entry["file"])
    (options.output / "expected.json").write_text(json.dumps(entries, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("storms", "pack", "both"))
    parser.add_argument("--icecore", required=True, type=Path, help="the program")
    parser.add_argument("--candidates", required=True, type=Path, metavar="DIR", help="where storms keep captures")
    parser.add_argument("--rounds", type=int, default=3, help="rounds over all versions and orders [default: 3]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--most", type=int, default=13, help="broken captures to pack [default: 13]")
    parser.add_argument("--output", type=Path, default=FIXTURES, help="where archives and expected.json go")
    options = parser.parse_args()
    options.icecore = options.icecore.resolve()
    options.candidates.mkdir(parents=True, exist_ok=True)
    if options.what != "pack":
        storms(options)
    if options.what != "storms":
        pack(options)


if __name__ == "__main__":
    sys.exit(main())
