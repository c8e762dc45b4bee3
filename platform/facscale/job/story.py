"""The story of a job: train every row, judge it, compare, and tell MLflow all the way."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.console import Console, RenderableType

from facscale.cluster import at_once
from facscale.data import Dataset
from facscale.evaluate import Row
from facscale.evaluate.expression import Confusion, Expressions
from facscale.evaluate.predictions import Predictions
from facscale.inference import export
from facscale.job import artifacts, expression
from facscale.job import model_plots as looks
from facscale.job.card import Made, card, card_page
from facscale.job.judge import Judge, fold_title
from facscale.job.labelled import Group, Labelled, groups
from facscale.job.lanes import Lanes
from facscale.job.measure import measure
from facscale.job.provenance import commit, user
from facscale.job.record import Recorder
from facscale.job.variants import Variant, cluster_name, repeated, run_key, stages, training_key
from facscale.names import file_name, folder_name
from facscale.report.table import Table
from facscale.spec import Job
from facscale.track import Tracker
from facscale.track.journal import SPOOLS
from facscale.track.login import refuse_stranger
from facscale.track.tracker import Run
from facscale.train.mailbox import Reader
from facscale.train.ray.launch import RayTrainer
from facscale.train.task import Task
from facscale.train.trainer import Trained, exported_at, spent, storage
from facscale.train.worker import urls

WIDTH = 150  # of tables in a log
SOURCES = ("unlabelled", "labelled")


class Judged(NamedTuple):
    """What there is to say of one training: predictions by table, F1 likewise, all figures by name, expressions by set."""

    predictions: dict[str, Predictions]
    rows: dict[str, Row]
    values: dict[str, float]
    expressions: dict[str, Confusion]


class Story:
    """One job on its way: what is known, and whom to tell."""

    def __init__(
        self, main: Variant, baselines: Sequence[Variant], *, sets: Sequence[Labelled],
        transfer: Sequence[Labelled] = (), unlabelled: Sequence[Dataset] = (), expressions: Sequence[Expressions] = (),
    ) -> None:  # fmt: skip
        """`main` is the job's own row; every row is judged on `sets`, `transfer` and `expressions`."""
        self.main, self.baselines = main, list(baselines)
        self.sets, self.transfer, self.unlabelled = list(sets), list(transfer), list(unlabelled)
        self.expressions = list(expressions)
        self.console = Console(width=WIDTH if not os.isatty(1) else None, highlight=False)
        self.fingerprints = [data.manifest.fingerprint for data in self.unlabelled]
        self.fingerprints += [data.fingerprint for data in (*self.sets, *self.transfer)]
        self.fingerprints += [Dataset(url).manifest.fingerprint for url in read_by_stages([main, *self.baselines])]
        self.first = repeated(main)[0].title
        self.promoted = {self.first}  # trainings whose encoders are registered
        self.lanes = Lanes(at_once(main.job))
        cluster = cluster_name(main.job)
        only_tested = [data.fingerprint for data in self.expressions]  # no training depends on them
        everything = [*self.fingerprints, *only_tested]
        self.key = run_key([main, *self.baselines], fingerprints=everything, cluster=cluster)
        self.spool = SPOOLS / f"{file_name(main.name)}-{self.key}"
        track = main.job.track
        refuse_stranger(track.uri)
        self.tracker = Tracker(
            track.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{default_store(main.job)}",
            track.experiment or (self.sets[0].name if self.sets else "facscale"),
            key=self.key,
            name=f"{main.name} ({cluster})" if cluster else main.name,
            spool=self.spool,
            tags=self.tags(main) | track.tags,
        )

    def say(self, text: RenderableType) -> None:
        """A line, or a table, for whoever watches."""
        self.console.print(text)

    def tags(self, of: Variant) -> dict[str, str]:
        """What every run can be searched by."""
        return {
            "method": of.job.method.name,
            "row": of.name,
            "job": self.main.name,
            "cluster": cluster_name(of.job) or socket.gethostname(),
            "data": " ".join(fingerprint[:12] for fingerprint in self.fingerprints),
            "git.commit": commit(),
            "mlflow.source.name": f"facscale run {self.main.name}",  # a column of MLflow's list of runs
            "mlflow.source.type": "JOB",
            "mlflow.user": user(),
        }

    def tell(self) -> None:
        """Train and judge every row; print, log and draw the tables."""
        everything = [one for row in (self.main, *self.baselines) for one in repeated(row)]
        found = self.lanes.map(self.judged, everything)
        by_row: dict[str, list[Judged]] = {}
        for one, judged in zip(everything, found, strict=True):
            by_row.setdefault(one.name, []).append(judged)
        tables: dict[str, Table] = {}
        for title in dict.fromkeys(title for judged in found for title in judged.rows):
            told = [[one for one in seeds if title in one.rows] for seeds in by_row.values()]
            rows = [Row.repeated([one.rows[title] for one in seeds]) for seeds in told if seeds]
            predictions = [[one.predictions[title] for one in seeds] for seeds in told if seeds]
            tables[title] = Table(tuple(rows))
            artifacts.tell_table(tables[title], title=title, console=self.console, tracker=self.tracker)
            by_name = {row.name: row for row in rows}
            artifacts.tell_efficiency(by_name, [self.main, *self.baselines], title=title, tracker=self.tracker)
            threshold = self.main.job.evaluate.threshold
            artifacts.tell_comparison(
                predictions, title=title, threshold=threshold, console=self.console, tracker=self.tracker
            )
        if self.main.job.evaluate.across:
            parts = groups(self.main.job, self.sets, transfer=self.transfer)
            artifacts.tell_across(tables, parts, console=self.console, tracker=self.tracker)
        recognised = {name: [one.expressions for one in seeds] for name, seeds in by_row.items()}
        expression.tell(recognised, console=self.console, tracker=self.tracker)
        worth = {name: [one.values for one in seeds] for name, seeds in by_row.items()}
        artifacts.tell_summary(worth, console=self.console, tracker=self.tracker)
        self.tracker.describe(artifacts.note(tables, main=self.main))

    @contextmanager
    def run(self, row: Variant, title: str) -> Iterator[Run]:
        """The job's own run for its first training, else one level below it: further rows, seeds, folds and stages."""
        if title == self.first:
            yield self.tracker
            return
        below = self.tracker.child(f"{self.key}/{title}", title, self.tags(row))
        try:
            yield below
        except BaseException:
            below.close("FAILED")
            raise
        below.close()

    def describe(self, row: Variant, tracker: Run) -> None:
        """Parameters and data sets of a run."""
        tracker.params({**row.job.model_dump(mode="json", exclude={"method"}), "method": row.job.method.name})
        tracker.params({"method": row.config.model_dump(mode="json")})
        for dataset in self.unlabelled:
            tracker.dataset(
                dataset.manifest.name, url=dataset.url, fingerprint=dataset.manifest.fingerprint, context="pre-training"
            )
        for context, sets in (("cross-validation", self.sets), ("transfer", self.transfer)):
            for data in sets:
                tracker.dataset(data.name, url=data.url, fingerprint=data.fingerprint, context=context)
        for faces in self.expressions:
            tracker.dataset(faces.name, url=faces.url, fingerprint=faces.fingerprint, context="expressions")

    def judged(self, row: Variant) -> Judged:
        """One variant with one seed, trained, judged and told."""
        with self.run(row, row.title) as tracker:
            self.describe(row, tracker)
            made = dict[str, Made]()
            trained, predictions = self.trained_and_tested(row, tracker, made)
            measures = measure(trained.exported, job=row.job, on=self.sets, fingerprints=self.fingerprints)
            recognised = expression.recognised(trained.exported, job=row.job, on=self.expressions)
            values = {**measures.values, **trained.spent}
            values |= expression.keep(recognised, tracker=tracker, title=row.title)
            rows = {title: told.row(row.job.evaluate.threshold) for title, told in predictions.items()}
            for title, line in rows.items():
                values |= {prefixed(title, rows) + metric: value for metric, value in line.metrics().items()}
            tracker.metrics(values)
            if self.sets:
                looks.draw_map(trained.exported, row=row, on=self.sets[0], tracker=tracker)
            artifacts.draw_lengths(measures.lengths, tracker=tracker, title=row.title)
            for title, told in predictions.items():
                artifacts.keep_predictions(told, title=title, threshold=row.job.evaluate.threshold, tracker=tracker)
            self.keep_card(row, rows, made=made, tracker=tracker)
            method = export.load(trained.exported)
            artifacts.draw_matrices(method, tracker=tracker, title=row.title)
            if row.title in self.promoted and not row.learns_from_labels:
                artifacts.log_export(method, trained.exported, row=row, tracker=tracker, on=self.sets)
                scores = {title: line.mean for title, line in rows.items()}
                artifacts.register_encoder(scores, row=row, tracker=tracker, tags=self.tags(row))
        return Judged(predictions, rows, values, recognised)

    def keep_card(self, row: Variant, rows: Mapping[str, Row], *, made: Mapping[str, Made], tracker: Run) -> None:
        """What others need to come to the same digits."""
        tags = self.tags(row)
        parts = groups(row.job, self.sets, transfer=self.transfer)
        found = card(
            row, job=self.main.name, parts=parts, unlabelled=self.unlabelled, rows=rows, made=made,
            commit=tags["git.commit"], cluster=tags["cluster"],
        )  # fmt: skip
        tracker.text(found.to_json(), "card.json")
        tracker.text(card_page(found), "card.html")

    def trained_and_tested(
        self, row: Variant, tracker: Run, made: dict[str, Made]
    ) -> tuple[Trained, dict[str, Predictions]]:
        """The method (the first fold's, where there are some) and what it cost; what it says of test people, by table."""
        predictions = dict[str, Predictions]()
        judge = self.judge(row, tracker=tracker, made=made)
        parts = groups(row.job, self.sets, transfer=self.transfer)
        if not row.learns_from_labels:
            exported = judge.pretrained
            for part in parts:
                predictions |= judge.probed(exported, on=part)
                looks.draw_attention(partial(judge.first, exported, on=part), row=row, on=part, tracker=tracker)
            return Trained(exported, made[row.title].spent), predictions
        first = None
        for part in parts:
            folds = judge.folds(part)
            told = judge.tested(folds, on=part)
            self.tell_folds(row, part, told, exported=folds)
            predictions |= told
            looks.draw_attention(partial(judge.first, folds[0], on=part), row=row, on=part, tracker=tracker)
            first = first or Trained(folds[0], made[fold_title(row, part, 0)].spent)
        if first is None:
            raise ValueError(f"{row.name} learns from labels, and there are none")  # the data's check refuses it before
        return first, predictions

    def judge(self, row: Variant, *, tracker: Run, made: dict[str, Made]) -> Judge:
        """Whose trainings are watched, the row's own by `tracker`, all others by runs of their own; and noted in `made`."""

        def train(task: Task, title: str) -> bytes:
            place = place_of(title, task, fingerprints=self.fingerprints)
            with nullcontext(tracker) if title == row.title else self.run(row, title) as own:
                exported, spent = self.trained(task, title=title, place=place, tracker=own)
            made[title] = Made(exported_at(task.job, name=place), hashlib.sha256(exported).hexdigest(), spent)
            return exported

        identities = sum(dataset.manifest.counts["identities"] for dataset in self.unlabelled)
        return Judge(row, train, self.lanes, identities)

    def prepare(self, row: Variant) -> None:
        """Train the stages that are the same in all folds, and in all trials of a sweep."""
        _ = self.judge(repeated(row)[0], tracker=self.tracker, made={}).once

    def tell_folds(self, row: Variant, part: Group, told: dict[str, Predictions], *, exported: Sequence[bytes]) -> None:
        """F1 of each fold, and what was trained, to the run in which it was."""
        lines = {title: of.row(row.job.evaluate.threshold) for title, of in told.items()}
        for fold in part.folds:
            with self.run(row, fold_title(row, part, fold)) as own:
                artifacts.keep_export(exported[fold], tracker=own)
                for title, line in lines.items():
                    one = Row(row.name, line.aus, line.by_fold[fold][None], line.by_fold[fold], (line.folds[fold],))
                    own.metrics({prefixed(title, lines) + name: value for name, value in one.metrics().items()})

    def trained(self, task: Task, *, title: str, place: str, tracker: Run) -> Trained:
        """One training, watched, when its turn has come. Its curves go to `tracker`."""
        with self.lanes.alone(place), self.lanes.turn:
            recorder = Recorder(tracker, title=title)
            reader = Reader(recorder.receive)
            try:
                exported = RayTrainer().fit(replace(task, mailbox=reader.mailbox, title=title), name=place)
                return Trained(exported, spent(task.job, name=place))
            finally:
                reader.close()
                recorder.finish()


def read_by_stages(variants: Sequence[Variant]) -> list[str]:
    """The data sets that only stages read."""
    own = {url for row in variants for source in SOURCES for url in urls(row.job, source)}
    below = [stage.job for row in variants for stage in stages(row).values()]
    return sorted({url for job in below for source in SOURCES for url in urls(job, source)} - own)


def place_of(title: str, task: Task, *, fingerprints: Sequence[str]) -> str:
    """Where a training lies under the job's storage."""
    return f"{folder_name(title)}-{training_key(task, fingerprints=fingerprints)}"


def prefixed(title: str, titles: dict[str, Row]) -> str:
    """Before the names of a table's metrics: nothing for the first table, else its title."""
    return "" if title == next(iter(titles)) else f"{folder_name(title)}/"


def default_store(job: Job) -> Path:
    """Where runs are tracked when nobody names a server: a SQLite file beside the runs, or at home for remote storage."""
    home = Path("~/facscale").expanduser() if "://" in storage(job) else Path(storage(job))
    home.mkdir(parents=True, exist_ok=True)
    return home / "mlflow.db"
