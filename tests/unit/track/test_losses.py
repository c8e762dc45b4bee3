"""Records and files outlive full disks, unwritable homes and trackers that accept nothing."""

from __future__ import annotations

import shutil
import tempfile

import pytest
from mlflow import MlflowClient

from disks import fill, limit_file_size, mount_disk
from facscale.track import Tracker, flush
from facscale.track.journal import Journal, SpoolError
from facscale.track.login import TrackerError, check_store_kind
from facscale.track.sync import plan_sync, remove_old_spools


def append_steps(journal, steps):
    for step in steps:
        record = {"do": "metrics", "lane": "records", "run": "job", "time": 1, "step": step, "values": {"loss": 0.5}}
        journal.append(record)


def read_steps(journal):
    return [entry.record["step"] for entry in journal.read_entries(0)]


def test_a_full_disk_loses_no_record_and_tears_none(tmp_path):
    with mount_disk(tmp_path / "disk") as disk:
        journal = Journal(disk / "spool")
        append_steps(journal, range(3))
        filler = fill(disk)
        append_steps(journal, range(3, 200))
        assert journal.unwritten_count > 0
        assert read_steps(journal) == list(range(200 - journal.unwritten_count))
        filler.unlink()
        append_steps(journal, [200])
        assert journal.unwritten_count == 0
        assert read_steps(Journal(disk / "spool")) == list(range(201))
        assert (disk / "spool" / "journal.jsonl").read_bytes().count(b"\n") == 201


@pytest.mark.parametrize("room", [0, 1, 57, 90])
def test_a_short_write_is_taken_back(tmp_path, room):
    """A line is longer; of a write that is cut short, the kernel reports how much it took."""
    journal = Journal(tmp_path)
    append_steps(journal, [0])
    size = (tmp_path / "journal.jsonl").stat().st_size
    with limit_file_size(size + room):
        append_steps(journal, [1, 2])
        assert journal.unwritten_count == 2
        assert (tmp_path / "journal.jsonl").stat().st_size == size
    journal.write_waiting()
    assert read_steps(journal) == [0, 1, 2]


def test_an_unfinished_line_of_a_killed_process_is_closed_first(tmp_path):
    append_steps(Journal(tmp_path), [0])
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'{"do": "met')
    append_steps(Journal(tmp_path), [1, 2])
    assert read_steps(Journal(tmp_path)) == [0, 1, 2]


def test_a_file_that_does_not_fit_is_named_and_raises_nothing(tmp_path, store):
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(2_000_000))
    with mount_disk(tmp_path / "disk") as disk:
        tracker = Tracker(store, "bp4d", key="job", name="job", spool=disk / "spool")
        tracker.log_artifact(large)
        tracker.log_text("fits", "small.txt")
        assert tracker.close()
        assert "1 files (large.bin) are lost" in tracker.explain_losses()
    client = MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("bp4d").experiment_id])
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["small.txt"]


def test_without_a_home_to_write_to_the_journal_is_kept_in_the_temporary_folder(tmp_path, store, monkeypatch, caplog):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with mount_disk(tmp_path / "home", options="ro") as home:
        with pytest.raises(SpoolError, match="cannot keep a journal: Read-only file system"):
            Journal(home / "journal" / "clp-1")
        tracker = Tracker(store, "bp4d", key="job", name="job", spool=home / "journal" / "clp-1")
        tracker.log_metrics({"loss": 0.5})
        assert tracker.close()
    assert tracker.spool.parent.parent == tmp_path
    assert tracker.spool.parent.stat().st_mode & 0o777 == 0o700
    assert str(tracker.spool) in caplog.text


def test_a_journal_that_is_taken_away_does_not_end_its_thread(tmp_path, store):
    tracker = Tracker(store, "bp4d", key="job", name="job", spool=tmp_path / "spool")
    tracker.log_metrics({"loss": 0.5})
    shutil.rmtree(tmp_path / "spool")
    tracker.log_metrics({"loss": 0.4}, 1)
    assert not tracker.close(wait=30)
    assert not tracker._sender._thread.is_alive()


def log_everything(tracker):
    tracker.log_params({"lr": 0.1})
    tracker.log_metrics({"loss": 0.5})
    tracker.log_text("kept", "notes/kept.txt")


