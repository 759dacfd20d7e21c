#!/usr/bin/env python3
"""Writes a Chroma store until its stdin ends, and logs each call before and after it.

Before a call an intent line goes to the log (operation number, kind, collection, ids), after it a line that says
`acknowledged`, which is on the disk before the next call, or `failed`. Times are of the monotonic clock, which all
processes of a machine share, and of the wall clock. A line `pause` on stdin lets all calls under way end, holds
further ones back, and logs `paused`; `resume` goes on. history.py says what each operation writes. Ends with 0 unless
it couldn't begin; failed calls are counted by whoever reads the log.
"""

import argparse
import json
import os
import random
import sys
import threading
import time
import traceback

os.environ["ANONYMIZED_TELEMETRY"] = "False"

import chromadb  # noqa: E402
from chromadb.config import Settings  # noqa: E402

import history  # noqa: E402

KINDS = ("add", "upsert", "update", "touch", "delete")
WEIGHTS = (15, 25, 30, 8, 22)


class Log:
    """The file of intents and acknowledgements. Lines of several threads don't mix."""

    def __init__(self, path):
        self.file = open(path, "a", encoding="utf-8")
        self.lock = threading.Lock()

    def write(self, event, durable=False, **fields):
        with self.lock:
            moment = {"monotonic": time.monotonic(), "wall": time.time()}
            self.file.write(json.dumps({"event": event, **fields, **moment}) + "\n")
            self.file.flush()
            if durable:
                os.fsync(self.file.fileno())


class Lane:
    """One thread's calls, each issued when the one before it is done. Knows the state that they lead to."""

    def __init__(self, name, client, log, options):
        self.name, self.client, self.log, self.options = name, client, log, options
        self.random = random.Random(f"{options.seed} {name}")
        self.state, self.handles, self.written, self.limits, self.deleted = {}, {}, {}, {}, {}
        self.op = 0
        self.calling = threading.Lock()

    def call(self, kind, collection, ids=()):
        """Performs one operation, and says whether it succeeded."""
        with self.calling:
            return self.logged(kind, collection, ids)

    def logged(self, kind, collection, ids):
        self.op += 1
        operation = {"op": self.op, "kind": kind, "collection": collection, "ids": list(ids)}
        self.log.write("intent", lane=self.name, **operation)
        try:
            self.perform(operation)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"[:500]
            self.log.write("failed", lane=self.name, op=self.op, error=text)
            return False
        self.log.write("acknowledged", durable=True, lane=self.name, op=self.op)
        history.apply(self.state, operation)
        if kind not in ("create", "drop", "touch"):
            self.written[collection] += len(ids)
        if kind == "delete":
            self.deleted[collection].update(dict.fromkeys(ids, self.written[collection]))
        return True

    def perform(self, operation):
        op, kind, name, ids = (operation[key] for key in ("op", "kind", "collection", "ids"))
        if kind == "create":
            self.handles[name] = self.client.create_collection(
                name, metadata=self.parameters(name), embedding_function=None
            )
        elif kind == "drop":
            self.client.delete_collection(name)
        elif kind == "delete":
            self.handles[name].delete(ids=ids)
        elif kind == "touch":
            self.handles[name].update(ids=ids, metadatas=[history.metadata(name, op)] * len(ids))
        else:
            getattr(self.handles[name], kind)(
                ids=ids,
                embeddings=[history.vector(name, id, op).tolist() for id in ids],
                documents=[history.document(name, id, op) for id in ids],
                metadatas=[history.metadata(name, op)] * len(ids),
            )

    def parameters(self, name):
        """A careful graph and a wide search: a missed id shall tell of the store, not of the index's approximation."""
        return {
            "hnsw:space": history.SPACES.get(name, "l2"),
            "hnsw:sync_threshold": self.options.sync_threshold,
            "hnsw:batch_size": self.options.batch_size,
            "hnsw:construction_ef": 200,
            "hnsw:search_ef": 200,
        }

    def pause(self, times=1):
        time.sleep(self.random.uniform(0, 2 * times * self.options.pause_ms / 1000))

    def create(self, name):
        """Makes a collection, with its own limit of records until it is made anew: they must not all go at once."""
        self.written[name], self.deleted[name] = 0, {}
        self.limits[name] = self.random.uniform(0.5, 1.5) * self.options.rotate
        return self.call("create", name)

    def absent(self, name):
        """Ids that may be added. Deleted ones not at once: Chroma 0.4 and 0.5 ignore an add in the delete's batch."""
        live, deleted = self.state[name], self.deleted[name]
        longest_ago = self.written[name] - 5 * self.options.batch_size
        ids = (f"{name}-{number}" for number in range(history.size.pool))
        return [id for id in ids if id not in live and (id not in deleted or deleted[id] < longest_ago)]

    def change(self, name):
        """One random operation on a collection: as many ids come as go, once there are enough."""
        live, size = self.state[name], history.size
        kind = self.random.choices(KINDS, WEIGHTS)[0]
        if len(live) < (20 if name.startswith("churn") else size.fewest):
            kind = "add"
        elif len(live) > size.most and kind == "add":
            kind = "delete"
        count = self.random.randint(*size.call)
        if kind != "add":
            count = min(count, len(live))
        if kind == "add":
            ids = self.random.sample(self.absent(name), count)
        elif kind == "upsert":
            new = count // 3
            ids = self.random.sample(list(live), count - new) + self.random.sample(self.absent(name), new)
        else:
            ids = self.random.sample(list(live), count)
        self.call(kind, name, ids)

    def work(self, names, stop):
        """Writes these collections. One that has grown too much is dropped and made anew, which caps the store."""
        while not stop.is_set():
            self.step(self.random.choice(names))
            self.pause()

    def step(self, name):
        if name not in self.state:
            self.create(name)
        elif self.written[name] > self.limits[name]:
            self.call("drop", name)
        else:
            self.change(name)

    def churn(self, stop):
        """Collections of short lives: made, filled, changed, dropped."""
        number = 0
        while not stop.is_set():
            number += 1
            name = f"churn-{number}"
            if self.create(name):
                for _ in range(self.random.randint(1, 6)):
                    if stop.is_set():
                        return
                    self.change(name)
                    self.pause()
                self.call("drop", name)
            # Each leaves a directory behind, in most versions.
            self.pause(10)


