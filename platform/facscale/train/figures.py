"""What a worker says of its training, in numbers."""

from __future__ import annotations

import resource
import statistics
from collections.abc import Iterable, Mapping

import torch

from facscale.data.stream import Stream
from facscale.nn.workers import workers
from facscale.train.loop import Run


def spent(run: Run) -> dict[str, float]:
    """What training costs this worker: seconds of a step (the median), and its largest memory so far.

    On an accelerator that is what torch has taken there; else what the whole process has, libraries and all.
    """
    if run.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(run.device)
    else:
        memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds_per_step": statistics.median(run.seconds), "peak_memory_gb": memory / 2**30}


def of_step(run: Run, *, speed: float, streams: Iterable[Stream]) -> dict[str, float]:
    """Losses and norms of the last step and where the run stands; `speed` in steps a second."""
    values = {f"loss/{name}": float(loss.value.detach()) for name, loss in run.losses.items()}
    values["loss/total"] = sum(float(loss.value.detach()) * loss.weight for loss in run.losses.values())
    norms = {f"gradient_norm/{engine.root.name}": engine.gradient_norm for engine in run.engines}
    values |= {name: norm for name, norm in norms.items() if norm is not None}
    values["samples_per_second"] = speed * run.job.train.batch_size
    values["epoch"] = run.plan.epoch(run.step)
    values["workers"] = workers()
    values["learning_rate"] = run.plan.rate(run.step - 1)
    values["skipped"] = float(sum(len(stream.skipped) for stream in streams))
    return values


def losses_in_words(values: Mapping[str, float]) -> str:
    """For a progress line: "tcl 0.312  total 0.340"."""
    return "  ".join(f"{name.removeprefix('loss/')} {value:.3f}" for name, value in values.items() if "loss/" in name)
