"""What is trained on whom: folds, the stages before them, data sets that are mixed, and those that nobody learns from."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from faces import lengths_data_set
from facscale.data import DataError
from facscale.evaluate.crossval import cross_validate
from facscale.inference import export
from facscale.inference.embed import Embeddings
from facscale.job import judge as judging
from facscale.job.judge import Judge
from facscale.job.labelled import Labelled, groups, learned, transferred
from facscale.job.lanes import Lanes
from facscale.job.variants import of_fold, rows, stages
from facscale.spec import SpecError, read
from facscale.spec.models import Evaluate
from facscale.train.worker import begin_with, make_method

AUNET = """
method: {name: aunet, interval: 0, resnet_width: 4, hidden: 8}
stages:
  labels: {method: {name: labelvae, latent: 2}}
inputs: {labels: {stage: labels}}
data: {labelled: [ONE], image_size: 32}
evaluate: {folds: 3, seed: 1}
"""
STARTED = """
stages:
  other_labels: {method: {name: labelvae, latent: 2}, data: {labelled: [OTHER]}}
  other: {data: {labelled: [OTHER]}, inputs: {labels: {stage: other_labels}}, start: null}
start: {stage: other}
"""


@pytest.fixture(scope="module")
def urls(tmp_path_factory):
    """Two sets of people with the same names, and AUs in part."""
    folder = tmp_path_factory.mktemp("data")
    for name, aus in (("one", (1, 12)), ("other", (12, 4, 1))):
        lengths_data_set(str(folder / name), [6] * 9, au=aus, name=name)
    return {"ONE": str(folder / "one"), "OTHER": str(folder / "other")}


@pytest.fixture
def written(tmp_path, urls):
    """A spec's rows, of a text in which ONE and OTHER stand for the data sets."""

    def write(*texts, **overrides):
        for number, text in enumerate(texts):
            below = f"extends: job{number - 1}.yaml\n" if number else ""
            whole = (below + text).replace("ONE", urls["ONE"]).replace("OTHER", urls["OTHER"])
            (tmp_path / f"job{number}.yaml").write_text(whole)
        words = [f"{key}={value}" for key, value in overrides.items()]
        return rows(read(tmp_path / f"job{len(texts) - 1}.yaml", words), name="main")

    return write


class Trainer:
    """Instead of training, notes what would be trained, and exports it as it is initialised."""

    def __init__(self):
        self.tasks = {}

    def __call__(self, task, title):
        assert title not in self.tasks, "trained twice"
        self.tasks[title] = task
        return export.save(make_method(task))

    def people(self, title):
        subjects = self.tasks[title].subjects
        return subjects and {url: set(people) for url, people in subjects.items()}


def sets_of(row, **options):
    given = row.job.data.labelled
    return [Labelled.open(url, evaluate=row.job.evaluate, **options) for url in given]


def judged(row, *, transfer=()):
    trainer = Trainer()
    return trainer, Judge(row, trainer, Lanes(1)), groups(row.job, sets_of(row), transfer=transfer)


def test_a_stage_that_learns_from_labels_sees_the_folds_people_alone(written):
    (row,) = written(AUNET)
    trainer, judge, (one,) = judged(row)
    exported = judge.folds(one)
    assert len(exported) == 3
    data = one.sets[0]
    for fold in data.split:
        title = f"main one {fold.name}"
        assert trainer.people(title) == trainer.people(f"{title} labels") == {data.url: set(fold.train)}
        assert not trainer.people(title)[data.url] & fold.test
        assert trainer.tasks[title].facts == trainer.tasks[f"{title} labels"].facts
        assert trainer.tasks[title].inputs["labels"]
    assert len(trainer.tasks) == 6


def test_what_reads_no_labels_or_those_of_other_people_is_trained_once(written, urls):
    (row,) = written(AUNET, STARTED)
    assert list(stages(row)) == ["labels", "other_labels", "other"]
    assert of_fold(row) == {"labels"}
    trainer, judge, (one,) = judged(row)
    judge.folds(one)
    assert {"other", "other_labels"} <= set(trainer.tasks)
    assert len(trainer.tasks) == 2 + 6
    assert trainer.people("other") is None
    other = trainer.tasks["other"]
    assert other.job.data.labelled == (urls["OTHER"],)
    assert other.facts.aus == (12, 4, 1)
    assert other.start is None
    assert trainer.tasks["main one fold1"].start is not None
    assert list(judge.once) == ["other_labels", "other"]


