"""MLflow, and nothing else in the platform knows it.

Every record goes to a journal on disk first and from there to the tracker, so that no run waits for a tracker or ends
because of it.
"""

import os

# Before mlflow is imported anywhere: it reports its use to its makers unless told not to.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

from facscale.track.journal import SpoolError
from facscale.track.tracker import Run, Tracker, flush

__all__ = ["Run", "SpoolError", "Tracker", "flush"]
