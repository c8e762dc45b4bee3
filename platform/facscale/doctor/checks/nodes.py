"""Each node: the same software everywhere, enough memory, disk, files and processes, synchronous clocks."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping
from typing import Any

from facscale.doctor import node
from facscale.doctor.context import DiagnosticContext
from facscale.doctor.finding import Finding, ok, problem, warning
from facscale.doctor.remote import run_on_nodes
from facscale.doctor.runner import register_check
from facscale.spec.models import Data

MIN_SHM_BYTES = 1 << 30  # NCCL and Ray's object store share it; containers have 64 MB by default
MAX_DISK_USE = 0.95  # share of its disk at which Ray puts no more objects there
MIN_FILES, MIN_PROCESSES = 4096, 4096  # Ray asks for 65,536 files; a training starts hundreds of threads
SKEW_WARNING_S, SKEW_PROBLEM_S = 2.0, 300.0  # S3 refuses requests signed 15 minutes off, Kubernetes tokens sooner
MUST_AGREE = ("ray", "torch", "deepspeed", "numpy")


@register_check("nodes", rank=40)
def check_nodes(context: DiagnosticContext) -> Iterator[Finding]:
    """Look with `ray list nodes` for one that is not well."""
    folders = (context.job.data.cache if context.job else Data().cache,)
    answers = context.run_on_nodes(node.collect_facts, folders)
    for name, answer in answers.items():
        if isinstance(answer, Exception):
            yield problem(
                f"{name} runs no task: {answer}", "look at its raylet's log; `ray list nodes` shows its state"
            )
    reports = {name: answer for name, answer in answers.items() if not isinstance(answer, Exception)}
    context.results["reports"] = reports
    if reports:
        yield ok(f"tasks run on {', '.join(reports)}")


@register_check("versions", rank=50)
def check_versions(context: DiagnosticContext) -> Iterator[Finding]:
    """Install the same image everywhere."""
    here = {
        "versions": {"python": platform.python_version(), **node.get_package_versions()},
        "facscale": node.get_facscale_version(),
    }
    reports = context.require("reports")
    differences = [finding for name, report in reports.items() for finding in compare_versions(here, report, name=name)]
    yield from differences
    if not differences:
        packages = ", ".join(f"{name} {here['versions'][name]}" for name in ("python", "ray", "torch", "deepspeed"))
        facscale = f"facscale {here['facscale']['version']} (code {here['facscale']['code']})"
        yield ok(f"{facscale}, {packages} here and on all nodes")


def compare_versions(here: Mapping[str, Any], there: Mapping[str, Any], *, name: str) -> Iterator[Finding]:
    """Compare the software of this process with that of the node `name`."""
    if "error" in there["facscale"]:
        yield problem(f"{name} has no facscale: {there['facscale']['error']}", "install it there: the cluster's image")
    elif here["facscale"] != there["facscale"]:
        facscale_here, facscale_there = (
            f"{facts['version']} (code {facts['code']})" for facts in (here["facscale"], there["facscale"])
        )
        yield problem(
            f"facscale is {facscale_there} on {name}, {facscale_here} here",
            "bring both to one commit, or take yours along: --working-dir",
        )
    python_here, python_there = here["versions"]["python"], there["versions"]["python"]
    if python_here != python_there:
        has_same_minor = python_here.rpartition(".")[0] == python_there.rpartition(".")[0]
        severity = warning if has_same_minor else problem
        yield severity(
            f"Python is {python_there} on {name}, {python_here} here",
            "use one Python everywhere; pickles of one minor version cannot be read by another",
        )
    for package in MUST_AGREE:
        version_here, version_there = here["versions"][package], there["versions"][package]
        if version_here != version_there:
            yield problem(
                f"{package} is {version_there or 'missing'} on {name}, {version_here} here",
                f"pip install {package}=={version_here} there, or the other here",
            )


@register_check("compiler", rank=60)
def check_compiler(context: DiagnosticContext) -> Iterator[Finding]:
    """See that DeepSpeed has its operator on all nodes, or g++ and ninja, with which it compiles that on first use."""
    yield from find_missing_programs(context.require("reports"))


def find_missing_programs(reports: Mapping[str, Any]) -> Iterator[Finding]:
    """Report the programs that nodes without DeepSpeed's operator lack."""
    missing = {
        name: [program for program, is_installed in report["compiler"].items() if not is_installed]
        for name, report in reports.items()
        if not report["operator"]
    }
    for name, programs in missing.items():
        if programs:
            message = f"{name} has no {' and no '.join(programs)}, with which DeepSpeed compiles its operator"
            yield problem(message, "put g++ (apt) and ninja (pip) into the image")
    if reports and not any(missing.values()):
        tools = "g++ and ninja are there, with which DeepSpeed compiles its operator"
        yield ok(tools if missing else "DeepSpeed was installed with its operator: no compiler is needed")


