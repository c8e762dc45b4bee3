"""The rows of a job's table."""

from __future__ import annotations

from facscale.job.variants import rows
from facscale.spec import read

JOB = """
method: {name: clp, margin: 0.2}
evaluate:
  baselines:
    random: {train: {epochs: 0}}
    wide: {method: {margin: 0.5}}
"""


def test_a_baseline_is_the_job_with_a_patch(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    main, random, wide = rows(read(path), name="main")
    assert [row.name for row in (main, random, wide)] == ["main", "random", "wide"]
    assert [row.config.margin for row in (main, random, wide)] == [0.2, 0.2, 0.5]
    assert random.job.train.epochs == 0


def test_null_leaves_an_inherited_baseline_out(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    assert [row.name for row in rows(read(path, ["evaluate.baselines.random=null"]), name="main")] == ["main", "wide"]
