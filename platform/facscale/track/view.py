"""How MLflow shows an experiment of ours: what was judged, the best first, with a column for the F1 of each AU.

MLflow's pages take filter and order from their address, and columns only from the browser's memory or from a "shared
view": a tag of the experiment, which its own button "Share" writes too. Ours is written with the experiment.
"""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

FORBIDDEN = 403  # who may only read an experiment has no say in how it is shown
NAME = "facscale"
AUS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 24, 25, 26)  # any data set's; MLflow leaves out what no run has
COLUMNS = ["metrics.`f1/mean`", *(f"metrics.`f1/AU{au}`" for au in AUS)]
TAG = f"mlflow.sharedViewState.{NAME}"
STATE = json.dumps(
    {
        "searchFilter": "metrics.`f1/mean` >= 0",
        "orderByKey": "metrics.`f1/mean`",
        "orderByAsc": False,
        "selectedColumns": COLUMNS,
        "columnOrder": COLUMNS,
        "columnWidths": dict.fromkeys(COLUMNS, 80),
    }
)


def address(uri: str, *, experiment: str) -> str:
    """Where the experiment of this id is shown so; "" for a tracker without pages."""
    if urlsplit(uri).scheme not in {"http", "https"}:
        return ""
    return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs?viewStateShareKey={NAME}"


def write_view(api: MlflowClient, *, experiment: str, tags: dict[str, str]) -> None:
    """Give an experiment the view, unless its `tags` say that it has it as it is now, or the tracker does not let us."""
    if tags.get(TAG) != STATE:
        try:
            api.set_experiment_tag(experiment, TAG, STATE)
        except MlflowException as error:
            if error.get_http_status_code() != FORBIDDEN:
                raise


def page_of(uri: str, name: str) -> str:
    """The address for an experiment of this name; the tracker's own where it has none."""
    found = MlflowClient(uri).get_experiment_by_name(name)
    return (found and address(uri, experiment=found.experiment_id)) or uri
