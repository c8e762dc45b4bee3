"""Every F1 in the tables of four papers as data, by AU, and the numbers in them that cannot be right.

`tables/` holds one CSV file per table with the printed digits; `index.toml` describes each of them.
"""

from facscale.report.published.check import (
    Contradiction,
    Misprint,
    RepeatedResult,
    find_contradictions,
    find_misprints,
    find_repeats,
)
from facscale.report.published.results import PublishedResult, find_results
from facscale.report.published.tables import (
    Paper,
    PublishedTable,
    PublishedTraining,
    load_papers,
    load_tables,
    load_trainings,
)

__all__ = [
    "Contradiction",
    "Misprint",
    "Paper",
    "PublishedResult",
    "PublishedTable",
    "PublishedTraining",
    "RepeatedResult",
    "find_contradictions",
    "find_misprints",
    "find_repeats",
    "find_results",
    "load_papers",
    "load_tables",
    "load_trainings",
]
