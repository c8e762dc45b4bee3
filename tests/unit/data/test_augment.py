"""Augmentation: each parameter against an independent, slow version."""

from __future__ import annotations

import colorsys
import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faces import make_picture
from facscale.data import DataError, augment
from facscale.data.augment import PARAMETERS, Augmenter
from facscale.data.views import Batch, Faces
from facscale.spec import models

SIZE = 48
NOTHING = {
    "rotation": 0.0,
    "flip": 0.0,
    "brightness": 1.0,
    "contrast": 1.0,
    "saturation": 1.0,
    "hue": 0.0,
    "crop width": 1.0,
    "crop height": 1.0,
    "crop x": 0.0,
    "crop y": 0.0,
    "blur": 0.0,
    "quality": 0.0,
    "holes": 0.0,
    "hole x": 0.5,
    "hole y": 0.5,
    "hole side": 0.5,
}


def parameters(**changes: float) -> torch.Tensor:
    assert tuple(NOTHING) == PARAMETERS
    return torch.tensor(
        [list({**NOTHING, **{name.replace("_", " "): value for name, value in changes.items()}}.values())]
    )


def image(seed: int = 0, *, gentle: bool = False) -> np.ndarray:
    """A smooth picture; `gentle`: far from black and white, so that no colour is clamped."""
    pixels = make_picture(seed, size=SIZE)
    return (pixels // 4 + 96) if gentle else pixels


def changed(pixels: np.ndarray, *, size: int = SIZE, **changes: float) -> np.ndarray:
    """[size, size, 3] in 0..255."""
    result = augment.apply(torch.from_numpy(pixels[None]), parameters(**changes), size=size)
    assert result.shape == (1, 3, size, size)
    assert result.dtype == torch.float32
    return result[0].permute(1, 2, 0).numpy() * 255


def by_hand(pixels: np.ndarray, *, size: int = SIZE, rotation=0.0, flip=0.0, width=1.0, height=1.0, x=0.5, y=0.5):
    """Rotate, crop, resize, mirror: pixel by pixel, with bilinear sampling and reflection written out."""
    stored = len(pixels)
    result = np.zeros((size, size, 3))
    angle, middle = math.radians(rotation), stored / 2
    for row in range(size):
        for column in range(size):
            across = size - 1 - column if flip else column
            in_crop_x, in_crop_y = (across + 0.5) / size * width * stored, (row + 0.5) / size * height * stored
            right, down = in_crop_x + x * (1 - width) * stored - middle, in_crop_y + y * (1 - height) * stored - middle
            # Turned counter-clockwise on a screen whose y runs down: undo it.
            at_x = math.cos(angle) * right - math.sin(angle) * down + middle - 0.5
            at_y = math.sin(angle) * right + math.cos(angle) * down + middle - 0.5
            result[row, column] = bilinear(pixels, at_x, at_y)
    return result


def bilinear(pixels: np.ndarray, x: float, y: float) -> np.ndarray:
    stored = len(pixels)

    def inside(place: float) -> float:
        """Reflect at the outer edges of the first and last pixel, then clamp between their centres."""
        place = (place + 0.5) % (2 * stored)
        place = (2 * stored - place if place > stored else place) - 0.5
        return min(max(place, 0), stored - 1)

    x, y = inside(x), inside(y)
    left, top = min(int(x), stored - 2), min(int(y), stored - 2)
    fx, fy = x - left, y - top
    corner = pixels[top : top + 2, left : left + 2].astype(float)
    return (corner[0, 0] * (1 - fx) + corner[0, 1] * fx) * (1 - fy) + (corner[1, 0] * (1 - fx) + corner[1, 1] * fx) * fy


def test_neutral_parameters_change_nothing():
    np.testing.assert_allclose(changed(image()), image(), atol=1e-2)


@pytest.mark.parametrize(
    "change",
    [
        {"rotation": 10.0},
        {"rotation": -37.0},
        {"flip": 1.0},
        {"width": 0.8, "height": 0.8},
        {"width": 0.7, "height": 0.5, "x": 0.0, "y": 1.0},
        {"rotation": 10.0, "flip": 1.0, "width": 0.85, "height": 0.95, "x": 0.2, "y": 0.9},
        {"rotation": 170.0, "width": 0.5, "height": 0.6, "x": 1.0, "y": 0.3, "size": 30},
    ],
)
def test_geometry_against_pixel_by_pixel(change):
    ours = changed(image(), **place_crop(change))
    np.testing.assert_allclose(ours, by_hand(image(), **change), atol=0.05)


def place_crop(change):
    """Parameters of a crop: from the free space left of and above it, as a share, to the place of its centre."""
    names = {"width": "crop_width", "height": "crop_height"}
    result = {names.get(name, name): value for name, value in change.items() if name not in ("x", "y")}
    for axis, length in (("x", "width"), ("y", "height")):
        result[f"crop_{axis}"] = (1 - change.get(length, 1.0)) * (change.get(axis, 0.5) - 0.5)
    return result


@pytest.mark.parametrize("degrees", [10.0, -25.0])
def test_rotation_against_opencv(degrees):
    middle = (SIZE - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), degrees, 1.0)
    expected = cv2.warpAffine(image().astype(np.float32), matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT)
    inner = slice(12, -12)
    np.testing.assert_allclose(changed(image(), rotation=degrees)[inner, inner], expected[inner, inner], atol=2.0)


