"""GPUs: visible to Ray and torch, computing correctly, cool, and free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from facscale.doctor import node
from facscale.doctor.context import DiagnosticContext
from facscale.doctor.finding import Finding, ok, problem, warning
from facscale.doctor.remote import ALL_GPUS
from facscale.doctor.runner import register_check

MAX_DIFFERENCE = 1e-9  # between two products of 512 x 512 matrices in float64
MIN_FREE = 0.9  # share of its memory that an idle GPU has free
MAX_TEMPERATURE_C = 85


@register_check("GPUs", rank=90, timeout_s=180)
def check_gpus(context: DiagnosticContext) -> Iterator[Finding]:
    """Look at nvidia-smi on the nodes."""
    context.require("ray")
    ray_counts = {target["Name"]: int(target["Resources"].get("GPU", 0)) for target in context.nodes}
    # a process that has used a GPU holds memory there: it ends after the call
    probes = context.run_on_nodes(node.probe_gpus, max_calls=1, runtime_env=ALL_GPUS)
    health = context.run_on_nodes(node.read_gpu_health)
    for name, gpus in probes.items():
        if isinstance(gpus, Exception):
            yield problem(f"{name}: torch cannot look for GPUs: {gpus}", "see that `import torch` works there")
            continue
        driver = health[name] if isinstance(health[name], list) else []
        yield from check_node_gpus(name, gpus=gpus, driver=driver, ray_count=ray_counts[name])
    if not any(ray_counts.values()):
        yield ok("Ray knows of no GPU here: jobs with cluster.gpus_per_worker=0 train on the CPU")


def check_node_gpus(
    name: str, *, gpus: Sequence[Mapping[str, Any]], driver: Sequence[Mapping[str, Any]], ray_count: int
) -> Iterator[Finding]:
    """Check the GPUs of a node: those that torch sees (`node.probe_gpus`), and the driver (`node.read_gpu_health`)."""
    if driver and not gpus:
        fix = "install a torch for CUDA that this driver supports (nvidia-smi names the newest)"
        yield problem(f"{name}: the driver has {len(driver)} GPUs, torch sees none", fix)
    elif ray_count > len(gpus):
        fix = "look at nvidia-smi there: a GPU may have failed, or is not given to the container"
        yield problem(f"{name}: Ray promises {ray_count} GPUs, torch sees {len(gpus)}", fix)
    elif ray_count < len(gpus):
        fix = "start Ray with --num-gpus, or the container with their devices"
        yield warning(f"{name}: torch sees {len(gpus)} GPUs, Ray has {ray_count} to give", fix)
    for gpu in gpus:
        yield check_gpu(f"{name}, GPU {gpu['number']}", gpu)
    for gpu in driver:
        yield from check_health(f"{name}, GPU {gpu['index']}", gpu)


def check_gpu(where: str, gpu: Mapping[str, Any]) -> Finding:
    """Check what `node.probe_gpu` measured."""
    if "error" in gpu:
        fix = "look at nvidia-smi and at dmesg for Xid errors; take the node out until it is reset"
        return problem(f"{where} fails: {gpu['error']}", fix)
    total, free = gpu["total_bytes"] / 2**30, gpu["free_bytes"] / 2**30
    if gpu.get("difference", 0.0) > MAX_DIFFERENCE:
        fix = "take the GPU out: its memory or its arithmetic is broken"
        return problem(f"{where} multiplies wrongly: {gpu['difference']:.1g} off the CPU's product", fix)
    if gpu["free_bytes"] < MIN_FREE * gpu["total_bytes"]:
        fix = "see with nvidia-smi who uses it; Ray does not count memory that others use"
        return warning(f"{where} ({gpu['name']}): {free:.1f} of {total:.1f} GiB are free", fix)
    return ok(f"{where} ({gpu['name']}): {free:.1f} of {total:.1f} GiB free, multiplies as the CPU does")


def check_health(where: str, gpu: Mapping[str, Any]) -> Iterator[Finding]:
    """Report what is wrong in an entry of `node.read_gpu_health`; unknown figures (None) pass."""
    if gpu["ecc_errors"]:
        message = f"{where}: {gpu['ecc_errors']} memory errors that ECC could not correct"
        yield problem(message, "reset it, and replace it if they return")
    temperature = gpu["temperature_c"]
    is_hot = temperature is not None and temperature >= MAX_TEMPERATURE_C
    if gpu["slowdowns"] or is_hot:
        reasons = ", ".join(gpu["slowdowns"]) or "hot"
        degrees = "unknown temperature" if temperature is None else f"{temperature} C"
        yield warning(f"{where}: {degrees}, slowed down ({reasons})", "look at its cooling and its power supply")
