"""The page on which MLflow shows F1 side by side: its address, and the view that its experiment carries."""

from __future__ import annotations

import json

from mlflow import MlflowClient

from facscale.track import Tracker
from facscale.track.view import STATE, TAG, address, page_of


def test_an_address_is_for_trackers_with_pages():
    page = "http://127.0.0.1:5000/#/experiments/7/runs?viewStateShareKey=facscale"
    assert address("http://127.0.0.1:5000/", experiment="7") == page
    assert address("sqlite:////tmp/mlflow.db", experiment="7") == ""


def test_a_tag_of_mlflow_holds_the_view():
    assert len(STATE) < 5000  # MLflow's limit
    assert json.loads(STATE)["columnOrder"][:2] == ["metrics.`f1/mean`", "metrics.`f1/AU1`"]


def test_an_experiment_has_the_view_new_or_old(store, tmp_path):
    api = MlflowClient(store)
    api.create_experiment("old", artifact_location=tmp_path.as_uri())
    for name in ("old", "new"):
        tracker = Tracker(store, name, key=name, name=name, spool=tmp_path / name)
        assert tracker.close()
        assert tracker.table_url == ""  # a file has no pages
        assert api.get_experiment_by_name(name).tags[TAG] == STATE


def test_where_nothing_was_judged_the_tracker_itself_is_shown(store):
    assert page_of(store, "nothing") == store
