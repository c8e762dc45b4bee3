"""A curriculum that has reached its last window lowers the learning rate of the training, in this process and without Ray."""

from __future__ import annotations

import pytest

from faces import write_face_data_set
from facscale import methods
from facscale.methods import DataFacts
from facscale.nn.curriculum import Curriculum
from facscale.spec import Document
from facscale.train.events import StepMetrics
from facscale.train.local import LocalTrainer
from facscale.train.task import TrainingTask
from watching import Interrupted

pytestmark = pytest.mark.slow("two trainings of half a minute together")

RATE = 1e-30  # weights do not change, so that most validations are stalls


def make_task(folder, data):
    spec = {
        "method": {"name": "fabnet", "windows": 1, "patience": 1, "rate_patience": 1},
        "data": {
            "unlabelled": data,
            "image_size": 32,
            "threads": 1,
            "validation": 0.3,
            "augment": {"crop_per": "epoch"},
        },
        "train": {
            "batch_size": 2,
            "epochs": 12,
            "optimizer": {"name": "sgd", "lr": RATE},
            "log_every": 1,
            "checkpoint_every": 4,
            "probe_every": 0,
            "validate_every": 1,
            "validation_batches": 1,
        },
        "cluster": {"gpus_per_worker": 0, "storage": str(folder)},
    }
    job, _, config = methods.configure(Document(spec, {}))
    return TrainingTask(job, config, DataFacts())


@pytest.fixture
def data(tmp_path):
    write_face_data_set(str(tmp_path / "faces"), [4] * 7)  # five people to train on
    return str(tmp_path / "faces")


def test_the_rate_falls_after_stalls_and_stays_low_in_a_resumed_training(tmp_path, data):
    """At each step it is what a curriculum that hears of all validations before has, also after an interruption."""
    rates, validations = {}, {}

    def receive(event, *, stop_at=None):
        if not isinstance(event, StepMetrics):
            return
        if "validation/total" in event.values:
            validations.setdefault(event.step, event.values["validation/total"])
        if "learning_rate" in event.values:
            rates.setdefault(event.step, event.values["learning_rate"])
            if event.step == stop_at:
                raise Interrupted

    with pytest.raises(Interrupted):
        LocalTrainer().fit(make_task(tmp_path, data), name="run", receive=lambda event: receive(event, stop_at=18))
    LocalTrainer().fit(make_task(tmp_path, data), name="run", receive=receive)
    curriculum = Curriculum(windows=1, patience=1, rate_patience=1)
    for step in range(1, 31):
        assert rates[step] == pytest.approx(RATE * float(curriculum.rate)), step
        curriculum.after_validation(validations[step])
    assert rates[30] < 0.02 * rates[1]
