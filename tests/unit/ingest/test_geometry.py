"""Pictures come as a player or a viewer shows them: upright, with square pixels, at the right time."""

from __future__ import annotations

import io
import struct
from fractions import Fraction

import av
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from facscale.ingest.frames import FrameReader, decode_image
from facscale.ingest.geometry import DisplayMatrix, orient
from facscale.ingest.items import Item

SIDE = 96
COLOURS = np.array(
    [[(220, 30, 30), (30, 200, 30)], [(30, 30, 220), (220, 220, 30)]], np.uint8
)  # red, green; blue, yellow


def draw_quarters(height=SIDE, width=SIDE):
    return COLOURS.repeat(height // 2, axis=0).repeat(width // 2, axis=1)


def name_corners(image):
    """The colours of the quarters, row by row: RGBY for a picture as it was drawn."""
    height, width = image.shape[:2]
    pixels = [image[y * height // 4, x * width // 4].astype(int) for y in (1, 3) for x in (1, 3)]
    distances = [np.abs(COLOURS.reshape(4, 3).astype(int) - pixel).sum(axis=1) for pixel in pixels]
    assert all(distance.min() < 120 for distance in distances)
    return "".join("RGBY"[distance.argmin()] for distance in distances)


def write_video(path, *, image=None, codec="libx264", aspect=None, count=5, format_name=None):
    image = draw_quarters() if image is None else image
    with av.open(str(path), "w", format=format_name) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *image.shape[:2], "yuv420p"
        if aspect:
            stream.codec_context.sample_aspect_ratio = Fraction(*aspect)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def set_display_matrix(path, a, b, c, d):
    """Write the matrix into the header of an MP4's video track, in fixed point, as phones do."""
    content = bytearray(path.read_bytes())
    place = content.find(b"tkhd")
    place += 8 + (32 if content[place + 4] else 20) + 16
    values = [round(value * 65536) for value in (a, b, 0, c, d, 0)]
    content[place : place + 36] = struct.pack(">9i", *values, 0, 0, 1 << 30)
    path.write_bytes(content)


def read(path):
    notes = []
    item = Item("anna", "a", "", (path.name,))
    reader = FrameReader(item, root=str(path.parent), every=1, note=lambda _, reason: notes.append(reason))
    return list(reader), notes


@pytest.mark.parametrize("matrix", [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)])
@pytest.mark.parametrize("is_turned", [False, True])
def test_every_display_matrix_puts_each_pixel_where_it_says(matrix, is_turned):
    a, b, c, d = (matrix[1], matrix[0], matrix[3], matrix[2]) if is_turned else matrix
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    shown = {(a * x + c * y, b * x + d * y): image[y, x] for y in range(3) for x in range(5)}
    left, top = min(x for x, _ in shown), min(y for _, y in shown)
    result = DisplayMatrix(a, b, c, d).apply(image)
    assert result.shape == ((5, 3, 3) if is_turned else (3, 5, 3))
    for (x, y), pixel in shown.items():
        assert (result[y - top, x - left] == pixel).all()


@pytest.mark.parametrize(
    ("matrix", "corners"),
    [((-1, 0, 0, 1), "GRYB"), ((0, 1, -1, 0), "BRYG"), ((0, -1, 1, 0), "GYRB"), ((0, 1, 1, 0), "RBGY")],
    ids=["mirrored", "right", "left", "mirrored and turned"],
)
def test_videos_of_phones_are_upright(tmp_path, matrix, corners):
    path = write_video(tmp_path / "a.mp4")
    set_display_matrix(path, *matrix)
    frames, notes = read(path)
    assert {name_corners(frame.image) for frame in frames} == {corners}
    assert notes == []


def test_a_crooked_display_matrix_is_noted_once(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    set_display_matrix(path, 0.8, 0.6, -0.6, 0.8)
    frames, notes = read(path)
    assert name_corners(frames[0].image) == "RGBY"
    assert notes == ["its display matrix turns the picture by no right angle: read turned by the nearest one"]
    assert DisplayMatrix(0, 0, 0, 0).skew == DisplayMatrix(1, 0, 0, 0).skew == 1
    assert DisplayMatrix(0, 1, -1, 0).skew == 0


@pytest.mark.parametrize(("aspect", "shape"), [((4, 3), (96, 128)), ((1, 2), (192, 96))])
def test_pixels_that_are_not_square_are_stretched(tmp_path, aspect, shape):
    frames, notes = read(write_video(tmp_path / "a.mp4", aspect=aspect))
    assert frames[0].image.shape == (*shape, 3)
    assert name_corners(frames[0].image) == "RGBY"
    assert notes == []


def test_an_impossible_aspect_is_noted(tmp_path):
    frames, notes = read(write_video(tmp_path / "a.mkv", aspect=(40, 1)))
    assert frames[0].image.shape == (96, 96, 3)
    assert notes == ["its header says that pixels are 40 times as wide as high: read as square ones"]


@pytest.mark.parametrize(
    ("name", "codec", "format_name"),
    [
        ("a.mpg", "mpeg1video", None),  # begins at 0.5 s
        ("a.flv", "flv1", None),
        ("a.wmv", "wmv2", None),
        ("a.MTS", "libx264", "mpegts"),
        ("a.3gp", "mpeg4", "3gp"),
        ("a.ogv", "libtheora", "ogg"),
    ],
)
def test_containers_of_cameras_and_archives_are_read_from_time_zero(tmp_path, name, codec, format_name):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no encoder {codec}")
    frames, notes = read(write_video(tmp_path / name, codec=codec, format_name=format_name))
    assert [frame.time_s for frame in frames] == pytest.approx([number / 25 for number in range(5)], abs=2e-3)
    assert name_corners(frames[0].image) == "RGBY"
    assert notes == []


def test_the_picture_of_a_cover_is_not_the_film(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        cover, film = container.add_stream("mjpeg", rate=1), container.add_stream("libx264", rate=25)
        cover.width = cover.height = 64
        film.width = film.height = SIDE
        cover.pix_fmt, film.pix_fmt = "yuvj420p", "yuv420p"
        grey = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 128, np.uint8), format="rgb24")
        for stream, rate, picture, count in ((cover, 1, grey.reformat(format="yuvj420p"), 1), (film, 25, None, 8)):
            for number in range(count):
                frame = picture or av.VideoFrame.from_ndarray(draw_quarters(), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    frames, notes = read(tmp_path / "a.mkv")
    assert len(frames) == 8
    assert name_corners(frames[0].image) == "RGBY"
    assert notes == []


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_images_are_upright_by_their_exif(tag, kind):
    stored = PIL.Image.fromarray(draw_quarters(64, 96))
    exif = PIL.Image.Exif()
    exif[274] = tag
    with io.BytesIO() as file:
        stored.save(file, kind, exif=exif, quality=95)
        content = file.getvalue()
    expected = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(content)))
    result = decode_image(content)
    assert result.shape[:2] == expected.size[::-1]
    assert name_corners(result) == name_corners(np.asarray(expected.convert("RGB")))
    image = np.random.default_rng(tag).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    other = PIL.Image.fromarray(image)
    other.getexif()[274] = tag
    assert (orient(image, tag) == np.asarray(PIL.ImageOps.exif_transpose(other))).all()


def test_damaged_exif_is_passed_over():
    with io.BytesIO() as file:
        exif = PIL.Image.Exif()
        exif[274] = 6
        PIL.Image.fromarray(draw_quarters()).save(file, "JPEG", exif=exif)
        content = file.getvalue()
    place = content.find(b"Exif\0\0")
    for damaged in (
        content[: place + 6] + b"XX" + content[place + 8 :],
        content[: place + 10] + b"\xff" * 4 + content[place + 14 :],
    ):
        assert name_corners(decode_image(damaged)) == "RGBY"
