"""The page of a data set: complete, self-contained and safe."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa

from faces import make_track, write_expression_data_set, write_face_data_set, write_tracks
from facscale.data import Dataset
from facscale.data.statistics import measure_labels, sample_frames
from facscale.report.dataset_page import CROPS_OF_VIDEO, build_dataset_page, make_coverage, select_crops


def test_a_page_holds_everything_and_asks_no_network(tmp_path):
    recipe = {
        "detector": {"name": "dlib"},
        "licence": "research <b>only</b>",
        "history": [{"command": "merge", "from": []}],
    }
    dataset = write_face_data_set(str(tmp_path), [20] * 9, au=(1, 2, 12), name="BP4D", recipe=recipe)
    page = build_dataset_page(dataset)
    for text in (
        "dlib",
        "research &lt;b&gt;only",
        "Beside its published size",
        "Co-occurrence",
        "least sharp",
        "merge",
    ):
        assert text in page, text
    assert "<b>only" not in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) > 40
    assert all(source.startswith("data:image/") for source in sources)
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_sets_without_labels_landmarks_or_videos_have_a_page_too(tmp_path):
    for dataset in (
        write_face_data_set(str(tmp_path / "a"), [3]),
        write_expression_data_set(str(tmp_path / "b")),
        write_tracks(str(tmp_path / "c"), [make_track(0, frames=[0])], fps=0.0, name=""),
    ):
        page = build_dataset_page(dataset)
        assert "Co-occurrence" not in page
        assert "Detection" not in page


def test_no_video_fills_a_row_of_crops(tmp_path):
    sample = sample_frames(write_face_data_set(str(tmp_path), [200, 3, 4]))
    rows = {row.title: row.images for row in select_crops(sample)}
    assert len(rows["darkest"]) == 3 * CROPS_OF_VIDEO
    values = [float(caption.rpartition(" ")[2]) for _, caption in rows["darkest"]]
    assert values == sorted(values)


def test_coverage_says_what_is_missing(tmp_path):
    dataset = write_face_data_set(str(tmp_path), [20] * 4, au=(1, 2), name="disfa_25")
    labels = measure_labels(dataset)
    text = make_coverage(dataset, labels).to_csv()
    assert f'positives of AU2,{labels.positives[1]},"5,644",' in text
    assert 'positives of AU26,0,"11,533"' in text
    assert "people,4,27,-23,14.8 %" in text
    assert "AU4 AU6 AU9 AU12 AU25 AU26" in text
    assert make_coverage(Dataset(write_face_data_set(str(tmp_path / "own"), [3]).url), None) is None


def test_quality_that_the_pipeline_stored_is_shown(tmp_path):
    track = make_track(0, frames=range(30)).append_column(
        "outside", pa.array(np.linspace(0, 0.5, 30, dtype=np.float32))
    )
    page = build_dataset_page(write_tracks(str(tmp_path), [track]))
    assert "most outside the picture" in page
    assert "id00000/v0/0/29: 0.50" in page
    assert "landmarks least certain" not in page
