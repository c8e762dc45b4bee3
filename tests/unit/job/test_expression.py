"""The sets of expressions of a job: which may be named, and what is said of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from faces import expression_data_set, lengths_data_set
from facscale.cli import main
from facscale.data import DataError
from facscale.evaluate.expression import Confusion
from facscale.inference import export
from facscale.inference.embed import Embeddings
from facscale.job import expression
from facscale.job.labelled import Labelled
from facscale.methods import DataFacts
from facscale.methods.simclr import SimCLR
from facscale.spec import Job
from facscale.spec.models import Evaluate


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    lengths_data_set(str(folder / "u"), [12] * 24, row_group_mb=0.2)
    lengths_data_set(str(folder / "l"), [20] * 9, au=(1, 12), row_group_mb=0.2, name="labelled")
    expression_data_set(str(folder / "moods"))
    return folder


def job(folder, sets, **data):
    return Job.model_validate(
        {"method": {"name": "simclr"}, "data": data, "evaluate": {"expressions": [f"{folder}/{name}" for name in sets]}}
    )


def test_a_set_of_expressions_must_have_some_and_nothing_may_learn_from_it(folder):
    (found,) = expression.expression_sets(job(folder, ["moods"], unlabelled=f"{folder}/u"))
    assert found.name == "moods"
    assert expression.expression_sets(job(folder, [])) == []
    with pytest.raises(DataError, match=r"/l \(evaluate.expressions\) has no expressions"):
        expression.expression_sets(job(folder, ["l"]))
    with pytest.raises(DataError, match="moods is under data and under evaluate.expressions; nothing may learn"):
        expression.expression_sets(job(folder, ["moods"], unlabelled=[f"{folder}/moods/"]))


def test_a_set_of_expressions_is_no_labelled_set(folder):
    with pytest.raises(DataError, match=r"has no AU labels; it can be tested under evaluate.expressions, not data.lab"):
        Labelled.open(f"{folder}/moods", evaluate=Evaluate())
    with pytest.raises(DataError, match=r"has no AU labels; it can be data.unlabelled, not data.labelled"):
        Labelled.open(f"{folder}/u", evaluate=Evaluate())


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
    (data,) = expression.expression_sets(spec)

    def embedded(model, *, job, on):
        assert on is data
        random = np.random.default_rng(0)
        rows = random.permutation(len(data))[1:]
        told = np.where(data.test, (data.expression + 1) % 3, data.expression)[rows]
        features = np.eye(3)[told] + 0.1 * random.normal(size=(len(rows), 3))
        identity, video, frame = (np.array(column)[rows] for column in zip(*data.place, strict=True))
        au = np.empty((len(rows), 0), np.int8)
        return Embeddings(features.astype(np.float32), identity, video, frame, au, ())

    monkeypatch.setattr(expression, "embedded", embedded)
    exported = export.save(export.of_job(spec, SimCLR.Config(depth=18, width=4), DataFacts(), {}))
    counts = expression.recognised(exported, job=spec, on=[data])["moods"].counts
    assert (counts == np.roll(np.diag(counts.sum(axis=1)), 1, axis=1)).all()
    assert 11 <= counts.sum() <= 12


class Kept:
    """A run that remembers."""

    def __init__(self):
        self.texts, self.figures = {}, {}

    def text(self, text, name):
        self.texts[name] = text

    def figure(self, figure, name):
        self.figures[name] = figure


def test_matrices_and_tables_are_kept_and_told(folder):
    found = {"my moods": Confusion(("calm", "glad"), np.array([[3, 1], [1, 1]]))}
    run = Kept()
    values = expression.keep(found, tracker=run, title="ours")
    assert values["expression/my-moods/accuracy"] == pytest.approx(4 / 6)
    assert values["expression/my-moods/mean_class_accuracy"] == pytest.approx(5 / 8)
    assert run.texts["confusion_my-moods.csv"] == found["my moods"].csv()
    (axes,) = run.figures["confusion_my-moods"].axes
    assert [text.get_text() for text in axes.texts] == [".75", ".25", ".50", ".50"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true", "recognised")
    console = Console(file=io.StringIO(), width=120)
    expression.tell({"ours": [found, found], "random": [found]}, console=console, tracker=run)
    assert "Accuracy x 100 of expressions on my moods, 6 test faces" in console.file.getvalue()
    assert "62.5 ± 0.0" in console.file.getvalue()
    assert len(run.texts["expressions_my-moods.csv"].splitlines()) == 4
    expression.tell({"ours": [{}]}, console=console, tracker=run)  # a job without such sets
    assert len(run.texts) == 3