def test_a_start_gives_what_fits_and_nothing_that_is_frozen(written):
    (row,) = written(AUNET, STARTED)
    trainer, judge, (one,) = judged(row)
    judge.folds(one)
    task = trainer.tasks["main one fold0"]
    begun, start = make_method(task), export.load(task.start)
    own, given = begun.state_dict(), start.state_dict()
    assert (own["encoder.basic.layers.0.weight"] == given["encoder.basic.layers.0.weight"]).all()
    assert (own["classifier.1.running_var"] == given["classifier.1.running_var"]).all()
    assert own["classifier.3.weight"].shape != given["classifier.3.weight"].shape
    frozen = "labels.coders.0.mean.weight"  # as large in both, but another data set's
    assert (own[frozen] == export.load(task.inputs["labels"]).state_dict()["coders.0.mean.weight"]).all()
    assert (own[frozen] != given[frozen]).any()
    with pytest.raises(SpecError, match="not one weight that aunet could begin with"):
        begin_with(begun, export.load(task.inputs["labels"]))


def test_a_row_that_is_trained_once_may_not_be_built_on_labels_of_test_people(written, plugins):
    staged = "method: {name: tiny-staged}\nstages: {s: {method: {name: supervised}}}\ninputs: {teacher: {stage: s}}\n"
    with pytest.raises(SpecError, match=r'tiny-staged is trained once for all folds, but "s", which it is built on'):
        written(staged + "data: {labelled: [ONE]}\n")
    own = staged.replace("supervised}}", "supervised}, data: {labelled: [OTHER]}}")
    assert of_fold(written(own + "data: {labelled: [ONE]}\n")[0]) == frozenset()
    with pytest.raises(SpecError, match="reads some of data.labelled"):
        written(own + "data: {labelled: [ONE, OTHER]}\n")


def test_stages_that_a_row_does_not_take_are_left_out(written):
    main, without = written(AUNET, "evaluate: {baselines: {without: {inputs: {labels: null}}}}")
    assert list(stages(main)) == ["labels"]
    assert not stages(without)
    trainer, judge, (one,) = judged(without)
    judge.folds(one)
    assert list(trainer.tasks) == [f"without one fold{number}" for number in range(3)]


def test_what_sees_no_image_is_no_row(written):
    with pytest.raises(SpecError, match=r"job0.yaml:\d+: labelvae looks at no image; name it under stages"):
        written("method: {name: labelvae}\ndata: {labelled: [ONE]}\n")


def test_an_input_belongs_to_its_method(written):
    _, other = written(AUNET, "evaluate: {baselines: {other: {method: {name: supervised}}}}")
    assert other.job.inputs == {}


def test_mixed_sets_are_learned_from_together_and_tested_each(written, urls, monkeypatch):
    (row,) = written(AUNET, "data: {labelled: [ONE, OTHER], mixed: true}")
    trainer, judge, (both,) = judged(row)
    assert (both.name, len(both.sets)) == ("one + other", 2)
    exported = judge.folds(both)
    task = trainer.tasks["main one + other fold2"]
    assert task.facts.aus == (1, 12, 4)
    assert task.facts.sets == ((1, 12), (12, 4, 1))
    assert trainer.people("main one + other fold2") == {data.url: set(data.split[2].train) for data in both.sets}
    monkeypatch.setattr(judging, "embedded", pretended)
    told = judge.tested(exported, on=both)
    assert {title: of.aus for title, of in told.items()} == {"one": (1, 12), "other": (12, 4, 1)}
    for data in both.sets:
        of = told[data.name]
        assert len(of) == len(data.au)
        for number, fold in enumerate(data.split):
            assert set(of.identity[of.fold == number]) == set(fold.test)
        columns = [(1, 12, 4).index(au) for au in data.aus]  # the pretended logits are the columns' numbers
        np.testing.assert_allclose(of.probability[0], 1 / (1 + np.exp(-np.array(columns, float))), rtol=1e-6)
        assert (of.au[of.order()] == data.au[np.lexsort((np.tile(range(6), 9), data.identity))]).all()


