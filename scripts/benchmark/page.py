"""Writes the page and the plots of scripts/bench from its raw figures."""

import statistics
from pathlib import Path

from aims import judged
from figures import Figures, proofs, typical
from plots import bars, lines

FULL_RECORDS = 250_000
OPEN, CLOSE = "<!-- notes -->", "<!-- /notes -->"
WORKS = {
    "first": "First snapshot",
    "unchanged": "Nothing changed",
    "increment": "One increment",
    "empty": "Restore into an empty directory",
    "over": "Restore over a store that went one increment further",
}
REMARKS = {
    "first": "Into a new repository, which is made before.",
    "over": (
        "icecore writes what differs, in place, after it has saved the present state: by default in a safety snapshot, with "
        "`--no-pre-snapshot` in an undo journal. rsync runs with `--delete --inplace --no-whole-file`; bup refuses to replace "
        "directories, so they are removed before, as part of the work; the others restore over what is there as they do."
    ),
}
INTRODUCTION = """\
How much icecore and other tools need for the same work on the same data, in one run of:

```
{command}
```

Every tool does each work in turn, another one first each time, on data that lie in the page cache (and with them its
repository up to 6 GiB), after all writes were flushed, and with memory that was used before (in a virtual machine the first use of a page costs extra). CPU is
user and system time of the command and all its children; the peak is that of the largest of them. *Written* is what
they dirtied (rusage), *added* what the repository then occupies more on the disk (`cp -a` and `rsync` with
`--link-dest`: a copy per snapshot, hard links counted once). Figures are medians (rounds: {rounds};
increments: {increments}), of what an increment added the mean, of peaks the greatest. MB are millions of bytes. Each restore was
compared with the original (`diff -r`). Seconds drift with the machine: compare the ratios, given against `cp -a` and
icecore of the same run.

icecore takes the directory as kind `tree` with `--validate quick`; borg is `repokey-blake2` with its default, lz4;
borg-none neither encrypts nor compresses; all else is as by default. icecore proves what it stored before it publishes
a snapshot; the others don't. This page is written by that script; only the notes below are kept.
"""


def write(results: Figures, out: Path) -> list[Path]:
    out.parent.mkdir(parents=True, exist_ok=True)
    for dataset in results["datasets"]:
        sort(dataset, list(results["versions"]))
    growth, cpu = (out.with_name(f"{out.stem}-{plot}.svg") for plot in ("growth", "cpu"))
    main = results["datasets"][0]
    growth.write_text(lines("MB in the repository after each increment", accumulated(main)))
    costs = {tool: typical(runs)["cpu"] for tool, runs in main["works"].get("increment", {}).items()}
    cpu.write_text(bars("CPU seconds of one increment", costs))
    plots = f"![the repository after each increment]({growth.name})\n\n![CPU of one increment]({cpu.name})"
    out.write_text(page(results, notes(out), plots))
    return [out, growth, cpu]


def sort(dataset: Figures, names: list[str]) -> None:
    """The tools in the same order everywhere; ways of one tool after each other."""

    order = [name.split()[0] for name in names]

    def sorted_by_tool(by_tool: Figures) -> Figures:
        return dict(sorted(by_tool.items(), key=lambda item: order.index(item[0].split()[0])))

    dataset["growth"] = sorted_by_tool(dataset["growth"])
    works = dataset["works"]
    dataset["works"] = {work: found if work == "proof" else sorted_by_tool(found) for work, found in works.items()}


def notes(out: Path) -> str:
    """What was written by hand between the markers of an earlier page."""
    text = out.read_text() if out.exists() else ""
    if OPEN not in text or CLOSE not in text:
        return "\n"
    return text.split(OPEN, 1)[1].split(CLOSE, 1)[0]


def page(results: Figures, by_hand: str, plots: str) -> str:
    options = results["options"]
    introduction = INTRODUCTION.format(command=command(options), **options)
    parts = ["# Performance", introduction.strip(), f"{OPEN}{by_hand}{CLOSE}", surroundings(results)]
    for number, dataset in enumerate(results["datasets"]):
        parts += section(dataset, options, plots if number == 0 else "")
    return "\n\n".join(part for part in parts if part) + "\n"


