"""Ray Tune over the keys of a spec: a job file with a `sweep:` block searches first, then runs with the best values."""

from facscale.sweep.run import run_sweep, try_sweep

__all__ = ["run_sweep", "try_sweep"]
