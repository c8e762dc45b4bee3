"""Storage, from the nodes that will use it: can data be read and checkpoints written, and how fast."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from facscale.data import DataError, Dataset
from facscale.data.storage import Folder
from facscale.doctor import storage_probe
from facscale.doctor.context import DiagnosticContext
from facscale.doctor.finding import Finding, from_error, ok, problem, warning
from facscale.doctor.runner import register_check
from facscale.train.trainer import make_absolute

MIN_READ_RATE = 20e6  # bytes a second: 1,400 faces of 14 kB
INSTALL_FIX = "install facscale there, with the same data libraries"


@register_check("data", rank=100, timeout_s=300)
def check_data(context: DiagnosticContext) -> Iterator[Finding]:
    """Look at the data sets with `facscale data URL`."""
    urls = context.data_urls
    if not urls and (default := os.environ.get("FACSCALE_DATA")):
        yield check_data_store(default)
    for url in urls:
        try:
            manifest = Dataset(url).manifest
        except DataError as error:
            yield from_error(error)
            continue
        frames, size = manifest.counts["frames"], sum(shard.bytes for shard in manifest.shards)
        yield ok(f"{url}: {manifest.name}, {frames:,} frames, {size / 1e9:,.2f} GB")
        if "ray" in context.results:
            yield from check_read_rates(url, context.run_on_nodes(storage_probe.measure_read_rate, url, max_calls=1))
    for key, source in (context.job.dependencies if context.job else {}).items():
        if source.url:
            yield check_input(key, source.url)


def check_input(key: str, url: str) -> Finding:
    """Check that a file exists with which the job starts; `key` is its key in the spec."""
    folder, slash, name = url.rpartition("/")
    try:
        exists = Folder(folder or slash or ".").exists(name)
    except DataError as error:
        return from_error(error)
    return ok(f"{url} is there ({key})") if exists else problem(f"{url} is not there ({key})", "correct its url")


def check_data_store(url: str) -> Finding:
    """Check the store of FACSCALE_DATA, when no spec names a data set."""
    try:
        storage_probe.check_access(url)
    except DataError as error:
        return from_error(error)
    return ok(f"{url} answers (FACSCALE_DATA); name a spec to read its data sets")


def check_read_rates(url: str, rates: Mapping[str, Any]) -> Iterator[Finding]:
    """Check the bytes per second that each node reads, or the exception with which it failed."""
    for name, rate in rates.items():
        if isinstance(rate, DataError):
            yield from_error(Exception(f"from {name}: {rate}"))
        elif isinstance(rate, Exception):
            yield problem(f"{name} cannot read {url}: {rate}", INSTALL_FIX)
        elif rate < MIN_READ_RATE:
            fix = "bring data and cluster into one region, or rely on data.cache from the second epoch on"
            yield warning(f"{name} reads {url} with {rate / 1e6:,.1f} MB/s", fix)
        else:
            yield ok(f"{name} reads {url} with {rate / 1e6:,.0f} MB/s")


@register_check("storage", rank=110, timeout_s=300)
def check_storage(context: DiagnosticContext) -> Iterator[Finding]:
    """Look at cluster.storage: `aws s3 ls`, or ls -ld."""
    url = make_absolute(context.storage_url)
    context.require("ray")
    rates = context.run_on_nodes(storage_probe.measure_write_rate, url, max_calls=1)
    for name, rate in rates.items():
        if isinstance(rate, DataError):
            yield from_error(Exception(f"from {name}: {rate}"))
        elif isinstance(rate, Exception):
            yield problem(f"{name} cannot write to {url}: {rate}", INSTALL_FIX)
        else:
            write, read = rate["write"] / 1e6, rate["read"] / 1e6
            yield ok(f"{name} writes to {url} with {write:,.0f} MB/s, reads back with {read:,.0f}")
    if len(rates) > 1 and not any(isinstance(rate, Exception) for rate in rates.values()):
        with storage_probe.create_probe_file(url) as probe_file:
            answers = context.run_on_nodes(storage_probe.can_see, url, probe_file, max_calls=1)
            yield check_shared(url, answers)


def check_shared(url: str, visibility: Mapping[str, Any]) -> Finding:
    """Check that a file written by this machine is visible on all nodes: True for each in `visibility`."""
    blind = [name for name, is_visible in visibility.items() if is_visible is not True]
    if blind:
        fix = "give cluster.storage a location that all nodes share: s3://bucket/..., or a network file system"
        return problem(f"{url} is another folder on {', '.join(blind)} than here", fix)
    return ok(f"{url} is one location for all nodes")
