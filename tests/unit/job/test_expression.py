"""The sets of expressions of a job: which may be named, and what is said of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from faces import write_expression_data_set, write_face_data_set
from facscale.cli import main
from facscale.data import DataError
from facscale.evaluate.expression import ConfusionMatrix
from facscale.evaluate.protocol import LabelledDataset
from facscale.inference import export
from facscale.inference.embed import Embeddings
from facscale.job import evaluator
from facscale.job.datasets import open_expression_sets
from facscale.job.evaluator import evaluate_expressions
from facscale.job.results import report_expression_tables, report_expressions
from facscale.methods import DataFacts
from facscale.methods.simclr import SimCLR
from facscale.spec import Job
from facscale.spec.models import Evaluate


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_face_data_set(str(folder / "u"), [12] * 24, row_group_mb=0.2)
    write_face_data_set(str(folder / "l"), [20] * 9, au=(1, 12), row_group_mb=0.2, name="labelled")
    write_expression_data_set(str(folder / "moods"))
    return folder


def job(folder, sets, **data):
    return Job.model_validate(
        {"method": {"name": "simclr"}, "data": data, "evaluate": {"expressions": [f"{folder}/{name}" for name in sets]}}
    )


def test_a_set_of_expressions_must_have_some_and_nothing_may_learn_from_it(folder):
    (found,) = open_expression_sets(job(folder, ["moods"], unlabelled=f"{folder}/u"))
    assert found.name == "moods"
    assert open_expression_sets(job(folder, [])) == []
    with pytest.raises(DataError, match=r"/l \(evaluate.expressions\) has no expressions"):
        open_expression_sets(job(folder, ["l"]))
    with pytest.raises(DataError, match="moods is under data and under evaluate.expressions; nothing may learn"):
        open_expression_sets(job(folder, ["moods"], unlabelled=[f"{folder}/moods/"]))


def test_a_set_of_expressions_is_no_labelled_set(folder):
    with pytest.raises(DataError, match=r"has no AU labels; it can be tested under evaluate.expressions, not data.lab"):
        LabelledDataset.open(f"{folder}/moods", evaluate=Evaluate())
    with pytest.raises(DataError, match=r"has no AU labels; it can be data.unlabelled, not data.labelled"):
        LabelledDataset.open(f"{folder}/u", evaluate=Evaluate())


def test_check_and_data_name_the_set(folder, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(
        "method: {name: simclr, depth: 18, width: 4}\n"
        f"data: {{unlabelled: {folder}/u, labelled: {folder}/l, image_size: 32}}\n"
        "train: {batch_size: 8, epochs: 2}\n"
        f"evaluate: {{expressions: [{folder}/moods]}}\n"
    )
    done = CliRunner().invoke(main, ["check", str(path)])
    assert done.exit_code == 0, done.output
    assert "expressions of moods: 24 train and 12 test faces, 3 classes" in done.output
    refused = CliRunner().invoke(main, ["check", str(path), f"evaluate.expressions=[{folder}/l]"])
    assert refused.exit_code == 2
    assert "has no expressions" in refused.output
    shown = CliRunner().invoke(main, ["data", f"{folder}/moods"])
    assert "single images" in shown.output
    assert "train: 8 calm, 8 glad, 8 wild" in shown.output
    assert "test: 4 calm, 4 glad, 4 wild" in shown.output


def test_probes_learn_from_the_train_part_and_are_asked_about_the_test_part(folder, monkeypatch):
    """Features tell the class, but mean another one in the test part; one face could not be read."""
    spec = job(folder, ["moods"])
    (data,) = open_expression_sets(spec)

    def embed_frames(model, on, *, job):
        assert on is data
        random = np.random.default_rng(0)
        rows = random.permutation(len(data))[1:]
        told = np.where(data.test, (data.expression + 1) % 3, data.expression)[rows]
        features = np.eye(3)[told] + 0.1 * random.normal(size=(len(rows), 3))
        identity, video, frame = (np.array(column)[rows] for column in zip(*data.keys, strict=True))
        au = np.empty((len(rows), 0), np.int8)
        return Embeddings(features.astype(np.float32), identity, video, frame, au, ())

    monkeypatch.setattr(evaluator, "embed_frames", embed_frames)
    exported = export.save_export(export.build_method_for_job(spec, SimCLR.Config(depth=18, width=4), DataFacts(), {}))
    counts = evaluate_expressions(exported, [data], job=spec)["moods"].counts
    assert (counts == np.roll(np.diag(counts.sum(axis=1)), 1, axis=1)).all()
    assert 11 <= counts.sum() <= 12


def test_matrices_and_tables_are_reported(folder):
    matrices = {"my moods": ConfusionMatrix(("calm", "glad"), np.array([[3, 1], [1, 1]]))}
    report = report_expressions(matrices, title="ours")
    assert report.metrics["expression/my-moods/accuracy"] == pytest.approx(4 / 6)
    assert report.metrics["expression/my-moods/mean_class_accuracy"] == pytest.approx(5 / 8)
    assert report.texts["confusion_my-moods.csv"].splitlines() == ["true,calm,glad", "calm,3,1", "glad,1,1"]
    (axes,) = report.figures["confusion_my-moods"].axes
    assert [text.get_text() for text in axes.texts] == [".75", ".25", ".50", ".50"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true", "recognised")
    tables, console = (
        report_expression_tables({"ours": [matrices, matrices], "random": [matrices]}),
        Console(file=io.StringIO(), width=120),
    )
    console.print(*(table.to_rich() for table in tables.tables))
    assert "Accuracy x 100 of expressions on my moods, 6 test faces" in console.file.getvalue()
    assert "62.5 ± 0.0" in console.file.getvalue()
    assert len(tables.texts["expressions_my-moods.csv"].splitlines()) == 4
    assert not report_expression_tables({"ours": [{}]}).texts, "a job without such sets"
