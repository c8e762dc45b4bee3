"""The methods: `name: clp` in a spec is the module `clp` beside this file.

No list is edited to add one. Another package adds methods through the entry-point group `facscale.methods`; a spec
cannot name any other code.
"""

from __future__ import annotations

import inspect
from typing import Any

from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, trains
from facscale.spec import Document, Job, Plugins, SpecError, parse, suggest_nearest

__all__ = [
    "DataFacts",
    "Loss",
    "Losses",
    "Method",
    "MethodConfig",
    "configure",
    "find_method",
    "find_owner",
    "list_hidden_methods",
    "list_methods",
    "trains",
]

_methods: Plugins[Method] = Plugins("method", Method, __name__, excluded=frozenset({"base"}), group="facscale.methods")
list_methods, find_method, list_hidden_methods = _methods.names, _methods.find, _methods.list_hidden
find_owner = _methods.find_owner


def configure(document: Document) -> tuple[Job, type[Method], Any]:
    """Parse a job: the spec, the method's class and its hyper-parameters. Raises SpecError for any mistake in it."""
    job = parse(document, Job)
    method, config = _methods.configure(document)
    parameters = inspect.signature(method).parameters.values()
    inputs = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    for name in job.inputs:
        if name not in inputs:
            where = document.source_location(("inputs", name))
            raise SpecError(f'{where}: {job.method.name} takes no input "{name}"{suggest_nearest(name, inputs)}')
    return job, method, config
