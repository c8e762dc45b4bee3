"""The methods: `name: clp` in a spec is the module `clp` beside this file.

There is no list to edit. Another package adds its own through the entry-point group `facscale.methods`, and a spec can
name no other code.
"""

from __future__ import annotations

import inspect
from typing import Any

from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, trains
from facscale.spec import Document, Job, Plugins, SpecError, nearest, parse

__all__ = ["DataFacts", "Loss", "Losses", "Method", "MethodConfig", "configure", "find", "names", "trains"]

_methods: Plugins[Method] = Plugins("method", Method, __name__, contract=frozenset({"base"}), group="facscale.methods")
names, find = _methods.names, _methods.find


def configure(document: Document) -> tuple[Job, type[Method], Any]:
    """A whole job: the spec, the method's class and its hyper-parameters. Raises SpecError for whatever is wrong."""
    job = parse(document, Job)
    method, config = _methods.configure(document)
    known = [name for name, taken in inspect.signature(method).parameters.items() if taken.kind is taken.KEYWORD_ONLY]
    for name in job.inputs:
        if name not in known:
            where = document.origin(("inputs", name))
            raise SpecError(f'{where}: {job.method.name} takes no input "{name}"{nearest(name, known)}')
    return job, method, config
