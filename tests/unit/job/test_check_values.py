"""What `facscale check` passes, starts: values that the schema allows and no training can have are refused."""

from __future__ import annotations

import pytest

from faces import write_face_data_set
from facscale.job.check import check_job, check_methods, check_spec, open_or_outline
from facscale.spec import SpecError, read_spec
from facscale.sweep.run import check_sweep_spec

SIMSIAM = "method={name: simsiam, depth: 18, width: 4, projection: 8, bottleneck: 4}"


@pytest.fixture(scope="module")
def spec_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    write_face_data_set(str(folder / "u"), [12] * 6, row_group_mb=0.2)
    write_face_data_set(str(folder / "l"), [20] * 6, au=(1, 12), row_group_mb=0.2, name="labelled")
    (folder / "job.yaml").write_text(
        "method: {name: clp, depth: 18, width: 4, hidden: 8, embedding: 8, length: 3, queue_size: 32}\n"
        f"data: {{unlabelled: {folder}/u, labelled: {folder}/l, image_size: 32}}\n"
        "train: {batch_size: 4, epochs: 2}\ncluster: {gpus_per_worker: 0}\n"
        "evaluate: {folds: 2}\n"
    )
    return folder / "job.yaml"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["deepspeed={zero_optimization: {stage: auto}}"], r'"deepspeed.zero_optimization.stage": .* 0, 1 or 2, not \'auto\''),
        (["deepspeed={zero_optimization: {stage: 4}}"], '"deepspeed.zero_optimization.stage": .* 0, 1 or 2, not 4'),
        (["deepspeed={zero_optimisation: {stage: 1}}"], 'unknown key "deepspeed.zero_optimisation" .did you mean "zero_opt'),
        (["deepspeed={zero_optimization: {staeg: 1}}"], r'"deepspeed.zero_optimization.staeg" \(did you mean "stage"'),
        (["deepspeed={fp16: {enabled: true}}"], "deepspeed.fp16 is set from train.precision"),
        (["deepspeed={zero_optimization: {offload_optimizer: {device: nvme}}}"], "offload_optimizer is not allowed"),
        (["train.epochs=.inf"], '"train.epochs"'),
        (["train.epochs=1e300"], '"train.epochs": .* less than or equal to 1000000000'),
        (["train.optimizer.lr=.inf"], '"train.optimizer.lr": .*finite'),
        (["train.optimizer.lr=.nan"], '"train.optimizer.lr"'),
        (["method.margin=.inf"], '"method.margin": .*finite'),
        (["train.optimizer={name: adam, betas: [0.9, 1.0]}"], '"train.optimizer.betas.1": .* less than 1'),
        (["cluster.workers=[4,2]"], r"workers must be \[fewest, most\], not \[4, 2\]"),
        (["train.batch_size=6", "cluster.workers=4"], "batch_size 6 does not divide among 4 workers"),
        (["train.batch_size=4096"], "train.batch_size=4096 is more than the 6 samples of an epoch of data.unlabelled"),
        ([SIMSIAM, "train.batch_size=1"], "gives each of 1 workers one sample at a time, and simsiam cannot train on one"),
        ([SIMSIAM, "cluster.workers=4"], "gives each of 4 workers one sample at a time"),
        ([SIMSIAM, "train.accumulate=4"], "one sample at a time"),
        (["method.width=1000000"], "clp does not fit into this machine's memory: a tensor of shape"),
        (["data.image_size=100000"], '"data.image_size": .* less than or equal to 8192'),
    ],
)  # fmt: skip
def test_values_that_no_training_can_have_are_refused_in_one_line(spec_file, overrides, message):
    with pytest.raises(SpecError, match=message) as caught:
        check_job(read_spec(spec_file, overrides), name="job")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [[SIMSIAM, "train.sync_batchnorm=true", "cluster.workers=4"], ["train.batch_size=1"], ["train.epochs=0"]],
)
def test_what_can_be_trained_passes(spec_file, overrides, capsys):
    check_job(read_spec(spec_file, overrides), name="job")


@pytest.mark.parametrize(
    ("space", "overrides", "message"),
    [
        (
            "{train.batch_size: [4, 7]}",
            ["cluster.workers=2"],
            "train.batch_size=7 cannot run: .* 7 does not divide among 2",
        ),
        ("{train.batch_size: [4, 512]}", [], "train.batch_size=512 is more than the 6 samples"),
        ("{method.width: {low: 4, high: 1000000}}", [], "does not fit into this machine's memory"),
    ],
)
def test_a_sweep_with_a_value_that_cannot_run_is_refused(spec_file, space, overrides, message):
    sweep = f"sweep={{space: {space}, trials: 2}}"
    with pytest.raises(SpecError, match=message):
        check_sweep_spec(read_spec(spec_file, [sweep, *overrides]), name="job")


def test_a_run_checks_the_same(spec_file):
    variants = check_spec(read_spec(spec_file, [SIMSIAM, "train.batch_size=1"]), name="job")
    with pytest.raises(SpecError, match="cannot train on one"):
        check_methods(variants, open_or_outline(variants)[0])
