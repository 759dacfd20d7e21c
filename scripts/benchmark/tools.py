"""The tools that scripts/bench compares: how each takes a snapshot of `data`, and puts it back, below one directory."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

FOREIGN = ("ICECORE_", "RESTIC_", "BORG_", "RUSTIC_", "BUPSTASH_", "BUP_", "CASYNC_", "XDG_")


@dataclass
class Command:
    argv: list[str]
    cwd: Path


@dataclass
class Tool:
    """A tool with a repository of its own. `restore` is given a directory that shall hold what `data` held."""

    place: Path
    name = ""
    program = ""
    hint = ""  # how to install it, where it is not a package of Debian
    label: str = field(default="", init=False)  # the newest snapshot

    @property
    def short(self) -> str:
        return self.name.split()[0]

    @property
    def data(self) -> Path:
        return self.place / "data"

    @property
    def repository(self) -> Path:
        return self.place / "repositories" / self.short

    def command(self, *argv: str | Path, cwd: Path | None = None) -> Command:
        return Command([str(word) for word in argv], cwd or self.place)

    def variables(self) -> dict[str, str]:
        return {}

    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
        return kept | {"HOME": str(self.place / "home" / self.short), "LC_ALL": "C.UTF-8"} | self.variables()

    def version(self) -> str:
        done = subprocess.run([self.program, "--version"], capture_output=True, text=True, check=False)
        line = (done.stdout.splitlines() or ["of unknown version"])[0]
        return line if self.program in line or "/" in self.program else f"{self.program} {line}"

    def begin(self) -> list[Command]:
        """What makes the repository; not measured."""
        return []

    def anew(self) -> None:
        """Nothing is left of an earlier repository and its caches."""
        for path in (self.repository, self.place / "home" / self.short):
            shutil.rmtree(path, ignore_errors=True)
            path.parent.mkdir(parents=True, exist_ok=True)
        (self.place / "home" / self.short).mkdir()

    def snapshot(self) -> Command:
        raise NotImplementedError

    def told(self, output: str) -> dict[str, int]:
        """What the tool itself says about its newest snapshot."""
        return {}

    def trim(self) -> None:
        """Frees what no later work needs."""

    def prepare(self, target: Path) -> None:
        target.mkdir(parents=True)

    def restore(self, target: Path) -> Command:
        raise NotImplementedError

    def over(self) -> dict[str, Command]:
        """Ways to restore over `data`, by name."""
        return {self.name: self.restore(self.data)}


class Icecore(Tool):
    name = "icecore"
    program = os.environ.get("BENCH_ICECORE", "icecore")

    def variables(self) -> dict[str, str]:
        return {"ICECORE_REPOSITORY": str(self.repository)}

    def begin(self) -> list[Command]:
        return [self.command(self.program, "init", "--quiet")]

    def snapshot(self, level: str = "quick") -> Command:
        source = ("data=data", "--kind", "data=tree", "--validate", level)
        return self.command(self.program, "backup", *source, "--no-progress", "--json")

    def told(self, output: str) -> dict[str, int]:
        report = json.loads(output)
        self.label = report["stamp"]
        return {key: report[key] for key in ("new_bytes", "stored_bytes", "metadata_bytes")}

    def prepare(self, target: Path) -> None:
        """`--target` makes it."""

    def restore(self, target: Path) -> Command:
        return self.command(self.program, "restore", self.label, "--target", target.parent, "--no-progress")

    def over(self) -> dict[str, Command]:
        restore = (self.program, "restore", self.label, "--confirm-service-stopped", "--no-progress")
        return {
            self.name: self.command(*restore),
            "icecore --no-pre-snapshot": self.command(*restore, "--no-pre-snapshot"),
        }

    def validate(self) -> Command:
        return self.command(self.program, "validate", self.label, "--no-progress")


class Restic(Tool):
    name = program = "restic"

    def version(self) -> str:
        return subprocess.run(["restic", "version"], capture_output=True, text=True, check=False).stdout.strip()

    def variables(self) -> dict[str, str]:
        return {"RESTIC_REPOSITORY": str(self.repository), "RESTIC_PASSWORD": "bench"}

    def begin(self) -> list[Command]:
        return [self.command("restic", "init", "-q")]

    def snapshot(self) -> Command:
        return self.command("restic", "backup", "-q", ".", cwd=self.data)

    def restore(self, target: Path) -> Command:
        return self.command("restic", "restore", "-q", "latest", "--target", target)


class Borg(Tool):
    name = program = "borg"
    encryption, compression = "repokey-blake2", "lz4"

    def variables(self) -> dict[str, str]:
        known = {"BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes", "BORG_PASSPHRASE": "bench"}
        return known | {"BORG_REPO": str(self.repository)}

    def begin(self) -> list[Command]:
        return [self.command("borg", "init", "--encryption", self.encryption)]

    def snapshot(self) -> Command:
        self.label = str(int(self.label or 0) + 1)
        return self.command("borg", "create", "--compression", self.compression, f"::{self.label}", ".", cwd=self.data)

    def restore(self, target: Path) -> Command:
        return self.command("borg", "extract", f"::{self.label}", cwd=target)


class BorgPlain(Borg):
    name = "borg-none"
    encryption, compression = "none", "none"


class Rustic(Tool):
    name = program = "rustic"
    hint = "cargo install rustic-rs --locked"

    def variables(self) -> dict[str, str]:
        return {"RUSTIC_REPOSITORY": str(self.repository), "RUSTIC_PASSWORD": "bench", "RUSTIC_NO_PROGRESS": "true"}

    def begin(self) -> list[Command]:
        return [self.command("rustic", "init")]

    def snapshot(self) -> Command:
        return self.command("rustic", "backup", self.data)

    def restore(self, target: Path) -> Command:
        return self.command("rustic", "restore", f"latest:{self.data}", target)


class Bupstash(Tool):
    name = program = "bupstash"
    hint = "cargo install bupstash --locked"

    def variables(self) -> dict[str, str]:
        key = self.place / "home" / self.short / "key"
        return {"BUPSTASH_REPOSITORY": str(self.repository), "BUPSTASH_KEY": str(key)}

    def begin(self) -> list[Command]:
        key = self.variables()["BUPSTASH_KEY"]
        return [self.command("bupstash", "init"), self.command("bupstash", "new-key", "-o", key)]

    def snapshot(self) -> Command:
        self.label = str(int(self.label or 0) + 1)
        return self.command("bupstash", "put", "--quiet", f"name={self.label}", "data")

    def restore(self, target: Path) -> Command:
        return self.command("bupstash", "restore", "--quiet", "--into", target, f"name={self.label}")


class Casync(Tool):
    name = program = "casync"

    @property
    def index(self) -> Path:
        return self.repository / f"{self.label}.caidx"

    @property
    def store(self) -> str:
        return f"--store={self.repository / 'store.castr'}"

    def anew(self) -> None:
        super().anew()
        self.repository.mkdir()

    def snapshot(self) -> Command:
        self.label = str(int(self.label or 0) + 1)
        return self.command("casync", "make", self.store, self.index, "data")

    def restore(self, target: Path) -> Command:
        return self.command("casync", "extract", self.store, self.index, target)


class Bup(Tool):
    name = program = "bup"

    def variables(self) -> dict[str, str]:
        return {"BUP_DIR": str(self.repository)}

    def begin(self) -> list[Command]:
        return [self.command("bup", "init")]

    def snapshot(self) -> Command:
        return self.command("sh", "-c", "bup index data && bup save -q --strip -n data data")

    def restore(self, target: Path) -> Command:
        return self.command("bup", "restore", "-q", "-C", target, "/data/latest/.")

    def over(self) -> dict[str, Command]:
        """It refuses to replace directories, so they go before."""
        script = "rm -rf data/* && bup restore -q -C data /data/latest/."
        return {self.name: self.command("sh", "-c", script)}


class Copies(Tool):
    """A directory per snapshot. The last two are kept, so that the disk isn't filled; what was added is known."""

    def copy(self, number: int) -> Path:
        return self.repository / f"{number:04}"

    @property
    def last(self) -> int:
        return int(self.label or 0)

    def anew(self) -> None:
        super().anew()
        self.repository.mkdir()

    def trim(self) -> None:
        for path in sorted(self.repository.iterdir())[:-2]:
            shutil.rmtree(path)


class Rsync(Copies):
    name = program = "rsync"

    def snapshot(self) -> Command:
        before, self.label = self.copy(self.last), str(self.last + 1)
        link = [f"--link-dest={before}"] if before.exists() else []
        return self.command("rsync", "-a", *link, "data/", f"{self.copy(self.last)}/")

    def restore(self, target: Path) -> Command:
        return self.command("rsync", "-a", f"{self.copy(self.last)}/", f"{target}/")

    def over(self) -> dict[str, Command]:
        way = ("rsync", "-a", "--delete", "--inplace", "--no-whole-file")
        return {self.name: self.command(*way, f"{self.copy(self.last)}/", "data/")}


class Cp(Copies):
    name, program = "cp -a", "cp"

    def snapshot(self) -> Command:
        self.label = str(self.last + 1)
        return self.command("cp", "-a", "data", self.copy(self.last))

    def restore(self, target: Path) -> Command:
        return self.command("cp", "-aT", self.copy(self.last), target)


TOOLS: list[type[Tool]] = [Icecore, Restic, Borg, BorgPlain, Rustic, Bupstash, Casync, Bup, Rsync, Cp]
