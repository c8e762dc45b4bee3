"""Renamed keys: an old name is an error that gives the new one, and digests and stored specs keep working."""

from __future__ import annotations

import json

import pytest

from facscale.cluster.kubernetes.submission import build_submission
from facscale.job.variants import expand_variants, make_run_key, make_training_key
from facscale.methods import DataFacts, configure
from facscale.spec import Job, SpecError, read_spec
from facscale.spec.renamed import restore_old_names, update_old_names
from facscale.train.task import TrainingTask

SPEC = """method: {name: aunet}
stages:
  first: {data: {joint: true}, evaluate: {cross_dataset: ""}, cluster: {collective_timeout_s: 30}}
data: {labelled: [s3://faces/bp4d, s3://faces/disfa]}
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
    """Computed by the last commit with the old names, on this spec with the old names."""
    variants = expand_variants(read_spec(spec()), name="job")
    assert make_run_key(variants, fingerprints=["a", "b"], cluster="here") == "fcc340d633fd"
    keys = [make_training_key(TrainingTask(row.job, row.config, DataFacts()), fingerprints=["a"]) for row in variants]
    assert keys == ["a9eab67e588c", "1b6dd88de7fa"]
    submission = build_submission(spec(), ["name=job"])
    assert submission.digest == "79b2701e911336696945e12feebc6f75c559540c3bd063f79aaaa40e2b4e35b9"
    assert submission.training_digest == "14d43d35d4b43d50"


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
    assert Job.model_validate(update_old_names(old)).model_dump(mode="json") == dump
    assert update_old_names(dump) == dump


def test_the_official_split_changes_a_digest_only_where_it_is_not_wanted():
    assert restore_old_names({"evaluate": {"folds": 3, "official_split": True}}) == {"evaluate": {"folds": 3}}
    spec = {"evaluate": {"folds": 3, "official_split": False}}
    assert restore_old_names(spec) == spec


def test_some_blocks_of_a_spec():
    assert restore_old_names({"evaluate": {"cross_dataset": "pairs"}}) == {"evaluate": {"across": "pairs"}}
