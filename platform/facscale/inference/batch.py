"""Predicts many inputs into files: one table and one summary for each video, on this machine or on a Ray cluster.

A table appears complete or not at all, and its summary, which says of what and by which detector it is, after it. An input
whose summary is there is not computed again, so that a run that was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from facscale.data.storage import Folder
from facscale.errors import UserError
from facscale.inference.api import AUDetector
from facscale.inference.detector import load_detector_bytes
from facscale.inference.inputs import Input, InputError
from facscale.inference.tables import ColumnSet, SummaryMeter, open_table
from facscale.progress import Progress

SUMMARY = ".summary.json"
IMAGES = "images"  # name of the table of all single images
VERSION = 1  # of the tables' content; part of their keys
Note = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How tables are written."""

    out: str  # folder, any URL
    kind: str = "csv"
    columns: ColumnSet = "facscale"
    every: int = 1
    device: str = ""


@dataclass(frozen=True)
class Task:
    """One table: of a video, of a data set, or of all single images."""

    name: str  # of the table, below `out`, without its suffix
    inputs: tuple[Input, ...]

    def to_json(self) -> str:
        """Serialise the task, to send it to a worker."""
        return json.dumps({"name": self.name, "inputs": [asdict(item) for item in self.inputs]})

    @staticmethod
    def from_json(text: str) -> Task:
        """Parse the output of `to_json`."""
        fields = json.loads(text)
        return Task(fields["name"], tuple(Input(**item) for item in fields["inputs"]))


@dataclass(frozen=True)
class Outcome:
    """What came of a task."""

    name: str
    table: str = ""  # where it is; "": there is none
    is_new: bool = False  # False: it was there already
    rows: int = 0
    error: str = ""
    notes: tuple[str, ...] = ()


def plan_tasks(inputs: Sequence[Input]) -> list[Task]:
    """Group inputs to tables: each video and data set has one, and all images share one.

    Videos in the same folder whose names differ in their suffix alone keep it; of several folders, the name of the folder.
    """
    videos = [item for item in inputs if item.kind == "video"]
    images = tuple(item for item in inputs if item.kind == "image")
    names = _name_videos(videos)
    tasks = [Task(names[item], (item,)) for item in videos]
    for item in inputs:
        if item.kind == "data set":
            tasks.append(Task(_make_unique(PurePosixPath(item.root.rstrip("/")).name or "faces", tasks), (item,)))
    if images:
        tasks.append(Task(_make_unique(IMAGES, tasks), images))
    return tasks


def predict_here(model: bytes, tasks: Sequence[Task], options: Options, *, is_shown: bool = True) -> Iterator[Outcome]:
    """Carry out tasks one after the other in this process; yields after each."""
    worker = Worker(model, options, is_shown=is_shown)
    for task in tasks:
        yield worker.run(task)


def predict_on_ray(
    model: bytes, tasks: Sequence[Task], options: Options, *, workers: int, cpus: float = 1.0
) -> Iterator[Outcome]:
    """Carry out tasks on the Ray cluster that is joined, by at most `workers` processes; yields as they complete.

    A task whose process died is carried out again by another one.
    """
    import ray
    import ray.data

    gpus = 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
    rows = ray.data.from_items([{"task": task.to_json()} for task in tasks], override_num_blocks=len(tasks))
    rows.context.enable_progress_bars = False
    outcomes = rows.map(
        _RayWorker,
        fn_constructor_args=(ray.put(model), asdict(options)),
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(tasks))),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    with Progress("predicting", total=len(tasks), unit="files") as bar:
        for row in outcomes.iter_rows():
            bar.advance()
            fields = json.loads(row["outcome"])
            yield Outcome(**fields | {"notes": tuple(fields["notes"])})


