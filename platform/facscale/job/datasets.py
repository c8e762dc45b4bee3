"""The data sets of a job, opened once: what is trained on and what is tested."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from facscale.data import DataError, Dataset
from facscale.evaluate.expression import ExpressionDataset
from facscale.evaluate.protocol import LabelledDataset, open_transfer_sets
from facscale.job.recipes import check_margins, check_recipes
from facscale.job.variants import Variant, expand_stages
from facscale.spec import Job
from facscale.spec.models import Evaluate

SOURCES = ("unlabelled", "labelled")


@dataclass(frozen=True)
class JobData:
    """What all variants of a job are trained and tested on."""

    labelled: tuple[LabelledDataset, ...] = ()
    transfer: tuple[LabelledDataset, ...] = ()  # tested, never learned from
    unlabelled: tuple[Dataset, ...] = ()
    expressions: tuple[ExpressionDataset, ...] = ()
    stage_only: tuple[Dataset, ...] = ()  # read by stages alone
    identities: int = 0  # people of the unlabelled data
    evaluate: Evaluate = field(default_factory=Evaluate)
    outlines: Mapping[str, LabelledDataset] = field(default_factory=dict)  # stand-ins for absent sets, by URL: `check`

    @classmethod
    def open(cls, variants: Sequence[Variant]) -> JobData:
        """Open the data sets of a job's variants, the job's own first.

        Raises DataError for one that cannot be used, or whose crops do not fit the others.
        """
        job = variants[0].job
        labelled = [LabelledDataset.open(url, evaluate=job.evaluate) for url in job.data.urls("labelled")]
        unlabelled = tuple(Dataset(url) for url in job.data.urls("unlabelled"))
        stage_only = tuple(Dataset(url) for url in find_stage_urls(variants))
        check_recipes(
            (*unlabelled, *stage_only),
            [Dataset(url) for url in job.data.urls("labelled")],
            [Dataset(url) for url in (*job.evaluate.transfer, *job.evaluate.expressions)],
        )
        check_margins(variants, [*job.data.urls("labelled"), *job.evaluate.transfer, *job.evaluate.expressions])
        return cls(
            labelled=tuple(labelled),
            transfer=tuple(open_transfer_sets(job, sets=labelled)),
            unlabelled=unlabelled,
            expressions=tuple(open_expression_sets(job)),
            stage_only=stage_only,
            identities=count_identities(unlabelled),
            evaluate=job.evaluate,
        )

    @classmethod
    def open_for_training(cls, variant: Variant, *, with_labelled: bool = True) -> JobData:
        """Open what trainings depend on, and nothing that is only tested; labelled sets only `with_labelled`."""
        job = variant.job
        urls = job.data.urls("labelled") if with_labelled else ()
        unlabelled = [Dataset(url) for url in job.data.urls("unlabelled")]
        return cls(
            labelled=tuple(LabelledDataset.open(url, evaluate=job.evaluate) for url in urls),
            identities=count_identities(unlabelled),
            evaluate=job.evaluate,
        )

    @cached_property
    def fingerprints(self) -> list[str]:
        """Of every data set on which trainings depend, and of those that are tested for transfer."""
        fingerprints = [dataset.manifest.fingerprint for dataset in self.unlabelled]
        fingerprints += [dataset.fingerprint for dataset in (*self.labelled, *self.transfer)]
        return fingerprints + [dataset.manifest.fingerprint for dataset in self.stage_only]

    def open_stage_set(self, url: str) -> LabelledDataset:
        """A labelled set from which a stage learns, everybody in it."""
        if url in self.outlines:
            return self.outlines[url].as_test_only()
        return LabelledDataset.open(url, evaluate=self.evaluate, test_only=True)


def count_identities(datasets: Iterable[Dataset]) -> int:
    """People of unlabelled data sets."""
    return sum(dataset.manifest.counts["identities"] for dataset in datasets)


def open_expression_sets(job: Job) -> list[ExpressionDataset]:
    """The sets of `evaluate.expressions`. Raises DataError for one without expressions, or that is learned from too."""
    datasets = [ExpressionDataset.open(url) for url in job.evaluate.expressions]
    learned_from = {url.rstrip("/") for source in SOURCES for url in job.data.urls(source)}
    for dataset in datasets:
        if dataset.url in learned_from:
            raise DataError(
                f"{dataset.url} is under data and under evaluate.expressions; nothing may learn from the latter"
            )
    return datasets


def find_stage_urls(variants: Sequence[Variant]) -> list[str]:
    """The data sets that only stages read."""
    own = {url for variant in variants for source in SOURCES for url in variant.job.data.urls(source)}
    stages = [stage.job.data for variant in variants for stage in expand_stages(variant).values()]
    return sorted({url for data in stages for source in SOURCES for url in data.urls(source)} - own)
