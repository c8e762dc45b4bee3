"""`facscale methods`: the list, and one method."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from facscale import methods
from facscale.cli import main
from facscale.cli.methods import citation, inputs, jobs, needs, summary
from facscale.data.views import Frames, Sequence
from facscale.spec import read


@pytest.fixture
def shown(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    return lambda *words: CliRunner().invoke(main, ["methods", *words]).output


def test_the_list_has_a_block_for_each_method(shown):
    lines = shown().splitlines()
    begun = [line.split()[0] for line in lines if line.split() and line.split()[0] in methods.names()]
    assert begun == list(methods.names())
    assert max(map(len, lines)) <= 120
    for heading in ("paper", "needs", "defaults", "jobs"):
        assert sum(line.startswith(f"  {heading} ") for line in lines) == len(begun), heading


def test_a_block_says_paper_needs_and_defaults(shown):
    block = shown().split("supervised  ")[1].split("\n\n")[0]
    assert "Li and Shan, TIP 2023" in block
    assert "labelled: face (1 frame, with au)" in block
    assert "pretrained (optional)" in block
    assert "depth=34 width=64 trainable=all" in block
    assert "jobs/supervised.yaml, jobs/supervised_imagenet.yaml" in block


@pytest.mark.parametrize("name", [name for name in methods.names() if jobs(name)])
def test_defaults_are_shown_as_they_are_overridden(name, monkeypatch):
    monkeypatch.setenv("FACSCALE_DATA", "s3://faces")
    shown = [f"method.{word}" for word in summary(name)["defaults"].split()]
    _, kind, config = methods.configure(read(jobs(name)[0], [f"method.name={name}", *shown]))
    assert config == kind.Config()


def test_what_a_method_needs_is_told_by_source():
    views = {
        "clip": Sequence(length=9),
        "faces": Frames(count=2, views=2),
        "face": Frames(source="labelled", columns=("au", "intensity"), views=2),
    }
    assert needs(views) == (
        "unlabelled: clip (9 frames), faces (2 frames, 2 augmented copies of each); "
        "labelled: face (1 frame, 2 augmented copies, with au and intensity)"
    )


def test_a_method_of_another_package_may_have_no_paper(plugins):
    assert citation(methods.find("tiny-gan")).startswith("A generator that paints faces")
    assert inputs(methods.find("tiny-staged")) == "teacher"
    assert "jobs" not in summary("tiny-gan")


def test_a_job_that_extends_another_has_its_method():
    assert [path.stem for path in jobs("moco")] == ["moco", "mocov2"]


def test_one_method_says_which_jobs_run_it(shown):
    one = shown("moco")
    assert "jobs: jobs/moco.yaml, jobs/mocov2.yaml" in one
    assert "theta_k <- m theta_k + (1 - m) theta_q" in one
