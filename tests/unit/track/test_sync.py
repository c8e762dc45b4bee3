"""All journals of a user are sent to the jobs' own tracker or copied to another, and removed when they are old."""

import os
import shutil
import time

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.models import Model

from facscale.cli import main
from facscale.track import Tracker, sync
from facscale.track.sync import list_spools, plan_sync, remove_old_spools

NOWHERE = "http://127.0.0.1:9"  # the port of "discard": nobody answers


@pytest.fixture
def log_job(tmp_path):
    """A function that logs a job with every kind of record and returns its spool."""

    def log_job(uri, key):
        tracker = Tracker(uri, "bp4d", key=key, name=key, spool=tmp_path / "journal" / key)
        tracker.log_metrics({"f1/AU12": 0.5})
        tracker.log_text("kept\n", "notes/kept.txt")
        tracker.log_text("too\n", "top.txt")
        (tmp_path / "model").mkdir(exist_ok=True)
        kind = {"python_function": {"loader_module": "facscale"}}
        Model(metadata={"weights": "w"}, flavors=kind).save(str(tmp_path / "model" / "MLmodel"))
        tracker.log_model(tmp_path / "model")
        tracker.register_model("clp", scores={"bp4d": 0.5})
        tracker.close()
        return tmp_path / "journal" / key

    return log_job


def has_everything(uri, key):
    """Whether a tracker has the run once, with its files, its model and its version."""
    client = MlflowClient(uri)
    where = client.get_experiment_by_name("bp4d").experiment_id
    (run,) = client.search_runs([where], f"tags.`facscale.key` = '{key}'")
    (model,) = client.search_logged_models([where], f"source_run_id = '{run.info.run_id}'")
    (version,) = client.search_model_versions(f"run_id = '{run.info.run_id}'")
    files = {file.path for folder in ("", "notes") for file in client.list_artifacts(run.info.run_id, folder)}
    return (
        len(client.get_metric_history(run.info.run_id, "f1/AU12")) == 1
        and run.info.status == "FINISHED"
        and {"notes/kept.txt", "top.txt"} <= files
        and model.status == "READY"
        and version.source == model.artifact_location
    )


def states(spools, **options):
    return [result.state for result in sync.sync_spools(spools, **options)]


def test_a_laptops_runs_are_copied_to_the_teams_tracker_with_their_files(tmp_path, make_store, log_job):
    laptop, team = make_store("a laptop"), make_store("team")
    spool = log_job(laptop, "job")
    assert list((spool / "files").iterdir()) == []  # delivered: only the laptop's tracker has them
    assert states([spool]) == ["up_to_date"]
    assert states([spool], uri=team) == ["sent"]
    assert has_everything(team, "job")
    assert states([spool], uri=team) == ["up_to_date"]
    assert states([spool]) == ["up_to_date"]
    assert has_everything(laptop, "job")
    assert list((spool / "files").iterdir()) == []
    assert not (spool / "refused.jsonl").exists()


def test_a_copied_spool_without_files_and_notes_is_already_delivered(tmp_path, make_store, log_job):
    store = make_store("store")
    copy = shutil.copytree(log_job(store, "job"), tmp_path / "copy")
    (copy / "sent.json").unlink()
    assert states([copy]) == ["sent"]
    assert has_everything(store, "job")
    assert not (copy / "refused.jsonl").exists()


def test_another_tracker_can_take_everything_if_the_jobs_own_is_gone(make_store, log_job):
    team, spool = make_store("team"), log_job(NOWHERE, "job")
    assert states([spool]) == ["pending"]
    assert states([spool], uri=team) == ["sent"]
    assert has_everything(team, "job")
    (result,) = sync.sync_spools([spool])
    assert (result.state, result.uri) == ("up_to_date", team)


def test_a_tracker_that_does_not_answer_is_tried_once_and_the_others_as_usual(make_store, log_job, monkeypatch):
    spools = [log_job(NOWHERE, "a"), log_job(make_store("store"), "b"), log_job(NOWHERE, "c")]
    flushed, flush = [], sync.flush
    monkeypatch.setattr(sync, "flush", lambda spool, **options: flushed.append(spool.name) or flush(spool, **options))
    assert states(spools) == ["pending", "up_to_date", "pending"]
    assert flushed == ["a"]
    assert plan_sync(spools[2]).records == 7


def test_old_journals_are_removed_once_they_are_delivered(tmp_path, make_store, log_job):
    delivered = log_job(make_store("store"), "delivered")
    left, young = log_job(NOWHERE, "left"), log_job(NOWHERE, "young")
    for spool in (delivered, left):
        os.utime(spool / "journal.jsonl", (0, time.time() - 61 * 24 * 3600))
    assert list_spools(tmp_path / "journal")[-1] == young
    assert remove_old_spools(list_spools(tmp_path / "journal")) == [delivered]
    assert sorted(list_spools(tmp_path / "journal")) == [left, young]


def test_facscale_sync(tmp_path, make_store, log_job, monkeypatch):
    monkeypatch.setattr("facscale.cli.sync.SPOOL_ROOT", tmp_path / "journal")
    team, alone = make_store("team"), log_job(NOWHERE, "alone")
    log_job(make_store("store"), "known")

    def facscale(*words):
        result = CliRunner().invoke(main, ["sync", *map(str, words)])
        return result.exit_code, result.output

    status, output = facscale()
    assert status == 1
    assert "[1/2] alone: 7 records are left: http://127.0.0.1:9 does not answer" in output
    assert "2 journals, 1 of them delivered before" in output
    assert facscale(alone, "--uri", team) == (0, f"[1/1] alone: 7 records sent; everything is at {team}\n")
    status, output = facscale("--uri", team)
    assert status == 0
    assert "[2/2] known: 7 records sent" in output
    assert has_everything(team, "alone")
    assert has_everything(team, "known")
    assert facscale()[0] == 0
    assert facscale(tmp_path / "model")[0] == 2
