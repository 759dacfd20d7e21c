#!/usr/bin/env python3
"""Captures a Chroma store again and again while it is written, and lets real Chroma judge each capture.

Runs under the Python whose chromadb is meant. writer.py writes (through `chroma run` with --server); every capture is
by icecore, restored to a scratch directory, or by a plain copy (method `cp`, the control), which icecore's validator
then has to judge; verify.py decides whether it holds one moment. Method `paused` copies while the writer rests: what
is broken there is Chroma's own doing, or the storm's. Prints a line per capture, a table, and one line of JSON. Ends
with 1 if something that icecore restored was broken, a writer's call failed, a backup was refused, or a broken copy
was not flagged; for the control also if no copy was broken, because then the storm was too weak to prove anything;
with `paused`, if a copy was broken or flagged.
"""

import argparse
import importlib.metadata
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import history
from verify import die_with_parent

HERE = Path(__file__).resolve().parent
# Small stores would fit into one piece.
PIECES = {"usual": 64 * 1024, "small": 4096}
# Longest times in seconds: until the writer has begun, for one call of icecore or cp, for one verdict.
START, CALL, VERDICT = 120, 300, 400


class Failed(Exception):
    """The storm itself went wrong: it says nothing about a capture."""


class Service:
    """What writes the store: the writer, and the server if there is one. Their output goes to files in `work`."""

    def __init__(self, options, work):
        self.options, self.work, self.children = options, work, []
        self.store, self.log = work / "store", work / "log.jsonl"
        self.writer = None

    def spawn(self, name, command):
        with open(self.work / f"{name}.txt", "wb") as output:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.work,
                env={**os.environ, "ANONYMIZED_TELEMETRY": "False"},
                preexec_fn=die_with_parent,
            )
        self.children.append((name, child))
        return child

    def start(self):
        target = ["--store", str(self.store)]
        if self.options.server:
            port = free_port()
            chroma = str(Path(sys.executable).with_name("chroma"))
            arguments = ["run", "--path", str(self.store), "--host", "127.0.0.1", "--port", str(port)]
            self.spawn("server", [chroma, *arguments])
            self.wait("the server's port", lambda: answers(port))
            target = ["--server", f"127.0.0.1:{port}"]
        command = [sys.executable, str(HERE / "writer.py"), "--log", str(self.log), *target]
        for name in ("threads", "seed", "pause_ms", "sync_threshold", "batch_size", "size"):
            command += [f"--{name.replace('_', '-')}", str(getattr(self.options, name))]
        if self.options.churn:
            command.append("--churn")
        self.writer = self.spawn("writer", command)
        self.wait(f"{self.options.warm_up} operations", lambda: self.operations() >= self.options.warm_up)

    def operations(self):
        if not self.log.exists():
            return 0
        return sum(moment is not None for lane in history.read_log(self.log).values() for moment in lane.acknowledged)

    def wait(self, what, done):
        begun = time.monotonic()
        while not done():
            self.check()
            if time.monotonic() - begun > START:
                raise Failed(f"no {what} within {START} s; {self.last_words()}")
            time.sleep(0.05)

    def check(self):
        for name, child in self.children:
            if child.poll() is not None:
                raise Failed(f"the {name} ended with {child.returncode}; {self.last_words()}")

    def last_words(self):
        texts = [(self.work / f"{name}.txt").read_text(errors="replace")[-1500:] for name, _ in self.children]
        return "\n".join(texts)

    def pause(self):
        """Returns when no call is under way and none will begin before `resume`."""
        before = self.pauses()
        self.say("pause")
        self.wait("pause", lambda: self.pauses() > before)

    def pauses(self):
        return self.log.read_text(encoding="utf-8").count('"event": "paused"')

    def resume(self):
        self.say("resume")

    def say(self, word):
        self.writer.stdin.write(f"{word}\n".encode())
        self.writer.stdin.flush()

    def finish(self):
        """Lets the writer end its call, and complains if it can't."""
        self.check()
        self.writer.stdin.close()
        if self.writer.wait(timeout=CALL) != 0:
            raise Failed(f"the writer ended with {self.writer.returncode}; {self.last_words()}")

    def kill(self):
        for _, child in self.children:
            child.kill()
            child.wait()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def answers(port):
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


