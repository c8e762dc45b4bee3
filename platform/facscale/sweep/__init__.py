"""Ray Tune over the keys of a spec: a job file with a `sweep:` block searches first, then runs with the best values."""

from facscale.sweep.run import prepare_sweep, run_sweep

__all__ = ["prepare_sweep", "run_sweep"]
