"""`facscale rehearse`: train a job for a minute on its real workers; then name the bottleneck and forecast the whole job."""

from facscale.profile.forecast import Price
from facscale.profile.run import profile_job

__all__ = ["Price", "profile_job"]
