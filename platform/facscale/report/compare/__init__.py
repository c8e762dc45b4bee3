"""Results on one data set, side by side: runs of any job and cluster, and what papers print.

`comparison_report` (matplotlib) is imported by its module name.
"""

from facscale.report.compare.entries import ResultEntry, collect_entries, find_entry
from facscale.report.compare.papers import log_papers, score_papers

__all__ = ["ResultEntry", "collect_entries", "find_entry", "log_papers", "score_papers"]
