"""People who were not tracked, and crops and videos that show another person than most."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from facscale.ingest.bystanders import BystanderCounter
from facscale.ingest.detectors import Box
from facscale.ingest.extract import FaceExtractor, renumber_tracks
from facscale.ingest.items import list_files
from facscale.ingest.layouts import find
from facscale.ingest.people import (
    RecognizedFace,
    check_person,
    decode_descriptor,
    encode_descriptor,
    find_mixed_identities,
)
from facscale.ingest.recognition import CHIP
from facscale.ingest.report import ITEMS, IngestReport, build_report
from facscale.ingest.work_store import ItemStatus, WorkStore
from facscale.spec import Pipeline, SpecError
from facscale.synthetic import render_clip
from plugins.blob_faces import draw, write_video

pytestmark = pytest.mark.usefixtures("plugins")
ANNA, BEN, CARL = np.eye(128)[:3]  # descriptors that are 1.4 apart


def recognize(*people, tracks=None, spacing=10, noise=0.01):
    random = np.random.default_rng(0)
    tracks = tracks or [0] * len(people)
    return [
        RecognizedFace(spacing * number, track, person + random.normal(0, noise, 128))
        for number, (person, track) in enumerate(zip(people, tracks, strict=True))
    ]


def list_kept(faces, *, rows):
    check = check_person(faces, rows=rows, max_distance=0.6)
    return np.flatnonzero(check.is_kept).tolist(), check.people


def test_a_track_of_a_single_person_is_kept_from_its_first_to_its_last_face():
    assert list_kept(recognize(ANNA, ANNA, ANNA), rows=21) == ([*range(21)], 1)
    assert list_kept(recognize(ANNA), rows=1) == ([0], 1)


def test_crops_between_two_people_are_left_out_with_those_of_the_rarer_person():
    kept, people = list_kept(recognize(ANNA, ANNA, ANNA, BEN, BEN), rows=41)
    assert kept == [*range(21)]
    assert people == 2


def test_a_track_of_another_person_is_left_out():
    kept, _ = list_kept(recognize(ANNA, ANNA, BEN, BEN, ANNA, ANNA, tracks=[0, 0, 1, 1, 2, 2]), rows=51)
    assert kept == [*range(11), *range(40, 51)]


def test_a_face_that_resembles_nobody_within_a_track_is_a_bad_view():
    assert list_kept(recognize(ANNA, ANNA, BEN, ANNA), rows=31) == ([*range(31)], 1)
    kept, people = list_kept(recognize(ANNA, ANNA, ANNA, BEN, ANNA, BEN, BEN), rows=61)
    assert (kept, people) == ([*range(21), 40], 2), "it does resemble somebody"


def test_what_remains_of_a_track_on_both_sides_of_a_gap_is_two_tracks():
    is_kept = np.array([1, 1, 0, 1, 1, 0, 1, 1], bool)
    tracks = renumber_tracks(np.array([0, 0, 0, 0, 3, 3, 3, 4]), is_kept)
    assert len(set(tracks[is_kept])) == 5
    assert (np.diff(tracks) >= 0).all()


def make_status(identity, source, person, *, faces=10):
    noisy = person + np.random.default_rng(faces).normal(0, 0.01, 128)
    return ItemStatus("k", source, identity, source, "", faces=faces, descriptor=encode_descriptor(noisy))


def test_identities_with_videos_of_somebody_else_are_found():
    statuses = [
        make_status("a", "a1", ANNA),
        make_status("a", "a2", BEN, faces=11),
        make_status("a", "a3", ANNA, faces=12),
        make_status("b", "b1", BEN),
        make_status("b", "b2", BEN, faces=20),
        replace(make_status("b", "b3", CARL), descriptor=""),
        make_status("c", "c1", CARL),
    ]
    (mixed,) = find_mixed_identities(statuses, max_distance=0.6)
    assert (mixed.identity, mixed.items, mixed.others) == ("a", 3, ("a2",))


def test_descriptors_survive_as_text_and_are_not_kept(tmp_path):
    person = np.random.default_rng(0).normal(0, 0.1, 128)
    assert decode_descriptor(encode_descriptor(person)) == pytest.approx(person, abs=1e-3)
    statuses = [make_status("a", "a1", ANNA), make_status("a", "a2", BEN, faces=20)]
    mixed = find_mixed_identities(statuses, max_distance=0.6)
    report = build_report(name="x", output=str(tmp_path), statuses=statuses, faults=(), reused=0, wall_s=1, mixed=mixed)
    report.write(statuses)
    assert IngestReport.read(str(tmp_path)) == report
    assert "a  1 of 2 videos, such as a1" in report.format_text()
    assert set(pq.read_table(next(tmp_path.rglob(ITEMS)))["descriptor"].to_pylist()) == {""}


@pytest.fixture(scope="module")
def clips():
    """A second of each of two rendered people: 25 frames of 224 x 224 pixels."""
    return [list(render_clip(identity=number, clip=0, seconds=1, fps=25, size=224).frames) for number in (1, 5)]


# Rendered people resemble each other more than real ones: these two are 0.5 apart, other pairs less.
RECOGNITION = {"every_s": 0.16, "max_distance": 0.42}


def extract(tmp_path, images, *, recognition=RECOGNITION, **more):
    write_video(tmp_path / "raw/anna/a.mp4", images)
    spec = Pipeline.model_validate(
        {
            "source": {"layout": "videos", "root": str(tmp_path / "raw")},
            "output": str(tmp_path / "out"),
            "detector": {"smallest_face": 0.5},
            "recognition": recognition,
            **more,
        }
    )
    (item,) = find("videos").list_items(list_files(spec.source.root).files)
    status = FaceExtractor(spec, run="r")(item, "key")
    with WorkStore(spec.output).folder.open("key.parquet") as file:
        return status, pq.read_table(file)


def test_a_person_who_fades_into_the_video_is_left_out(tmp_path, clips):
    anna, ben = clips
    fading = [cv2.addWeighted(anna[-1], 1 - share, ben[0], share, 0) for share in np.linspace(0.1, 0.9, 8)]
    status, table = extract(tmp_path, [*anna, *fading, *ben[:12]])
    frames = table["frame"].to_pylist()
    assert frames[:20] == [*range(20)]
    assert max(frames) < 33, "the frames from 33 on show somebody else"
    assert status.faces == len(frames)
    assert status.strangers == 45 - status.faces
    assert set(table["track"].to_pylist()) == {0}
    (fault,) = status.faults
    assert fault.stage == "people"
    assert fault.reason.startswith(f"{status.strangers} crops show somebody else than most of the video")


def test_a_person_alone_is_kept_whole(tmp_path, clips):
    status, table = extract(tmp_path, clips[0])
    assert (status.faces, status.strangers, status.faults) == (25, 0, ())
    assert table.num_rows == 25
    assert decode_descriptor(status.descriptor).shape == (128,)


def test_recognition_without_landmarks_or_in_tiny_crops_is_an_error(tmp_path, clips):
    with pytest.raises(SpecError, match="needs landmarks"):
        extract(tmp_path, clips[0][:5], detector={"name": "none"})
    with pytest.raises(SpecError, match="needs larger crops"):
        extract(tmp_path / "tiny", clips[0][:6], crop={"size": 6})


def test_the_eyes_of_a_chip_lie_where_dlib_puts_them():
    """dlib's `get_face_chip` with the mean face itself: the eyes' corners as its five-point predictor has them."""
    corners = np.array([[0.8595674595992, 0.2134981538014], [0.6460604764104, 0.2289674387677]])
    others = np.array([[0.1205750620789, 0.2137274526848], [0.3340850613712, 0.2290642403242]])
    left, right = ((mean.mean(axis=0) + 0.25) / 1.5 for mean in (others, corners))
    assert CHIP.eyes_distance == pytest.approx(right[0] - left[0], abs=0.002)
    assert CHIP.eyes_y == pytest.approx((left[1] + right[1]) / 2, abs=0.002)


def test_faces_beside_the_tracked_one_are_counted_if_they_last():
    counter, tracked = BystanderCounter(), Box(0, 0, 10, 10)
    sitting, passing = Box(50, 0, 60, 10), Box(100, 0, 110, 10)
    for number in range(0, 11, 5):
        boxes = [tracked, Box(*(np.add(sitting, number / 5)))]
        counter.add(number / 25, [*boxes, passing] if number == 5 else boxes, tracked=tracked)
    assert counter.count(shortest_s=0.2, interval_s=0.04) == 1
    counter.add(9.0, [tracked, sitting], tracked=tracked)
    counter.end_shot()
    counter.add(9.4, [tracked, sitting], tracked=tracked)
    assert counter.count(shortest_s=0.2, interval_s=0.04) == 1, "each was seen only once in its shot"
    assert counter.count(shortest_s=0.2, interval_s=1.0) == 4, "at one frame a second, once is enough"


def test_two_people_in_the_picture_stand_in_the_report(tmp_path):
    images = [draw((20, 30, 60, 74), (80, 30, 110, 64)) for _ in range(12)]
    detector = {"name": "blob"}
    status, _ = extract(tmp_path, images, recognition=None, detector=detector, crop={"size": 48})
    assert (status.faces, status.tracks, status.bystanders) == (12, 1, 1)
    report = build_report(name="x", output="y", statuses=[status], faults=(), reused=0, wall_s=1)
    assert "1   faces beside the tracked ones were not taken, in 1 items" in report.format_text()
