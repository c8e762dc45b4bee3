import shutil
from types import SimpleNamespace
from unittest.mock import ANY

import pytest
from mlflow import MlflowClient
from mlflow.server import app

from facscale.compat import IncompatibleVersionError
from facscale.track import Tracker, query
from facscale.track.query import QueryError, TrackedRun, search_runs


@pytest.fixture(scope="module")
def filled_store(tmp_path_factory, empty_store):
    """Five jobs with a fold each, in two experiments."""
    folder = tmp_path_factory.mktemp("told")
    store = f"sqlite:///{shutil.copy2(empty_store, folder / 'mlflow.db')}"
    for number in range(5):
        place = "bp4d" if number < 4 else "disfa"
        tags = {"method": "clp" if number % 2 else "moco"}
        tracker = Tracker(store, place, key=f"job{number}", name=f"name{number}", tags=tags, spool=folder / str(number))
        tracker.log_params({"train": {"lr": 0.1}})
        tracker.log_metrics({"f1/AU12": number / 10})
        tracker.log_metrics({"f1/AU12": number / 10 + 0.05, "nan": float("nan")}, 1)
        fold = tracker.start_child(f"job{number}/fold0", "fold0", tags)
        fold.close()
        assert tracker.close()
    return store


def test_runs_are_returned_as_they_were_logged(filled_store):
    runs = search_runs(filled_store, experiment="bp4d")
    assert {run.key for run in runs} == {f"job{n}{fold_suffix}" for n in range(4) for fold_suffix in ("", "/fold0")}
    assert [run.start for run in runs] == sorted(run.start for run in runs)
    by_key = {run.key: run for run in runs}
    main, fold = by_key["job3"], by_key["job3/fold0"]
    (row,) = MlflowClient(filled_store).search_runs(["1"], "tags.`facscale.key` = 'job3'")
    assert main == TrackedRun(
        id=row.info.run_id,
        name="name3",
        start=row.info.start_time,
        status="FINISHED",
        tags=row.data.tags,
        params={"train.lr": "0.1", "zz.facscale.run": row.info.run_id},
        metrics={"f1/AU12": 0.35, "nan": ANY},
    )
    assert (main.key, main.parent, main.tags["method"]) == ("job3", "", "clp")
    assert (fold.parent, fold.metrics) == (main.id, {})


@pytest.mark.parametrize("page", [1, 3, 8, 1000])
def test_no_run_is_missing_or_repeated_between_pages(filled_store, monkeypatch, page):
    monkeypatch.setattr(query, "PAGE_SIZE", page)
    runs = search_runs(filled_store, experiment="bp4d", filter="attributes.status = 'FINISHED'")
    assert len(runs) == len({run.id for run in runs}) == 8


def test_the_tracker_filters(filled_store):
    runs = search_runs(filled_store, experiment="bp4d", filter="tags.method = 'clp' and metrics.`f1/AU12` > 0.2")
    assert [run.key for run in runs] == ["job3"]


@pytest.mark.filterwarnings("ignore:.*a2wsgi")
def test_a_file_a_server_and_mlflows_own_client_give_the_same_runs(filled_store, monkeypatch):
    """The server has no socket: requests to it go to MLflow's application in this process."""
    own = search_runs(filled_store, experiment="bp4d", filter="attributes.status = 'FINISHED'")
    assert "nan" in {str(value) for run in own for value in run.metrics.values()}
    assert to_text(search_runs(filled_store, experiment="bp4d")) == to_text(own)
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", filled_store)
    filters = []

    def request(host_creds, endpoint, method, *, json=None, params=None, **_):
        if endpoint.endswith("runs/search"):
            filters.append(json["filter"])
        answer = app.test_client().open(endpoint, method=method, json=json, query_string=params)
        return SimpleNamespace(status_code=answer.status_code, text=answer.text, json=answer.get_json)

    monkeypatch.setattr("mlflow.utils.rest_utils.http_request", request)
    monkeypatch.setattr(query, "MAX_REQUESTS", 1)
    for page in (1, 1000):
        monkeypatch.setattr(query, "PAGE_SIZE", page)
        assert to_text(search_runs("http://server", experiment="bp4d")) == to_text(own)
    assert len(filters) >= 16 + 16
    runs = search_runs("http://server", experiment="bp4d", filter="tags.method = 'clp' and metrics.`f1/AU12` > 0.2")
    assert [run.key for run in runs] == ["job3"]


def to_text(runs):
    """Text can be compared, whereas nan does not equal itself."""
    return [repr({**vars(run), "metrics": dict(sorted(run.metrics.items()))}) for run in runs]


def test_a_filter_that_mlflow_does_not_understand_is_refused(filled_store):
    with pytest.raises(QueryError, match="does not answer the query: .*Invalid"):
        search_runs(filled_store, experiment="bp4d", filter="nonsense = 1")


def test_an_unknown_experiment_is_named_with_those_that_exist(filled_store):
    with pytest.raises(QueryError, match="no experiment 'bp4'; it has .*bp4d"):
        search_runs(filled_store, experiment="bp4")


def test_a_file_with_an_unknown_schema_is_read_through_mlflows_client(filled_store, monkeypatch, caplog):
    expected = search_runs(filled_store, experiment="bp4d")

    def fail(*_, **__):
        raise IncompatibleVersionError("such table", distribution="mlflow", tried="3.17.2")

    monkeypatch.setattr(query, "read_sqlite_runs", fail)
    assert to_text(search_runs(filled_store, experiment="bp4d")) == to_text(expected)
    assert "has no such table, which facscale needs; install mlflow 3.17.2" in caplog.text
