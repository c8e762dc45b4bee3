"""Untrusted data sets, videos and images: nothing outside their folder is read, and nothing unpacks to gigabytes."""

from __future__ import annotations

import json
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg

from faces import write_face_data_set
from facscale.data import DataError, Dataset
from facscale.data.decoding import decode_into
from facscale.data.manifest import INDEX, MANIFEST, compute_checksum
from facscale.ingest.frames import FrameReader, decode_image
from facscale.ingest.images import build_batches
from facscale.ingest.items import Item, list_files, read_bytes
from facscale.spec.pipelines import Source
from plugins.blob_faces import draw, write_video

SECRET = b"nobody outside is to read this"


@pytest.fixture
def faces(tmp_path):
    """A small data set, and a file beside it that must not be read."""
    write_face_data_set(str(tmp_path / "faces"), [6, 6])
    (tmp_path / "secret").write_bytes(SECRET)
    return tmp_path / "faces"


def forge_manifest(folder, change):
    """Change the manifest of the data set in place."""
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    return str(folder)


def set_in(*path, to):
    def change(manifest):
        *outer, last = path
        for key in outer:
            manifest = manifest[key]
        manifest[last] = to

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(
            (set_in("shards", 0, "file", to=name), "shards.0.file")
            for name in ("../secret", "/etc/passwd", "..", "a/b", "a\0b", ".hidden", "x" * 300)
        ),
        (set_in("shards", 0, "row_groups", 0, "offset", to=-1), "offset: Input should be greater"),
        (set_in("shards", 0, "row_groups", 0, "length", to=1 << 40), "length: Input should be less"),
        (set_in("shards", 0, "row_groups", 0, "rows", to=1 << 40), "has another number of rows than"),
        (set_in("shards", 0, "bytes", to=10), "no room for its footer"),
        (set_in("shards", 0, "row_groups", to=[]), "row_groups"),
        (set_in("counts", to={"frames": 1}), "counts lack identities"),
        (set_in("image_size", to=1 << 30), "image_size"),
        (set_in("name", to=["faces"]), "name: Input should be a valid string"),
        (set_in("name", to="faces\x1b]0;you are root\x07"), "name: String should match"),
    ],
)
def test_a_forged_manifest_is_refused_before_anything_is_read(faces, change, message):
    with pytest.raises(DataError, match="is damaged") as error:
        Dataset(forge_manifest(faces, change))
    assert message in str(error.value)
    assert SECRET.decode() not in str(error.value)


def test_a_deeply_nested_manifest(faces):
    (faces / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(DataError, match="is damaged"):
        Dataset(str(faces))


def replace_index(folder, table):
    """Give the data set another index, with the checksum in the manifest."""
    pq.write_table(table, folder / INDEX, compression="zstd")
    return forge_manifest(folder, set_in("index_checksum", to=compute_checksum((folder / INDEX).read_bytes())))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["video"]), "its column 'video' is missing"),
        (lambda t: t.set_column(0, "shard", pa.array(["0"] * len(t))), "its column 'shard' is string, not int32"),
        (lambda t: t.set_column(0, "shard", pa.array([7] * len(t), pa.int32())), "lie outside the shards"),
        (lambda t: t.set_column(2, "start", pa.array([-5] * len(t), pa.int32())), "lie outside the shards"),
        (lambda t: t.set_column(3, "frames", pa.array([2**31 - 1] * len(t), pa.int32())), "lie outside the shards"),
        (lambda t: pa.concat_tables([t] * 100), "more than the 12 that there can be"),
    ],
)
def test_an_index_with_another_schema_or_beyond_the_shards(faces, change, message):
    url = replace_index(faces, change(pq.read_table(faces / INDEX)))
    with pytest.raises(DataError, match="corrupt index") as error:
        _ = Dataset(url).runs
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("jpeg", ["x"] * 12, "its column 'jpeg' is string, not binary"),
        ("identity", list(range(12)), "its column 'identity' is int64, not string"),
        ("track", None, "its column 'track' is missing"),
    ],
)
def test_shards_with_another_schema(faces, column, values, message):
    shard = faces / "shard-00000.parquet"
    table = pq.read_table(shard)
    at = table.column_names.index(column)
    table = table.set_column(at, column, pa.array(values)) if values else table.remove_column(at)
    pq.write_table(table, shard)
    metadata = pq.read_metadata(shard)
    group = metadata.row_group(0)
    offset = group.column(0).data_page_offset
    footer = 8 + int.from_bytes(shard.read_bytes()[-8:-4], "little")
    length = shard.stat().st_size - footer - offset
    place = {"offset": offset, "length": length, "rows": 12, "checksum": "0" * 32}
    entry = {"file": shard.name, "bytes": shard.stat().st_size, "rows": 12, "row_groups": [place]}
    with pytest.raises(DataError, match="corrupt footer") as error:
        _ = Dataset(forge_manifest(faces, set_in("shards", to=[entry]))).arrow_schema
    assert message in str(error.value)


