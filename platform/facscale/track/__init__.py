"""MLflow tracking; the rest of the platform reaches MLflow only through this room.

Every record goes to a journal on disk first and from there to the server in the background, so that no run waits for
MLflow or fails because of it.
"""

import os

# Before mlflow is imported anywhere: it sends usage reports to its makers unless these are set.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

from facscale.track.journal import SpoolError
from facscale.track.tracker import RunLogger, Tracker, flush

__all__ = ["RunLogger", "SpoolError", "Tracker", "flush"]
