"""Entry point of `facscale run` for a training job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from facscale.job.context import JobContext, open_context
from facscale.job.evaluator import Evaluator
from facscale.job.plan import build_plan
from facscale.job.prepared import PreparedJob
from facscale.job.results import Rows, build_f1_tables, describe_job, group_results, report_job
from facscale.job.runner import JobRunner
from facscale.job.variants import Variant, expand_seeds
from facscale.train.ray.launch import RayTrainer
from facscale.train.ray.pool import PooledTrainer
from facscale.train.trainer import Trainer


class Search(Protocol):
    """A search for a better variant, as of a sweep: it runs before the job does."""

    def find_variant(self, context: JobContext) -> Variant:
        """Search, and return the variant that becomes the job's second row."""

    def conclude(self, context: JobContext, rows: Rows) -> None:
        """Report what the variant has become on the test subjects; `rows`: all results of the job by row."""


def run_job(prepared: PreparedJob, *, search: Search | None = None, trainer: Trainer | None = None) -> int:
    """Run a job to its end and return the exit status. Raises as `open_context`, and what ends a training.

    The status is 0, or 1 where MLflow did not accept the results, which then stay in the journal.

    `search`: a sweep, which runs first; the variant that it returns becomes the second row. `trainer` of the job's own
    trainings: by default Ray Train, or for several trainings with one worker each processes that they share.
    """
    with open_context(prepared) as context:
        variants: Sequence[Variant] = context.variants
        registered = [expand_seeds(context.main)[0].title]
        if search:
            best = search.find_variant(context)
            variants = (context.main, best, *variants[1:])
            registered.append(expand_seeds(best)[0].title)
        plan = build_plan([seed for variant in variants for seed in expand_seeds(variant)], context.data)
        trainer = trainer or (PooledTrainer() if len(plan.trainings) > 1 else RayTrainer())
        runner = JobRunner(plan, context, trainer, Evaluator(), frozenset(registered))
        rows = group_results(context.slots.map(runner.run_variant, plan.variants))
        tables = build_f1_tables(rows)
        context.publish(report_job(rows, tables, plan), context.tracker)
        if search:
            search.conclude(context, rows)
        context.tracker.set_description(describe_job(tables, main=context.main))
    return context.exit_status
