"""Ray Train's record of the checkpoints of a training, a private format. Tried with Ray 2.60.0.

It is the record of all our trainers, so that each can continue what another has begun.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

SNAPSHOT = "checkpoint_manager_snapshot.json"  # in the folder of a training
CHECKPOINT_PREFIX = "checkpoint_"  # of the names of its checkpoints' folders


def parse_snapshot(text: bytes) -> list[tuple[str, dict[str, Any]]]:
    """The checkpoints in the text of a SNAPSHOT, the oldest first: names of their folders, and what they were reported with.

    Raises ValueError for anything else. Ray Train overwrites the file in place, so that a kill or a full disk leaves a part
    of it, with which no training in that folder starts any more.
    """
    try:
        return [
            (str(result["checkpoint_dir_name"]), dict(result["metrics"]))
            for result in json.loads(text)["checkpoint_results"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"no record of checkpoints: {error!r}") from None


def build_snapshot(checkpoints: Sequence[tuple[str, Mapping[str, float]]]) -> bytes:
    """The text of a SNAPSHOT of checkpoints, as `parse_snapshot` returns them."""
    results = [{"version": 0, "checkpoint_dir_name": name, "metrics": dict(metrics)} for name, metrics in checkpoints]
    state = {
        "ray_version": version("ray"),
        "checkpoint_results": results,
        "checkpoint_report_indices": list(range(len(results))),
        "latest_checkpoint_result": results[-1] if results else None,
        "pending_training_results": [],
        "pending_validation_specs": [],
        "current_report_index": len(results),
        "validated_checkpoint_dir_names": [],
        "timed_out_validation_checkpoint_dir_names": [],
        "failed_validation_checkpoint_dir_names": [],
    }
    return json.dumps(state).encode()
