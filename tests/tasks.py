"""Training tasks for tests, from parts of a spec."""

from __future__ import annotations

from facscale import methods
from facscale.methods import DataFacts
from facscale.spec import Document, merge
from facscale.train.task import TrainingTask


def build_task(*parts):
    """The task of a spec that is merged from `parts`, the later ones over the earlier."""
    document = Document({}, {})
    for part in parts:
        document = merge(document, Document(part, {}))
    job, _, config = methods.configure(document)
    return TrainingTask(job, config, DataFacts())
