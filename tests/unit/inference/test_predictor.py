"""From frames to AUs: faces as a data set has them, their neighbours in time, and arrays of all kinds."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from detecting import PREPROCESSING, Echo, make_detector
from facscale.data import Dataset
from facscale.data.views import FrameOffsets, FrameTriple
from facscale.inference.api import AUDetector
from facscale.inference.detector import Detector, DetectorError
from facscale.inference.head_pose import FOCAL_LENGTH, HEAD, POINTS, estimate_head_pose
from facscale.inference.predictor import (
    CroppedFace,
    CroppedFrame,
    Predictor,
    collect_samples,
    compute_stride,
    make_frames,
    read_in_thread,
    to_rgb,
)
from facscale.ingest import layouts
from facscale.ingest.detectors import Box
from facscale.ingest.extract import FaceExtractor
from facscale.ingest.items import list_files
from facscale.spec import Pipeline
from facscale.spec.pipelines import DetectorBlock
from merging import merge_items
from plugins.blob_faces import draw, draw_moving_face, write_video

pytestmark = pytest.mark.usefixtures("plugins")


def make_dataset(tmp_path, **crop):
    """A data set of a video of one face, as `facscale run` makes it."""
    fields = PREPROCESSING.model_dump(mode="json")
    pipeline = Pipeline.model_validate(
        {
            "source": {"layout": "videos", "root": str(tmp_path / "raw")},
            "detector": fields["detector"],
            "crop": {**fields["crop"], "quality": 100, **crop},
            "output": str(tmp_path / "out"),
        }
    )
    listing = list_files(pipeline.source.root)
    items = layouts.find("videos").list_items(listing.files)
    extractor = FaceExtractor(pipeline, run="r")
    statuses = [extractor(item, item.compute_key(listing.files)) for item in items]
    recipe = {"version": 1, "detector": fields["detector"], "crop": pipeline.crop.model_dump(mode="json")}
    merge_items(statuses, pipeline=pipeline, recipe=recipe)
    return Dataset(pipeline.output)


def test_a_video_gives_what_its_crops_in_a_data_set_give(tmp_path):
    video = write_video(tmp_path / "raw/anna/a.mp4", draw_moving_face(40, hidden=range(12, 18)))
    dataset = make_dataset(tmp_path)
    detector = AUDetector(make_detector(), device="cpu", batch_size=7)
    of_video, of_crops = detector.predict(video), detector.predict(dataset.url)
    assert list(of_video["frame"]) == list(range(40))
    assert list(of_video["frame"][of_video["face"].isna()]) == list(range(12, 18))
    faces = of_video.dropna(subset=["face"])
    assert list(faces["frame"]) == list(of_crops["frame"])
    for name in ("AU01", "AU06", "AU12", "AU12_r"):
        assert np.abs(faces[name].to_numpy() - of_crops[name].to_numpy()).max() < 0.03  # JPEG
        assert faces[name].std() > 0
    assert (faces["AU06_c"] == (faces["AU06"] >= 0.5)).all()


@pytest.mark.parametrize("crop", [{"size": 64}, {"eyes_y": 0.3}, {"margin": 0.25}])
def test_crops_of_another_kind_are_refused(tmp_path, crop):
    write_video(tmp_path / "raw/anna/a.mp4", draw_moving_face(12))
    dataset = make_dataset(tmp_path, **crop)
    with pytest.raises(DetectorError, match="its crops are of another kind than those that the detector learned from"):
        AUDetector(make_detector(), device="cpu").predict(dataset.url)


def test_a_detector_of_unknown_crops_reads_no_pictures():
    with pytest.raises(DetectorError, match="of which nobody recorded how they were made"):
        AUDetector(make_detector(is_known=False), device="cpu").predict(draw((20, 20, 60, 64)))


def test_batches_of_any_size_give_the_same(tmp_path):
    video = write_video(tmp_path / "a.mp4", [draw((10, 20, 50, 64), (70, 20, 110, 64)) for _ in range(9)])
    tables = [AUDetector(make_detector(), device="cpu", batch_size=size).predict(video) for size in (1, 4, 64)]
    for table in tables[1:]:
        assert np.allclose(
            table.drop(columns="input").to_numpy(float), tables[0].drop(columns="input").to_numpy(float), atol=1e-4
        )
    assert list(tables[0]["face"]) == [0, 1] * 9
    assert list(tables[0]["frame"]) == [number for number in range(9) for _ in range(2)]


def level(value):
    points = np.full((68, 2), np.nan, np.float32)
    return CroppedFace(np.full((48, 48, 3), value, np.uint8), points, Box(0, 0, 1, 1), points, np.zeros(3), 1.0)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("view", [FrameTriple(interval=3), FrameOffsets(offsets=(0, 1, 4))], ids=["triple", "offsets"])
def test_neighbours_are_those_of_the_face_itself(view, stride):
    """Two faces, of which one is away for a while; each frame's brightness tells its number, and whose it is."""
    frames = []
    for n in range(40):
        faces = {(0, 0, 0): level(n)}
        if not 15 <= n < 20:
            faces[1, 0, int(n >= 20)] = level(100 + n)
        frames.append(CroppedFrame(n, n / 25, faces))
    fps = 25.0 / stride
    detector = Detector([Echo(view)], aus=(1, 2, 4), preprocessing=PREPROCESSING.model_copy(update={"fps": fps}))
    results = list(Predictor(detector, device="cpu", batch_size=16).predict_crops(frames, interval_s=0.04))
    assert [result.number for result in results] == list(range(40))
    for result in results:
        for face in result.faces:
            first, last = (0, 39) if face.face == 0 else ((0, 14) if result.number < 15 else (20, 39))
            base, n = 100 * face.face, result.number
            run = [number for number in range(first, last + 1) if (number - n) % stride == 0]
            place = run.index(n)
            rows = np.minimum(view.choose(place, len(run), None), len(run) - 1)
            brightness = torch.tensor([base + run[row] for row in rows]) / 255
            assert np.allclose(face.probability, torch.sigmoid(brightness), atol=1e-4)


