"""A report: what a training or a job leaves for its readers, before any of it is shown or logged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from matplotlib.figure import Figure

from facscale.report.table import ReportTable


@dataclass
class Report:
    """Tables for the terminal, and texts, files, figures and metrics by the names under which a tracker keeps them."""

    tables: list[ReportTable] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)  # "f1_BP4D.csv" -> its content
    files: dict[str, bytes] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)  # without an extension
    metrics: dict[str, float] = field(default_factory=dict)

    def add(self, other: Report) -> Self:
        """Take over everything of another report."""
        self.tables += other.tables
        self.texts |= other.texts
        self.files |= other.files
        self.figures |= other.figures
        self.metrics |= other.metrics
        return self