class Icecore:
    """The program on a repository of its own."""

    def __init__(self, binary, work, name):
        self.work, self.repository = work, work / name
        self.command = [str(binary), "-r", str(self.repository), "--cache-dir", str(work / "cache"), "--json"]
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("ICECORE_")}
        self.run("init")

    def run(self, *arguments):
        """Its one JSON document."""
        done = subprocess.run(
            [*self.command, *map(str, arguments)],
            cwd=self.work,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=CALL,
            preexec_fn=die_with_parent,
        )
        try:
            return json.loads(done.stdout)
        except ValueError as error:
            raise Failed(f"icecore {arguments} ended with {done.returncode}: {done.stdout}{done.stderr}") from error

    def backup(self, store, *arguments):
        return self.run("backup", f"store={store}", "--kind", "store=chroma", "--validate", "full", *arguments)


def copy_by_cp(store, target):
    """Files that vanish meanwhile are nothing to cp but a complaint."""
    subprocess.run(["cp", "-r", store, target], stderr=subprocess.DEVNULL, timeout=CALL)


class SlowCopy:
    """A copy at so many bytes per second, as of a tool that compresses while it reads. What vanishes is left out."""

    def __init__(self, rate, piece):
        self.rate, self.piece, self.begun, self.copied = rate, piece, time.monotonic(), 0

    def tree(self, source, target, leave_out=()):
        """File after file, in directory order."""
        target.mkdir(exist_ok=True)
        try:
            entries = list(os.scandir(source))
        except FileNotFoundError:
            return
        for entry in entries:
            if entry.name not in leave_out:
                copy = self.tree if entry.is_dir() else self.file
                copy(Path(entry.path), target / entry.name)

    def file(self, source, target):
        try:
            with open(source, "rb", buffering=0) as reading, open(target, "wb") as writing:
                while piece := reading.read(self.piece):
                    writing.write(piece)
                    self.copied += len(piece)
                    time.sleep(max(0, self.begun + self.copied / self.rate - time.monotonic()))
        except FileNotFoundError:
            pass


def copy_slowly(store, target, rate, order, piece):
    """As cp -r; or the database by SQLite's own backup, as a careful script does it, before or after all else."""
    copy, names = SlowCopy(rate, piece), ("chroma.sqlite3", "chroma.sqlite3-journal")
    if order == "directory":
        copy.tree(store, target)
        return
    if order == "database-last":
        copy.tree(store, target, names)
    target.mkdir(exist_ok=True)
    with closing(sqlite3.connect(store / names[0])) as source, closing(sqlite3.connect(target / names[0])) as place:
        source.backup(place)
    if order == "database-first":
        copy.tree(store, target, names)


def codes_of(document):
    """Codes of a document's findings, and of its error."""
    found = {finding.get("code") for finding in document["findings"]}
    return sorted(found | ({document["error"]["code"]} if document["error"] else set()))


