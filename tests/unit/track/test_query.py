import shutil
from types import SimpleNamespace
from unittest.mock import ANY

import pytest
from mlflow import MlflowClient
from mlflow.server import app

from facscale.track import Tracker, query
from facscale.track.query import QueryError, TrackedRun, runs


@pytest.fixture(scope="module")
def told(tmp_path_factory, empty_store):
    """Five jobs with a fold each, in two experiments."""
    folder = tmp_path_factory.mktemp("told")
    store = f"sqlite:///{shutil.copy2(empty_store, folder / 'mlflow.db')}"
    for number in range(5):
        place = "bp4d" if number < 4 else "disfa"
        tags = {"method": "clp" if number % 2 else "moco"}
        tracker = Tracker(store, place, key=f"job{number}", name=f"name{number}", tags=tags, spool=folder / str(number))
        tracker.params({"train": {"lr": 0.1}})
        tracker.metrics({"f1/AU12": number / 10})
        tracker.metrics({"f1/AU12": number / 10 + 0.05, "nan": float("nan")}, 1)
        fold = tracker.child(f"job{number}/fold0", "fold0", tags)
        fold.close()
        assert tracker.close()
    return store


def test_runs_come_as_they_were_told(told):
    found = runs(told, experiment="bp4d")
    assert {run.key for run in found} == {f"job{n}{of}" for n in range(4) for of in ("", "/fold0")}
    assert [run.start for run in found] == sorted(run.start for run in found)
    by_key = {run.key: run for run in found}
    main, fold = by_key["job3"], by_key["job3/fold0"]
    (row,) = MlflowClient(told).search_runs(["1"], "tags.`facscale.key` = 'job3'")
    assert main == TrackedRun(
        id=row.info.run_id, name="name3", start=row.info.start_time, status="FINISHED",
        tags=row.data.tags, params={"train.lr": "0.1", "zz.facscale.run": row.info.run_id}, metrics={"f1/AU12": 0.35, "nan": ANY},
    )  # fmt: skip
    assert (main.key, main.parent, main.tags["method"]) == ("job3", "", "clp")
    assert (fold.parent, fold.metrics) == (main.id, {})


@pytest.mark.parametrize("page", [1, 3, 8, 1000])
def test_no_run_is_missing_or_doubled_between_pages(told, monkeypatch, page):
    monkeypatch.setattr(query, "PAGE", page)
    found = runs(told, experiment="bp4d", filter="attributes.status = 'FINISHED'")
    assert len(found) == len({run.id for run in found}) == 8


def test_the_tracker_filters(told):
    found = runs(told, experiment="bp4d", filter="tags.method = 'clp' and metrics.`f1/AU12` > 0.2")
    assert [run.key for run in found] == ["job3"]


@pytest.mark.filterwarnings("ignore:.*a2wsgi")
def test_a_file_a_server_and_mlflows_own_client_tell_the_same(told, monkeypatch):
    """The server is there, without a socket: its requests go to MLflow's application."""
    own = runs(told, experiment="bp4d", filter="attributes.status = 'FINISHED'")
    assert "nan" in {str(value) for run in own for value in run.metrics.values()}
    assert plain(runs(told, experiment="bp4d")) == plain(own)
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", told)
    monkeypatch.setattr(query, "MlflowClient", lambda uri: MlflowClient(told))
    asked = []

    def request(creds, endpoint, method, *, json, timeout):
        asked.append(json["filter"])
        answer = app.test_client().open(endpoint, method=method, json=json)
        return SimpleNamespace(status_code=answer.status_code, text=answer.text, json=answer.get_json)

    monkeypatch.setattr(query, "http_request", request)
    monkeypatch.setattr(query, "AT_ONCE", 1)
    for page in (1, 1000):
        monkeypatch.setattr(query, "PAGE", page)
        assert plain(runs("http://server", experiment="bp4d")) == plain(own)
    assert len(asked) >= 16 + 16
    found = runs("http://server", experiment="bp4d", filter="tags.method = 'clp' and metrics.`f1/AU12` > 0.2")
    assert [run.key for run in found] == ["job3"]


def plain(found):
    """Comparable, though nan is not itself."""
    return [repr({**vars(run), "metrics": dict(sorted(run.metrics.items()))}) for run in found]


def test_a_filter_that_mlflow_does_not_understand_is_refused(told):
    with pytest.raises(QueryError, match="does not answer what was asked: .*Invalid"):
        runs(told, experiment="bp4d", filter="nonsense = 1")


def test_an_experiment_that_is_not_there_is_named_with_those_that_are(told):
    with pytest.raises(QueryError, match="no experiment 'bp4'; it has .*bp4d"):
        runs(told, experiment="bp4")
