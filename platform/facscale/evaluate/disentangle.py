"""What no recording can tell: how well a method takes AUs and head pose apart, on rendered faces whose truth is known.

    NAME/au_f1         mean F1 of a linear probe on that embedding, over the AUs of the renderer, on people it has not seen
    NAME/pose_r2       R^2 of a linear regression of yaw and pitch on it, the same people: 1 all of it is there, 0 nothing
    flow/NAME/KIND/epe            mean distance in pixels between the method's movement NAME and the true one, if only
    flow/NAME/KIND/correlation    KIND (au, pose, all) changes; and their correlation over all x and y
    flow/none/KIND/epe            what doing nothing would reach

An AU embedding that is disentangled has a high au_f1 and a low pose_r2, a pose embedding the reverse.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facscale.evaluate.f1 import count, mean
from facscale.evaluate.probe import fit_probe, predict
from facscale.evaluate.subjects import frames_of
from facscale.methods import Method
from facscale.spec.models import Probe
from facscale.synthetic.truth import Truth

PRESENT = 2.0  # intensity from which an AU counts as there, as in BP4D and DISFA
BATCH = 64


def disentanglement(method: Method, truth: Truth, *, device: torch.device | str = "cpu") -> dict[str, float]:
    """All figures of this module by name, of a method in eval mode on `device`."""
    found: dict[str, float] = {}
    for name, features in embeddings(method, truth.images, device=device).items():
        held = holds(features, intensities=truth.intensities, turn=truth.turn, identity=truth.identity)
        found |= {f"{name}/{what}": value for what, value in held.items()}
    movements = moved(method, truth, device=device)
    for kind, true in truth.origin.items():
        valid = truth.valid[kind]
        for name, movement in movements.items():
            found |= {f"flow/{name}/{kind}/{what}": v for what, v in agreement(movement, true, valid=valid).items()}
        if movements:
            found[f"flow/none/{kind}/epe"] = agreement(np.zeros_like(true), true, valid=valid)["epe"]
    return found


def holds(features: np.ndarray, *, intensities: np.ndarray, turn: np.ndarray, identity: np.ndarray) -> dict[str, float]:
    """How well linear functions of features [N, D] tell AU intensities [N, n] and the head's turn [N, 2], "au_f1" and "pose_r2".

    identity [N]: a third of the people, drawn at random but always the same, is tested.
    """
    from sklearn.linear_model import RidgeCV  # here, for every trial's process would load it
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    people = np.random.default_rng(0).permutation(np.unique(identity))
    tested = people[: max(1, len(people) // 3)]
    train, test = (frames_of(set(part), identity=identity) for part in (people[len(tested) :], tested))
    au = (intensities >= PRESENT).astype(np.int8)
    probe = fit_probe(features[train], au=au[train], probe=Probe(batch_size=128), seed=0)
    counted = count(probability=predict(probe, features=features[test]), au=au[test])
    line = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 5, 11)))
    line.fit(features[train], turn[train])
    return {"au_f1": float(mean(counted.f1)), "pose_r2": float(line.score(features[test], turn[test]))}


def agreement(found: np.ndarray, true: np.ndarray, *, valid: NDArray[np.bool_]) -> dict[str, float]:
    """End-point error "epe" (mean |found - true|) and Pearson's "correlation" of displacements [P, S, S, 2] where `valid` [P, S, S].

    The correlation is left out where one of the two does not move at all.
    """
    one, other = found[valid].astype(np.float64), true[valid].astype(np.float64)
    figures = {"epe": float(np.linalg.norm(one - other, axis=1).mean())}
    spread = one.std() * other.std()
    if spread > 0:
        figures["correlation"] = float(((one - one.mean()) * (other - other.mean())).mean() / spread)
    return figures


@torch.no_grad()
def embeddings(method: Method, images: NDArray[np.uint8], *, device: torch.device | str) -> dict[str, np.ndarray]:
    """Of images [N, S, S, 3], every embedding that the method offers: [N, D] by name."""
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    for start in range(0, len(images), BATCH):
        for name, features in method.embeddings(pixels(images[start : start + BATCH], device)).items():
            found[name].append(features.float().cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


@torch.no_grad()
def moved(method: Method, truth: Truth, *, device: torch.device | str) -> dict[str, np.ndarray]:
    """Of all pairs, every movement that the method tells: [P, S, S, 2] in pixels by name."""
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    for start in range(0, len(truth.source), BATCH):
        pair = (truth.images[index[start : start + BATCH]] for index in (truth.source, truth.target))
        movements: Mapping[str, Tensor] = method.movements(*(pixels(images, device) for images in pair))
        for name, movement in movements.items():
            found[name].append(movement.permute(0, 2, 3, 1).float().cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def pixels(images: NDArray[np.uint8], device: torch.device | str) -> Tensor:
    """[N, S, S, 3] uint8 -> [N, 3, S, S] in [0, 1]."""
    return torch.tensor(images, device=device).permute(0, 3, 1, 2).float() / 255