def command(options: Figures) -> str:
    words = ["./scripts/bench", *(f"--{key} {options[key]}" for key in ("records", "increments", "rounds"))]
    if options["only"]:
        words.append(f"--only {','.join(options['only'])}")
    return " ".join([*words, f"--dataset {options['dataset']}"])


def surroundings(results: Figures) -> str:
    machine = results["machine"]
    words = f"{machine['cores']} cores of {machine['model']}, {machine['memory'] / 2**30:.0f} GiB of memory"
    versions = "; ".join(dict.fromkeys(" ".join(text.split()) for text in results["versions"].values()))
    text = f"{words}, Linux {machine['kernel']}, {machine['filesystem']}, {machine['date']}. {versions}."
    missing = [f"{tool}: `{hint}`" if hint else tool for tool, hint in results["missing"].items()]
    return text + (f"\n\nNot installed, so without figures: {', '.join(missing)}." if missing else "")


def section(dataset: Figures, options: Figures, plots: str) -> list[str]:
    size = f"{dataset['bytes'] / 1e6:,.0f} MB, of these {dataset['database'] / 1e6:,.0f} MB the database."
    parts = [f"## {dataset['title']}", f"{size} {increment(dataset['key'])}"]
    if dataset["key"] == "synthetic":
        parts.append(aims(dataset, options))
    for work, title in WORKS.items():
        parts += [f"### {title}", REMARKS.get(work, ""), work_table(dataset, work)]
    parts += ["### The repository over time", repository_table(dataset), renewed(dataset), plots]
    return [*parts, proof_table(dataset), own_table(dataset), failures(dataset)]


def increment(key: str) -> str:
    if key != "synthetic":
        return "An increment is 250 records more, written by Chroma and closed cleanly."
    return (
        "An increment adds 0.5 % of records to each segment, changes one to four links of 3 % of the old ones in place, "
        "writes the pickles anew, and in the database adds 0.5 % of rows, updates 0.1 % and deletes 0.1 %."
    )


def table(heads: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, rule, *rows])


def megabytes(size: float | None) -> str:
    if size is None:
        return ""
    return f"{size / 1e6:,.1f}" if size >= 1e6 else f"{size / 1e6:.3f}"


def ratio(value: float | None, to: Figures | None, key: str) -> str:
    if value is None or not to or not to.get(key):
        return "–"
    times = value / to[key]
    return f"{times:,.0f}" if times >= 100 else f"{times:.1f}" if times >= 10 else f"{times:.2f}"


def work_table(dataset: Figures, work: str) -> str:
    summaries = {tool: typical(runs) for tool, runs in dataset["works"].get(work, {}).items()}
    cp, icecore = summaries.get("cp -a"), summaries.get("icecore")
    adds, compared = work in ("first", "unchanged", "increment"), ["cpu", "wall"]
    if work in ("first", "increment"):
        compared.append("added")
    heads = ["tool", "CPU s", "wall s", "peak MiB", "MB written", *["MB added"] * adds]
    heads += [f"{key.replace('cpu', 'CPU')} ÷ cp / icecore" for key in compared]
    rows = []
    for tool, figures in summaries.items():
        row = [tool, f"{figures['cpu']:.2f}", f"{figures['wall']:.2f}", f"{figures['peak'] / 2**20:.0f}"]
        row += [megabytes(figures[key]) for key in ["written", *["added"] * adds]]
        row += [f"{ratio(figures[key], cp, key)} / {ratio(figures[key], icecore, key)}" for key in compared]
        rows.append(row)
    failed = {failure["tool"] for failure in dataset["failures"] if failure["work"] == work} - set(summaries)
    rows += [[tool, "failed", *[""] * (len(heads) - 2)] for tool in sorted(failed)]
    return table(heads, rows)


def accumulated(dataset: Figures) -> dict[str, list[float]]:
    """MB after the first snapshot and after each increment."""
    return {
        tool: [sum(added[: end + 1]) / 1e6 for end in range(len(added))] for tool, added in dataset["growth"].items()
    }


