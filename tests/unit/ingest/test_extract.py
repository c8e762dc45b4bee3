"""Extracting the faces of one item, and the work store that holds the results."""

from __future__ import annotations

import io
import json

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg

from facscale.data import DataError, Dataset
from facscale.ingest import layouts, quality
from facscale.ingest.extract import ATTEMPTS, FaceExtractor
from facscale.ingest.items import list_files
from facscale.ingest.report import IngestReport, build_report
from facscale.ingest.work_store import ItemStatus, WorkStore
from facscale.spec import Pipeline
from merging import merge_items
from plugins.blob_faces import draw, draw_moving_face, write_video

pytestmark = pytest.mark.usefixtures("plugins")


def pipeline(tmp_path, *, layout="videos", **detector):
    return Pipeline.model_validate(
        {
            "source": {"layout": layout, "root": str(tmp_path / "raw")},
            "detector": {"name": "blob", **detector},
            "crop": {"size": 48, "eyes_y": 0.38, "eyes_distance": 0.38},
            "output": str(tmp_path / "out"),
        }
    )


def extract(spec, *, run="r"):
    listing = list_files(spec.source.root)
    extractor = FaceExtractor(spec, run=run)
    items = sorted(layouts.find(spec.source.layout).list_items(listing.files), key=lambda item: item.sort_key)
    return [extractor(item, item.compute_key(listing.files)) for item in items]


def faces(spec, status):
    return pq.read_table(io.BytesIO(WorkStore(spec.output).folder.read(f"{status.key}.parquet")))


def test_a_video_becomes_aligned_crops_with_landmarks(tmp_path):
    write_video(tmp_path / "raw/anna/a.mp4", draw_moving_face(30, hidden=range(12, 18)))
    spec = pipeline(tmp_path)
    (status,) = extract(spec)
    assert (status.identity, status.video, status.frames, status.faces) == ("anna", "a", 30, 24)
    assert (status.faceless, status.dropped, status.tracks, status.faults, status.fps) == (6, 0, 2, (), 25)
    table = faces(spec, status)
    assert table["frame"].to_pylist() == [*range(12), *range(18, 30)]
    assert table["track"].to_pylist() == [0] * 12 + [1] * 12
    assert table["time_s"].to_pylist() == pytest.approx([n / 25 for n in (*range(12), *range(18, 30))])
    assert table.schema.field("landmarks").type.list_size == 136
    points = np.array(table["landmarks"].to_pylist()).reshape(-1, 68, 2)
    # eyes: 0.38 * 48 down and 0.38 * 48 apart, less half a pixel; the smoothing and the codec leave some noise
    assert points[:, 36] == pytest.approx(np.tile([14.38, 17.74], (24, 1)), abs=1.5)
    assert points[:, 42] == pytest.approx(np.tile([32.62, 17.74], (24, 1)), abs=1.5)
    images = [simplejpeg.decode_jpeg(jpeg, colorspace="RGB") for jpeg in table["jpeg"].to_pylist()]
    assert {image.shape for image in images} == {(48, 48, 3)}
    for image in images:  # what lies between and below the eyes is the face
        assert image[18:30, 18:30].reshape(-1, 3).mean(axis=0) == pytest.approx([220, 20, 20], abs=15)


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, 1), (1, 1), (2.5, 2)])
def test_opencv_uses_no_more_threads_than_a_worker_has_cores(tmp_path, cpus, threads):
    cv2.setNumThreads(4)
    spec = pipeline(tmp_path)
    FaceExtractor(spec.model_copy(update={"ingest": spec.ingest.model_copy(update={"cpus_per_worker": cpus})}), run="r")
    assert cv2.getNumThreads() == threads


