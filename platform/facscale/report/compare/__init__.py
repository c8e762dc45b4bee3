"""What was judged on one data set, side by side: runs of any job and cluster, and what papers print.

`report` (matplotlib) is imported by its module name.
"""

from facscale.report.compare.entries import Entry, entries, named
from facscale.report.compare.papers import beside, log_papers

__all__ = ["Entry", "beside", "entries", "log_papers", "named"]
