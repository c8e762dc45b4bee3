"""Tables of AU intensities: how well predictions agree with labels, by method, measure and AU."""

from __future__ import annotations

from collections.abc import Mapping

from facscale.evaluate.bootstrap import Interval
from facscale.evaluate.intensity import MEASURES, IntensityScores
from facscale.evaluate.scores import PROTOCOLS
from facscale.report.table import Cell, Column, ReportTable


def build_intensity_table(scores: Mapping[str, IntensityScores], *, title: str = "") -> ReportTable:
    """Four rows for each method (MEASURES), a column for each AU, and the mean over AUs with its 95 % interval."""
    aus = _union_aus(scores)
    columns = [
        Column("", align="left", can_wrap=False),
        Column("measure", align="left", can_wrap=False),
        *(Column(f"AU{au}", number_format=".2f", can_wrap=False) for au in aus),
        Column("mean [95 % interval]", can_wrap=False),
    ]
    rows: list[list[Cell]] = []
    for name, row in scores.items():
        for measure, heading in MEASURES.items():
            values = dict(zip(row.aus, row.by_au[measure], strict=True))
            cells = [values[au].value if au in values else None for au in aus]
            rows.append([name, heading, *cells, _format_interval(row.mean[measure])])
    sizes = dict.fromkeys((row.frames, row.people) for row in scores.values())
    notes = [f"frames of all folds together ({frames:,}); intervals over {people} people" for frames, people in sizes]
    names: dict[str, list[str]] = {}
    for name, row in scores.items():
        names.setdefault(PROTOCOLS[row.protocol], []).append(name)
    notes += [f"{protocol}: {', '.join(rows)}" for protocol, rows in names.items()]
    return ReportTable(columns, rows, title=title, notes=notes)


def build_intensity_values(scores: Mapping[str, IntensityScores]) -> ReportTable:
    """The same for a CSV file: a line for each method, measure and AU, unrounded, with the bounds of the interval."""
    rows: list[list[Cell]] = []
    for name, row in scores.items():
        for measure in MEASURES:
            named = dict(zip((f"AU{au}" for au in row.aus), row.by_au[measure], strict=True))
            rows += [[name, measure, au, *interval] for au, interval in [("mean", row.mean[measure]), *named.items()]]
    return ReportTable([Column(heading) for heading in ("method", "measure", "AU", "value", "low", "high")], rows)


def _union_aus(scores: Mapping[str, IntensityScores]) -> list[int]:
    return list(dict.fromkeys(au for row in scores.values() for au in row.aus))


def _format_interval(interval: Interval) -> str:
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
