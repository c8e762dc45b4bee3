"""All journals of a user: sent to the jobs' own tracker, copied to another one, removed when they are old."""

import importlib
import os
import shutil
import time

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.models import Model

from facscale.cli import main
from facscale.track import Tracker, sync
from facscale.track.sync import planned, remove_old, spools

NOWHERE = "http://127.0.0.1:9"  # the port of "discard": nobody answers


@pytest.fixture
def say(tmp_path):
    """A function: a job that says everything there is to say to a tracker; its spool."""

    def say(uri, key):
        tracker = Tracker(uri, "bp4d", key=key, name=key, spool=tmp_path / "journal" / key)
        tracker.metrics({"f1/AU12": 0.5})
        tracker.text("kept\n", "notes/kept.txt")
        tracker.text("too\n", "top.txt")
        (tmp_path / "model").mkdir(exist_ok=True)
        kind = {"python_function": {"loader_module": "facscale"}}
        Model(metadata={"weights": "w"}, flavors=kind).save(str(tmp_path / "model" / "MLmodel"))
        tracker.model(tmp_path / "model")
        tracker.register("clp", scores={"bp4d": 0.5})
        tracker.close()
        return tmp_path / "journal" / key

    return say


def holds(uri, key):
    """Whether a tracker has the run once, with its files, its model and its version."""
    client = MlflowClient(uri)
    where = client.get_experiment_by_name("bp4d").experiment_id
    (run,) = client.search_runs([where], f"tags.`facscale.key` = '{key}'")
    (model,) = client.search_logged_models([where], f"source_run_id = '{run.info.run_id}'")
    (version,) = client.search_model_versions(f"run_id = '{run.info.run_id}'")
    files = {one.path for folder in ("", "notes") for one in client.list_artifacts(run.info.run_id, folder)}
    return (
        len(client.get_metric_history(run.info.run_id, "f1/AU12")) == 1
        and run.info.status == "FINISHED"
        and {"notes/kept.txt", "top.txt"} <= files
        and model.status == "READY"
        and version.source == model.artifact_location
    )


def states(found, **options):
    return [one.state for one in sync.sync(found, **options)]


def test_what_a_laptop_has_goes_to_the_team_files_and_all(tmp_path, make_store, say):
    laptop, team = make_store("a laptop"), make_store("team")
    spool = say(laptop, "job")
    assert list((spool / "files").iterdir()) == []  # delivered: they are at the laptop's tracker only
    assert states([spool]) == ["known"]
    assert states([spool], uri=team) == ["sent"]
    assert holds(team, "job")
    assert states([spool], uri=team) == ["known"]
    assert states([spool]) == ["known"]
    assert holds(laptop, "job")
    assert list((spool / "files").iterdir()) == []
    assert not (spool / "refused.jsonl").exists()


def test_a_copy_that_has_lost_its_files_and_its_notes_finds_everything_there(tmp_path, make_store, say):
    store = make_store("store")
    copy = shutil.copytree(say(store, "job"), tmp_path / "copy")
    (copy / "sent.json").unlink()
    assert states([copy]) == ["sent"]
    assert holds(store, "job")
    assert not (copy / "refused.jsonl").exists()


def test_where_the_own_tracker_is_gone_another_one_takes_it_all(make_store, say):
    team, spool = make_store("team"), say(NOWHERE, "job")
    assert states([spool]) == ["left"]
    assert states([spool], uri=team) == ["sent"]
    assert holds(team, "job")
    (known,) = sync.sync([spool])
    assert (known.state, known.uri) == ("known", team)


def test_a_silent_tracker_is_asked_once_and_the_others_all_the_same(make_store, say, monkeypatch):
    found = [say(NOWHERE, "a"), say(make_store("store"), "b"), say(NOWHERE, "c")]
    asked, flush = [], sync.flush
    monkeypatch.setattr(sync, "flush", lambda spool, **options: asked.append(spool.name) or flush(spool, **options))
    assert states(found) == ["left", "known", "left"]
    assert asked == ["a"]
    assert planned(found[2]).records == 7


def test_old_journals_go_once_they_are_delivered(tmp_path, make_store, say):
    delivered, left, young = say(make_store("store"), "delivered"), say(NOWHERE, "left"), say(NOWHERE, "young")
    for spool in (delivered, left):
        os.utime(spool / "journal.jsonl", (0, time.time() - 61 * 24 * 3600))
    assert spools(tmp_path / "journal")[-1] == young
    assert remove_old(spools(tmp_path / "journal")) == [delivered]
    assert sorted(spools(tmp_path / "journal")) == [left, young]


def test_facscale_sync(tmp_path, make_store, say, monkeypatch):
    monkeypatch.setattr(importlib.import_module("facscale.cli.sync"), "SPOOLS", tmp_path / "journal")
    team, alone = make_store("team"), say(NOWHERE, "alone")
    say(make_store("store"), "known")

    def facscale(*words):
        done = CliRunner().invoke(main, ["sync", *map(str, words)])
        return done.exit_code, done.output

    status, said = facscale()
    assert status == 1
    assert "[1/2] alone: 7 records are left: http://127.0.0.1:9 does not answer" in said
    assert "2 journals, 1 of them delivered before" in said
    assert facscale(alone, "--uri", team) == (0, f"[1/1] alone: 7 records sent; everything is at {team}\n")
    status, said = facscale("--uri", team)
    assert status == 0
    assert "[2/2] known: 7 records sent" in said
    assert holds(team, "alone")
    assert holds(team, "known")
    assert facscale()[0] == 0
    assert facscale(tmp_path / "model")[0] == 2