def test_no_black_corners():
    assert changed(np.full((SIZE, SIZE, 3), 200, np.uint8), rotation=45.0).min() > 199.9


@pytest.mark.parametrize("size", [40, 64])
def test_eval_params_are_a_plain_centre_crop_and_resize(size):
    spec = models.Augment(crop=(0.75, 1.0))
    still = augment.eval_params(spec)
    ours = augment.apply(torch.from_numpy(image()[None]), torch.from_numpy(still)[None], size=size)
    edge = SIZE // 16  # the mean side is 7/8
    expected = cv2.resize(image()[edge:-edge, edge:-edge], (size, size), interpolation=cv2.INTER_LINEAR)
    inner = slice(2, -2)  # at its border OpenCV does not look outside the crop
    difference = ours[0].permute(1, 2, 0).numpy()[inner, inner] * 255 - expected[inner, inner]
    assert np.abs(difference).max() < 1.0
    assert not np.array_equal(still, augment.eval_params(models.Augment(crop=(0.95, 1.0))))
    assert np.array_equal(still, augment.eval_params(models.Augment(crop=(0.2, 1.0)))), (
        "small crops train, whole faces count"
    )


@given(st.tuples(st.floats(0.3, 1.4), st.floats(0.3, 1.4)).map(sorted), st.sampled_from([None, 0.0, 0.03]))
def test_with_a_margin_the_same_part_of_the_face_is_seen(crop, shift):
    """Parameters for images with a margin show what those without one show, in the middle of a larger image."""
    spec, room = models.Augment(crop=tuple(crop), shift=shift, aspect=1.2), 1e-6
    plain, wide = (
        augment.sample_params(spec, shape=(40,), random=np.random.default_rng(1), margin=margin) for margin in (0, 0.25)
    )
    geometry = [PARAMETERS.index(f"crop {name}") for name in ("width", "height", "x", "y")]
    np.testing.assert_allclose(wide[:, geometry] * 1.5, plain[:, geometry], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(np.delete(wide, geometry, 1), np.delete(plain, geometry, 1))
    width, height, *centres = plain[:, geometry].T
    for length, centre in zip((width, height), centres, strict=True):
        limit = np.maximum(0, 1 - length) / 2 if shift is None else shift
        assert np.all(np.abs(centre) <= limit + room)
    still, far = augment.eval_params(spec), augment.eval_params(spec, margin=0.25)
    np.testing.assert_allclose(far[geometry[:2]] * 1.5, still[geometry[:2]], rtol=1e-6)
    assert still[geometry[0]] == pytest.approx(min(1, max(0.875, sum(crop) / 2)))
    assert far[geometry[2:]].tolist() == [0, 0]


def test_crops_of_images_with_a_margin_are_those_of_the_inner_part():
    """The pixels themselves: an image, and the same image inside a larger one."""
    inner, margin = image(), SIZE // 4
    outer = np.zeros((SIZE + 2 * margin, SIZE + 2 * margin, 3), np.uint8)
    outer[margin:-margin, margin:-margin] = inner
    spec = models.Augment(rotation=0, flip=0.5, crop=(0.6, 0.8), brightness=0, contrast=0, saturation=0)
    for pair in zip(
        *(augment.sample_params(spec, shape=(6,), random=np.random.default_rng(2), margin=m) for m in (0, 0.25)),
        strict=True,
    ):
        small, large = (
            augment.apply(torch.from_numpy(pixels[None]), torch.from_numpy(drawn)[None], size=SIZE)
            for pixels, drawn in zip((inner, outer), pair, strict=True)
        )
        torch.testing.assert_close(small[..., 1:-1, 1:-1], large[..., 1:-1, 1:-1], atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("options", "needed", "message"),
    [
        ({"crop": (0.6, 1.0)}, 0.0, None),
        ({"crop": (0.8, 1.4)}, 0.2, r"data.augment.crop shows up to 1.4 times .* end at 1 times .*crop.margin=0.2 "),
        ({"crop": (0.8, 1.4), "shift": 0.05}, 0.25, r"crop with shifts of 0.05 shows up to 1.5 .*crop.margin=0.25 "),
        ({"crop": (0.8, 1.0), "eval_crop": 1.1}, 0.05, r"the crop of evaluation shows up to 1.1 .*crop.margin=0.05 "),
    ],
)
def test_crops_beyond_the_stored_image_are_refused(options, needed, message):
    spec = models.Augment(**options)
    augment.check_margin(spec, margin=needed, url="s3://faces")
    if message:
        with pytest.raises(DataError, match=f"{message}.*") as error:
            augment.check_margin(spec, margin=0.0, url="s3://faces")
        assert "s3://faces" in str(error.value)
        with pytest.raises(DataError):
            augment.check_margin(spec, margin=needed - 0.01, url="s3://faces")


def test_eval_params_do_not_depend_on_anything_random():
    many = models.Augment(rotation=90, flip=1.0, brightness=0.9, contrast=0.9, saturation=0.9, hue=0.5, crop=(0.8, 1.0))
    assert augment.eval_params(many).tolist() == augment.eval_params(models.Augment(crop=(0.8, 1.0))).tolist()


def test_strong_reduction_averages_instead_of_dropping_pixels():
    """A chessboard of single pixels becomes grey, not black or white."""
    board = np.indices((64, 64)).sum(0) % 2 * 255
    pixels = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    result = augment.apply(torch.from_numpy(pixels[None]), parameters(), size=16)
    np.testing.assert_allclose(result.numpy(), 0.5, atol=0.06)


@pytest.mark.parametrize("size", [10, 12, 13, 16])
def test_strong_reduction_keeps_the_geometry(size):
    """A ramp from left to right stays that ramp, also where the sizes do not divide."""
    ramp = np.repeat(np.tile(np.arange(50) * 4, (50, 1))[..., None], 3, axis=2).astype(np.uint8)
    expected = ((np.arange(size) + 0.5) / size * 50 - 0.5) * 4
    row = changed(ramp, size=size)[size // 2, :, 0]
    np.testing.assert_allclose(row[1:-1], expected[1:-1], atol=2.1)


def grey(pixels: np.ndarray) -> np.ndarray:
    return (pixels @ np.array([0.299, 0.587, 0.114]))[..., None]


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.3])
def test_brightness_contrast_saturation_by_hand(factor):
    pixels = image(gentle=True).astype(float)
    np.testing.assert_allclose(changed(image(gentle=True), brightness=factor), pixels * factor, atol=0.05)
    mean = grey(pixels).mean()
    np.testing.assert_allclose(changed(image(gentle=True), contrast=factor), mean + factor * (pixels - mean), atol=0.05)
    expected = grey(pixels) + factor * (pixels - grey(pixels))
    np.testing.assert_allclose(changed(image(gentle=True), saturation=factor), expected, atol=0.05)