def test_a_tracker_that_refuses_everything_costs_nothing(tmp_path, store, monkeypatch):
    """MLflow 3.13 and later refuse folders of files; once each artifact was refused and deleted, and the job exited with 0."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri, spool = str(tmp_path / "mlruns"), tmp_path / "spool"
    tracker = Tracker(uri, "bp4d", key="job", name="job", spool=spool)
    log_everything(tracker)
    assert not tracker.close()
    assert "MLflow refuses all records (The filesystem tracking backend" in tracker.explain_losses()
    assert str(spool) in tracker.explain_losses()
    assert len(list((spool / "files").rglob("kept.txt"))) == 1
    assert plan_sync(spool).state == "pending"
    assert flush(spool, uri=store)
    client = MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("bp4d").experiment_id])
    assert run.data.metrics == {"loss": 0.5}
    assert [file.path for file in client.list_artifacts(run.info.run_id, "notes")] == ["notes/kept.txt"]


def test_a_refused_file_stays_and_is_sent_again(tmp_path, store):
    spool = tmp_path / "spool"
    tracker = Tracker(store, "bp4d", key="job", name="job", spool=spool)
    tracker.log_text("secret plan", "../plan.txt")  # MLflow refuses paths that lead out
    log_everything(tracker)
    assert tracker.close()
    assert tracker.explain_losses().startswith("MLflow refused a record (")
    assert len(list((spool / "files").rglob("plan.txt"))) == 1
    assert list((spool / "files").rglob("kept.txt")) == []  # it is delivered
    assert plan_sync(spool).state == "pending"
    assert remove_old_spools([spool], days=0) == []
    assert not flush(spool)  # it is refused again, and nothing is sent twice
    assert len(list((spool / "files").rglob("plan.txt"))) == 1
    assert len(Journal(spool).read_refused()) == 1
    text = (spool / "refused.jsonl").read_text()
    (spool / "refused.jsonl").write_text(text.replace('"folder": ".."', '"folder": "plans"'))
    assert flush(spool)  # as if the tracker had changed its mind
    client = MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("bp4d").experiment_id])
    assert [file.path for file in client.list_artifacts(run.info.run_id, "plans")] == ["plans/plan.txt"]
    assert plan_sync(spool).state == "up_to_date"


def test_an_address_that_mlflow_cannot_write_to_is_refused_before_a_job_starts(tmp_path, store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    check_store_kind(store)
    check_store_kind("http://127.0.0.1:9")
    for uri in (str(tmp_path / "mlruns"), (tmp_path / "mlruns").as_uri(), "nonsense://x"):
        with pytest.raises(TrackerError, match=r"MLflow cannot track runs at .*(mlruns|nonsense)"):
            check_store_kind(uri)


def send_first_job(spool, store):
    tracker = Tracker(store, "bp4d", key="job", name="job", spool=spool)
    log_everything(tracker)
    tracker.log_text("once", "once.txt")
    assert tracker.close()


@pytest.mark.parametrize("lost", ["database", "run"])
def test_what_only_a_lost_run_had_is_replaced_by_what_the_job_writes_again(tmp_path, make_store, caplog, lost):
    """The same job, run again once its tracker's database was gone, ended with 1 for files that it had just sent."""
    spool, store = tmp_path / "spool", make_store("first")
    send_first_job(spool, store)
    if lost == "database":
        shutil.rmtree(tmp_path / "first")
        store = make_store("second")
    else:
        client = MlflowClient(store)
        (run,) = client.search_runs([client.get_experiment_by_name("bp4d").experiment_id])
        client.delete_run(run.info.run_id)
    second = Tracker(store, "bp4d", key="job", name="job", spool=spool)
    log_everything(second)
    second.log_text("again", "once.txt")
    assert second.close()
    assert second.explain_losses() == ""
    assert caplog.text.count("gets what the job writes again") == 1
    assert not (spool / "refused.jsonl").exists()
    client = MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("bp4d").experiment_id])
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"notes", "once.txt"}


def test_what_only_a_lost_run_had_and_nobody_writes_again_is_named(tmp_path, make_store):
    spool, gone = tmp_path / "spool", make_store("gone")
    send_first_job(spool, gone)
    shutil.rmtree(tmp_path / "gone")
    second = Tracker(make_store("other"), "bp4d", key="job", name="job", spool=spool)
    second.log_text("kept", "notes/kept.txt")
    assert second.close()
    assert second.explain_losses().startswith("MLflow refused a record (the spool has lost a file")
    assert [record["name"] for record in Journal(spool).read_refused()] == ["once.txt"]