class Storm:
    """One round: captures, verdicts, and what they add up to."""

    def __init__(self, options, work):
        self.options, self.work = options, work
        self.version = importlib.metadata.version("chromadb")
        self.service = Service(options, work)
        self.icecore = Icecore(options.icecore, work, "repository")
        self.snapshots = []

    def run(self):
        self.service.start()
        pauses = random.Random(self.options.seed)
        for number in range(1, self.options.snapshots + 1):
            time.sleep(pauses.uniform(0, 2 * self.options.between_ms / 1000))
            self.service.check()
            snapshot = {"number": number, **self.take(number)}
            self.snapshots.append(snapshot)
            print(line_of(snapshot), flush=True)
        self.service.finish()

    def take(self, number):
        """One capture and its verdict, as the fields of the report."""
        target = self.work / f"capture-{number}"
        capture = self.by_icecore if self.options.method == "icecore" else self.by_copy
        begin = time.monotonic()
        document, store, end = capture(target)
        source = document["sources"].get("store", {})
        snapshot = {
            "seconds": round(end - begin, 3),
            "exit_code": document["exit_code"],
            "codes": codes_of(document),
            "pause_ms": source.get("writer_pause_ms"),
            "consistency": source.get("consistency"),
            "flagged": document["exit_code"] != 0,
            "verdict": self.verify(store, begin, end) if store else None,
        }
        snapshot["broken"] = bool(store) and not snapshot["verdict"]["ok"]
        refused = store is None
        if self.options.keep and (snapshot["broken"] or refused or self.options.keep_all):
            self.keep(number, store, {**snapshot, "begin": begin, "end": end, "document": document})
        shutil.rmtree(target, ignore_errors=True)
        return snapshot

    def by_icecore(self, target):
        """(document of the backup, directory of what it restored or None if it was refused, time of its end)."""
        document = self.icecore.backup(self.service.store)
        end = time.monotonic()
        if document["exit_code"] != 0:
            return document, None, end
        restored = self.icecore.run("restore", document["stamp"], "-t", target)
        if restored["exit_code"] != 0:
            raise Failed(f"restore of {document['stamp']}: {restored}")
        return document, target / "store", end

    def by_copy(self, target):
        """The same of a plain copy, and the document of a cold backup of it."""
        options = self.options
        if self.options.method == "paused":
            self.service.pause()
            copy_by_cp(self.service.store, target)
            self.service.resume()
        elif self.options.slow:
            copy_slowly(self.service.store, target, options.slow, options.order, PIECES[options.size])
        else:
            copy_by_cp(self.service.store, target)
        end = time.monotonic()
        return self.icecore.backup(target, "--cold"), target, end

    def verify(self, store, begin, end):
        command = [sys.executable, str(HERE / "verify.py"), str(store), str(self.service.log), str(begin), str(end)]
        command += ["--size", self.options.size]
        done = subprocess.run(
            command,
            env={**os.environ, "TMPDIR": str(self.work)},
            capture_output=True,
            text=True,
            timeout=VERDICT,
            preexec_fn=die_with_parent,
        )
        try:
            return json.loads(done.stdout)
        except ValueError as error:
            raise Failed(f"no verdict: {done.stdout}{done.stderr}") from error

    def keep(self, number, store, evidence):
        """The store as captured, unless it was refused, the writer's log, and all that was found."""
        name = f"{self.version}-{self.options.method}-{os.getpid()}-{number}"
        directory = Path(self.options.keep) / name
        directory.mkdir(parents=True)
        if store:
            shutil.copytree(store, directory / "store")
        shutil.copy(self.service.log, directory / "log.jsonl")
        options = {name: getattr(self.options, name) for name in ("order", "slow", "threads", "churn", "size")}
        evidence = {"version": self.version, "options": options, **evidence}
        (directory / "verdict.json").write_text(json.dumps(evidence, indent=1) + "\n")

    def report(self):
        """What the round adds up to."""
        taken, lanes = self.snapshots, history.read_log(self.service.log).values()
        calls = [
            (acknowledged - issued) * 1000
            for lane in lanes
            for issued, acknowledged in zip(lane.issued, lane.acknowledged)
            if acknowledged is not None
        ]
        pauses = [snapshot["pause_ms"] for snapshot in taken if snapshot["pause_ms"] is not None]
        checked = [snapshot["verdict"]["counts"] for snapshot in taken if snapshot["verdict"]]
        control = self.options.method == "cp"
        refused = [line_of(snapshot) for snapshot in taken if snapshot["flagged"]]
        report = {
            "version": self.version,
            "method": self.options.method,
            "mode": mode_of(self.options),
            "snapshots": len(taken),
            "broken": sum(snapshot["broken"] for snapshot in taken),
            "flagged": sum(snapshot["flagged"] for snapshot in taken),
            "broken_but_unflagged": sum(snapshot["broken"] and not snapshot["flagged"] for snapshot in taken),
            "flagged_but_fine": sum(snapshot["flagged"] and not snapshot["broken"] for snapshot in taken),
            "unreachable_ids": sum(counts.get("unreachable", 0) for counts in checked),
            "ids_checked": sum(counts.get("ids", 0) for counts in checked),
            "operations_meanwhile": percentiles([overlap(counts) for counts in checked if counts]),
            "refused": [] if control else refused,
            "failed_calls": [error for lane in lanes for error in lane.failed if error],
            "operations": len(calls),
            "call_ms": percentiles(calls),
            "pause_ms": percentiles(pauses) if self.options.method == "icecore" else None,
            "seconds": percentiles([snapshot["seconds"] for snapshot in taken]),
            "details": taken,
        }
        # A torn copy can fit together by chance: a transaction of which only some rows came along, or vectors of two
        # persists under the same ids. No check of files sees these; that is what the capture's holds are for.
        unproven = control and (report["broken"] == 0 or report["broken_but_unflagged"] * 4 > report["broken"])
        wrong = not control and (report["broken"] > 0 or report["refused"])
        report["ok"] = not (unproven or wrong or report["failed_calls"])
        return report


