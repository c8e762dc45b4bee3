"""Private API of Ray Tune. Tried with Ray 2.60.0."""

from __future__ import annotations

from typing import Any


def forget_pickled_error(trial: Any) -> None:
    """Have Ray Tune read what ended a trial as text alone, when it collects the results of all trials.

    It would unpickle the error from the folder of the sweep, to which others may be able to write. Raises AttributeError
    where this version of Ray has no `Trial.run_metadata.pickled_error_filename`.
    """
    assert hasattr(trial.run_metadata, "pickled_error_filename")
    trial.run_metadata.pickled_error_filename = None
