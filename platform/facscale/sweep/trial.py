"""One trial, in a process of its own: train the spec with its values, and tell Ray Tune how it goes."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import ray
from ray import tune
from ray.exceptions import GetTimeoutError, RayActorError

from facscale.data import Dataset
from facscale.job.judge import Judge, fold_title
from facscale.job.labelled import Labelled, groups
from facscale.job.lanes import Lanes
from facscale.job.story import place_of
from facscale.job.variants import Variant, digest, variant
from facscale.spec import Document
from facscale.spec.sweep import Sweep
from facscale.sweep.space import Values, chosen
from facscale.train.mailbox import Reader
from facscale.train.ray.launch import RayTrainer
from facscale.train.task import Mailbox, Task
from facscale.train.trainer import finished, storage
from facscale.train.worker import urls

RANK = "online/effective_rank"
TOLD, POINTER = "told.json", "pointer.json"
PATIENCE = 60  # seconds for a training to end; then it is killed


@dataclass(frozen=True)
class Search:
    """What all trials share."""

    document: Document
    sweep: Sweep
    title: str  # of the row that the best trial becomes
    fingerprints: tuple[str, ...]
    post: Mailbox  # of the job's own process

    def variant(self, values: Values) -> Variant:
        """The spec with the values of one trial."""
        return variant(chosen(self.document, values), name=self.title)


class Trial(tune.Trainable):
    """The training of one trial, and its reports. Run again, after whatever ended it, it goes on from its own checkpoint.

    Ray Tune would end it by killing its process. Ray Train's controller, which that process owns, then sees its workers
    die before it dies itself, and asks for new ones: CPUs and GPUs that nobody frees as long as the sweep lives. So the
    training is ended first, in `cleanup`.
    """

    search: Search
    begun_from = ""  # where the training lies that this one goes on from: its own, or with PBT another trial's

    def setup(self, config: dict[str, Any], *, search: Search) -> None:  # Ray Tune gives `search`
        """What `config`, the values of this trial, make of the spec."""
        logging.getLogger("ray").setLevel(logging.WARNING)
        self.search, self.values = search, dict(config)
        self.row = search.variant(self.values)
        self.title = self.row.title  # of the training that is judged
        self.place = self.training = ""  # where the winner's training would be looked for, and where this one is
        self.steps = 1
        self.told: dict[str, Any] = {}  # the last report
        self.reports: queue.SimpleQueue[dict[str, Any] | BaseException] = queue.SimpleQueue()
        self.controller: Any = None  # of the training that runs
        self.work = threading.Thread(target=self.until_over, name="trial", daemon=True)

    def step(self) -> dict[str, Any]:
        """Train on to the next report. Raises what ended the training."""
        if not self.work.ident:
            self.work.start()
        report = self.reports.get()
        if isinstance(report, BaseException):
            raise report
        return report

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Ray Tune's checkpoint only points to Ray Train's."""
        (Path(checkpoint_dir) / POINTER).write_text(json.dumps(self.training))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on from there."""
        self.begun_from = json.loads((Path(checkpoint) / POINTER).read_text())

    def cleanup(self) -> None:
        """End the training, and give back what its workers hold."""
        if self.controller is not None and self.work.is_alive():
            with contextlib.suppress(RayActorError, GetTimeoutError):  # the first is how it ends
                ray.get(self.controller.abort.remote(), timeout=PATIENCE)

    def until_over(self) -> None:
        """Train to the end, whatever it is."""
        try:
            self.run()
        except BaseException as error:  # noqa: BLE001 - `step` raises it
            self.reports.put(error)
        else:
            self.reports.put({**self.told, "done": True})

    def run(self) -> None:
        """Train to the end."""
        job = self.row.job
        identities = sum(Dataset(url).manifest.counts["identities"] for url in urls(job, "unlabelled"))
        judge = Judge(self.row, self.fitted, Lanes(1), identities)
        if not self.row.learns_from_labels:
            _ = judge.pretrained
            return
        sets = [Labelled.open(url, evaluate=job.evaluate) for url in urls(job, "labelled")]
        part = groups(job, sets)[0]
        self.title = fold_title(self.row, part, 0)
        judge.fold(part, 0, trained=judge.once)

    def fitted(self, task: Task, title: str) -> bytes:
        """A stage, or what is judged."""
        place = place_of(title, task, fingerprints=self.search.fingerprints)
        if title != self.title:
            return self.stage(task, place)
        self.place, self.training = place, f"{place}-{self.trial_id}"
        if self.begun_from.startswith(self.training):
            self.training = self.begun_from
        elif self.begun_from:  # PBT: another trial's weights, other values
            self.training += f"-{digest([self.begun_from])}"
            task = replace(task, resume=f"{storage(task.job)}/{self.begun_from}")
        reader = Reader(self.receive)
        try:
            own = replace(task, mailbox=reader.mailbox, title=f"{self.title} {self.trial_id}", endable=True)
            exported = RayTrainer().fit(own, name=self.training)
        finally:
            reader.close()
        self.told = self.told or self.last_told()  # of a training that had ended before its process did
        return exported

    def stage(self, task: Task, place: str) -> bytes:
        """The one that was trained for all trials; where a trial's values reach into its stages, one of its own."""
        return RayTrainer().fit(task, name=place if finished(task.job, name=place) else f"{place}-{self.trial_id}")

    def receive(self, kind: str, **record: Any) -> None:
        """A record of the training: to the job's own process, and what the objective is to Ray Tune."""
        if kind == "controlled":
            self.controller = record["by"]
            return
        about = {"trial": self.trial_id, "values": self.values, "of": kind}
        self.search.post.put("trial", {**about, "record": record})
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
            "percent": 100 * step // self.steps, "step": step, "ended": ended, "done": bool(ended),
            "place": self.place, "training": self.training,
        }  # fmt: skip
        store, folder = fsspec.core.url_to_fs(f"{storage(self.row.job)}/{self.training}")
        store.makedirs(folder, exist_ok=True)
        store.pipe_file(f"{folder}/{TOLD}", json.dumps(self.told).encode())
        self.reports.put(self.told)

    def last_told(self) -> dict[str, Any]:
        """The last report of a training that was over before."""
        with fsspec.open(f"{storage(self.row.job)}/{self.training}/{TOLD}") as file:
            told: dict[str, Any] = json.load(file)
        return told
