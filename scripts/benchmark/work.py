"""The works that are measured on one dataset: every tool does the same on the same data, in turn."""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measure import Failed, measure, occupied, warm
from tools import Command, Copies, Icecore, Tool


# Greater ones would push the data out of the page cache; those of their kind don't read what they wrote before.
WARM_REPOSITORY = 6 << 30


@dataclass
class Dataset:
    key: str
    title: str
    make: list[str]
    grow: Callable[[int], list[str]]


@dataclass
class Bench:
    """One dataset: the tools that still take part, and what was found."""

    dataset: Dataset
    options: argparse.Namespace
    place: Path
    save: Callable[[], None]
    tools: list[Tool] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)
    turns: int = 0

    @property
    def data(self) -> Path:
        return self.place / "data"

    def run(self) -> None:
        say(f"{self.dataset.title}: making it")
        self.shell(self.dataset.make)
        self.found |= {"key": self.dataset.key, "title": self.dataset.title, "works": {}, "growth": {}, "renewed": {}}
        self.found |= {"failures": [], "bytes": occupied(self.data), "database": database(self.data).stat().st_size}
        say(f"{self.found['bytes'] / 1e6:,.0f} MB, of these {self.found['database'] / 1e6:,.0f} MB the database")
        self.first()
        self.unchanged()
        self.increments()
        shutil.copytree(self.data, self.place / "original", copy_function=shutil.copy2)
        self.restores_empty()
        self.restores_over()
        self.proof()

    def shell(self, argv: list[str]) -> None:
        """What isn't measured, and can't fail."""
        subprocess.run(argv, cwd=self.place, check=True, stdout=subprocess.DEVNULL)

    def in_turn(self, number: int) -> list[Tool]:
        """The tools, another one first each time."""
        shift = number % max(len(self.tools), 1)
        return self.tools[shift:] + self.tools[:shift]

    def note(self, work: str, name: str, figures: dict[str, Any]) -> None:
        self.found["works"].setdefault(work, {}).setdefault(name, []).append(figures)
        added = f"{figures['added'] / 1e6:9,.1f} MB added" if "added" in figures else ""
        line = f"{figures['wall']:8.2f} s wall {figures['cpu']:8.2f} s CPU {figures['peak'] >> 20:6} MiB peak"
        print(f"{work:12} {name:26} {line} {added}", flush=True)
        self.save()

    def failed(self, work: str, name: str, error: Failed) -> None:
        lines = str(error).replace(str(self.place), "…")
        print(f"{work:12} {name:26} failed: {lines}", flush=True)
        self.found["failures"].append({"work": work, "tool": name, "lines": lines})
        self.save()

    def measured(self, tool: Tool, command: Command) -> tuple[dict[str, float], str]:
        return measure(command, tool.environment(), self.place / "logs")

    def snapshot(self, tool: Tool) -> dict[str, Any]:
        before = occupied(tool.repository)
        warm(*([tool.repository] if before <= WARM_REPOSITORY else []), self.data)
        figures, output = self.measured(tool, tool.snapshot())
        os.sync()
        added = {"added": occupied(tool.repository) - before}
        told = tool.told(output)
        tool.trim()
        return figures | added | told

    def begin(self, tool: Tool) -> None:
        tool.anew()
        tool.label = ""
        for command in tool.begin():
            self.measured(tool, command)

    def snapshots(self, work: str, number: int, anew: bool = False) -> None:
        """One of every tool. Who fails takes no further part."""
        for tool in self.in_turn(number):
            try:
                if anew:
                    self.begin(tool)
                figures = self.snapshot(tool)
            except Failed as error:
                self.failed(work, tool.name, error)
                self.tools.remove(tool)
                continue
            self.note(work, tool.name, figures)
            if work == "increment" or anew and number == self.options.rounds - 1:
                self.found["growth"].setdefault(tool.name, []).append(figures["added"])

    def first(self) -> None:
        for number in range(self.options.rounds):
            self.snapshots("first", number, anew=True)

    def unchanged(self) -> None:
        for number in range(self.options.rounds):
            self.snapshots("unchanged", number)

    def grow(self) -> None:
        self.turns += 1
        self.shell(self.dataset.grow(self.turns))

    def increments(self) -> None:
        for number in range(self.options.increments):
            self.make_room()
            self.grow()
            say(f"increment {number + 1} of {self.options.increments}")
            self.snapshots("increment", number)

    def make_room(self) -> None:
        """Where the disk would run full, the repository that grew most is begun anew with the state that it has."""
        growth = self.found["growth"]
        needed = 4 * self.found["bytes"] + sum(growth[tool.name][-1] for tool in self.tools if self.turns)
        while shutil.disk_usage(self.place).free < needed + (1 << 30):
            grown = [tool for tool in self.tools if not isinstance(tool, Copies)]
            sizes = {tool.name: occupied(tool.repository) - growth[tool.name][0] for tool in grown}
            tool = max(grown, key=lambda tool: sizes[tool.name], default=None)
            if tool is None or sizes[tool.name] < self.found["bytes"] // 4:
                sys.exit("the disk is too small for this: take fewer --records, or fewer tools (--only)")
            say(f"the disk is nearly full: the repository of {tool.name} is begun anew")
            self.found["renewed"][tool.name] = self.found["renewed"].get(tool.name, 0) + 1
            try:
                self.begin(tool)
                self.snapshot(tool)
            except Failed as error:
                self.failed("increment", tool.name, error)
                self.tools.remove(tool)

    def restored(self, work: str, tool: Tool, name: str, command: Command, target: Path) -> None:
        """Measures a restore, and compares what it made with the original."""
        warm(tool.repository, self.data)
        try:
            figures, _ = self.measured(tool, command)
            difference = differing(self.place / "original", target)
            if difference:
                raise Failed(f"the result is not the original:\n{difference}")
        except Failed as error:
            self.failed(work, name, error)
        else:
            self.note(work, name, figures)

    def restores_empty(self) -> None:
        target = self.place / "out" / "data"
        for number in range(self.options.rounds):
            for tool in self.in_turn(number):
                tool.prepare(target)
                self.restored("empty", tool, tool.name, tool.restore(target), target)
                shutil.rmtree(target.parent, ignore_errors=True)

    def restores_over(self) -> None:
        """Over a store that has gone one increment further; each round by another one."""
        for number in range(self.options.rounds):
            self.become("original", "data")
            self.grow()
            self.become("data", "grown")
            for tool in self.in_turn(number):
                for name, command in tool.over().items():
                    self.become("grown", "data")
                    self.restored("over", tool, name, command, self.data)
        self.become("original", "data")

    def become(self, source: str, target: str) -> None:
        self.shell(["rsync", "-a", "--delete", "--inplace", f"{source}/", f"{target}/"])

    def proof(self) -> None:
        """A full proof of one increment, beside SQLite's own check and one pass of hashing."""
        icecore = next((tool for tool in self.tools if isinstance(tool, Icecore)), None)
        if icecore is None:
            return
        hashed, self.found["hash"] = hash_pass(self.data)
        check = ["sqlite3", str(database(self.data)), "PRAGMA integrity_check"]
        own_check = [os.environ["BENCH_DATASET"], "check", str(database(self.data))]
        for _ in range(self.options.rounds):
            self.grow()
            warm(icecore.repository, self.data)
            try:
                for name, argv in (("integrity_check", check), ("own_check", own_check), ("hash", hashed)):
                    self.note("proof", name, self.measured(icecore, Command(argv, self.place))[0])
                figures, output = self.measured(icecore, icecore.snapshot("full"))
                icecore.told(output)
                self.note("proof", "backup", figures)
                self.note("proof", "validate", self.measured(icecore, icecore.validate())[0])
            except Failed as error:
                self.failed("proof", icecore.name, error)


def database(data: Path) -> Path:
    return data / "chroma.sqlite3"


def differing(original: Path, result: Path) -> str:
    """The last lines of `diff -r`; nothing if both are the same."""
    done = subprocess.run(["diff", "-r", original, result], capture_output=True, text=True, check=False)
    return "\n".join((done.stdout + done.stderr).splitlines()[-3:])


HASH = """
import blake3, sys
for file in sys.argv[1:]:
    blake3.blake3(max_threads=blake3.blake3.AUTO).update_mmap(file).digest()
"""


def hash_pass(data: Path) -> tuple[list[str], str]:
    """A command that hashes, or at least reads, every file, and its name."""
    files = [str(path) for path in sorted(data.rglob("*")) if path.is_file()]
    if shutil.which("b3sum"):
        return ["b3sum", *files], "b3sum"
    python = os.environ.get("BENCH_PYTHON", "python3")
    if not subprocess.run([python, "-c", HASH], capture_output=True, check=False).returncode:
        return [python, "-c", HASH, *files], "BLAKE3 in Python"
    return ["sh", "-c", 'cat "$@" >/dev/null', "cat", *files], "cat, which reads but hashes nothing"


def say(text: str) -> None:
    print(f"== {text}", flush=True)
