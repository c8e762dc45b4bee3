"""Rows of a job that train in each fold: with labels after a stage, and BatchNorm alone. They are trained in this process.

How a job is submitted to Ray, and trains there, is tests/e2e/test_job.py.
"""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from safetensors.torch import load

from faces import write_expression_data_set, write_face_data_set
from facscale.evaluate.predictions import Predictions
from facscale.job.run import run_job
from facscale.job.verify import verify_card
from facscale.spec import read_spec
from facscale.train.local import LocalTrainer
from prepared import prepare_job

pytestmark = pytest.mark.slow("seven trainings in this process; faces are embedded on Ray", minutes=1.5)

AUS = (1, 2, 4, 6, 12)
JOB = """\
method: {{name: clp, depth: 18, width: 4, hidden: 8, embedding: 8, length: 3, queue_size: 32}}
data: {{unlabelled: {folder}/unlabelled, labelled: {folder}/labelled, image_size: 32, threads: 1}}
train: {{batch_size: 8, epochs: 1, log_every: 1, checkpoint_every: 3, probe_every: 0}}
cluster: {{workers: 2, gpus_per_worker: 0, cpus_per_worker: 1, storage: {folder}/runs}}
track: {{uri: "sqlite:///{folder}/mlflow.db", experiment: rows}}
evaluate:
  folds: 2
  expressions: [{folder}/moods]
  probe: {{epochs: 2, batch_size: 32}}
  adaptation: {{epochs: 1, batch_size: 32}}
  rendered_people: 0
  baselines:
    batchnorm adapts: {{train: {{epochs: 0}}, evaluate: {{protocol: adapted-batchnorm}}, cluster: {{workers: 1}}}}
    labels learned:
      cluster: {{workers: 1}}
      method: {{name: aunet, interval: 2, resnet_width: 4, hidden: 8}}
      stages: {{labels: {{method: {{name: labelvae, latent: 2}}, train: {{probe_every: 0}}}}}}
      inputs: {{labels: {{stage: labels}}}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rows")


@pytest.fixture(scope="module")
def printed(ray_cluster, folder):
    """What the job printed; its results are in `folder`."""
    write_face_data_set(str(folder / "unlabelled"), [12] * 24, row_group_mb=0.2)
    write_face_data_set(str(folder / "labelled"), [20] * 9, au=AUS, row_group_mb=0.2, name="labelled")
    write_expression_data_set(str(folder / "moods"))
    job = folder / "job.yaml"
    job.write_text(JOB.format(folder=folder))
    with redirect_stdout(StringIO()) as output:
        assert run_job(prepare_job(read_spec(job), name="tiny"), trainer=LocalTrainer()) == 0
    return output.getvalue()


@pytest.fixture
def client(printed, folder):
    return mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")


def list_runs(client, row):
    experiment = client.get_experiment_by_name("rows").experiment_id
    return {run.info.run_name: run for run in client.search_runs([experiment], f"tags.row = '{row}'")}


def read_artifact(client, run, name):
    return Path(client.download_artifacts(run.info.run_id, name)).read_bytes()


def test_the_tables_say_how_each_row_was_judged(printed):
    notes = " ".join(printed.split())
    assert "frozen except for its BatchNorm layers: batchnorm adapts" in notes
    assert "trained on the labels of each fold's training people: labels learned" in notes


def test_batchnorm_alone_learns_in_the_adapted_probe(printed, folder):
    """The paper's other protocol: convolutions stay frozen, BatchNorm and classifier are trained in every fold."""
    runs = folder / "runs"
    (before,) = (path for path in runs.glob("batchnorm-adapts-*/method.safetensors") if "fold" not in path.parent.name)
    (fold,) = runs.glob("batchnorm-adapts-labelled-fold1-*/method.safetensors")
    untrained, adapted = load(before.read_bytes()), load(fold.read_bytes())
    assert torch.equal(untrained["encoder.layer4.1.conv2.weight"], adapted["encoder.layer4.1.conv2.weight"])
    assert not torch.equal(untrained["encoder.layer4.1.bn2.weight"], adapted["encoder.layer4.1.bn2.weight"])


def test_a_row_that_learns_from_labels_is_trained_fold_by_fold_with_its_stage(client):
    (main,) = list_runs(client, "tiny").values()
    runs = list_runs(client, "labels learned")
    names = [f"labels learned labelled fold{number}" for number in range(2)]
    assert set(runs) == {"labels learned", *names, *(f"{name} labels" for name in names)}
    assert all(run.data.tags["mlflow.parentRunId"] == main.info.run_id for run in runs.values())
    row, folds = runs["labels learned"], [runs[name] for name in names]
    assert 0 <= row.data.metrics["expression/moods/accuracy"] <= 1  # its first fold's encoder's
    mean = np.mean([run.data.metrics["f1/mean"] for run in folds])
    assert row.data.metrics["fold1/f1/mean"] == folds[1].data.metrics["f1/mean"]
    assert mean == pytest.approx(row.data.metrics["f1/mean"], abs=0.05)
    assert "loss/consistency" in folds[0].data.metrics
    assert "loss/divergence" in runs[f"{names[0]} labels"].data.metrics
    weights = load(read_artifact(client, folds[1], "method.safetensors"))
    assert {"classifier.3.weight", "labels.coders.0.mean.weight"} <= weights.keys()
    table = Predictions.from_parquet(read_artifact(client, row, "predictions_labelled.parquet"))
    assert len(table) == 9 * 20
    people = [set(table.identity[table.fold == number].tolist()) for number in range(2)]
    assert not people[0] & people[1]
    assert table.score(0.5).mean == pytest.approx(row.data.metrics["f1/mean"])


@pytest.mark.parametrize("row", ["labels learned", "batchnorm adapts"])
def test_a_row_is_judged_again_to_the_same_digits(client, row, capsys):
    run = list_runs(client, row)[row]
    assert verify_card(client.download_artifacts(run.info.run_id, "card.json"))
    assert "labelled: every digit holds" in capsys.readouterr().out
