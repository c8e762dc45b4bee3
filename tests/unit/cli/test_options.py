"""Options and arguments of all commands: each has an effect, or is an error that says what is wrong and what to do."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from facscale.cli import main
from facscale.cli.arguments import format_parameter


def list_commands(group=main, words=()):
    """Every command that does something, by its words."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from list_commands(command, (*words, name))
        else:
            yield (*words, name), command


COMMANDS = dict(list_commands())


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No files of the user, and nothing may be started: errors come before any work is done."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACSCALE_CLUSTERS", str(tmp_path / "clusters.yaml"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray was started"))


@pytest.fixture
def facscale():
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def refuse(facscale):
    """A function: run a command that is refused; its message."""

    def refuse(*words):
        done = facscale(*words)
        assert done.exit_code == 2, done.output
        assert done.output.lower().count("error") == 1, done.output
        assert "Traceback" not in done.output
        return done.output

    return refuse


def options():
    """Every option of every command."""
    for name, command in COMMANDS.items():
        for option in command.params:
            if isinstance(option, click.Option):
                yield pytest.param(name, option, id=f"{' '.join(name)} {option.opts[0]}")


def arguments(name):
    """As many words as a command needs."""
    required = [param for param in COMMANDS[name].params if isinstance(param, click.Argument) and param.required]
    return ["word"] * len(required)


@pytest.mark.parametrize(("name", "option"), options())
def test_an_option_is_given_once(refuse, name, option):
    words = [option.opts[0], *([] if option.is_flag else ["3"])]
    assert f"{format_parameter(option)} is given twice; leave one out" in refuse(
        *name, *arguments(name), *words, *words
    )


@pytest.mark.parametrize(("name", "option"), [case for case in options() if not case.values[1].is_flag])
def test_an_empty_value_is_refused(refuse, name, option):
    """As in a script whose variable is not set: the option would have no effect."""
    message = refuse(*name, *arguments(name), option.opts[0], "")
    assert f"{format_parameter(option)} is empty; give it a value, or leave it out" in message


@pytest.mark.parametrize("name", [name for name in COMMANDS if arguments(name)], ids=" ".join)
def test_an_empty_argument_is_refused(refuse, name):
    first = next(param for param in COMMANDS[name].params if isinstance(param, click.Argument))
    assert f"{format_parameter(first)} is empty" in refuse(*name, *[""] * len(arguments(name)))


def test_every_rule_names_parameters_of_its_command():
    for name, command in COMMANDS.items():
        names = {text for param in command.params for text in (format_parameter(param), *param.opts)}
        for rule in command.rules:
            assert {rule.option, *rule.needs, *rule.excludes} <= names, name


AT_TWO_PLACES = ["--kube", "munich", "--ray", "lab"]
IN_A_NAMESPACE = ["--ray", "lab", "--namespace", "faces"]
OF_JOBS = (["status", "clp"], ["logs", "clp"], ["cancel", "clp"], ["list"], ["submit", "job.yaml"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        *(([*command, *AT_TWO_PLACES], "--kube and --ray cannot be combined: they name two") for command in OF_JOBS),
        *(([*command, *IN_A_NAMESPACE], "--namespace works only with --kube: only Kube") for command in OF_JOBS),
        *(([*command, "--namespace", "faces"], "--namespace works only with --kube") for command in OF_JOBS),
        (["doctor", "--namespace", "faces"], "Add --kube, or leave --namespace out"),
        (["doctor", "train.epochs=3"], "train.epochs=3: there is no such file"),
        *(
            (["submit", "job.yaml", "--ray", "lab", option, "name"], f"{option} works only with --kube: a Ray cluster")
            for option in ("--image", "--queue", "--group")
        ),
        (["submit", "job.yaml"], "on which cluster? --kube CLUSTER"),
        (["retrieve", "e", "d", "F1/T1/1", "--seed", "3"], "--seed and QUERY cannot be combined: it samples frames"),
        (["retrieve", "e", "d", "F1/T1/1", "--number", "6"], "--number and QUERY cannot be combined"),  # the default
        (["retrieve", "e", "d", "--seed", "-1"], "-1 is not in the range x>=0"),
        (["published", "--misprints", "--csv"], "--misprints and --csv cannot be combined: misprints are explained"),
        (["rehearse", "job.yaml", "--seconds", "0"], "0 is not above 0 and finite"),
        (["rehearse", "job.yaml", "--seconds", "inf"], "inf is not above 0 and finite"),
        (["rehearse", "job.yaml", "--price", "-2"], "-2 is not above 0 and finite"),
        (["rehearse", "job.yaml", "--price", "0"], "0 is not above 0 and finite"),
        (["rehearse", "job.yaml", "--node-price", "nan"], "nan is not above 0 and finite"),
        (["rehearse", "job.yaml", "--seconds", "long"], "'long' is not a number"),
        (["sync", "nowhere"], "Directory 'nowhere' does not exist"),
        (["compare", "--page", "no/x.html"], "--page no/x.html: there is no folder"),
        (["demo", "--stop", "--folder", "nowhere"], "--folder nowhere: no demo was run there"),
        (["demo", "--folder", "a file"], "'a file' is a file"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_what_could_not_act_is_refused(refuse, tmp_path, words, message):
    (tmp_path / "a file").touch()
    assert message in refuse(*words)


@pytest.mark.parametrize("command", ["run", "check", "rehearse", "doctor", "submit", "verify"])
def test_an_override_is_given_once(refuse, command):
    message = refuse(command, "job.yaml", "train.epochs=1", "seed=1", "train.epochs=2")
    assert "train.epochs is given twice, train.epochs=1 and train.epochs=2; leave one out" in message


@pytest.mark.parametrize(
    ("words", "suffix"),
    [(["data", "faces", "--sheet"], ".png"), (["retrieve", "e", "d", "--sheet"], ".png"), (["compare", "--page"], "")],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_read(refuse, tmp_path, monkeypatch, words, suffix):
    (tmp_path / f"folder{suffix}").mkdir()
    assert "this is a folder; name a file in it" in refuse(*words, f"folder{suffix}")
    assert f"there is no folder {tmp_path}/no; make it first" in refuse(*words, f"no/x{suffix}")
    if suffix:
        assert "a PNG is written; call it x.png" in refuse(*words, "x.jpg")
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    assert "you may not write there" in refuse(*words, f"x{suffix}")


def test_stopping_a_demo_that_does_not_run_says_so(facscale, tmp_path):
    (tmp_path / "demo" / "mlflow").mkdir(parents=True)
    done = facscale("demo", "--stop")
    assert done.exit_code == 0
    assert done.output == "nothing was running; the demo's files are in demo\n"


def test_help_is_shown_whatever_else_is_wrong(facscale):
    done = facscale("retrieve", "--help", "--k", "1", "--k", "2")
    assert done.exit_code == 0
    assert done.output.startswith("Usage: ")
