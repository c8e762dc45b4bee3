"""Decoding, on files that the test writes and then damages."""

from __future__ import annotations

import threading
from typing import ClassVar

import av
import cv2
import fsspec
import fsspec.implementations.memory
import numpy as np
import pytest
import simplejpeg

from facscale.ingest.frames import AHEAD, FrameReader, decode_image
from facscale.ingest.items import Item, list_files
from plugins.blob_faces import draw, write_video

VIDEO = Item("anna", "a", "", ("a.mp4",))


def read(root, item=VIDEO, *, every=1):
    notes = []
    frames = FrameReader(item, root=str(root), every=every, note=lambda stage, reason: notes.append((stage, reason)))
    return list(frames), notes, frames


def greys(count):
    return [draw(colour=(10 * n, 10 * n, 10 * n)) for n in range(count)]


def test_every_frame_comes_in_order_with_its_number_time_and_pixels(tmp_path):
    write_video(tmp_path / "a.mp4", greys(20), fps=20)
    frames, notes, reader = read(tmp_path)
    assert [frame.number for frame in frames] == list(range(20))
    assert [frame.time_s for frame in frames] == pytest.approx([n / 20 for n in range(20)])
    assert [frame.image.mean() for frame in frames] == pytest.approx([10 * n for n in range(20)], abs=3)
    assert (notes, reader.fps, reader.step) == ([], 20, 1)


def test_each_nth_frame_keeps_the_numbers_of_the_source(tmp_path):
    write_video(tmp_path / "a.mp4", greys(20))
    frames, _, reader = read(tmp_path, Item("anna", "a", "", ("a.mp4",), first=1), every=7)
    assert [frame.number for frame in frames] == [1, 8, 15]
    assert [frame.image.mean() for frame in frames] == pytest.approx([0, 70, 140], abs=3)
    assert reader.step == 7


def test_a_video_at_any_url(tmp_path):
    file = write_video(tmp_path / "a.mp4", greys(5))
    memory = fsspec.filesystem("memory")
    memory.pipe("/source/a.mp4", file.read_bytes())
    try:
        assert len(read("memory://source")[0]) == 5
    finally:
        memory.rm("/source", recursive=True)


@pytest.mark.parametrize("url", ["{0}/a::b", "file://{0}/a::b"])
def test_two_colons_are_a_part_of_a_name(tmp_path, url):
    write_video(tmp_path / "a::b/anna/a.mp4", greys(3))
    root = url.format(tmp_path)
    assert list(list_files(root).files) == ["anna/a.mp4"]
    assert len(read(root, Item("anna", "a", "", ("anna/a.mp4",)))[0]) == 3


@pytest.mark.parametrize("content", [b"", b"not a video at all" * 100])
def test_a_file_that_is_not_a_video_is_a_value_error(tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be opened as a video"):
        read(tmp_path)


def test_a_truncated_video_is_a_value_error(tmp_path):
    file = write_video(tmp_path / "a.mp4", greys(25))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])  # the index of an mp4 file is at its end
    with pytest.raises(ValueError, match="cannot be opened as a video"):
        read(tmp_path)


def test_a_file_without_a_video_stream_is_a_value_error(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux([*sound.encode(silence), *sound.encode(None)])
    with pytest.raises(ValueError, match="no video stream"):
        read(tmp_path)


@pytest.fixture
def noise(tmp_path):
    """Forty frames that share nothing, a key frame every ten, and where the packet of frame 15 lies."""
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (96, 128, 3), dtype=np.uint8) for _ in range(40)]
    file = write_video(tmp_path / "a.mp4", images, keyframe_every=10)
    with av.open(str(file)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][15]
    return file, packet.pos, packet.size


def damage(file, *, at, length):
    content = bytearray(file.read_bytes())
    content[at : at + length] = b"\xff" * length
    file.write_bytes(content)


def test_a_packet_that_cannot_be_decoded_ends_the_video_there_and_is_noted(tmp_path, noise):
    file, position, _ = noise
    damage(file, at=position, length=4)  # the length of its first unit
    frames, notes, _ = read(tmp_path)
    assert [frame.number for frame in frames] == list(range(15))
    assert notes[0][0] == "decode"
    assert notes[0][1].startswith("stopped after 15 frames")


