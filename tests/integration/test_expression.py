"""From shards of single images to a confusion matrix, through Ray: an encoder that has learned nothing tells light from dark."""

from __future__ import annotations

import numpy as np
import pytest

from faces import write_expression_data_set
from facscale.inference import export
from facscale.job.datasets import open_expression_sets
from facscale.job.evaluator import evaluate_expressions
from facscale.methods import DataFacts
from facscale.methods.simclr import SimCLR
from facscale.spec import Job

pytestmark = pytest.mark.slow("an embedding on Ray")


@pytest.mark.usefixtures("ray_cluster")
def test_an_encoder_is_asked_about_the_test_part(tmp_path):
    moods = write_expression_data_set(str(tmp_path / "moods"), train=20, test=5)
    job = Job.model_validate(
        {
            "method": {"name": "simclr"},
            "data": {"image_size": 32},
            "cluster": {"storage": str(tmp_path / "runs"), "gpus_per_worker": 0, "cpus_per_worker": 1},
            "evaluate": {"expressions": [moods.url], "probe": {"epochs": 60, "batch_size": 20}},
        }
    )
    exported = export.save_export(export.build_method_for_job(job, SimCLR.Config(depth=18, width=4), DataFacts(), {}))
    found = evaluate_expressions(exported, open_expression_sets(job), job=job)["moods"]
    assert found.classes == ("calm", "glad", "wild")
    assert found.counts.sum(axis=1).tolist() == [5, 5, 5]
    assert found.accuracy > 0.8  # chance: 1/3
    assert len(list((tmp_path / "runs/embeddings").iterdir())) == 1
    again = evaluate_expressions(exported, open_expression_sets(job), job=job)["moods"]
    assert np.array_equal(again.counts, found.counts)
