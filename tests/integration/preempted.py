"""Trains on a node of a Ray cluster that is taken away after an announcement, as spot nodes are, and goes on on another one.

    python preempted.py FOLDER TRAINER...

The last line is JSON, by trainer: the step of the checkpoint before the node was lost, and what the events were.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from faces import write_face_data_set
from facscale.train.checkpoint_record import read_record
from facscale.train.events import StepMetrics, TrainingResumed, WorkersLost
from facscale.train.ray.launch import RayTrainer
from facscale.train.ray.pool import PooledTrainer
from tasks import build_task

STEPS, PACE_S = 100, 0.5  # until the node is lost: it has most of a minute for that
TRAINERS = {"PooledTrainer": PooledTrainer, "RayTrainer": RayTrainer}


def main(folder, names):
    write_face_data_set(f"{folder}/faces", [12] * 40, row_group_mb=0.2)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1)]
    ray.init(address=cluster.address, log_to_driver=False)
    reports = {name: train(TRAINERS[name](), folder / name, cluster=cluster, nodes=nodes) for name in names}
    print(json.dumps(reports))
    ray.shutdown()
    cluster.shutdown()


def train(trainer, folder, *, cluster, nodes):
    """Train on the last of `nodes`, which is then replaced."""
    folder.mkdir()
    spec = {
        "method": {
            "name": "tiny-census", "alone": PACE_S, "hurry": str(folder / "hurry"), "depth": 18, "width": 4, "hidden": 8,
            "embedding": 8, "length": 3, "queue_size": 32,
        },
        "data": {"unlabelled": f"{folder.parent}/faces", "image_size": 32, "threads": 1},
        "train": {"batch_size": 4, "epochs": STEPS // 10, "log_every": 1, "checkpoint_every": 10_000, "probe_every": 0},
        "cluster": {
            "workers": 1,
            "gpus_per_worker": 0,
            "cpus_per_worker": 1,
            "max_failures": 0,
            "storage": str(folder),
        },
    }  # fmt: skip
    saved, events, has_begun = [], [], threading.Event()

    def take_node_away():
        command = [
            str(Path(sys.executable).with_name("ray")), "drain-node", "--address", cluster.address, "--node-id", nodes[-1].node_id,
            "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--deadline-remaining-seconds", "600",
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
        while not (entries := read_record(str(folder / "run"))):
            time.sleep(0.05)
        saved.append(entries[-1][1]["step"])
        lost = nodes.pop()
        nodes.append(cluster.add_node(num_cpus=1))
        cluster.remove_node(lost, allow_graceful=False)
        (folder / "hurry").touch()

    def receive(event):
        events.append(event)
        if isinstance(event, StepMetrics) and event.step == 5:
            has_begun.set()

    with ThreadPoolExecutor(1) as executor:  # Ray starts nodes in the main thread alone
        fitted = executor.submit(trainer.fit, build_task(spec), name="run", receive=receive)
        while not has_begun.wait(1):
            assert not fitted.done(), fitted.result()
        take_node_away()
        fitted.result()
    resumed = [event.step for event in events if isinstance(event, TrainingResumed)]
    lost = [event.reason for event in events if isinstance(event, WorkersLost)]
    steps = [event.step for event in events if isinstance(event, StepMetrics)]
    return {"saved": saved, "resumed": resumed, "lost": lost, "last": steps[-1]}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