def test_damaged_frames_and_those_that_depend_on_them_are_left_out_and_noted(tmp_path, noise):
    file, position, size = noise
    damage(file, at=position + size // 2, length=size // 4)
    frames, notes, _ = read(tmp_path)
    assert [frame.number for frame in frames] == [*range(15), *range(20, 40)]
    assert notes == [("decode", "5 of 40 frames are damaged and left out")]


def test_a_video_that_ends_early_is_noted(tmp_path):
    random = np.random.default_rng(0)
    file = write_video(tmp_path / "a.avi", random.integers(0, 256, (25, 96, 128, 3), dtype=np.uint8))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    frames, notes, _ = read(tmp_path, Item("anna", "a", "", ("a.avi",)))
    assert 0 < len(frames) < 20
    assert "of the 25 frames that its header announces" in notes[-1][1]


def test_images_keep_their_numbers_and_a_bad_one_is_noted_and_left_out(tmp_path):
    for number in (7, 8, 10):
        (tmp_path / f"{number:04d}.jpg").write_bytes(simplejpeg.encode_jpeg(draw(colour=(number * 10,) * 3)))
    (tmp_path / "0009.jpg").write_bytes(b"\xff\xd8 broken")
    item = Item("F001", "T1", "", tuple(f"{n:04d}.jpg" for n in (7, 8, 9, 10)), (7, 8, 9, 10))
    frames, notes, reader = read(tmp_path, item)
    assert [(frame.number, round(frame.image.mean())) for frame in frames] == [(7, 70), (8, 80), (10, 100)]
    assert notes[0][0] == "decode"
    assert "1 of 4 images" in notes[0][1]
    assert "0009.jpg" in notes[0][1]
    assert reader.step == 1


def test_images_numbered_in_tens_are_neighbours(tmp_path):
    item = Item("F001", "T1", "", ("a", "b", "c", "d"), (10, 20, 30, 100))
    assert FrameReader(item, root=str(tmp_path), every=2, note=print).step == 20


def test_png_images_decode():
    image = draw((10, 10, 50, 50))
    png = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
    assert (decode_image(png) == image).all()
    with pytest.raises(ValueError, match="empty file"):
        decode_image(b"")


class CrowdedStore(fsspec.implementations.memory.MemoryFileSystem):
    """Answers the first AHEAD reads only when all of them wait, and counts the reads."""

    protocol = "crowded"
    store: ClassVar[dict] = {}
    crowd = threading.Barrier(AHEAD, timeout=60)
    read: ClassVar[list] = []

    def cat_file(self, path, start=None, end=None, **options):
        self.read.append(path)
        if len(self.read) <= AHEAD:
            self.crowd.wait()
        return super().cat_file(path, start=start, end=end, **options)


def test_images_of_a_store_are_read_ahead_in_order_and_not_all_at_once():
    """One after the other, 400 images at 30 ms each would wait for 12 s; a bad one costs itself alone."""
    fsspec.register_implementation("crowded", CrowdedStore, clobber=True)
    system, base = fsspec.core.url_to_fs("crowded://faces")
    for number, picture in enumerate(greys(3 * AHEAD)):
        system.pipe_file(f"{base}/{number:03d}.jpg", b"no JPEG" if number == 5 else simplejpeg.encode_jpeg(picture))
    names = tuple(f"{number:03d}.jpg" for number in range(3 * AHEAD))
    item = Item("anna", "a", "", names, numbers=tuple(range(3 * AHEAD)))
    notes = []
    frames = iter(FrameReader(item, root="crowded://faces", every=1, note=lambda *note: notes.append(note)))
    assert next(frames).number == 0
    assert len(CrowdedStore.read) <= AHEAD + 1
    assert [frame.number for frame in frames] == [number for number in range(1, 3 * AHEAD) if number != 5]
    assert len(CrowdedStore.read) == 3 * AHEAD
    assert [note[0] for note in notes] == ["decode"]
