"""Numbers that a worker reports of its training."""

from __future__ import annotations

import resource
import statistics
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import torch

from facscale.data.stream import Stream
from facscale.nn.distributed import get_world_size
from facscale.train.state import TrainState


def reset_peak_memory(device: torch.device) -> None:
    """Forget what this process needed before, perhaps for another training (`measure_cost`)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # Linux alone has it
            Path("/proc/self/clear_refs").write_text("5")


def measure_cost(state: TrainState) -> dict[str, float]:
    """What training costs this worker: seconds of a step (the median), and its peak memory.

    On an accelerator that is what torch has allocated there; else the memory of the whole process, libraries included.
    """
    if state.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(state.device)
    else:
        memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds_per_step": statistics.median(state.step_seconds), "peak_memory_gb": memory / 2**30}


def collect_step_metrics(state: TrainState, *, speed: float, streams: Iterable[Stream]) -> dict[str, float]:
    """Losses and norms of the last step and the progress of the training; `speed` in steps a second."""
    losses = torch.stack([loss.value.detach().float() for loss in state.losses.values()]).tolist()  # one wait for all
    values = {f"loss/{name}": value for name, value in zip(state.losses, losses, strict=True)}
    weights = [loss.weight for loss in state.losses.values()]
    values["loss/total"] = sum(value * weight for value, weight in zip(losses, weights, strict=True))
    norms = {f"gradient_norm/{engine.root.name}": engine.gradient_norm for engine in state.engines}
    values |= {name: norm for name, norm in norms.items() if norm is not None}
    values["samples_per_second"] = speed * state.job.train.batch_size
    values["epoch"] = state.schedule.epoch(state.step)
    values["workers"] = get_world_size()
    values["learning_rate"] = state.method.rate_factor * state.schedule.learning_rate(state.step - 1)
    values["skipped"] = float(sum(len(stream.skipped) for stream in streams))
    return values


def format_losses(values: Mapping[str, float]) -> str:
    """Format losses for a progress line: "tcl 0.312  total 0.340"."""
    return "  ".join(f"{name.removeprefix('loss/')} {value:.3f}" for name, value in values.items() if "loss/" in name)
