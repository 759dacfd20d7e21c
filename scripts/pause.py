"""Measures writer pauses: makes a database, captures it idle and under a writer, and prints one line per state.

The writer commits one small row after another without a pause and notes how long each commit took; a reader reads one row
at a time. Beside the captures the writer is stopped by an empty lock and unlock of SQLite's own (BEGIN IMMEDIATE, ROLLBACK).
"""

import argparse
import json
import multiprocessing
import os
import sqlite3
import statistics
import subprocess
import time

try:
    import blake3
except ImportError:
    blake3 = None


def make(path, megabytes):
    """A rollback-journal database of about that size, with rows as Chroma's tables have them."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE embeddings (id INTEGER PRIMARY KEY, document TEXT, vector BLOB)")
    connection.execute("CREATE TABLE tail (id INTEGER PRIMARY KEY, note TEXT)")
    row = 3000
    for start in range(0, megabytes * 1_000_000 // row, 10_000):
        count = min(10_000, megabytes * 1_000_000 // row - start)
        text = "the quick brown fox " * 70
        rows = ((f"{start + n} {text}", os.urandom(1536)) for n in range(count))
        connection.executemany("INSERT INTO embeddings (document, vector) VALUES (?, ?)", rows)
        connection.commit()
    connection.close()


class Worker:
    """A process that repeats a step on a connection of its own and keeps each one's time in ms, in two parts."""

    def __init__(self, path, step):
        self.phase = multiprocessing.Value("i", 0)
        self.results, theirs = multiprocessing.Pipe(duplex=False)
        self.process = multiprocessing.Process(target=self.run, args=(path, step, theirs), daemon=True)
        self.process.start()

    def run(self, path, step, results):
        connection = sqlite3.connect(path, timeout=1000, isolation_level=None)
        times, failed, number = ([], []), 0, 0
        while self.phase.value < 2:
            started = time.perf_counter()
            try:
                connection.execute(step, (number,)).fetchall()
            except sqlite3.Error:
                failed += 1
            times[min(self.phase.value, 1)].append((time.perf_counter() - started) * 1000)
            number += 1
            time.sleep(0.002)
        connection.close()
        results.send((times, failed))

    def next_part(self):
        self.phase.value += 1

    def end(self):
        """The times without captures, those beside captures, and how many steps failed."""
        self.next_part()
        (quiet, beside), failed = self.results.recv()
        self.process.join()
        return quiet, beside, failed


def spread(values):
    """p50, p99 and the most, of values in ms."""
    ordered = sorted(values)
    place = lambda share: ordered[min(len(ordered) - 1, int(share * len(ordered)))]
    return f"p50 {place(0.5):8.2f}  p99 {place(0.99):8.2f}  max {ordered[-1]:8.2f} ms"


def empty_locks(path, count):
    """SQLite's own way to keep writers out, with nothing done meanwhile."""
    times = []
    connection = sqlite3.connect(path, timeout=1000, isolation_level=None)
    for _ in range(count):
        started = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
        times.append((time.perf_counter() - started) * 1000)
    connection.close()
    return times


def capture(binary, repository, path, arguments):
    """One backup; its source's JSON."""
    command = [binary, "-r", repository, "backup", f"db={path}", "--json", "--validate", "quick", *arguments]
    run = subprocess.run(command, capture_output=True, text=True)
    document = json.loads(run.stdout)
    if not document["ok"]:
        raise SystemExit(f"the backup failed: {document['error']}")
    return document["sources"]["db"], document["duration_ms"]


def captures(binary, repository, path, count, arguments, between=lambda: None):
    pauses, durations, ways = [], [], set()
    for _ in range(count):
        between()
        source, duration = capture(binary, repository, path, arguments)
        pauses.append(source["writer_pause_ms"])
        durations.append(duration)
        ways.add(source["consistency"])
    return pauses, durations, ways


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary")
    parser.add_argument("directory")
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--captures", type=int, default=20)
    options, arguments = parser.parse_known_args()
    os.makedirs(os.path.join(options.directory, "app"))
    path = os.path.join(options.directory, "app", "chroma.sqlite3")
    repository = os.path.join(options.directory, "repository")
    make(path, options.megabytes)
    subprocess.run([options.binary, "-r", repository, "init", "-q"], check=True)
    capture(options.binary, repository, path, arguments)

    started = time.perf_counter()
    with open(path, "rb") as file:
        while file.read(1 << 20):
            pass
    print(f"one plain read of it from the page cache: {(time.perf_counter() - started) * 1000:.0f} ms")

    if blake3:
        blake3.blake3(max_threads=os.cpu_count()).update_mmap(path)
        started = time.perf_counter()
        blake3.blake3(max_threads=os.cpu_count()).update_mmap(path).digest()
        print(f"one BLAKE3 pass on all cores:             {(time.perf_counter() - started) * 1000:.0f} ms")

    def touch():
        connection = sqlite3.connect(path)
        connection.execute("INSERT INTO tail (note) VALUES ('touched')")
        connection.commit()
        connection.close()
        time.sleep(0.1)

    count = options.captures
    print(f"empty lock, idle        {spread(empty_locks(path, 200))}")
    pauses, durations, ways = captures(options.binary, repository, path, count, arguments, touch)
    print(f"pause, idle             {spread(pauses)}  ({', '.join(sorted(ways))}; a backup takes {statistics.median(durations):.0f} ms)")

    writer = Worker(path, "INSERT INTO tail (note) VALUES ('row ' || ?)")
    reader = Worker(path, "SELECT length(document) FROM embeddings WHERE id = 1 + ? % 1000")
    time.sleep(3)
    writer.next_part(), reader.next_part()
    pauses, durations, ways = captures(options.binary, repository, path, count, arguments)
    quiet_writes, writes, failed_writes = writer.end()
    quiet_reads, reads, failed_reads = reader.end()
    print(f"pause, writing          {spread(pauses)}  ({', '.join(sorted(ways))}; a backup takes {statistics.median(durations):.0f} ms)")
    print(f"a write, no capture     {spread(quiet_writes)}")
    print(f"a write, captures       {spread(writes)}  ({len(writes)} writes, {failed_writes} failed)")
    print(f"a read, no capture      {spread(quiet_reads)}")
    print(f"a read, captures        {spread(reads)}  ({len(reads)} reads, {failed_reads} failed)")


if __name__ == "__main__":
    main()
