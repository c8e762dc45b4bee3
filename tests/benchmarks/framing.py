"""How often training samples cut a brow or the chin off, and how large the face is in them, on rendered faces.

    python tests/benchmarks/framing.py --people 40 [--out FILE]

Compares AUNet's augmentation of jobs/aunet.yaml on crops with a margin with its earlier one on crops without.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "platform")]

import numpy as np  # noqa: E402
from results import ResultWriter, add_out_option  # noqa: E402

from facscale.data import align  # noqa: E402
from facscale.job.framing import measure_eval_framing, measure_framing  # noqa: E402
from facscale.spec import read_spec  # noqa: E402
from facscale.spec.document import keep_variables  # noqa: E402
from facscale.spec.models import Augment  # noqa: E402
from facscale.spec.pipelines import Crop  # noqa: E402
from facscale.synthetic.clip import render_clip  # noqa: E402

FORMER = Augment(rotation=15, crop=(0.6, 1.0))
COLUMNS = {"crops": None, "samples": None, "a brow outside, %": 1, "the chin outside, %": 1, "eye distance": 3}


def collect_landmarks(people: int) -> np.ndarray:
    """Landmarks [N, 68, 2] of one second of each person, in pixels of the rendered image."""
    clips = (render_clip(identity=person, clip=0, seconds=1.0, fps=5, size=96) for person in range(people))
    return np.concatenate([clip.landmarks for clip in clips])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=40)
    add_out_option(parser)
    options = parser.parse_args()
    title = f"Crops with and without a margin, {options.people} rendered people"
    with ResultWriter(options.out, title=title, columns=COLUMNS) as table:
        compare(options.people, table)


def compare(people: int, table: ResultWriter) -> None:
    """Measure both kinds of crops."""
    landmarks = collect_landmarks(people)
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
        for samples, measure in (("training", measure_framing), ("evaluation", measure_eval_framing)):
            framing = measure(points, spec, stored=size, margin=margin)
            print(f"  {samples + ':':<12}{framing}")
            table.add(name, samples, 100 * framing.brows, 100 * framing.chin, framing.eye_distance)


if __name__ == "__main__":
    main()
