"""GPUs: seen by Ray and by torch, computing what a CPU computes, cool, and free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from facscale.doctor import node
from facscale.doctor.examination import check
from facscale.doctor.finding import Finding, ok, problem, warning
from facscale.doctor.patient import Patient
from facscale.doctor.remote import GPUS_SEEN

EXACT = 1e-9  # largest difference between two products of 512 x 512 matrices in float64
FREE = 0.9  # share of its memory that an idle GPU has free
HOT_C = 85


@check("GPUs", rank=90, limit_s=180)
def gpus(patient: Patient) -> Iterator[Finding]:
    """Look at nvidia-smi on the nodes."""
    patient.known("ray")
    promised = {one["Name"]: int(one["Resources"].get("GPU", 0)) for one in patient.nodes}
    seen = patient.on_each_node(node.gpus, calls=1, runtime_env=GPUS_SEEN)  # a process that has seen a GPU holds memory
    driver = patient.on_each_node(node.nvidia_smi)
    for name, devices in seen.items():
        if isinstance(devices, Exception):
            yield problem(f"{name}: torch cannot look for GPUs: {devices}", "see that `import torch` works there")
            continue
        said = driver[name] if isinstance(driver[name], list) else []
        yield from of_node(name, devices=devices, driver=said, promised=promised[name])
    if not any(promised.values()):
        yield ok("Ray knows of no GPU here: jobs with cluster.gpus_per_worker=0 train on the CPU")


def of_node(
    name: str, *, devices: Sequence[Mapping[str, Any]], driver: Sequence[Mapping[str, str]], promised: int
) -> Iterator[Finding]:
    """What torch, the driver and Ray say of the GPUs of one node."""
    if driver and not devices:
        mend = "install a torch for CUDA that this driver supports (nvidia-smi names the newest)"
        yield problem(f"{name}: the driver has {len(driver)} GPUs, torch sees none", mend)
    elif promised > len(devices):
        mend = "look at nvidia-smi there: a GPU may have fallen off the bus, or is not given to the container"
        yield problem(f"{name}: Ray promises {promised} GPUs, torch sees {len(devices)}", mend)
    elif promised < len(devices):
        mend = "start Ray with --num-gpus, or the container with their devices"
        yield warning(f"{name}: torch sees {len(devices)} GPUs, Ray has {promised} to give", mend)
    for device in devices:
        yield from of_device(f"{name}, GPU {device['number']}", device)
    for line in driver:
        yield from of_driver(f"{name}, GPU {line['index']}", line)


def of_device(where: str, device: Mapping[str, Any]) -> Iterator[Finding]:
    """What torch found when it tried one."""
    if "error" in device:
        mend = "look at nvidia-smi and at dmesg for Xid errors; take the node out until it is reset"
        yield problem(f"{where} fails: {device['error']}", mend)
        return
    total, there = device["total_bytes"] / 2**30, device["free_bytes"] / 2**30
    if device.get("difference", 0.0) > EXACT:
        mend = "take the GPU out: its memory or its arithmetic is broken"
        yield problem(f"{where} multiplies wrongly: {device['difference']:.1g} off the CPU's product", mend)
        return
    if device["free_bytes"] < FREE * device["total_bytes"]:
        mend = "see with nvidia-smi who uses it; Ray does not know of them"
        yield warning(f"{where} ({device['name']}): {there:.1f} of {total:.1f} GiB are free", mend)
        return
    yield ok(f"{where} ({device['name']}): {there:.1f} of {total:.1f} GiB free, multiplies as the CPU does")


def of_driver(where: str, line: Mapping[str, str]) -> Iterator[Finding]:
    """What nvidia-smi says of one: only what is wrong."""
    errors = line["ecc.errors.uncorrected.volatile.total"]
    if errors.isdigit() and int(errors):
        yield problem(
            f"{where}: {errors} memory errors that ECC could not correct", "reset it, and replace it if they return"
        )
    heat = line["temperature.gpu"]
    slowed = [name for name, value in line.items() if name.startswith("clocks_throttle") and value == "Active"]
    if slowed or (heat.isdigit() and int(heat) >= HOT_C):
        reasons = ", ".join(name.partition(".")[2] for name in slowed) or "hot"
        yield warning(f"{where}: {heat} C, slowed down ({reasons})", "look at its cooling and its power supply")
