"""The cost of a step of a method, counted in one small step and scaled to the batch; and whether the step keeps the contract."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, Self

import psutil
import torch
from torch import Tensor, UntypedStorage
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from facscale.compat.torch import flop_registry, without_compiler
from facscale.data.views import Batch, View
from facscale.inference import export
from facscale.inference.export import Recipe
from facscale.methods import DataFacts, Method, find_method
from facscale.methods.base import sum_losses
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
CONTRACT_SIDES = (32, 64)  # pixels, sides of the images on which the contract is tried before the job's own
OPTIMIZER_TENSORS = {"sgd": 1, "lars": 1, "adam": 2, "adamw": 2}  # tensors that the optimizer keeps for each parameter

RANDOM_FILLS = (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)
GRADIENT_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0}  # of a number of a gradient, as it is sent


@dataclass(frozen=True)
class Cost:
    """The cost of one method. A multiplication and an addition count as two operations; forward and backward together."""

    trained: int  # parameters that learn
    parameters: int  # all, momentum copies included
    flops_per_sample: float
    activations_per_sample: float  # bytes kept for the backward pass, in float32
    state_bytes: int  # all parameters and buffers
    input_bytes_per_sample: int  # the augmented images, float32

    def memory(self, job: Job, *, workers: int, stage: int | None = None) -> dict[str, float]:
        """Bytes on each accelerator, by what they are for; `stage` of ZeRO in place of the job's."""
        micro = job.train.batch_size / job.train.accumulate / workers
        stage = job.deepspeed.stage if stage is None else stage
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

    def measure_exchange(self, job: Job, *, workers: int, stage: int | None = None) -> float:
        """Bytes that each worker sends, and receives, in an optimizer step, by ring collectives; `stage` as above.

        An all-reduce of G bytes on W workers sends 2 (W - 1) / W times G, a reduction to their owners or an all-gather half of
        that (Rajbhandari et al., ZeRO, 2020, section 7). Stages 1 and 2 gather the new weights of all shards besides. DeepSpeed
        all-reduces the gradients there as well, unless `use_multi_rank_bucket_allreduce` is false; stage 2 does so in every
        micro-batch. What the method itself exchanges (queues, BatchNorm) is not counted.
        """
        stage, zero = job.deepspeed.stage if stage is None else stage, job.deepspeed.zero_optimization
        gradients = GRADIENT_BYTES[job.deepspeed.communication_data_type] * self.trained
        is_sent_to_owner = stage and zero.reduce_scatter and not zero.use_multi_rank_bucket_allreduce
        passes = (1 if is_sent_to_owner else 2) * (job.train.accumulate if stage == 2 else 1)
        weights = 4.0 * self.trained if stage else 0.0
        return (passes * gradients + weights) * (workers - 1) / workers


def estimate_cost(config: Any, *, job: Job, facts: DataFacts, inputs: Mapping[str, Recipe]) -> Cost:
    """Count the operations and memory of one step of every phase.

    The step is taken at the job's image size with tensors that have shapes and no values (torch's "meta" device), which
    takes a fraction of a second. A method that reads values in its step is counted in a real step on the CPU instead.
    `inputs`: what the method's inputs are built from; the cost depends on none of their weights. Raises ContractError for
    a method whose step fails, and SpecError for one that is too large for this machine.
    """
    arguments: dict[str, Any] = {"job": job, "facts": facts, "inputs": inputs}
    with without_compiler():
        try:
            with torch.device("meta"), SkippedInitialisation():
                return count_step(config, **arguments)
        except Exception:  # noqa: BLE001 - the real step says what is wrong, if anything is
            return count_step(config, **arguments)


class OperationCounter(TorchDispatchMode):
    """Counts the operations of convolutions and matrix products, as torch's FlopCounterMode, without its table of modules.

    An operation on the "meta" device whose arguments have been seen before is not run again: what it returned then says
    which shapes it returns. Networks repeat a few layers, and torch takes milliseconds for the shapes of a BatchNorm.
    """

    shapes: ClassVar[dict[Hashable, tuple[TensorLayout | None, ...]]] = {}

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and add its count if torch has a formula for it."""
        kwargs = kwargs or {}
        result = self._run(func, args, kwargs)
        if (formula := flop_registry.get(func.overloadpacket)) is not None:
            self.total += formula(*args, **kwargs, out_val=result)
        return result

    def _run(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        schema = func._schema  # noqa: SLF001 - torch has no other
        if any(value.alias_info for value in (*schema.arguments, *schema.returns)):  # it returns or changes an argument
            return func(*args, **kwargs)
        try:
            key = (func, describe_layout(args), describe_layout(tuple(kwargs.items())))
            known = self.shapes.get(key)
        except UnknownLayoutError:
            return func(*args, **kwargs)
        if known is None:
            result = func(*args, **kwargs)
            results = result if isinstance(result, tuple) else (result,)
            with suppress(UnknownLayoutError):
                if all(value is None or isinstance(value, Tensor) for value in results):
                    self.shapes[key] = tuple(value if value is None else TensorLayout.of(value) for value in results)
            return result
        made = tuple(layout and layout.make() for layout in known)
        return made if len(schema.returns) > 1 else made[0]


class UnknownLayoutError(Exception):
    """An argument of an operation is not described by its layout."""


class TensorLayout(NamedTuple):
    """All that a tensor on the "meta" device is."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> TensorLayout:
        """Raises UnknownLayoutError for a tensor with values."""
        if tensor.device.type != "meta":
            raise UnknownLayoutError
        return cls(tuple(tensor.size()), tensor.stride(), tensor.dtype)

    def make(self) -> Tensor:
        """A tensor with this layout."""
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device="meta")


