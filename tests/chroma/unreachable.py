#!/usr/bin/env python3
"""Counts the ids that a live Chroma itself doesn't find by their own vectors: the measure for verify.py's allowance.

Two collections are written as the storm's collections of short lives are, but for longer, and asked in between. No copy
is made of the store. Prints each time that ids were missed, and at the end how often how many were.
"""

import argparse
import collections
import os
import tempfile
import time

import history
import verify
import writer

NAMES = ("churn-a", "churn-b")
CALLS_BETWEEN = 7


class NoLog:
    def write(self, *_, **__):
        pass


def missed(lane, name):
    """How many ids of a collection are not among the five nearest to their own vectors."""
    records = lane.state[name]
    asked = [
        (id, answer)
        for ids in verify.batches(sorted(records))
        for id, answer in zip(ids, verify.query(lane.handles[name], name, ids, records, min(5, len(records))))
    ]
    return sum(id not in answer for id, answer in asked)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="unreachable-") as scratch:
        arguments = ["--store", os.path.join(scratch, "store"), "--log", os.devnull, "--seed", str(given.seed)]
        options = writer.parse_arguments(arguments)
        lane = writer.Lane("lane-0", writer.connect(options), NoLog(), options)
        found, end, calls = collections.Counter(), time.monotonic() + given.seconds, 0
        while time.monotonic() < end:
            name = lane.random.choice(NAMES)
            calls += 1
            lane.step(name)
            if calls % CALLS_BETWEEN == 0 and lane.state.get(name):
                try:
                    count = missed(lane, name)
                except verify.Broken as broken:
                    print(f"{name}: {broken}", flush=True)
                    continue
                found[count] += 1
                if count:
                    live, deleted = len(lane.state[name]), len(lane.deleted[name])
                    print(f"{name}: {count} of {live} missed, {deleted} were deleted before", flush=True)
        print(f"{calls} calls; times asked, by ids missed: {dict(sorted(found.items()))}")


if __name__ == "__main__":
    main()
