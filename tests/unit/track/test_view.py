"""MLflow's page with F1 side by side: its address, and the view that is stored with the experiment."""

from __future__ import annotations

import json

from mlflow import MlflowClient

from facscale.track import Tracker
from facscale.track.view import VIEW_STATE, VIEW_TAG, build_view_url, find_view_url


def test_only_trackers_with_pages_have_an_address():
    page = "http://127.0.0.1:5000/#/experiments/7/runs?viewStateShareKey=facscale"
    assert build_view_url("http://127.0.0.1:5000/", experiment="7") == page
    assert build_view_url("sqlite:////tmp/mlflow.db", experiment="7") == ""


def test_a_tag_of_mlflow_holds_the_view():
    assert len(VIEW_STATE) < 5000  # MLflow's limit
    assert json.loads(VIEW_STATE)["columnOrder"][:2] == ["metrics.`f1/mean`", "metrics.`f1/AU1`"]


def test_an_experiment_has_the_view_new_or_old(store, tmp_path):
    api = MlflowClient(store)
    api.create_experiment("old", artifact_location=tmp_path.as_uri())
    for name in ("old", "new"):
        tracker = Tracker(store, name, key=name, name=name, spool=tmp_path / name)
        assert tracker.close()
        assert tracker.table_url == ""  # a file has no pages
        assert api.get_experiment_by_name(name).tags[VIEW_TAG] == VIEW_STATE


def test_the_tracker_itself_is_shown_without_an_experiment(store):
    assert find_view_url(store, "nothing") == store
