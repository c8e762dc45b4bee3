"""`facscale run` of a job with a `sweep:`: search, write the best spec, then run the job with it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from facscale.data import Dataset
from facscale.data.storage import Folder
from facscale.evaluate.predictions import align_predictions
from facscale.evaluate.significance import compare_methods
from facscale.job.check import check_methods, open_or_outline, resolve_yaml
from facscale.job.context import JobContext
from facscale.job.evaluator import Evaluator
from facscale.job.plan import build_plan
from facscale.job.prepared import PreparedJob, try_job
from facscale.job.results import Rows
from facscale.job.run import run_job
from facscale.job.runner import JobRunner, VariantLog
from facscale.job.variants import Variant, build_variant, expand_seeds
from facscale.report.comparison import build_comparison_table
from facscale.report.table import ReportTable
from facscale.spec import Document
from facscale.spec.sweep import Sweep
from facscale.sweep.outcome import TrialOutcome, format_objective, name_objective
from facscale.sweep.page import build_page, compute_importance
from facscale.sweep.search import choose_best, run_search
from facscale.sweep.space import apply_values, check_objective, check_space
from facscale.sweep.trial import Search
from facscale.sweep.watch import SweepWatch, build_trial_table
from facscale.train.ray.launch import RayTrainer
from facscale.train.trainer import Trainer, is_finished, link_artifact, storage_url

BEST = "best of sweep"
PAGE = "sweep.html"


def try_sweep(prepared: PreparedJob) -> None:
    """As `try_job`, of a job with a `sweep:`, whose search is checked too. Raises SpecError for one that cannot run."""
    check_sweep_spec(prepared.main.document, name=prepared.main.name)
    try_job(prepared)


def run_sweep(prepared: PreparedJob, *, trainer: Trainer | None = None) -> int:
    """Search, then run the job with its best row, to the end; the exit status. Raises as `run_job`.

    `trainer` of the rows, after the search: by default Ray Train, with which the trials are trained in any case.
    """
    return run_job(prepared, search=SweepSearch(), trainer=trainer)


def check_sweep_spec(document: Document, *, name: str) -> Sweep:
    """The sweep of a spec. Raises SpecError for one that cannot run."""
    variant = build_variant(document, name=name)
    sweep = variant.job.sweep
    assert sweep is not None
    variants = check_space(document, sweep, name=name)
    is_labelled = any(Dataset(url).manifest.au for url in variant.job.data.urls("labelled"))
    check_objective(variant, sweep, labelled=is_labelled)
    check_methods(variants, open_or_outline(variants)[0])
    return sweep


class SweepSearch:
    """The search of one job: it finds the best variant before the job runs, and ends its page when the job has run."""

    def __init__(self) -> None:
        self._findings: SweepFindings | None = None

    def find_variant(self, context: JobContext) -> Variant:
        """Run the sweep, report it to the terminal and to MLflow, and return the variant of the best trial."""
        main = context.main
        sweep, job = main.job.sweep, main.job
        assert sweep is not None
        train_shared_stages(context)
        name = f"sweep-{context.key}"
        with SweepWatch(context, sweep) as watch:
            watch.search = Search(main.document, sweep, BEST, tuple(context.data.fingerprints), watch.dispatcher.queue)
            outcomes = run_search(watch.search, job=job, name=name, watch=watch, slots=context.slots.count)
        best = choose_best(outcomes, sweep)
        variant = build_variant(apply_values(main.document, best.values), name=BEST)
        if not is_finished(variant.job, name=best.place):
            link_artifact(variant.job, name=best.place, source=best.training)
        spec = write_best_spec(variant, best, sweep, job_name=main.name, trials=len(outcomes))
        folder = f"{storage_url(job)}/{name}"
        Folder(folder).write("best.yaml", spec.encode())
        self._findings = SweepFindings(folder, tuple(outcomes), sweep, best, spec)
        report_sweep(context, self._findings)
        context.console.print(f"the best spec, ready to run: {folder}/best.yaml", soft_wrap=True)
        return variant

    def conclude(self, context: JobContext, rows: Rows) -> None:
        """Add the verdict to the page: the best trial beside the spec as written, on all test subjects."""
        assert self._findings is not None
        tables = compare_with_written(rows, written=context.main.name, threshold=context.main.job.evaluate.threshold)
        write_page(context, self._findings, comparisons=tables)


@dataclass(frozen=True)
class SweepFindings:
    """What a search has found."""

    folder: str  # URL of the sweep, where its best spec and its page are kept
    outcomes: tuple[TrialOutcome, ...]
    sweep: Sweep
    best: TrialOutcome
    spec: str  # of the best trial, as YAML


def compare_with_written(rows: Rows, *, written: str, threshold: float) -> list[ReportTable]:
    """The best trial beside the spec as written, a table for each title under which both were tested."""
    titles = [title for title in rows[written][0].scores if title in rows[BEST][0].scores]
    tables = []
    for title in titles:
        predictions = [[seed.predictions[title] for seed in rows[name]] for name in (written, BEST)]
        aligned = iter(align_predictions([seed for row in predictions for seed in row]))
        comparison = compare_methods([[next(aligned) for _ in row] for row in predictions], threshold=threshold)
        tables.append(build_comparison_table(comparison, title=f"{title}, {written} as written first"))
    return tables


def train_shared_stages(context: JobContext) -> None:
    """Train the stages that are the same in all trials, before the first of them."""
    first = expand_seeds(context.main)[0]
    plan = build_plan([first], context.data)
    runner = JobRunner(plan, context, RayTrainer(), Evaluator(), frozenset())
    log = VariantLog(first, context.tracker)
    for node in plan.find_shared_stages(plan.variants[0]):
        runner.train(node, log)


def write_best_spec(variant: Variant, best: TrialOutcome, sweep: Sweep, *, job_name: str, trials: int) -> str:
    """The best trial's spec, as the text of a file of its own."""
    note = "; its values changed while it trained, these are the last" if sweep.search == "pbt" else ""
    named = replace(variant, job=variant.job.model_copy(update={"name": f"{job_name}-best"}))
    return (
        "#!/usr/bin/env -S facscale run\n"
        f"# The best of {trials} trials by {name_objective(sweep)} ({format_objective(best, sweep)}){note}.\n"
        f"# Values: {best.title}\n" + resolve_yaml(named)
    )


