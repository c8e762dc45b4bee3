"""A rehearsal as tables in a terminal or a log."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import ray
from rich.console import Console
from rich.table import Table

from facscale.cluster import at_once
from facscale.job.variants import Variant
from facscale.profile.forecast import Forecast, Price, Rehearsed
from facscale.progress import duration
from facscale.train.trainer import storage

WIDTH = 150  # in a log
HOUR = 3600.0


def say(text: str) -> None:
    """A line."""
    console().print(text)


def console() -> Console:
    """Of standard output as it is now."""
    return Console(width=None if os.isatty(1) else WIDTH, highlight=False)


def show_parts(of: Rehearsed) -> None:
    """What each part can do by itself, what they do together, and which one that is due to."""
    out, parts, one = console(), of.parts, of.slowest
    kind = one.device or "CPU"
    out.print(
        f"\n[bold]{of.training.title}[/bold] on {len(of.found)} workers ({kind}), {of.training.task.job.method.name}"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for heading in ("samples/s", "images/s", ""):
        table.add_column(heading, justify="right" if heading else "left")
    reads = f"{sum(each.read_bytes for each in of.found) / 1e6:,.0f} MB/s from the store, cache aside"
    decodes = f"{of.training.task.job.data.threads} threads on each worker"
    lines = [
        ("reading alone", parts.read, reads),
        ("decoding alone", parts.decode, decodes),
        ("both, as the stream does it", parts.stream, ""),
        ("the model alone", parts.model, f"{1e3 * one.model_step_s:,.0f} ms a step, {told_exchange(of)}"),
        ("training", parts.together, f"{1e3 * one.step_s:,.0f} ms a step, {one.waited:.0%} of it waiting for data"),
    ]
    for name, rate, about in lines:
        style = "bold" if name == "training" else ""
        table.add_row(name, count(rate), count(rate * of.shape.images), about, style=style)
    out.print(table)
    out.print(f"busy: {busy(of)}; peak memory {gib(one.memory)} of {gib(one.memory_there)}, on each worker")
    out.print(
        f"a checkpoint holds {gib(max(each.checkpoint_bytes for each in of.found))} and stops training for {one.checkpoint_s:.2f} s"
    )
    out.print(f"[bold]bottleneck: {of.verdict.bottleneck}[/bold] ({of.verdict.why})")
    for mend in of.verdict.mends:
        out.print(f"  -> {mend}", markup=False)


def show_forecasts(told: Sequence[Forecast], *, main: Variant, trials: int, price: Price) -> None:
    """All that the job trains, in hours and money. To be called where Ray is joined."""
    out, lanes = console(), at_once(main.job)
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    for heading in ("row", "method", "trainings", "steps", "time, one by one", ""):
        table.add_column(heading, justify="right" if heading in {"trainings", "steps"} else "left")
    for one in told:
        how = "rehearsed" if one.measured else "told from its operations and frames"
        table.add_row(one.row, one.method, str(one.number), f"{one.steps:,}", duration(one.seconds), how)
    out.print()
    out.print(table)
    once = sum(one.seconds for one in told)
    searched = trials * max((one.longest_s for one in told if one.row == main.name), default=0.0)
    seconds = max([*(one.longest_s for one in told), (once + searched) / lanes])
    sweep = f", {trials} trials of a sweep among them, of which many may end sooner" if trials else ""
    out.print(f"to the end: {duration(seconds)}, {lanes} at a time{sweep}; judging what was trained comes on top")
    gpu_hours = sum(one.gpu_s for one in told) / HOUR
    gpu_hours *= (once + searched) / once
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    out.print(cost(gpu_hours=gpu_hours, node_hours=nodes * seconds / HOUR, price=price))
    out.print(f"nothing of the rehearsal is left in {storage(main.job)}")


def cost(*, gpu_hours: float, node_hours: float, price: Price) -> str:
    """In money where a price is known, else in hours."""
    hours = [f"{gpu_hours:,.1f} GPU-hours"] if gpu_hours else []
    hours.append(f"{node_hours:,.1f} node-hours")
    money = gpu_hours * price.gpu + node_hours * price.node
    if not money:
        return f"cost: {', '.join(hours)}; --price or --node-price, or the clusters file, makes that money"
    paid = [f"{price.gpu:g} a GPU-hour"] if price.gpu else []
    paid += [f"{price.node:g} a node-hour"] if price.node else []
    return f"cost: {money:,.2f} ({', '.join(hours)} at {' and '.join(paid)})"


def busy(of: Rehearsed) -> str:
    """Of its cores and its GPU."""
    cores = (
        f"{of.slowest.cores:.1f} cores of the {of.training.task.job.cluster.cpus_per_worker:g} that a worker asks for"
    )
    gpu = of.slowest.gpu
    return cores if gpu is None else f"{cores}, its GPU {gpu:.0%} of the time"


def told_exchange(of: Rehearsed) -> str:
    """In words."""
    if len(of.found) == 1:
        return "no other worker to exchange gradients with"
    longest = max(each.exchange_s for each in of.found)
    return f"of which the exchange of gradients takes {1e3 * longest:,.1f} ms by itself"


def count(rate: float) -> str:
    """Three digits or more; what is not limited is a dash."""
    return "-" if math.isinf(rate) else f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def gib(size: float) -> str:
    """Bytes."""
    return f"{size / 2**30:.2f} GiB"