def mode_of(options):
    words = ["server"] if options.server else []
    words += ["churn"] if options.churn else []
    words += ["three threads"] if options.threads == 3 else []
    words += [options.order] if options.order != "directory" else []
    return ", ".join(words) or "plain"


def overlap(counts):
    """How many operations were under way, or issued, while the capture ran."""
    return sum(longest - shortest for _, shortest, longest in counts["prefixes"].values())


def percentiles(values):
    """p50, p99 and the greatest, rounded; None where there is no value."""
    ordered = sorted(values)
    if not ordered:
        return {"p50": None, "p99": None, "max": None}
    ranks = {"p50": len(ordered) // 2, "p99": len(ordered) * 99 // 100, "max": len(ordered) - 1}
    return {name: round(ordered[rank], 2) for name, rank in ranks.items()}


def line_of(snapshot):
    verdict = snapshot["verdict"]
    result = "refused" if verdict is None else "whole" if verdict["ok"] else f"BROKEN ({verdict['reason'][:220]})"
    words = [f"{snapshot['number']:3}", f"{snapshot['seconds']:7.3f} s", f"exit {snapshot['exit_code']}"]
    words += [f"pause {snapshot['pause_ms']} ms", str(snapshot["consistency"]), result, " ".join(snapshot["codes"])]
    return "  ".join(words).rstrip()


def table(report):
    """The report without its details, a line per figure."""
    lines = []
    for name, value in report.items():
        if name == "details":
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{part} {number}" for part, number in value.items())
        elif isinstance(value, list):
            value = "".join([str(len(value)), *(f"\n    {item}" for item in value[:10])])
        lines.append(f"{name.replace('_', ' '):22} {value}")
    return "\n".join(lines)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--icecore", required=True, type=Path, help="the program")
    parser.add_argument("--method", choices=("icecore", "cp", "paused"), default="icecore")
    parser.add_argument("--slow", type=float, metavar="BYTES_PER_S", help="cp: copy at this rate")
    orders = ("directory", "database-first", "database-last")
    parser.add_argument("--order", choices=orders, default="directory", help="what a slow cp copies first")
    parser.add_argument("--snapshots", type=int, default=20)
    parser.add_argument("--threads", type=int, choices=(1, 3), default=1, help="writer threads")
    parser.add_argument("--churn", action="store_true", help="collections of short lives beside")
    parser.add_argument("--server", action="store_true", help="write through `chroma run`")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause-ms", type=float, default=15, help="mean pause between calls [default: 15]")
    parser.add_argument("--sync-threshold", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=30)
    parser.add_argument("--size", choices=history.SIZES, default="usual", help="how much is written [default: usual]")
    parser.add_argument("--warm-up", type=int, default=150, help="operations before the first capture [default: 150]")
    parser.add_argument("--between-ms", type=float, default=250, help="mean pause between captures [default: 250]")
    parser.add_argument("--dir", help="where the scratch directory goes [default: TMPDIR]")
    parser.add_argument("--keep", metavar="DIR", help="keep broken captures here, with log and verdict")
    parser.add_argument("--keep-all", action="store_true", help="keep whole ones too")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the JSON here too")
    options = parser.parse_args()
    if options.order != "directory" and not options.slow:
        parser.error("--order needs --slow")
    options.icecore = options.icecore.resolve()
    return options


def main():
    options = parse_arguments()
    # A signal ends the storm as an exception does, so that nothing it started is left.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="chroma-storm-", dir=options.dir) as directory:
        storm = Storm(options, Path(directory))
        try:
            storm.run()
        finally:
            storm.service.kill()
        report = storm.report()
    print(table(report))
    text = json.dumps(report)
    print(text)
    if options.report:
        options.report.write_text(text + "\n")
    sys.exit(0 if report["ok"] else 1)


if __name__ == "__main__":
    main()