def repository_table(dataset: Figures) -> str:
    sizes = accumulated(dataset)
    last = max((len(values) for values in sizes.values()), default=1) - 1
    ends = sorted({0, min(1, last), min(10, last), last})
    heads = ["tool", *("first, MB" if end == 0 else f"after {end}, MB" for end in ends), f"÷ icecore after {last}"]
    icecore = dict(enumerate(sizes.get("icecore", [])))
    rows = []
    for tool, values in sizes.items():
        cells = [f"{values[end]:,.0f}" if end < len(values) else "failed" for end in ends]
        rows.append([tool, *cells, ratio(dict(enumerate(values)).get(last), icecore, last)])  # type: ignore[arg-type]
    return table(heads, rows)


def renewed(dataset: Figures) -> str:
    if not dataset["renewed"]:
        return ""
    times = ", ".join(f"{tool} {count}×" for tool, count in dataset["renewed"].items())
    return (
        "To spare the disk, repositories that had grown were begun anew between two increments with the state that they "
        f"held; what they had added until then is counted on: {times}."
    )


def aims(dataset: Figures, options: Figures) -> str:
    found = judged(dataset)
    if not found:
        return ""
    whole = options["records"] == FULL_RECORDS
    rows = []
    for verdict in found:
        reached = "yes" if verdict.reached else "**no**"
        rows.append([verdict.work, verdict.aim, verdict.found, reached if whole else "–"])
    remark = "" if whole else f"\n\nThe aims are for {FULL_RECORDS:,} records; this run had {options['records']:,}."
    heads = ["work", "aim", "found", "reached"]
    return f"What icecore aims at, and what it reached in this run:\n\n{table(heads, rows)}{remark}"


def proof_table(dataset: Figures) -> str:
    summaries = proofs(dataset)
    names = {
        "backup": "`icecore backup --validate full` of one increment",
        "validate": "`icecore validate` of that snapshot, from its stored bytes alone",
        "integrity_check": "`sqlite3 chroma.sqlite3 'PRAGMA integrity_check'`",
        "own_check": "`PRAGMA integrity_check` by the SQLite in icecore, which checks the full-text index too",
        "hash": f"one hash pass over all files ({dataset.get('hash', '')})",
        "both": "the shell's check and the hash pass together",
        "own_both": "icecore's SQLite's check and the hash pass together",
    }
    rows = []
    for name, title in names.items():
        if name in summaries:
            cost = summaries[name]
            times = [ratio(cost["cpu"], summaries.get(both), "cpu") for both in ("both", "own_both")]
            rows.append([title, f"{cost['cpu']:.2f}", f"{cost['wall']:.2f}", f"{cost['peak'] / 2**20:.0f}", *times])
    if not rows:
        return ""
    heads = ["", "CPU s", "wall s", "peak MiB", "CPU ÷ shell and hash", "CPU ÷ own SQLite and hash"]
    return "### A full proof of one increment\n\n" + table(heads, rows)


def own_table(dataset: Figures) -> str:
    """What icecore says about its snapshots."""
    rows = []
    for work in ("first", "unchanged", "increment"):
        runs = [run for run in dataset["works"].get(work, {}).get("icecore", []) if "new_bytes" in run]
        if runs:
            means = [
                statistics.mean(run[key] for run in runs) for key in ("new_bytes", "stored_bytes", "metadata_bytes")
            ]
            rows.append([WORKS[work].lower(), *map(megabytes, means)])
    if not rows:
        return ""
    heads = ["work", "new, MB", "stored, MB", "metadata, MB"]
    return "### What icecore itself reports (`--json`, means)\n\n" + table(heads, rows)


def failures(dataset: Figures) -> str:
    if not dataset["failures"]:
        return ""
    parts = ["### What failed"]
    for failure in dataset["failures"]:
        title = WORKS.get(failure["work"], failure["work"]).lower()
        parts.append(f"{failure['tool']}, {title}:\n\n```\n{failure['lines']}\n```")
    return "\n\n".join(parts)
