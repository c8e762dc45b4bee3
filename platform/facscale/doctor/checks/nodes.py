"""Each node: the same software everywhere, and room to work."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping
from typing import Any

from facscale.doctor import node
from facscale.doctor.examination import check
from facscale.doctor.finding import Finding, ok, problem, warning
from facscale.doctor.patient import Patient
from facscale.doctor.remote import ask_nodes
from facscale.spec.models import Data

SHM_BYTES = 1 << 30  # NCCL and Ray's object store share it; containers get 64 MB unless told otherwise
FULL = 0.95  # share of its disk at which Ray stops putting objects there
FILES, PROCESSES = 4096, 4096  # Ray asks for 65,536 files; a training starts hundreds of threads
SKEW_S, FAR_S = 2.0, 300.0  # stores refuse a request that is signed 15 minutes off, Kubernetes a token sooner
MUST_AGREE = ("ray", "torch", "deepspeed", "numpy")


@check("nodes", rank=40)
def answers(patient: Patient) -> Iterator[Finding]:
    """Look with `ray list nodes` for one that is not well."""
    folders = (patient.job.data.cache if patient.job else Data().cache,)
    found = patient.on_each_node(node.report, folders)
    for name, told in found.items():
        if isinstance(told, Exception):
            yield problem(f"{name} runs no task: {told}", "look at its raylet's log; `ray list nodes` shows its state")
    patient.state["reports"] = {name: told for name, told in found.items() if not isinstance(told, Exception)}
    if patient.state["reports"]:
        yield ok(f"tasks run on {', '.join(patient.state['reports'])}")


@check("versions", rank=50)
def versions(patient: Patient) -> Iterator[Finding]:
    """Install the same image everywhere."""
    here = {"versions": {"python": platform.python_version(), **node.versions()}, "facscale": node.ours()}
    reports = patient.known("reports")
    differing = [found for name, told in reports.items() for found in differences(here, told, name=name)]
    yield from differing
    if not differing:
        said = ", ".join(f"{name} {here['versions'][name]}" for name in ("python", "ray", "torch", "deepspeed"))
        yield ok(
            f"facscale {here['facscale']['version']} (code {here['facscale']['code']}), {said} here and on all nodes"
        )


def differences(here: Mapping[str, Any], there: Mapping[str, Any], *, name: str) -> Iterator[Finding]:
    """Between this process and a node."""
    if "error" in there["facscale"]:
        yield problem(f"{name} has no facscale: {there['facscale']['error']}", "install it there: the cluster's image")
    elif here["facscale"] != there["facscale"]:
        mine, theirs = (f"{one['version']} (code {one['code']})" for one in (here["facscale"], there["facscale"]))
        yield problem(
            f"facscale is {theirs} on {name}, {mine} here",
            "bring both to one commit, or take yours along: --working-dir",
        )
    (mine, theirs) = here["versions"]["python"], there["versions"]["python"]
    if mine != theirs:
        apart = mine.rpartition(".")[0] != theirs.rpartition(".")[0]
        kind = problem if apart else warning
        yield kind(f"Python is {theirs} on {name}, {mine} here", "use one Python everywhere; pickles do not travel")
    for package in MUST_AGREE:
        mine, theirs = here["versions"][package], there["versions"][package]
        if mine != theirs:
            theirs = theirs or "missing"
            yield problem(
                f"{package} is {theirs} on {name}, {mine} here",
                f"pip install {package}=={mine} there, or the other here",
            )


@check("compiler", rank=60)
def compiler(patient: Patient) -> Iterator[Finding]:
    """See that g++ and ninja are on all nodes: DeepSpeed compiles an operator on first use."""
    yield from lacking(patient.known("reports"))


def lacking(reports: Mapping[str, Any]) -> Iterator[Finding]:
    """The programs that nodes do not have."""
    missing = {
        name: [program for program, there in told["compiler"].items() if not there] for name, told in reports.items()
    }
    for name, programs in missing.items():
        if programs:
            mend = "put g++ (apt) and ninja (pip) into the image"
            yield problem(
                f"{name} has no {' and no '.join(programs)}, with which DeepSpeed compiles its operator", mend
            )
    if reports and not any(missing.values()):
        yield ok("g++ and ninja are there, with which DeepSpeed compiles its operator")


@check("room on nodes", rank=70)
def limits(patient: Patient) -> Iterator[Finding]:
    """Look at df and ulimit on the nodes."""
    reports = patient.known("reports")
    size = (patient.job.data if patient.job else Data()).cache_gb * 1e9
    remote = any("://" in url and not url.startswith("file://") for url in patient.urls)
    found = [one for name, told in reports.items() for one in narrow(told, name=name, cache=size if remote else 0)]
    yield from found
    if reports and not found:
        least = min(told["shm_bytes"] for told in reports.values()) / 2**30
        cache = min(one["bytes"] for told in reports.values() for one in told["free"].values()) / 1e9
        yield ok(f"{least:.1f} GiB of shared memory, {cache:,.0f} GB of disk for the cache, files and processes enough")


def narrow(told: Mapping[str, Any], *, name: str, cache: float) -> Iterator[Finding]:
    """What is too small on a node; `cache`: bytes that row groups may take there."""
    if told["shm_bytes"] < SHM_BYTES:
        mend = "mount an emptyDir with medium: Memory at /dev/shm, or docker run --shm-size=8g"
        yield warning(f"{name}: /dev/shm has {told['shm_bytes'] / 2**20:.0f} MiB", mend)
    if told["tmp_used"] > FULL:
        mend = "free some: Ray puts no more objects on a disk that is 95 % full"
        yield problem(f"{name}: the disk of /tmp is {told['tmp_used']:.0%} full", mend)
    for folder, there in told["free"].items():
        if not there["writable"]:
            mend = "give data.cache a folder that can be; row groups are fetched anew each epoch"
            yield warning(f"{name}: {folder} cannot be written", mend)
        elif there["bytes"] < cache:
            mend = f"lower data.cache_gb ({cache / 1e9:g}), or give data.cache another disk"
            yield warning(f"{name}: {there['bytes'] / 1e9:,.0f} GB are free for the cache {folder}", mend)
    if 0 <= told["open_files"] < FILES:
        yield warning(f"{name}: a process may open {told['open_files']} files", "ulimit -n 65536 before Ray starts")
    if 0 <= told["processes"] < PROCESSES:
        mend = "raise ulimit -u, or the kubelet's podPidsLimit: each worker has hundreds of threads"
        yield warning(f"{name}: {told['processes']} processes and threads may run", mend)


@check("clocks of nodes", rank=80)
def clocks(patient: Patient) -> Iterator[Finding]:
    """Compare `date` on the nodes; they want NTP."""
    patient.known("reports")
    apart = {}
    for one in patient.nodes:
        began = time.time()
        for name, told in ask_nodes(node.clock, nodes=[one], patience_s=20).items():
            if isinstance(told, float):  # it was read at some time between the two of ours
                apart[name] = max(began - told, told - time.time(), 0.0)
    yield from skewed(apart)


def skewed(apart: Mapping[str, float]) -> Iterator[Finding]:
    """Nodes whose clocks differ from ours by at least that many seconds."""
    for name, seconds in apart.items():
        if seconds > SKEW_S:
            kind = problem if seconds > FAR_S else warning
            yield kind(f"the clocks of {name} and here are {seconds:.0f} s apart or more", "run NTP (chrony) on both")
    if apart and max(apart.values()) <= SKEW_S:
        yield ok(f"all clocks agree within {SKEW_S:g} s")
