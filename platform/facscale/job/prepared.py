"""A job before it runs: what its spec, its data and a small step of its methods tell. Needs neither Ray nor MLflow."""

from __future__ import annotations

from dataclasses import dataclass

from facscale.job.check import check_methods, check_spec
from facscale.job.datasets import JobData
from facscale.job.inputs import fetch_inputs
from facscale.job.variants import Variant, get_cluster_name, make_run_key
from facscale.spec import Document


@dataclass(frozen=True)
class PreparedJob:
    """A job whose spec is valid, with its data."""

    variants: tuple[Variant, ...]  # the job's own first, then its baselines
    data: JobData

    @property
    def main(self) -> Variant:
        """The job's own variant."""
        return self.variants[0]

    @property
    def key(self) -> str:
        """The key of the job's run in MLflow."""
        tested = [dataset.fingerprint for dataset in self.data.expressions]  # no training depends on them
        fingerprints = [*self.data.fingerprints, *tested]
        return make_run_key(self.variants, fingerprints=fingerprints, cluster=get_cluster_name(self.main.job))


def open_job(document: Document, *, name: str) -> PreparedJob:
    """Read the spec and open its data. Raises SpecError, or DataError for data that cannot be used."""
    variants = check_spec(document, name=str(document.data.get("name") or name))
    return PreparedJob(tuple(variants), JobData.open(variants))


def try_job(prepared: PreparedJob) -> None:
    """Read the files that a job depends on, and take a small step of each method. Raises SpecError where that fails."""
    for variant in prepared.variants:
        fetch_inputs(variant)
    check_methods(prepared.variants, prepared.data)
