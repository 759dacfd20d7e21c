"""Measures replication over ssh; `scripts/replicas` calls it."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SENT = Path("/sys/class/net/lo/statistics/tx_bytes")


class Host:
    """An sshd on loopback with keys of its own, ended with the process."""

    def __init__(self, root: Path):
        self.root = root
        Path("/run/sshd").mkdir(exist_ok=True)
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", root / name], check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (root / "config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {root}/host\nPidFile none\nAuthorizedKeysFile {root}/user.pub\n"
            "PasswordAuthentication no\nUsePAM no\nStrictModes no\nSubsystem sftp internal-sftp\n"
        )
        self.process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", root / "config"], stderr=subprocess.DEVNULL)
        time.sleep(1)
        self.ssh = (
            f"ssh -F /dev/null -i {root}/user -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=no "
            f"-o LogLevel=ERROR -o UserKnownHostsFile={root}/known"
        )


def measured(argv: list, **options) -> tuple[float, float, str]:
    """Seconds, MB on the wire, output."""
    before, begin = int(SENT.read_text()), time.monotonic()
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise SystemExit(f"{argv}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return time.monotonic() - begin, (int(SENT.read_text()) - before) / 1e6, done.stdout


def main() -> None:
    release, records = Path(sys.argv[1]).resolve(), sys.argv[2]
    with tempfile.TemporaryDirectory(prefix="icecore-replicas-") as scratch:
        root = Path(scratch)
        (root / "sshd").mkdir()
        host = Host(root / "sshd")
        try:
            print(table(rows(release, root, host, records)))
            print(sealed(release, root))
        finally:
            host.process.kill()


def rows(release: Path, root: Path, host: Host, records: str) -> list[tuple]:
    icecore, dataset = release / "icecore", release / "examples" / "dataset"
    own = os.environ | {
        "ICECORE_REPOSITORY": str(root / "repo"),
        "HOME": str(root / "home"),
        "ICECORE_SSH": host.ssh,
        "ICECORE_REMOTE_PATH": str(icecore),
    }
    wall = {"cwd": root, "env": own}
    restic_ssh = f"{host.ssh} -p {host.port} 127.0.0.1 -s sftp"
    secret = {"RESTIC_PASSWORD": "x", "RESTIC_PASSWORD2": "x", "RESTIC_FROM_PASSWORD": "x"}
    rest = {"cwd": root, "env": os.environ | secret | {"HOME": str(root / "home")}}
    (root / "home").mkdir()
    far = f"127.0.0.1:{root}/far-restic"
    subprocess.run([icecore, "init"], check=True, capture_output=True, **wall)
    subprocess.run(["restic", "-r", "restic", "init"], check=True, capture_output=True, **rest)
    subprocess.run([dataset, "make", "data", records], check=True, capture_output=True, cwd=root)
    options = ["-o", f"sftp.command={restic_ssh}"]
    url = f"ssh://127.0.0.1:{host.port}{root}/far"
    initialised = False
    found = []

    def backup() -> None:
        subprocess.run([icecore, "backup", "data=data", "--kind", "data=tree", "--validate", "quick"], check=True, capture_output=True, **wall)
        subprocess.run(["restic", "-r", "restic", "backup", "data"], check=True, capture_output=True, **rest)

    def sync(what: str) -> None:
        nonlocal initialised
        seconds, wire, said = measured([icecore, "--json", "replicate", url], **wall)
        reused = json.loads(said)["replicas"][0]["reused_bytes"] / 1e6
        found.append((what, "icecore replicate", seconds, wire, f"{reused:.0f} MB put together there"))
        shell = f"{host.ssh} -p {host.port}"
        rsync = ["rsync", "-a", "--exclude=/tmp", "--exclude=/locks", "-e", shell, f"{root}/repo/", f"127.0.0.1:{root}/far-rsync/"]
        seconds, wire, _ = measured(rsync, cwd=root)
        found.append((what, "rsync -a", seconds, wire, ""))
        if not initialised:
            subprocess.run(["restic", *options, "-r", f"sftp:{far}", "init"], check=True, capture_output=True, **rest)
            initialised = True
        copy = ["restic", *options, "-r", f"sftp:{far}", "copy", "--from-repo", "restic"]
        seconds, wire, _ = measured(copy, **rest)
        found.append((what, "restic copy", seconds, wire, ""))

    backup()
    sync("first")
    sync("nothing new")
    for number in range(1, 4):
        subprocess.run([dataset, "grow", "data", str(number)], check=True, capture_output=True, cwd=root)
        backup()
        if number == 1:
            sync("an increment")
    sync("two increments")
    # Small packs pile up, and are put together by the prune.
    for number in range(4, 14):
        subprocess.run([dataset, "grow", "data", str(number)], check=True, capture_output=True, cwd=root)
        backup()
    sync("ten increments")
    subprocess.run([icecore, "prune", "--keep-last", "1", "--now"], check=True, capture_output=True, **wall)
    subprocess.run(["restic", "-r", "restic", "forget", "--keep-last", "1", "--prune"], check=True, capture_output=True, **rest)
    subprocess.run([dataset, "grow", "data", "14"], check=True, capture_output=True, cwd=root)
    backup()
    sync("a prune and an increment")
    for place in ("far", "far-rsync"):
        subprocess.run([icecore, "-r", root / place, "check", "--read-data"], check=True, capture_output=True, **wall)
    return found


def sealed(release: Path, root: Path) -> str:
    """The same first snapshot and increment, plain and encrypted, in turns; CPU seconds (user and system) and bytes."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", root / "identity"], check=True)
    lines = ["", "| first snapshot | CPU s | stored MB | metadata MB |", "|---|---:|---:|---:|"]
    figures: dict[str, list] = {"plain": [], "encrypted": []}
    for number in range(3):
        for kind, found in figures.items():
            repository = root / f"{kind}{number}"
            options = ["--identity", root / "identity"] if kind == "encrypted" else []
            common = [release / "icecore", "--json", "-r", repository, *options]
            recipient = ["--recipient", root / "identity.pub"] if kind == "encrypted" else []
            subprocess.run([*common[:4], "init", *recipient], check=True, capture_output=True, cwd=root)
            before = os.times()
            argv = [*common, "backup", "data=data", "--kind", "data=tree", "--validate", "quick"]
            said = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True, cwd=root).stdout)
            after = os.times()
            cpu = after.children_user + after.children_system - before.children_user - before.children_system
            found.append((cpu, said["stored_bytes"] / 1e6, said["metadata_bytes"] / 1e6))
            subprocess.run(["rm", "-rf", repository], check=True)
    for kind, found in figures.items():
        cpu, stored, metadata = min(found)
        lines.append(f"| {kind} | {cpu:.2f} | {stored:.1f} | {metadata:.2f} |")
    return "\n".join(lines)


def table(found: list[tuple]) -> str:
    lines = ["| what | tool | seconds | MB on the wire | |", "|---|---|---:|---:|---|"]
    lines += [f"| {what} | {tool} | {seconds:.1f} | {wire:.1f} | {note} |" for what, tool, seconds, wire, note in found]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
