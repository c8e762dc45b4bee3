"""How many trainings run at a time on the Ray that all tests share: two CPUs, and this machine's memory."""

from __future__ import annotations

import logging

import pytest

from facscale.cluster import ray as cluster
from facscale.spec import Job

pytestmark = [pytest.mark.slow("a Ray"), pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def job():
    return Job.model_validate(
        {"method": {"name": "clp"}, "cluster": {"workers": 1, "gpus_per_worker": 0, "cpus_per_worker": 1}}
    )


def test_as_many_trainings_as_their_workers_have_room(job, caplog):
    assert cluster.count_parallel_trainings(job) == 2
    assert caplog.text == ""


@pytest.mark.parametrize("needed", [0.6, 2.0])  # of the memory that there is
def test_the_memory_of_the_head_limits_them(job, monkeypatch, caplog, needed):
    memory = cluster.read_own_memory()
    assert memory > 1e9
    monkeypatch.setattr(cluster, "MEMORY_OF_TRAINING", needed * memory)
    with caplog.at_level(logging.WARNING):
        assert cluster.count_parallel_trainings(job) == 1
    assert "trainings at a time: 1; the cluster has room for the workers of 2" in caplog.text
