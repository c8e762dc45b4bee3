"""Findings come one by one; a check that fails, or hangs, is one of them."""

from __future__ import annotations

import json
import threading

import pytest

from facscale.doctor import Patient, examination, examine, show
from facscale.doctor.examination import Check, checks, findings
from facscale.doctor.finding import ok, problem, told, warning
from facscale.errors import UserError


def check_of(look, *, limit_s=5.0):
    return Check("one", 1, "ray", limit_s, look)


def found(look, **options):
    return list(findings(check_of(look, **options), Patient()))


@pytest.mark.parametrize("limit_s", [5.0, None])
def test_what_was_found_before_a_check_failed_is_kept(limit_s):
    def look(patient):
        """Look there."""
        yield ok("fine")
        raise ZeroDivisionError("nought\nand a traceback")

    first, second = found(look, limit_s=limit_s)
    assert (first.state, first.what, first.check) == ("ok", "fine", "one")
    assert (second.state, second.mend) == ("problem", "Look there.")
    assert second.what == "the check itself failed: ZeroDivisionError: nought"


def test_our_own_errors_bring_their_mend():
    def look(patient):
        yield from ()
        raise UserError("s3://faces: the key is refused; check AWS_ACCESS_KEY_ID")

    (one,) = found(look)
    assert (one.what, one.mend) == ("s3://faces: the key is refused", "check AWS_ACCESS_KEY_ID")
    assert told(UserError("no semicolon"), mend="do that").mend == "do that"


def test_a_check_that_hangs_is_left_behind_with_what_it_has_said():
    never = threading.Event()

    def look(patient):
        yield ok("begun")
        never.wait()

    first, second = found(look, limit_s=0.2)
    assert first.what == "begun"
    assert (second.state, second.what) == ("problem", "no answer within 0.2 s")
    never.set()


def test_what_an_earlier_finding_explains_is_not_told_again():
    def look(patient):
        yield ok(patient.known("ray"))

    assert found(look) == []


def test_checks_are_found_where_they_lie_and_each_says_where_to_look():
    for place in ("ray", "kube"):
        listed = checks(place)
        assert [one.rank for one in listed] == sorted(one.rank for one in listed)
        assert all(one.look.__doc__ for one in listed)
    ray, kube = ({one.name for one in checks(place)} for place in ("ray", "kube"))
    assert {"Ray", "nodes", "GPUs", "data", "storage", "MLflow", "working-dir"} <= ray
    assert {"API server", "KubeRay", "chart", "rights", "RayJob", "secrets"} <= kube


@pytest.fixture
def shown(monkeypatch, capsys):
    """A function: exit status and output of a patient with these findings."""

    def run(*given, as_json=False):
        monkeypatch.setattr(show, "examine", lambda _: iter(given))
        return show.show(Patient(), as_json=as_json), capsys.readouterr().out

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
        def look(patient):
            yield ok(name)

        return look

    several = [Check(name, rank, "ray", 5.0, looks(name)) for rank, name in enumerate("abc")]
    monkeypatch.setattr(examination, "checks", lambda _: several)
    assert [one.what for one in examine(Patient())] == ["a", "b", "c"]
