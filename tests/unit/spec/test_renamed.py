"""Renamed keys: an old name is an error that gives the new one, and digests and stored specs keep working."""

from __future__ import annotations

import json

import pytest

from facscale.cluster.kubernetes.submission import build_submission
from facscale.job.variants import expand_variants, make_run_key, make_training_key
from facscale.methods import DataFacts, configure
from facscale.spec import Job, SpecError, read_spec
from facscale.spec.models import Evaluate
from facscale.spec.renamed import restore_old_names, update_old_names
from facscale.train.task import TrainingTask

SPEC = """method: {name: aunet}
stages:
  first: {data: {joint: true}, evaluate: {cross_dataset: ""}, cluster: {collective_timeout_s: 30}}
data: {labelled: [s3://faces/bp4d, s3://faces/disfa], epoch: {samples_per: frame}}
cluster: {collective_timeout_s: 60, resize_interval_s: 10, storage: s3://runs}
evaluate:
  cross_dataset: pairs
  baselines:
    joint: {data: {joint: true}, evaluate: {cross_dataset: ""}}
    none: null
sweep: {space: {data.joint: [true, false], train.epochs: {low: 1, high: 3}}}
"""
RENAMED = {
    "cluster.patience": "cluster.collective_timeout_s",
    "cluster.regroup": "cluster.resize_interval_s",
    "evaluate.across": "evaluate.cross_dataset",
    "data.mixed": "data.joint",
    "data.per_track": 'data.epoch: {"samples_per": "track", "count": 1}',
}


@pytest.fixture
def spec(tmp_path):
    """A function: the path of a file with this text."""

    def write(text=SPEC):
        path = tmp_path / "job.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_is_an_error_with_the_new_one(spec, old, new):
    block, key = old.split(".")
    path = spec(f"method: {{name: clp}}\n{block}:\n  {key}: 1\n")
    with pytest.raises(SpecError) as error:
        configure(read_spec(path))
    assert str(error.value) == f"{path}:3: {old} is now called {new}"


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_on_the_command_line(spec, old, new):
    with pytest.raises(SpecError) as error:
        configure(read_spec(spec(), [f"{old}=1"]))
    assert str(error.value) == f"command line ({old}=1): {old} is now called {new}"


@pytest.mark.parametrize("patches", ["stages: {first: {", "evaluate: {baselines: {first: {", "sweep: {space: {"])
def test_an_old_name_in_a_patch(spec, patches):
    inner = "data.mixed: [true, false]" if "space" in patches else "data: {mixed: true}"
    path = spec(f"method: {{name: clp}}\n{patches}{inner}{'}' * patches.count('{')}\n")
    with pytest.raises(SpecError) as error:
        check_spec(path)
    assert str(error.value) == f"{path}:2: data.mixed is now called data.joint"


def check_spec(path):
    """The checks of `facscale check` before it opens data."""
    from facscale.sweep.space import check_space

    document = read_spec(path)
    (main, *_) = expand_variants(document, name="job")
    if main.job.sweep:
        check_space(document, main.job.sweep, name="job")


def test_digests_are_those_from_before_the_renaming(spec):
    """Computed by commit ffa031f, on this spec with `per_track: all`, and without keys that were added later."""
    variants = expand_variants(read_spec(spec()), name="job")
    assert make_run_key(variants, fingerprints=["a", "b"], cluster="here") == "6178f79a3c2d"
    keys = [make_training_key(TrainingTask(row.job, row.config, DataFacts()), fingerprints=["a"]) for row in variants]
    assert keys == ["96e205275d4e", "8410784f6365"]
    submission = build_submission(spec(), ["name=job"])
    assert submission.digest == "647930b348ddcf476fcb1f8b81f14a50a03141ce3eb3a9473003cd10014db3fb"
    assert submission.training_digest == "96ecffe91a8091e2"


def test_old_names_are_restored_everywhere_and_updated_again(spec):
    dump = configure(read_spec(spec()))[0].model_dump(mode="json")
    before = json.dumps(dump)
    old = restore_old_names(dump)
    assert json.dumps(dump) == before  # not changed in place
    assert old["cluster"] | {"patience": 60, "regroup": 10.0} == old["cluster"]
    assert old["stages"]["first"] == {"data": {"mixed": True}, "evaluate": {"across": ""}, "cluster": {"patience": 30}}
    assert old["evaluate"]["baselines"] == {
        "joint": {"data": {"mixed": True}, "evaluate": {"across": ""}},
        "none": None,
    }
    assert list(old["sweep"]["space"]) == ["data.mixed", "train.epochs"]
    assert not any(f'"{name.split(".")[1]}"' in json.dumps(old) for name in RENAMED.values() if name != "data.joint")
    assert old["data"]["per_track"] == "all"
    assert "epoch" not in old["data"]
    assert Job.model_validate(update_old_names(old)).model_dump(mode="json") == dump
    assert update_old_names(dump) == dump


def test_the_official_split_changes_a_digest_only_where_it_is_not_wanted():
    assert restore_old_names({"evaluate": {"folds": 3, "official_split": True}}) == {"evaluate": {"folds": 3}}
    spec = {"evaluate": {"folds": 3, "official_split": False}}
    assert restore_old_names(spec) == spec


def test_samples_of_tracks_have_another_digest_since_they_are_others():
    """A number of `per_track` counted parts of tracks that row groups cut, so a training of that time is not this one."""
    epoch = {"samples_per": "track", "count": 2}
    assert restore_old_names({"data": {"epoch": epoch}}) == {"data": {"epoch": epoch}}
    assert update_old_names({"data": {"per_track": 2}}) == {"data": {"epoch": epoch}}
    assert update_old_names({"data": {"per_track": "all"}}) == {"data": {"epoch": {"samples_per": "frame", "count": 1}}}


def test_added_keys_change_a_digest_only_where_they_are_set():
    spec = {"data": {"augment": {"crop": [0.8, 1.0], "shift": None, "eval_crop": None}}}
    assert restore_old_names(spec) == {"data": {"augment": {"crop": [0.8, 1.0]}}}
    spec["data"]["augment"]["shift"] = 0.04
    assert restore_old_names(spec)["data"]["augment"] == {"crop": [0.8, 1.0], "shift": 0.04}
    evaluate = Evaluate().model_dump(mode="json")
    assert "adaptation" not in restore_old_names({"evaluate": evaluate})["evaluate"]
    assert "weighting" not in restore_old_names({"evaluate": evaluate})["evaluate"]["probe"]
    evaluate["adaptation"]["epochs"] = 7
    assert restore_old_names({"evaluate": evaluate})["evaluate"]["adaptation"]["epochs"] == 7


def test_every_frame_is_seen_once(spec):
    path = spec("method: {name: clp}\ndata:\n  epoch: {samples_per: frame, count: 2}\n")
    with pytest.raises(SpecError, match=r"job.yaml:3: .*write count: 1, and raise train.epochs"):
        configure(read_spec(path))


def test_some_blocks_of_a_spec():
    assert restore_old_names({"evaluate": {"cross_dataset": "pairs"}}) == {"evaluate": {"across": "pairs"}}
