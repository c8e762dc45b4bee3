"""The layouts of data sets: `source: {layout: bp4d}` in a pipeline is the module `bp4d` in this package.

There is no list to edit. Another package adds a layout through the entry-point group `facscale.layouts` (the value is
its Layout class); a pipeline can name no other code. A layout's own options (`Config`) are further keys of `source`.
"""

from __future__ import annotations

from typing import Any

import pydantic

from facscale.ingest.layouts.base import FrameFolders, Layout, LayoutConfig, Read
from facscale.spec import Document, Plugins, SpecError, parse, suggest_nearest
from facscale.spec.pipelines import Source

__all__ = [
    "FrameFolders",
    "Layout",
    "LayoutConfig",
    "Read",
    "check_source",
    "dump_options",
    "find",
    "list_names",
    "open_layout",
    "select_expressions",
]

_layouts: Plugins[Any] = Plugins("layout", Layout, __name__, excluded=frozenset({"base"}), group="facscale.layouts")
list_names, find_class = _layouts.names, _layouts.find


def find(name: str) -> Layout:
    """Return the layout `name` with its default options. Raises SpecError for an unknown one."""
    layout: Layout = find_class(name)()
    return layout


def open_layout(source: Source) -> Layout:
    """Return the layout of a source with its options. Raises SpecError for an unknown layout or option."""
    layout = find_class(source.layout)
    options = source.model_extra or {}
    config = parse(Document({"source": options}, {}), layout.Config, ("source",)) if options else layout.Config()
    opened: Layout = layout(config)
    return opened


def dump_options(source: Source) -> dict[str, Any]:
    """Return the layout's options that differ from their defaults, as plain data."""
    return open_layout(source).config.model_dump(mode="json", exclude_defaults=True)


def check_source(document: Document) -> None:
    """Check the block `source` of a pipeline with its layout's options. Raises SpecError with file, line and key."""
    name = document.get(("source", "layout"))
    try:
        layout = find_class(name)
    except SpecError as error:
        raise SpecError(f"{document.source_location(('source', 'layout'))}: {error}") from None
    both: Any = pydantic.create_model("Source", __base__=(layout.Config, Source))
    both.model_config["extra"] = "forbid"
    both.model_rebuild(force=True)
    parse(document, both, ("source",))


def select_expressions(source: Source) -> tuple[str, ...]:
    """Return the classes of a data set in order: those of the source, or all of its layout; none for videos.

    Raises SpecError for classes that the layout does not have.
    """
    available: tuple[str, ...] = find_class(source.layout).expressions
    if getattr(open_layout(source), "names_expressions", False):
        available = source.expressions
        if not available:
            raise SpecError("source.expressions: name the classes of the field source.expression, in order")
    for name in source.expressions:
        if name not in available:
            hint = suggest_nearest(name, available) if available else f": the layout {source.layout} has no expressions"
            raise SpecError(f'source.expressions: there is no "{name}"{hint}')
    if source.expressions and len(set(source.expressions)) < max(2, len(source.expressions)):
        raise SpecError("source.expressions: name two or more, each once")
    return source.expressions or available
