"""The rows of a job's table: the job itself, and its baselines as patches over it. Also the stages before each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from facscale.methods import Method, configure
from facscale.spec import Document, Job

NOT_ITS_IDENTITY = {"cluster", "track", "name", "evaluate"}  # what may change without it being another training


@dataclass(frozen=True)
class Variant:
    """One training with all that it needs said."""

    name: str  # of the row
    document: Document
    job: Job
    method: type[Method]
    config: Any  # the method's own

    @property
    def learns_from_labels(self) -> bool:
        """Whether it is trained anew in each fold."""
        return self.method.learns_from_labels(self.config)

    def key(self, fingerprints: Sequence[str]) -> str:
        """12 hexadecimal digits over all that decides its weights: the resolved spec and the data."""
        spec = self.job.model_dump(mode="json", exclude=NOT_ITS_IDENTITY)
        facts = json.dumps([spec, self.config.model_dump(mode="json"), list(fingerprints)], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()[:12]


def variant(document: Document, *, name: str) -> Variant:
    """Raises SpecError for whatever is wrong with it."""
    return Variant(name, document, *configure(document))


def rows(document: Document, *, name: str) -> list[Variant]:
    """The job first, then its baselines in written order."""
    main = variant(document, name=name)
    return [
        main,
        *(variant(document.patched(("evaluate", "baselines", row)), name=row) for row in main.job.evaluate.baselines),
    ]


def stages(of: Variant) -> dict[str, Variant]:
    """What is trained before it, by name."""
    return {stage: variant(of.document.patched(("stages", stage)), name=stage) for stage in of.job.stages}
