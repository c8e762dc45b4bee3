"""Reproduction cards: what they say, and what is refused when a run is judged again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from faces import write_face_data_set
from facscale.data import Dataset
from facscale.evaluate import MethodScores
from facscale.inference.embed import Embeddings
from facscale.job import evaluator, verify
from facscale.job.card import (
    Card,
    CardError,
    TrainedWeights,
    build_card,
    compare_to_paper,
    find_published,
    render_card,
)
from facscale.job.variants import expand_variants
from facscale.job.verify import check_tables, print_comparison
from facscale.report.published import find_results
from facscale.spec import Document, SpecError, read_spec
from facscale.spec.renamed import restore_old_names
from fuzz import fuzz
from planned import PlannedJob
from predicted import make_tied_predictions

CLP = """
method: {name: clp, depth: 18, width: 4, hidden: 8, embedding: 8, queue_size: 8}
data: {labelled: [ONE], image_size: 32}
cluster: {storage: STORAGE, gpus_per_worker: 0}
evaluate: {folds: 3, seed: 1, probe: {epochs: 3}}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_face_data_set(str(folder / "one"), [6] * 9, au=(1, 12), name="one")
    return str(folder / "one")


def looked_at(model, on, *, job, subjects=None):
    """Features that follow from the encoder and tell something of the labels; in a fresh place, as nothing is believed."""
    weight = float(next(model.encoder.parameters()).detach().sum())
    random = np.random.default_rng(0)
    told = on.au.clip(0).astype(np.float32) @ random.normal(size=(len(on.aus), 5)).astype(np.float32)
    return Embeddings(
        features=told + weight * random.normal(size=told.shape).astype(np.float32), identity=on.identity,
        video=np.full(len(on.au), "v0"), frame=np.tile(np.arange(6, dtype=np.int32), 9), au=on.au, aus=on.aus,
    )  # fmt: skip


@pytest.fixture
def judged(data, tmp_path, monkeypatch):
    """The card of a run that was just evaluated, where it is, and its scores."""
    monkeypatch.setattr(evaluator, "embed_frames", looked_at)
    monkeypatch.setattr(verify, "join", lambda: None)
    (tmp_path / "job.yaml").write_text(CLP.replace("ONE", data).replace("STORAGE", str(tmp_path / "runs")))
    (row,) = expand_variants(read_spec(tmp_path / "job.yaml"), name="clp")
    planned = PlannedJob(row)
    (export,) = planned.exports.values()
    weights = tmp_path / "weights" / "method.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(export)
    scores = {title: predictions.score(0.5) for title, predictions in planned.predict().items()}
    card = build_card(
        row,
        job="clp",
        groups=planned.groups,
        unlabelled=[Dataset(data)],
        scores=scores,
        weights={"clp": TrainedWeights(str(weights), hashlib.sha256(export).hexdigest())},
        commit="c0ffee",
        cluster="here",
    )
    (tmp_path / "card.json").write_text(card.to_json())
    return card, tmp_path / "card.json", scores["one"]


def changed(path, change):
    """The card with a change."""
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    return str(path)


def test_a_card_says_everything(judged, data):
    found, path, row = judged
    again = Card.from_json(path.read_bytes(), source="x")
    assert again == found
    assert found.spec["method"]["queue_size"] == 8
    assert found.spec["method"]["margin"] == 0.03, "defaults are written out"
    evaluated = next(one for one in found.data if one["role"] == "evaluation")
    assert evaluated["fingerprint"] == Dataset(data).manifest.fingerprint
    assert sorted(person for people in evaluated["folds"]["subjects"].values() for person in people) == sorted(
        set(Dataset(data).runs.identities)
    )
    np.testing.assert_array_equal(np.array(found.results["one"]["f1"], float), row.by_fold)
    assert {"torch", "python", "facscale"} <= found.versions.keys()
    assert found.papers == {"one": []}
    assert found.results["one"]["protocol"] == "linear-probe"
    page = render_card(found)
    assert "threshold 0.5: linear probe on the frozen encoder" in page
    assert f"{100 * row.mean:.1f}" in page
    assert "c0ffee" in page


def test_what_papers_print_stands_beside_ours():
    (line,) = [line for line in find_results("BP4D", paper="CLP", method="clp") if line.aus]
    aus = tuple(line.aus)[::-1]
    ours = MethodScores(
        "clp", aus, np.array([[line.values[au] / 100 + 0.01 for au in aus]]), np.zeros(len(aus)), ("fold0",)
    )
    found = compare_to_paper(ours, line)
    assert found["difference"] == pytest.approx(dict.fromkeys((f"AU{au}" for au in aus), 1.0))
    assert found["mean_difference"] == pytest.approx(1.0)
    few = MethodScores("clp", aus[:2], ours.by_fold[:, :2], np.zeros(2), ("fold0",))
    assert set(compare_to_paper(few, line)["difference"]) == {f"AU{au}" for au in aus[:2]}


