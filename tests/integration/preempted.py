"""Trains on a node of a Ray cluster that is taken away after an announcement, as spot nodes are, and goes on on another one.

    python preempted.py FOLDER TRAINER

The last line is JSON: the step of the checkpoint before the node was lost, and what the events were.
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

STEPS = 1000
TRAINERS = {"PooledTrainer": PooledTrainer, "RayTrainer": RayTrainer}


def main(folder, trainer):
    write_face_data_set(f"{folder}/faces", [12] * 40, row_group_mb=0.2)
    spec = {
        "method": {"name": "simsiam", "depth": 18, "width": 4, "projection": 8, "bottleneck": 4},
        "data": {"unlabelled": f"{folder}/faces", "image_size": 32, "threads": 1},
        "train": {"batch_size": 4, "epochs": STEPS // 10, "log_every": 1, "checkpoint_every": 10_000, "probe_every": 0},
        "cluster": {
            "workers": 1,
            "gpus_per_worker": 0,
            "cpus_per_worker": 1,
            "max_failures": 0,
            "storage": str(folder),
        },
    }
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    first = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    saved, events, has_begun = [], [], threading.Event()

    def take_node_away():
        command = [
            str(Path(sys.executable).with_name("ray")), "drain-node", "--address", cluster.address, "--node-id", first.node_id,
            "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--deadline-remaining-seconds", "600",
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
        while not (entries := read_record(str(folder / "run"))):
            time.sleep(0.05)
        saved.append(entries[-1][1]["step"])
        cluster.add_node(num_cpus=1)
        cluster.remove_node(first, allow_graceful=False)

    def receive(event):
        events.append(event)
        if isinstance(event, StepMetrics) and event.step == 5:
            has_begun.set()

    with ThreadPoolExecutor(1) as executor:  # Ray starts nodes in the main thread alone
        fitted = executor.submit(TRAINERS[trainer]().fit, build_task(spec), name="run", receive=receive)
        while not has_begun.wait(1):
            assert not fitted.done(), fitted.result()
        take_node_away()
        fitted.result()
    resumed = [event.step for event in events if isinstance(event, TrainingResumed)]
    lost = [event.reason for event in events if isinstance(event, WorkersLost)]
    steps = [event.step for event in events if isinstance(event, StepMetrics)]
    print(json.dumps({"saved": saved, "resumed": resumed, "lost": lost, "last": steps[-1]}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
