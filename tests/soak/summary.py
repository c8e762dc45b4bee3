"""What came of the rounds of one or several soaks, by kind of fault.

    python tests/soak/summary.py build/soak/rounds.jsonl [MORE ...] [--out docs/results/data/soak.json]

Recovery is the time from the fault to a step beyond the furthest one before it, or to the end of the job.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests" / "benchmarks"))

from results import ResultWriter, add_out_option, read_versions  # noqa: E402

COLUMNS = {
    "fault": None, "rounds": 0, "failed": 0, "recovery, s, median": 0, "recovery, s, worst": 0, "starts, most": 0,
    "silence, s, longest": 0,
}  # fmt: skip
ALL = "all faults"
NO_FAULT = "none"


def read_rounds(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The rounds of several logs."""
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def summarise(rounds: Sequence[dict[str, Any]]) -> list[tuple[str | float | None, ...]]:
    """A row for each kind of fault, one for all of them, and one for the rounds that nothing disturbed."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in rounds:
        groups.setdefault(record["fault"] if record["fault_at"] is not None else NO_FAULT, []).append(record)
    undisturbed = groups.pop(NO_FAULT, [])
    groups = dict(sorted(groups.items())) | {ALL: [record for group in groups.values() for record in group]}
    return [describe(name, group) for name, group in [*groups.items(), (NO_FAULT, undisturbed)] if group]


def describe(name: str, group: Sequence[dict[str, Any]]) -> tuple[str | float | None, ...]:
    """The row of some rounds."""
    recovery = list_recoveries(group)
    return (
        name,
        len(group),
        sum(bool(record["problems"]) for record in group),
        statistics.median(recovery) if recovery else None,
        max(recovery, default=None),
        max(record["tries"] for record in group),
        max(record["silence"] for record in group),
    )


def list_recoveries(rounds: Sequence[Mapping[str, Any]]) -> list[float]:
    """Seconds from the fault to the recovery, of the rounds with a fault."""
    return [record["recovered_at"] - record["fault_at"] for record in rounds if record["fault_at"] is not None]


def main() -> None:
    """Print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="+", type=Path, metavar="FILE")
    add_out_option(parser)
    options = parser.parse_args()
    rounds = read_rounds(options.logs)
    faults = sum(record["fault_at"] is not None for record in rounds)
    versions = read_versions("deepspeed", "mlflow", "ray", "torch")
    title = f"A job that is disturbed {faults} times, and its results compared bit by bit"
    with ResultWriter(options.out, title=title, columns=COLUMNS, versions=versions, commands=["make soak"]) as table:
        for row in summarise(rounds):
            table.add(*row)
            print(*(f"{name} {cell}" for name, cell in zip(COLUMNS, row, strict=True)), sep="; ")


if __name__ == "__main__":
    main()