@pytest.mark.parametrize("turns", [0.1, -0.25, 0.5])
def test_hue_turns_the_chroma_against_colorsys(turns):
    """In the standard library's YIQ, luma stays and (I, Q) turns by the angle."""
    ours = changed(image(gentle=True), hue=turns)
    angle = 2 * math.pi * turns
    for row, column in ((0, 0), (7, 31), (40, 5), (47, 47)):
        y, i, q = colorsys.rgb_to_yiq(*(image(gentle=True)[row, column] / 255))
        turned = complex(i, q) * complex(math.cos(angle), math.sin(angle))
        luma, i_, q_ = colorsys.rgb_to_yiq(*(ours[row, column] / 255))
        assert abs(luma - y) < 0.005
        assert abs(complex(i_, q_) - turned) < 0.005


def test_all_colours_together_are_the_steps_one_after_the_other():
    pixels = image(gentle=True)
    steps = pixels.astype(float)
    steps = steps * 0.9
    steps = grey(steps).mean() + 1.2 * (steps - grey(steps).mean())
    steps = grey(steps) + 0.7 * (steps - grey(steps))
    together = changed(pixels, brightness=0.9, contrast=1.2, saturation=0.7, hue=0.3)
    last = changed(np.round(steps).astype(np.uint8), hue=0.3)
    np.testing.assert_allclose(together, last, atol=1.5)


