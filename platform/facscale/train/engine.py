"""DeepSpeed: one engine for each root of a method. The only module that imports it.

Methods call plain modules; an engine only sees `backward` and `step`. With the roots of other phases frozen, this
equals plain PyTorch at every ZeRO stage, which the usual form (calling engines in the forward pass) does not.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import partial
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from facscale.compat.deepspeed import compile_operator, import_deepspeed, is_sharded, link_states, relink_states
from facscale.compat.torch import set_collective_timeouts
from facscale.methods.base import Method, Root
from facscale.spec import Job, SpecError
from facscale.train.lars import LARS

SMALLEST_BUCKET = 2**20  # numbers that are exchanged together: fewer would cost more calls than they save
State = dict[str, dict[str, Tensor]]  # parameter name -> name of the state -> tensor, whole, whatever the ZeRO stage


class Engine:
    """The optimizer of one root, sharded over the workers as the spec's `deepspeed:` block says."""

    def __init__(self, method: Method, root: Root, *, job: Job, world: int) -> None:
        deepspeed = _import_deepspeed()
        self.root, self._constant_rate = root, job.train.optimizer.lr
        self._norm: Tensor | None = None
        self._has_finite_gradient: Tensor | None = None
        modules = nn.ModuleDict({name: method.get_submodule(name) for name in root.modules})
        self.parameters = {name: p for name, p in modules.named_parameters() if p.requires_grad}
        with redirect_stdout(StringIO()):  # it prints what it compiles
            self._deepspeed, *_ = deepspeed.initialize(
                model=modules,
                optimizer=build_optimizer(job, self._group_parameters(method)),
                config=fit_buckets(build_deepspeed_config(job, world=world), self.parameters, world=world),
                dist_init_required=False,
            )
        self._is_plain = isinstance(self._deepspeed.optimizer, torch.optim.Optimizer)  # and not DeepSpeed's around it
        if self._is_plain and world == 1:  # to exchange gradients with nobody, DeepSpeed copies them all
            self._deepspeed.enable_backward_allreduce = False
        set_collective_timeouts(job.cluster.collective_timeout_s)  # also of DeepSpeed's own process groups

    def _group_parameters(self, method: Method) -> list[dict[str, Any]]:
        """Group the parameters that follow the schedule, and those of submodules that the method keeps at a constant rate."""
        constant = tuple(f"{name}." for name in method.constant_rate)
        groups = [
            {
                "params": [p for name, p in self.parameters.items() if name.startswith(constant) is is_constant],
                "constant_rate": is_constant,
            }
            for is_constant in (False, True)
        ]
        return [group for group in groups if group["params"]]

    def backward(self, loss: Tensor) -> None:
        """Add this micro-batch's gradient; the last one of a step averages it over the workers."""
        self._deepspeed.backward(loss)

    def step(self) -> None:
        """Clip and update, at the last micro-batch of a step; before that, nothing.

        ZeRO leaves out an update whose gradient is not finite. Stage 0 would spoil the weights with it: there such a gradient
        becomes 0, without waiting for the device, so that weights move by the optimizer's momentum alone.
        """
        self._norm = self._has_finite_gradient = None
        if self._is_plain and self._deepspeed.is_gradient_accumulation_boundary():
            gradients = self._collect_gradients()
            if gradients:
                self._norm = nn.utils.get_total_norm(gradients)
                self._has_finite_gradient = self._norm.isfinite()
                if self._norm.device.type != "cpu" or not self._has_finite_gradient:  # a CPU needs no waiting to tell
                    for gradient in gradients:
                        gradient.masked_fill_(~self._has_finite_gradient, 0)
        self._deepspeed.step()

    def _collect_gradients(self) -> list[Tensor]:
        """The gradients of all parameters: 0 for one that the losses do not depend on, which may move by momentum or decay."""
        for parameter in self.parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]

    @property
    def has_finite_gradient(self) -> Tensor | None:
        """Whether the last step's gradient was finite, on the device; None where DeepSpeed counts that (`skipped_steps`)."""
        return self._has_finite_gradient

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of the next steps."""
        for group in self._deepspeed.optimizer.param_groups:
            group["lr"] = self._constant_rate if group.get("constant_rate") else rate

    @property
    def skipped_steps(self) -> int:
        """Updates that DeepSpeed has left out so far, because the gradient was not finite."""
        return int(self._deepspeed.skipped_steps)

    @property
    def has_loss_scaling(self) -> bool:
        """Whether gradients are scaled (fp16), so that updates are left out now and then until the scale fits."""
        return bool(self._deepspeed.fp16_enabled())

    @property
    def gradient_norm(self) -> float | None:
        """Norm of the last step's gradient before clipping; None where nobody has computed it. Waits for the device."""
        norm = self._deepspeed.get_global_grad_norm()
        norm = self._norm if norm is None else norm
        return None if norm is None else float(norm)

    def state(self) -> State:
        """The complete optimizer state on every worker, so that any number of workers can resume from it. Collective."""
        zero = self._get_sharded_optimizer()
        if zero is None:
            states = self._deepspeed.optimizer.state
            return {name: dict(states[parameter]) for name, parameter in self.parameters.items() if parameter in states}
        from deepspeed.utils import safe_get_full_optimizer_state

        relink_states(zero)
        flat: dict[str, Any] = next(iter(zero.optimizer.state.values()), {})
        scalars = {key: value for key, value in flat.items() if torch.is_tensor(value) and value.dim() == 0}
        sharded = [key for key, value in flat.items() if torch.is_tensor(value) and value.dim() > 0]
        return {
            name: scalars | {key: safe_get_full_optimizer_state(parameter, key) for key in sharded}
            for name, parameter in self.parameters.items()
        }

    def local_state(self) -> dict[str, Tensor]:
        """The tensors of the optimizer state that this worker holds, by a name for messages."""
        zero = self._get_sharded_optimizer()
        states = (zero.optimizer if zero else self._deepspeed.optimizer).state
        return {
            f"{key} of {self.root.name}, group {number}": value
            for number, values in enumerate(states.values())
            for key, value in values.items()
            if torch.is_tensor(value)
        }

    def load_state(self, state: State) -> None:
        """Restore what `state` returned, on this or another number of workers. Collective."""
        zero = self._get_sharded_optimizer()
        if not state:
            return
        if zero is None:
            for name, parameter in self.parameters.items():
                self._deepspeed.optimizer.state[parameter] = {
                    key: value.to(parameter.device) if value.dim() else value for key, value in state[name].items()
                }
            return
        from deepspeed.utils import safe_set_full_optimizer_state

        example = next(iter(state.values()))
        for group in zero.optimizer.param_groups:
            for flat in group["params"]:
                zero.optimizer.state[flat] = {
                    key: torch.zeros_like(flat) if value.dim() else value.clone() for key, value in example.items()
                }
        link_states(zero)
        for name, parameter in self.parameters.items():
            for key, value in state[name].items():
                if value.dim():
                    safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)

    def _get_sharded_optimizer(self) -> Any:
        """DeepSpeed's optimizer around ours at ZeRO stages 1 and 2; None at stage 0."""
        wrapped = self._deepspeed.optimizer
        return wrapped if is_sharded(wrapped) else None