class Worker:
    """Carries out tasks in one process, which loads the detector once."""

    def __init__(self, model: bytes, options: Options, *, is_shown: bool = False) -> None:
        self.options, self.is_shown = options, is_shown
        self.digest = hashlib.sha256(model).hexdigest()
        self.detector = AUDetector(load_detector_bytes(model), device=options.device)

    def run(self, task: Task) -> Outcome:
        """Carry out a task, unless its table is there already. An input's own faults are in the outcome."""
        folder = Folder(self.options.out)
        file, key = f"{task.name}.{self.options.kind}", self._make_key(task)
        if _read_key(folder, task.name) == key and folder.exists(file):
            return Outcome(task.name, f"{folder.url}/{file}")
        notes: list[str] = []
        try:
            with tempfile.TemporaryDirectory(prefix="facscale-") as scratch:
                place = Path(scratch)
                if folder.is_local:
                    place = folder.path / PurePosixPath(task.name).parent
                    place.mkdir(parents=True, exist_ok=True)
                path = place / PurePosixPath(file).name
                summary, rows = self._write(task, path, notes)
                if not folder.is_local:
                    folder.put(file, source=path)
            summary = {"key": key, "model": self.digest, "detector": self._describe(), **summary, "notes": notes}
            folder.write(f"{task.name}{SUMMARY}", json.dumps(summary, indent=1).encode())
        except UserError as error:
            return Outcome(task.name, error=str(error), notes=tuple(notes))
        except OSError as error:
            return Outcome(task.name, error=f"{self.options.out}: {error.strerror or error}", notes=tuple(notes))
        return Outcome(task.name, f"{folder.url}/{file}", is_new=True, rows=rows, notes=tuple(notes))

    def _write(self, task: Task, path: Path, notes: list[str]) -> tuple[dict[str, Any], int]:
        """Write the table of a task; returns its summary and number of rows. Raises InputError if it has no frame."""
        detector, options = self.detector, self.options
        meters: dict[str, SummaryMeter] = {}
        failures = 0
        with open_table(path, detector.layout, columns=options.columns) as writer:
            for item in task.inputs:
                try:
                    self._add(item, writer.add, meters, notes)
                except UserError as error:
                    failures += 1
                    notes.append(str(error))
                    if len(task.inputs) == 1 or failures == len(task.inputs):
                        raise
        return {
            "input": [item.url for item in task.inputs][:100],
            "videos": {name: meter.summarize() for name, meter in list(meters.items())[:1000]},
        }, writer.rows

    def _add(self, item: Input, add: Callable[..., None], meters: dict[str, SummaryMeter], notes: list[str]) -> None:
        """Append the frames of an input."""

        def note(stage: str, reason: str) -> None:  # noqa: ARG001 - the stages of a pipeline
            notes.append(f"{item.url}: {reason}")

        results, interval_s, total = self.detector.predict_input(item, every=self.options.every, note=note)
        frames = faceless = 0
        is_shown = self.is_shown and item.kind != "image"
        with Progress(PurePosixPath(item.url).name[:22], total=total, unit="frames", is_shown=is_shown) as bar:
            for name, result in results:
                meter = meters.setdefault(
                    IMAGES if item.kind == "image" else name,
                    SummaryMeter(self.detector.layout, interval_s, self.options.every),
                )
                meter.add(result)
                add(result, source=name)
                frames += 1
                faceless += not result.faces
                if frames <= total:
                    bar.advance()
        if not frames:
            raise InputError(f"{item.url}: {'; '.join(notes[-1:]) or 'holds no frames'}")
        if faceless == frames:
            notes.append(f"{item.url}: no face in its {frames} frame{'s' * (frames > 1)}")

    def _make_key(self, task: Task) -> str:
        """Hash all that the content of a table depends on."""
        options = asdict(replace(self.options, out="", device=""))
        facts = [VERSION, self.digest, [item.key for item in task.inputs], options]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]

    def _describe(self) -> dict[str, Any]:
        card = self.detector.card
        return {key: card[key] for key in ("name", "row", "job", "versions") if key in card}


class _RayWorker:
    """A Ray actor that carries out tasks."""

    def __init__(self, model: Any, options: dict[str, Any]) -> None:
        """`model`: a reference to the bytes of the detector."""
        import ray

        self.worker = Worker(ray.get(model), Options(**options))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the outcome of a task, as text: Arrow would guess types from empty lists."""
        return {"outcome": json.dumps(asdict(self.worker.run(Task.from_json(row["task"]))))}


def _read_key(folder: Folder, name: str) -> str:
    """Return the key that the summary of a table holds; "" where there is none."""
    try:
        summary = json.loads(folder.read(f"{name}{SUMMARY}"))
    except (FileNotFoundError, ValueError):
        return ""
    return str(summary.get("key", "")) if isinstance(summary, dict) else ""


def _name_videos(videos: Sequence[Input]) -> dict[Input, str]:
    """Name the table of each video after it, with as much of its path as sets it apart."""
    roots = {item.root for item in videos}
    paths = {item: item.name if len(roots) == 1 else item.url for item in videos}
    if len(roots) > 1:
        common = os.path.commonpath([path.rpartition("/")[0] for path in paths.values()])
        paths = {item: path.removeprefix(common).lstrip("/") for item, path in paths.items()}
    stems = [str(PurePosixPath(path).with_suffix("")) for path in paths.values()]
    return {
        item: path if stems.count(stem) > 1 else stem for (item, path), stem in zip(paths.items(), stems, strict=True)
    }


def _make_unique(name: str, tasks: Sequence[Task]) -> str:
    names = {task.name for task in tasks}
    while name in names:
        name += "_"
    return name