def test_colours_stay_within_bounds():
    for changes in ({"brightness": 2.0}, {"contrast": 3.0}, {"saturation": 4.0, "hue": 0.4}):
        result = changed(image(), **changes)
        assert result.min() >= 0
        assert result.max() <= 255


def test_copies_are_augmented_one_by_one_and_order_is_kept():
    """[B, F, V] at once equals each image alone."""
    images = torch.from_numpy(np.stack([[image(3 * b + f) for f in range(3)] for b in range(7)]))
    drawn = torch.from_numpy(
        augment.sample_params(models.Augment(hue=0.1), shape=(7, 3, 2), random=np.random.default_rng(0))
    )
    together = augment.apply(images, drawn, size=24)
    assert together.shape == (7, 3, 2, 3, 24, 24)
    for b, f, v in np.ndindex(7, 3, 2):
        alone = augment.apply(images[b, f][None], drawn[b, f, v][None], size=24)[0]
        torch.testing.assert_close(together[b, f, v], alone, atol=1e-5, rtol=0)


def test_the_augmenter_changes_images_only():
    images = torch.from_numpy(image()[None, None])
    faces = Faces(
        images=images,
        identity=torch.tensor([5]),
        augmentation=parameters()[None, None],
        columns={"au": torch.ones(1, 1, 2)},
    )
    batch = Augmenter(size=24)(Batch(face=faces))
    assert batch.face.images.shape == (1, 1, 1, 3, 24, 24)
    assert batch.face.identity is faces.identity
    assert batch.face.au is faces.au
    assert batch.face.augmentation is faces.augmentation
    assert faces.images is images, "the given batch is as it was"


@settings(max_examples=50, deadline=None)
@given(
    st.floats(0, 180),
    st.floats(0, 1),
    st.floats(0, 2),
    st.floats(0, 0.5),
    st.tuples(st.floats(0.1, 1), st.floats(0.1, 1)).map(sorted),
    st.floats(1, 2),
)
def test_sampled_parameters_keep_to_their_ranges(rotation, flip, jitter, hue, crop, aspect):
    spec = models.Augment(
        rotation=rotation,
        flip=flip,
        brightness=jitter,
        contrast=jitter / 2,
        saturation=jitter / 3,
        hue=hue,
        crop=tuple(crop),
        aspect=aspect,
    )
    drawn = augment.sample_params(spec, shape=(50, 4), random=np.random.default_rng(0))
    assert drawn.shape == (50, 4, len(PARAMETERS))
    assert drawn.dtype == np.float32
    values = dict(zip(PARAMETERS, np.moveaxis(drawn.astype(float), -1, 0), strict=True))
    room = 1e-5
    assert np.all(np.abs(values["rotation"]) <= rotation + room)
    assert set(values["flip"].ravel()) <= {0.0, 1.0}
    for name, strength in (("brightness", jitter), ("contrast", jitter / 2), ("saturation", jitter / 3)):
        assert np.all(values[name] >= max(0, 1 - strength) - room)
        assert np.all(values[name] <= 1 + strength + room)
    assert np.all(np.abs(values["hue"]) <= hue + room)
    for side in ("crop width", "crop height"):
        assert np.all(values[side] >= crop[0] / aspect**0.5 - room)
        assert np.all(values[side] <= min(1, crop[1] * aspect**0.5) + room)
    ratio = values["crop width"] / values["crop height"]
    assert np.all((ratio >= 1 / aspect - room) & (ratio <= aspect + 1e-4))
    for axis, length in (("crop x", "crop width"), ("crop y", "crop height")):  # the crop lies within the image
        assert np.all(np.abs(values[axis]) + values[length] / 2 <= 0.5 + room)
    if flip in (0.0, 1.0):
        assert np.all(values["flip"] == flip)


