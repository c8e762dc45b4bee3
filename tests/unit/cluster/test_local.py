"""A job that can never start is refused before anything is asked for."""

from __future__ import annotations

import pytest
import ray

from facscale.cluster import refuse_impossible, resources
from facscale.spec import Job, SpecError


def job(**cluster):
    return Job(method={"name": "clp"}, cluster={"cpus_per_worker": 2, **cluster})


@pytest.fixture
def cluster_of(monkeypatch):
    return lambda **there: monkeypatch.setattr(ray, "cluster_resources", lambda: there)


def test_a_worker_asks_for_what_the_spec_says():
    assert resources(job(gpus_per_worker=0)) == {"CPU": 2}
    assert resources(job(gpus_per_worker=0.5)) == {"CPU": 2, "GPU": 0.5}


def test_no_gpu(cluster_of):
    cluster_of(CPU=64)
    with pytest.raises(
        SpecError, match=r"4 workers with 1 GPU each, the cluster has 0 GPU: .*gpus_per_worker \(0 trains on the CPU\)"
    ):
        refuse_impossible(job(workers=4))


def test_too_few_cores(cluster_of):
    cluster_of(CPU=3, GPU=8)
    with pytest.raises(SpecError, match="2 workers with 2 CPU each, the cluster has 3 CPU: lower cluster.workers"):
        refuse_impossible(job(workers=2))


@pytest.mark.parametrize("cluster", [{"workers": (1, 8), "gpus_per_worker": 0}, {"workers": 8, "autoscaling": True}])
def test_what_fits_at_least_once_or_can_grow_is_let_in(cluster_of, cluster):
    cluster_of(CPU=2)
    refuse_impossible(job(**cluster))
