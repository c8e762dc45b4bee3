"""A profile as tables in a terminal or a log."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import ray
from rich.console import Console
from rich.table import Table

from facscale.cluster.ray import count_parallel_trainings
from facscale.job.variants import Variant
from facscale.profile.forecast import Forecast, Price, ProfiledTraining
from facscale.progress import format_duration
from facscale.train.trainer import storage_url

LOG_WIDTH = 150
HOUR_S = 3600.0


def print_line(text: str) -> None:
    """Print a line."""
    make_console().print(text)


def make_console() -> Console:
    """A console on standard output as it is now."""
    return Console(width=None if os.isatty(1) else LOG_WIDTH, highlight=False)


def print_profile(profiled: ProfiledTraining) -> None:
    """Print the rate of each part by itself and of training, the bottleneck and suggestions."""
    console, rates, slowest, task = make_console(), profiled.rates, profiled.slowest, profiled.training.task
    workers = f"{len(profiled.workers)} workers ({slowest.device or 'CPU'})"
    console.print(f"\n[bold]{profiled.training.title}[/bold] on {workers}, {task.job.method.name}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for heading in ("samples/s", "images/s", ""):
        table.add_column(heading, justify="right" if heading else "left")
    read_mb = sum(worker.read_bytes for worker in profiled.workers) / 1e6
    step_ms, wait = 1e3 * slowest.step_s, slowest.data_wait
    lines = [
        ("reading alone", rates.read, f"{read_mb:,.0f} MB/s from the store, cache aside"),
        ("decoding alone", rates.decode, f"{task.job.data.threads} threads on each worker"),
        ("both, as the stream does it", rates.stream, ""),
        ("the model alone", rates.model, f"{1e3 * slowest.model_step_s:,.0f} ms a step, {describe_exchange(profiled)}"),
        ("training", rates.training, f"{step_ms:,.0f} ms a step, {wait:.0%} of it waiting for data"),
    ]
    for name, rate, note in lines:
        images = format_rate(rate * profiled.sample.images)
        table.add_row(name, format_rate(rate), images, note, style="bold" if name == "training" else "")
    console.print(table)
    memory = f"{format_gib(slowest.memory)} of {format_gib(slowest.memory_size)}"
    console.print(f"busy: {describe_usage(profiled)}; peak memory {memory}, on each worker")
    size = format_gib(max(worker.checkpoint_bytes for worker in profiled.workers))
    console.print(f"a checkpoint has {size} and stops training for {slowest.checkpoint_s:.2f} s")
    console.print(f"[bold]bottleneck: {profiled.diagnosis.bottleneck}[/bold] ({profiled.diagnosis.reason})")
    for suggestion in profiled.diagnosis.suggestions:
        console.print(f"  -> {suggestion}", markup=False)


def print_forecasts(forecasts: Sequence[Forecast], *, main: Variant, trials: int, price: Price) -> None:
    """Print all that the job trains, in hours and money. To be called where Ray is joined."""
    console, slots = make_console(), count_parallel_trainings(main.job)
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    for heading in ("row", "method", "trainings", "steps", "time, one by one", ""):
        table.add_column(heading, justify="right" if heading in {"trainings", "steps"} else "left")
    for forecast in forecasts:
        basis = "rehearsed" if forecast.is_measured else "estimated from its operations and frames"
        duration = format_duration(forecast.seconds)
        table.add_row(forecast.row, forecast.method, str(forecast.count), f"{forecast.steps:,}", duration, basis)
    console.print()
    console.print(table)
    of_job = sum(forecast.seconds for forecast in forecasts)
    longest_main = max((forecast.longest_s for forecast in forecasts if forecast.row == main.name), default=0.0)
    of_trials = trials * longest_main
    seconds = max([*(forecast.longest_s for forecast in forecasts), (of_job + of_trials) / slots])
    sweep = f", {trials} trials of a sweep among them, of which many may end sooner" if trials else ""
    console.print(f"to the end: {format_duration(seconds)}, {slots} at a time{sweep}; evaluation comes on top")
    gpu_hours = sum(forecast.gpu_s for forecast in forecasts) / HOUR_S * (of_job + of_trials) / of_job
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    console.print(describe_price(gpu_hours=gpu_hours, node_hours=nodes * seconds / HOUR_S, price=price))
    console.print(f"nothing of the rehearsal is left in {storage_url(main.job)}")


def describe_price(*, gpu_hours: float, node_hours: float, price: Price) -> str:
    """The cost in money where a price is known, else in hours."""
    hours = [f"{gpu_hours:,.1f} GPU-hours"] if gpu_hours else []
    hours.append(f"{node_hours:,.1f} node-hours")
    money = gpu_hours * price.gpu + node_hours * price.node
    if not money:
        return f"cost: {', '.join(hours)}; --price or --node-price, or the clusters file, makes that money"
    prices = [f"{price.gpu:g} a GPU-hour"] if price.gpu else []
    prices += [f"{price.node:g} a node-hour"] if price.node else []
    return f"cost: {money:,.2f} ({', '.join(hours)} at {' and '.join(prices)})"


def describe_usage(profiled: ProfiledTraining) -> str:
    """How busy the slowest worker kept its cores and its GPU."""
    slowest, wanted = profiled.slowest, profiled.training.task.job.cluster.cpus_per_worker
    cores = f"{slowest.cores:.1f} cores of the {wanted:g} that a worker asks for"
    return cores if slowest.gpu is None else f"{cores}, its GPU {slowest.gpu:.0%} of the time"


def describe_exchange(profiled: ProfiledTraining) -> str:
    """How long the exchange of gradients takes."""
    if len(profiled.workers) == 1:
        return "no other worker to exchange gradients with"
    longest = max(worker.exchange_s for worker in profiled.workers)
    return f"of which the exchange of gradients takes {1e3 * longest:,.1f} ms by itself"


def format_rate(rate: float) -> str:
    """Three digits or more; a dash for an infinite rate."""
    return "-" if math.isinf(rate) else f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def format_gib(size: float) -> str:
    """Bytes in GiB."""
    return f"{size / 2**30:.2f} GiB"
