"""MLflow: does it answer, and may we write."""

from __future__ import annotations

from collections.abc import Iterator

from facscale.doctor.context import DiagnosticContext
from facscale.doctor.finding import Finding, ok, warning
from facscale.doctor.runner import register_check


@register_check("MLflow", rank=120, timeout_s=120)
def check_mlflow(context: DiagnosticContext) -> Iterator[Finding]:
    """Look at MLFLOW_TRACKING_URI, and at the server's log."""
    from facscale.track.permission import check_write_access

    if not context.tracking_uri:
        fix = "set MLFLOW_TRACKING_URI, or track.uri in the spec, to a server to which all clusters log"
        yield warning("no MLflow server is named: jobs keep a file beside their runs", fix)
        return
    seconds = check_write_access(context.tracking_uri)
    yield ok(f"{context.tracking_uri}: a run was created, given a metric and a file, and deleted, in {seconds:.1f} s")
