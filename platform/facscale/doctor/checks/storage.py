"""Storage, from the nodes that will use it: data can be read, checkpoints written, and how fast."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from facscale.data import DataError, Dataset
from facscale.data.storage import Folder
from facscale.doctor import speed
from facscale.doctor.examination import check
from facscale.doctor.finding import Finding, ok, problem, told, warning
from facscale.doctor.patient import Patient
from facscale.train.trainer import absolute

SLOW = 20e6  # bytes a second: 1,400 faces of 14 kB
INSTALL = "install facscale there, with the same data libraries"


@check("data", rank=100, limit_s=300)
def data(patient: Patient) -> Iterator[Finding]:
    """Look at the data sets with `facscale data URL`."""
    urls = patient.urls or ([os.environ["FACSCALE_DATA"]] if os.environ.get("FACSCALE_DATA") else [])
    for url in urls:
        if not patient.urls:
            yield from answering(url)
            continue
        try:
            manifest = Dataset(url).manifest
        except DataError as error:
            yield told(error)
            continue
        frames, size = manifest.counts["frames"], sum(shard.bytes for shard in manifest.shards)
        yield ok(f"{url}: {manifest.name}, {frames:,} frames, {size / 1e9:,.2f} GB")
        if "ray" in patient.state:
            yield from read(url, patient.on_each_node(speed.read, url, calls=1))
    for place, source in (patient.job.built_on if patient.job else {}).items():
        if source.url:
            yield built_on(place, source.url)


def built_on(place: str, url: str) -> Finding:
    """Of a file that the job begins with."""
    folder, slash, name = url.rpartition("/")
    try:
        there = Folder(folder or slash or ".").exists(name)
    except DataError as error:
        return told(error)
    return ok(f"{url} is there ({place})") if there else problem(f"{url} is not there ({place})", "correct its url")


def answering(url: str) -> Iterator[Finding]:
    """Of the place of all data sets, when no spec names one."""
    try:
        speed.answers(url)
    except DataError as error:
        yield told(error)
        return
    yield ok(f"{url} answers (FACSCALE_DATA); name a spec to read its data sets")


def read(url: str, rates: Mapping[str, Any]) -> Iterator[Finding]:
    """What each node reads in a second."""
    for name, rate in rates.items():
        if isinstance(rate, DataError):
            yield told(Exception(f"from {name}: {rate}"))
        elif isinstance(rate, Exception):
            yield problem(f"{name} cannot read {url}: {rate}", INSTALL)
        elif rate < SLOW:
            mend = "bring data and cluster into one region, or count on data.cache from the second epoch on"
            yield warning(f"{name} reads {url} with {rate / 1e6:,.1f} MB/s", mend)
        else:
            yield ok(f"{name} reads {url} with {rate / 1e6:,.0f} MB/s")


@check("storage", rank=110, limit_s=300)
def storage(patient: Patient) -> Iterator[Finding]:
    """Look at cluster.storage: `aws s3 ls`, or ls -ld."""
    place = absolute(patient.storage)
    patient.known("ray")
    written = patient.on_each_node(speed.write, place, calls=1)
    for name, rates in written.items():
        if isinstance(rates, DataError):
            yield told(Exception(f"from {name}: {rates}"))
        elif isinstance(rates, Exception):
            yield problem(f"{name} cannot write to {place}: {rates}", INSTALL)
        else:
            yield ok(
                f"{name} writes to {place} with {rates['write'] / 1e6:,.0f} MB/s, reads back with {rates['read'] / 1e6:,.0f}"
            )
    if len(written) > 1 and not any(isinstance(rates, Exception) for rates in written.values()):
        with speed.note(place) as note:
            yield from shared(place, patient.on_each_node(speed.sees, place, note, calls=1))


def shared(place: str, seen: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether what one machine writes is there on the others."""
    blind = [name for name, there in seen.items() if there is not True]
    if blind:
        mend = "give cluster.storage a place that all nodes share: s3://bucket/..., or a network file system"
        yield problem(f"{place} is another folder on {', '.join(blind)} than here", mend)
    else:
        yield ok(f"{place} is one place for all nodes")
