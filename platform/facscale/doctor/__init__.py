"""Diagnosis of a cluster before a job holds its GPUs: `facscale doctor`."""

from facscale.doctor.context import DiagnosticContext
from facscale.doctor.finding import Finding
from facscale.doctor.runner import run_checks

__all__ = ["DiagnosticContext", "Finding", "run_checks"]
