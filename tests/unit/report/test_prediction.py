"""The overlay video and the page of a prediction, made from the table and the video."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace

import av
import numpy as np
import pytest
from click.testing import CliRunner

from browser import browser_page, chromium, keep_screenshot
from detectors import make_detector, write_video
from facscale.cli import main
from facscale.inference.detector import save_detector
from facscale.inference.inputs import InputError
from facscale.inference.predictor import FaceResult, FrameResult
from facscale.inference.table_reader import read_results
from facscale.inference.tables import AULayout, open_table
from facscale.ingest.detectors.base import Box
from facscale.ingest.frames import Frame
from facscale.report.prediction_page import PageFacts, write_page
from facscale.report.prediction_video import BAR, PANEL, PRESENT, draw_frame, pair_frames, write_overlay
from facscale.synthetic import render_clip

LAYOUT = AULayout((1, 12), np.array([0.5, 0.3], np.float32), (12,))
FRAMES, SIDE, FPS = 20, 120, 10


def make_result(number, *, faces=(0,)):
    random = np.random.default_rng(number)
    return FrameResult(
        number,
        number / FPS,
        tuple(
            FaceResult(
                face,
                0.75,
                Box(20 + 8 * face, 20, 60 + 20 * face, 70),
                random.normal(size=3).round(2),
                (20 + 40 * random.random((68, 2))).round(2).astype(np.float32),
                random.random(2, dtype=np.float32),
                random.random(1, dtype=np.float32) * 5,
            )
            for face in faces
        ),
    )


@pytest.fixture
def results():
    """A face throughout, a second one now and then, and two frames without any."""
    return [
        make_result(number, faces=() if number in (4, 5) else (0, 1) if number % 3 == 0 else (0,))
        for number in range(FRAMES)
    ]


@pytest.fixture
def frames():
    shade = np.linspace(0, 255, SIDE, dtype=np.uint8)
    picture = np.stack([np.tile(shade, (SIDE, 1))] * 3, axis=-1)
    return [Frame(number, number / FPS, np.roll(picture, 3 * number, axis=1)) for number in range(FRAMES)]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_is_read_back_as_it_was_written(tmp_path, results, suffix, monkeypatch):
    monkeypatch.setattr("facscale.inference.table_reader.ROWS", 3)  # frames lie across batches
    path = tmp_path / f"table.{suffix}"
    with open_table(path, LAYOUT) as writer:
        for result in results:
            writer.add(result, source="talk.mp4")
    for before, after in zip(results, read_results(path, LAYOUT), strict=True):
        assert (after.number, after.time_s) == (before.number, pytest.approx(before.time_s))
        assert [face.face for face in after.faces] == [face.face for face in before.faces]
        for old, new in zip(before.faces, after.faces, strict=True):
            assert new.box == pytest.approx(old.box, abs=0.01)
            assert new.probability == pytest.approx(old.probability, abs=1e-5)
            assert new.intensity == pytest.approx(old.intensity, abs=1e-5)
            assert new.points == pytest.approx(old.points, abs=0.011)


def test_tables_of_other_tools_are_not_read(tmp_path, results):
    with open_table(tmp_path / "table.csv", LAYOUT, columns="openface") as writer:
        writer.add(results[0], source="talk.mp4")
    with pytest.raises(InputError, match="facscale's own columns"):
        list(read_results(tmp_path / "table.csv", LAYOUT))


def test_frames_meet_the_results_of_their_number(frames, results):
    pairs = list(pair_frames(frames[2::2], results[:15:4]))
    assert [(frame.number, result and result.number) for frame, result in pairs] == [
        (number, number if number % 4 == 0 and number <= 12 else None) for number in range(2, FRAMES, 2)
    ]


def test_present_aus_have_bars_of_another_colour():
    result = make_result(1)
    face = result.faces[0]._replace(probability=np.array([0.9, 0.2], np.float32))
    canvas = draw_frame(np.zeros((90, 121, 3), np.uint8), result._replace(faces=(face,)), LAYOUT)
    assert canvas.shape[0] % 2 == canvas.shape[1] % 2 == 0
    panel = canvas[:, 121:]
    lengths = [int((panel[row] == PRESENT).all(axis=-1).sum()) for row in (30, 50)]
    assert lengths[0] == pytest.approx(0.9 * BAR, abs=5)  # the mark of the threshold lies on it
    assert lengths[1] == 0
    none = draw_frame(np.zeros((90, 120, 3), np.uint8), None, LAYOUT)
    assert not (none == PRESENT).all(axis=-1).any()


def test_an_overlay_keeps_frames_and_times(tmp_path, frames, results):
    late = [replace(frame, time_s=frame.time_s + (0.31 if frame.number > 9 else 0)) for frame in frames]
    assert write_overlay(late, results, tmp_path / "out.mp4", layout=LAYOUT, rate=FPS) == FRAMES
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    with av.open(str(tmp_path / "out.mp4")) as container:
        decoded = list(container.decode(video=0))
    assert [frame.time for frame in decoded] == pytest.approx([frame.time_s for frame in late], abs=1e-3)
    picture = decoded[7].to_ndarray(format="rgb24")
    assert picture.shape == (SIDE, SIDE + PANEL, 3)
    assert np.abs(picture[:, :15].astype(int) - frames[7].image[:, :15]).mean() < 8


def test_what_fails_leaves_no_video(tmp_path, frames, results):
    def fail():
        yield from frames[:3]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        write_overlay(fail(), results, tmp_path / "out.mp4", layout=LAYOUT, rate=FPS)
    with pytest.raises(OSError, match="gone"):
        write_page(fail(), results, tmp_path / "p.html", layout=LAYOUT, interval_s=1 / FPS, facts=PageFacts("x"))
    assert list(tmp_path.iterdir()) == []


def write_test_page(path, frames, results, **facts):
    facts = PageFacts("talk <b>&amp;", notes=["<script>alert(1)</script>"], **facts)
    return write_page(frames, results, path, layout=LAYOUT, interval_s=1 / FPS, facts=facts)


def test_a_page_has_its_video_and_all_results(tmp_path, frames, results):
    assert write_test_page(tmp_path / "talk.html", frames, results) == FRAMES
    page = (tmp_path / "talk.html").read_text()
    assert "<script>alert" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page), "it needs no other file"
    lines = page.split('id="frames">')[1].split("</script>")[0].strip().splitlines()
    assert [len(json.loads(line)["faces"]) for line in lines] == [len(result.faces) for result in results]
    video = base64.b64decode(re.search(r"video/mp4;base64,([^\"]*)", page)[1])
    (tmp_path / "video.mp4").write_bytes(video)
    with av.open(str(tmp_path / "video.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == FRAMES
    assert "20 frames, 2 of them without a face." in page


@pytest.mark.skipif(chromium() is None, reason="needs chromium")
def test_a_click_on_a_time_line_seeks(tmp_path, frames, results):
    truth = {"AU01": [int(5 <= number < 12) for number in range(FRAMES)]}
    write_test_page(tmp_path / "talk.html", frames, results, truth=truth)
    with browser_page() as page:
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((tmp_path / "talk.html").as_uri())
        page.get_by_text("0.00 s, frame 0: 2 faces").wait_for()
        page.wait_for_function("document.querySelector('video').readyState > 0")
        track = page.locator('.track[data-au="AU12"]')
        track.click(position={"x": track.bounding_box()["width"] * (12.5 / FRAMES), "y": 20})
        page.get_by_text("1.20 s, frame 12: 2 faces").wait_for()
        assert abs(page.locator("video").evaluate("video => video.currentTime") - 1.2) < 0.02
        page.locator("#result").focus()
        page.keyboard.press("ArrowRight")
        page.get_by_text("1.30 s, frame 13: 1 face").wait_for()
        page.locator("select").select_option("1")
        assert page.locator(".bars .value").first.inner_text() == ""
        page.locator("video").evaluate("video => { video.currentTime = 0.45 }")
        page.get_by_text("0.40 s, frame 4: no face").wait_for()
        keep_screenshot(page, "prediction")
        assert errors == []


def test_predict_draws_and_shows_a_video(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "detector.safetensors").write_bytes(save_detector(make_detector(card={"name": "toy"})))
    clip = render_clip(identity=5, clip=0, seconds=0.8, fps=10, size=160)
    write_video(tmp_path / "talk.mp4", clip.frames, fps=10)
    words = ["predict", "detector.safetensors", "talk.mp4", "--overlay", "o.mp4", "--page", "p.html"]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    with av.open("o.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == 8
    assert "Detector: toy." in (tmp_path / "p.html").read_text()
    done = CliRunner().invoke(main, [*words[:3], "talk.mp4", "detector.safetensors", *words[3:]])
    assert done.exit_code == 2
    assert "--overlay shows one video" in done.output
