"""Arguments and options that several commands share, and the command class that rejects options without effect."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import click

from facscale.cli.completion import complete_cluster, complete_override, complete_spec
from facscale.errors import UserError
from facscale.log_filter import filter_stderr


class Rule(NamedTuple):
    """When an option has an effect: only with one of `needs`, and with none of `excludes`; named as users type them."""

    option: str
    why: str
    needs: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()


class Command(click.Command):
    """A command that rejects each option that would have no effect: empty, given twice, or against one of its rules."""

    def __init__(self, *args: Any, rules: Sequence[Rule] = (), **options: Any) -> None:
        super().__init__(*args, **options)
        self.rules = tuple(rules)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does. Raises UserError for what the class rejects, except when a shell completes a command."""
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        values, _, order = self.make_parser(ctx).parse_args(list(args))
        is_help_wanted = self.get_help_option(ctx) in order
        for parameter in [] if is_help_wanted else self.params:
            value = values.get(str(parameter.name))
            if value == "" or (isinstance(value, tuple | list) and "" in value):
                raise UserError(f"{format_parameter(parameter)} is empty; give it a value, or leave it out")
            if isinstance(parameter, click.Option) and order.count(parameter) > 1:
                raise UserError(f"{format_parameter(parameter)} is given twice; leave one out")
        rest = super().parse_args(ctx, args)
        given = [parameter for parameter in self.params if is_given(ctx, parameter)]
        names = {name for parameter in given for name in (format_parameter(parameter), *parameter.opts)}
        for rule in self.rules:
            check_rule(rule, names)
        return rest


def format_parameter(parameter: click.Parameter) -> str:
    """The name of a parameter as users know it: --kube, QUERY."""
    if isinstance(parameter, click.Option):
        return "/".join([*parameter.opts, *parameter.secondary_opts])
    return (parameter.metavar or parameter.human_readable_name).strip("[].")


def is_given(context: click.Context, parameter: click.Parameter) -> bool:
    """Whether the parameter is on the command line, even if its value is the default."""
    is_default = context.get_parameter_source(str(parameter.name)) is click.core.ParameterSource.DEFAULT
    return not is_default and context.params.get(str(parameter.name)) not in ((), None)


def check_rule(rule: Rule, given: set[str]) -> None:
    """Raise UserError if the given options break the rule."""
    if rule.option not in given:
        return
    if rule.needs and not given.intersection(rule.needs):
        needed = " or ".join(rule.needs)
        raise UserError(f"{rule.option} works only with {needed}: {rule.why}. Add {needed}, or leave {rule.option} out")
    for excluded in rule.excludes:
        if excluded in given:
            raise UserError(f"{rule.option} and {excluded} cannot be combined: {rule.why}. Leave one of them out")


class OutputFile(click.Path):
    """A file to write; whether it can be written is checked before the command does any work."""

    def __init__(self, *, suffix: str = "") -> None:
        super().__init__(path_type=Path)
        self.suffix = suffix

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:  # noqa: ARG002
        """Raises UserError for a wrong suffix, a missing folder, or a path that may not be written."""
        path = Path(value).expanduser()
        name = f"{format_parameter(param)} {value}" if param else f"{value}"
        folder = path.absolute().parent
        if self.suffix and path.suffix.lower() != self.suffix:
            raise UserError(
                f"{name}: a {self.suffix[1:].upper()} is written; call it {path.with_suffix(self.suffix).name}"
            )
        if not folder.is_dir():
            raise UserError(f"{name}: there is no folder {folder}; make it first")
        if path.is_dir():
            raise UserError(f"{name}: this is a folder; name a file in it")
        if not os.access(path if path.exists() else folder, os.W_OK):
            raise UserError(f"{name}: you may not write there; choose another place")
        return path


class PositiveNumber(click.ParamType[float]):
    """A finite number above 0."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Fails with click's own error for anything else."""
        try:
            number = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number", param, ctx)
        if not (0 < number < math.inf):
            self.fail(f"{value} is not above 0 and finite", param, ctx)
        return number


def reject_repeated_keys(
    _context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]
) -> tuple[str, ...]:
    """Raise UserError for a key that several overrides set: only the last of them would have an effect."""
    first: dict[str, str] = {}
    for word in words:
        key = word.partition("=")[0]
        if key in first:
            raise UserError(f"command line: {key} is given twice, {first[key]} and {word}; leave one out")
        first[key] = word
    return words


SPEC = click.argument("spec", type=click.Path(path_type=Path), shell_complete=complete_spec)
OVERRIDES = click.argument(
    "overrides", nargs=-1, metavar="[KEY=VALUE]...", callback=reject_repeated_keys, shell_complete=complete_override
)
KUBE = click.option(
    "--kube",
    metavar="CLUSTER",
    shell_complete=complete_cluster,
    help="A Kubernetes cluster: a name in your clusters file, or a context of your kubeconfig.",
)
RAY = click.option(
    "--ray",
    metavar="CLUSTER",
    shell_complete=complete_cluster,
    help="A Ray cluster: a name in your clusters file, or the http:// address of its dashboard.",
)
NAMESPACE = click.option(
    "--namespace", default="", metavar="NAME", help="With --kube: this namespace instead of the cluster's usual one."
)
NAMESPACE_RULE = Rule("--namespace", needs=("--kube",), why="only Kubernetes has namespaces")
CLUSTER_RULES = (Rule("--kube", excludes=("--ray",), why="they name two different clusters"), NAMESPACE_RULE)


def filter_ray_output(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator that removes Ray's meaningless log lines from the command's standard error."""

    @wraps(command)
    def run_filtered(*args: Any, **options: Any) -> Any:
        with filter_stderr():
            return command(*args, **options)

    return run_filtered


class ClusterSelector(NamedTuple):
    """The cluster that a command line names; without names, all clusters of the clusters file."""

    kube: str | None
    ray: str | None
    namespace: str


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator that adds the options that name a cluster, as argument `selector`; add CLUSTER_RULES to the rules."""

    @KUBE
    @RAY
    @NAMESPACE
    @wraps(command)
    def run_with_selector(*args: Any, kube: str | None, ray: str | None, namespace: str, **options: Any) -> Any:
        return command(*args, selector=ClusterSelector(kube, ray, namespace), **options)

    return run_with_selector
