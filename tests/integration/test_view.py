"""The link that a job prints at its end, in a browser: MLflow shows the runs with their F1, the best first."""

from __future__ import annotations

import pytest

from browser import browser_page, chromium, keep_screenshot
from facscale.track import Tracker
from facscale.track.view import find_view_url

pytestmark = [
    pytest.mark.slow("an MLflow server, and a browser"),
    pytest.mark.skipif(chromium() is None, reason="Chromium is missing: apt-get install chromium"),
]


def test_the_page_shows_f1_side_by_side(mlflow_server, tmp_path):
    job = Tracker(mlflow_server.url, "bp4d of the view", key="job", name="clp", spool=tmp_path)
    job.log_metrics({"f1/mean": 0.125, "f1/AU1": 0.1875, "f1/AU12": 0.0625, "loss": 9.375})
    better = job.start_child("job/moco", "moco")
    better.log_metrics({"f1/mean": 0.375, "f1/AU1": 0.3125, "f1/AU12": 0.4375})
    job.start_child("job/fold0", "only a fold").log_metrics({"fold0/f1/AU1": 0.5625})
    assert job.close()
    assert job.table_url == find_view_url(mlflow_server.url, "bp4d of the view")
    with browser_page() as page:
        page.goto(job.table_url)
        cells = page.get_by_role("gridcell")
        cells.filter(has_text="0.4375").wait_for()
        shown = [text.strip() for text in cells.all_inner_texts()]
        for value in ("0.125", "0.375", "0.1875", "0.3125", "0.0625", "0.4375"):
            assert value in shown
        assert not {"9.375", "0.5625"} & set(shown)  # other numbers have no column, runs without F1 no line
        heads = page.get_by_role("columnheader")
        order = sorted(
            (head.bounding_box()["x"], head.inner_text().strip()) for head in heads.all() if head.is_visible()
        )
        assert list(dict.fromkeys(name for _, name in order if name.startswith("f1/"))) == [
            "f1/mean",
            "f1/AU1",
            "f1/AU12",
        ]
        places = [page.get_by_text(name, exact=True).first.bounding_box()["y"] for name in ("moco", "clp")]
        assert places[0] < places[1]
        assert keep_screenshot(page, "f1").stat().st_size > 10_000
