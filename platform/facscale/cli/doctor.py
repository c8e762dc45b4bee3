"""`facscale doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from facscale.doctor import Patient
from facscale.doctor.show import show
from facscale.spec import Job, Pipeline, parse, read


def examine_cluster(spec: Path | None, overrides: Sequence[str], *, folder: Path, as_json: bool) -> int:
    """Of the Ray cluster at hand, for a job or a pipeline if there is one; the exit status. Raises SpecError."""
    patient = Patient(folder=str(folder))
    if spec is not None:
        document = read(spec, overrides)
        if "source" in document.data:
            patient.pipeline = parse(document, Pipeline)
        else:
            patient.job = parse(document, Job)
    return show(patient, as_json=as_json)
