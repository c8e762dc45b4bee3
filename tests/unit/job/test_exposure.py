"""Runs that have seen a person are found by their own records: data, history of the data, folds and weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from faces import write_face_data_set
from facscale.data import Dataset
from facscale.data.derivation import extend_history, forget_people, select_people
from facscale.job.card import Card
from facscale.job.exposure import find_exposed_runs
from facscale.track import Tracker

PERSON = "id00003"


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A set, a sample of it, a version that has forgotten the person, and a set of other people."""
    folder = tmp_path_factory.mktemp("sets")
    faces = write_face_data_set(str(folder / "faces"), [6] * 6, name="faces")
    step = {"command": "sample", "people": 3, "seed": 0}
    select_people(faces, str(folder / "sample"), identities=["id00001", PERSON], step=step)
    forget_people(faces, str(folder / "clean"), identities=[PERSON])
    write_face_data_set(str(folder / "other"), [5] * 3, name="other")
    return {name: Dataset(str(folder / name)) for name in ("faces", "sample", "clean", "other")}


def describe(dataset, folds=None):
    manifest = dataset.manifest
    entry = {"name": manifest.name, "role": "pre-training", "url": dataset.url, "counts": manifest.counts}
    entry |= {"fingerprint": manifest.fingerprint, "recipe": manifest.recipe}
    split = {"source": "published", "hash": "0" * 12, "subjects": folds}
    return entry | ({"role": "evaluation", "folds": split} if folds else {})


@pytest.fixture
def log_run(tmp_path):
    """A function that logs a run with a card, as a job does; the tracker is a file."""
    store = f"sqlite:///{tmp_path}/mlflow.db"

    def log(name, *entries, experiment="bp4d", sha256="", spec=None, has_card=True):
        tags = {"data": " ".join(entry["fingerprint"][:12] for entry in entries), "row": name}
        tracker = Tracker(store, experiment, key=name, name=name, tags=tags, spool=tmp_path / "spools" / name)
        if has_card:
            weights = {name: {"url": f"/runs/{name}.safetensors", "sha256": sha256 or "0" * 64}}
            card = Card(
                "job",
                name,
                0,
                {"method": {"name": "clp"}, **(spec or {})},
                list(entries),
                weights,
                {},
                {},
                {},
                "c",
                "here",
            )
            tracker.log_text(card.to_json(), "card.json")
            tracker.log_metrics({"f1/mean": 0.5})
        assert tracker.close()
        return store

    return log


def test_runs_on_the_set_and_on_sets_made_from_it_are_found(sets, log_run):
    log_run("pretrained", describe(sets["faces"]), describe(sets["other"]))
    log_run("sampled", describe(sets["sample"]), experiment="disfa")
    log_run("unfinished", describe(sets["faces"]), has_card=False)
    log_run("clean", describe(sets["clean"]))
    store = log_run("stranger", describe(sets["other"]))
    exposed = find_exposed_runs(store, sets["faces"], [PERSON])
    assert {entry.run.name: (entry.experiment, entry.use) for entry in exposed} == {
        "pretrained": ("bp4d", "pre-trained on faces"),
        "sampled": ("disfa", "pre-trained on faces"),
        "unfinished": ("bp4d", "has it among its data"),
    }
    assert all(entry.is_trained for entry in exposed)
    assert dict(exposed[0].weights).keys() == {"/runs/pretrained.safetensors"}


def test_a_set_that_was_made_from_others_leads_to_their_runs_too(sets, log_run):
    store = log_run("before", describe(sets["faces"]))
    (exposed,) = find_exposed_runs(store, sets["sample"], [PERSON])
    assert exposed.run.name == "before"


def test_a_version_that_forgot_somebody_else_still_holds_the_person(sets, log_run, tmp_path):
    forget_people(sets["faces"], str(tmp_path / "less"), identities=["id00001"])
    store = log_run("later", describe(Dataset(str(tmp_path / "less"))))
    assert [entry.run.name for entry in find_exposed_runs(store, sets["faces"], [PERSON])] == ["later"]
    assert [entry.run.name for entry in find_exposed_runs(store, sets["faces"], ["id00001"])] == []
    assert [entry.run.name for entry in find_exposed_runs(store, sets["faces"], ["id00001", PERSON])] == ["later"]


def test_folds_say_where_the_person_was_trained_on_and_where_tested(sets, log_run):
    folds = {"fold0": ["id00000", "id00001"], "fold1": ["id00002", PERSON], "fold2": ["id00004", "id00005"]}
    log_run("crossed", describe(sets["faces"], folds))
    log_run("moved", describe(sets["faces"], folds), spec={"evaluate": {"transfer": [sets["faces"].url]}})
    store = log_run("tested", describe(sets["faces"], {"all": list(sets["faces"].runs.identities)}))
    log_run("learned", describe(sets["faces"], {"official": ["id00001"]}))
    exposed = {entry.run.name: entry for entry in find_exposed_runs(store, sets["faces"], [PERSON])}
    assert exposed["learned"].use == "trained on faces in official, tested in none"
    assert exposed["crossed"].use == "trained on faces in fold0, fold2, tested in fold1"
    assert exposed["moved"].use == exposed["tested"].use == "only tested on faces"
    assert [name for name, entry in exposed.items() if entry.is_trained] == ["crossed", "learned"]


def test_weights_are_followed_through_later_runs(sets, log_run):
    log_run("first", describe(sets["faces"]), sha256="a" * 64)
    log_run("second", describe(sets["other"]), sha256="b" * 64, spec={"start": {"url": "x", "sha256": "a" * 12}})
    log_run("third", describe(sets["other"]), spec={"inputs": {"base": {"url": "y", "sha256": "b" * 64}, "none": None}})
    store = log_run("apart", describe(sets["other"]), spec={"start": {"url": "x", "sha256": "c" * 64}})
    exposed = {entry.run.name: entry.use for entry in find_exposed_runs(store, sets["faces"], [PERSON])}
    assert exposed == {
        "first": "pre-trained on faces",
        "second": "starts from the weights of first",
        "third": "starts from the weights of second",
    }


def test_registered_models_of_a_run_are_listed(sets, log_run):
    store = log_run("pretrained", describe(sets["faces"]))
    api = MlflowClient(store)
    (exposed,) = find_exposed_runs(store, sets["faces"], [PERSON])
    api.create_registered_model("clp")
    api.create_model_version("clp", str(Path("/models")), exposed.run.id)
    (exposed,) = find_exposed_runs(store, sets["faces"], [PERSON])
    assert exposed.models == ("clp/1",)


def test_a_history_is_kept_through_unions(sets):
    recipe = extend_history([sets["sample"], sets["other"]], {"command": "merge"})
    assert [entry["command"] for entry in recipe["history"]] == ["sample", "merge"]
