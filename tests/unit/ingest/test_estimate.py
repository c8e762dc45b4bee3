"""What a pipeline is estimated to take: scaled from a sample, which the pipeline's own code reads."""

from __future__ import annotations

import re

import numpy as np
import pytest
from click.testing import CliRunner

from faces import make_track, write_tracks
from facscale.cli import main
from facscale.data import DataError, Dataset
from facscale.data.writer import MB
from facscale.ingest import estimate_pipeline, layouts, trial
from facscale.ingest.estimate import (
    PipelineEstimate,
    SampledItem,
    Totals,
    count_row_groups_per_byte,
    estimate_ratio_error,
    format_bytes,
    round_number,
)
from facscale.ingest.extract import FaceExtractor
from facscale.ingest.items import list_files
from facscale.spec import Pipeline
from facscale.spec.pipelines import Source
from plugins.blob_faces import draw, draw_moving_face, write_video

pytestmark = pytest.mark.usefixtures("plugins")


def pipeline(tmp_path, *, layout="videos", root=None, **source):
    return Pipeline.model_validate(
        {
            "name": "test",
            "source": {"layout": layout, "root": root or str(tmp_path / "raw"), **source},
            "detector": {"name": "blob"},
            "crop": {"size": 48, "eyes_y": 0.38, "eyes_distance": 0.38},
            "output": str(tmp_path / "out"),
        }
    )


def write_source(tmp_path, *, frames=(20, 30, 40)):
    for number, count in enumerate(frames):
        write_video(tmp_path / f"raw/p{number}/a.mp4", draw_moving_face(count, hidden=range(5, 9)))
    write_video(tmp_path / "raw/room/empty.mp4", [draw()] * 10)
    (tmp_path / "raw/room/noise.mp4").write_bytes(bytes(range(256)) * 4)


def test_a_sample_of_everything_has_the_counts_of_the_extraction_itself(tmp_path):
    write_source(tmp_path)
    spec = pipeline(tmp_path)
    estimate = estimate_pipeline(spec, sample=100, progress=False)
    assert not (tmp_path / "out").exists(), "nothing is stored"
    listing = list_files(spec.source.root)
    extractor = FaceExtractor(spec, run="r")
    items = list(layouts.find("videos").list_items(listing.files))
    statuses = [extractor(item, item.compute_key(listing.files)) for item in items]
    for name in ("frames", "faces", "tracks"):
        assert estimate.scale(name) == pytest.approx(sum(getattr(status, name) for status in statuses)), name
    stored = sum(path.stat().st_size for path in (tmp_path / "out/_parts").glob("*.parquet"))
    assert estimate.scale("stored_bytes") == pytest.approx(stored)
    assert sum(size for item in estimate.sample for size in item.track_bytes) == pytest.approx(stored)
    assert estimate.totals.people == 4
    assert estimate.totals.items == 5
    assert estimate.totals.read_bytes == sum(listing.files.values())
    text = estimate.format_text()
    assert "2 without a face, 2 with faults" in text
    assert "room/noise.mp4  decode  cannot be opened as a video" in text
    assert "room/empty.mp4  faces  no face in its 10 frames" in text


def test_a_part_is_scaled_by_the_bytes_of_the_files(tmp_path):
    for number in range(6):
        write_video(tmp_path / f"raw/p{number}/a.mp4", draw_moving_face(20))
    estimate = estimate_pipeline(pipeline(tmp_path), sample=2, progress=False)
    assert len(estimate.sample) == 2
    assert estimate.totals.items == 6
    assert estimate.scale("frames") == pytest.approx(120), "all files are equal"


def test_only_the_beginning_of_a_long_video_is_read_and_counts_for_all_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "MAX_FRAMES", 10)
    write_video(tmp_path / "raw/a/a.mp4", draw_moving_face(60))
    estimate = estimate_pipeline(pipeline(tmp_path, every=2), progress=False)
    assert estimate.scale("frames") == pytest.approx(30)
    assert estimate.scale("faces") == pytest.approx(30)
    (item,) = estimate.sample
    assert sum(item.track_bytes) < item.stored_bytes / 2, "tracks are those that were read"


def test_a_source_that_is_not_at_hand_has_published_counts(tmp_path):
    with pytest.raises(DataError, match="cannot be listed|there are no files"):
        estimate_pipeline(pipeline(tmp_path), progress=False)
    totals, notes = trial.find_published_totals(Source(layout="voxceleb2", root="x", every=25))
    assert (totals.people, totals.items) == (6_112, 1_128_246)
    assert totals.weight == pytest.approx(219e6 / 25, rel=0.01)
    half, _ = trial.find_published_totals(Source(layout="voxceleb2", root="x", identities=3_056))
    assert (half.people, half.items) == (3_056, 564_123)
    _, notes = trial.find_published_totals(Source(layout="voxceleb2", root="x", parts=("train",)))
    assert "source.parts" in notes[-1]
    faces, _ = trial.find_published_totals(Source(layout="rafdb", root="x", limit=1000))
    assert (faces.items, faces.unit, faces.weight) == (1000, "images", 1000)
    assert trial.find_published_totals(Source(layout="videos", root="x")) is None
    assert trial.find_published_totals(Source(layout="bp4dplus", root="x")) is None, "it is not BP4D"
    totals, notes = trial.find_published_totals(Source(layout="bp4d", root="x"))
    assert totals.weight == 146_847
    assert "only the frames that are labelled" in notes[-1]