def test_parameters_are_sampled_independently():
    spec = models.Augment(hue=0.2, crop=(0.5, 0.7), aspect=1.01, blur=1.0, compression=1.0, holes=1.0)
    drawn = augment.sample_params(spec, shape=(20_000,), random=np.random.default_rng(1))
    width, height = drawn[:, 6].copy(), drawn[:, 7].copy()
    drawn[:, 6], drawn[:, 7] = width * height, width / height  # a crop's area and its shape are independent
    off_diagonal = np.corrcoef(drawn.T) - np.eye(len(PARAMETERS))
    assert np.abs(off_diagonal).max() < 0.03
    assert abs(drawn[:, 1].mean() - 0.5) < 0.02


def test_frequencies_of_jitter_grey_and_blur():
    spec = models.Augment(hue=0.2, jitter=0.8, grey=0.2, blur=0.5)
    drawn = augment.sample_params(spec, shape=(20_000,), random=np.random.default_rng(1))
    brightness, contrast, saturation, hue = drawn[:, 2:6].T
    untouched = (brightness == 1) & (contrast == 1) & (hue == 0)
    assert abs(untouched.mean() - 0.2) < 0.02
    assert abs((saturation == 0).mean() - 0.2) < 0.02
    assert abs((drawn[:, PARAMETERS.index("blur")] > 0).mean() - 0.5) < 0.02
    assert set(saturation[untouched].tolist()) == {0.0, 1.0}


def test_blur_against_opencv_and_only_where_sigma_is_not_zero():
    sigma = 1.3 / SIZE
    both = torch.cat([parameters(blur=sigma), parameters()])
    result = augment.apply(torch.from_numpy(np.stack([image(), image()])), both, size=SIZE)
    blurred, plain = (pixels.permute(1, 2, 0).numpy() * 255 for pixels in result)
    reach = max(1, round(3 * augment.BLUR[1] * SIZE))
    expected = cv2.GaussianBlur(
        image().astype(np.float32), (2 * reach + 1, 2 * reach + 1), sigma * SIZE, borderType=cv2.BORDER_REFLECT_101
    )
    np.testing.assert_allclose(blurred, expected, atol=0.05)
    np.testing.assert_allclose(plain, image(), atol=0.05)


@pytest.mark.parametrize(
    "changes",
    [{}, {"rotation": 25.0}, {"flip": 1.0}, {"crop_width": 0.7, "crop_height": 0.8, "crop_x": -0.09, "crop_y": 0.08}],
    ids=str,
)
def test_landmarks_move_with_the_face(changes):
    """A bright dot is drawn at one landmark; in the augmented image the dot lies at the transformed landmark."""
    size, rng = 40, np.random.default_rng(0)
    points = rng.uniform(16, 31, (68, 2)).astype(np.float32)
    for number in (3, 30, 36, 48):
        dotted = np.zeros((SIZE, SIZE, 3), np.float32)
        rows, columns = np.indices((SIZE, SIZE))
        distance = (columns - points[number, 0]) ** 2 + (rows - points[number, 1]) ** 2
        dotted[:] = (255 * np.exp(-distance / 8))[..., None]
        seen = changed(dotted.round().astype(np.uint8), size=size, **changes)[..., 0]
        rows, columns = np.indices((size, size))
        centre = [(grid * seen).sum() / seen.sum() for grid in (columns, rows)]
        parameter = parameters(**changes)
        result = augment.transform_landmarks(
            torch.from_numpy(points.reshape(1, 136)), parameter[:, None], stored=SIZE, size=size
        )
        assert result.shape == (1, 1, 68, 2)
        there = augment._get_mirror_order(torch.device("cpu"))[number] if changes.get("flip") else number
        assert result[0, 0, there].numpy() == pytest.approx(centre, abs=0.25)


