"""The story of a job: open the data, join the cluster, train, evaluate, compare, and tell MLflow all the way."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import fsspec
import numpy as np
from rich.console import Console
from safetensors.torch import save_file

from facscale.cluster import at_once, join, refuse_impossible
from facscale.data import Dataset
from facscale.evaluate import Row, Table, figures
from facscale.evaluate.summary import Summary
from facscale.job.judge import Judge, fold_title
from facscale.job.labelled import Labelled
from facscale.job.lanes import Lanes
from facscale.job.measure import measure
from facscale.job.record import Recorder
from facscale.job.variants import Variant, repeated, rows, run_key, stages, training_key
from facscale.methods import DataFacts, Method, export
from facscale.spec import Document, Job, SpecError
from facscale.spec.models import Input
from facscale.track import Tracker
from facscale.track.encoder import log_encoder
from facscale.track.tracker import Run
from facscale.train.launch import Trained, fit, spent, storage
from facscale.train.mailbox import Reader
from facscale.train.probe import labelled_frames
from facscale.train.worker import Task, urls

SPOOL = Path("~/.cache/facscale/journal").expanduser()
WIDTH = 150  # of tables in a log
INTERRUPTED = 130  # exit status, as shells have it


def run_job(document: Document, *, name: str) -> int:
    """Run a job to its end and return the exit status; raises SpecError or DataError before anything costly starts."""
    main, *baselines = rows(document, name=str(document.data.get("name") or name))
    sets = [Labelled.open(url, evaluate=main.job.evaluate) for url in urls(main.job, "labelled")]
    unlabelled = [Dataset(url) for url in urls(main.job, "unlabelled")]
    join()
    refuse_impossible(main.job)
    story = Story(main, baselines, sets, unlabelled)
    try:
        story.tell()
    except BaseException as error:
        story.tracker.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", wait=10)
        if isinstance(error, KeyboardInterrupt) and story.lanes.count > 1:
            os._exit(INTERRUPTED)  # its threads would go on waiting for Ray, which ends what a driver leaves behind
        raise
    delivered = story.tracker.close()
    story.say(
        f"MLflow: {story.tracker.url}"
        if delivered
        else f"MLflow could not be reached; later: facscale sync {story.spool}"
    )
    return 0


class Judged(NamedTuple):
    """What there is to say of one training: F1 by labelled data set, and all figures by name."""

    rows: dict[str, Row]
    values: dict[str, float]


@dataclass
class Story:
    """One job on its way: what is known, and whom to tell."""

    main: Variant
    baselines: list[Variant]
    sets: list[Labelled]
    unlabelled: list[Dataset]
    console: Console = field(
        default_factory=lambda: Console(width=WIDTH if not os.isatty(1) else None, highlight=False)
    )

    def __post_init__(self) -> None:
        job = self.main.job
        self.fingerprints = [data.manifest.fingerprint for data in self.unlabelled] + [
            data.fingerprint for data in self.sets
        ]
        self.first = repeated(self.main)[0].title
        self.lanes = Lanes(at_once(job))
        self.key = run_key([self.main, *self.baselines], fingerprints=self.fingerprints)
        self.spool = SPOOL / f"{self.main.name}-{self.key}"
        self.tracker = Tracker(
            job.track.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{default_store(job)}",
            job.track.experiment or (self.sets[0].name if self.sets else "facscale"),
            key=self.key,
            name=self.main.name,
            spool=self.spool,
            tags=self.tags(self.main) | job.track.tags,
        )

    def say(self, text: str) -> None:
        """A line for whoever watches."""
        self.console.print(text)

    def tags(self, of: Variant) -> dict[str, str]:
        """What every run can be searched by."""
        cluster = of.job.cluster.name or socket.gethostname()
        return {
            "method": of.job.method.name,
            "row": of.name,
            "cluster": cluster,
            "data": " ".join(fingerprint[:12] for fingerprint in self.fingerprints),
            "git.commit": commit(),
        }

    def tell(self) -> None:
        """Train and judge every row; print, log and draw the tables."""
        tables = {data.name: Table(()) for data in self.sets}
        worth: dict[str, list[dict[str, float]]] = {}
        everything = [one for row in (self.main, *self.baselines) for one in repeated(row)]
        found = self.lanes.map(self.judged, everything)
        for row in (self.main, *self.baselines):
            judged = [told for one, told in zip(everything, found, strict=True) if one.name == row.name]
            worth[row.name] = [one.values for one in judged]
            for data in self.sets:
                tables[data.name] += Table((Row.repeated([one.rows[data.name] for one in judged]),))
        for name, table in tables.items():
            self.console.print(table.rich(title=f"F1 x 100 on {name}"))
            self.tracker.figure(figures.f1_bars(table, title=f"F1 on {name}"), f"f1_{name}")
            self.tracker.text(table.csv(), f"f1_{name}.csv")
            self.tracker.text(table.json(), f"f1_{name}.json")
        summary = Summary(worth)
        self.console.print(summary.rich(title="What the encoders hold, and what their training cost"))
        self.tracker.text(summary.csv(), "summary.csv")
        self.tracker.text(summary.markdown(), "summary.md")

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
        for data in self.sets:
            tracker.dataset(data.name, url=data.url, fingerprint=data.fingerprint, context="cross-validation")

    def judged(self, row: Variant) -> Judged:
        """One variant with one seed, trained, judged and told."""
        with self.run(row, row.title) as tracker:
            self.describe(row, tracker)
            trained, rows = self.trained_and_tested(row, tracker)
            measures = measure(trained.exported, job=row.job, on=self.sets, fingerprints=self.fingerprints)
            values = {**measures.values, **trained.spent}
            for data in self.sets:
                prefix = "" if data is self.sets[0] else f"{data.name}/"
                values |= {prefix + metric: value for metric, value in rows[data.name].metrics().items()}
            tracker.metrics(values)
            if measures.lengths:
                title = f"{row.title}: mean length of movements, where an image is 2 long"
                tracker.figure(figures.histogram(measures.lengths, title=title, x="length"), "movement_lengths")
            self.draw_matrices(export.load(trained.exported), tracker, title=row.title)
            if tracker is self.tracker and not row.learns_from_labels:
                self.log_export(row, trained.exported)
        return Judged(rows, values)

    def trained_and_tested(self, row: Variant, tracker: Run) -> tuple[Trained, dict[str, Row]]:
        """The method (the first fold's, where there are some) and what it cost; its F1 by labelled data set."""
        spent: dict[str, dict[str, float]] = {}

        def train(task: Task, title: str) -> bytes:
            with nullcontext(tracker) if title == row.title else self.run(row, title) as own:
                exported, spent[title] = self.trained(task, title=title, tracker=own)
            return exported

        judge = Judge(train, self.lanes)
        inputs = self.inputs(row, judge)
        if not row.learns_from_labels:
            facts = DataFacts(identities=sum(dataset.manifest.counts["identities"] for dataset in self.unlabelled))
            exported = judge.pretrained(row, facts=facts, inputs=inputs)
            rows = {data.name: judge.probed(row, exported, on=data) for data in self.sets}
            return Trained(exported, spent[row.title]), rows
        folds = {data.name: judge.folds(row, on=data, inputs=inputs) for data in self.sets}
        rows = {data.name: judge.tested(row, folds[data.name], on=data) for data in self.sets}
        for data in self.sets:
            for fold, line in zip(data.split, rows[data.name].by_fold, strict=True):
                with self.run(row, fold_title(row, data, fold)) as own:
                    own.metrics(Row(row.name, data.aus, line[None], line, (fold.name,)).metrics())
        first = fold_title(row, self.sets[0], self.sets[0].split[0])
        return Trained(folds[self.sets[0].name][0], spent[first]), rows

    def inputs(self, row: Variant, judge: Judge) -> dict[str, bytes]:
        """What the row's method is built on: its stages, trained now, and exported files, whose checksums must hold."""
        trained: dict[str, bytes] = {}
        for name, stage in stages(row).items():
            built_on = {
                key: trained[source.stage] for key, source in stage.job.inputs.items() if source.stage in trained
            }
            facts = self.sets[0].facts() if stage.learns_from_labels and self.sets else DataFacts()
            trained[name] = judge.pretrained(stage, facts=facts, inputs=built_on)
        return {key: trained[source.stage] if source.stage else fetch(source) for key, source in row.job.inputs.items()}

    def trained(self, task: Task, *, title: str, tracker: Run) -> Trained:
        """One training, watched, when its turn has come. Its curves go to `tracker`."""
        recorder = Recorder(tracker, title=title)
        reader = Reader(recorder.receive)
        try:
            place = f"{folder_name(title)}-{training_key(task, fingerprints=self.fingerprints)}"
            with self.lanes.turn:
                exported = fit(replace(task, mailbox=reader.mailbox), name=place)
            return Trained(exported, spent(task.job, name=place))
        finally:
            reader.close()
            recorder.finish()

    def draw_matrices(self, method: Method, tracker: Run, *, title: str) -> None:
        """What a method has learned about pairs of AUs, if it tells something."""
        labels = [f"AU{au}" for au in method.facts.aus]
        for name, values in method.matrices().items():
            figure = figures.heatmap(values.detach().numpy(), labels=labels, title=f"{title}: {name}")
            tracker.figure(figure, name.replace(" ", "_"))

    def log_export(self, row: Variant, exported: bytes) -> None:
        """The encoder as safetensors and as a loadable MLflow model, and a contact sheet of what it was judged on."""
        method, size = export.load(exported), row.job.data.image_size
        with tempfile.TemporaryDirectory() as folder:
            whole, weights = Path(folder) / "method.safetensors", Path(folder) / "encoder.safetensors"
            whole.write_bytes(exported)
            save_file(
                {f"encoder.{name}": value.contiguous() for name, value in method.encoder.state_dict().items()}, weights
            )
            self.tracker.artifact(whole)
            about = {"encoder": "facscale.methods.export:Exported", "options": asdict(method.recipe)}
            log_encoder(self.tracker, weights=weights, config=about, example=np.zeros((2, 3, size, size), np.float32))
        if self.sets:
            images, _, identities = labelled_frames(Dataset(self.sets[0].url), count=24)
            sheet = figures.contact_sheet(images[:24], labels=list(identities[:24]), title=self.sets[0].name)
            self.tracker.figure(sheet, "contact_sheet")


def fetch(source: Input) -> bytes:
    """The exported method at a URL. Raises SpecError where it cannot be read or is not the one that the spec means."""
    try:
        with fsspec.open(source.url) as file:
            data = bytes(file.read())
    except (OSError, ValueError) as error:
        raise SpecError(f"{source.url}: cannot be read: {error}") from None
    found = hashlib.sha256(data).hexdigest()
    if not found.startswith(source.sha256):
        raise SpecError(f"{source.url} has the SHA-256 {found}, not {source.sha256}: another file than the spec means")
    export.load(data, source=source.url)  # what is wrong with it is said here, not by each worker
    return data


def folder_name(title: str) -> str:
    """Letters, digits and dashes only."""
    return "".join(letter if letter.isalnum() else "-" for letter in title)


def default_store(job: Job) -> Path:
    """Where runs are tracked when nobody names a server: a SQLite file beside the runs, or at home for remote storage."""
    home = Path("~/facscale").expanduser() if "://" in storage(job) else Path(storage(job))
    home.mkdir(parents=True, exist_ok=True)
    return home / "mlflow.db"


def commit() -> str:
    """Of the code that runs, where it is a checkout."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"],  # noqa: S607 - whichever git is in the path
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"
