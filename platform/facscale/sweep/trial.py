"""One trial, in a process of its own: train the spec with its values, and report to Ray Tune."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import queue
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import GetTimeoutError, RayActorError

from facscale.data.storage import Folder
from facscale.files import write_atomically
from facscale.job.datasets import JobData
from facscale.job.plan import build_plan, make_task
from facscale.job.variants import Variant, build_variant, hash_values, name_training
from facscale.spec import Document
from facscale.spec.sweep import Sweep
from facscale.sweep.record import check_training_name, parse_pointer
from facscale.sweep.space import Values, apply_values
from facscale.train.errors import DivergedError, TrainError, is_permanent
from facscale.train.events import Event, StepMetrics, StepProgress, TrainingStarted
from facscale.train.ray.event_queue import RayEventQueue
from facscale.train.ray.launch import RayTrainer, make_worker_environment
from facscale.train.ray.pool import ActorTrainer
from facscale.train.task import ResumePoint, TrainingTask
from facscale.train.trainer import TrainedArtifact, Trainer, is_finished, storage_url

RANK = "online/effective_rank"
LAST_REPORT, POINTER = "told.json", "pointer.json"
IDENTITY = "trial"  # beside the values in Ray Tune's config of a trial: its name, and where it was when it is resumed
ABORT_S = 60  # for a training to end; then it is killed


@dataclass(frozen=True)
class TrialEvent:
    """An event of a trial's training."""

    trial: str
    values: Values
    event: Event


@dataclass(frozen=True)
class Search:
    """What all trials share."""

    document: Document
    sweep: Sweep
    title: str  # of the row that the best trial becomes
    fingerprints: tuple[str, ...]
    events: RayEventQueue  # of the job's own process

    def build_variant(self, values: Values) -> Variant:
        """The spec with the values of one trial."""
        return build_variant(apply_values(self.document, values), name=self.title)


