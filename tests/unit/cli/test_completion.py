"""Shell completion: the scripts, and what the arguments of commands complete to."""

from __future__ import annotations

import shutil
import subprocess

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from conftest import ROOT
from facscale import methods
from facscale.cli import main
from facscale.cli.completion import SHELLS, VARIABLE
from facscale.spec import Job


def complete(*words):
    """What Tab offers after these words; the last one is incomplete."""
    completer = ShellComplete(main, {}, "facscale", VARIABLE)
    return [item.value for item in completer.get_completions(list(words[:-1]), words[-1])]


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_a_script_that_it_understands(shell):
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert f"{VARIABLE}={shell}_complete" in result.stdout
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=result.stdout, text=True, check=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_puts_no_space_behind_a_key():
    script = CliRunner().invoke(main, ["completion", "bash"]).stdout
    assert script.count("compopt -o nospace") == 1
    assert script.index("compopt -o nospace") < script.index("return 0")


def test_another_shell_is_refused():
    assert "'tcsh' is not one of" in CliRunner().invoke(main, ["completion", "tcsh"]).output


def test_commands_and_options_are_completed():
    assert complete("re") == ["rehearse", "retrieve"]
    assert complete("submit", "--ku") == ["--kube"]
    assert complete("completion", "") == list(SHELLS)


def test_spec_files_are_completed(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert complete("run", "jobs/cl") == ["jobs/clp.yaml", "jobs/clp_sweep.yaml"]
    assert complete("check", "./pipelines/bp4d.") == ["./pipelines/bp4d.yaml"]
    assert {"jobs/clp.yaml", "pipelines/bp4d.yaml"} <= set(complete("submit", ""))


def test_other_files_are_left_to_the_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    completer = ShellComplete(main, {}, "facscale", VARIABLE)
    for words in (["run"], ["verify"], ["retrieve"], ["data"]):
        (item,) = completer.get_completions(words, "some/where")
        assert (item.type, item.value) == ("file", "some/where")


def test_keys_of_a_job_are_completed():
    assert complete("run", "job.yaml", "train.sch") == [
        f"train.schedule.{key}=" for key in ("name", "warmup_epochs", "milestones", "gamma")
    ]
    assert complete("run", "job.yaml", "train.epochs=3", "see") == ["seed=", "seeds="]
    assert complete("run", "job.yaml", "train.epochs=3", "train.epochs=4", "see") == ["seed=", "seeds="]  # no error yet
    assert complete("run", "job.yaml", "train.epochs=") == ["train.epochs="]
    assert complete("run", "job.yaml", "train.epochs=1") == []
    first = {key.split(".")[0].rstrip("=") for key in complete("run", "job.yaml", "")}
    assert first == set(Job.model_fields)


def test_keys_of_a_pipeline_are_completed():
    assert complete("run", str(ROOT / "pipelines" / "bp4d.yaml"), "source.l") == [
        "source.layout=",
        "source.limit=",
        "source.labels=",
        "source.licence=",
    ]


def test_methods_are_completed_as_they_are_listed(plugins):
    assert complete("methods", "") == list(methods.list_methods())


def test_clusters_are_completed_by_their_kind(tmp_path, monkeypatch):
    file = tmp_path / "clusters.yaml"
    monkeypatch.setenv("FACSCALE_CLUSTERS", str(file))
    assert complete("submit", "job.yaml", "--kube", "") == []
    file.write_text("clusters:\n  munich: {context: gke-munich}\n  lab: {address: 'http://10.1.2.3:8265'}\n")
    assert complete("submit", "job.yaml", "--kube", "") == ["munich"]
    assert complete("list", "--ray", "l") == ["lab"]
    file.write_text("clusters: nothing\n")
    assert complete("list", "--ray", "") == []


def test_every_parameter_can_be_completed():
    for name, command in main.commands.items():
        for parameter in command.params:
            words = [parameter.opts[0], ""] if isinstance(parameter, click.Option) else [""]
            complete(name, *words)
