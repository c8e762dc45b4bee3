"""A sweep is resumed from plain data: what others may put into its folder, on a disk or in a bucket, is never unpickled.

`tests/integration/test_sweep.py` resumes a whole sweep in whose folder every pickle has been replaced.
"""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import pytest
from ray import tune
from ray.train._internal.session import _TrainingResult
from ray.tune.experiment.trial import Trial as RayTuneTrial

from facscale.compat.ray_tune import forget_pickled_error
from facscale.data.storage import Folder
from facscale.spec.sweep import Sweep
from facscale.sweep.outcome import TrialOutcome
from facscale.sweep.record import FILE, SweepError, read_record, write_record
from facscale.sweep.trial import POINTER, Trial
from facscale.train.task import ResumePoint
from harmful import Harmful

pytestmark = pytest.mark.usefixtures("harmless")

SWEEP = Sweep(space={"method.queue_size": (64, 128)}, search="random", trials=6)


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow("an S3 server"))])
def folder(request, tmp_path):
    """The folder of a sweep, on a disk and in a bucket."""
    place = tmp_path if request.param == "local" else request.getfixturevalue("s3_bucket")
    return Folder(f"{place}/sweep")


def test_a_forged_record_is_an_error(folder):
    outcomes = [TrialOutcome("t0", {"method.queue_size": 64}, has_ended=True)]
    write_record(folder, outcomes)
    assert read_record(folder, SWEEP) == outcomes
    folder.write("tuner.pkl", pickle.dumps(Harmful()))
    assert read_record(folder, SWEEP) == outcomes
    folder.write(FILE, pickle.dumps(Harmful()))
    with pytest.raises(SweepError, match=f"sweep/{FILE} is not the record of this sweep"):
        read_record(folder, SWEEP)


def test_nothing_that_lies_beside_a_trials_checkpoint_is_unpickled(folder):
    """Ray Tune reads a checkpoint while the sweep runs: with PBT, and after a trial has failed."""
    name = "trial-1/checkpoint_000000"
    folder.write(f"{name}/{POINTER}", b'{"training": "best-1-t0", "step": 3}')
    folder.write(f"{name}/_dict_checkpoint.pkl", pickle.dumps(Harmful()))  # Ray Tune would load it
    checkpoint = tune.Checkpoint(f"{folder._path}/{name}", filesystem=folder._filesystem)
    trial = Trial.__new__(Trial)
    trial._local_ip = "127.0.0.1"
    trial.restore(_TrainingResult(checkpoint, {"training_iteration": 2}))
    assert trial.resume_from == ResumePoint("best-1-t0", 3)
    assert trial.iteration == 2


def test_what_ended_a_trial_is_read_as_text(folder):
    """Ray Tune collects the errors of all trials at the end of a run, from the folder of the sweep."""
    name = "trial-1"
    folder.write(f"{name}/error.pkl", pickle.dumps(Harmful()))
    folder.write(f"{name}/error.txt", b"it ended")
    trial = RayTuneTrial("facscale", stub=True)
    trial.run_metadata.error_filename, trial.run_metadata.pickled_error_filename = "error.txt", "error.pkl"
    trial.storage = SimpleNamespace(
        storage_filesystem=folder._filesystem, trial_fs_path=f"{folder._path}/{name}", experiment_dir_name="sweep"
    )
    forget_pickled_error(trial)
    assert trial.get_pickled_error() is None
    assert "it ended" in str(trial.get_error())
