"""Private API of DeepSpeed: the optimizer state behind ZeRO stages 1 and 2, and the operator that it compiles.

DeepSpeed's universal checkpoint is the public way to resume on another number of workers, but it converts whole folders
of files offline. Here the state goes through memory, as one tensor for each parameter. Tried with DeepSpeed 0.19.2.

DeepSpeed compiles an operator on first use, for workers on CPUs. `python -m facscale.compat.deepspeed` does it ahead.
Tried with DeepSpeed 0.19.8 and torch 2.13 and 2.14.

DeepSpeed's autotuner, which nobody here uses, imports MLflow where it is installed; `import_deepspeed` does without.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stdout, suppress
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

import psutil

from facscale.compat import load_private, replace_module, set_variables
from facscale.files import LockedError, hold_lock

BUILDER = "ShareMemCommBuilder"
ABANDONED_S = 60.0  # age of a lock file of torch before 2.14 in whose folder nobody works
POLL_S = 0.2
LOADING_S = 2.0  # longer than it takes to load the compiled operator, of which nothing is said
REPORT_S = 30.0  # between lines while another process compiles
log = logging.getLogger(__name__)
LINK = "_lazy_init_hp_params_optimizer_state"


def import_deepspeed() -> Any:
    """Import DeepSpeed without MLflow, which takes two thirds of the time (2 s of processor time in every worker).

    MLflow remains what it is where this process has loaded it before, and can be imported afterwards; another thread that
    imports it for the first time in the same second would not find it.
    """
    with replace_module("mlflow", None):
        import deepspeed
    return deepspeed


def is_sharded(optimizer: Any) -> bool:
    """Whether `optimizer` is DeepSpeed's own around a torch optimizer (ZeRO stage 1 or 2), not that optimizer itself."""
    return hasattr(optimizer, LINK)


def relink_states(optimizer: Any) -> None:
    """Link the states of the flat parameter groups of a sharded optimizer to their parameters, for all groups anew.

    DeepSpeed links once, all groups as soon as the first of them has a state; groups that got theirs later stay without.
    Raises AttributeError where this version of DeepSpeed has no such function.
    """
    optimizer._hp_optimizer_states_linked = False  # noqa: SLF001
    optimizer._lazy_init_hp_params_optimizer_state()  # noqa: SLF001


def link_states(optimizer: Any) -> None:
    """Link the states of a sharded optimizer that has just been given some. Raises as `relink_states`."""
    optimizer._lazy_init_hp_params_optimizer_state()  # noqa: SLF001


@lru_cache(maxsize=1)
def compile_operator() -> None:
    """Compile the operator through which DeepSpeed's workers on CPUs exchange tensors, unless that is done already.

    Processes of a machine take turns. A lock ends with its process, so that one that is killed while it compiles blocks
    nobody. Prints a line before it compiles or waits. Raises RuntimeError without a compiler.
    """
    deepspeed = import_deepspeed()
    from deepspeed.accelerator import get_accelerator
    from deepspeed.git_version_info import installed_ops

    builder = get_accelerator().create_op_builder(BUILDER)
    if builder is None or not deepspeed.ops.__compatible_ops__.get(builder.NAME, False):
        return  # there are accelerators
    if installed_ops.get(builder.name, False):
        return  # it was compiled with DeepSpeed, as in our images
    find_folder = load_private(
        "torch.utils.cpp_extension", "_get_build_directory", distribution="torch", tried="2.13 and 2.14"
    )
    folder = Path(find_folder(builder.name, verbose=False))
    with take_turns(folder / "facscale.lock"):
        remove_dead_lock(folder / "lock")
        if not (folder / f"{builder.name}.so").exists():
            log.warning("compiling DeepSpeed's operator with g++, once for this environment: about a minute")
        with redirect_stdout(StringIO()), put_own_ninja_first():  # it prints the compiler's command
            builder.load(verbose=False)


def put_own_ninja_first() -> AbstractContextManager[None]:
    """Within the block the first ninja on the path is this environment's.

    Torch runs the first one each time. Versions of ninja note differently what they have done, so that one does not see
    what another has compiled, and compiles it again.
    """
    import ninja

    return set_variables({"PATH": os.pathsep.join([ninja.BIN_DIR, *filter(None, [os.environ.get("PATH")])])})


@contextmanager
def take_turns(path: Path) -> Iterator[None]:
    """Hold a lock file for the block, and wait for it, with a line of who holds it."""
    began, reported = time.monotonic(), LOADING_S - REPORT_S
    with ExitStack() as stack:
        while True:
            try:
                owner = f"process {os.getpid()} on {socket.gethostname()}"
                stack.enter_context(hold_lock(path, owner=owner))
                break
            except LockedError as error:
                waited = time.monotonic() - began
                if waited - reported >= REPORT_S:
                    log.warning("%s compiles DeepSpeed's operator: waiting for it (%.0f s)", error, waited)
                    reported = waited
                time.sleep(POLL_S)
        yield


def remove_dead_lock(path: Path) -> None:
    """Delete the lock file of a process that was killed while it compiled, which torch before 2.14 waits for for ever.

    Later versions lock the file itself, whose presence means nothing.
    """
    from torch.utils import cpp_extension

    if hasattr(cpp_extension, "FileLock"):
        return
    with suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > ABANDONED_S and not is_worked_in(path.parent):
            log.warning("%s was left by a process that is gone, and is removed", path)
            path.unlink()


def is_worked_in(folder: Path) -> bool:
    """Whether a process of this machine has `folder` as its working directory, as a compiler has that torch starts."""
    return any(process.info["cwd"] and Path(process.info["cwd"]) == folder for process in psutil.process_iter(["cwd"]))


if __name__ == "__main__":
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    compile_operator()
