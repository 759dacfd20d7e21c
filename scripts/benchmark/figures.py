"""Figures of several runs as one."""

import statistics
from typing import Any

Figures = dict[str, Any]


def typical(runs: list[Figures]) -> Figures:
    """Medians; of what was added the mean, and of peaks the greatest."""
    summary: Figures = {key: statistics.median(run[key] for run in runs) for key in ("wall", "cpu", "written")}
    summary["peak"] = max(run["peak"] for run in runs)
    summary["added"] = statistics.mean(run["added"] for run in runs) if "added" in runs[0] else None
    return summary


def proofs(dataset: Figures) -> dict[str, Figures]:
    summaries = {name: typical(runs) for name, runs in dataset["works"].get("proof", {}).items()}
    for check, both in (("integrity_check", "both"), ("own_check", "own_both")):
        if {check, "hash"} <= set(summaries):
            checked, hashed = summaries[check], summaries["hash"]
            summaries[both] = {key: checked[key] + hashed[key] for key in ("cpu", "wall")}
            summaries[both]["peak"] = max(checked["peak"], hashed["peak"])
    return summaries
