"""What the papers' tables print, as data: every F1 of four papers by AU, and what in them cannot be right.

`tables/` holds one CSV a table with the printed digits, `index.toml` says what each of them is.
"""

from facscale.report.published.check import Contradiction, Misprint, Repeat, contradictions, misprints, repeats
from facscale.report.published.lines import Line, published
from facscale.report.published.tables import Paper, Source, papers, sources

__all__ = [
    "Contradiction",
    "Line",
    "Misprint",
    "Paper",
    "Repeat",
    "Source",
    "contradictions",
    "misprints",
    "papers",
    "published",
    "repeats",
    "sources",
]
