"""How often training samples cut a brow or the chin off, and how large the face is in them, on rendered faces.

    python tests/benchmarks/framing.py --people 40

Compares AUNet's augmentation of jobs/aunet.yaml on crops with a margin with its earlier one on crops without.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "platform")]

import numpy as np  # noqa: E402

from facscale.data import align  # noqa: E402
from facscale.job.framing import measure_eval_framing, measure_framing  # noqa: E402
from facscale.spec import read_spec  # noqa: E402
from facscale.spec.document import keep_variables  # noqa: E402
from facscale.spec.models import Augment  # noqa: E402
from facscale.spec.pipelines import Crop  # noqa: E402
from facscale.synthetic.clip import render_clip  # noqa: E402

FORMER = Augment(rotation=15, crop=(0.6, 1.0))


def collect_landmarks(people: int) -> np.ndarray:
    """Landmarks [N, 68, 2] of one second of each person, in pixels of the rendered image."""
    clips = (render_clip(identity=person, clip=0, seconds=1.0, fps=5, size=96) for person in range(people))
    return np.concatenate([clip.landmarks for clip in clips])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=40)
    landmarks = collect_landmarks(parser.parse_args().people)
    document = read_spec(ROOT / "jobs" / "aunet.yaml", resolve=keep_variables)
    augment = Augment.model_validate(document.data["data"]["augment"])
    pipeline = read_spec(ROOT / "pipelines" / "bp4d.yaml", resolve=keep_variables)
    for name, crop, spec in (
        ("without a margin", Crop(), FORMER),
        ("jobs/aunet.yaml", Crop.model_validate(pipeline.data["crop"]), augment),
    ):
        matrices = (align.fit_similarity(align.locate_eyes(points), crop) for points in landmarks)
        moved = [align.transform_points(p, m) for p, m in zip(landmarks, matrices, strict=True) if m is not None]
        points = np.stack(moved).reshape(-1, 136).astype(np.float32)
        size, margin = crop.stored_size, crop.margin
        print(f"{name}, {len(points)} faces")
        print(f"  training:   {measure_framing(points, spec, stored=size, margin=margin)}")
        print(f"  evaluation: {measure_eval_framing(points, spec, stored=size, margin=margin)}")


if __name__ == "__main__":
    main()
