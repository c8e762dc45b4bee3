from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save

from facscale.data import augment
from facscale.data.augment import Augmenter
from facscale.inference import export
from facscale.inference.detector import (
    METADATA_KEY,
    Detector,
    DetectorError,
    Preprocessing,
    ProbedMember,
    SupervisedMember,
    load_detector_bytes,
    save_detector,
    scale_pixels,
)
from facscale.inference.models import stack_samples
from facscale.inference.sources import load_detector
from facscale.methods import DataFacts, find_method
from facscale.nn.calibration import Calibration
from facscale.nn.heads import LinearProbe

AUS = (1, 6, 12)
FACTS = DataFacts(aus=AUS, label_weights=((1.0,) * 3, (1.0,) * 3), au_weights=(1.0,) * 3, sets=(AUS,), image_size=32)
SMALL = Preprocessing.model_validate({"crop": {"size": 40, "margin": 0.1}, "image_size": 32, "eval_crop": 0.9})


def build(name="supervised", seed=0, **config):
    torch.manual_seed(seed)
    config = find_method(name).Config.model_validate({"depth": 18, "width": 4, **config})
    return export.build_method(name, config, FACTS).eval()


def make_probe(seed, dim):
    torch.manual_seed(seed)
    probe = LinearProbe(dim=dim, aus=len(AUS))
    probe[0].running_mean.normal_()
    return probe


def make_calibration():
    calibration = Calibration(aus=3, knots=4)
    calibration.scale.copy_(torch.tensor([0.5, 2.0, 1.0]))
    calibration.bias.copy_(torch.tensor([0.1, -1.0, 0.0]))
    calibration.is_isotonic[2] = True
    calibration.knots[2] = torch.tensor([-2.0, 0.0, 1.0, 1.0])
    calibration.values[2] = torch.tensor([0.1, 0.4, 0.9, 0.9])
    return calibration


def make_probed():
    method = build()
    probes = [make_probe(seed, method.encoder.dim) for seed in (1, 2)]
    member = ProbedMember(method, probes, [make_probe(3, method.encoder.dim)])
    thresholds = torch.tensor([0.3, 0.5, 0.7])
    options = {"aus": AUS, "preprocessing": SMALL, "thresholds": thresholds, "calibration": make_calibration()}
    return Detector([member], **options, intensity_aus=(12,), card={"name": "toy", "f1": {"AU12": {"value": 0.5}}})


def make_ensemble(name="supervised", **config):
    members = [SupervisedMember(build(name, seed, **config)) for seed in (0, 1)]
    return Detector(members, aus=AUS, preprocessing=SMALL)


def make_faces(count=5):
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, SMALL.crop.stored_size, SMALL.crop.stored_size, 3), dtype=np.uint8)


def as_tensor(faces):
    return torch.from_numpy(faces).permute(0, 3, 1, 2)


@pytest.mark.parametrize("make", [make_probed, make_ensemble], ids=["probed", "ensemble"])
def test_a_detector_is_the_same_after_saving_it(make):
    detector, faces = make(), as_tensor(make_faces())
    data = save_detector(detector)
    again = load_detector_bytes(data)
    assert save_detector(again) == data
    assert (again(faces) == detector(faces)).all()
    assert (again.aus, again.intensity_aus, again.card) == (detector.aus, detector.intensity_aus, detector.card)
    assert again.preprocessing == SMALL
    assert (again.thresholds == detector.thresholds).all()


def test_a_face_alone_is_read_as_evaluation_reads_it():
    """`forward` crops by a grid of its own; evaluation by the augmenter."""
    detector, faces = make_probed(), make_faces()
    parameters = torch.from_numpy(augment.eval_params(SMALL.make_augment(), margin=SMALL.crop.margin))
    rows = {name: np.arange(len(faces))[:, None] for name in detector.views}
    batch = stack_samples(detector.views, rows, images=dict(enumerate(faces)), columns={}, parameters=parameters)
    estimate = detector.estimate(Augmenter(size=SMALL.image_size)(batch))
    assert torch.allclose(estimate.probability, detector(as_tensor(faces)), atol=1e-5)


@pytest.mark.parametrize(("stored", "size"), [(64, 48), (100, 32), (256, 64)])
def test_the_crop_of_a_detector_is_that_of_evaluation(stored, size):
    from facscale.inference.eval_crop import EvalCrop

    faces = np.random.default_rng(1).integers(0, 256, (3, stored, stored, 3), dtype=np.uint8)
    parameters = torch.from_numpy(augment.eval_params(SMALL.make_augment(), margin=0.1)).expand(3, -1)
    expected = augment.apply(torch.from_numpy(faces), parameters, size=size)
    cropped = EvalCrop(stored=stored, share=float(parameters[0, augment.CROP_SIDE]), size=size)(as_tensor(faces))
    assert torch.allclose(cropped, expected, atol=2e-5)


def test_logits_of_the_folds_are_averaged_before_calibration():
    detector, faces = make_ensemble(), as_tensor(make_faces())
    batch = detector.make_batch(faces)
    logits = [member.method.predict(batch) for member in detector.members]
    assert torch.allclose(detector(faces), torch.sigmoid((logits[0] + logits[1]) / 2), atol=1e-6)


def test_probes_share_the_encoder_of_their_member():
    detector, faces = make_probed(), as_tensor(make_faces())
    (member,) = detector.members
    features = member.face(detector.make_batch(faces))
    logits = sum(probe(features) for probe in member.probes) / 2
    estimate = detector.estimate(detector.make_batch(faces))
    assert torch.allclose(estimate.probability, make_calibration()(logits), atol=1e-6)
    assert estimate.intensity.shape == (len(faces), 1)
    assert torch.allclose(estimate.intensity[:, 0], 5 * torch.sigmoid(member.intensity_probes[0](features))[:, 2])


