"""Carries out the plan of a job: trains what a variant needs, evaluates it, and logs both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from facscale.errors import UserError
from facscale.evaluate.intensity import IntensityPredictions, score_intensities
from facscale.evaluate.predictions import Predictions
from facscale.inference.export import load_export
from facscale.job.card import TrainedWeights, build_card, render_card
from facscale.job.context import JobContext, log_report
from facscale.job.detectors import build_detector, log_detector, name_artifact, report_calibration
from facscale.job.evaluator import Evaluator, evaluate_expressions
from facscale.job.exports import log_encoder_model, log_export, register_encoder
from facscale.job.measure import measure
from facscale.job.model_plots import plot_attention, plot_embedding
from facscale.job.plan import EvalNode, Plan, TrainNode, VariantPlan, make_task, name_detector
from facscale.job.recorder import StartReporter, TrainingRecorder
from facscale.job.results import (
    VariantResult,
    report_au_relations,
    report_expressions,
    report_fold_scores,
    report_intensities,
    report_motion,
    report_predictions,
    report_scores,
)
from facscale.job.slots import RunningTraining
from facscale.job.variants import Variant, name_training
from facscale.names import slugify
from facscale.progress import print_line
from facscale.track.tracker import RunLogger
from facscale.train.errors import is_permanent
from facscale.train.events import Event, TrainingStarted
from facscale.train.task import TrainingTask
from facscale.train.trainer import TrainedArtifact, Trainer, load_artifact


class FinishedTraining(NamedTuple):
    """Where a training of this run is, for variants that need it too."""

    name: str  # under the job's storage
    weights: TrainedWeights


@dataclass(frozen=True)
class VariantLog:
    """Where a variant is logged."""

    variant: Variant
    run: RunLogger
    weights: dict[str, TrainedWeights] = field(default_factory=dict)  # of its trainings, by title


@dataclass(frozen=True)
class JobRunner:
    """Runs the variants of a plan. Each training is done once, whichever variants need it."""

    plan: Plan
    context: JobContext
    trainer: Trainer
    evaluator: Evaluator
    registered: frozenset[str]  # titles of the variants whose encoders are registered as models
    _finished: dict[str, FinishedTraining] = field(default_factory=dict)  # by id

    def run_variant(self, variant_plan: VariantPlan) -> VariantResult:
        """Train, evaluate and log one variant with one seed."""
        variant = variant_plan.variant
        with self.open_run(variant, variant.title) as run:
            self.context.describe_run(variant, run)
            log, predictions = VariantLog(variant, run), dict[str, Predictions]()
            intensities: dict[str, IntensityPredictions] = {}
            shown: list[tuple[EvalNode, bytes]] = []  # evaluations, and the model whose attention is plotted
            representative = None
            if not variant.learns_from_labels:
                representative = self.train(self.plan.trainings[variant_plan.representative], log)
                self.trainer.release()
            for evaluation in variant_plan.evaluations:
                artifacts = self._train_models(evaluation, log)
                representative = representative or artifacts[variant_plan.representative]
                exports = {key: value.export for key, value in artifacts.items()}
                tables = self.evaluator.predict(evaluation, exports)
                predictions |= tables
                rated = self.evaluator.predict_intensities(evaluation, exports)
                intensities |= rated
                if evaluation.has_own_head:
                    self._log_folds(evaluation, artifacts, tables)
                if evaluation.detector_kind != "none":
                    self._log_detector(evaluation, exports, tables, rated, log)
                if not evaluation.is_additional:
                    shown.append((evaluation, artifacts[evaluation.models[0]].export))
            assert representative is not None, "a variant that learns from labels has evaluations"
            result = self._log_results(variant_plan, representative, predictions, intensities, log)
            self._log_model(representative, result, shown, log)
        return result

    def train(self, node: TrainNode, log: VariantLog) -> TrainedArtifact:
        """Train a node of the plan after all that it depends on; load what it made if it is finished."""
        slots = self.context.slots
        with slots.exclusive(node.id):
            if finished := self._finished.get(node.id):
                upstream = self.plan.collect_upstream([node.id])
                log.weights.update({earlier.title: self._finished[earlier.id].weights for earlier in upstream})
                artifact = load_artifact(node.variant.job, name=finished.name)
            else:
                inputs = {key: self.train(self.plan.trainings[key], log).export for key in node.inputs.values()}
                task = make_task(node, inputs, identities=self.context.data.identities)
                name = name_training(task, fingerprints=self.context.data.fingerprints)
                is_own = node.title == log.variant.title
                with nullcontext(log.run) if is_own else self.open_run(log.variant, node.title) as run:
                    recorder = TrainingRecorder(run, title=node.title)
                    try:
                        with slots.exclusive(name), slots.hold() as training:
                            artifact = self._fit(task, name=name, recorder=recorder, training=training)
                    except (KeyboardInterrupt, SystemExit):  # a stopped job is killed after 3 s: no time to draw curves
                        raise
                    except BaseException:
                        recorder.finish()
                        raise
                    recorder.finish()
                log.weights[node.title] = TrainedWeights(artifact.url, artifact.sha256)
                self._finished[node.id] = FinishedTraining(name, log.weights[node.title])
        return artifact

    def _fit(
        self, task: TrainingTask, *, name: str, recorder: TrainingRecorder, training: RunningTraining
    ) -> TrainedArtifact:
        """Train in a slot. An error that trying again cannot mend ends the trainings beside it, which may take hours."""
        slots = self.context.slots

        def receive(event: Event) -> None:
            if isinstance(event, TrainingStarted):
                training.set_abort(event.abort)
            reporter.receive(event)
            recorder.receive(event)

        try:
            with StartReporter(recorder.title) as reporter:
                return self.trainer.fit(replace(task, is_abortable=slots.count > 1), name=name, receive=receive)
        except UserError as error:
            if is_permanent(error) and slots.fail(training) and slots.count > 1:
                print_line(
                    f"{error}\nso the job ends: no other training begins, and those that run are aborted; their checkpoints "
                    "are kept"
                )
            raise

    @contextmanager
    def open_run(self, variant: Variant, title: str) -> Iterator[RunLogger]:
        """The job's own run for its first training, else a run below it: of further rows, seeds, folds and stages."""
        if title == self.plan.variants[0].variant.title:
            yield self.context.tracker
            return
        run = self.context.start_run(variant, title)
        try:
            yield run
        except BaseException as error:
            run.close("KILLED" if isinstance(error, CancelledError) else "FAILED")
            raise
        run.close()

    def _train_models(self, evaluation: EvalNode, log: VariantLog) -> dict[str, TrainedArtifact]:
        """Train what an evaluation needs, side by side; by id."""
        nodes = [self.plan.trainings[key] for key in evaluation.trainings]
        artifacts = self.context.slots.map(lambda node: self.train(node, log), nodes)
        self.trainer.release()
        return {node.id: artifact for node, artifact in zip(nodes, artifacts, strict=True)}

    def _log_folds(
        self, evaluation: EvalNode, artifacts: dict[str, TrainedArtifact], tables: dict[str, Predictions]
    ) -> None:
        """Log F1 of each fold, and its trained method, to the run of its training."""
        threshold = evaluation.variant.job.evaluate.threshold
        scores = {title: predictions.score(threshold) for title, predictions in tables.items()}
        for fold in evaluation.group.folds:
            node = self.plan.trainings[evaluation.model_of(fold)]
            with self.open_run(evaluation.variant, node.title) as run:
                log_export(artifacts[node.id].export, run)
                log_report(report_fold_scores(scores, fold=fold), run)

    def _log_detector(
        self,
        evaluation: EvalNode,
        exports: dict[str, bytes],
        tables: dict[str, Predictions],
        rated: dict[str, IntensityPredictions],
        log: VariantLog,
    ) -> None:
        """Build the detector of an evaluation, and log it with the diagram of its calibration."""
        variant, tags = evaluation.variant, self.context.make_tags(evaluation.variant)
        siblings = self._find_plan(variant).evaluations
        leaves = [node for node in siblings if node.detector_kind != "none"]
        try:
            trained = build_detector(
                evaluation,
                exports,
                tables,
                agreement={title: score_intensities(table) for title, table in rated.items()},
                facts={"job": self.context.main.name, "commit": tags["git.commit"]},
            )
        except ValueError as error:  # a method of another package may need more than a face
            print_line(f"{variant.title}: leaves no detector: {error}")
            return
        name = evaluation.group.name
        prefix = "" if evaluation is leaves[0] else f"{slugify(name)}/"
        about = f"{variant.title} on {name}: predicted and observed, on people not learned from"
        log_report(report_calibration(trained.calibration, title=name, about=about, prefix=prefix), log.run)
        selected = {key: tags[key] for key in ("job", "row", "cluster", "data", "git.commit")}
        log_detector(
            trained,
            log.run,
            name=name_detector(evaluation),
            artifact=name_artifact(evaluation, is_only=len(leaves) == 1),
            tags=selected,
            about=f"Detects AUs of {name}. {variant.title}, of the job {tags['job']}",
        )

    def _find_plan(self, variant: Variant) -> VariantPlan:
        return next(plan for plan in self.plan.variants if plan.variant is variant)

    def _log_results(
        self,
        variant_plan: VariantPlan,
        representative: TrainedArtifact,
        predictions: dict[str, Predictions],
        intensities: dict[str, IntensityPredictions],
        log: VariantLog,
    ) -> VariantResult:
        """Measure the representative model, and log all numbers, predictions and the reproduction card."""
        variant, data = variant_plan.variant, self.context.data
        job, export = variant.job, representative.export
        measures = measure(export, job=job, labelled=data.labelled, fingerprints=data.fingerprints)
        expressions = evaluate_expressions(export, data.expressions, job=job)
        scores = {title: table.score(job.evaluate.threshold) for title, table in predictions.items()}
        agreement = {title: score_intensities(table) for title, table in intensities.items()}
        report = report_expressions(expressions, title=variant.title).add(report_scores(scores))
        report.add(report_intensities(intensities, agreement, titles=scores))
        report.metrics = {**measures.values, **representative.cost, **report.metrics}
        log_report(report, log.run)
        log_report(report_motion(measures.lengths, title=variant.title), log.run)
        for title, table in predictions.items():
            log_report(report_predictions(table, title=title, threshold=job.evaluate.threshold), log.run)
        tags = self.context.make_tags(variant)
        card = build_card(
            variant,
            job=self.context.main.name,
            groups=[evaluation.group for evaluation in variant_plan.evaluations],
            unlabelled=data.unlabelled,
            scores=scores,
            weights=log.weights,
            commit=tags["git.commit"],
            cluster=tags["cluster"],
        )
        log.run.log_text(card.to_json(), "card.json")
        log.run.log_text(render_card(card), "card.html")
        return VariantResult(variant, predictions, scores, report.metrics, expressions, agreement)

    def _log_model(
        self,
        representative: TrainedArtifact,
        result: VariantResult,
        shown: Sequence[tuple[EvalNode, bytes]],
        log: VariantLog,
    ) -> None:
        """Log plots of the representative model and, where the variant is to be registered, the model itself."""
        variant, export, labelled = log.variant, representative.export, self.context.data.labelled
        if labelled:
            log_report(plot_embedding(export, labelled[0], variant=variant), log.run)
        for evaluation, first in shown:
            log_report(plot_attention(evaluation, first, evaluator=self.evaluator), log.run)
        method = load_export(export)
        log_report(report_au_relations(method, title=variant.title), log.run)
        if variant.title in self.registered and not variant.learns_from_labels:
            log_export(export, log.run)
            log_encoder_model(method, log.run, image_size=variant.job.data.image_size, labelled=labelled)
            scores = {title: row.mean for title, row in result.scores.items()}
            register_encoder(scores, log.run, variant=variant, tags=self.context.make_tags(variant))
