"""The last step of the demo: its best detector reads a rendered talk, and a page shows what it says beside the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from facscale.errors import UserError
from facscale.evaluate.f1 import count_confusions, nanmean
from facscale.inference.api import AUDetector
from facscale.inference.inputs import Input
from facscale.inference.predictor import FrameResult
from facscale.inference.tables import open_table
from facscale.ingest.frames import Frame
from facscale.progress import Progress
from facscale.report.prediction_page import PageFacts, write_page
from facscale.report.prediction_video import open_video_writer
from facscale.synthetic import AUS, Clip, render_clip

PREFIX = "facscale-synthetic"  # of the names of the demo's detectors
IDENTITY = 500_000  # of nobody in the demo's data, nor in `synthetic.ground_truth`
SECONDS, FPS, SIZE = 8.0, 25, 320
PRESENT = 2.0  # intensity from which on an AU is labelled present in the demo's data
HONEST = (
    "This detector has seen rendered faces alone. On real faces its answers are worth little: they show how the tools work, and\n"
    "no more. For answers to rely on, train on real faces (facscale init copies the jobs for BP4D, DISFA and others), and\n"
    "compare with labels of your own recordings first."
)


def show_unseen_talk(folder: Path, *, tracker: str) -> None:
    """Find the demo's best detector, let it read a talk, and print what comes of it. Raises UserError without a detector."""
    from facscale.track.query import find_best_model

    best = find_best_model(tracker, prefix=PREFIX)
    if best is None:
        raise UserError(f"{tracker} has no detector whose name begins with {PREFIX}: did the job of the demo evaluate?")
    print(f"{best.uri}, mean F1 {100 * best.score:.1f} on the demo's labelled people")
    page, f1 = read_talk(AUDetector.load(best.uri, tracker=tracker), folder / "talk")
    print(f"what it says beside the truth: {page}")
    print(f"its mean F1 over the AUs of this talk, of one person: {100 * f1:.1f}")
    print("\nYour own video (add --overlay FILE.mp4 for one with the AUs drawn in):\n")
    print(f"    MLFLOW_TRACKING_URI={tracker} facscale predict {best.uri} VIDEO.mp4 --page video.html\n")
    print(HONEST)


def read_talk(
    detector: AUDetector, folder: Path, *, seconds: float = SECONDS, fps: int = FPS, size: int = SIZE
) -> tuple[Path, float]:
    """Render a talk into `folder`, with its table and page; returns the page, and the mean F1 in [0, 1].

    F1 is the mean over the AUs that are present in some frame; frames without a face are left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clip = render_clip(identity=IDENTITY, clip=0, seconds=seconds, fps=fps, size=size)
    video, page = folder / "talk.mp4", folder / "talk.html"
    with open_video_writer(video, rate=fps) as write:
        for number, image in enumerate(clip.frames):
            write(image, number / fps)
    item = Input("video", str(folder.absolute()), video.name)
    results: list[FrameResult] = []
    with open_table(folder / "talk.csv", detector.layout) as table, Progress("talk", total=len(clip.frames)) as bar:
        for name, result in detector.predict_input(item)[0]:
            table.add(result, source=name)
            results.append(result)
            bar.advance()
    frames = (Frame(number, number / fps, image) for number, image in enumerate(clip.frames))
    truth = label_frames(clip, detector.aus)
    f1 = compute_talk_f1(results, truth, detector)
    facts = PageFacts(
        "A talk that nobody has trained on",
        notes=[
            (
                f"Rendered by facscale, like all that {detector.card.get('name', 'the detector')} has learned from; this person is "
                "in none of its data. Grey: where the rendering has the AU at intensity B or more."
            ),
            f"Mean F1 over the AUs of this talk: {100 * f1:.1f}.",
        ],
        truth={f"AU{au:02d}": truth[:, number].tolist() for number, au in enumerate(detector.aus)},
    )
    write_page(frames, results, page, layout=detector.layout, interval_s=1 / fps, facts=facts)
    return page, f1


def label_frames(clip: Clip, aus: tuple[int, ...]) -> np.ndarray:
    """Labels int8 [T, n] of a clip: 1 where an AU is present, 0 where it is not, -1 for AUs that are not rendered."""
    labels = np.full((len(clip.frames), len(aus)), -1, np.int8)
    for number, au in enumerate(aus):
        if au in AUS:
            labels[:, number] = clip.intensities[:, AUS.index(au)] >= PRESENT
    return labels


def compute_talk_f1(results: list[FrameResult], truth: np.ndarray, detector: AUDetector) -> float:
    """The mean F1 in [0, 1] of the largest faces at the detector's thresholds; nan where nothing can be compared."""
    rows = [result for result in results if result.faces]
    largest = [max(result.faces, key=lambda face: face.box.area).probability for result in rows]
    if not rows:
        return float("nan")
    decisions = np.stack([detector.layout.decide(probability) for probability in largest]).astype(float)
    return float(nanmean(count_confusions(probability=decisions, au=truth[[row.number for row in rows]]).f1))
