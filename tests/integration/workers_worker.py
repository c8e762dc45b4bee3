"""Runs in spawned processes: what looks beyond a worker's own samples, on its share of a batch."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch
from torch import nn

from facscale.nn.batchnorm import synchronise_batchnorm
from facscale.nn.distributed import all_gather, shuffled_forward
from facscale.nn.losses import nt_xent

SAMPLES = 12


def batch():
    return torch.randn(SAMPLES, 4, 3, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(1)
    layers = nn.Sequential(
        nn.Conv1d(4, 6, 2), nn.BatchNorm1d(6), nn.Tanh(), nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5)
    )
    nn.init.uniform_(layers[1].weight)
    return layers


def loss(layers, first):
    z = nn.functional.normalize(layers(torch.cat([first, first.flip(1)])), dim=-1)
    return nt_xent(*z.chunk(2), temperature=0.2)


def work(rank, world, folder, port):
    warnings.simplefilter("ignore")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    mine = batch().chunk(world)[rank]
    layers = network()
    synchronise_batchnorm(layers)
    value = loss(layers, mine)
    value.backward()
    gradients = {name: all_gather(p.grad[None]).mean(0) for name, p in layers.named_parameters()}
    seen = []

    def function(images):
        seen.append(images)
        return images.flatten(1) * 2

    shuffled = shuffled_forward(function, mine)
    torch.save(
        {
            "loss": all_gather(value.detach()[None]).mean(),
            "gradients": gradients,
            "state": layers.state_dict(),
            "shuffled": shuffled,
            "seen": seen[0],
        },
        Path(folder) / f"{world}-{rank}.pt",
    )
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