def make_jpeg_with_size(width, height):
    """Make a tiny JPEG whose header announces another size."""
    image = bytearray(simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8)))
    at = image.index(b"\xff\xc0")  # start of frame: length, precision, height, width
    image[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(image)


def make_png_with_size(width, height):
    """Make a PNG of zeros, which compress well."""
    rows = zlib.compress(b"\0" * 1000)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("content", [make_jpeg_with_size(65000, 65000), make_png_with_size(60000, 60000)])
def test_an_image_of_gigabytes_is_not_decoded(content):
    with pytest.raises(ValueError, match=r"pixels are more than the 64,000,000"):
        decode_image(content)


@pytest.mark.parametrize("content", [b"GIF89a" + b"\0" * 100, b"BM" + b"\0" * 100, b"\x93NUMPY", b"%PDF-1.4", b"MZ"])
def test_a_file_with_the_name_of_an_image(content):
    with pytest.raises(ValueError, match="neither a JPEG nor a PNG"):
        decode_image(content)


def test_a_stored_image_larger_than_its_buffer_is_a_bad_frame():
    place = np.zeros((32, 32, 3), np.uint8)
    assert decode_into(memoryview(make_jpeg_with_size(65000, 65000)), place)
    assert decode_into(memoryview(simplejpeg.encode_jpeg(np.full((64, 64, 3), 255, np.uint8))), place)
    assert not place.any()


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nanothers.mp4\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:1/x.ts\n",
        "ffconcat version 1.0\nfile anothers.mp4\n",
    ],
    ids=["hls", "http", "concat"],
)
def test_a_playlist_with_the_name_of_a_video_opens_nothing(tmp_path, text):
    write_video(tmp_path / "anothers.mp4", [draw()] * 3)
    (tmp_path / "a.mp4").write_text(text)
    item = Item(identity="a", video="a", part="", files=("a.mp4",))
    with pytest.raises(ValueError, match="cannot be opened as a video"):
        list(FrameReader(item, root=str(tmp_path), every=1, note=lambda *_: None))


NAMES = ("../secret", "a/../../secret", "/etc/passwd", "a\0b", "..", "a//b", "a\\..\\b", "")


@pytest.mark.parametrize("name", NAMES)
def test_a_listed_name_outside_the_source_is_refused(tmp_path, name):
    (tmp_path / "source").mkdir()
    (tmp_path / "secret").write_bytes(SECRET)
    with pytest.raises(ValueError, match="not a valid name of a file in the source"):
        read_bytes(str(tmp_path / "source"), name)


def test_listed_files_outside_the_source_are_reported_as_unreadable(tmp_path):
    root = tmp_path / "source"
    tables, images = root / "Manually_Annotated_file_lists", root / "Manually_Annotated_Images"
    for folder in (tables, images):
        folder.mkdir(parents=True)
    (images / "other.jpg").write_bytes(simplejpeg.encode_jpeg(np.full((32, 32, 3), 7, np.uint8)))
    picture = simplejpeg.encode_jpeg(np.full((32, 32, 3), 9, np.uint8))
    (tmp_path / "private.jpg").write_bytes(picture)
    (images / "good.jpg").write_bytes(picture)
    line = "{},0,0,0,0,,{},0,0\n"
    both = line.format("good.jpg", 0) + line.format("../../private.jpg", 1) + line.format("x" * 5000 + ".jpg", 1)
    (tables / "training.csv").write_text(both)
    (tables / "validation.csv").write_text(line.format("other.jpg", 0))
    source = Source(layout="affectnet", root=str(root))
    (train, _) = build_batches(source, list_files(str(root)))
    notes = []
    frames = list(FrameReader(train, root=str(root), every=1, note=lambda *args: notes.append(args)))
    assert len(frames) == 1
    assert notes[0][0] == "decode"
    assert "2 of 3 images cannot be read" in notes[0][1]


def test_files_with_unsafe_names_are_faults_of_the_listing(tmp_path):
    for name in ("good.mp4", "bad\nname.mp4", "bad\\..\\name.mp4"):
        (tmp_path / name).write_bytes(b"x")
    listing = list_files(str(tmp_path))
    assert set(listing.files) == {"good.mp4"}
    assert {fault.reason for fault in listing.faults} == {"unsafe file name"}