@contextmanager
def freeze_others(engine: Engine, engines: list[Engine]) -> Iterator[None]:
    """Freeze every other root: a phase gives gradient to its own root alone."""
    others = [p for other in engines if other is not engine for p in other.parameters.values()]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def build_optimizer(job: Job, parameters: Iterable[Any]) -> torch.optim.Optimizer:
    """Build the optimizer of `train.optimizer` for parameters, or groups of parameters."""
    o = job.train.optimizer
    if o.name in ("sgd", "lars"):
        kind = partial(LARS, rate_in_velocity=o.rate_in_velocity) if o.name == "lars" else torch.optim.SGD
        return kind(parameters, lr=o.lr, momentum=o.momentum, weight_decay=o.weight_decay)
    adam = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[o.name]
    return adam(parameters, lr=o.lr, betas=o.betas, weight_decay=o.weight_decay)


def build_deepspeed_config(job: Job, *, world: int) -> dict[str, Any]:
    """DeepSpeed's configuration: the spec's block verbatim, and what the rest of the spec determines. Raises SpecError."""
    if job.train.batch_size % (world * job.train.accumulate):
        raise SpecError(
            f"train.batch_size {job.train.batch_size} does not divide among {world} workers"
            f" in {job.train.accumulate} micro-batches; choose a multiple of {world * job.train.accumulate}"
        )
    if job.train.optimizer.name == "lars" and job.deepspeed.stage:
        raise SpecError(
            "train.optimizer lars needs whole weights, but deepspeed.zero_optimization shards them; use stage 0"
        )
    return {
        "zero_allow_untested_optimizer": True,  # DeepSpeed's word for torch.optim's SGD
        **job.deepspeed.model_dump(),
        "train_batch_size": job.train.batch_size,
        "train_micro_batch_size_per_gpu": job.train.batch_size // (world * job.train.accumulate),
        "gradient_accumulation_steps": job.train.accumulate,
        "gradient_clipping": job.train.clip,  # always said: left out, DeepSpeed clips to norm 1
    }


def fit_buckets(config: dict[str, Any], parameters: Mapping[str, Tensor], *, world: int) -> dict[str, Any]:
    """Complete the block of ZeRO for these parameters, where the spec leaves it open.

    DeepSpeed allocates its buckets at once, by default for 500 million numbers (2 GB each). Here a quarter of the
    parameters makes a bucket, so that most gradients are exchanged while the backward pass still runs.
    """
    zero = config.get("zero_optimization", {})
    if not zero.get("stage"):
        return config
    sizes = [parameter.numel() for parameter in parameters.values()]
    bucket = max(SMALLEST_BUCKET, sum(sizes) // 4, *sizes)
    fitted = {"reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if world > 1 and torch.cuda.is_available():
        fitted["overlap_comm"] = True
    return {**config, "zero_optimization": {**fitted, **zero}}


def _import_deepspeed() -> Any:
    """Import DeepSpeed quietly; on a machine without an accelerator it has to be told so."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        logging.getLogger("torch.utils.cpp_extension").setLevel(
            logging.ERROR
        )  # it warns where CUDA's compiler is alone
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    deepspeed = import_deepspeed()
    deepspeed.utils.logger.setLevel(logging.ERROR)
    compile_operator()
    return deepspeed
