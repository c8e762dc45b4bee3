"""Findings come one by one; a check that fails, or hangs, is one of them."""

from __future__ import annotations

import json
import threading

import pytest

from facscale.doctor import DiagnosticContext, output, run_checks, runner
from facscale.doctor.finding import from_error, ok, problem, warning
from facscale.doctor.runner import Check, load_checks, run_check
from facscale.errors import UserError


def check_of(look, *, timeout_s=5.0):
    return Check("one", 1, "ray", timeout_s, look)


def found(look, **options):
    return list(run_check(check_of(look, **options), DiagnosticContext()))


@pytest.mark.parametrize("timeout_s", [5.0, None])
def test_what_was_found_before_a_check_failed_is_kept(timeout_s):
    def look(context):
        """Look there."""
        yield ok("fine")
        raise ZeroDivisionError("nought\nand a traceback")

    first, second = found(look, timeout_s=timeout_s)
    assert (first.severity, first.message, first.check) == ("ok", "fine", "one")
    assert (second.severity, second.fix) == ("problem", "Look there.")
    assert second.message == "the check itself failed: ZeroDivisionError: nought"


def test_our_own_errors_bring_their_mend():
    def look(context):
        yield from ()
        raise UserError("s3://faces: the key is refused; check AWS_ACCESS_KEY_ID")

    (one,) = found(look)
    assert (one.message, one.fix) == ("s3://faces: the key is refused", "check AWS_ACCESS_KEY_ID")
    assert from_error(UserError("no semicolon"), fix="do that").fix == "do that"


def test_a_check_that_hangs_is_left_behind_with_what_it_has_said():
    never = threading.Event()

    def look(context):
        yield ok("begun")
        never.wait()

    first, second = found(look, timeout_s=0.2)
    assert first.message == "begun"
    assert (second.severity, second.message) == ("problem", "no answer within 0.2 s")
    never.set()


def test_what_an_earlier_finding_explains_is_not_told_again():
    def look(context):
        yield ok(context.require("ray"))

    assert found(look) == []


def test_checks_are_found_where_they_lie_and_each_says_where_to_look():
    for place in ("ray", "kube"):
        listed = load_checks(place)
        assert [one.rank for one in listed] == sorted(one.rank for one in listed)
        assert all(one.function.__doc__ for one in listed)
    ray, kube = ({one.name for one in load_checks(place)} for place in ("ray", "kube"))
    assert {"Ray", "nodes", "GPUs", "data", "storage", "MLflow", "working-dir"} <= ray
    assert {"API server", "KubeRay", "chart", "rights", "RayJob", "secrets"} <= kube


@pytest.fixture
def shown(monkeypatch, capsys):
    """A function: exit status and output of a patient with these findings."""

    def run(*given, as_json=False):
        monkeypatch.setattr(output, "run_checks", lambda _: iter(given))
        return output.print_findings(DiagnosticContext(), as_json=as_json), capsys.readouterr().out

    return run


def test_problems_are_an_exit_status_and_warnings_are_not(shown):
    assert shown(ok("a"), warning("b", "c"))[0] == 0
    status, text = shown(ok("a"), problem("GPU [0] fails", "take [it] out"))
    assert status == 1
    assert "GPU [0] fails" in text
    assert "-> take [it] out" in text
    assert "1 problems" in text


def test_json_is_a_line_for_each_finding(shown):
    status, text = shown(ok("a"), problem("b", "c"), as_json=True)
    assert status == 1
    assert [json.loads(line) for line in text.splitlines()] == [
        {"state": "ok", "what": "a", "mend": "", "check": ""},
        {"state": "problem", "what": "b", "mend": "c", "check": ""},
    ]


def test_all_checks_of_a_place_are_asked(monkeypatch):
    def looks(name):
        def look(context):
            yield ok(name)

        return look

    several = [Check(name, rank, "ray", 5.0, looks(name)) for rank, name in enumerate("abc")]
    monkeypatch.setattr(runner, "load_checks", lambda _: several)
    assert [one.message for one in run_checks(DiagnosticContext())] == ["a", "b", "c"]