class Trial(tune.Trainable):
    """The training of one trial, and its reports. Run again, after whatever ended it, it resumes from its own checkpoint.

    Its name is that of the first trial of Ray Tune with these values; in a sweep that is resumed Ray Tune has new names.

    A spec with one worker is trained in the trial's own process, which the next trial takes over (`reset_config`). Between
    Ray Tune's calls the training waits, so that a trial that Ray Tune has ended does not go on.

    With several workers Ray Train trains. Ray Tune would end such a trial by killing its process; Ray Train's controller,
    which that process owns, then sees its workers die before it dies itself, and asks for new ones: CPUs and GPUs that
    nobody frees as long as the sweep lives. So the training is aborted first, in `cleanup`.
    """

    search: Search
    resume_from: ResumePoint | None = None  # the training's own name, or with PBT another trial's, and the step

    def setup(self, config: dict[str, Any], *, search: Search) -> None:  # Ray Tune gives `search`
        """Build the spec with `config`, the values of this trial."""
        for name in ("", "ray"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self.search = search
        self.begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Become another trial: end the training of this one, and begin anew. The answer tells Ray Tune that it is done."""
        self.is_ended = True
        self.turn.release()
        if self.thread.ident:
            self.thread.join()  # until its next event
        self.begin(new_config)
        return True

    def begin(self, config: Mapping[str, Any]) -> None:
        """Build the spec with the values of a trial; its training begins with the first `step`."""
        identity = config.get(IDENTITY, {})  # {} once PBT has replaced the trial by another one
        self.name = identity.get("name", self.trial_id)
        training = identity.get("training")
        self.resume_from = ResumePoint(training, identity["step"]) if training else None
        self.values = {key: value for key, value in config.items() if key != IDENTITY}
        self.variant = self.search.build_variant(self.values)
        self.place = self.training = ""  # names of the training that the best trial's row looks for, and of this one
        self.steps = 1
        self.last_report: dict[str, Any] = {}
        self.reports: queue.SimpleQueue[dict[str, Any] | BaseException] = queue.SimpleQueue()
        self.abort: Callable[[], Any] | None = None  # ends the training that runs, where Ray Train trains
        self.is_ended = False  # the training in this process shall end
        self.turn = threading.Semaphore(0)  # of that training: one for each `step` but the first
        self.trainer: Trainer = RayTrainer()
        if self.variant.job.cluster.has_one_worker:
            self.trainer = ActorTrainer()
            os.environ |= make_worker_environment(self.variant.job)
        self.thread = threading.Thread(target=self.run_in_thread, name="trial", daemon=True)

    def step(self) -> dict[str, Any]:
        """Train on to the next report. Raises what ended the training."""
        if self.thread.ident:
            self.turn.release()
        else:
            self.thread.start()
        report = self.reports.get()
        if isinstance(report, BaseException):
            raise report
        return report

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write Ray Tune's checkpoint, which only points to Ray Train's."""
        pointer = {"training": self.training, "step": self.last_report.get("step", 0)}
        write_atomically(Path(checkpoint_dir) / POINTER, json.dumps(pointer).encode())

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Read which training to resume from."""
        self.resume_from = parse_pointer((Path(checkpoint) / POINTER).read_bytes())

    def restore(self, checkpoint_path: Any) -> None:
        """As Ray Tune's, with the pointer alone: Ray Tune would unpickle a file that somebody put beside it."""
        remote = checkpoint_path.checkpoint
        with remote.filesystem.open_input_file(f"{remote.path}/{POINTER}") as file:
            content = file.read()
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / POINTER).write_bytes(content)
            local = type(checkpoint_path)(checkpoint=tune.Checkpoint(folder), metrics=checkpoint_path.metrics)
            super().restore(local)

    def cleanup(self) -> None:
        """End a training of Ray Train, and give back what its workers hold."""
        if self.abort is not None and self.thread.is_alive():
            with contextlib.suppress(RayActorError, GetTimeoutError):  # the first is how it ends
                ray.get(self.abort(), timeout=ABORT_S)

    def run_in_thread(self) -> None:
        """Train to the end, and report how it ended. Ray Tune retries what `step` raises, so permanent errors are reports."""
        try:
            self.train_plan()
        except DivergedError as error:
            logging.getLogger("facscale.sweep").warning("trial %s: %s", self.name, error)
            self.reports.put(self.build_report({}, step=self.last_report.get("step", 0), stop_reason="diverged"))
        except BaseException as error:  # noqa: BLE001 - `step` raises it
            if is_permanent(error):
                reason = f"failed: {str(error).splitlines()[0]}"
                self.reports.put(self.build_report({}, step=self.last_report.get("step", 0), stop_reason=reason))
            else:
                self.reports.put(error)
        else:
            self.reports.put({**self.last_report, "done": True})

    def train_plan(self) -> None:
        """Train the part of the variant's plan that a trial needs: of folds only the first."""
        data = JobData.open_for_training(self.variant, with_labelled=self.variant.learns_from_labels)
        plan = build_plan([self.variant], data)
        target = plan.variants[0].representative
        exports: dict[str, bytes] = {}
        for node in plan.collect_upstream([target]):
            task = make_task(node, exports, identities=data.identities)
            train = self.train_target if node.id == target else self.train_stage
            exports[node.id] = train(task).export

    def train_stage(self, task: TrainingTask) -> TrainedArtifact:
        """Use the stage that was trained for all trials; train one anew where this trial's values change it."""
        name = name_training(task, fingerprints=self.search.fingerprints)
        is_shared = is_finished(task.job, name=name)
        return self.trainer.fit(task, name=name if is_shared else f"{name}-{self.name}", receive=self.receive_of_stage)

    def train_target(self, task: TrainingTask) -> TrainedArtifact:
        """Train what trials are compared by."""
        name = name_training(task, fingerprints=self.search.fingerprints)
        self.place, self.training = name, f"{name}-{self.name}"
        if point := self.resume_from:
            if point.training.startswith(self.training):
                self.training = point.training
            else:  # PBT: another trial's weights, other values
                self.training += f"-{hash_values([point.training, point.step])}"
                task = replace(task, resume_from=replace(point, training=f"{storage_url(task.job)}/{point.training}"))
        task = replace(task, name=f"{task.name} {self.name}", is_abortable=True)
        artifact = self.trainer.fit(task, name=self.training, receive=self.receive)
        self.last_report = (
            self.last_report or self.read_last_report()
        )  # of a training that had ended before its process
        return artifact

    def receive_of_stage(self, event: Event) -> None:  # noqa: ARG002 - nobody is told of it
        """End the training of a stage in this process where its trial has been ended."""
        self.end_if_due()

    def receive(self, event: Event) -> None:
        """Pass an event of the training on to the job's own process, and the objective to Ray Tune."""
        if isinstance(event, TrainingStarted):
            self.abort = event.abort
            return
        self.end_if_due()
        self.search.events.put_and_wait(TrialEvent(self.name, self.values, event))  # before Ray Tune's report
        if isinstance(event, StepProgress):
            self.steps = event.steps
        if isinstance(event, StepMetrics):
            self.report_objective(event.step, event.values)

    def report_objective(self, step: int, values: Mapping[str, float]) -> None:
        """Report the objective to Ray Tune, if `values` holds it, and end the trial if it diverged or collapsed."""
        sweep = self.search.sweep
        loss, rank = values.get("loss/total", 0.0), values.get(RANK, math.inf)
        stop_reason = "diverged" if not math.isfinite(loss) else "collapsed" if rank < sweep.collapsed else ""
        if sweep.objective not in values and not stop_reason:
            return
        self.last_report = self.build_report(values, step=step, stop_reason=stop_reason)
        folder = Folder(f"{storage_url(self.variant.job)}/{self.training}")
        folder.write(LAST_REPORT, json.dumps(self.last_report).encode())
        self.reports.put(self.last_report)
        if self.variant.job.cluster.has_one_worker:
            self.turn.acquire()
            self.end_if_due()

    def end_if_due(self) -> None:
        """Raise CancelledError where Ray Tune has ended the trial: it ends a training in this process."""
        if self.is_ended:
            raise CancelledError

    def build_report(self, values: Mapping[str, float], *, step: int, stop_reason: str) -> dict[str, Any]:
        """What Ray Tune is told after `step` steps; a trial that has ended by itself has the worst objective there is."""
        sweep = self.search.sweep
        worst = -math.inf if sweep.goal == "max" else math.inf
        objective = values.get(sweep.objective, math.nan)
        return {
            "objective": objective if math.isfinite(objective) and not stop_reason else worst,
            "percent": 100 * step // self.steps,
            "step": step,
            "ended": stop_reason,
            "done": bool(stop_reason),
            "place": self.place,
            "training": self.training,
        }

    def read_last_report(self) -> dict[str, Any]:
        """The last report of a training that had ended before. Raises TrainError where it is lost or damaged."""
        folder = Folder(f"{storage_url(self.variant.job)}/{self.training}")
        try:
            report: dict[str, Any] = json.loads(folder.read(LAST_REPORT))
            for key in ("place", "training"):
                check_training_name(report[key])
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise TrainError(
                f"{folder.url}/{LAST_REPORT} is damaged or lost ({error}), so that this trial cannot be compared with others: delete its folder, "
                "and the trial is trained again"
            ) from None
        return report
