"""Reports of a job: what is shown and logged of a variant, and of all variants side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from facscale.evaluate.expression import ConfusionMatrix
from facscale.evaluate.intensity import IntensityPredictions, IntensityScores
from facscale.evaluate.predictions import Predictions, align_predictions
from facscale.evaluate.relations import correlate_aus
from facscale.evaluate.scores import MethodScores
from facscale.evaluate.significance import compare_methods
from facscale.job.evaluator import name_tests
from facscale.job.plan import Plan
from facscale.job.variants import Variant, hash_values
from facscale.methods import Method
from facscale.names import sanitize_filename, slugify
from facscale.report import figures
from facscale.report.bundle import Report
from facscale.report.comparison import build_comparison_table, build_comparison_values
from facscale.report.cross_dataset import CrossDatasetMatrix, CrossDatasetScore
from facscale.report.f1_table import F1Table
from facscale.report.intensity_table import build_intensity_table, build_intensity_values
from facscale.report.metrics_table import (
    build_confusion_table,
    build_expression_table,
    build_metrics_table,
    build_training_table,
    collect_accuracies,
)
from facscale.report.timelines import plot_timeline
from facscale.spec import yaml_io

TIMELINE_METHODS = 4  # more cannot be told apart in one plot


class VariantResult(NamedTuple):
    """What came of one variant with one seed."""

    variant: Variant
    predictions: dict[str, Predictions]  # by title of the table
    scores: dict[str, MethodScores]  # likewise
    metrics: dict[str, float]
    expressions: dict[str, ConfusionMatrix]  # by name of the data set
    intensities: dict[str, IntensityScores]  # by title of the F1 table


Rows = Mapping[str, Sequence[VariantResult]]  # by name of the row, one result for each seed


def group_results(results: Sequence[VariantResult]) -> dict[str, list[VariantResult]]:
    """Results by name of the row, one for each seed."""
    rows: dict[str, list[VariantResult]] = {}
    for result in results:
        rows.setdefault(result.variant.name, []).append(result)
    return rows


def report_job(rows: Rows, tables: Mapping[str, F1Table], plan: Plan) -> Report:
    """The tables of a job, all variants side by side; `tables`: `build_f1_tables` of the rows."""
    main, report = plan.variants[0].variant, Report()
    for title, table in tables.items():
        report.add(report_f1(table, title=title))
        by_name = {row.name: row for row in table.rows}
        report.add(report_subject_efficiency(by_name, [seeds[0].variant for seeds in rows.values()], title=title))
        predictions = [[seed.predictions[title] for seed in seeds if title in seed.scores] for seeds in rows.values()]
        threshold = main.job.evaluate.threshold
        report.add(report_comparison([seeds for seeds in predictions if seeds], title=title, threshold=threshold))
    if main.job.evaluate.cross_dataset:
        report.add(report_cross_dataset(tables, plan))
    report.add(report_expression_tables({name: [seed.expressions for seed in seeds] for name, seeds in rows.items()}))
    report.add(report_intensity_tables([result for results in rows.values() for result in results]))
    notes = next((table.protocol_notes for table in tables.values()), ())
    metrics = {name: [seed.metrics for seed in seeds] for name, seeds in rows.items()}
    return report.add(report_metrics(metrics, notes=notes))


def build_f1_tables(rows: Rows) -> dict[str, F1Table]:
    """F1 of all rows that were tested on a data set, by title; seeds of a row are combined."""
    titles = dict.fromkeys(title for seeds in rows.values() for seed in seeds for title in seed.scores)
    tables = {}
    for title in titles:
        scores = [[seed.scores[title] for seed in seeds if title in seed.scores] for seeds in rows.values()]
        tables[title] = F1Table(tuple(MethodScores.combine_seeds(seeds) for seeds in scores if seeds))
    return tables


def report_f1(table: F1Table, *, title: str) -> Report:
    """F1 of all rows on one data set."""
    name = f"f1_{sanitize_filename(title)}"
    return Report(
        tables=[table.build_table(title=f"F1 x 100 on {title}")],
        texts={f"{name}.csv": table.build_fold_table().to_csv(), f"{name}.json": table.to_json()},
        figures={name: figures.plot_f1_bars(table, title=f"F1 on {title}")},
    )


def report_comparison(rows: Sequence[Sequence[Predictions]], *, title: str, threshold: float) -> Report:
    """Rows, each with its seeds, against the first one on the same frames: how sure a difference is, and one video's course."""
    if len(rows) < 2:
        return Report()
    aligned = iter(align_predictions([seed for row in rows for seed in row]))
    methods = [[next(aligned) for _ in row] for row in rows]
    comparison = compare_methods(methods, threshold=threshold)
    note = "; pairs and errors: first seeds" if max(map(len, rows)) > 1 else ""
    heading = f"Beside {comparison.rows[0].name} on {title} (F1 with 95 % intervals{note})"
    plotted = [seeds[0].first_per_frame() for seeds in methods[:TIMELINE_METHODS]]
    video = plotted[0].find_most_changing_video()
    course = [method.select_video(*video) for method in plotted]
    about = f"{title}: {video.video} of {video.identity}, unseen in training"
    table, name = build_comparison_table(comparison, title=heading), sanitize_filename(title)
    return Report(
        tables=[table],
        texts={
            f"comparison_{name}.csv": build_comparison_values(comparison).to_csv(),
            f"comparison_{name}.md": table.to_markdown(),
        },
        figures={f"timeline_{name}": plot_timeline(course, threshold=threshold, title=about)},
    )


