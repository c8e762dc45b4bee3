"""Writes rendered people in the layouts of VoxCeleb2, BP4D and DISFA, with the ground truth in `truth/` beside it.

A video is written under a temporary name and renamed when it is complete. Its ground truth is written last and holds
the recipe of the rendering; a second call renders only videos that are missing or have another recipe.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, TypeVar

import av
import cv2
import numpy as np

from facscale.processes import end_with_parent
from facscale.progress import Progress
from facscale.spec.pipelines import Render
from facscale.synthetic.actions import AUS
from facscale.synthetic.clip import Clip, render_clip

Layout = Literal["voxceleb2", "bp4d", "disfa"]
Piece = TypeVar("Piece")
_TRUTH = ("intensities", "pose", "landmarks")
VERSION = 2  # of the rendered faces: existing videos of another version are rendered again

# Published subject ids by fold. Ids are taken from the folds in turn, so that even a few of them fill all three folds.
_BP4D = (
    ("F001", "F002", "F008", "F009", "F010", "F016", "F018", "F023", "M001", "M004", "M007", "M008", "M012", "M014"),
    ("F003", "F005", "F011", "F013", "F020", "F022", "M002", "M005", "M010", "M011", "M013", "M016", "M017", "M018"),
    ("F004", "F006", "F007", "F012", "F014", "F015", "F017", "F019", "F021", "M003", "M006", "M009", "M015"),
)
_DISFA = ((1, 2, 9, 10, 16, 26, 27, 30, 32), (6, 11, 12, 13, 18, 21, 24, 28, 31), (3, 4, 5, 7, 8, 17, 23, 25, 29))
BP4D_AUS = (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)  # the AUs that methods use; all others are labelled 9, not coded
DISFA_AUS = (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)


@dataclass(frozen=True)
class TreeSummary:
    """The size of a tree, and what a call rendered."""

    videos: int  # in the tree now
    rendered: int  # in this call
    frames: int  # rendered in this call


@dataclass(frozen=True)
class Video:
    """A video to render; a video of DISFA holds all clips of a person."""

    layout: Layout
    root: Path
    person: str  # id in the data set
    identity: int
    clips: tuple[int, ...]
    render: Render

    @property
    def recipe(self) -> str:
        """All that the pixels depend on, as JSON."""
        r = self.render
        return json.dumps([VERSION, self.layout, self.identity, self.clips, r.seconds, r.fps, r.size, r.seed])

    @property
    def path(self) -> Path:
        """The file, or the folder of frames in BP4D, relative to the root."""
        if self.layout == "bp4d":
            return Path(self.person) / f"T{self.clips[0] + 1}"
        if self.layout == "disfa":
            return Path("Videos_LeftCamera") / f"LeftVideo{self.person}_comp.avi"
        return (
            Path("dev/mp4")
            / self.person
            / _make_video_name(f"{self.render.seed} {self.identity} {self.clips[0]}")
            / "00001.mp4"
        )

    @property
    def truth_path(self) -> Path:
        """The npz with the ground truth."""
        return self.root / "truth" / self.path.with_suffix(".npz")

    def is_complete(self) -> bool:
        """Whether the video exists and was rendered from the same recipe."""
        if not (self.truth_path.exists() and (self.root / self.path).exists()):
            return False
        with np.load(self.truth_path) as stored:
            return bool(str(stored["recipe"]) == self.recipe)


def _make_video_name(key: str) -> str:
    """Eleven letters and digits derived from `key`, like the video ids in VoxCeleb2."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    return "".join(alphabet[b % len(alphabet)] for b in hashlib.sha256(key.encode()).digest()[:11])


def list_people(*, layout: Layout, count: int, first: int) -> list[str]:
    """List the ids in the data set of `count` people; the first has the number `first`."""
    if layout == "voxceleb2":
        return [f"id{first + i:05d}" for i in range(count)]
    folds = _BP4D if layout == "bp4d" else tuple(tuple(f"SN{n:03d}" for n in part) for part in _DISFA)
    published = [part[i] for i in range(max(map(len, folds))) for part in folds if i < len(part)]
    more = (f"F{n:03d}" for n in range(24, 999)) if layout == "bp4d" else (f"SN{n:03d}" for n in range(33, 999))
    return [published[i] if i < len(published) else next(more) for i in range(count)]


def plan_videos(root: str | Path, *, layout: Layout, render: Render) -> list[Video]:
    """List all videos of a tree. Raises ValueError for more videos than BP4D has tasks."""
    if layout == "bp4d" and render.videos > 8:
        raise ValueError(f"render.videos is {render.videos}, but BP4D has 8 tasks per person; ask for 8 or fewer")
    out = []
    for i, person in enumerate(list_people(layout=layout, count=render.identities, first=render.first_identity)):
        clips = [tuple(range(render.videos))] if layout == "disfa" else [(k,) for k in range(render.videos)]
        number = render.first_identity + i
        out += [Video(layout, Path(root), person, number, numbers, render) for numbers in clips]
    return out


