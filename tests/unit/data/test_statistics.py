"""What is measured of a data set, against values that are known."""

from __future__ import annotations

import cv2
import numpy as np
import pyarrow as pa
import pytest
import simplejpeg
from scipy.spatial.transform import Rotation

from faces import make_track, write_face_data_set, write_tracks
from facscale.data import Dataset
from facscale.data.statistics import (
    POSE_LANDMARKS,
    POSE_MODEL,
    count_people,
    estimate_pose,
    measure_labels,
    measure_light,
    sample_frames,
)


@pytest.mark.parametrize("yaw", [-50, -20, 0, 35])
@pytest.mark.parametrize("pitch", [-20, 0, 15])
def test_pose_of_a_known_head_is_found(yaw, pitch):
    """The head is turned about its own axes, then seen by a camera: y points down, z into the picture."""
    head = POSE_MODEL * [1, -1, -1]
    turned = Rotation.from_euler("YX", [-yaw, -pitch], degrees=True).apply(head) + np.array([0, 0, 2500])
    points = np.full((68, 2), 50.0)
    points[list(POSE_LANDMARKS)] = 256 * turned[:, :2] / turned[:, 2:] + 128
    nose = turned[0] - turned[[2, 3]].mean(axis=0)
    assert np.sign(nose[0]) == np.sign(yaw) or abs(nose[0]) < 5, "the nose points where the name says"
    assert estimate_pose(points, size=256) == pytest.approx((yaw, pitch), abs=1.0)


def test_unknown_landmarks_have_no_pose():
    assert np.isnan(estimate_pose(np.full((68, 2), np.nan), size=256)).all()
    assert len(estimate_pose(np.zeros((68, 2)), size=256)) == 2


def test_blur_lowers_sharpness_and_light_is_the_mean_at_any_size():
    image = np.random.default_rng(0).integers(60, 160, (256, 256, 3), dtype=np.uint8)
    light, contrast, sharpness = measure_light(image)
    assert light == pytest.approx(110, abs=3)
    blurred = measure_light(cv2.GaussianBlur(image, (0, 0), 3))
    assert blurred[2] < sharpness / 10
    assert blurred[1] < contrast
    assert measure_light(cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA))[0] == pytest.approx(light, abs=1)


def test_people_and_runs_are_counted(tmp_path):
    tracks = [make_track(0, video, frames=range(3 + video)) for video in range(3)] + [make_track(1, frames=[0, 1, 5])]
    counts = count_people(write_tracks(str(tmp_path), tracks))
    assert {name: values.tolist() for name, values in counts.items()} == {
        "videos": [3, 1],
        "frames": [12, 3],
        "run_frames": [3, 4, 5, 2, 1],
    }


def test_base_rates_and_co_occurrence_are_means_over_people(tmp_path):
    """Person 0 shows AU1 with AU2 always, person 1 never; the third does not show AU1, and AU4 is not labelled."""
    labels = {
        0: [[1, 1, -1]] * 6 + [[0, 0, -1]] * 2,
        1: [[1, 0, -1]] * 2,
        2: [[0, 1, -1], [0, 0, -1]],
    }
    tracks = []
    for person, rows in labels.items():
        track = make_track(person, frames=range(len(rows)), au=3)
        values = pa.FixedSizeListArray.from_arrays(pa.array(np.array(rows, np.int8).ravel()), 3)
        tracks.append(track.set_column(track.column_names.index("au"), "au", values))
    measured = measure_labels(write_tracks(str(tmp_path), tracks, au=(1, 2, 4)))
    np.testing.assert_allclose(measured.rates, [8 / 12, 7 / 12, np.nan])
    np.testing.assert_allclose(measured.rates_by_person[:, :2], [[0.75, 0.75], [1, 0], [0, 0.5]])
    np.testing.assert_allclose(measured.cooccurrence[:2, :2], [[1, 0.5], [0.5, 1]])
    assert np.isnan(measured.cooccurrence[2]).all()
    assert np.isnan(measured.cooccurrence[:, 2]).all()
    assert measure_labels(write_face_data_set(str(tmp_path / "plain"), [3])) is None


def test_a_sample_is_spread_over_the_whole_set(tmp_path):
    dataset = write_face_data_set(str(tmp_path), [10] * 30)
    sample = sample_frames(dataset, count=60)
    assert 50 <= len(sample) <= 120
    people = {name.split("/")[0] for name in sample.names}
    assert {"id00000", "id00029"} <= people
    assert len(people) > 20
    assert len(sample_frames(dataset, count=10_000)) == 300


def test_damaged_frames_and_row_groups_are_counted_and_left_out(tmp_path):
    track = make_track(0, frames=range(4))
    jpegs = track["jpeg"].to_pylist()
    jpegs[1] = b"no picture"
    broken = track.set_column(track.column_names.index("jpeg"), "jpeg", [jpegs])
    dataset = write_tracks(str(tmp_path), [broken, make_track(1, frames=range(60))], row_group_mb=0.02)
    assert sample_frames(dataset).unreadable == 1
    group = dataset.manifest.shards[0].row_groups[-1]
    path = tmp_path / dataset.manifest.shards[0].file
    stored = bytearray(path.read_bytes())
    stored[group.offset + 20] ^= 1
    path.write_bytes(stored)
    sample = sample_frames(Dataset(str(tmp_path)))
    assert sample.unreadable == 1 + group.rows
    assert len(sample) + sample.unreadable == 64
    assert all(simplejpeg.is_jpeg(jpeg) for jpeg in sample.jpegs)