def pretended(model, *, job, on, subjects=None):
    """Logits that are the numbers of their columns."""
    rows = np.flatnonzero(np.isin(on.identity, list(subjects)))
    return Embeddings(
        features=np.tile(np.arange(model.dim, dtype=np.float32), (len(rows), 1)),
        identity=on.identity[rows], video=np.full(len(rows), "v0"), frame=(rows % 6).astype(np.int32),
        au=on.au[rows], aus=on.aus,
    )  # fmt: skip


def test_what_was_learned_is_tested_on_sets_that_nobody_learned_from(written, urls, monkeypatch):
    (row,) = written(AUNET, evaluate="{transfer: [" + urls["OTHER"] + "], folds: 3}")
    away = transferred(row.job, sets=sets_of(row))
    trainer, judge, (one,) = judged(row, transfer=away)
    monkeypatch.setattr(judging, "embedded", pretended)
    told = judge.tested(judge.folds(one), on=one)
    assert list(told) == ["one", "other, learned on one"]
    of = told["other, learned on one"]
    assert of.aus == (12, 1)  # in the order of the tested set
    assert len(of) == 3 * 54  # each fold's network tests everybody
    assert of.folds == ("fold0", "fold1", "fold2")
    assert all(urls["OTHER"] not in trainer.people(title) for title in trainer.tasks)


def test_a_set_for_transfer_must_be_another_one_with_a_common_au(written, urls, tmp_path):
    (row,) = written(AUNET, evaluate="{transfer: [" + urls["ONE"] + "]}")
    with pytest.raises(DataError, match="is under data.labelled and under evaluate.transfer"):
        transferred(row.job, sets=sets_of(row))
    lengths_data_set(str(tmp_path / "far"), [3] * 3, au=(25,))
    (row,) = written(AUNET, evaluate="{transfer: [" + str(tmp_path / "far") + "]}")
    with pytest.raises(DataError, match="no AU in common"):
        transferred(row.job, sets=sets_of(row))


def test_each_set_is_tested_by_what_was_learned_on_every_other(written, urls, monkeypatch):
    both = "data: {labelled: [ONE, OTHER]}\nevaluate: {across: pairs}\n"
    (row,) = written(AUNET, both)
    trainer, judge, parts = judged(row)
    monkeypatch.setattr(judging, "embedded", pretended)
    told = {}
    for part in parts:
        told |= judge.tested(judge.folds(part), on=part)
    assert list(told) == ["one", "other, learned on one", "other", "one, learned on other"]
    assert len(told["one"]) == 54
    assert len(told["one, learned on other"]) == 3 * 54
    for title in trainer.tasks:
        learned_on = urls["OTHER"] if title.startswith("main other") else urls["ONE"]
        assert set(trainer.people(title)) == {learned_on}


def test_the_set_that_is_left_out_is_tested_by_what_the_others_taught(written, urls, tmp_path, monkeypatch):
    lengths_data_set(str(tmp_path / "third"), [6] * 9, au=(12, 25), name="third")
    lengths_data_set(str(tmp_path / "far"), [6] * 9, au=(43,), name="far")
    sets = f"data: {{labelled: [ONE, OTHER, {tmp_path}/third, {tmp_path}/far]}}\n"
    (row,) = written(AUNET, sets + "evaluate: {across: leave-one-out}\n")
    trainer, judge, parts = judged(row)
    monkeypatch.setattr(judging, "embedded", pretended)
    told = judge.tested(judge.folds(parts[0]), on=parts[0])
    assert list(told) == ["one, learned on other + third + far"]
    assert told["one, learned on other + third + far"].aus == (1, 12)
    assert all(urls["ONE"] not in trainer.people(title) for title in trainer.tasks)
    assert not parts[3].transfer, "no other set has an AU of its"


@pytest.mark.parametrize("data", ["{labelled: [ONE]}", "{labelled: [ONE, OTHER], mixed: true}"])
def test_across_needs_sets_that_are_learned_from_apart(written, data):
    with pytest.raises(SpecError, match="name two sets or more there"):
        written(AUNET, f"data: {data}\nevaluate: {{across: pairs}}\n")


