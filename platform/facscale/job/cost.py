"""The cost of a step of a method, counted in one small step on the CPU and scaled to the batch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from facscale.data.views import View
from facscale.inference import export
from facscale.methods import DataFacts, Method, find_method
from facscale.nn.allocation import AllocationLimit, AllocationLimitError
from facscale.spec import Job, SpecError
from facscale.testing import (
    check_class,
    check_modules,
    check_outputs,
    check_trained,
    get_views,
    list_phases,
    make_random_batch,
    run_after_step,
    run_phase,
)

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
        stage = job.deepspeed.stage
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
    """Run every phase once on random images, and count operations and memory.

    Raises ContractError for a method that breaks its contract, and SpecError for one that is too large for this machine.
    """
    method = build_within_memory(config, job=job, facts=facts, inputs=inputs).train()
    views = get_views(type(method), config)
    batch = make_random_batch(views, size=job.data.image_size, aus=len(facts.aus), samples=SAMPLES)
    weights = {parameter.untyped_storage().data_ptr() for parameter in method.parameters()}
    saved: dict[int, int] = {}  # bytes by address

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        for phase in list_phases(method):
            with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
                losses = run_phase(method, phase, batch)
            check_trained(method, phase, losses)
    run_after_step(method)
    check_single_sample(method, views, job=job)
    check_outputs(method, config)
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


def build_within_memory(config: Any, *, job: Job, facts: DataFacts, inputs: Mapping[str, Method]) -> Method:
    """Build the method of a job, and check its parts.

    Raises ContractError, and SpecError where its weights alone would not fit into this machine's memory.
    """
    check_class(find_method(job.method.name))
    try:
        with AllocationLimit(psutil.virtual_memory().available):
            method = export.build_method_for_job(job, config, facts, inputs)
    except AllocationLimitError as error:
        raise SpecError(f"{job.method.name} does not fit into this machine's memory: {error}") from None
    check_modules(method)
    return method


def check_single_sample(method: Method, views: Mapping[str, View], *, job: Job) -> None:
    """Raise SpecError where workers train on one sample at a time, and the method cannot: BatchNorm needs two."""
    train, workers = job.train, job.cluster.max_workers
    if train.batch_size > workers * train.accumulate or (train.sync_batchnorm and workers > 1) or not train.epochs:
        return
    batch = make_random_batch(views, size=job.data.image_size, aus=len(method.facts.aus), samples=1)
    try:
        for phase in list_phases(method):
            run_phase(method, phase, batch)
    except SpecError as error:
        reason = str(error).rpartition(": ")[2]
        raise SpecError(
            f"train.batch_size={train.batch_size} gives each of {workers} workers one sample at a time, and "
            f"{job.method.name} cannot train on one ({reason}): choose a larger batch_size, or fewer workers or micro-batches"
        ) from None


@lru_cache(maxsize=1)
def measure_matrix_rate(*, size: int = 1024, rounds: int = 8) -> float:
    """Measure operations a second of this machine's float32 matrix multiplication."""
    a = torch.rand(size, size)
    a @ a  # warms up
    began = time.perf_counter()
    for _ in range(rounds):
        a @ a
    return rounds * 2 * size**3 / (time.perf_counter() - began)
