"""What is trained on whom: folds, the stages before them, data sets that are mixed, and those that nobody learns from."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest

from crossval import cross_validate
from faces import make_track, write_face_data_set, write_tracks
from facscale.data import DataError
from facscale.evaluate.protocol import LabelledDataset, open_transfer_sets, select_training_split
from facscale.inference import export
from facscale.inference.embed import Embeddings
from facscale.job import evaluator, verify
from facscale.job.datasets import JobData
from facscale.job.variants import expand_stages, expand_variants, find_fold_stages
from facscale.spec import SpecError, read_spec
from facscale.spec.models import Evaluate
from facscale.train.setup import make_method, start_from
from planned import PlannedJob

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
        write_face_data_set(str(folder / name), [6] * 9, au=aus, name=name)
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
        return expand_variants(read_spec(tmp_path / f"job{len(texts) - 1}.yaml", words), name="main")

    return write


def open_sets(variant):
    return [LabelledDataset.open(url, evaluate=variant.job.evaluate) for url in variant.job.data.labelled]


def test_a_stage_that_learns_from_labels_sees_the_folds_people_alone(written):
    (row,) = written(AUNET)
    planned = PlannedJob(row)
    (one,) = planned.groups
    assert len(planned.evaluations[0].models) == 3
    data = one.sets[0]
    for fold in data.split:
        title = f"main one {fold.name}"
        assert planned.people(title) == planned.people(f"{title} labels") == {data.url: set(fold.train)}
        assert not planned.people(title)[data.url] & fold.test
        assert planned.tasks[title].facts == planned.tasks[f"{title} labels"].facts
        assert planned.tasks[title].inputs["labels"]
    assert len(planned.tasks) == 6


def test_an_official_split_is_trained_and_tested_once(written, tmp_path):
    parts = ["train"] * 5 + ["validation"] * 3 + [""]
    tracks = [
        make_track(person, frames=range(6), au=2).append_column("part", pa.array([part] * 6))
        for person, part in enumerate(parts)
    ]
    write_tracks(str(tmp_path / "official"), tracks, au=(1, 12), name="official")
    (row,) = written(AUNET.replace("ONE", str(tmp_path / "official")))
    planned = PlannedJob(row)
    assert list(planned.tasks) == ["main official official labels", "main official official"]
    (people,) = planned.people("main official official").values()
    assert people == {f"id{person:05d}" for person in range(5)}
    (evaluation,) = planned.evaluations
    ((_, tested),) = evaluation.group.test_parts(0)
    assert tested == {f"id{person:05d}" for person in range(5, 8)}


def test_what_reads_no_labels_or_those_of_other_people_is_trained_once(written, urls):
    (row,) = written(AUNET, STARTED)
    assert list(expand_stages(row)) == ["labels", "other_labels", "other"]
    assert find_fold_stages(row) == {"labels"}
    planned = PlannedJob(row)
    assert {"other", "other_labels"} <= set(planned.tasks)
    assert len(planned.tasks) == 2 + 6
    assert planned.people("other") is None
    other = planned.tasks["other"]
    assert other.job.data.labelled == (urls["OTHER"],)
    assert other.facts.aus == (12, 4, 1)
    assert other.start is None
    assert planned.tasks["main one fold1"].start is not None
    shared = planned.plan.find_shared_stages(planned.plan.variants[0])
    assert [node.title for node in shared] == ["other_labels", "other"]


def test_a_start_gives_what_fits_and_nothing_that_is_frozen(written):
    (row,) = written(AUNET, STARTED)
    planned = PlannedJob(row)
    task = planned.tasks["main one fold0"]
    begun, start = make_method(task), export.load_export(task.start)
    own, given = begun.state_dict(), start.state_dict()
    assert (own["encoder.basic.layers.0.weight"] == given["encoder.basic.layers.0.weight"]).all()
    assert (own["classifier.1.running_var"] == given["classifier.1.running_var"]).all()
    assert own["classifier.3.weight"].shape != given["classifier.3.weight"].shape
    frozen = "labels.coders.0.mean.weight"  # as large in both, but another data set's
    assert (own[frozen] == export.load_export(task.inputs["labels"]).state_dict()["coders.0.mean.weight"]).all()
    assert (own[frozen] != given[frozen]).any()
    with pytest.raises(SpecError, match="not one weight that aunet could begin with"):
        start_from(begun, export.load_export(task.inputs["labels"]))


def test_a_row_that_is_trained_once_may_not_be_built_on_labels_of_test_people(written, plugins):
    staged = "method: {name: tiny-staged}\nstages: {s: {method: {name: supervised}}}\ninputs: {teacher: {stage: s}}\n"
    with pytest.raises(
        SpecError, match=r'tiny-staged is trained once for all folds, but the stage "s", on which it depends'
    ):
        written(staged + "data: {labelled: [ONE]}\n")
    own = staged.replace("supervised}}", "supervised}, data: {labelled: [OTHER]}}")
    assert find_fold_stages(written(own + "data: {labelled: [ONE]}\n")[0]) == frozenset()
    with pytest.raises(SpecError, match="reads some of data.labelled"):
        written(own + "data: {labelled: [ONE, OTHER]}\n")


def test_stages_that_a_row_does_not_take_are_left_out(written):
    main, without = written(AUNET, "evaluate: {baselines: {without: {inputs: {labels: null}}}}")
    assert list(expand_stages(main)) == ["labels"]
    assert not expand_stages(without)
    planned = PlannedJob(without)
    assert list(planned.tasks) == [f"without one fold{number}" for number in range(3)]


def test_what_sees_no_image_is_no_row(written):
    with pytest.raises(
        SpecError,
        match=r"job0.yaml:\d+: labelvae has no image encoder, so it cannot be evaluated; name it under stages",
    ):
        written("method: {name: labelvae}\ndata: {labelled: [ONE]}\n")


def test_an_input_belongs_to_its_method(written):
    _, other = written(AUNET, "evaluate: {baselines: {other: {method: {name: supervised}}}}")
    assert other.job.inputs == {}


def test_mixed_sets_are_learned_from_together_and_tested_each(written, urls, monkeypatch):
    (row,) = written(AUNET, "data: {labelled: [ONE, OTHER], joint: true}")
    planned = PlannedJob(row)
    (both,) = planned.groups
    assert (both.name, len(both.sets)) == ("one + other", 2)
    task = planned.tasks["main one + other fold2"]
    assert task.facts.aus == (1, 12, 4)
    assert task.facts.sets == ((1, 12), (12, 4, 1))
    assert planned.people("main one + other fold2") == {data.url: set(data.split[2].train) for data in both.sets}
    monkeypatch.setattr(evaluator, "embed_frames", pretended)
    told = planned.predict()
    assert {title: of.aus for title, of in told.items()} == {"one": (1, 12), "other": (12, 4, 1)}
    for data in both.sets:
        of = told[data.name]
        assert len(of) == len(data.au)
        for number, fold in enumerate(data.split):
            assert set(of.identity[of.fold == number]) == set(fold.test)
        columns = [(1, 12, 4).index(au) for au in data.aus]  # the pretended logits are the columns' numbers
        np.testing.assert_allclose(of.probability[0], 1 / (1 + np.exp(-np.array(columns, float))), rtol=1e-6)
        assert (of.au[of.sort_order()] == data.au[np.lexsort((np.tile(range(6), 9), data.identity))]).all()


def pretended(model, on, *, job, subjects=None):
    """Logits that are the numbers of their columns."""
    rows = np.flatnonzero(np.isin(on.identity, list(subjects)))
    return Embeddings(
        features=np.tile(np.arange(model.dim, dtype=np.float32), (len(rows), 1)),
        identity=on.identity[rows], video=np.full(len(rows), "v0"), frame=(rows % 6).astype(np.int32),
        au=on.au[rows], aus=on.aus,
    )  # fmt: skip


def test_what_was_learned_is_tested_on_sets_that_nobody_learned_from(written, urls, monkeypatch):
    (row,) = written(AUNET, evaluate="{transfer: [" + urls["OTHER"] + "], folds: 3}")
    planned = PlannedJob(row, transfer=open_transfer_sets(row.job, sets=open_sets(row)))
    monkeypatch.setattr(evaluator, "embed_frames", pretended)
    told = planned.predict()
    assert list(told) == ["one", "other, learned on one"]
    of = told["other, learned on one"]
    assert of.aus == (12, 1)  # in the order of the tested set
    assert len(of) == 3 * 54  # each fold's network tests everybody
    assert of.folds == ("fold0", "fold1", "fold2")
    assert all(urls["OTHER"] not in planned.people(title) for title in planned.tasks)


def test_a_set_for_transfer_must_be_another_one_with_a_common_au(written, urls, tmp_path):
    (row,) = written(AUNET, evaluate="{transfer: [" + urls["ONE"] + "]}")
    with pytest.raises(DataError, match="is under data.labelled and under evaluate.transfer"):
        open_transfer_sets(row.job, sets=open_sets(row))
    write_face_data_set(str(tmp_path / "far"), [3] * 3, au=(25,))
    (row,) = written(AUNET, evaluate="{transfer: [" + str(tmp_path / "far") + "]}")
    with pytest.raises(DataError, match="no AU in common"):
        open_transfer_sets(row.job, sets=open_sets(row))


def test_each_set_is_tested_by_what_was_learned_on_every_other(written, urls, monkeypatch):
    both = "data: {labelled: [ONE, OTHER]}\nevaluate: {cross_dataset: pairs}\n"
    (row,) = written(AUNET, both)
    planned = PlannedJob(row)
    monkeypatch.setattr(evaluator, "embed_frames", pretended)
    told = planned.predict(0) | planned.predict(1)
    assert list(told) == ["one", "other, learned on one", "other", "one, learned on other"]
    assert len(told["one"]) == 54
    assert len(told["one, learned on other"]) == 3 * 54
    for title in planned.tasks:
        learned_on = urls["OTHER"] if title.startswith("main other") else urls["ONE"]
        assert set(planned.people(title)) == {learned_on}


def test_the_set_that_is_left_out_is_tested_by_what_the_others_taught(written, urls, tmp_path, monkeypatch):
    write_face_data_set(str(tmp_path / "third"), [6] * 9, au=(12, 25), name="third")
    write_face_data_set(str(tmp_path / "far"), [6] * 9, au=(43,), name="far")
    sets = f"data: {{labelled: [ONE, OTHER, {tmp_path}/third, {tmp_path}/far]}}\n"
    (row,) = written(AUNET, sets + "evaluate: {cross_dataset: leave-one-out}\n")
    planned = PlannedJob(row)
    monkeypatch.setattr(evaluator, "embed_frames", pretended)
    told = planned.predict()
    assert list(told) == ["one, learned on other + third + far"]
    assert told["one, learned on other + third + far"].aus == (1, 12)
    first = [planned.plan.trainings[key].title for key in planned.evaluations[0].models]
    assert all(urls["ONE"] not in planned.people(title) for title in first)
    assert not planned.groups[3].transfer, "no other set has an AU of its"


@pytest.mark.parametrize("data", ["{labelled: [ONE]}", "{labelled: [ONE, OTHER], joint: true}"])
def test_across_needs_sets_that_are_learned_from_apart(written, data):
    with pytest.raises(SpecError, match="give two or more sets there"):
        written(AUNET, f"data: {data}\nevaluate: {{cross_dataset: pairs}}\n")


def test_weights_come_from_the_training_people_of_all_sets(urls):
    evaluate = Evaluate(folds=3, subjects=2)
    sets = [LabelledDataset.open(url, evaluate=evaluate) for url in urls.values()]
    subjects, facts = select_training_split(sets, fold=1, evaluate=evaluate)
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


def looked_at(model, on, *, job, subjects=None):
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
    planned = PlannedJob(row)
    monkeypatch.setattr(evaluator, "embed_frames", looked_at)
    told = planned.predict()["one"]
    (data,) = planned.groups[0].sets
    seen = looked_at(None, data, job=None)
    expected = cross_validate(
        seen.features, au=seen.au, identity=seen.identity, aus=data.aus, split=data.split, name="main",
        probe=row.job.evaluate.probe, seed=row.job.evaluate.seed,
    )  # fmt: skip
    np.testing.assert_allclose(told.score(0.5).by_fold, expected.rows[0].by_fold)
    assert list(planned.tasks) == ["main"]


def test_a_probe_too_learns_from_mixed_sets_and_is_tested_elsewhere(written, urls, monkeypatch):
    (row,) = written(CLP, "data: {labelled: [ONE, OTHER], joint: true}")
    monkeypatch.setattr(evaluator, "embed_frames", looked_at)
    assert {title: of.aus for title, of in PlannedJob(row).predict().items()} == {
        "one": (1, 12),
        "other": (12, 4, 1),
    }
    (row,) = written(CLP, evaluate="{transfer: [" + urls["OTHER"] + "], folds: 3}")
    planned = PlannedJob(row, transfer=open_transfer_sets(row.job, sets=open_sets(row)))
    away = planned.predict()["other, learned on one"]
    assert (away.aus, len(away)) == ((12, 1), 3 * 54)


def test_a_probe_is_cross_validated_over_and_over(written, monkeypatch):
    (row,) = written(CLP, evaluate="{folds: 3, repeats: 2}")
    planned = PlannedJob(row)
    monkeypatch.setattr(evaluator, "embed_frames", looked_at)
    told = planned.predict()["one"]
    assert told.folds == tuple(f"split{split} fold{fold}" for split in range(2) for fold in range(3))
    frames = list(zip(told.identity, told.video, told.frame, strict=True))
    assert len(frames) == 2 * len(set(frames)) == 2 * 54
    alone = PlannedJob(written(CLP)[0]).predict()["one"]
    np.testing.assert_allclose(told.score(0.5).by_fold[:3], alone.score(0.5).by_fold)
    assert list(planned.tasks) == ["main"]


ADAPTED = """
data: {validation: 0.2, augment: {flip: 1, rotation: 30, hue: 0.4}}
train: {optimizer: {name: lars}, precision: bf16, batch_size: 12, validate_every: 5}
evaluate:
  protocol: adapted-batchnorm
  probe: {weighting: au}
  adaptation: {epochs: 2, batch_size: 8, lr: 0.003}