def test_a_row_is_looked_up_by_its_own_name_first(tmp_path, data):
    (tmp_path / "job.yaml").write_text(
        "method: {name: aunet, interval: 0, resnet_width: 4}\nevaluate: {baselines: {AU-TDN: {method: {interval: 2}}}}\n"
    )
    main, tdn = expand_variants(read_spec(tmp_path / "job.yaml"), name="aunet")
    assert {line.method for line in find_published("bp4d", main)} == {"AUNet"}
    assert {line.method for line in find_published("bp4d", tdn)} == {"AU-TDN"}
    assert find_published("synthetic_bp4d", tdn) == []


def test_the_digits_hold(judged, capsys):
    _, path, _ = judged
    assert verify.verify_card(str(path))
    assert "one: every digit holds" in capsys.readouterr().out


def test_other_digits_are_told(judged, capsys):
    def forged(found):
        found["results"]["one"]["f1"][0][0] += 0.002

    _, path, _ = judged
    assert not verify.verify_card(changed(path, forged))
    assert "NOT reproduced" in capsys.readouterr().out


def test_an_au_that_had_no_f1_must_have_none_again(judged):
    def forged(found):
        found["results"]["one"]["f1"][0][0] = None

    _, path, _ = judged
    assert not verify.verify_card(changed(path, forged))


def test_weights_may_have_moved_but_not_changed(judged, tmp_path):
    found, path, _ = judged
    (weights,) = found.weights.values()
    (tmp_path / "weights").rename(tmp_path / "moved")
    with pytest.raises(SpecError, match="no such file"):
        verify.verify_card(str(path))
    assert verify.verify_card(str(path), weights=str(tmp_path / "moved"))
    file = tmp_path / "moved" / "method.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(CardError, match=weights["sha256"]):
        verify.verify_card(str(path), weights=str(tmp_path / "moved"))
    (tmp_path / "moved").rename(tmp_path / "weights")
    with pytest.raises(CardError, match="is not what was evaluated"):
        verify.verify_card(str(path))


def test_other_data_and_other_folds_are_refused(judged, tmp_path):
    _, path, _ = judged
    write_face_data_set(str(tmp_path / "other"), [7] * 9, au=(1, 12), name="one")
    with pytest.raises(CardError, match="fingerprint"):
        verify.verify_card(str(path), changes=[Document({"data": {"labelled": [str(tmp_path / "other")]}}, {})])
    with pytest.raises(CardError, match="test other people"):
        verify.verify_card(str(path), changes=[Document({"evaluate": {"seed": 2}}, {})])


def test_a_card_from_before_protocols_were_recorded_is_read(judged, capsys):
    def forged(found):
        del found["results"]["one"]["protocol"]

    _, path, _ = judged
    assert verify.verify_card(changed(path, forged))
    assert "protocol not recorded" in render_card(Card.from_json(path.read_bytes(), source="x"))


def test_a_card_from_before_keys_were_renamed_is_read(judged, capsys):
    card, path, _ = judged
    path.write_text(json.dumps(json.loads(card.to_json()) | {"spec": restore_old_names(card.spec)}))
    assert '"patience": 600' in path.read_text()
    old = Card.from_json(path.read_bytes(), source="x")
    assert replace(old, spec=card.spec) == card
    assert restore_old_names(old.spec) == restore_old_names(card.spec)  # it lacks keys that were added later
    assert verify.verify_card(str(path))


def test_what_is_no_card_is_refused(tmp_path):
    for text, message in (
        ("{}", "is not a reproduction card"),
        ('{"schema": 9}', "has schema 9"),
        ("x", "is not a repro"),
    ):
        (tmp_path / "card.json").write_text(text)
        with pytest.raises(CardError, match=message):
            verify.verify_card(str(tmp_path / "card.json"))


def test_a_card_without_tables_or_with_others_compares_nothing_and_fails():
    card, predictions = Card.from_json(fuzz.make_card(), source="x"), {}
    with pytest.raises(CardError, match="bp4d cannot be evaluated again: .* make the tables none"):
        check_tables(card, predictions, source="x")
    with pytest.raises(CardError, match="x has no table of results, so that there is nothing to compare"):
        check_tables(replace(card, results={}, papers={}), predictions, source="x")
    table = make_tied_predictions(20, folds=2)
    with pytest.raises(CardError, match="x has no results on disfa"):
        check_tables(card, {"bp4d": table, "disfa": table}, source="x")
    with pytest.raises(CardError, match="its table of bp4d has other AUs or folds"):
        check_tables(card, {"bp4d": replace(table, aus=(1, 25))}, source="x")


def test_f1_that_is_undefined_everywhere_is_not_reproduced(capsys):
    card = Card.from_json(fuzz.make_card(), source="x")
    undefined = replace(card, results={"bp4d": {**card.results["bp4d"], "f1": [[None, None], [None, None]]}})
    nothing = np.full((2, 2), np.nan)
    scores = MethodScores("clp", (1, 12), nothing, nothing[0], ("fold0", "fold1"))
    assert not print_comparison("bp4d", undefined, scores=scores, console=Console())
    assert "nothing was compared" in " ".join(capsys.readouterr().out.split())
