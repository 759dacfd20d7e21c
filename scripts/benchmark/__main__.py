"""Compares icecore with other backup tools, rsync and cp on stores that grow, and writes a page about it with two plots."""

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import page
from tools import TOOLS, Tool
from work import Bench, Dataset, say

SCRIPTS = Path(__file__).resolve().parent.parent
CHROMA_VECTORS, CHROMA_STEP = 50_000, 250


def datasets(options: argparse.Namespace) -> Iterator[Dataset]:
    if options.dataset in ("synthetic", "both"):
        dataset = os.environ["BENCH_DATASET"]
        title = f"Synthetic store: three segments of {options.records:,} records"
        make = [dataset, "make", "data", str(options.records)]
        yield Dataset("synthetic", title, make, lambda turn: [dataset, "grow", "data", str(turn)])
    if options.dataset in ("chroma", "both"):
        vectors = CHROMA_VECTORS * options.records // page.FULL_RECORDS
        chroma = [os.environ["BENCH_PYTHON"], str(SCRIPTS / "chroma-dataset.py")]
        for threshold in (1000, 100):
            title = f"Real Chroma: {vectors:,} vectors, `sync_threshold` {threshold}"
            make = [*chroma, "make", "data", str(vectors), str(threshold)]
            yield Dataset(f"chroma-{threshold}", title, make, lambda _: [*chroma, "grow", "data", str(CHROMA_STEP)])


def machine(place: Path) -> dict[str, Any]:
    facts = [line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line]
    model = next((value.strip() for key, value in facts if key.strip() == "model name"), platform.machine())
    system = subprocess.run(["df", "--output=fstype", str(place)], capture_output=True, text=True, check=True)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "model": model,
        "memory": memory,
        "kernel": platform.release(),
        "filesystem": system.stdout.split()[-1],
        "date": datetime.date.today().isoformat(),
    }


def installed(tools: list[type[Tool]], results: dict[str, Any]) -> list[type[Tool]]:
    """Those that are there; of all others the results tell how to install them."""
    there = []
    for kind in tools:
        tool = kind(Path())
        if shutil.which(tool.program):
            there.append(kind)
            results["versions"][tool.name] = tool.version()
        else:
            results["missing"][tool.name] = tool.hint
            say(f"{tool.name} is not installed: {tool.hint or 'no such program'}")
    sqlite = subprocess.run(["sqlite3", "--version"], capture_output=True, text=True, check=True).stdout
    results["versions"]["sqlite3"] = f"sqlite3 {sqlite.split()[0]}"
    return there


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    names = ", ".join(kind.name.split()[0] for kind in TOOLS)
    parser.add_argument("--records", type=int, default=page.FULL_RECORDS, help="records of each of the three segments")
    parser.add_argument("--increments", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3, help="times that all other work is done")
    parser.add_argument("--only", type=lambda text: text.split(","), metavar="TOOL,...", help=f"of {names}")
    parser.add_argument("--dataset", choices=("synthetic", "chroma", "both"), default="both")
    parser.add_argument("--out", type=Path, default=SCRIPTS.parent / "docs" / "performance.md")
    parser.add_argument("--results", type=Path, help="where the raw figures go")
    parser.add_argument("--from", dest="source", type=Path, help="write the page from these raw figures; run nothing")
    return parser.parse_args()


def chosen(only: list[str] | None) -> list[type[Tool]]:
    kinds = {kind.name.split()[0]: kind for kind in TOOLS}
    unknown = set(only or []) - set(kinds)
    if unknown:
        sys.exit(f"no such tool: {', '.join(sorted(unknown))}; there are {', '.join(kinds)}")
    return [kind for name, kind in kinds.items() if only is None or name in only]


def begun(options: argparse.Namespace, place: Path) -> dict[str, Any]:
    kept = ("records", "increments", "rounds", "only", "dataset")
    results = {"options": {key: getattr(options, key) for key in kept}, "machine": machine(place)}
    return results | {"versions": {}, "missing": {}, "datasets": []}


def bench(options: argparse.Namespace, wanted: list[type[Tool]], parent: Path) -> dict[str, Any]:
    if options.dataset != "synthetic":
        imported = subprocess.run(
            [os.environ["BENCH_PYTHON"], "-c", "import chromadb"], capture_output=True, check=False
        )
        if imported.returncode:
            sys.exit("chromadb is missing: run scripts/test first, or take --dataset synthetic")
    results = begun(options, parent)
    kinds = installed(wanted, results)
    for dataset in datasets(options):
        place = parent / dataset.key
        (place / "logs").mkdir(parents=True)
        one = Bench(dataset, options, place, lambda: options.results.write_text(json.dumps(results, indent=1)))
        one.tools = [kind(place) for kind in kinds]
        results["datasets"].append(one.found)
        one.run()
        shutil.rmtree(place)
    return results


def main() -> None:
    options = arguments()
    kinds = chosen(options.only)
    if options.source:
        results = json.loads(options.source.read_text())
    else:
        if options.results is None:
            options.results = Path(tempfile.mkstemp(prefix="icecore-bench-", suffix=".json")[1])
        say(f"raw figures: {options.results}")
        with tempfile.TemporaryDirectory(prefix="icecore-bench-", ignore_cleanup_errors=True) as place:
            results = bench(options, kinds, Path(place))
    for path in page.write(results, options.out):
        say(f"written: {path}")


if __name__ == "__main__":
    main()