def test_quality_columns_reach_the_shards_and_the_report(tmp_path):
    write_video(tmp_path / "raw/anna/a.mp4", draw_moving_face(12))
    write_video(tmp_path / "raw/ben/b.mp4", [draw((0, 30, 40, 74))] * 8)  # the crop reaches beyond the left edge
    spec = pipeline(tmp_path)
    statuses = extract(spec)
    manifest = merge_items(statuses, pipeline=spec, recipe={})
    assert manifest.counts["frames"] == 20
    table = Dataset(spec.output).read_columns(["identity", *quality.COLUMNS])
    values = {name: table[name].to_numpy() for name in quality.COLUMNS}
    assert all(np.isfinite(column).all() for column in values.values())
    assert values["disagreement"].max() < 0.1
    assert (values["sharpness"] > 0).all()
    assert (values["outside"][:12] == 0).all()
    assert (values["outside"][12:] > 0).all()
    report = build_report(name="n", output=spec.output, statuses=statuses, faults=(), reused=0, wall_s=1.0)
    assert report.quality.outside == pytest.approx(values["outside"].mean(), abs=1e-3)
    assert report.quality.doubtful == 0
    assert "doubtful" in report.format_text()
    report.write(statuses)
    assert IngestReport.read(spec.output) == report


def test_a_report_of_an_earlier_version_is_readable(tmp_path):
    report = build_report(name="n", output=str(tmp_path), statuses=(), faults=(), reused=0, wall_s=1.0)
    fields = json.loads(report.to_json())
    del fields["quality"], fields["shot_cuts"]
    (tmp_path / "report.json").write_text(json.dumps(fields))
    assert IngestReport.read(str(tmp_path)) == report


def test_at_one_frame_a_second_short_videos_are_kept(tmp_path):
    write_video(tmp_path / "raw/anna/a.mp4", draw_moving_face(80))
    spec = pipeline(tmp_path)
    spec = spec.model_copy(update={"source": spec.source.model_copy(update={"every": 25})})
    (status,) = extract(spec)
    assert (status.frames, status.faces, status.tracks, status.dropped) == (4, 4, 1, 0)


def test_a_shot_cut_is_counted_and_ends_a_track(tmp_path):
    face = (20, 30, 60, 74)
    images = [draw(face)] * 9 + [draw(face, colour=(200, 200, 200))] * 9
    write_video(tmp_path / "raw/anna/a.mp4", images)
    (status,) = extract(pipeline(tmp_path))
    assert (status.faces, status.tracks, status.shot_cuts) == (18, 2, 1)


def test_faults_name_the_stage_and_the_reason(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "a_empty.mp4").write_bytes(b"")
    (raw / "b_broken.mp4").write_bytes(b"garbage" * 99)
    write_video(raw / "c_nobody.mp4", [draw()] * 9)
    write_video(raw / "d_glimpse.mp4", draw_moving_face(12, hidden=range(3, 12)))
    statuses = extract(pipeline(tmp_path))
    faults = [(fault.item, fault.stage, fault.reason) for status in statuses for fault in status.faults]
    assert [(item, stage) for item, stage, _ in faults] == [
        ("a_empty.mp4", "decode"),
        ("b_broken.mp4", "decode"),
        ("c_nobody.mp4", "faces"),
        ("d_glimpse.mp4", "faces"),
    ]
    assert faults[2][2] == "no face in its 9 frames"
    assert "too short" in faults[3][2]
    assert [status.faces for status in statuses] == [0, 0, 0, 0]
    assert (statuses[3].dropped, statuses[3].faceless) == (3, 9)


LABELS = "0,1,12\n" + "".join(f"{n},{n % 2},9\n" for n in range(101, 107))


def bp4d(root, *, frames=8, labels=LABELS):
    (root / "F001/T1").mkdir(parents=True)
    (root / "AUCoding/AU_OCC").mkdir(parents=True)
    for number, image in enumerate(draw_moving_face(frames), start=101):
        (root / f"F001/T1/{number:04d}.jpg").write_bytes(simplejpeg.encode_jpeg(image))
    (root / "AUCoding/AU_OCC/F001_T1.csv").write_text(labels)


def test_labels_are_stored_with_their_frames(tmp_path):
    bp4d(tmp_path / "raw")
    spec = pipeline(tmp_path, layout="bp4d")
    (status,) = extract(spec)
    assert status.au == (1,)  # nobody coded AU 12
    table = faces(spec, status)
    assert table["frame"].to_pylist() == list(range(101, 109))
    assert table["au"].to_pylist() == [[1], [0], [1], [0], [1], [0], [-1], [-1]]
    assert table["intensity"].to_pylist() == [[-1]] * 8