def test_mirroring_twice_changes_nothing_and_keeps_the_middle():
    mirrored = augment._get_mirror_order(torch.device("cpu"))
    assert (mirrored[mirrored] == torch.arange(68)).all()
    assert sorted(mirrored.tolist()) == list(range(68))
    for middle in (8, 27, 28, 29, 30, 33, 51, 57, 62, 66):
        assert mirrored[middle] == middle


def test_unknown_landmarks_stay_unknown():
    points = torch.full((2, 136), float("nan"))
    result = augment.transform_landmarks(points, parameters(rotation=10.0).expand(2, 1, -1), stored=SIZE, size=20)
    assert result.isnan().all()


@pytest.mark.parametrize(
    "changes",
    [{}, {"rotation": 30.0}, {"flip": 1.0}, {"crop_width": 0.5, "crop_height": 0.5}],
    ids=str,
)
def test_flow_rotates_and_scales_with_the_face(changes):
    """A constant flow field: the expected vector is the difference of its end points as transformed landmarks."""
    size, side = 32, SIZE // 4
    vector = np.array([2.0, -1.5])
    steps = np.broadcast_to((vector / augment.FLOW_STEP).astype(np.int8)[:, None, None], (2, side, side)).reshape(1, -1)
    parameter = parameters(**changes)
    result = augment.transform_flow(torch.from_numpy(steps.copy()), parameter[:, None], stored=SIZE, size=size)
    assert result.shape == (1, 1, 2, size // 4, size // 4)
    points = np.full((2, 68, 2), 24.0, np.float32)
    points[1] += vector
    ends = augment.transform_landmarks(
        torch.from_numpy(points.reshape(2, 136)), parameter[:, None].expand(2, 1, -1), stored=SIZE, size=size
    )
    expected = (ends[1] - ends[0])[0, 0]
    assert result[0, 0].flatten(1).T.numpy() == pytest.approx(expected.expand(64, 2).numpy(), abs=1e-4)


def test_flow_stays_at_its_place():
    side = SIZE // 4
    steps = torch.zeros(1, 2, side, side, dtype=torch.int8)
    steps[0, 0, 2, 1] = 64  # 8 pixels to the right, near the upper left corner
    result = augment.transform_flow(steps.flatten(1), parameters(flip=1.0)[:, None], stored=SIZE, size=SIZE)[0, 0]
    assert result[0, 2, side - 2].item() == pytest.approx(-8.0)
    assert (result.abs() > 0.1).sum() == 1


def test_unknown_flow_is_nan_everywhere():
    steps = torch.full((1, 2 * 144), augment.FLOW_UNKNOWN, dtype=torch.int8)
    assert augment.transform_flow(steps, parameters(rotation=5.0)[:, None], stored=SIZE, size=16).isnan().all()


# Neighbours that are aligned to the middle frame


def pattern(points: np.ndarray) -> np.ndarray:
    """A smooth uint8 picture, sampled at points [..., 2] in pixels: [..., 3]."""
    x, y = points[..., 0], points[..., 1]
    waves = np.stack([np.sin(x / 7) * np.cos(y / 9), np.sin(x / 11 + y / 8), np.cos((x - y) / 10)], -1)
    return (127.5 * (1 + waves)).round().astype(np.uint8)


def move(points: np.ndarray, *, degrees: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    c, s = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    return points @ np.array([[c, s], [-s, c]]) + shift


def moved_faces(movements, *, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """Frames [1, F, S, S, 3] of one pattern under each movement, and its landmarks [1, F, 136]."""
    points = np.random.default_rng(seed).uniform(14, SIZE - 14, (68, 2))
    pixels = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), -1).astype(float)
    frames, landmarks = [], []
    for movement in movements:
        c, s = (movement["scale"] * f(math.radians(movement["degrees"])) for f in (math.cos, math.sin))
        frames.append(pattern((pixels - movement["shift"]) @ np.linalg.inv(np.array([[c, s], [-s, c]]))))
        landmarks.append(move(points, **movement).ravel())
    return np.stack(frames)[None], np.stack(landmarks)[None].astype(np.float32)


STILL = {"degrees": 0.0, "scale": 1.0, "shift": (0.0, 0.0)}


def align(images, landmarks, drawn, *, size=SIZE, is_aligned=True):
    faces = Faces(
        images=torch.from_numpy(images),
        identity=torch.tensor([0]),
        augmentation=drawn.expand(*images.shape[:2], 1, -1),
        columns={"landmarks": torch.from_numpy(landmarks)},
        is_aligned=is_aligned,
    )
    return Augmenter(size=size)(Batch(face=faces)).face


@pytest.mark.parametrize("movement", [
    {"degrees": 0.0, "scale": 1.0, "shift": (3.5, -2.25)},
    {"degrees": 12.0, "scale": 1.0, "shift": (4.0, -6.0)},
    {"degrees": -9.0, "scale": 1.2, "shift": (2.0, -5.0)},
])  # fmt: skip
@pytest.mark.parametrize("changes", [{}, {"rotation": 20.0, "flip": 1.0, "crop_width": 0.8, "crop_height": 0.8}])
def test_neighbours_are_moved_onto_the_middle_frame(movement, changes):
    images, landmarks = moved_faces([movement, STILL, {**movement, "degrees": 5.0}])
    faces = align(images, landmarks, parameters(**changes))
    frames = faces.images[0, :, 0]
    loose = align(images, landmarks, parameters(**changes), is_aligned=False).images[0, :, 0]
    torch.testing.assert_close(frames[1], loose[1])
    inner = slice(14, -14)
    for neighbour in (0, 2):
        assert (frames[neighbour] - frames[1])[:, inner, inner].abs().max() < 0.02  # bilinear between pixels
        assert (loose[neighbour] - loose[1])[:, inner, inner].abs().mean() > 0.03
        torch.testing.assert_close(faces.landmarks[0, neighbour], faces.landmarks[0, 1], atol=1e-2, rtol=0)


def test_blur_and_holes_come_after_the_alignment():
    """In all frames of a sample the holes are at the same places, and are black with sharp edges."""
    images, landmarks = moved_faces([{"degrees": 8.0, "scale": 1.0, "shift": (5.0, -4.0)}, STILL, STILL])
    frames = align(images // 2 + 100, landmarks, parameters(holes=5.0)).images[0, :, 0]
    black = (frames == 0).all(1)
    assert 0 < black[1].sum() < SIZE**2 / 2
    assert torch.equal(black[0], black[1])
    assert frames[0][:, ~black[0]].min() > 0.3  # no pixel between a hole and the face


def test_a_frame_with_unknown_landmarks_stays_where_it_is():
    images, landmarks = moved_faces([{**STILL, "shift": (4.0, 4.0)}, STILL, {**STILL, "shift": (-3.0, 2.0)}])
    landmarks[0, 0, 90] = np.nan
    frames = align(images, landmarks, parameters()).images[0, :, 0]
    loose = align(images, landmarks, parameters(), is_aligned=False).images[0, :, 0]
    landmarks[0, 1, 90] = np.nan  # of the middle frame: nothing is known of where the others belong
    torch.testing.assert_close(align(images, landmarks, parameters()).images[0, :, 0], loose)
    torch.testing.assert_close(frames[:2], loose[:2])
    assert not torch.allclose(frames[2], loose[2])


def test_positions_do_not_become_coarse_under_autocast():
    images, landmarks = moved_faces([{"degrees": 7.0, "scale": 1.1, "shift": (1.0, 2.0)}, STILL, STILL])
    plain = align(images, landmarks, parameters(rotation=11.0))
    with torch.autocast("cpu", torch.bfloat16):
        again = align(images, landmarks, parameters(rotation=11.0))
    assert torch.equal(plain.images, again.images)
    assert torch.equal(plain.landmarks, again.landmarks)