"""


def test_batchnorm_adapts_on_each_folds_people_and_the_frozen_encoder_has_its_own_table(written, monkeypatch):
    (row,) = written(CLP, ADAPTED)
    planned = PlannedJob(row)
    adapted, frozen = planned.evaluations
    assert (adapted.protocol, adapted.is_additional, len(adapted.models)) == ("adapted-batchnorm", False, 3)
    assert (frozen.protocol, frozen.is_additional, len(frozen.models)) == ("linear-probe", True, 1)
    (data,) = adapted.group.sets
    for fold in data.split:
        task = planned.tasks[f"main one {fold.name}"]
        assert planned.people(f"main one {fold.name}") == {data.url: set(fold.train)}
        assert not task.job.data.validation, "nobody of a fold's people is held out"
        assert (task.job.data.augment.flip, task.job.data.augment.rotation, task.job.data.augment.hue) == (0, 0, 0)
        assert (task.job.train.batch_size, task.job.train.epochs) == (8, 2)
        assert (task.job.train.optimizer.name, task.job.train.optimizer.lr) == ("adam", 0.003)
        assert task.job.train.sync_batchnorm
        assert task.config.weighting == "au"
    method, before = make_method(task), export.load_export(task.inputs["pretrained"])
    trained = {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    assert "encoder.conv1.weight" not in trained
    assert {"encoder.bn1.weight", "encoder.layer4.1.bn2.bias", "classifier.0.weight", "classifier.1.weight"} <= trained
    assert (method.encoder.conv1.weight == before.encoder.conv1.weight).all()

    def answer(model, on, *, job, subjects=None):
        return (looked_at if subjects is None else pretended)(model, on, job=job, subjects=subjects)

    monkeypatch.setattr(evaluator, "embed_frames", answer)
    told = planned.predict(0) | planned.predict(1)
    assert {title: of.protocol for title, of in told.items()} == {
        "one": "adapted-batchnorm",
        "one, encoder frozen": "linear-probe",
    }
    exports = {planned.plan.trainings[key].title: export for key, export in planned.exports.items()}
    for titles in (["one"], ["one", "one, encoder frozen"]):  # a card from before has no table of the frozen encoder
        again = verify.evaluate_again(row, JobData((data,)), exports, titles=titles)
        assert list(again) == titles
    alone = PlannedJob(written(CLP, evaluate="{probe: {weighting: au}}")[0]).predict()["one"]
    np.testing.assert_array_equal(told["one, encoder frozen"].probability, alone.probability)


def test_the_workers_can_share_a_batch_of_the_adaptation(written):
    shared = "cluster: {workers: [2, 3]}\n"
    with pytest.raises(SpecError, match="3 workers cannot share evaluate.adaptation.batch_size=8 evenly"):
        written(CLP, ADAPTED + shared)
    assert written(CLP, ADAPTED + shared, **{"evaluate.adaptation.batch_size": 6})


def test_a_frozen_encoder_predicts_intensities_of_people_that_a_fold_does_not_learn_from(written, urls, monkeypatch):
    monkeypatch.setattr(evaluator, "embed_frames", looked_at)
    (row,) = written(CLP, "evaluate: {transfer: [OTHER]}\n")
    planned = PlannedJob(row, transfer=open_transfer_sets(row.job, sets=open_sets(row)))
    told = evaluator.Evaluator().predict_intensities(planned.evaluations[0], planned.exports)
    assert {title: of.aus for title, of in told.items()} == {"one": (1, 12), "other, learned on one": (12, 1)}
    (data,) = planned.groups[0].sets
    of = told["one"]
    for number, fold in enumerate(data.split):
        assert set(of.identity[of.fold == number]) == set(fold.test)
    labels = {
        (person, frame): values
        for person, frame, values in zip(data.identity, np.tile(range(6), 9), data.au, strict=True)
    }
    for person, frame, intensity in zip(of.identity, of.frame, of.intensity, strict=True):
        assert (intensity == np.where(labels[person, frame] > 0, 3, labels[person, frame])).all()
    assert of.predicted[of.intensity == 3].mean() > of.predicted[of.intensity == 0].mean() + 1
    assert len(told["other, learned on one"].frame) == 3 * 54


def test_without_labels_of_intensities_there_are_none(written, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluator, "embed_frames", looked_at)
    tracks = []
    for person in range(9):
        rows = make_track(person, frames=range(6), au=2)
        missing = pa.FixedSizeListArray.from_arrays(pa.array(np.full(12, -1, np.int8)), 2)
        tracks.append(rows.set_column(rows.column_names.index("intensity"), "intensity", missing))
    write_tracks(str(tmp_path / "occurrences"), tracks, au=(1, 12))
    for job in (CLP.replace("ONE", str(tmp_path / "occurrences")), AUNET):
        planned = PlannedJob(written(job)[0])
        assert evaluator.Evaluator().predict_intensities(planned.evaluations[0], planned.exports) == {}


SUPERVISED = """
method: {name: supervised, depth: 18, width: 4, intensities: true}
data: {labelled: [ONE], image_size: 32}
evaluate: {folds: 3, seed: 1, transfer: [OTHER]}
"""


def test_a_method_with_a_head_for_intensities_is_tested_by_it(written, monkeypatch):
    monkeypatch.setattr(evaluator, "embed_frames", pretended)
    (row,) = written(SUPERVISED)
    planned = PlannedJob(row, transfer=open_transfer_sets(row.job, sets=open_sets(row)))
    told = evaluator.Evaluator().predict_intensities(planned.evaluations[0], planned.exports)
    assert {title: of.aus for title, of in told.items()} == {"one": (1, 12), "other, learned on one": (12, 1)}
    for of in told.values():
        # the pretended intensities are the numbers of the columns, which are those of the set that is learned from
        assert of.predicted.tolist() == [[(1, 12).index(au) for au in of.aus]] * len(of.frame)
        assert of.protocol == "end-to-end"
    of = told["one"]
    for number, fold in enumerate(planned.groups[0].sets[0].split):
        assert set(of.identity[of.fold == number]) == set(fold.test)
    plain = PlannedJob(written(SUPERVISED.replace("true", "false").replace(", transfer: [OTHER]", ""))[0])
    assert evaluator.Evaluator().predict_intensities(plain.evaluations[0], plain.exports) == {}
