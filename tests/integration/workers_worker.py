"""Runs in spawned processes: what looks beyond a worker's own samples, on its share of a batch."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch
from torch import nn

from facscale.data.views import Batch, Faces
from facscale.methods import DataFacts, find_method
from facscale.methods.base import sum_losses
from facscale.nn.batchnorm import synchronise_batchnorm
from facscale.nn.distributed import all_gather, shuffled_forward
from facscale.nn.losses import nt_xent

SAMPLES = 12


def batch():
    return torch.randn(SAMPLES, 4, 3, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(1)
    layers = nn.Sequential(
        nn.Conv1d(4, 6, 2),
        nn.BatchNorm1d(6),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(12, 5),
        nn.BatchNorm1d(5, affine=False),
    )
    nn.init.uniform_(layers[1].weight)
    return layers


def loss(layers, first):
    z = nn.functional.normalize(layers(torch.cat([first, first.flip(1)])), dim=-1)
    return nt_xent(*z.chunk(2), temperature=0.2)


def moving_faces():
    """Pairs of smooth faces [SAMPLES, 2, 3, 32, 32] in float64; the pairs differ more and more."""
    random = torch.Generator().manual_seed(2)
    coarse = torch.rand(SAMPLES, 2, 3, 6, 6, generator=random, dtype=torch.float64)
    coarse[:, 1] = coarse[:, 0].lerp(
        coarse[:, 1], torch.linspace(0.1, 1, SAMPLES, dtype=torch.float64).view(-1, 1, 1, 1)
    )
    return (
        nn.functional.interpolate(coarse.flatten(0, 1), size=32, mode="bicubic").unflatten(0, (SAMPLES, 2)).clamp(0, 1)
    )


def curricula():
    """Methods with a curriculum, in its second window, by a name for each setting."""
    cases = {
        "tcae": ("tcae", {}),
        "tcae by term": ("tcae", {"order": "term", "target_weight": 0.1}),
        "fabnet": ("fabnet", {}),
    }
    for name, (method, options) in cases.items():
        torch.manual_seed(3)
        kind = find_method(method)
        built = kind(kind.Config(**options), DataFacts(image_size=32)).double().train()
        built.curriculum.window.fill_(1)
        yield name, built


def curriculum_losses(method, pairs):
    """The losses of the only phase, for pairs of faces; float32 parts of a batch are not needed."""
    faces = Faces(pairs[:, :, None], torch.arange(len(pairs)), torch.empty(0))
    return getattr(method, next(iter(method.phases())))(Batch(pair=faces))


def compute_curricula(rank, world):
    """The losses of each worker, and the mean of its gradients with the other workers'."""
    results = {}
    for name, method in curricula():
        synchronise_batchnorm(method)
        losses = curriculum_losses(method, moving_faces().chunk(world)[rank])
        sum_losses(losses).backward()
        results[name] = {
            "losses": {key: loss.value.detach() for key, loss in losses.items()},
            "gradients": {key: all_gather(p.grad[None]).mean(0) for key, p in method.named_parameters()},
        }
    return results


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
            "curricula": compute_curricula(rank, world),
        },
        Path(folder) / f"{world}-{rank}.pt",
    )
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
