"""Trackers: a wrong password gives one clear line, passwords are never written, spools stay in their folder."""

from __future__ import annotations

import json
import logging
import time

import pytest

from facscale.errors import UserError
from facscale.redact import redact
from facscale.track import Tracker, flush, sender
from facscale.track.journal import Journal, SpoolError
from facscale.track.login import LoginError, check_credentials_target, restore_password
from facscale.track.query import QueryError, list_experiments, search_runs
from facscale.track.sync import plan_sync
from guarded import ADMIN

_, PASSWORD = ADMIN
NOWHERE = f"http://anna:{PASSWORD}@127.0.0.1:9"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at https://anna:hunter2@host/x now", "at https://anna@host/x now"),
        ("postgresql+psycopg2://ml:p@ss:w%2Frd@db:5432/m", "postgresql+psycopg2://ml@db:5432/m"),
        ('{"uri": "s3://key:secret@bucket"}', '{"uri": "s3://key@bucket"}'),
        ("https://x/y?X-Amz-Signature=abc&part=1", "https://x/y?X-Amz-Signature=***&part=1"),
        ("http://host:8080/a@b and https://host", "http://host:8080/a@b and https://host"),
        ("s3://faces/id@1", "s3://faces/id@1"),
        ("mail anna@host: 12:30", "mail anna@host: 12:30"),
    ],
)
def test_addresses_lose_their_passwords_and_nothing_else(text, expected):
    assert redact(text) == expected
    assert str(UserError(text)) == expected


@pytest.mark.parametrize(
    "text", ["a." * 100_000, "a://" * 50_000, "?token" * 30_000, "a://b:" * 30_000, "?" * 200_000, "://" + ":" * 200_000],
    ids=["scheme", "schemes", "queries", "users", "marks", "colons"],
)  # fmt: skip
def test_a_long_text_is_searched_for_passwords_in_time(text):
    """In linear time these take milliseconds each; in quadratic time, most of them take minutes."""
    began = time.process_time()
    redact(text)
    assert time.process_time() - began < 5


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(sender, "COLLECT_S", 0.05)
    monkeypatch.setattr(sender, "MAX_PAUSE_S", 0.2)


def test_a_journal_holds_no_password_and_is_readable_by_its_owner_only(tmp_path, caplog, monkeypatch):
    """The password is in no file, log line or address of a page; `restore_password` gives it back for delivery."""
    spool = tmp_path / "spool"
    with caplog.at_level(logging.WARNING):
        tracker = Tracker(NOWHERE, "bp4d", key="job", name="clp", spool=spool, tags={"from": NOWHERE})
        tracker.log_params({"track": {"uri": NOWHERE}})
        tracker.log_dataset("faces", url=f"https://key:{PASSWORD}@store/faces", fingerprint="0")
        tracker.log_text(f"track: {{uri: '{NOWHERE}'}}", "spec.yaml")
        assert not tracker.close(wait=20)
    content = b"".join(path.read_bytes() for path in spool.rglob("*") if path.is_file())
    assert b"anna@127.0.0.1" in content
    for text in (content.decode(), caplog.text, tracker.url, str(plan_sync(spool))):
        assert PASSWORD not in text
    assert (spool / "journal.jsonl").stat().st_mode & 0o077 == 0
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    assert restore_password("http://anna@127.0.0.1:9") == NOWHERE
    assert restore_password("http://anna@elsewhere:9") == "http://anna@elsewhere:9"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A folder for a tracker's SQLite file, shared because its tables take seconds to create."""
    return tmp_path_factory.mktemp("store")


@pytest.mark.parametrize("name", ["..", "../victim", "/etc", "a/../../victim", "", ".", "link"])
def test_a_spool_from_elsewhere_reads_and_deletes_nothing_outside(tmp_path, store, name):
    spool, victim = tmp_path / "spool", tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").write_text("kept")
    journal = Journal(spool)
    (journal.files / "link").symlink_to(victim)
    about = {"run": f"job {name}", "time": 1, "lane": "records"}
    uri = f"sqlite:///{store / 'mlflow.db'}"
    journal.append({**about, "do": "run", "uri": uri, "experiment": "bp4d", "name": "x", "parent": None, "tags": {}})
    journal.append({**about, "do": "artifact", "lane": "files", "file": name, "name": "kept", "folder": ""})
    with pytest.raises(SpoolError, match="names a file outside its spool"):
        journal.get_file_folder(name)
    assert not flush(spool), "what is refused is not delivered"
    assert (victim / "kept").read_text() == "kept"
    assert journal.files.is_dir()
    assert "names a file outside its spool" in (spool / "refused.jsonl").read_text()
    assert not list((store / "artifacts").rglob("kept"))


def test_credentials_are_not_sent_to_another_server(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.team.org")
    check_credentials_target("https://elsewhere.org")  # there is no login that could leak
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    check_credentials_target("")
    check_credentials_target("https://mlflow.team.org/")
    check_credentials_target("sqlite:///runs.db")
    with pytest.raises(
        LoginError, match=r"is the login for https://mlflow\.team\.org, and would be sent there too"
    ) as error:
        check_credentials_target("https://elsewhere.org")
    assert PASSWORD not in str(error.value)


@pytest.fixture
def guarded(guarded_mlflow):
    return guarded_mlflow


@pytest.mark.slow("an MLflow server with logins starts")
@pytest.mark.parametrize("user", [("admin", "wrong"), ("stranger", PASSWORD), None], ids=["password", "user", "nobody"])
def test_a_wrong_password_is_reported_while_the_run_goes_on(guarded, tmp_path, monkeypatch, caplog, user):
    log_in(monkeypatch, user)
    with caplog.at_level(logging.WARNING):
        tracker = Tracker(guarded, "bp4d", key="job", name="clp", spool=tmp_path / "spool")
        tracker.log_metrics({"loss": 1.0})
        assert not tracker.close(wait=60)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "facscale.track"]
    assert f"MLflow at {guarded} refuses our login (check MLFLOW_TRACKING_USERNAME" in line
    assert "its records are kept in" in line
    for query in (lambda: list_experiments(guarded), lambda: search_runs(guarded, experiment="bp4d")):
        with pytest.raises(QueryError, match="refuses our login; check MLFLOW_TRACKING_USERNAME"):
            query()
    log_in(monkeypatch, ("admin", PASSWORD))
    assert flush(tmp_path / "spool")
    assert PASSWORD not in (tmp_path / "spool" / "journal.jsonl").read_text()


@pytest.mark.slow("an MLflow server with logins starts")
def test_a_password_in_the_address_is_used_and_written_nowhere(guarded, tmp_path, monkeypatch, caplog):
    log_in(monkeypatch, None)
    address = guarded.replace("http://", f"http://admin:{PASSWORD}@")
    tracker = Tracker(address, "in the address", key="job", name="clp", spool=tmp_path / "spool")
    tracker.log_params({"uri": address})
    assert tracker.close(wait=60), caplog.text
    assert PASSWORD not in tracker.url
    log_in(monkeypatch, ("admin", PASSWORD))
    (run,) = search_runs(guarded, experiment="in the address")
    assert run.params["uri"] == guarded.replace("http://", "http://admin@")
    assert PASSWORD not in json.dumps(vars(run))


def log_in(monkeypatch, user):
    for name, value in zip(("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"), user or ("", ""), strict=True):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