def test_the_error_of_a_ratio_is_that_of_repeated_samples():
    random = np.random.default_rng(0)
    weights = random.uniform(1, 10, 5000)
    values = weights * random.normal(3, 0.6, 5000)
    ratios, errors = [], []
    for _ in range(2000):
        chosen = random.integers(0, 5000, 20)
        ratios.append(values[chosen].sum() / weights[chosen].sum())
        errors.append(estimate_ratio_error(values[chosen], weights[chosen]))
    assert np.mean(errors) == pytest.approx(2 * np.std(ratios) / np.mean(ratios), rel=0.1)
    assert estimate_ratio_error([1, 2], [1, 1]) is None


@pytest.mark.parametrize("lengths", [[12] * 30, [5, 40, 9, 22] * 8, [300]])
def test_row_groups_are_counted_as_the_writer_makes_them(tmp_path, lengths):
    tracks = [make_track(person, frames=range(length)) for person, length in enumerate(lengths)]
    sizes = [track.nbytes for track in tracks]
    data = write_tracks(str(tmp_path / "set"), tracks, row_group_mb=0.1)
    groups = sum(len(shard.row_groups) for shard in Dataset(data.url).manifest.shards)
    assert count_row_groups_per_byte(sizes, group_bytes=0.1 * MB) * sum(sizes) == pytest.approx(groups, rel=0.15)


def make_estimate(**more):
    item = SampledItem(weight=10, frames=100, faces=80, tracks=2, stored_bytes=2e6, seconds=4, track_bytes=(1e6, 1e6))
    fields = {
        "name": "test",
        "output": "out",
        "workers": 4,
        "cpus_per_worker": 2,
        "row_group_mb": 8,
        "shard_mb": 256,
        "totals": Totals(people=3, items=500, unit="videos", weight=9000, read_bytes=3e12),
        "sample": (item,),
        "stages": {"decode": 1.0, "detect": 2.0, "waiting": 1.0},
    }
    return PipelineEstimate(**fields | more)


def test_the_text_has_time_on_the_cores_that_are_asked_for_and_the_cost():
    text = make_estimate(price=0.5).format_text()
    assert "3 people, 500 videos, about 90,000 frames" in text
    assert "15 min 0 s on 8 cores: 2.00 core hours, without the merge" in text, "900 items of 4 s, 2 cores each"
    assert "1.50 core hours without the waiting" in text
    assert "1.00, at 0.5 for an hour of a core" in text
    assert "3 TB read, 1.8 GB written, 25.0 kB a face" in text
    assert "about 7, with 225 row groups" in text
    assert re.search(r"read and decode +100 +25%\n", text)


def test_a_sample_without_a_face_says_so():
    text = make_estimate(sample=(SampledItem(1, 0, 0, 0, 0.0, 0.1),)).format_text()
    assert "none in the sample" in text
    assert "1 without a face" in text


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (7.4, "7"), (12_345, "12,300"), (219_035_115, "219,000,000")])
def test_numbers_are_rounded_to_three_digits(value, text):
    assert round_number(value) == text


@pytest.mark.parametrize(("count", "text"), [(12, "0.012 kB"), (20_100, "20.1 kB"), (2.9e12, "2.9 TB")])
def test_bytes_have_a_unit(count, text):
    assert format_bytes(count) == text


@pytest.fixture
def facscale():
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


def write_spec(tmp_path, root):
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"source: {{layout: videos, root: {root}}}\ndetector: {{name: blob}}\noutput: {tmp_path}/out\n"
        "crop: {size: 48, eyes_y: 0.38, eyes_distance: 0.38}\n"
    )
    return path


def test_check_tells_a_pipeline_from_a_job_and_starts_nothing(facscale, tmp_path, monkeypatch):
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray was started"))
    write_source(tmp_path)
    done = facscale("check", write_spec(tmp_path, tmp_path / "raw"), "--sample", "3", "--price", "0.04")
    assert done.exit_code == 0, done.output
    for expected in ("mine -> ", "4 people, 5 videos", "frames/s a core", "core hours", "cost", "3 items"):
        assert expected in done.output, expected
    assert facscale("check", write_spec(tmp_path, tmp_path / "raw"), "source.evry=2").exit_code == 2


def test_check_names_a_variable_that_is_not_set(facscale, tmp_path, monkeypatch):
    monkeypatch.delenv("FACES_OF_NOBODY", raising=False)
    done = facscale("check", write_spec(tmp_path, '"${FACES_OF_NOBODY}/raw"'))
    assert done.exit_code == 2
    assert "FACES_OF_NOBODY" in done.output
    assert "Traceback" not in done.output


def test_options_of_pipelines_are_refused_for_a_job(facscale, tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text("method: {name: clp}\n")
    done = facscale("check", job, "--sample", "3")
    assert done.exit_code == 2
    assert "--sample works only with a data pipeline" in done.output
