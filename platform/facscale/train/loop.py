"""The training loop: from batch to optimizer step, and what happens between the steps. It runs in every worker."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext

import torch

from facscale.compat.torch import without_compiler
from facscale.data.feed import BatchFeed
from facscale.data.stream import Stream
from facscale.data.views import Batch
from facscale.methods.base import sum_losses
from facscale.train.divergence import NonFiniteSteps, WeightMonitor, explain_divergence, explain_lost_weights
from facscale.train.engine import freeze_others
from facscale.train.errors import explain_errors
from facscale.train.events import (
    NonFiniteStepsCounted,
    SampleImages,
    SamplesSkipped,
    StepMetrics,
    StepProgress,
    TrainingResumed,
)
from facscale.train.metrics import collect_step_metrics, format_losses, measure_cost, reset_peak_memory
from facscale.train.session import Session
from facscale.train.setup import (
    build_state,
    make_online_probe,
    merge_streams,
    open_streams,
    read_labelled_validation_batches,
    read_validation_batches,
)
from facscale.train.state import TrainState
from facscale.train.task import TrainingTask
from facscale.train.validation import Validation


def train(task: TrainingTask, session: Session) -> None:
    """Train a task to the end of its schedule in this worker. Raises TrainError for what no restart can mend."""
    compiler = nullcontext() if task.job.train.compile else without_compiler()
    with explain_errors(task.job, rank=session.rank, world=session.world), compiler:
        TrainLoop(task, session).run()


class TrainLoop:
    """Trains a task to the end of its schedule in this worker, whoever started it."""

    def __init__(self, task: TrainingTask, session: Session) -> None:
        """Open the data and build the method, at its beginning or where the session's checkpoint left it."""
        self._task, self._session = task, session
        rank, world, device = session.rank, session.world, session.device
        reset_peak_memory(device)
        self._streams = open_streams(task, rank=rank, world=world, pin=device.type == "cuda")
        self.state = build_state(task, self._streams, rank=rank, world=world, device=device, restored=session.restore())
        self._weights, self._nonfinite_steps = WeightMonitor(self.state.method), 0
        self._probe = make_online_probe(task, self.state)
        self._validation = Validation(
            self.state,
            read_validation_batches(task, rank=rank, world=world),
            labelled=read_labelled_validation_batches(task, rank=rank, world=world),
        )

    def run(self) -> None:
        """Train, and between steps emit events, validate and save checkpoints as the spec says."""
        state, settings = self.state, self._task.job.train
        began, first_step = time.monotonic(), state.step
        if state.rank == 0:
            note = "resumed" if state.step else "started"
            self._task.emit(StepProgress(state.step, state.schedule.steps, note))
            if state.step:
                self._task.emit(TrainingResumed(state.step, self._session.world))
        with closing(merge_streams(self._streams, state.step * settings.batch_size)) as batches:
            for _ in take_steps(state, batches):
                is_saving, is_logging = self._is_due(settings.checkpoint_every), self._is_due(settings.log_every)
                if is_logging and state.rank == 0:  # its numbers stand for all workers
                    self._log_step(speed=(state.step - first_step) / (time.monotonic() - began))
                uses_weights = is_saving or self._is_due(settings.probe_every) or self._is_due(settings.validate_every)
                if uses_weights or is_logging:
                    steps = self._check_steps()
                    is_saving = is_saving or (is_logging and steps.is_preempted)
                if uses_weights or is_saving:
                    self._check_weights()
                if self._probe is not None and self._is_due(settings.probe_every):
                    self._task.emit(StepMetrics(state.step, self._probe(state.method.encoder)))
                if self._is_due(settings.validate_every):
                    self._validate()
                if is_saving:
                    self._session.save(state, {"step": state.step, **measure_cost(state)})
                    state.saved_step = state.step
        report_skipped(self._task, self._streams, rank=state.rank)

    def _is_due(self, every: int) -> bool:
        return self.state.schedule.is_due(self.state.step, every=every)

    def _log_step(self, *, speed: float) -> None:
        """Emit the numbers of the last step; `speed` in steps a second."""
        state = self.state
        values = collect_step_metrics(state, speed=speed, streams=self._streams.values())
        self._task.emit(StepMetrics(state.step, values))
        self._task.emit(StepProgress(state.step, state.schedule.steps, format_losses(values)))
        self._session.export_gauges(state, values)

    def _check_steps(self) -> NonFiniteSteps:
        """Raise DivergedError for a training that has diverged; emit steps that are not finite. Collective."""
        state = self.state
        steps = state.monitor.read(is_preempted=self._session.is_preempted())
        if steps.total > self._nonfinite_steps and state.rank == 0:
            self._task.emit(NonFiniteStepsCounted(state.step, steps.total - self._nonfinite_steps))
        self._nonfinite_steps = steps.total
        if steps.has_diverged:
            raise explain_divergence(state, steps)
        return steps

    def _check_weights(self) -> None:
        """Raise DivergedError for lost weights or optimizer states, which are neither saved nor evaluated. Collective."""
        if lost := self._weights.find_lost(self.state):
            raise explain_lost_weights(self.state, lost)

    def _validate(self) -> None:
        """Emit losses on the people who are set aside, and images. Collective.

        Where nobody is set aside, there are only images, of people who are trained on.
        """
        state = self.state
        if self._task.job.data.validation:
            losses = self._validation.losses()
            state.method.after_validation(losses["total"])
            losses |= self._validation.f1()
            if state.rank == 0:
                values = {f"validation/{name}": value for name, value in losses.items()}
                self._task.emit(StepMetrics(state.step, values))
        if state.rank == 0:
            self._task.emit(SampleImages(state.step, self._validation.images()))


def take_steps(state: TrainState, batches: Iterator[Batch]) -> Iterator[TrainState]:
    """Train to the end of the schedule; yields after each optimizer step.

    `batches`: this worker's share of every micro-batch, from sample number `state.step * batch_size` on.

    For each phase in written order: freeze the other roots, call it, `backward`, `step`; then, once, `after_step`.
    Whatever is random in a step follows from (seed, step, rank), so a resumed training needs no random state.
    """
    method = state.method
    phases = [(phase, engine) for phase in method.phases() for engine in state.engines if phase in engine.root.phases]
    method.train()
    feed = BatchFeed(batches, prepare=state.prepare, device=state.device)
    while state.step < state.schedule.steps:
        began = time.monotonic()
        torch.manual_seed(hash((state.job.seed, state.step, state.rank)))
        for _ in range(state.job.train.accumulate):
            waited = feed.wait_s
            batch = next(feed)
            state.data_wait_s += feed.wait_s - waited
            for phase, engine in phases:
                engine.set_learning_rate(method.rate_factor * state.schedule.learning_rate(state.step))
                with freeze_others(engine, state.engines), state.autocast():
                    losses = getattr(method, phase)(batch)
                engine.backward(sum_losses(losses))
                engine.step()
                state.monitor.add_losses(losses)
                state.losses = state.losses | losses
        method.after_step()
        state.step += 1
        state.monitor.end_step(state.step, state.engines)
        state.step_seconds.append(time.monotonic() - began)
        yield state


def report_skipped(task: TrainingTask, streams: Mapping[str, Stream], *, rank: int) -> None:
    """Emit what this worker could not read, if there was anything."""
    errors = tuple(str(error) for stream in streams.values() for error in stream.skipped)
    if errors:
        task.emit(SamplesSkipped(rank, errors))