@register_check("room on nodes", rank=70)
def check_limits(context: DiagnosticContext) -> Iterator[Finding]:
    """Look at df and ulimit on the nodes."""
    reports = context.require("reports")
    size = (context.job.data if context.job else Data()).cache_gb * 1e9
    is_remote = any("://" in url and not url.startswith("file://") for url in context.data_urls)
    cache_bytes = size if is_remote else 0
    warnings = [
        finding
        for name, report in reports.items()
        for finding in find_low_limits(report, name=name, cache_bytes=cache_bytes)
    ]
    yield from warnings
    if reports and not warnings:
        shm = min(report["shm_bytes"] for report in reports.values()) / 2**30
        cache = min(folder["bytes"] for report in reports.values() for folder in report["free"].values()) / 1e9
        yield ok(f"{shm:.1f} GiB of shared memory, {cache:,.0f} GB of disk for the cache, files and processes enough")


def find_low_limits(report: Mapping[str, Any], *, name: str, cache_bytes: float) -> Iterator[Finding]:
    """Report what a node has too little of; `cache_bytes` is the size of the cache of row groups there."""
    if report["shm_bytes"] < MIN_SHM_BYTES:
        fix = "mount an emptyDir with medium: Memory at /dev/shm, or docker run --shm-size=8g"
        yield warning(f"{name}: /dev/shm has {report['shm_bytes'] / 2**20:.0f} MiB", fix)
    if report["tmp_used"] > MAX_DISK_USE:
        fix = "free some: Ray puts no more objects on a disk that is 95 % full"
        yield problem(f"{name}: the disk of /tmp is {report['tmp_used']:.0%} full", fix)
    for folder, space in report["free"].items():
        if not space["writable"]:
            fix = "give data.cache a writable folder; without one, row groups are fetched again in each epoch"
            yield warning(f"{name}: {folder} cannot be written", fix)
        elif space["bytes"] < cache_bytes:
            fix = f"lower data.cache_gb ({cache_bytes / 1e9:g}), or give data.cache another disk"
            yield warning(f"{name}: {space['bytes'] / 1e9:,.0f} GB are free for the cache {folder}", fix)
    if 0 <= report["open_files"] < MIN_FILES:
        yield warning(f"{name}: a process may open {report['open_files']} files", "ulimit -n 65536 before Ray starts")
    if 0 <= report["processes"] < MIN_PROCESSES:
        fix = "raise ulimit -u, or the kubelet's podPidsLimit: each worker has hundreds of threads"
        yield warning(f"{name}: {report['processes']} processes and threads may run", fix)


@register_check("clocks of nodes", rank=80)
def check_clocks(context: DiagnosticContext) -> Iterator[Finding]:
    """Compare `date` on the nodes; they need NTP."""
    context.require("reports")
    skews = {}
    for target in context.nodes:
        start = time.time()
        for name, answer in run_on_nodes(node.read_clock, nodes=[target], timeout_s=20).items():
            if isinstance(answer, float):  # it was read between `start` and now
                skews[name] = max(start - answer, answer - time.time(), 0.0)
    yield from compare_clocks(skews)


def compare_clocks(skews: Mapping[str, float]) -> Iterator[Finding]:
    """Report the nodes whose clocks are off from ours; `skews` are lower bounds in seconds."""
    for name, seconds in skews.items():
        if seconds > SKEW_WARNING_S:
            severity = problem if seconds > SKEW_PROBLEM_S else warning
            yield severity(
                f"the clocks of {name} and here are {seconds:.0f} s apart or more", "run NTP (chrony) on both"
            )
    if skews and max(skews.values()) <= SKEW_WARNING_S:
        yield ok(f"all clocks agree within {SKEW_WARNING_S:g} s")
