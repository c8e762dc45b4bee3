"""Disentanglement: how well a method separates AUs from head pose, on rendered faces with known truth.

    NAME/au_f1         mean F1 of a linear probe on that embedding, over the AUs of the renderer, on people who are not in its
                       training part
    NAME/pose_r2       R^2 of a linear regression of yaw and pitch on the embedding, same people: 1 if it holds the pose, 0 if not
    flow/NAME/KIND/epe            mean distance in pixels between the method's motion NAME and the true one where only KIND
                                  (au, pose, all) changes
    flow/NAME/KIND/correlation    their correlation over all x and y
    flow/none/KIND/epe            the distance of a prediction without any motion

A disentangled AU embedding has a high au_f1 and a low pose_r2, a pose embedding the reverse.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facscale.evaluate.f1 import count_confusions, nanmean
from facscale.evaluate.probe import fit_probe, predict_probabilities
from facscale.evaluate.subjects import find_frames
from facscale.methods import Method
from facscale.spec.models import Probe

if TYPE_CHECKING:  # the renderer takes a second, which jobs without rendered faces do not wait for
    from facscale.synthetic.ground_truth import GroundTruth

PRESENT_INTENSITY = 2.0  # from which an AU counts as present, as in BP4D and DISFA
BATCH = 64


def measure_disentanglement(
    method: Method, truth: GroundTruth, *, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """All metrics of this module by name, of a method in evaluation mode on `device`."""
    metrics: dict[str, float] = {}
    for name, features in compute_embeddings(method, truth.images, device=device).items():
        results = probe_embedding(features, intensities=truth.intensities, turn=truth.turn, identity=truth.identity)
        metrics |= {f"{name}/{metric}": value for metric, value in results.items()}
    motions = predict_motion(method, truth, device=device)
    for kind, true in truth.origin.items():
        valid = truth.valid[kind]
        for name, motion in motions.items():
            results = compare_flow(motion, true, valid=valid)
            metrics |= {f"flow/{name}/{kind}/{metric}": value for metric, value in results.items()}
        if motions:
            metrics[f"flow/none/{kind}/epe"] = compare_flow(np.zeros_like(true), true, valid=valid)["epe"]
    return metrics


def probe_embedding(
    features: np.ndarray, *, intensities: np.ndarray, turn: np.ndarray, identity: np.ndarray
) -> dict[str, float]:
    """How well linear functions of features [N, D] predict AUs, "au_f1", and the head pose, "pose_r2".

    intensities [N, n] of AUs; turn [N, 2], yaw and pitch of the head; identity [N]. A third of the people, drawn at random but
    always the same, is tested.
    """
    from sklearn.linear_model import RidgeCV  # not on top: every trial's process would load it
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    people = np.random.default_rng(0).permutation(np.unique(identity))
    count = max(1, len(people) // 3)
    train, test = (find_frames(set(part), identity=identity) for part in (people[count:], people[:count]))
    au = (intensities >= PRESENT_INTENSITY).astype(np.int8)
    probe = fit_probe(features[train], au=au[train], probe=Probe(batch_size=128), seed=0)
    counts = count_confusions(probability=predict_probabilities(probe, features=features[test]), au=au[test])
    regression = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 5, 11)))
    regression.fit(features[train], turn[train])
    return {"au_f1": float(nanmean(counts.f1)), "pose_r2": float(regression.score(features[test], turn[test]))}


def compare_flow(predicted: np.ndarray, true: np.ndarray, *, valid: NDArray[np.bool_]) -> dict[str, float]:
    """Mean distance "epe" and Pearson's "correlation" of displacements [P, S, S, 2] where `valid` [P, S, S].

    The correlation is left out where one of the two never varies.
    """
    x, y = predicted[valid].astype(np.float64), true[valid].astype(np.float64)
    metrics = {"epe": float(np.linalg.norm(x - y, axis=1).mean())}
    spread = x.std() * y.std()
    if spread > 0:
        metrics["correlation"] = float(((x - x.mean()) * (y - y.mean())).mean() / spread)
    return metrics


@torch.no_grad()
def compute_embeddings(
    method: Method, images: NDArray[np.uint8], *, device: torch.device | str
) -> dict[str, np.ndarray]:
    """Every embedding that the method has of images [N, S, S, 3]: [N, D] by name."""
    batches: dict[str, list[np.ndarray]] = defaultdict(list)
    for start in range(0, len(images), BATCH):
        for name, features in method.embed(to_tensor(images[start : start + BATCH], device)).items():
            batches[name].append(features.float().cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in batches.items()}


@torch.no_grad()
def predict_motion(method: Method, truth: GroundTruth, *, device: torch.device | str) -> dict[str, np.ndarray]:
    """Every motion that the method predicts for the pairs: [P, S, S, 2] in pixels by name."""
    batches: dict[str, list[np.ndarray]] = defaultdict(list)
    for start in range(0, len(truth.source), BATCH):
        source, target = (
            to_tensor(truth.images[frames[start : start + BATCH]], device) for frames in (truth.source, truth.target)
        )
        for name, motion in method.predict_motion(source, target).items():
            batches[name].append(motion.permute(0, 2, 3, 1).float().cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in batches.items()}


def to_tensor(images: NDArray[np.uint8], device: torch.device | str) -> Tensor:
    """[N, S, S, 3] uint8 -> [N, 3, S, S] in [0, 1]."""
    return torch.tensor(images, device=device).permute(0, 3, 1, 2).float() / 255
