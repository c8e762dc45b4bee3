"""`facscale rehearse`."""

from __future__ import annotations

import os

from facscale.cluster.kubernetes.clusters import prices
from facscale.profile import Price, rehearse_job
from facscale.spec import Document, Job, SpecError, parse


def rehearse(document: Document, *, name: str, seconds: float, price: Price, everything: bool) -> int:
    """The exit status. Raises SpecError for a pipeline, which trains nothing."""
    if "source" in document.data:
        raise SpecError(
            f"{document.origin(())}: a pipeline trains nothing; to try one, let it read a little: facscale run "
            "... source.limit=20 output=/tmp/tried"
        )
    trials = 0
    if document.data.get("sweep"):
        from facscale.sweep.check import trials as trials_of

        sweep = parse(document, Job).sweep
        trials = trials_of(sweep) if sweep else 0
    paid = priced(document, price)
    return rehearse_job(document, name=name, seconds=seconds, price=paid, trials=trials, everything=everything)


def priced(document: Document, said: Price) -> Price:
    """Each as said; else what the clusters file says of the cluster that the job, or FACSCALE_CLUSTER, names."""
    gpu, node = prices(str(document.at(("cluster", "name")) or os.environ.get("FACSCALE_CLUSTER", "")))
    return Price(gpu=said.gpu or gpu, node=said.node or node)
