"""Ray Tune over keys of a spec: a job file with a `sweep:` block searches first, then judges what it found."""

from facscale.sweep.run import run_sweep

__all__ = ["run_sweep"]
