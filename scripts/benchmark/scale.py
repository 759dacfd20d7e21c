"""Measures how icecore's cost grows; `scripts/scale` calls it."""

import argparse
import json
import os
import random
import subprocess
import tempfile
import time
from pathlib import Path

POINTS = (1, 10, 100, 1_000, 10_000, 100_000)


class Place:
    """A repository and a source in a scratch directory."""

    def __init__(self, release: Path, root: Path):
        self.release, self.root = release, root
        self.environment = os.environ | {"ICECORE_REPOSITORY": str(root / "repo"), "HOME": str(root / "home")}
        self.icecore("init")

    def run(self, *argv: str) -> tuple[float, float, str]:
        """CPU seconds, peak in MiB, and what it printed."""
        argv = ("time", "-q", "-o", str(self.root / "figures"), "-f", "%U %S %M", *argv)
        done = subprocess.run(argv, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{argv}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        user, system, peak = map(float, (self.root / "figures").read_text().split()[-3:])
        return user + system, peak / 1024, done.stdout

    def icecore(self, *argv: str) -> tuple[float, float, str]:
        return self.run(str(self.release / "icecore"), "--json", *argv)

    def backup(self, *argv: str) -> tuple[float, float, dict]:
        cpu, peak, said = self.icecore("backup", "data=data", "--kind", "data=tree", "--validate", "quick", *argv)
        return cpu, peak, json.loads(said)

    def size(self) -> int:
        files = (path for path in (self.root / "repo").rglob("*") if path.is_file())
        return sum(path.stat().st_size for path in files)


def table(heads: list[str], rows: list[list[str]]) -> None:
    print("\n| " + " | ".join(heads) + " |\n| " + " | ".join("---:" for _ in heads) + " |")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def data(release: Path, records: int) -> None:
    """The same increment on 1, 2 and 4 times the data."""
    rows = []
    for times in (1, 2, 4):
        with tempfile.TemporaryDirectory(prefix="icecore-scale-") as root:
            place = Place(release, Path(root))
            make = str(release / "examples" / "dataset")
            place.run(make, "make", "data", str(records * times))
            # What changed just before a backup is read again by the next one.
            time.sleep(0.1)
            first, peak, _ = place.backup()
            unchanged, _, _ = place.backup()
            place.run(make, "grow", "data", "1")
            increment, increment_peak, told = place.backup()
            read = [f"{increment:.2f}", f"{told['stored_bytes'] / 1e6:.1f}", f"{max(peak, increment_peak):.0f}"]
            rows.append([f"{records * times:,}", f"{first:.2f}", f"{unchanged:.2f}", *read])
    table(["records a segment", "first, CPU s", "unchanged, CPU s", "increment, CPU s", "stored, MB", "peak, MiB"], rows)


def snapshots(release: Path, most: int) -> None:
    """A small store that changes a little before each snapshot."""
    with tempfile.TemporaryDirectory(prefix="icecore-scale-") as root:
        place, rows = Place(release, Path(root)), []
        (place.root / "data").mkdir()
        chance = random.Random(1)
        for number in range(200):
            (place.root / "data" / f"f{number}").write_bytes(chance.randbytes(2_000))
        for number in range(1, most + 1):
            (place.root / "data" / f"f{chance.randrange(200)}").write_bytes(chance.randbytes(2_000))
            cpu, peak, _ = place.backup()
            if number in POINTS:
                unchanged, _, _ = place.backup()
                listed, _, _ = place.icecore("list")
                rows.append([f"{number:,}", f"{cpu:.3f}", f"{unchanged:.3f}", f"{listed:.3f}", f"{peak:.0f}", f"{place.size() / 1e6:.1f}"])
        table(["snapshots", "backup, CPU s", "unchanged, CPU s", "list, CPU s", "peak, MiB", "repository, MB"], rows)
        rows = []
        for name, argv in {
            "check": ["check"],
            "check --read-data": ["check", "--read-data"],
            "prune -n (keeps all)": ["prune", "-n", "--keep-last", "1000000"],
            "prune (packs are put together)": ["prune", "--keep-last", "1000000"],
            "prune --grace 0s (and deleted)": ["prune", "--keep-last", "1000000", "--grace", "0s"],
            "backup afterwards": ["backup", "data=data", "--kind", "data=tree", "--validate", "quick"],
            "prune --keep-last 1000 --now": ["prune", "--keep-last", "1000", "--now"],
        }.items():
            cpu, peak, _ = place.icecore(*argv)
            packs = sum(1 for path in (place.root / "repo" / "packs").rglob("*") if path.is_file())
            rows.append([name, f"{cpu:.2f}", f"{peak:.0f}", f"{packs:,}", f"{place.size() / 1e6:.1f}"])
        table([f"with {most:,} snapshots", "CPU s", "peak, MiB", "packs", "repository, MB"], rows)


def files(release: Path, count: int) -> None:
    """Many small files of which none changed, beside `find`."""
    with tempfile.TemporaryDirectory(prefix="icecore-scale-") as root:
        place = Place(release, Path(root))
        for number in range(count):
            path = place.root / "data" / f"{number // 100:05}"
            if number % 100 == 0:
                path.mkdir(parents=True)
            (path / f"f{number}").write_text(f"{number}\n")
        first, _, _ = place.backup()
        pairs = []
        for _ in range(3):
            unchanged, peak, _ = place.backup()
            found, _, _ = place.run("find", "data", "-printf", "%s %T@\\n")
            pairs.append((unchanged, found, peak))
        unchanged, found, peak = sorted(pairs)[1]
        heads = ["files", "first, CPU s", "unchanged, CPU s", "find, CPU s", "unchanged ÷ find", "peak, MiB"]
        row = [f"{count:,}", f"{first:.2f}", f"{unchanged:.2f}", f"{found:.2f}", f"{unchanged / found:.1f}", f"{peak:.0f}"]
        table(heads, [row])


def chunks(release: Path, count: int) -> None:
    """Many small chunks, of which seven tenths are needed."""
    rows = []
    for number in (count // 4, count):
        with tempfile.TemporaryDirectory(prefix="icecore-scale-") as root:
            place = Place(release, Path(root))
            (place.root / "data").mkdir()
            (place.root / "one").write_text("x")
            place.icecore("backup", "file=one", "--kind", "file=tree")
            place.run(str(release / "examples" / "many"), str(place.root / "repo"), str(number), "70")
            for name, argv in {
                "check": ["check"],
                "check, index in RocksDB": ["check", "--index-memory", "1"],
                "prune -n": ["prune", "-n"],
                "prune": ["prune"],
                "prune --now": ["prune", "--now"],
                "check afterwards": ["check"],
            }.items():
                cpu, peak, _ = place.icecore(*argv)
                rows.append([f"{number:,}", name, f"{cpu:.2f}", f"{peak:.0f}", f"{place.size() / 1e6:.0f}"])
    table(["chunks", "work", "CPU s", "peak, MiB", "repository, MB"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/scale", description=__doc__)
    parser.add_argument("release", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--records", type=int, default=62_500)
    parser.add_argument("--snapshots", type=int, default=10_000)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--chunks", type=int, default=5_000_000)
    options = parser.parse_args()
    for part, size in ((data, options.records), (files, options.files), (chunks, options.chunks), (snapshots, options.snapshots)):
        if size:
            part(options.release, size)


if __name__ == "__main__":
    main()