def report_sweep(context: JobContext, findings: SweepFindings) -> None:
    """Table and page, to the terminal and to the job's run."""
    outcomes, sweep, best = findings.outcomes, findings.sweep, findings.best
    shares = compute_importance(outcomes, sweep)
    context.console.print(build_trial_table(outcomes, sweep, best=best.trial))
    if shares:
        context.console.print("importance: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))
    write_page(context, findings)
    for file, text in {"sweep.csv": write_csv(outcomes, sweep), "best.yaml": findings.spec}.items():
        context.tracker.log_text(text, file)
    context.tracker.log_metrics({f"importance/{name}": share for name, share in shares.items()})
    context.tracker.set_tags({"best": best.title})
    context.console.print(f"the page of the sweep: {findings.folder}/{PAGE}", soft_wrap=True)


def write_page(context: JobContext, findings: SweepFindings, *, comparisons: Sequence[ReportTable] = ()) -> None:
    """Write the page beside the sweep and to the job's run, in place of an earlier one."""
    config = context.main.resolved_config()
    page = build_page(
        findings.outcomes,
        findings.sweep,
        title=f"{context.main.name}: {len(findings.outcomes)} trials",
        best=findings.best,
        spec=findings.spec,
        written={key: find_value(config, key) for key in findings.sweep.active_space},
        comparisons=comparisons,
    )
    Folder(findings.folder).write(PAGE, page.encode())
    context.tracker.log_text(page, PAGE)


def find_value(config: Mapping[str, Any], key: str) -> Any:
    """The value under a dotted key; "" where the config has none, such as a stage that only trials change."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part, "") if isinstance(value, Mapping) else ""
    return value


def write_csv(outcomes: Sequence[TrialOutcome], sweep: Sweep) -> str:
    """One line for each trial."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", *sweep.active_space, "objective", "percent", "state", "error"])
    for outcome in outcomes:
        values = [outcome.values.get(key, "") for key in sweep.active_space]
        objective = outcome.objective if outcome.history else ""
        writer.writerow([outcome.trial, *values, objective, outcome.percent, outcome.state, outcome.error])
    return text.getvalue()
