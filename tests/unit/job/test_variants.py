"""The rows of a job's table."""

from __future__ import annotations

from facscale.job.variants import expand_seeds, expand_variants, get_cluster_name, make_run_key, make_training_key
from facscale.methods import DataFacts
from facscale.spec import read_spec
from facscale.train.task import TrainingTask

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
    main, random, wide = expand_variants(read_spec(path), name="main")
    assert [row.name for row in (main, random, wide)] == ["main", "random", "wide"]
    assert [row.config.margin for row in (main, random, wide)] == [0.2, 0.2, 0.5]
    assert random.job.train.epochs == 0


def test_null_leaves_an_inherited_baseline_out(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    assert [row.name for row in expand_variants(read_spec(path, ["evaluate.baselines.random=null"]), name="main")] == [
        "main",
        "wide",
    ]


def test_a_row_is_repeated_for_each_seed_and_only_the_seed_decides_the_weights(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    (main, *_), (once, *_) = (expand_variants(read_spec(path, [f"seeds={n}", "seed=4"]), name="main") for n in (2, 1))
    assert [(row.title, row.job.seed) for row in expand_seeds(main)] == [("main seed 4", 4), ("main seed 5", 5)]
    assert [row.title for row in expand_seeds(once)] == ["main"]
    keys = [
        make_training_key(TrainingTask(row.job, row.config, DataFacts()), fingerprints=[])
        for row in [*expand_seeds(main), once]
    ]
    assert keys[0] == keys[2] != keys[1]


def test_the_same_job_on_two_clusters_with_names_is_two_runs_else_one(tmp_path, monkeypatch):
    path = tmp_path / "job.yaml"
    path.write_text(JOB)

    def key(*overrides):
        (main, *others) = expand_variants(read_spec(path, list(overrides)), name="main")
        return make_run_key([main, *others], fingerprints=["data"], cluster=get_cluster_name(main.job))

    monkeypatch.delenv("FACSCALE_CLUSTER", raising=False)
    nameless, east, west = key(), key("cluster.name=east"), key("cluster.name=west")
    assert len({nameless, east, west}) == 3
    assert nameless == key("cluster.workers=4")
    monkeypatch.setenv("FACSCALE_CLUSTER", "east")
    assert key() == east
    assert key("cluster.name=west") == west  # the file has the last word
    assert key("method.margin=0.4") not in {nameless, east, west}
    assert len({east, key("name=first"), key("name=second"), key("name=east")}) == 4  # another name is another run
