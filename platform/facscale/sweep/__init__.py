"""Ray Tune over the keys of a spec: a job file with a `sweep:` block searches first, then runs with the best values."""

from facscale.sweep.run import check_sweep_spec, prepare_sweep, run_sweep

__all__ = ["check_sweep_spec", "prepare_sweep", "run_sweep"]
