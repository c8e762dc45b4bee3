"""MLflow: does it answer, and may we write."""

from __future__ import annotations

from collections.abc import Iterator

from facscale.doctor.examination import check
from facscale.doctor.finding import Finding, ok, warning
from facscale.doctor.patient import Patient


@check("MLflow", rank=120, limit_s=120)
def writes(patient: Patient) -> Iterator[Finding]:
    """Look at MLFLOW_TRACKING_URI, and at the server's log."""
    from facscale.track.permission import prove_write

    if not patient.tracker:
        mend = "set MLFLOW_TRACKING_URI, or track.uri in the spec, to a server that all clusters tell"
        yield warning("no MLflow server is named: jobs keep a file beside their runs", mend)
        return
    seconds = prove_write(patient.tracker)
    yield ok(f"{patient.tracker}: a run was made, given a metric and a file, and deleted, in {seconds:.1f} s")