def test_a_stride_is_the_ratio_of_frame_rates():
    assert [compute_stride(1 / fps, fps=25.0) for fps in (12, 25, 30, 50, 120)] == [1, 1, 1, 2, 5]
    assert compute_stride(0, fps=25.0) == compute_stride(0.04, fps=0) == 1


def test_samples_are_collected_without_waiting_for_the_end():
    read = 0

    def film():
        nonlocal read
        for n in range(500):
            read += 1
            yield CroppedFrame(n, n / 25, {(0, 0, 0): level(0)})

    lags = [read - 1 - sample.number for sample in collect_samples(film(), views={"face": FrameTriple(interval=5)})]
    assert max(lags) == 5


def test_a_live_stream_is_answered_before_it_ends():
    detector, given = AUDetector(make_detector(), device="cpu"), 0

    def film():
        nonlocal given
        for image in draw_moving_face(60):
            given += 1
            yield image

    lags = [given - 1 - result.number for result in detector.stream(film())]
    assert len(lags) == 60
    assert max(lags) <= 13  # the next detection, and the smoothing of the eyes


@pytest.mark.parametrize(
    "convert",
    [
        lambda image: image,
        lambda image: image.astype(np.float32) / 255,
        lambda image: image.astype(np.float64),
        lambda image: np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]),
    ],
    ids=["uint8", "0 to 1", "0 to 255", "alpha"],
)
def test_images_of_all_kinds_are_the_same(convert):
    detector, image = AUDetector(make_detector(), device="cpu"), draw((20, 20, 60, 64))
    expected, table = detector.predict(image), detector.predict(np.stack([convert(image)] * 2))
    assert list(table["frame"]) == [0, 1]
    assert list(expected["face"]) == [0]
    assert table["AU12"].to_numpy() == pytest.approx(expected["AU12"].to_numpy()[0], abs=1e-5)


def test_grey_pictures_have_three_channels():
    assert to_rgb(np.full((4, 5), 7, np.uint8)).tolist() == np.full((4, 5, 3), 7).tolist()
    assert to_rgb(np.full((4, 5, 1), 7, np.uint8)).shape == (4, 5, 3)


@pytest.mark.parametrize(
    "image", [np.zeros((3, 8, 8), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros(7), np.full((4, 4, 3), -1.0)]
)
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(DetectorError, match="picture|values"):
        list(make_frames([image], fps=0))


@pytest.mark.parametrize("angles", [(0, 0, 0), (20, 0, 0), (0, -25, 0), (0, 0, 30), (-10, 20, -15)])
def test_head_pose_against_a_projection(angles):
    """The average head, turned by known angles, seen by a camera."""
    pitch, yaw, roll = np.deg2rad(angles)
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    turned = HEAD @ (about_z @ about_y @ about_x).T + [50, 20, 2500]
    focal = FOCAL_LENGTH * 640
    points = np.full((68, 2), 1.0)
    points[POINTS] = focal * turned[:, :2] / turned[:, 2:] + [319.5, 179.5]
    assert estimate_head_pose(points, height=360, width=640) == pytest.approx(angles, abs=0.5)
    if angles == (20, 0, 0):
        assert points[30, 1] > points[[36, 45], 1].mean() + 40  # the nose looks down


def test_head_pose_without_landmarks_is_unknown():
    assert np.isnan(estimate_head_pose(np.full((68, 2), np.nan), height=10, width=10)).all()


def test_the_error_of_a_thread_is_raised_where_its_items_are_read():
    def produce():
        yield 1
        raise DetectorError("broken")

    items = read_in_thread(produce(), size=2)
    assert next(items) == 1
    with pytest.raises(DetectorError, match="broken"):
        next(items)


def test_a_thread_ends_when_nobody_reads_on():
    def count():
        number = 0
        while True:
            yield number
            number += 1

    items = read_in_thread(count(), size=2)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    items.close()
    assert not any(thread.name == "frames" for thread in threading.enumerate())


def test_options_that_a_detector_of_faces_does_not_have_are_an_error():
    predictor = AUDetector(
        make_detector(detector=DetectorBlock(name="mediapipe", colour="red")), device="cpu"
    ).predictor
    with pytest.raises(
        DetectorError, match="facscale-toy-simclr needs the detector of faces mediapipe .*: colour: Extra"
    ):
        assert predictor.face_detector
