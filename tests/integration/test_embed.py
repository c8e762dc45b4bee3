"""Embeddings with Ray Data on a small cluster of this machine, against features computed by hand."""

import numpy as np
import pyarrow as pa
import pytest
import simplejpeg
import torch
from torch import nn

from facscale.data import DataError, Dataset, ShardWriter, augment
from facscale.data.views import FrameTriple
from facscale.inference import embed as module
from facscale.inference.embed import cache_key, embed_dataset
from facscale.inference.models import FrameEncoder, FrameModel
from facscale.spec.models import Augment

SPEC = Augment(crop=(0.7, 0.9))
FRAMES = 40


class Colours(nn.Module):
    """Mean colour of the image's quarters, mixed."""

    dim = 6

    def __init__(self, seed=0):
        super().__init__()
        mix = torch.randn(12, self.dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("mix", mix)

    def forward(self, images):
        return nn.functional.adaptive_avg_pool2d(images, 2).flatten(1) @ self.mix


Colours.__module__ = "__main__"  # pickled whole: Ray's workers cannot import this file


pytestmark = [pytest.mark.slow("Ray Data starts for each data set"), pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def images():
    """Blocks of colour, two row groups of two people each."""
    blocks = np.random.default_rng(0).integers(0, 255, (4, FRAMES, 8, 8, 3), dtype=np.uint8)
    return blocks.repeat(8, axis=2).repeat(8, axis=3)


def write(url, images, *, broken=(), margin=0.0):
    au = np.random.default_rng(1).integers(-1, 2, (4, FRAMES, 2)).astype(np.int8)
    options = {"name": "toy", "au": [1, 12], "image_size": 64, "fps": 25, "recipe": {}, "row_group_mb": 0.1}
    with ShardWriter(url, margin=margin, **options) as writer:
        for person in range(4):
            jpegs = [simplejpeg.encode_jpeg(np.ascontiguousarray(image)) for image in images[person]]
            jpegs = [b"no jpeg" if (person, frame) in broken else jpeg for frame, jpeg in enumerate(jpegs)]
            frame = np.arange(FRAMES, dtype=np.int32)
            columns = {
                "identity": [f"id{person}"] * FRAMES,
                "video": ["v"] * FRAMES,
                "track": np.zeros(FRAMES, np.int32),
                "frame": frame,
                "time_s": (frame / 25).astype(np.float32),
                "jpeg": jpegs,
                "landmarks": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(FRAMES * 136, np.float32)), 136),
                "au": pa.FixedSizeListArray.from_arrays(pa.array(au[person].reshape(-1)), 2),
                "intensity": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(FRAMES * 2, np.int8)), 2),
            }
            writer.add_track(pa.table(columns))
    return au.reshape(-1, 2)


def test_features_are_those_of_each_frame_in_the_data_sets_order(tmp_path, images, monkeypatch):
    url, encoder = str(tmp_path / "toy"), Colours()
    au = write(url, images)
    assert sum(len(shard.row_groups) for shard in Dataset(url).manifest.shards) > 1
    options = {"image_size": 48, "spec": SPEC, "cache_dir": str(tmp_path / "cache"), "workers": 2, "batch_size": 7}
    embeddings = embed_dataset(FrameEncoder(encoder), url, **options)
    jpegs = Dataset(url).read_columns(["jpeg"])["jpeg"].to_pylist()
    pixels = torch.from_numpy(np.stack([simplejpeg.decode_jpeg(jpeg) for jpeg in jpegs]))
    still = torch.from_numpy(augment.eval_params(SPEC)).expand(len(pixels), -1)
    assert embeddings.features == pytest.approx(encoder(augment.apply(pixels, still, size=48)).numpy(), abs=1e-5)
    assert embeddings.identity.tolist() == [f"id{person}" for person in range(4) for _ in range(FRAMES)]
    assert embeddings.frame.tolist() == list(range(FRAMES)) * 4
    assert embeddings.aus == (1, 12)
    assert np.array_equal(embeddings.au, au)

    monkeypatch.setattr(module, "_compute_tables", lambda *_, **__: pytest.fail("it is in the cache"))
    again = embed_dataset(FrameEncoder(encoder), url, **options)
    assert np.array_equal(again.features, embeddings.features)
    assert np.array_equal(again.identity, embeddings.identity)
    with pytest.raises(pytest.fail.Exception):
        embed_dataset(FrameEncoder(Colours(seed=1)), url, **options)  # other weights, other features