def write_tree(
    root: str | Path, *, layout: Layout, render: Render, workers: int = 1, progress: bool = True
) -> TreeSummary:
    """Render the missing videos of the tree under `root`, with `workers` processes."""
    videos = plan_videos(root, layout=layout, render=render)
    missing = [v for v in videos if not v.is_complete()]
    frames = 0
    title = f"rendering {layout}"
    with Progress(title, total=len(missing), unit="videos", is_shown=progress and bool(missing)) as bar:
        for count in map_parallel(write_video, missing, workers=workers):
            frames += count
            bar.advance(note=f"{frames} frames")
    return TreeSummary(videos=len(videos), rendered=len(missing), frames=frames)


def map_parallel(write: Callable[[Piece], int], pieces: list[Piece], *, workers: int) -> Iterator[int]:
    """Call `write`, a function of a module, for each piece in `workers` processes; yields the results in any order."""
    if workers <= 1 or len(pieces) <= 1:
        yield from map(write, pieces)
        return
    with ProcessPoolExecutor(
        min(workers, len(pieces)), mp_context=get_context("spawn"), initializer=prepare_renderer
    ) as pool:
        for future in as_completed([pool.submit(write, piece) for piece in pieces]):
            yield future.result()


def write_video(video: Video) -> int:
    """Render a video and write it with its labels and ground truth. Returns the number of its frames."""
    r = video.render
    clips = [
        render_clip(identity=video.identity, clip=c, seconds=r.seconds, fps=r.fps, size=r.size, seed=r.seed)
        for c in video.clips
    ]
    target = video.root / video.path
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    numbers = np.arange(sum(len(c.frames) for c in clips)) + 1
    if video.layout == "bp4d":
        numbers = numbers + int(np.random.default_rng([r.seed, video.identity, video.clips[0], 4]).integers(0, 2500))
        _write_frames(partial, clips[0], numbers=numbers, padding=(0, 4, 5)[(video.identity + video.clips[0]) % 3])
        shutil.rmtree(target, ignore_errors=True)
        _write_bp4d_labels(video, clips[0], numbers=numbers)
    else:
        _write_video(partial, clips, fps=r.fps, container="avi" if video.layout == "disfa" else "mp4")
        if video.layout == "disfa":
            _write_disfa_labels(video, clips)
    partial.replace(target)
    _write_truth(video, clips, numbers=numbers)
    return len(numbers)


def _write_video(path: Path, clips: list[Clip], *, fps: int, container: str) -> None:
    """Encode as H.264; equal frames give equal bytes."""
    with av.open(str(path), "w", format=container) as out:
        # With its macroblock tree, x264 occasionally gives other bytes (seen with PyAV 18.1 on 96-pixel frames).
        options = {"crf": "18", "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
        stream = out.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = clips[0].frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for clip in clips:
            for image in clip.frames:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())


def _write_frames(folder: Path, clip: Clip, *, numbers: np.ndarray, padding: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, image in zip(numbers, clip.frames, strict=True):
        cv2.imwrite(str(folder / f"{number:0{padding}d}.jpg"), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])


def _write_bp4d_labels(video: Video, clip: Clip, *, numbers: np.ndarray) -> None:
    """`AUCoding/AU_OCC/F001_T1.csv`: 0 absent, 1 present (intensity 2 and above), 9 unknown; a column for each AU up to 99."""
    table = np.full((len(numbers), 100), 9, int)
    table[:, 0] = numbers
    for au in BP4D_AUS:
        table[:, au] = clip.intensities[:, AUS.index(au)] >= 2
    random = np.random.default_rng([video.render.seed, video.identity, video.clips[0], 5])
    if random.random() < 0.3:  # an AU that the coder could not see for a while
        start = int(random.integers(len(numbers)))
        table[start : start + 5, BP4D_AUS[int(random.integers(len(BP4D_AUS)))]] = 9
    path = video.root / "AUCoding" / "AU_OCC" / f"{video.person}_{video.path.name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([list(range(100)), *table.tolist()])


def _write_disfa_labels(video: Video, clips: list[Clip]) -> None:
    """`ActionUnit_Labels/SN001/SN001_au1.txt`: `frame,intensity` from frame 1 on; 0 for AUs that are not rendered."""
    folder = video.root / "ActionUnit_Labels" / video.person
    folder.mkdir(parents=True, exist_ok=True)
    levels = np.floor(np.concatenate([c.intensities for c in clips]) + 1e-4).astype(int)
    for au in DISFA_AUS:
        column = levels[:, AUS.index(au)] if au in AUS else np.zeros(len(levels), int)
        (folder / f"{video.person}_au{au}.txt").write_text("".join(f"{i + 1},{v}\n" for i, v in enumerate(column)))


def _write_truth(video: Video, clips: list[Clip], *, numbers: np.ndarray) -> None:
    """npz: recipe, identity, frame numbers, aus [15], intensities [T, 15], pose [T, 6], landmarks [T, 68, 2]."""
    video.truth_path.parent.mkdir(parents=True, exist_ok=True)
    partial = video.truth_path.with_name(f".{video.truth_path.name}.{os.getpid()}.npz")
    columns: dict[str, Any] = {name: np.concatenate([getattr(c, name) for c in clips]) for name in _TRUTH}
    np.savez_compressed(
        partial, recipe=video.recipe, identity=video.identity, frames=numbers, aus=np.array(AUS), **columns
    )
    partial.replace(video.truth_path)


def prepare_renderer() -> None:
    """Prepare a process of the pool: one thread, and an end with the process that started it."""
    cv2.setNumThreads(1)
    end_with_parent()
