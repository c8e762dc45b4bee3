"""What several commands take, and the command that lets no option pass in silence."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import click

from facscale.errors import UserError
from facscale.quiet import filtered_stderr


class Rule(NamedTuple):
    """Where an option acts: only beside one of `needs`, and beside none of `excludes`. Names are as users type them."""

    option: str
    why: str
    needs: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()


class Command(click.Command):
    """A command of which each option acts, or is refused: one that is empty, given twice, or against a rule."""

    def __init__(self, *args: Any, rules: Sequence[Rule] = (), **options: Any) -> None:
        super().__init__(*args, **options)
        self.rules = tuple(rules)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Raises UserError, beside what click raises."""
        given, _, order = self.make_parser(ctx).parse_args(list(args))
        manual = self.get_help_option(ctx)
        for parameter in [] if manual in order else self.params:
            values = given.get(str(parameter.name))
            if values == "" or (isinstance(values, tuple | list) and "" in values):
                raise UserError(f"{shown(parameter)} is empty; give it a value, or leave it out")
            if isinstance(parameter, click.Option) and order.count(parameter) > 1:
                raise UserError(f"{shown(parameter)} is given twice; leave one out")
        rest = super().parse_args(ctx, args)
        names = {name for one in self.params if is_given(ctx, one) for name in (shown(one), *one.opts)}
        for rule in self.rules:
            refuse_misplaced(rule, names)
        return rest


def shown(parameter: click.Parameter) -> str:
    """As its user knows it: --kube, QUERY."""
    if isinstance(parameter, click.Option):
        return "/".join([*parameter.opts, *parameter.secondary_opts])
    return (parameter.metavar or parameter.human_readable_name).strip("[].")


def is_given(context: click.Context, parameter: click.Parameter) -> bool:
    """Whether the command line has it, be it with the default's value."""
    is_default = context.get_parameter_source(str(parameter.name)) is click.core.ParameterSource.DEFAULT
    return not is_default and context.params.get(str(parameter.name)) not in ((), None)


def refuse_misplaced(rule: Rule, given: set[str]) -> None:
    """Raise UserError where the options that are given break the rule."""
    if rule.option not in given:
        return
    if rule.needs and not given.intersection(rule.needs):
        needed = " or ".join(rule.needs)
        raise UserError(f"{rule.option} acts only with {needed}: {rule.why}. Add {needed}, or leave {rule.option} out")
    for other in rule.excludes:
        if other in given:
            raise UserError(f"{rule.option} and {other} do not go together: {rule.why}. Leave one of them out")


class OutputFile(click.Path):
    """A file to be written, found to be writable before any work is done for it."""

    def __init__(self, *, suffix: str = "") -> None:
        super().__init__(path_type=Path)
        self.suffix = suffix

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:  # noqa: ARG002 - click's
        """Raises UserError."""
        path = Path(value).expanduser()
        name = f"{shown(param)} {value}" if param else f"{value}"
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


class Amount(click.ParamType[float]):
    """A number above nothing, and below infinity."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Fails as click's own types do."""
        try:
            number = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number", param, ctx)
        if not (0 < number < math.inf):
            self.fail(f"{value} is not above 0 and finite", param, ctx)
        return number


def refuse_repeated(_context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> tuple[str, ...]:
    """Raise UserError for a key that several overrides set: all but one of them would act on nothing."""
    first: dict[str, str] = {}
    for word in words:
        key = word.partition("=")[0]
        if key in first:
            raise UserError(f"command line: {key} is given twice, {first[key]} and {word}; leave one out")
        first[key] = word
    return words


SPEC = click.argument("spec", type=click.Path(path_type=Path))
OVERRIDES = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...", callback=refuse_repeated)
KUBE = click.option("--kube", metavar="CLUSTER", help="A name of your clusters file, or a context of your kubeconfig.")
RAY = click.option(
    "--ray", metavar="CLUSTER", help="A name of your clusters file, or the http:// address of a dashboard."
)
NAMESPACE = click.option(
    "--namespace", default="", metavar="NAME", help="With --kube, instead of the cluster's usual one."
)
OF_KUBERNETES = Rule("--namespace", needs=("--kube",), why="only Kubernetes has namespaces")
ONE_PLACE = (
    Rule("--kube", excludes=("--ray",), why="they name two different clusters"),
    OF_KUBERNETES,
)


def on_ray(command: Callable[..., Any]) -> Callable[..., Any]:
    """Keep the lines of Ray that mean nothing from a command's standard error."""

    @wraps(command)
    def quietly(*args: Any, **options: Any) -> Any:
        with filtered_stderr():
            return command(*args, **options)

    return quietly


class At(NamedTuple):
    """The cluster that a command line names; all None where it names none."""

    kube: str | None
    ray: str | None
    namespace: str


def somewhere(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that name a cluster, as its argument `at`; ONE_PLACE belongs to its rules."""

    @KUBE
    @RAY
    @NAMESPACE
    @wraps(command)
    def taking(*args: Any, kube: str | None, ray: str | None, namespace: str, **others: Any) -> Any:
        return command(*args, at=At(kube, ray, namespace), **others)

    return taking
