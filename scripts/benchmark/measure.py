"""Takes the measure of commands, and of what lies on the disk."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tools import Command


class Failed(Exception):
    """A tool did not do its work; the text is what it said last."""


def occupied(path: Path) -> int:
    """Bytes of disk below a path, hard links counted once."""
    seen: dict[tuple[int, int], int] = {}
    for directory, _, names in os.walk(path):
        for name in [".", *names]:
            status = os.lstat(os.path.join(directory, name))
            seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


def warm(*paths: Path) -> None:
    """Reads everything once, so that it comes from the page cache, after all that was written has reached the disk."""
    os.sync()
    size = 0
    for path in paths:
        for file in path.rglob("*"):
            if file.is_file() and not file.is_symlink():
                with open(file, "rb", buffering=0) as opened:
                    while data := opened.read(1 << 20):
                        size += len(data)
    touch(2 * size)


def touch(size: int) -> None:
    """Uses memory and frees it: in a virtual machine the first use of a page costs extra, which is nobody's work."""
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(facts["MemAvailable"].split()[0]) * 1024
    flags = "mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE"
    code = f"import mmap, sys; mmap.mmap(-1, max(1, int(sys.argv[1])), flags={flags})"
    subprocess.run([sys.executable, "-c", code, str(min(size, available // 4))], check=False)


def measure(command: Command, environment: dict[str, str], logs: Path) -> tuple[dict[str, float], str]:
    """Figures of a command and of all its children, and what it wrote to stdout.

    Peak and bytes come from `time`, which is small: a child of this process would begin with our own memory as its peak.
    """
    figures, output, errors = logs / "figures", logs / "stdout", logs / "stderr"
    argv = ["time", "-q", "-o", str(figures), "-f", "%M %O", *command.argv]
    with open(output, "wb") as stdout, open(errors, "wb") as stderr:
        began = time.monotonic()
        process = subprocess.Popen(
            argv, cwd=command.cwd, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        said = (output.read_text(errors="replace") + errors.read_text(errors="replace")).splitlines()[-5:]
        raise Failed("\n".join([*said, f"exit code {process.returncode}"]))
    peak, blocks = map(int, figures.read_text().split()[-2:])
    cpu = usage.ru_utime + usage.ru_stime
    return {"wall": wall, "cpu": cpu, "peak": peak * 1024, "written": blocks * 512}, output.read_text(errors="replace")
