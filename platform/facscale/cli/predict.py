"""`facscale predict`: action units of videos, images and a camera, as tables."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

from facscale.errors import UserError
from facscale.inference.api import AUDetector
from facscale.inference.batch import Options, Outcome, Task, plan_tasks, predict_here, predict_on_ray
from facscale.inference.detector import load_detector_bytes
from facscale.inference.inputs import Input, list_inputs
from facscale.inference.predictor import FrameResult
from facscale.inference.sources import read_detector
from facscale.inference.tables import COLUMN_SETS, FORMATS, ColumnSet, open_table

FAILED = 1  # exit status: an input could not be predicted
CAMERA_FPS = 25.0
BAR = 24  # characters


def predict_inputs(
    model: str,
    words: Sequence[str],
    *,
    out: str,
    kind: str,
    columns: ColumnSet,
    every: int,
    tracker: str,
    device: str,
    workers: int,
) -> int:
    """Predict all inputs into tables below `out`; returns the exit status. Raises UserError before anything is computed."""
    console = Console(highlight=False, soft_wrap=True)
    inputs, others = list_inputs(words)
    data = read_detector(model, tracker=tracker)
    detector = load_detector_bytes(data, source=model)
    folder, tasks, kind = place_tables(inputs, out=out, kind=kind)
    if others:
        console.print(f"{others} files are neither videos nor images and are left out")
    options = Options(folder, kind, columns, every, device)
    count = choose_workers(workers, tasks=len(tasks))
    name = detector.card.get("name", "a detector")
    aus = " ".join(f"{au}" for au in detector.aus)
    console.print(f"{name}: AUs {aus}", markup=False)
    outcomes = predict_here(data, tasks, options) if count == 1 else run_on_cluster(data, tasks, options, workers=count)
    return report(outcomes, console)


def place_tables(inputs: Sequence[Input], *, out: str, kind: str) -> tuple[str, list[Task], str]:
    """The folder of the tables, what goes into each, and their format; `out` may name the only table itself.

    Raises UserError for a file that is to hold several tables.
    """
    tasks = plan_tasks(inputs)
    suffix = Path(out).suffix.lower().lstrip(".")
    if suffix not in FORMATS:
        return out, tasks, kind
    if len(tasks) > 1:
        raise UserError(f"--out {out}: there are {len(tasks)} tables; name a folder for them")
    folder, slash, file = out.rpartition("/")
    stem = file.rpartition(".")[0]
    return folder or slash or ".", [Task(stem, tasks[0].inputs)], suffix


def choose_workers(workers: int, *, tasks: int) -> int:
    """Number of processes: as asked, else 1, or with a Ray cluster at hand (RAY_ADDRESS) as many as it has room for."""
    if workers:
        return min(workers, tasks)
    if tasks == 1 or not os.environ.get("RAY_ADDRESS"):
        return 1
    import ray

    from facscale.cluster.ray import join

    join()
    resources = ray.cluster_resources()
    return max(1, min(tasks, int(resources.get("GPU", 0)) or int(resources.get("CPU", 1))))


def run_on_cluster(model: bytes, tasks: Sequence[Task], options: Options, *, workers: int) -> Iterator[Outcome]:
    """Join the Ray cluster and carry out tasks on it; local folders must be the same on all of its nodes."""
    import ray

    from facscale.cluster.ray import join

    is_new = not ray.is_initialized()
    if is_new:
        join()
    try:
        absolute = options.out if "://" in options.out else str(Path(options.out).expanduser().absolute())
        options = Options(absolute, options.kind, options.columns, options.every, options.device)
        yield from predict_on_ray(model, tasks, options, workers=workers)
    finally:
        if is_new:
            ray.shutdown()


def report(outcomes: Iterator[Outcome], console: Console) -> int:
    """Print a line for each outcome; returns the exit status."""
    failed = 0
    for outcome in outcomes:
        for note in outcome.notes:
            if note != outcome.error:
                console.print(f"note: {note}", markup=False)
        if outcome.error:
            failed += 1
            console.print(f"error: {outcome.error}", markup=False, style="red")
        elif outcome.is_new:
            console.print(f"{outcome.table}: {outcome.rows:,} rows", markup=False)
        else:
            console.print(f"{outcome.table}: is there already", markup=False)
    return FAILED if failed else 0


def predict_camera(
    model: str, source: str, *, out: Path | None, columns: ColumnSet, tracker: str, device: str, frames: int = 0
) -> int:
    """Show the AUs of a camera in the terminal, and write them to the table `out`, until the camera ends or Ctrl-C.

    source: the number of a camera, or a file in place of it; frames: stop after so many; 0: never. Raises UserError.
    """
    console = Console(highlight=False)
    detector = AUDetector.load(model, tracker=tracker, device=device)
    pictures, fps = open_camera(source)
    results = detector.stream(pictures, fps=fps)
    if out is None:
        show_live(results, detector, console, frames=frames)
        return 0
    with open_table(out, detector.layout, columns=columns) as writer:

        def keep() -> Iterator[FrameResult]:
            for result in results:
                writer.add(result, source=source)
                yield result

        show_live(keep(), detector, console, frames=frames)
    console.print(f"{out}: {writer.rows:,} rows", markup=False)
    return 0


def open_camera(source: str) -> tuple[Iterator[np.ndarray], float]:
    """Open a camera: RGB frames [H, W, 3] and their rate. Raises UserError where it does not open."""
    camera = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not camera.isOpened():
        camera.release()
        raise UserError(f"--camera {source}: there is no such camera, or another program has it")
    rate = camera.get(cv2.CAP_PROP_FPS)

    def read() -> Iterator[np.ndarray]:
        try:
            while True:
                is_read, image = camera.read()
                if not is_read:
                    return
                yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        finally:
            camera.release()

    return read(), rate if 1 <= rate <= 1000 else CAMERA_FPS


def show_live(results: Iterator[FrameResult], detector: AUDetector, console: Console, *, frames: int = 0) -> None:
    """Draw the AUs of the latest frame as bars, until the results end or Ctrl-C."""
    started, count = time.monotonic(), 0
    try:
        with Live(console=console, refresh_per_second=8, transient=not console.is_terminal) as live:
            for result in results:
                count += 1
                rate = count / max(1e-6, time.monotonic() - started)
                live.update(draw_result(result, detector, rate=rate))
                if frames and count >= frames:
                    return
    except KeyboardInterrupt:
        console.print("stopped")


def draw_result(result: FrameResult, detector: AUDetector, *, rate: float) -> Table:
    """One frame: for each face a column, for each AU a bar; AUs that are present are bold."""
    title = f"{result.time_s:.1f} s, {rate:.1f} frames/s" + ("" if result.faces else ": no face")
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("AU")
    for face in result.faces:
        table.add_column(f"face {face.face}", justify="left")
    present = [detector.layout.decide(face.probability) for face in result.faces]
    for number, au in enumerate(detector.aus):
        cells = []
        for face, decisions in zip(result.faces, present, strict=True):
            value = float(face.probability[number])
            bar = f"{'█' * round(BAR * value):<{BAR}} {100 * value:3.0f}"
            cells.append(f"[bold green]{bar}[/]" if decisions[number] else bar)
        table.add_row(f"AU{au}", *cells)
    return table


__all__ = ["COLUMN_SETS", "FORMATS", "predict_camera", "predict_inputs"]
