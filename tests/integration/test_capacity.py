"""How many trainings run at a time on the Ray that all tests share: two CPUs, and this machine's memory."""

from __future__ import annotations

import logging

import pytest

from facscale.cluster import ray as cluster
from facscale.spec import Job

pytestmark = [pytest.mark.slow("a Ray"), pytest.mark.usefixtures("ray_cluster")]


def make_job(*, workers):
    """Its workers need one CPU together."""
    resources = {"workers": workers, "gpus_per_worker": 0, "cpus_per_worker": 1 / workers}
    return Job.model_validate({"method": {"name": "clp"}, "cluster": resources})


@pytest.mark.parametrize("workers", [1, 2])
def test_as_many_trainings_as_their_workers_have_room(workers, caplog):
    assert cluster.count_parallel_trainings(make_job(workers=workers)) == 2
    assert caplog.text == ""


@pytest.mark.parametrize("needed", [0.6, 2.0])  # of the memory that there is
def test_the_memory_of_the_head_limits_those_of_ray_train(monkeypatch, caplog, needed):
    memory = cluster.read_own_memory()
    assert memory > 1e9
    monkeypatch.setattr(cluster, "MEMORY_OF_TRAINING", needed * memory)
    with caplog.at_level(logging.WARNING):
        assert cluster.count_parallel_trainings(make_job(workers=1)) == 2
        assert caplog.text == ""
        assert cluster.count_parallel_trainings(make_job(workers=2)) == 1
    assert "trainings at a time: 1; the cluster has room for the workers of 2" in caplog.text
