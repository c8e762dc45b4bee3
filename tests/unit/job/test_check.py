"""The plan that `facscale check` prints: as a tree, and without the data at hand."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from conftest import ROOT
from faces import write_face_data_set
from facscale.cli import main
from facscale.report.published import load_trainings


@pytest.fixture
def check(monkeypatch):
    def run(*words):
        monkeypatch.delenv("FACSCALE_DATA", raising=False)
        monkeypatch.delenv("FACSCALE_WEIGHTS", raising=False)
        return CliRunner().invoke(main, ["check", *map(str, words)])

    return run


def plan_of(done):
    """The lines of the tree."""
    assert done.exit_code == 0, done.output
    return done.output[done.output.index("plan: ") :].splitlines()


def test_a_job_whose_data_is_elsewhere_is_planned_with_published_sizes(check):
    done = check(ROOT / "jobs" / "clp.yaml")
    assert "not at hand: ${FACSCALE_DATA}/voxceleb2; the plan takes the published size of VoxCeleb2" in done.output
    assert "about 47,952 samples of VoxCeleb2" in done.output  # 8 of each person in the dev part
    assert "about 153,000 steps: 200 epochs of one clip a video" in " ".join(done.output.split())
    assert "folds from BP4D's published parts: 14 people, 14 people, 13 people" in done.output
    words = " ".join(done.output.split())
    stages = re.findall(r"stage (\d) takes ([\d.]+) GiB of each of 4 workers and sends ([\d.]+) GiB a step", words)
    assert [number for number, _, _ in stages] == ["0", "1", "2"]
    memory = [float(size) for _, size, _ in stages]
    assert [memory[0] - size for size in memory[1:]] == pytest.approx([0.06, 0.12], abs=0.02)  # three quarters of 0.08
    gradients = 4 * 21.55e6 / 2**30
    assert [float(sent) for _, _, sent in stages] == pytest.approx([n * gradients * 3 / 4 for n in (2, 3, 3)], abs=0.01)
    assert re.search(r"from the store [\d,]+ frames/s for 4 H200s at 15% of their 16-bit rate", words)
    head, training, *evaluations = plan_of(done)
    assert head == "plan: 7 trainings for 1 row; each waits for the one that it hangs below"
    assert training.startswith("└── clp: clp, 149,850 steps, about ")
    lines = [line.strip(" │├└─") for line in evaluations]
    for name in ("BP4D", "DISFA"):
        (folds,) = (
            line for line in lines if line.startswith(f"clp {name} fold0 … fold2: 3 trainings of supervised, 5 epochs")
        )
        assert re.search(r"a linear layer, [\d,]{5,} steps, about .* on 4 H100 each$", folds)
        protocol = "linear probe on the encoder, which is frozen except for its BatchNorm layers"
        assert f"F1 on {name}, 3 folds: {protocol}" in lines
        assert f"F1 on {name}, 3 folds: linear probe on the frozen encoder" in lines


@pytest.mark.parametrize("name", ["clp", "tcae", "aunet"])
def test_a_job_has_about_as_many_steps_as_the_paper(check, name):
    """TCAE's paper also reads VoxCeleb1, and each fold of AUNet sees two thirds of the people."""
    done = check(ROOT / "jobs" / f"{name}.yaml")
    steps = re.search(rf"\W{name}( BP4D .*)?: .*?{name}, ([\d,]+) steps", "\n".join(plan_of(done)))
    assert int(steps[2].replace(",", "")) == pytest.approx(load_trainings()[name].steps, rel=0.15)


def test_folds_stand_together_below_what_they_wait_for(check):
    done = check(ROOT / "jobs" / "aunet_disfa.yaml")
    assert "is not at hand" in done.output
    head, labels, pretrained, folds, *_ = plan_of(done)
    assert head.startswith("plan: 8 trainings for 1 row;")
    assert labels.startswith("├── bp4d_labels: labelvae, 114,725 steps")
    assert pretrained.startswith("│   └── bp4d: aunet, 27,534 steps, time not known")
    assert "aunet_disfa DISFA fold0 … fold2: 3 trainings of aunet" in folds
    assert folds.endswith("waits for aunet_disfa DISFA fold0 labels too")


def test_baselines_seeds_and_adapted_probes_are_counted(check, tmp_path):
    write_face_data_set(str(tmp_path / "u"), [12] * 6, row_group_mb=0.2)
    write_face_data_set(str(tmp_path / "l"), [20] * 6, au=(1, 12), row_group_mb=0.2, name="labelled")
    (tmp_path / "job.yaml").write_text(
        "method: {name: simclr, depth: 18, width: 4}\nseeds: 2\n"
        f"data: {{unlabelled: {tmp_path}/u, labelled: {tmp_path}/l, image_size: 32}}\n"
        "train: {batch_size: 4, epochs: 2}\ncluster: {gpus_per_worker: 0}\n"
        "evaluate: {folds: 2, protocol: adapted-batchnorm, baselines: {random: {train: {epochs: 0}}}}\n"
    )
    done = check(tmp_path / "job.yaml")
    assert "not at hand" not in done.output
    head, *lines = plan_of(done)
    assert head.startswith("plan: 12 trainings for 2 rows;")  # two rows of two seeds: once, and in each of two folds
    assert any("job: 2 trainings of simclr" in line for line in lines)
    assert any("job labelled fold0 … fold1: 4 trainings of supervised, 5 epochs of BatchNorm" in line for line in lines)
    assert (
        sum("F1 on labelled, 2 folds: linear probe on the encoder, which is frozen except" in line for line in lines)
        == 2
    )
    assert sum("F1 on labelled, 2 folds: linear probe on the frozen encoder" in line for line in lines) == 2


def test_a_variable_that_is_not_set_is_named_where_no_size_is_published(check):
    done = check(ROOT / "jobs" / "demo.yaml")
    assert done.exit_code == 2
    assert "demo.yaml:16: the environment variable FACSCALE_DATA is not set" in done.output


def test_a_damaged_data_set_is_an_error_whatever_is_published(check, tmp_path):
    (tmp_path / "bp4d").mkdir()
    (tmp_path / "bp4d" / "manifest.json").write_text("{")
    done = check(ROOT / "jobs" / "clp.yaml", f"data.labelled=[{tmp_path}/bp4d]")
    assert done.exit_code == 2
    assert "is damaged" in done.output
