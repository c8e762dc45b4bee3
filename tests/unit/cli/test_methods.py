"""`facscale methods`: the list of methods, and the description of one."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from facscale import methods
from facscale.cli import main
from facscale.cli.methods import describe_method, find_jobs, format_inputs, format_views, get_citation
from facscale.data.views import FrameSequence, RandomFrames
from facscale.spec import read_spec


@pytest.fixture
def shown(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    return lambda *words: CliRunner().invoke(main, ["methods", *words]).output


def test_the_list_has_a_block_for_each_method(shown):
    lines = shown().splitlines()
    begun = [line.split()[0] for line in lines if line.split() and line.split()[0] in methods.list_methods()]
    assert begun == list(methods.list_methods())
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


@pytest.mark.parametrize("name", [name for name in methods.list_methods() if find_jobs(name)])
def test_defaults_are_shown_as_they_are_overridden(name, monkeypatch):
    monkeypatch.setenv("FACSCALE_DATA", "s3://faces")
    shown = [f"method.{word}" for word in describe_method(name)["defaults"].split()]
    _, kind, config = methods.configure(read_spec(find_jobs(name)[0], [f"method.name={name}", *shown]))
    assert config == kind.Config()


def test_what_a_method_needs_is_told_by_source():
    views = {
        "clip": FrameSequence(length=9),
        "faces": RandomFrames(count=2, views=2),
        "face": RandomFrames(source="labelled", columns=("au", "intensity"), views=2),
    }
    assert format_views(views) == (
        "unlabelled: clip (9 frames), faces (2 frames, 2 augmented copies of each); "
        "labelled: face (1 frame, 2 augmented copies, with au and intensity)"
    )


def test_a_method_of_another_package_may_have_no_paper(plugins):
    assert get_citation(methods.find_method("tiny-gan")).startswith("A generator that paints faces")
    assert format_inputs(methods.find_method("tiny-staged")) == "teacher"
    assert "jobs" not in describe_method("tiny-gan")


def test_a_job_that_extends_another_has_its_method():
    assert [path.stem for path in find_jobs("moco")] == ["moco", "mocov2"]


def test_one_method_says_which_jobs_run_it(shown):
    output = shown("moco")
    assert "jobs: jobs/moco.yaml, jobs/mocov2.yaml" in output
    assert "theta_k <- m theta_k + (1 - m) theta_q" in output
