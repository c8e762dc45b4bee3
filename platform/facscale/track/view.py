"""MLflow's page of an experiment: runs with a mean F1, the best first, with a column for the F1 of each AU.

MLflow's pages take filter and order from their address, but columns only from the browser's memory or from a "shared
view": a tag of the experiment, which the page's own button "Share" writes too. Ours is written with the experiment.
"""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from facscale.compat.mlflow import SHARED_VIEW_PARAMETER, SHARED_VIEW_TAG_PREFIX

FORBIDDEN = 403  # the user may read the experiment, but not change how it is shown
VIEW_NAME = "facscale"
AUS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 24, 25, 26)  # of all data sets; MLflow hides what no run has
COLUMNS = ["metrics.`f1/mean`", *(f"metrics.`f1/AU{au}`" for au in AUS)]
VIEW_TAG = f"{SHARED_VIEW_TAG_PREFIX}{VIEW_NAME}"
VIEW_STATE = json.dumps(
    {
        "searchFilter": "metrics.`f1/mean` >= 0",
        "orderByKey": "metrics.`f1/mean`",
        "orderByAsc": False,
        "selectedColumns": COLUMNS,
        "columnOrder": COLUMNS,
        "columnWidths": dict.fromkeys(COLUMNS, 80),
    }
)


def build_view_url(uri: str, *, experiment: str) -> str:
    """Return the address of the view of the experiment with this id; "" for a tracker without pages (a file)."""
    if urlsplit(uri).scheme not in {"http", "https"}:
        return ""
    return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs?{SHARED_VIEW_PARAMETER}={VIEW_NAME}"


def find_view_url(uri: str, name: str) -> str:
    """Return the address of the view of the experiment of this name; the tracker's own address if it has none."""
    experiment = MlflowClient(uri).get_experiment_by_name(name)
    return (experiment and build_view_url(uri, experiment=experiment.experiment_id)) or uri


def write_view(api: MlflowClient, *, experiment: str, tags: dict[str, str]) -> None:
    """Give an experiment the view, unless its `tags` hold it already or the user may not change the experiment."""
    if tags.get(VIEW_TAG) != VIEW_STATE:
        try:
            api.set_experiment_tag(experiment, VIEW_TAG, VIEW_STATE)
        except MlflowException as error:
            if error.get_http_status_code() != FORBIDDEN:
                raise
