"""Many inputs into files: which there are, bad ones among them, and what a second run does."""

from __future__ import annotations

import json
import struct
from fractions import Fraction

import av
import cv2
import fsspec
import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from detecting import make_detector, write_detector
from facscale.inference.batch import SUMMARY, Options, Worker, plan_tasks, predict_here
from facscale.inference.detector import save_detector
from facscale.inference.inputs import Input, InputError, list_inputs
from facscale.ingest import detectors
from plugins.blob_faces import draw, draw_moving_face, write_video

pytestmark = pytest.mark.usefixtures("plugins")
FACE = (30, 20, 70, 64)


def predict(tmp_path, *words, **options):
    """Predict into tmp_path/out; outcomes by name."""
    inputs, _ = list_inputs([str(word) for word in words])
    settings = Options(str(tmp_path / "out"), device="cpu", **options)
    model = save_detector(make_detector())
    return {outcome.name: outcome for outcome in predict_here(model, plan_tasks(inputs), settings, is_shown=False)}


def read(outcome):
    return pyarrow.csv.read_csv(outcome.table).to_pandas()


def write(path, images, *, codec="libx264", pix_fmt="yuv420p", times=None, format_name=None, options=None):
    """A video of RGB images, at 25 frames/s or at these times."""
    with av.open(str(path), "w", format=format_name) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], pix_fmt
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = 1000 * number // 25 if times is None else times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_each_video_has_a_table_and_a_summary_and_images_share_one(tmp_path):
    write_video(tmp_path / "in/anna/talk.mp4", draw_moving_face(20, hidden=range(12, 18)))
    write_video(tmp_path / "in/ben/talk.mp4", draw_moving_face(6))
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"in/photo{number}.png"), draw(FACE)[..., ::-1])
    (tmp_path / "in/notes.txt").write_text("no video")
    outcomes = predict(tmp_path, tmp_path / "in")
    assert sorted(outcomes) == ["anna/talk", "ben/talk", "images"]
    assert not any(outcome.error for outcome in outcomes.values())
    assert [len(read(outcomes[name])) for name in ("anna/talk", "ben/talk", "images")] == [20, 6, 3]
    assert sorted(read(outcomes["images"])["input"]) == [f"photo{number}.png" for number in range(3)]
    summary = json.loads((tmp_path / f"out/anna/talk{SUMMARY}").read_text())
    assert summary["videos"]["anna/talk.mp4"]["frames_without_a_face"] == 6
    assert summary["videos"]["anna/talk.mp4"]["seconds"] == 0.8


def test_what_is_there_is_not_computed_again(tmp_path):
    videos = [write_video(tmp_path / f"in/{name}.mp4", draw_moving_face(8)) for name in "ab"]
    first = predict(tmp_path, tmp_path / "in")
    assert [outcome.is_new for outcome in first.values()] == [True, True]
    (tmp_path / f"out/b{SUMMARY}").unlink()  # as if the run had been killed before its last step
    before, calls = (tmp_path / "out/a.csv").stat().st_mtime_ns, detectors.find("blob").calls
    second = predict(tmp_path, tmp_path / "in")
    assert [outcome.is_new for outcome in second.values()] == [False, True]
    assert (tmp_path / "out/a.csv").stat().st_mtime_ns == before
    assert 0 < detectors.find("blob").calls - calls <= 4
    write_video(videos[0], draw_moving_face(5))
    assert predict(tmp_path, tmp_path / "in")["a"].is_new  # another video of the same name
    assert predict(tmp_path, tmp_path / "in", columns="openface")["a"].is_new


def test_tables_whose_names_would_be_the_same_keep_more_of_their_paths(tmp_path):
    def name(*places):
        return [task.name for task in plan_tasks([Input("video", *place) for place in places])]

    assert name(("/a", "x.mp4"), ("/a", "x.avi"), ("/a", "y.avi")) == ["x.mp4", "x.avi", "y"]
    assert name(("/a/b", "x.mp4"), ("/a/c", "x.mp4")) == ["b/x", "c/x"]
    assert name(("s3://a/b", "x.mp4")) == ["x"]


