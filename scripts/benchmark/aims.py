"""What icecore shall reach on the synthetic store of full size."""

from collections.abc import Callable
from dataclasses import dataclass

from figures import Figures, proofs, typical


@dataclass
class Verdict:
    work: str
    aim: str
    found: str
    reached: bool


def judged(dataset: Figures) -> list[Verdict]:
    """A verdict for each aim whose work was done."""
    works = {work: typical(runs["icecore"]) for work, runs in dataset["works"].items() if "icecore" in runs}
    added = dataset["growth"].get("icecore", [])[1:]
    verdicts = []
    if "first" in works:
        cost = works["first"]
        verdicts += [
            at_most("first snapshot", "CPU", cost["cpu"], 6.5, seconds),
            at_most("first snapshot", "wall ÷ CPU", cost["wall"] / cost["cpu"], 0.6, plain),
            at_most("first snapshot", "repository", cost["added"], 1.5e9, sized),
        ]
    if "unchanged" in works:
        verdicts.append(at_most("nothing changed", "CPU", works["unchanged"]["cpu"], 0.05, seconds))
    if "increment" in works:
        verdicts.append(at_most("one increment", "CPU", works["increment"]["cpu"], 2.5, seconds))
        verdicts.append(at_most("one increment", "added, mean", works["increment"]["added"], 20e6, sized))
    if len(added) >= 10:
        verdicts.append(at_most("ten increments", "added", sum(added[:10]), 200e6, sized))
    if "empty" in works:
        verdicts.append(at_most("restore into an empty directory", "CPU", works["empty"]["cpu"], 3.5, seconds))
    if "over" in works:
        verdicts.append(at_most("restore in place, one increment back", "CPU", works["over"]["cpu"], 1.5, seconds))
    if works:
        peak = max(cost["peak"] for cost in works.values())
        verdicts.append(at_most("all of these", "peak", peak, 256 << 20, memory))
    return verdicts + proof(dataset)


def proof(dataset: Figures) -> list[Verdict]:
    costs = proofs(dataset)
    work = "one increment with a full proof"
    return [
        at_most(work, f"CPU ÷ ({check} and one hash pass)", costs["backup"]["cpu"] / costs[both]["cpu"], 1.2, plain)
        for both, check in (("both", "the shell's integrity_check"), ("own_both", "icecore's SQLite's"))
        if {"backup", both} <= set(costs)
    ]


def at_most(work: str, what: str, value: float, limit: float, show: Callable[[float], str]) -> Verdict:
    return Verdict(work, f"{what} ≤ {show(limit)}", show(value), value <= limit)


def seconds(value: float) -> str:
    return f"{value:.2f} s"


def plain(value: float) -> str:
    return f"{value:.2f}"


def sized(value: float) -> str:
    return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"


def memory(value: float) -> str:
    return f"{value / 2**20:.0f} MiB"
