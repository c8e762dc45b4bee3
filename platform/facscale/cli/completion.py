"""Shell completion: the scripts that `facscale completion` prints, and what the arguments of commands complete to.

Each press of Tab starts Python, so nothing here imports torch, Ray or MLflow.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem, get_completion_class

if TYPE_CHECKING:
    from pydantic import BaseModel

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_FACSCALE_COMPLETE"  # click's name for a program called `facscale`
METHODS = Path(__file__).parents[1] / "methods"
RETURN = "    return 0\n"  # the end of the function in click's script for bash
NO_SPACE = '    [[ "${COMPREPLY[0]}" == *= ]] && compopt -o nospace\n'  # KEY= is followed by its value


def build_script(command: click.Command, shell: str) -> str:
    """The script that makes `shell` (one of SHELLS) complete `command`, for its start-up file."""
    script = get_completion_class(shell)(command, {}, "facscale", VARIABLE).source()  # type: ignore[misc]
    return script.replace(RETURN, NO_SPACE + RETURN, 1) if shell == "bash" else script


def complete_file(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Any file, as the shell completes it; for arguments that may be a URL as well."""
    return [CompletionItem(incomplete, type="file")]


def complete_spec(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """YAML files beside the typed path and in the folders that match it; any file where there are none."""
    typed = glob.escape(incomplete)  # as a string: a Path would drop `./`
    paths = [path for pattern in ("*", "*/*") for path in sorted(glob.glob(typed + pattern))]  # noqa: PTH207
    names = [path for path in paths if path.endswith(".yaml")]
    return [CompletionItem(name) for name in names] or complete_file(context, parameter, incomplete)


def complete_override(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[Any]]:
    """Keys of a job, or of a pipeline if the spec on the command line is one, as `train.epochs=`.

    The hyper-parameters of methods are left out: to know them would take seconds, for the import of torch.
    """
    from facscale.spec import Job, Pipeline

    model = Pipeline if is_pipeline(context.params.get("spec")) else Job
    words = [f"{key}=" for key in iterate_keys(model)]
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]


def is_pipeline(spec: Path | None) -> bool:
    """Whether the file is a data pipeline: only pipelines have a `source` block."""
    try:
        return spec is not None and bool(re.search(r"^source:", spec.read_text(encoding="utf-8"), re.MULTILINE))
    except (OSError, UnicodeDecodeError):
        return False


def iterate_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All keys of a spec that hold a value, with dots: `seed`, `train.optimizer.lr`."""
    from facscale.spec.block import nested_model

    for field in model.model_fields:
        block = nested_model(model, field)
        if block is None:
            yield f"{prefix}{field}"
        else:
            yield from iterate_keys(block, f"{prefix}{field}.")


def complete_method(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Names of methods: facscale's own modules and the entry points of other packages."""
    import pkgutil
    from importlib.metadata import entry_points

    modules = {module.name for module in pkgutil.iter_modules([str(METHODS)])} - {"base"}
    names = modules.union(point.name for point in entry_points(group="facscale.methods"))
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


def complete_cluster(_context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Names in the user's clusters file: Kubernetes clusters for `--kube`, Ray clusters for `--ray`."""
    from facscale.cluster.kubernetes import KubeTarget, RayTarget, load_targets
    from facscale.errors import UserError

    kind = KubeTarget if parameter.name == "kube" else RayTarget
    try:
        clusters = load_targets()
    except UserError:  # a damaged file: the command itself reports it
        return []
    return [
        CompletionItem(name)
        for name, target in clusters.items()
        if isinstance(target, kind) and name.startswith(incomplete)
    ]
