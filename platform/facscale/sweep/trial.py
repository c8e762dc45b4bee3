"""One trial, in a process of its own: train the spec with its values, and tell Ray Tune how it goes."""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
from ray import tune

from facscale.data import Dataset
from facscale.job.judge import Judge, fold_title
from facscale.job.labelled import Labelled, groups
from facscale.job.lanes import Lanes
from facscale.job.story import place_of
from facscale.job.variants import Variant, digest, variant
from facscale.spec import Document
from facscale.spec.sweep import Sweep
from facscale.sweep.space import Values, chosen
from facscale.train.launch import finished, fit, storage
from facscale.train.mailbox import Reader
from facscale.train.worker import Task, urls

RANK = "online/effective_rank"
TOLD, POINTER = "told.json", "pointer.json"


@dataclass(frozen=True)
class Search:
    """What all trials share."""

    document: Document
    sweep: Sweep
    title: str  # of the row that the best trial becomes
    fingerprints: tuple[str, ...]
    post: Any  # mailbox of the job's own process

    def variant(self, values: Values) -> Variant:
        """The spec with the values of one trial."""
        return variant(chosen(self.document, values), name=self.title)


def run_trial(values: dict[str, Any], *, search: Search) -> None:
    """Ray Tune's trainable. A trial that is run again, after whatever ended it, goes on from its own checkpoint."""
    logging.getLogger("ray").setLevel(logging.WARNING)
    Trial(search, values).run()


class Trial:
    """The training of one trial, and its reports."""

    def __init__(self, search: Search, values: Values) -> None:
        self.search, self.values = search, dict(values)
        self.id = tune.get_context().get_trial_id()
        self.row = search.variant(values)
        self.title = self.row.title  # of the training that is judged
        self.place = self.training = ""  # where the winner's training would be looked for, and where this one is
        self.steps = 1
        self.told: dict[str, Any] = {}  # the last report

    def run(self) -> None:
        """Train to the end."""
        job = self.row.job
        identities = sum(Dataset(url).manifest.counts["identities"] for url in urls(job, "unlabelled"))
        judge = Judge(self.row, self.train, Lanes(1), identities)
        if not self.row.learns_from_labels:
            _ = judge.pretrained
            return
        sets = [Labelled.open(url, evaluate=job.evaluate) for url in urls(job, "labelled")]
        part = groups(job, sets)[0]
        self.title = fold_title(self.row, part, 0)
        judge.fold(part, 0, trained=judge.once)

    def train(self, task: Task, title: str) -> bytes:
        """A stage, or what is judged."""
        place = place_of(title, task, fingerprints=self.search.fingerprints)
        if title != self.title:
            return self.stage(task, place)
        self.place, self.training = place, f"{place}-{self.id}"
        begun_from = self.pointer()
        if begun_from and not begun_from.startswith(self.training):  # PBT: another trial's weights, other values
            self.training += f"-{digest([begun_from])}"
            task = replace(task, resume=f"{storage(task.job)}/{begun_from}")
        elif begun_from:
            self.training = begun_from
        reader = Reader(self.receive)
        try:
            own = replace(task, mailbox=reader.mailbox, title=f"{self.title} {self.id}")
            exported = fit(own, name=self.training)
        finally:
            reader.close()
        if not self.told:  # it had ended before its process did
            self.told = self.last_told()
            tune.report(self.told)
        return exported

    def stage(self, task: Task, place: str) -> bytes:
        """The one that was trained for all trials; where a trial's values reach into its stages, one of its own."""
        return fit(task, name=place if finished(task.job, name=place) else f"{place}-{self.id}")

    def receive(self, kind: str, **record: Any) -> None:
        """A record of the training: to the job's own process, and what the objective is to Ray Tune."""
        about = {"trial": self.id, "values": self.values, "of": kind}
        self.search.post.put.remote("trial", {**about, "record": record})
        if kind == "progress":
            self.steps = record["steps"]
        if kind == "metrics":
            self.report(record["step"], record["values"])

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Tell Ray Tune the objective, where `values` holds it, and whether there is any sense in going on."""
        sweep = self.search.sweep
        loss, rank = values.get("loss/total", 0.0), values.get(RANK, math.inf)
        ended = "diverged" if not math.isfinite(loss) else "collapsed" if rank < sweep.collapsed else ""
        if sweep.objective not in values and not ended:
            return
        worst = -math.inf if sweep.goal == "max" else math.inf
        objective = values.get(sweep.objective, math.nan)
        self.told = {
            "objective": objective if math.isfinite(objective) and not ended else worst,
            "percent": 100 * step // self.steps, "step": step, "ended": ended, "over": int(bool(ended)),
            "place": self.place, "training": self.training,
        }  # fmt: skip
        store, folder = fsspec.core.url_to_fs(f"{storage(self.row.job)}/{self.training}")
        store.makedirs(folder, exist_ok=True)
        store.pipe_file(f"{folder}/{TOLD}", json.dumps(self.told).encode())
        with tempfile.TemporaryDirectory() as pointed:
            (Path(pointed) / POINTER).write_text(json.dumps(self.training))
            tune.report(self.told, checkpoint=tune.Checkpoint.from_directory(pointed))

    def pointer(self) -> str:
        """Where the training lies that this one goes on from: its own, or with PBT another trial's; "" at the beginning."""
        checkpoint = tune.get_checkpoint()
        if checkpoint is None:
            return ""
        with checkpoint.as_directory() as folder:
            return str(json.loads((Path(folder) / POINTER).read_text()))

    def last_told(self) -> dict[str, Any]:
        """The last report of a training that was over before."""
        with fsspec.open(f"{storage(self.row.job)}/{self.training}/{TOLD}") as file:
            told: dict[str, Any] = json.load(file)
        return told
