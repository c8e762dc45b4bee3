"""A whole job, from the spec to the table of cross-validated F1: what `facscale run jobs/….yaml` does."""

from facscale.job.run import run_job

__all__ = ["run_job"]