def connect(options):
    settings = Settings(anonymized_telemetry=False)
    if options.server:
        host, port = options.server.rsplit(":", 1)
        return chromadb.HttpClient(host=host, port=int(port), settings=settings)
    return chromadb.PersistentClient(options.store, settings)


def parse_arguments(given=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", help="the store's directory, which is made when missing")
    parser.add_argument("--server", metavar="HOST:PORT", help="write through this server instead")
    parser.add_argument("--log", required=True, help="the file of intents and acknowledgements")
    parser.add_argument("--threads", type=int, choices=(1, 3), default=1)
    parser.add_argument("--churn", action="store_true", help="collections of short lives, in a thread of their own")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause-ms", type=float, default=15, help="mean pause after a call [default: 15]")
    parser.add_argument("--sync-threshold", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=30)
    parser.add_argument("--rotate", type=int, help="records written until a collection is made anew")
    parser.add_argument("--size", choices=history.SIZES, default="usual", help="how much is written")
    options = parser.parse_args(given)
    history.use(options.size)
    if bool(options.store) == bool(options.server):
        parser.error("one of --store and --server")
    if options.rotate is None:
        # 0.4 keeps every record ever written in its queue.
        options.rotate = history.size.rotate[0 if chromadb.__version__.startswith("0.4") else 1]
    return options


def obey(lanes, log):
    """Pauses and resumes the lanes as stdin says, until it ends."""
    paused = False
    for line in sys.stdin:
        if line == "pause\n" and not paused:
            for lane in lanes:
                lane.calling.acquire()
            log.write("paused", durable=True)
        elif line == "resume\n" and paused:
            for lane in lanes:
                lane.calling.release()
        paused = line == "pause\n"
    if paused:
        for lane in lanes:
            lane.calling.release()


def give_up(failure):
    """A lane that stops unseen would make the storm a calm: the whole writer ends with 1."""
    traceback.print_exception(failure.exc_value)
    os._exit(1)


def main():
    options = parse_arguments()
    log, stop = Log(options.log), threading.Event()
    client = connect(options)
    names = list(history.SPACES)
    shares = [names] if options.threads == 1 else [[name] for name in names]
    lanes = [Lane(f"lane-{number}", client, log, options) for number in range(len(shares))]
    threads = [threading.Thread(target=lane.work, args=(share, stop)) for lane, share in zip(lanes, shares)]
    if options.churn:
        lanes.append(Lane("churn", client, log, options))
        threads.append(threading.Thread(target=lanes[-1].churn, args=(stop,)))
    threading.excepthook = give_up
    for thread in threads:
        thread.start()
    obey(lanes, log)
    stop.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
