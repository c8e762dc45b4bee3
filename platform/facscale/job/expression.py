"""The sets of facial expressions on which the encoders of a job are tested, beside their AUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console

from facscale.data import DataError
from facscale.evaluate.expression import Confusion, Expressions, confusion, fit_expression_probe, table
from facscale.inference import export
from facscale.inference.embed import OfFace
from facscale.job.judge import embedded
from facscale.names import file_name
from facscale.report import figures
from facscale.spec import Job
from facscale.track.tracker import Run
from facscale.train.worker import urls


def expression_sets(job: Job) -> list[Expressions]:
    """Those of `evaluate.expressions`. Raises DataError for one without expressions, or that is learned from too."""
    found = [Expressions.open(url) for url in job.evaluate.expressions]
    learned_from = {url.rstrip("/") for source in ("unlabelled", "labelled") for url in urls(job, source)}
    for data in found:
        if data.url in learned_from:
            raise DataError(
                f"{data.url} is under data and under evaluate.expressions; nothing may learn from the latter"
            )
    return found


def recognised(exported: bytes, *, job: Job, on: Sequence[Expressions]) -> dict[str, Confusion]:
    """What probes on the frozen encoder of an exported method say of each set's test part, by the set's name.

    A row that is trained in each fold is tested with the encoder of its first fold, as in all measures beyond F1. The
    encoder stays frozen whatever `evaluate.protocol` says of AUs.
    """
    found = {}
    for data in on:
        seen = embedded(OfFace(export.load(exported).encoder), job=job, on=data)
        rows = data.rows(identity=seen.identity, video=seen.video, frame=seen.frame)
        expression, test = data.expression[rows], data.test[rows]
        probe = fit_expression_probe(
            seen.features[~test], expression=expression[~test], classes=len(data.classes), probe=job.evaluate.probe,
            seed=job.evaluate.seed,
        )  # fmt: skip
        found[data.name] = confusion(
            probe, features=seen.features[test], expression=expression[test], classes=data.classes
        )
    return found


def keep(found: Mapping[str, Confusion], *, tracker: Run, title: str) -> dict[str, float]:
    """Matrices to the run of one training; its figures by name, as in expression/rafdb/accuracy."""
    values: dict[str, float] = {}
    for name, one in found.items():
        place = file_name(name)
        about = f"{title}:\nexpressions of {name}"
        figure = figures.heatmap(one.shares, labels=one.classes, title=about, sides=("true", "recognised"), decimals=2)
        tracker.figure(figure, f"confusion_{place}")
        tracker.text(one.csv(), f"confusion_{place}.csv")
        values |= {f"expression/{place}/{metric}": value for metric, value in one.metrics().items()}
    return values


def tell(rows: Mapping[str, Sequence[Mapping[str, Confusion]]], *, console: Console, tracker: Run) -> None:
    """A table for each set, {method: what each of its seeds recognised}."""
    for name in dict.fromkeys(name for seeds in rows.values() for found in seeds for name in found):
        of_rows = {row: [found[name] for found in seeds] for row, seeds in rows.items()}
        told, faces = table(of_rows), int(next(iter(of_rows.values()))[0].counts.sum())
        console.print(told.rich(title=f"Accuracy x 100 of expressions on {name}, {faces:,} test faces"))
        tracker.text(told.csv(), f"expressions_{file_name(name)}.csv")
        tracker.text(told.markdown(), f"expressions_{file_name(name)}.md")
