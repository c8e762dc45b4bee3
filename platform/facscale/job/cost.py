"""The cost of a step of a method, counted in one small step on the CPU and scaled to the batch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from facscale.data.augment import PARAMETERS
from facscale.data.views import Batch, Faces, View
from facscale.inference import export
from facscale.methods import DataFacts, Method
from facscale.methods.base import sum_losses
from facscale.spec import Job

SAMPLES = 2  # samples of the small step: BatchNorm needs more than one
OPTIMIZER_TENSORS = {"sgd": 1, "lars": 1, "adam": 2, "adamw": 2}  # tensors that the optimizer keeps for each parameter


@dataclass(frozen=True)
class Cost:
    """The cost of one method. A multiplication and an addition count as two operations; forward and backward together."""

    trained: int  # parameters that learn
    parameters: int  # all, momentum copies included
    flops_per_sample: float
    activations_per_sample: float  # bytes kept for the backward pass, in float32
    state_bytes: int  # all parameters and buffers
    input_bytes_per_sample: int  # the augmented images, float32

    def memory(self, job: Job, *, workers: int) -> dict[str, float]:
        """Bytes on each accelerator, by what they are for."""
        micro = job.train.batch_size / job.train.accumulate / workers
        stage = job.deepspeed.get("zero_optimization", {}).get("stage", 0)
        width = 0.5 if job.train.precision == "bf16" else 1.0
        return {
            "weights, momentum and queue": float(self.state_bytes),
            "gradients": 4.0 * self.trained / (workers if stage >= 2 else 1),
            "optimizer": 4.0
            * self.trained
            * OPTIMIZER_TENSORS[job.train.optimizer.name]
            / (workers if stage >= 1 else 1),
            "activations": self.activations_per_sample * micro * width,
            "images": float(self.input_bytes_per_sample * micro),
        }


def estimate_cost(config: Any, *, job: Job, facts: DataFacts, inputs: Mapping[str, Method]) -> Cost:
    """Run every phase once on random images, and count operations and memory."""
    method = export.build_method_for_job(job, config, facts, inputs).train()
    batch = make_random_batch(method.train_views(config), size=job.data.image_size, aus=len(facts.aus))
    weights = {parameter.untyped_storage().data_ptr() for parameter in method.parameters()}
    saved: dict[int, int] = {}  # bytes by address

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        for phase in method.phases():
            with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
                losses = getattr(method, phase)(batch)
            if losses:
                sum_losses(losses).backward()
    roots = [method.get_submodule(name) for root in method.roots() for name in root.modules]
    images = sum(faces.images.numel() for faces in batch.values())
    return Cost(
        trained=sum(p.numel() for root in roots for p in root.parameters() if p.requires_grad),
        parameters=sum(p.numel() for p in method.parameters()),
        flops_per_sample=counter.get_total_flops() / SAMPLES,
        activations_per_sample=sum(saved.values()) / SAMPLES,
        state_bytes=sum(value.numel() * value.element_size() for value in method.state_dict().values()),
        input_bytes_per_sample=4 * images // SAMPLES,
    )


def make_random_batch(
    views: Mapping[str, View], *, size: int, aus: int, samples: int = SAMPLES, seed: int = 0
) -> Batch:
    """A batch of noise, shaped as the stream and the augmentation deliver it; every sample is another person."""
    random = torch.Generator().manual_seed(seed)

    def column(name: str, view: View) -> Tensor:
        if name == "landmarks":
            return size * torch.rand(samples, view.count, view.views, 68, 2, generator=random)
        if name == "flow":
            return torch.randn(samples, view.count, view.views, 2, size // 4, size // 4, generator=random)
        if name == "data_set":
            return torch.zeros(samples, view.count, dtype=torch.int64)
        return torch.randint(0, 2, (samples, view.count, aus), generator=random, dtype=torch.int8)

    def images(view: View) -> Tensor:
        side = size if view.pixels else 0
        return torch.rand(samples, view.count, view.views, 3, side, side, generator=random)

    return Batch(
        {
            name: Faces(
                images=images(view),
                identity=torch.arange(samples),
                augmentation=torch.zeros(samples, view.count, view.views, len(PARAMETERS)),
                columns={name: column(name, view) for name in view.columns},
            )
            for name, view in views.items()
        }
    )


@lru_cache(maxsize=1)
def measure_matrix_rate(*, size: int = 1024, rounds: int = 8) -> float:
    """Measure operations a second of this machine's float32 matrix multiplication."""
    a = torch.rand(size, size)
    a @ a  # warms up
    began = time.perf_counter()
    for _ in range(rounds):
        a @ a
    return rounds * 2 * size**3 / (time.perf_counter() - began)