def report_cross_dataset(tables: Mapping[str, F1Table], plan: Plan) -> Report:
    """Mean F1 of each row by what it learned from and what it was tested on; `tables`: by title."""
    nodes = [node for node in plan.variants[0].evaluations if not node.is_additional]
    tests = {title: names for node in nodes for title, names in name_tests(node).items()}
    scores = [
        CrossDatasetScore(row.name, *names, row.mean) for title, names in tests.items() for row in tables[title].rows
    ]
    matrix = CrossDatasetMatrix(tuple(scores))
    table = matrix.build_table(title="F1 x 100 by data set, over the AUs that are both learned and labelled")
    return Report(
        tables=[table],
        texts={"across.csv": matrix.to_csv(), "across.md": table.to_markdown()},
        figures={"across": matrix.plot(title="F1 x 100 across data sets")},
    )


def report_subject_efficiency(scores: Mapping[str, MethodScores], variants: Sequence[Variant], *, title: str) -> Report:
    """F1 against the number of training subjects (RTATL's Figure 4), where variants of one method differ in that."""
    series = {}
    for name, group in group_by_subjects([variant for variant in variants if variant.name in scores]).items():
        points = sorted((variant.job.evaluate.subjects, 100 * scores[variant.name].mean) for variant in group)
        series[name] = ([float(subjects) for subjects, _ in points], [f1 for _, f1 in points])
    if not series:
        return Report()
    about = f"F1 x 100 on {title} by people learned from"
    figure = figures.plot_curves(series, title=about, y="F1 x 100", x="people")
    return Report(figures={f"people_{sanitize_filename(title)}": figure})


def group_by_subjects(variants: Sequence[Variant]) -> dict[str, list[Variant]]:
    """Variants that differ in `evaluate.subjects` alone, two or more; under the name of the one with the most subjects."""
    groups: dict[str, list[Variant]] = {}
    for variant in variants:
        if variant.job.evaluate.subjects:
            config = variant.resolved_config()
            config["evaluate"] = {"protocol": config["evaluate"]["protocol"]}
            groups.setdefault(hash_values([config]), []).append(variant)
    by_name = {max(group, key=lambda variant: variant.job.evaluate.subjects).name: group for group in groups.values()}
    return {name: group for name, group in by_name.items() if len(group) > 1}


def report_metrics(rows: Mapping[str, Sequence[Mapping[str, float]]], *, notes: Sequence[str] = ()) -> Report:
    """What the encoders hold beyond F1: metrics by row and seed; `notes`: the protocols of the rows' F1."""
    table = build_metrics_table(rows, title="What the encoders hold, and what their training cost", notes=notes)
    return Report(
        tables=[table], texts={"summary.csv": build_training_table(rows).to_csv(), "summary.md": table.to_markdown()}
    )


def report_expression_tables(rows: Mapping[str, Sequence[Mapping[str, ConfusionMatrix]]]) -> Report:
    """Accuracy of expressions of all rows, a table for each data set; `rows`: confusion matrices of each seed by set."""
    report = Report()
    for name in dict.fromkeys(name for seeds in rows.values() for matrices in seeds for name in matrices):
        of_rows = {row: [matrices[name] for matrices in seeds] for row, seeds in rows.items()}
        faces = int(next(iter(of_rows.values()))[0].counts.sum())
        heading = f"Accuracy x 100 of expressions on {name}, {faces:,} test faces"
        table, file = build_expression_table(of_rows, title=heading), f"expressions_{sanitize_filename(name)}"
        report.tables.append(table)
        report.texts[f"{file}.csv"] = build_training_table(collect_accuracies(of_rows)).to_csv()
        report.texts[f"{file}.md"] = table.to_markdown()
    return report


