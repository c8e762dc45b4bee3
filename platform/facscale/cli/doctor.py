"""`facscale doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from facscale.doctor import Patient
from facscale.doctor.show import show
from facscale.spec import Job, Pipeline, parse, read


def examine_cluster(spec: Path | None, overrides: Sequence[str], *, folder: Path | None, as_json: bool) -> int:
    """The Ray cluster at hand, for a job or a pipeline if there is one; the exit status. Raises SpecError."""
    patient = Patient(folder=folder)
    if spec is not None:
        document = read(spec, overrides)
        if "source" in document.data:
            patient.pipeline = parse(document, Pipeline)
        else:
            patient.job = parse(document, Job)
    return show(patient, as_json=as_json)


def examine_namespace(
    spec: Path | None, overrides: Sequence[str], *, kube: str, namespace: str, folder: Path | None, as_json: bool
) -> int:
    """Of a Kubernetes cluster; the exit status. Raises SpecError, and KubeError for a kubeconfig without it."""
    from facscale.cluster.kubernetes import Api, kube_place

    api = Api(kube_place(kube, namespace=namespace))
    return show(Patient(api=api, spec=spec, overrides=tuple(overrides), folder=folder), as_json=as_json)
