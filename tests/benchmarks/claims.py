"""Are the claims of the papers visible on rendered faces? The jobs in claims/ are trained here, one training after the other.

    facscale run pipelines/synthetic_bp4d.yaml; facscale run pipelines/synthetic.yaml render.videos=2
    facscale run pipelines/synthetic_bp4d_flow.yaml        for aunet and rtatl
    python tests/benchmarks/claims.py contrastive [--seeds 3] [--rows CLP simsiam] [--out FILE] [key=value ...]

Each training takes one core and no Ray, so that several of these commands can run side by side. Finished trainings are loaded
(FACSCALE_RUNS), not repeated. Shown are the mean F1 x 100 of each row, and its difference to the job's first row with the
95 % interval over people and seeds (`facscale.evaluate.bootstrap`). For TCAE the measures of `facscale.evaluate.disentangle`
are columns too, as means over the seeds with their standard deviations.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from results import ResultWriter, add_out_option

from facscale.evaluate.bootstrap import bootstrap_difference
from facscale.evaluate.disentangle import measure_disentanglement
from facscale.evaluate.predictions import Predictions
from facscale.inference.export import load_export
from facscale.job.datasets import JobData
from facscale.job.evaluator import Evaluator
from facscale.job.measure import render_ground_truth
from facscale.job.plan import Plan, build_plan, make_task
from facscale.job.variants import Variant, expand_seeds, expand_variants, name_training
from facscale.spec import read_spec
from facscale.train.local import LocalTrainer

CLAIMS = Path(__file__).with_name("claims")
MEASURES = {
    "AU F1, AU embedding": "encoder/au_f1",
    "pose R2, AU embedding": "encoder/pose_r2",
    "AU F1, pose embedding": "pose/au_f1",
    "pose R2, pose embedding": "pose/pose_r2",
    "flow, AUs move": "flow/au/au/correlation",
    "flow, head moves": "flow/pose/pose/correlation",
    "flow, both": "flow/all/all/correlation",
}


@dataclass
class Row:
    """What came of one row of a job, seed by seed."""

    name: str
    predictions: list[Predictions] = field(default_factory=list)
    measures: list[Mapping[str, float]] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=sorted(path.stem for path in CLAIMS.glob("*.yaml")))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="the job's first row is always among them")
    add_out_option(parser)
    options = parser.parse_args()
    fixed = [
        f"seeds={options.seeds}",
        "cluster.workers=1",
        "cluster.gpus_per_worker=0",
        "train.checkpoint_every=100000",
    ]
    document = read_spec(CLAIMS / f"{options.job}.yaml", [*fixed, *options.overrides])
    variants = expand_variants(document, name=document.data["name"])
    data = JobData.open(variants)
    threshold = variants[0].job.evaluate.threshold
    is_measured = bool(variants[0].job.evaluate.rendered_people)
    columns = {"row": None, "F1 x 100": 1, "difference": None, **dict.fromkeys(MEASURES if is_measured else (), 2)}
    title = f"{variants[0].name} and what it is compared with, {options.seeds} seeds"
    with ResultWriter(options.out, title=title, columns=columns) as table:
        first: Row | None = None
        for variant in variants:
            if options.rows and first and variant.name not in options.rows:
                continue
            row = train_row(variant, data, is_measured=is_measured)
            scores = [100 * float(predictions.score(threshold).mean) for predictions in row.predictions]
            difference = (
                bootstrap_difference(first.predictions, row.predictions, threshold=threshold) if first else None
            )
            cells = [row.name, summarize(scores), difference.f1.format(sign="+") if difference else ""]
            if is_measured:
                cells += [summarize([measures[key] for measures in row.measures]) for key in MEASURES.values()]
            table.add(*cells)
            print(*(f"{name} {cell}" for name, cell in zip(columns, cells, strict=True)), sep="; ", flush=True)
            first = first or row


def train_row(variant: Variant, data: JobData, *, is_measured: bool) -> Row:
    """Train and test a row with each of its seeds."""
    row = Row(variant.name)
    for seed in expand_seeds(variant):
        plan = build_plan([seed], data)
        exports = train(plan, data)
        (evaluation,) = (node for node in plan.variants[0].evaluations if not node.is_additional)
        (predictions,) = Evaluator().predict(evaluation, exports).values()
        row.predictions.append(predictions)
        if is_measured:
            method = load_export(exports[plan.variants[0].representative])
            row.measures.append(measure_disentanglement(method, render_ground_truth(seed.job, data.labelled)))
        score = 100 * float(predictions.score(seed.job.evaluate.threshold).mean)
        print(f"{seed.title}: {score:.1f}", row.measures[-1] if is_measured else "", file=sys.stderr, flush=True)
    return row


def train(plan: Plan, data: JobData) -> dict[str, bytes]:
    """Carry out all trainings of a plan; the exports by their ids."""
    exports: dict[str, bytes] = {}
    for node in plan.trainings.values():
        task = make_task(node, exports, identities=data.identities)
        name = name_training(task, fingerprints=data.fingerprints)
        exports[node.id] = LocalTrainer().fit(task, name=name).export
    return exports


def summarize(values: Sequence[float]) -> tuple[float, float] | float:
    """Mean and standard deviation of several values; of one, the value."""
    return (statistics.mean(values), statistics.stdev(values)) if len(values) > 1 else values[0]


if __name__ == "__main__":
    main()