def report_intensity_tables(results: Sequence[VariantResult]) -> Report:
    """Agreement of intensities of all rows and seeds, a table for each data set."""
    report = Report()
    for title in dict.fromkeys(title for result in results for title in result.intensities):
        scores = {result.variant.title: result.intensities[title] for result in results if title in result.intensities}
        table, file = build_intensity_table(scores, title=f"Intensities, 0 to 5, on {title}"), sanitize_filename(title)
        report.tables.append(table)
        report.texts[f"intensities_{file}.csv"] = build_intensity_values(scores).to_csv()
        report.texts[f"intensities_{file}.md"] = table.to_markdown()
    return report


def report_intensities(
    predictions: Mapping[str, IntensityPredictions],
    scores: Mapping[str, IntensityScores],
    *,
    titles: Mapping[str, object],
) -> Report:
    """Intensities of one variant for every test frame, and their agreement as metrics; `titles`: of all F1 tables."""
    report = Report()
    for title, table in predictions.items():
        report.files[f"intensities_{sanitize_filename(title)}.parquet"] = table.to_parquet()
        prefix = get_metric_prefix(title, titles)
        report.metrics |= {prefix + name: value for name, value in scores[title].to_metrics().items()}
    return report


def report_scores(scores: Mapping[str, MethodScores]) -> Report:
    """F1 of one variant as metrics; `scores`: by title of the table."""
    metrics: dict[str, float] = {}
    for title, row in scores.items():
        prefix = get_metric_prefix(title, scores)
        metrics |= {prefix + name: value for name, value in row.to_metrics().items()}
    return Report(metrics=metrics)


def report_fold_scores(scores: Mapping[str, MethodScores], *, fold: int) -> Report:
    """F1 of one fold as metrics."""
    of_fold = {
        title: MethodScores(row.name, row.aus, row.by_fold[fold][None], row.by_fold[fold], (row.folds[fold],))
        for title, row in scores.items()
    }
    return report_scores(of_fold)


def get_metric_prefix(title: str, titles: Mapping[str, object]) -> str:
    """The prefix of a table's metrics: nothing for the first table, else its title."""
    return "" if title == next(iter(titles)) else f"{slugify(title)}/"


def report_predictions(predictions: Predictions, *, title: str, threshold: float) -> Report:
    """The prediction for every test frame, as Parquet, and which AUs occur together in it and in the labels (AUNet's Figure 8)."""
    name, labels = sanitize_filename(title), [f"AU{au}" for au in predictions.aus]
    report = Report(files={f"predictions_{name}.parquet": predictions.to_parquet()})
    for kind, values in correlate_aus(predictions, threshold=threshold)._asdict().items():
        about = f"{predictions.name}: AUs together, {kind}, on {title}"
        report.figures[f"together_{kind}_{name}"] = figures.plot_heatmap(values, labels=labels, title=about)
    return report


def report_expressions(matrices: Mapping[str, ConfusionMatrix], *, title: str) -> Report:
    """Confusion matrices of one training; its metrics by name, as in expression/rafdb/accuracy."""
    report = Report()
    for dataset, matrix in matrices.items():
        name, about = sanitize_filename(dataset), f"{title}:\nexpressions of {dataset}"
        sides = ("true", "recognised")
        figure = figures.plot_heatmap(matrix.row_shares, labels=matrix.classes, title=about, sides=sides, decimals=2)
        report.figures[f"confusion_{name}"] = figure
        report.texts[f"confusion_{name}.csv"] = build_confusion_table(matrix).to_csv()
        report.metrics |= {f"expression/{name}/{metric}": value for metric, value in matrix.to_metrics().items()}
    return report


def report_motion(lengths: Mapping[str, Sequence[float]], *, title: str) -> Report:
    """How far the movements of a method that moves pixels reach."""
    if not lengths:
        return Report()
    about = f"{title}: mean length of movements, where an image is 2 long"
    return Report(figures={"movement_lengths": figures.plot_histogram(lengths, title=about, x="length")})


def report_au_relations(method: Method, *, title: str) -> Report:
    """What a method has learned about pairs of AUs, if it has matrices of that."""
    labels = [f"AU{au}" for au in method.facts.aus]
    return Report(
        figures={
            name.replace(" ", "_"): figures.plot_heatmap(
                values.detach().numpy(), labels=labels, title=f"{title}: {name}"
            )
            for name, values in method.au_relations().items()
        }
    )


def describe_job(tables: Mapping[str, F1Table], *, main: Variant) -> str:
    """The description of the job's run in MLflow, as Markdown: the F1 tables, then the spec as it was written."""
    parts = [f"**F1 x 100 on {title}**\n\n{table.build_table().to_markdown()}" for title, table in tables.items()]
    spec = yaml_io.dump(json.loads(json.dumps(main.document.data, default=str)))
    return "\n".join([*parts, f"```yaml\n{spec}```\n"])
