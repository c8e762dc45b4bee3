"""Dashboards and alerts query only metrics that Ray, facscale or Prometheus exports."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import ray
import yaml
from helm.chart import CHART, render_objects

from facscale.train.gauges import GAUGES
from manifests import change_values, find_object, load_objects

OURS = {
    "ray_facscale_data_wait_share",
    "ray_facscale_epoch",
    "ray_facscale_loss",
    "ray_facscale_samples_per_second",
    "ray_facscale_skipped",
    "ray_facscale_step",
    "ray_facscale_step_seconds",
    "ray_facscale_steps",
}
PANELS = Path(ray.__file__).parent / "dashboard/modules/metrics/dashboards/default_dashboard_panels.py"


def dashboards() -> dict[str, dict]:
    docs = [
        doc for doc in load_objects("values-fleet.yaml") if doc["metadata"]["name"].startswith("facscale-dashboard")
    ]
    return {name: json.loads(text) for doc in docs for name, text in doc["data"].items()}


def list_metrics(board: dict) -> set[str]:
    """Names of the metrics that a dashboard queries."""
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [variable["query"] for variable in board["templating"]["list"]]
    return {name for query in queries for name in re.findall(r"\b((?:ray|autoscaler)_(?!io_)\w+)", query)}


def test_there_are_two():
    assert set(dashboards()) == {"facscale-ray.json", "facscale-training.json"}


def test_ray_exports_what_its_dashboard_asks_for():
    panels = PANELS.read_text()
    names = list_metrics(dashboards()["facscale-ray.json"])
    assert len(names) > 10
    assert [name for name in sorted(names) if name not in panels] == []


def test_the_training_dashboard_shows_all_our_metrics():
    assert list_metrics(dashboards()["facscale-training.json"]) == OURS


@pytest.mark.parametrize("name", ["ray", "training"])
def test_panels_stand_side_by_side_and_are_all_there(name):
    board, source = (
        dashboards()[f"facscale-{name}.json"],
        yaml.safe_load((CHART / f"dashboards/{name}.yaml").read_text()),
    )
    assert [panel["title"] for panel in board["panels"]] == [panel["title"] for panel in source["panels"]]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places)
    assert {x for x, _ in places} == {0, 12}
    variables = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$(\w+)", json.dumps(board["panels"])))
    assert used <= variables


def load_alerts(**changes):
    """The rules of the alerts by name, in a namespace and a release of other names than the defaults."""
    docs = render_objects(change_values("values-fleet.yaml", changes))
    (group,) = find_object(docs, "PrometheusRule/facscale")["spec"]["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def test_alerts_ask_for_what_is_exported_and_about_this_release_alone():
    exported = {f"ray_facscale_{name}" for name in GAUGES} | {"up"}
    rules = load_alerts(**{"monitoring.rules": True})
    assert len(rules) == len(yaml.safe_load((CHART / "alerts.yaml").read_text())["alerts"])
    for name, rule in rules.items():
        selectors = re.findall(r"(\w+)\{([^}]*)\}", rule["expr"])
        assert {metric for metric, _ in selectors} <= exported, name
        assert all(re.search(r'namespace="[a-z0-9-]+"', matchers) for _, matchers in selectors), name
        assert len(re.findall(r"ray_facscale_\w+|\bup\b", rule["expr"])) == len(selectors), "a metric of all namespaces"
        assert not re.search(r"NAMESPACE|MLFLOW", rule["expr"])
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert re.fullmatch(r"\d+m", rule["for"])
        assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= {"training", "pod"}


def test_the_alert_of_the_heads_looks_at_the_job_that_its_monitor_makes():
    docs = render_objects(change_values("values-fleet.yaml", {"monitoring.rules": True}))
    (job,) = re.findall(r'job="([^"]+)"', load_alerts(**{"monitoring.rules": True})["FacscaleHeadDown"]["expr"])
    monitor = find_object(docs, "PodMonitor/facscale-ray-head")["spec"]
    assert monitor["selector"]["matchLabels"][monitor["jobLabel"]] == job


def test_without_a_server_of_its_own_there_is_no_alert_of_one():
    rules = load_alerts(
        **{"monitoring.rules": True, "mlflow.enabled": False, "tracking.uri": "https://mlflow.example.org"}
    )
    assert "FacscaleMLflowDown" not in rules
    assert "FacscaleHeadDown" in rules