def test_globs_and_urls(tmp_path):
    for name in ("a", "b"):
        write_video(tmp_path / f"in/deep/{name}.mp4", draw_moving_face(3))
    inputs, _ = list_inputs([f"{tmp_path}/in/**/*.mp4", f"{tmp_path}/in/deep/a.mp4", f"{tmp_path}/in/deep"])
    assert [item.name for item in inputs] == ["a.mp4", "b.mp4"]
    memory = fsspec.filesystem("memory")
    memory.pipe("/films/a.mp4", (tmp_path / "in/deep/a.mp4").read_bytes())
    try:
        for word in ("memory://films/a.mp4", "memory://films", "memory://films/*.mp4"):
            assert [item.name for item in list_inputs([word])[0]] == ["a.mp4"]
        outcomes = predict(tmp_path, "memory://films/a.mp4")
        assert outcomes["a"].rows == 3
    finally:
        memory.rm("/films", recursive=True)


def test_tables_go_to_a_store(tmp_path):
    video = write_video(tmp_path / "a.mp4", draw_moving_face(5))
    memory = fsspec.filesystem("memory")
    worker = Worker(save_detector(make_detector()), Options("memory://tables", "parquet", device="cpu"))
    (task,) = plan_tasks(list_inputs([str(video)])[0])
    try:
        assert worker.run(task).is_new
        assert not worker.run(task).is_new
        with memory.open("/tables/a.parquet") as file:
            assert len(pq.read_table(file)) == 5
    finally:
        memory.rm("/tables", recursive=True)


# ------------------------------------------------------------------ bad and odd input


