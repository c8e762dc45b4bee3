"""What Prometheus finds on a node while, and after, a training runs there."""

from __future__ import annotations

import re
import time
import urllib.request

import pytest
import ray

from faces import write_face_data_set
from facscale import methods
from facscale.methods import DataFacts
from facscale.spec import Document, merge
from facscale.train.gauges import GAUGES
from facscale.train.ray.launch import RayTrainer
from facscale.train.task import TrainingTask

pytestmark = pytest.mark.slow("a training on Ray, and its agent gathers every few seconds")

PATIENCE_S = 300  # Ray's agent gathers what processes tell every few seconds
TINY = {
    "method": {"name": "clp", "depth": 18, "width": 4, "hidden": 8, "embedding": 8, "length": 3, "queue_size": 32},
    "train": {"batch_size": 8, "epochs": 2, "log_every": 1, "probe_every": 0},
    "cluster": {"workers": 1, "gpus_per_worker": 0, "cpus_per_worker": 1},
}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gauges")
    write_face_data_set(str(folder / "faces"), [12] * 40, row_group_mb=0.2)
    places = {"data": {"unlabelled": str(folder / "faces"), "image_size": 32}, "cluster": {"storage": str(folder)}}
    job, _, config = methods.configure(merge(Document(TINY, {}), Document(places, {})))
    return TrainingTask(job, config, DataFacts(), name="CLP seed 1")


def scraped() -> dict[str, list[tuple[str, float]]]:
    """What the training says on this machine's node: labels and value, by name; others may have run there before."""
    (node,) = ray.nodes()
    with urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found: dict[str, list[tuple[str, float]]] = {}
    for line in lines:
        match = re.fullmatch(r"ray_facscale_(\w+)\{(.*)\} (\S+)", line)
        if match and 'training="CLP seed 1"' in match[2]:
            found.setdefault(match[1], []).append((match[2], float(match[3])))
    return found


def test_a_node_exports_how_its_training_goes(ray_cluster, task):
    RayTrainer().fit(task, name="run")
    end, found = time.monotonic() + PATIENCE_S, {}
    while not found.keys() >= GAUGES.keys() and time.monotonic() < end:
        time.sleep(0.5)
        found = scraped()
    assert found.keys() == GAUGES.keys()
    assert all('method="clp"' in labels for (labels, _), *_ in found.values())
    value = {name: samples[0][1] for name, samples in found.items()}
    assert value["step"] == value["steps"] == 10
    assert value["epoch"] == 2
    assert 0 <= value["data_wait_share"] < 1
    assert value["samples_per_second"] > 0
    assert value["step_seconds"] > 0
    assert value["skipped"] == 0
    names = {re.search(r'name="(\w+)"', labels)[1] for labels, _ in found["loss"]}
    assert names == {"tcl", "cir", "total"}