def test_an_unreadable_label_file_skips_the_video_with_file_and_line(tmp_path):
    bp4d(tmp_path / "raw", labels="0,1\n101,yes\n")
    (status,) = extract(pipeline(tmp_path, layout="bp4d"))
    assert status.faces == 0
    (fault,) = status.faults
    assert (fault.item, fault.stage) == ("F001/T1", "labels")
    assert "F001_T1.csv, line 2" in fault.reason


def test_a_detector_that_raises_costs_only_its_video(tmp_path, monkeypatch):
    from facscale.ingest import detectors

    write_video(tmp_path / "raw/a.mp4", draw_moving_face(8))
    write_video(tmp_path / "raw/b.mp4", draw_moving_face(9))
    blob = detectors.find("blob")
    look = blob.detect
    calls = iter(range(1000))
    monkeypatch.setattr(blob, "detect", lambda self, image: look(self, image) if next(calls) else 1 / 0)
    bad, good = extract(pipeline(tmp_path))
    assert (bad.faults[0].stage, bad.faults[0].reason) == ("decode", "ZeroDivisionError: division by zero")
    assert (good.faces, good.faults) == (9, ())


def test_a_store_that_does_not_answer_is_not_a_fault_of_the_video(tmp_path, monkeypatch):
    write_video(tmp_path / "raw/a.mp4", draw_moving_face(8))
    spec = pipeline(tmp_path)

    def refuse(*_, **__):
        raise ConnectionResetError("by peer")

    with monkeypatch.context() as outage:
        outage.setattr("facscale.ingest.frames.open_root", refuse)
        with pytest.raises(DataError, match="run the pipeline again later"):
            extract(spec)
    assert extract(spec)[0].faces == 8


def test_a_complete_item_is_not_processed_again(tmp_path):
    from facscale.ingest import detectors

    write_video(tmp_path / "raw/a.mp4", draw_moving_face(8))
    spec = pipeline(tmp_path)
    first = extract(spec)
    calls = detectors.find("blob").calls
    assert extract(spec, run="another") == first
    assert detectors.find("blob").calls == calls
    write_video(tmp_path / "raw/a.mp4", draw_moving_face(20))  # another file under the same name
    assert extract(spec, run="another")[0].faces == 20


def test_a_video_that_keeps_crashing_its_process_is_skipped(tmp_path):
    write_video(tmp_path / "raw/a.mp4", draw_moving_face(8))
    spec = pipeline(tmp_path)
    listing = list_files(spec.source.root)
    (item,) = layouts.find("videos").list_items(listing.files)
    for _ in range(ATTEMPTS):
        WorkStore(spec.output).count_attempt(item.compute_key(listing.files), "r")
    (status,) = extract(spec, run="r")
    assert status.faults[0].stage == "crash"


def test_attempts_of_an_earlier_run_do_not_count(tmp_path):
    parts = WorkStore(str(tmp_path))
    assert [parts.count_attempt("k", run) for run in ("one", "one", "two", "two", "two")] == [1, 2, 1, 2, 3]


def test_results_of_another_recipe_are_rejected(tmp_path):
    parts = WorkStore(str(tmp_path))
    parts.check_recipe({"crop": {"size": 96}, "layout": "videos"})
    parts.check_recipe({"crop": {"size": 96}, "layout": "videos"})
    with pytest.raises(DataError, match=r"another recipe \(different: crop\)"):
        parts.check_recipe({"crop": {"size": 64}, "layout": "videos"})


def test_a_result_without_a_status_is_not_complete(tmp_path):
    parts = WorkStore(str(tmp_path))
    parts.check_recipe({})
    (tmp_path / "_parts/k1.parquet").write_bytes(b"half a f")
    done = ItemStatus("k2", "a.mp4", "a", "a", "", frames=3)
    parts.save(done, faces=None)
    assert parts.read_statuses({"k1", "k2", "k3"}) == {"k2": done}
    parts.delete()
    assert parts.read_statuses({"k2"}) == {}
    assert not (tmp_path / "_parts").exists()