def test_of_images_with_a_margin_the_face_square_is_embedded(tmp_path, images):
    url, encoder = str(tmp_path / "toy"), Colours()
    write(url, images, margin=0.3)  # 40 of 64 pixels are the square
    cache = str(tmp_path / "cache")
    embeddings = embed_dataset(FrameEncoder(encoder), url, image_size=48, spec=SPEC, cache_dir=cache)
    jpegs = Dataset(url).read_columns(["jpeg"])["jpeg"].to_pylist()
    squares = torch.from_numpy(np.stack([simplejpeg.decode_jpeg(jpeg)[12:-12, 12:-12] for jpeg in jpegs]))
    still = torch.from_numpy(augment.eval_params(SPEC)).expand(len(squares), -1)
    expected = encoder(augment.apply(squares, still, size=48)).numpy()
    assert embeddings.features == pytest.approx(expected, abs=2e-3)
    wide = SPEC.model_copy(update={"eval_crop": 1.7})
    with pytest.raises(DataError, match=r"the crop of evaluation shows up to 1.7 times .* end at 1.6 times"):
        embed_dataset(FrameEncoder(encoder), url, image_size=48, spec=wide, cache_dir=cache)


class Neighbours(FrameModel):
    """The mean brightness of the frames before, at and after, and the first landmark of the one before."""

    dim = 5

    def __init__(self):
        super().__init__()
        self.views = {"three": FrameTriple(source="labelled", interval=2, columns=("landmarks",))}

    def forward(self, batch):
        return torch.cat([batch.three.images.mean((2, 3, 4, 5)), batch.three.landmarks[:, 0, 0, 0]], 1)


Neighbours.__module__ = "__main__"


def test_a_model_may_look_at_the_neighbours_of_a_frame(tmp_path, images):
    """At the ends of a track the frame itself stands in; a row without a readable neighbour is left out."""
    url = str(tmp_path / "toy")
    write(url, images, broken={(3, 10)})
    whole = Augment(crop=(1, 1))
    embeddings = embed_dataset(
        Neighbours(), url, image_size=64, spec=whole, cache_dir=str(tmp_path / "c"), batch_size=9, max_bad=0.1
    )
    kept = [row for row in range(4 * FRAMES) if row not in {130 - 2, 130, 130 + 2}]
    assert len(embeddings) == len(kept)
    frames = np.array(kept) % FRAMES
    jpegs = Dataset(url).read_columns(["jpeg"])["jpeg"].to_pylist()
    bright = [simplejpeg.decode_jpeg(jpeg).mean() / 255 if jpeg != b"no jpeg" else np.nan for jpeg in jpegs]
    for column, step in enumerate((-2, 0, 2)):
        has_neighbour = (frames + step >= 0) & (frames + step < FRAMES)
        there = np.array(kept) + np.where(has_neighbour, step, 0)
        assert embeddings.features[:, column] == pytest.approx(np.array(bright)[there], abs=1e-3)
    assert embeddings.features[:, 3:] == pytest.approx(0, abs=1e-3)  # stored at (0, 0), and nothing moves


def test_bad_frames_are_left_out_up_to_the_limit(tmp_path, images):
    url = str(tmp_path / "toy")
    au = write(url, images, broken={(0, 3), (2, 0)})
    options = {"image_size": 48, "spec": SPEC, "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(DataError, match=r"2 of 160 frames cannot be read, more than data\.max_bad \(0\.001\)"):
        embed_dataset(FrameEncoder(Colours()), url, **options)
    embeddings = embed_dataset(FrameEncoder(Colours()), url, max_bad=0.02, **options)
    assert len(embeddings) == 158
    gone = [3, 2 * FRAMES]
    assert np.array_equal(embeddings.au, np.delete(au, gone, axis=0))


def test_a_corrupt_row_group_is_left_out_whole(tmp_path, images):
    url = str(tmp_path / "toy")
    write(url, images)
    shard = Dataset(url).manifest.shards[0]
    place = shard.row_groups[1]
    path = tmp_path / "toy" / shard.file
    data = bytearray(path.read_bytes())
    data[place.offset + place.length // 2] ^= 0xFF
    path.write_bytes(data)
    embeddings = embed_dataset(
        FrameEncoder(Colours()), url, image_size=48, spec=SPEC, cache_dir=str(tmp_path / "cache"), max_bad=0.9
    )
    assert len(embeddings) == 160 - place.rows


def test_the_cache_key_depends_on_all_that_matters():
    encoder_model = FrameEncoder(Colours())
    key = cache_key(encoder_model, fingerprint="f", settings={"image_size": 48})
    assert key == cache_key(FrameEncoder(Colours()), fingerprint="f", settings={"image_size": 48})
    others = [
        cache_key(encoder_model, fingerprint="g", settings={"image_size": 48}),
        cache_key(encoder_model, fingerprint="f", settings={"image_size": 64}),
    ]
    encoder_model.encoder.mix[0, 0] += 1e-6  # buffers count too
    others.append(cache_key(encoder_model, fingerprint="f", settings={"image_size": 48}))
    encoder_model.views = {"face": FrameTriple(source="labelled", interval=1)}
    others.append(cache_key(encoder_model, fingerprint="f", settings={"image_size": 48}))
    assert len({key, *others}) == 5