def test_weights_come_from_the_training_people_of_all_sets(urls):
    evaluate = Evaluate(folds=3, subjects=2)
    sets = [Labelled.open(url, evaluate=evaluate) for url in urls.values()]
    subjects, facts = learned(sets, fold=1, evaluate=evaluate)
    assert [len(people) for people in subjects.values()] == [2, 2]
    positive, known = defaultdict(int), defaultdict(int)
    for data in sets:
        assert subjects[data.url] <= data.split[1].train
        for person, labels in zip(data.identity, data.au, strict=True):
            for au, label in zip(data.aus, labels, strict=True):
                if person in subjects[data.url] and label >= 0:
                    known[au] += 1
                    positive[au] += label
    inverse = np.array([known[au] / positive[au] for au in facts.aus])
    np.testing.assert_allclose(facts.au_weights, inverse / inverse.sum() * 3, rtol=1e-6)
    halves = [
        [0.5 * known[au] / count[au] for au in facts.aus]
        for count in (defaultdict(int, {au: known[au] - positive[au] for au in known}), positive)
    ]
    np.testing.assert_allclose(facts.label_weights, halves, rtol=1e-6)


CLP = (
    "method: {name: clp, depth: 18, width: 4}\ndata: {labelled: [ONE], image_size: 32}\nevaluate: {folds: 3, seed: 1}\n"
)


def looked_at(model, *, job, on, subjects=None):
    """Features that tell something of the labels, whatever the model."""
    assert subjects is None  # a frozen encoder's features are computed once
    random = np.random.default_rng(len(on.aus))
    told = on.au.clip(0).astype(np.float32) @ random.normal(size=(len(on.aus), 5)).astype(np.float32)
    return Embeddings(
        features=told + 0.3 * random.normal(size=told.shape).astype(np.float32), identity=on.identity,
        video=np.full(len(on.au), "v0"), frame=np.tile(np.arange(6, dtype=np.int32), 9), au=on.au, aus=on.aus,
    )  # fmt: skip


def test_a_frozen_encoder_is_probed_as_cross_validation_has_it(written, monkeypatch):
    (row,) = written(CLP)
    trainer, judge, (one,) = judged(row)
    monkeypatch.setattr(judging, "embedded", looked_at)
    told = judge.probed(judge.pretrained, on=one)["one"]
    (data,) = one.sets
    seen = looked_at(None, job=None, on=data)
    expected = cross_validate(
        seen.features, au=seen.au, identity=seen.identity, aus=data.aus, split=data.split, name="main",
        probe=row.job.evaluate.probe, seed=row.job.evaluate.seed,
    )  # fmt: skip
    np.testing.assert_allclose(told.row(0.5).by_fold, expected.rows[0].by_fold)
    assert list(trainer.tasks) == ["main"]


def test_a_probe_too_learns_from_mixed_sets_and_is_tested_elsewhere(written, urls, monkeypatch):
    (row,) = written(CLP, "data: {labelled: [ONE, OTHER], mixed: true}")
    _, judge, (both,) = judged(row)
    monkeypatch.setattr(judging, "embedded", looked_at)
    assert {title: of.aus for title, of in judge.probed(judge.pretrained, on=both).items()} == {
        "one": (1, 12),
        "other": (12, 4, 1),
    }
    (row,) = written(CLP, evaluate="{transfer: [" + urls["OTHER"] + "], folds: 3}")
    _, judge, (one,) = judged(row, transfer=transferred(row.job, sets=sets_of(row)))
    away = judge.probed(judge.pretrained, on=one)["other, learned on one"]
    assert (away.aus, len(away)) == ((12, 1), 3 * 54)


def test_a_probe_is_cross_validated_over_and_over(written, monkeypatch):
    (row,) = written(CLP, evaluate="{folds: 3, repeats: 2}")
    trainer, judge, (one,) = judged(row)
    monkeypatch.setattr(judging, "embedded", looked_at)
    told = judge.probed(judge.pretrained, on=one)["one"]
    assert told.folds == tuple(f"split{split} fold{fold}" for split in range(2) for fold in range(3))
    frames = list(zip(told.identity, told.video, told.frame, strict=True))
    assert len(frames) == 2 * len(set(frames)) == 2 * 54
    first = written(CLP)[0]
    once = judged(first)[1]
    alone = once.probed(once.pretrained, on=judged(first)[2][0])["one"]
    np.testing.assert_allclose(told.row(0.5).by_fold[:3], alone.row(0.5).by_fold)
    assert list(trainer.tasks) == ["main"]