def describe_layout(value: Any) -> Hashable:
    """An argument of an operation, with layouts in place of tensors. Raises UnknownLayoutError."""
    if isinstance(value, Tensor):
        return TensorLayout.of(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(map(describe_layout, value))
    if not isinstance(value, Hashable):
        raise UnknownLayoutError
    return type(value), value  # 1 equals 1.0 and True


class RepeatedInitialisation(TorchDispatchMode):
    """Within the block, weights repeat a few thousand random numbers, which takes a tenth of the time of drawing them."""

    def __init__(self, *, count: int = 4099) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = count

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Fill a large tensor with repetitions of its beginning."""
        kwargs = kwargs or {}
        if func not in RANDOM_FILLS or args[0].numel() <= self.count or not args[0].is_contiguous():
            return func(*args, **kwargs)
        flat, filled = args[0].view(-1), self.count
        func(flat[:filled], *args[1:], **kwargs)
        while filled < len(flat):
            flat[filled : 2 * filled].copy_(flat[: len(flat) - filled][:filled])
            filled *= 2
        return args[0]


class SkippedInitialisation(TorchFunctionMode):
    """Within the block, weights are not drawn: on the "meta" device there is nothing to fill."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return the tensor of an initialiser as it is."""
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


def count_step(config: Any, *, job: Job, facts: DataFacts, inputs: Mapping[str, Recipe]) -> Cost:
    """Run every phase once, on torch's default device."""
    built = {name: recipe.build() for name, recipe in inputs.items()}
    method = build_within_memory(config, job=job, facts=facts, inputs=built).train()
    device = torch.get_default_device()
    views = get_views(type(method), config)
    batch = make_batch(views, job=job, facts=facts, samples=SAMPLES).to(device)
    weights = {id(parameter.untyped_storage()) for parameter in method.parameters()}
    saved: dict[int, UntypedStorage] = {}  # by identity; kept, so that no other storage gets the same

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in weights:
            saved[id(storage)] = storage
        return tensor

    with OperationCounter() as counter:
        for phase in list_phases(method):
            with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
                losses = getattr(method, phase)(batch) if device.type == "meta" else run_phase(method, phase, batch)
            sum_losses(losses).backward()
    run_after_step(method)
    check_single_sample(method, views, job=job)
    roots = [method.get_submodule(name) for root in method.roots() for name in root.modules]
    images = sum(faces.images.numel() for faces in batch.values())
    return Cost(
        trained=sum(p.numel() for root in roots for p in root.parameters() if p.requires_grad),
        parameters=sum(p.numel() for p in method.parameters()),
        flops_per_sample=counter.total / SAMPLES,
        activations_per_sample=sum(storage.nbytes() for storage in saved.values()) / SAMPLES,
        state_bytes=sum(value.numel() * value.element_size() for value in method.state_dict().values()),
        input_bytes_per_sample=4 * images // SAMPLES,
    )


def make_batch(views: Mapping[str, View], *, job: Job, facts: DataFacts, samples: int) -> Batch:
    """A batch of random images of a job on the CPU."""
    with torch.device("cpu"):
        return make_random_batch(views, size=job.data.image_size, aus=len(facts.aus), samples=samples)


def check_contract(config: Any, *, job: Job, facts: DataFacts, inputs: Mapping[str, Method]) -> None:
    """Train a method for one small step on random images: its losses, gradients and outputs keep the contract.

    The images are as small as the method takes them (CONTRACT_SIDES), which is enough for numbers; `estimate_cost` takes
    the same step at the job's size for the shapes. What counts in the end is the job's size. Raises ContractError for a
    rule that is broken, and SpecError for a method that is too large for this machine.
    """
    arguments: dict[str, Any] = {"facts": facts, "inputs": inputs}
    with without_compiler():
        for side in CONTRACT_SIDES:
            if side < job.data.image_size:
                small = job.data.model_copy(update={"image_size": side})
                with suppress(SpecError):
                    return train_step(config, job=job.model_copy(update={"data": small}), **arguments)
        return train_step(config, job=job, **arguments)


def train_step(config: Any, *, job: Job, facts: DataFacts, inputs: Mapping[str, Method]) -> None:
    """Check what one step computes and what an evaluation takes from the method. Raises as `check_contract`."""
    method = build_within_memory(config, job=job, facts=facts, inputs=inputs).train()
    batch = make_batch(get_views(type(method), config), job=job, facts=facts, samples=SAMPLES)
    for phase in list_phases(method):
        check_trained(method, phase, run_phase(method, phase, batch))
    run_after_step(method)
    check_outputs(method, config)


def build_within_memory(config: Any, *, job: Job, facts: DataFacts, inputs: Mapping[str, Method]) -> Method:
    """Build the method of a job, and check its parts.

    Raises ContractError, and SpecError where its weights alone would not fit into this machine's memory.
    """
    check_class(find_method(job.method.name))
    is_real = torch.get_default_device().type != "meta"
    try:
        with ExitStack() as modes:
            if is_real:
                modes.enter_context(AllocationLimit(psutil.virtual_memory().available))
                modes.enter_context(RepeatedInitialisation())
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
    device = torch.get_default_device()
    batch = make_batch(views, job=job, facts=method.facts, samples=1).to(device)
    try:
        for phase in list_phases(method):
            if device.type == "meta":
                getattr(method, phase)(batch)
            else:
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