def test_calibration_by_hand():
    probability = make_calibration()(torch.tensor([[1.0, 1.0, 0.5], [0.0, 3.0, -9.0], [2.0, 0.0, 9.0]]))
    expected = [[0.6, 1.0, 0.65], [0.1, 5.0, 0.1], [1.1, -1.0, 0.9]]  # the third: probabilities, the others: logits
    assert torch.allclose(probability[:, :2], torch.sigmoid(torch.tensor(expected))[:, :2], atol=1e-6)
    assert torch.allclose(probability[:, 2], torch.tensor(expected)[:, 2], atol=1e-6)


@pytest.mark.parametrize("name", ["aunet", "rtatl"])
def test_methods_that_read_neighbours_or_landmarks_accept_a_face_alone(name):
    from tiny import get_tiny_options

    config = find_method(name).Config
    options = get_tiny_options(config)
    inputs = {}
    if name == "aunet":
        fan = find_method("fan").Config.model_validate(get_tiny_options(find_method("fan").Config))
        inputs = {"fan": export.build_method("fan", fan, DataFacts(image_size=64))}
    facts = replace(FACTS, image_size=64)
    try:
        method = export.build_method(name, config.model_validate(options), facts, **inputs)
    except TypeError:
        inputs |= {"labels": export.build_method("labelvae", find_method("labelvae").Config(), facts)}
        method = export.build_method(name, config.model_validate(options), facts, **inputs)
    preprocessing = SMALL.model_copy(update={"image_size": 64})
    detector = Detector([SupervisedMember(method.eval())], aus=AUS, preprocessing=preprocessing)
    probability = detector(as_tensor(make_faces(2)))
    assert probability.shape == (2, 3)
    assert ((probability >= 0) & (probability <= 1)).all()


def test_faces_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"faces must be \[N, 3, 48, 48\], .* not \[2, 3, 32, 32\]"):
        make_probed()(torch.zeros(2, 3, 32, 32))


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (np.full((1, 2), 200, np.uint8), 200),
        (np.full((1, 2), 200.0), 200),
        (np.full((1, 2), 0.5, np.float32), 127.5),
        (np.full((1, 2), 1, np.int64), 1),
    ],
)
def test_pixels_are_recognised(images, expected):
    assert (scale_pixels(images) == expected).all()


@pytest.mark.parametrize("images", [np.array([-0.5, 0.5]), np.array([0.0, 300.0]), np.array([np.nan]), np.array(["a"])])
def test_other_pixels_are_refused(images):
    with pytest.raises(DetectorError, match="0 to 255"):
        scale_pixels(images)


def test_what_is_no_detector_is_refused():
    exported = export.save_export(build())
    with pytest.raises(DetectorError, match=r"a\.bin: an exported method without calibrated thresholds"):
        load_detector_bytes(exported, source="a.bin")
    with pytest.raises(DetectorError, match="a safetensors file is expected"):
        load_detector_bytes(b"text")
    with pytest.raises(DetectorError, match="weights alone"):
        load_detector_bytes(save({"a": torch.zeros(1)}))


def forge(change):
    data = save_detector(make_probed())
    weights, metadata = export.read_safetensors(data)
    recipe = json.loads(metadata[METADATA_KEY])
    change(recipe)
    return save(weights, {METADATA_KEY: json.dumps(recipe)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda recipe: recipe.update(format="9"), "written in format 9 by another version of facscale"),
        (lambda recipe: recipe["members"][0]["method"]["config"].update(width=1 << 20), "limit"),
        (lambda recipe: recipe["members"][0].update(probes=1), "does not fit"),
        (lambda recipe: recipe["members"][0]["method"].update(method="os"), "does not fit"),
        (lambda recipe: recipe.update(members=[]), "members"),
        (lambda recipe: recipe["preprocessing"].update(image_size=-1), "image_size"),
        (lambda recipe: recipe.update(aus=[1, 1, 12]), "not unique"),
        (lambda recipe: recipe.update(knots=10**9), "knots"),
        (lambda recipe: recipe["card"].update(data="BP4D"), "card.data"),
    ],
)
def test_a_forged_recipe_is_refused(change, message):
    with pytest.raises(DetectorError, match=message):
        load_detector_bytes(forge(change))


def test_a_detector_is_read_from_files_and_folders(tmp_path):
    data = save_detector(make_probed())
    (tmp_path / "model" / "data" / "detector").mkdir(parents=True)
    for place in ("detector.safetensors", "model/data/detector/detector.safetensors"):
        (tmp_path / place).write_bytes(data)
    for source in (
        tmp_path / "detector.safetensors",
        tmp_path,
        tmp_path / "model",
        f"file://{tmp_path}/detector.safetensors",
    ):
        assert save_detector(load_detector(source)) == data
    with pytest.raises(DetectorError, match="there is no such file or folder"):
        load_detector(tmp_path / "other")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DetectorError, match=r"there is no detector\.safetensors in this folder"):
        load_detector(tmp_path / "empty")


def test_equal_methods_give_equal_exports():
    """safetensors writes several keys of metadata in random order."""
    assert len({export.save_export(build()) for _ in range(8)}) == 1


def test_exports_with_a_recipe_under_its_own_key_are_read():
    method = build()
    weights, metadata = export.read_safetensors(export.save_export(method))
    content = json.loads(metadata["facscale"])
    old = save(weights, {"facscale": content["format"], "recipe": json.dumps(content["recipe"])})
    assert export.save_export(export.load_export(old)) == export.save_export(method)
