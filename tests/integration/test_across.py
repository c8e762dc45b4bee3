"""A job on two labelled sets that test each other, whole: table, matrix, pictures and card, and the card judged again."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import mlflow
import pytest

from faces import write_face_data_set
from facscale.job.run import run_job
from facscale.job.verify import verify_card
from facscale.spec import read_spec
from prepared import prepare_job

pytestmark = pytest.mark.slow("a whole job on Ray")

JOB = """\
method: {{name: simclr, depth: 18, width: 4, embedding: 8}}
data: {{unlabelled: {folder}/one, labelled: [{folder}/one, {folder}/other], image_size: 32, threads: 1}}
train: {{epochs: 0}}
cluster: {{workers: 1, gpus_per_worker: 0, cpus_per_worker: 1, storage: "{folder}/runs"}}
evaluate: {{cross_dataset: pairs, folds: 2, probe: {{epochs: 2, batch_size: 32}}, rendered_people: 0}}
track: {{uri: "sqlite:///{folder}/mlflow.db", experiment: both}}
"""


@pytest.mark.usefixtures("ray_cluster")
def test_two_sets_test_each_other(tmp_path, capsys):
    for name, aus in (("one", (1, 12)), ("other", (12, 4))):
        write_face_data_set(str(tmp_path / name), [8] * 6, au=aus, name=name)
    job = tmp_path / "job.yaml"
    job.write_text(JOB.format(folder=tmp_path))
    assert run_job(prepare_job(read_spec(job), name="both")) == 0
    printed = capsys.readouterr().out
    assert "learned on" in printed
    assert "the unlabelled data hold 6 of the 6 people of one: pre-training sees the faces" in printed
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("both").experiment_id])
    lines = Path(client.download_artifacts(run.info.run_id, "across.csv")).read_text().splitlines()
    cells = {(line["learned"], line["tested"]): float(line["f1"]) for line in csv.DictReader(lines)}
    assert set(cells) == {("one", "one"), ("one", "other"), ("other", "other"), ("other", "one")}
    metrics = run.data.metrics
    assert cells["one", "one"] == pytest.approx(100 * metrics["f1/mean"], abs=0.01)
    assert cells["other", "one"] == pytest.approx(100 * metrics["one--learned-on-other/f1/AU12"], abs=0.01)
    figures = {file.path for file in client.list_artifacts(run.info.run_id, "figures")}
    assert {"figures/across.png", "figures/map_one.png", "figures/attention_one.png"} <= figures
    card = client.download_artifacts(run.info.run_id, "card.json")
    told = {
        one["name"]: one["folds"]["subjects"] for one in json.loads(Path(card).read_text())["data"] if "folds" in one
    }
    assert {name: len(folds) for name, folds in told.items()} == {"one": 2, "other": 2}
    assert verify_card(card), "every digit holds"
