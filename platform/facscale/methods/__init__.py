"""The methods: `name: clp` in a spec is the module `clp` beside this file.

There is no list to edit. Another package adds its own through the entry-point group `facscale.methods`, and a spec can
name no other code.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from importlib.metadata import entry_points
from typing import Any

from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, trains
from facscale.spec import Document, Job, SpecError, nearest, parse

__all__ = ["DataFacts", "Loss", "Losses", "Method", "MethodConfig", "configure", "find", "names", "trains"]

GROUP = "facscale.methods"
CONTRACT = ("base", "export")


def names() -> tuple[str, ...]:
    """All methods that a spec can name here."""
    ours = {module.name for module in pkgutil.iter_modules(__path__)} - set(CONTRACT)
    return tuple(sorted(ours | {point.name for point in entry_points(group=GROUP)}))


def find(name: str) -> type[Method]:
    """The class of the method `name`; ours go before those of other packages. Raises SpecError for an unknown one."""
    if name not in names():
        raise SpecError(f'there is no method "{name}"{nearest(name, names())}')
    if any(module.name == name for module in pkgutil.iter_modules(__path__)):
        module = importlib.import_module(f"{__name__}.{name}")
        found = [item for item in vars(module).values() if _is_method(item) and item.__module__ == module.__name__]
        if len(found) != 1:
            raise TypeError(f"{module.__name__} must define one Method; it defines {len(found)}")
        return found[0]
    (point, *_) = entry_points(group=GROUP, name=name)
    method = point.load()
    if not _is_method(method):
        raise SpecError(
            f'the entry point "{name}" of {point.dist and point.dist.name} is no facscale Method: {method!r}'
        )
    return method


def configure(document: Document) -> tuple[Job, type[Method], Any]:
    """A whole job: the spec, the method's class and its hyper-parameters. Raises SpecError for whatever is wrong."""
    job = parse(document, Job)
    where = document.origin(("method", "name"))
    try:
        method = find(job.method.name)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None
    own = {key: value for key, value in document.data["method"].items() if key != "name"}
    config = parse(Document({**document.data, "method": own}, document.origins), method.Config, ("method",))
    known = [name for name, taken in inspect.signature(method).parameters.items() if taken.kind is taken.KEYWORD_ONLY]
    for name in job.inputs:
        if name not in known:
            raise SpecError(
                f'{document.origin(("inputs", name))}: {job.method.name} takes no input "{name}"{nearest(name, known)}'
            )
    return job, method, config


def _is_method(item: Any) -> bool:
    return isinstance(item, type) and issubclass(item, Method) and item is not Method