def test_what_is_no_video_is_one_clear_error_and_leaves_nothing(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    (source / "text.mp4").write_text("not a video at all" * 100)
    (source / "empty.mp4").write_bytes(b"")
    (source / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    whole = write_video(tmp_path / "whole.mp4", draw_moving_face(25)).read_bytes()
    (source / "half.mp4").write_bytes(whole[: len(whole) // 2])  # the index of an mp4 file is at its end
    with av.open(str(source / "sound.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux([*sound.encode(silence), *sound.encode(None)])
    outcomes = predict(tmp_path, source)
    errors = {name: outcome.error for name, outcome in outcomes.items()}
    assert "text.mp4: cannot be opened as a video" in errors["text"]
    assert "empty.mp4: cannot be opened as a video" in errors["empty"]
    assert "half.mp4: cannot be opened as a video" in errors["half"]
    assert "sound.mp4: has no video stream, only audio" in errors["sound"]
    assert "broken.png: cannot be read as an image" in errors["images"]
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_an_input_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="there is no such file or folder"):
        list_inputs(["nowhere.mp4"])
    with pytest.raises(InputError, match="there is no video, image or data set"):
        list_inputs(["nowhere/*.mp4"])


def test_a_bad_image_among_good_ones_is_noted(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    cv2.imwrite(str(source / "a.png"), draw(FACE)[..., ::-1])
    (source / "b.jpg").write_bytes(b"\xff\xd8\xff broken")
    (outcome,) = predict(tmp_path, source).values()
    assert outcome.rows == 1
    assert any("b.jpg: cannot be read as an image" in note for note in outcome.notes)


def test_no_face_is_rows_that_say_so(tmp_path):
    (outcome,) = predict(tmp_path, write_video(tmp_path / "a.mp4", [draw()] * 7)).values()
    table = read(outcome)
    assert len(table) == 7
    assert table["face"].isna().all()
    assert (table["confidence"] == 0).all()
    assert outcome.notes == (f"{tmp_path}/a.mp4: no face in its 7 frames",)


def test_one_frame(tmp_path):
    (outcome,) = predict(tmp_path, write_video(tmp_path / "a.mp4", [draw(FACE)])).values()
    assert len(read(outcome)) == 1


def test_a_stream_that_breaks_off_keeps_the_frames_before(tmp_path):
    path = write(tmp_path / "a.ts", draw_moving_face(50), codec="mpeg4", format_name="mpegts")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    (outcome,) = predict(tmp_path, path).values()
    table = read(outcome)
    assert 10 < len(table) < 50
    assert list(table["frame"]) == sorted(set(table["frame"]))


def test_a_variable_frame_rate_keeps_its_times(tmp_path):
    times = np.cumsum([0, *[40, 120, 20] * 5]).tolist()
    path = write(tmp_path / "a.mkv", draw_moving_face(16), times=times, format_name="matroska")
    (outcome,) = predict(tmp_path, path).values()
    assert read(outcome)["timestamp"].to_numpy() == pytest.approx(np.array(times) / 1000, abs=0.002)


def test_a_turned_phone_video_is_read_upright(tmp_path):
    """The stored picture lies on its side, and the header says how it is shown."""
    upright = [draw(FACE)] * 6
    path = write(tmp_path / "a.mp4", [np.ascontiguousarray(np.rot90(image)) for image in upright])
    content = bytearray(path.read_bytes())
    place = content.find(b"tkhd")
    place += 8 + (32 if content[place + 4] else 20) + 16
    values = [round(value * 65536) for value in (0, 1, 0, -1, 0, 0)]
    content[place : place + 36] = struct.pack(">9i", *values, 0, 0, 1 << 30)
    path.write_bytes(content)
    (outcome,) = predict(tmp_path, path).values()
    first = read(outcome).iloc[0]
    assert (first["left"], first["top"], first["right"], first["bottom"]) == pytest.approx(FACE, abs=2)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "suffix"),
    [
        ("libx264", "yuv420p10le", "mp4"),
        ("libx264", "yuv444p", "mp4"),
        ("ffv1", "gray", "mkv"),
        ("ffv1", "bgra", "mkv"),
    ],
    ids=["10 bit", "4:4:4", "grey", "alpha"],
)
def test_other_pixel_formats(tmp_path, codec, pix_fmt, suffix):
    path = write(tmp_path / f"a.{suffix}", [draw(FACE)] * 6, codec=codec, pix_fmt=pix_fmt)
    (outcome,) = predict(tmp_path, path).values()
    table = read(outcome)
    assert len(table) == 6
    assert table["face"].isna().all() == (pix_fmt == "gray")  # these faces are red


def test_images_that_are_grey_or_transparent_or_deep(tmp_path):
    image = draw(FACE)[..., ::-1]
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([image, np.full(image.shape[:2], 99, np.uint8)]))
    cv2.imwrite(str(tmp_path / "deep.png"), image.astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "grey.png"), image[..., 0])
    (outcome,) = predict(tmp_path, *(tmp_path / name for name in ("alpha.png", "deep.png", "grey.png"))).values()
    assert list(read(outcome)["face"].isna()) == [False, False, True]


def test_eight_faces(tmp_path):
    boxes = [(15 * k + 4, 40, 15 * k + 15, 52) for k in range(8)]
    (outcome,) = predict(tmp_path, write_video(tmp_path / "a.mp4", [draw(*boxes)] * 8)).values()
    table = read(outcome)
    assert len(table) == 64
    assert sorted(set(table["face"])) == list(range(8))
    assert table.groupby("face")["left"].std().max() < 1


def test_a_model_of_another_version_is_refused(tmp_path):
    from safetensors.torch import save

    from facscale.inference.detector import METADATA_KEY, DetectorError
    from facscale.inference.export import read_safetensors
    from facscale.inference.sources import load_detector

    path = write_detector(tmp_path / "detector.safetensors")
    weights, metadata = read_safetensors(path.read_bytes())
    recipe = json.loads(metadata[METADATA_KEY]) | {"format": "99"}
    path.write_bytes(save(weights, {METADATA_KEY: json.dumps(recipe)}))
    with pytest.raises(DetectorError, match=r"detector\.safetensors: written in format 99 by another version"):
        load_detector(path)
