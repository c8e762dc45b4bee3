"""Writes rendered people with facial expressions in the layout of RAF-DB, with the ground truth in `truth/` beside it.

An expression is one of EMFACS's combinations of action units, at random intensity; neutral is none of them. In every
expression the lips may part a little, as in speech. All images of every fifth person are test images.
"""

# numpy's stubs return Any for most arithmetic on arrays of any float type.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from facscale.progress import Progress
from facscale.spec.pipelines import Render
from facscale.synthetic.actions import AUS
from facscale.synthetic.anatomy import Array
from facscale.synthetic.motion import sample_expression, sample_motion, sample_peak
from facscale.synthetic.render import FrameRenderer, get_actor
from facscale.synthetic.trees import TreeSummary, map_parallel

EMOTIONS = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")  # RAF-DB's 1 to 7
LABEL_LIST = "basic/EmoLabel/list_patition_label.txt"  # spelt like this in RAF-DB
TEST_EVERY = 5  # every n-th person belongs to the test part
MAX_SPEECH_AU25 = 1.5  # maximum intensity of AU25 from speech
VERSION = 1  # of the rendered faces: existing images of another version are rendered again


@dataclass(frozen=True)
class Person:
    """A person of the tree, with all images."""

    root: Path
    index: int  # in the tree, from 0
    render: Render

    @property
    def identity(self) -> int:
        """Number among all rendered people."""
        return self.render.first_identity + self.index

    @property
    def part(self) -> str:
        """Part of the split: "train" or "test"."""
        return "test" if self.index % TEST_EVERY == TEST_EVERY - 1 else "train"

    @property
    def names(self) -> list[str]:
        """Names of the images, such as train_00001."""
        test_people = self.index // TEST_EVERY  # with a lower index
        earlier_people = test_people if self.part == "test" else self.index - test_people
        first = self.render.videos * earlier_people + 1
        return [f"{self.part}_{first + number:05d}" for number in range(self.render.videos)]

    @property
    def emotions(self) -> list[int]:
        """Index in EMOTIONS of each image: all of them in turn, in an order that differs between people."""
        order = np.random.default_rng([self.render.seed, self.identity, 7]).permutation(len(EMOTIONS))
        return [int(order[number % len(order)]) for number in range(self.render.videos)]

    @property
    def recipe(self) -> str:
        """All that the pixels depend on, as JSON."""
        r = self.render
        return json.dumps([VERSION, "rafdb", self.identity, self.names[0], r.videos, r.size, r.seed])

    @property
    def truth_path(self) -> Path:
        """The npz with the ground truth."""
        return self.root / "truth" / "basic" / f"{self.names[0]}.npz"

    def get_image_path(self, name: str) -> Path:
        """The file of an image."""
        return self.root / "basic" / "Image" / "aligned" / f"{name}_aligned.jpg"

    def is_complete(self) -> bool:
        """Whether all images exist and were rendered from the same recipe."""
        if not (self.truth_path.exists() and all(self.get_image_path(name).exists() for name in self.names)):
            return False
        with np.load(self.truth_path) as stored:
            return bool(str(stored["recipe"]) == self.recipe)


class Portrait(NamedTuple):
    """An image with its ground truth."""

    image: NDArray[np.uint8]  # [size, size, 3] RGB
    intensities: Array  # [15] 0..5, in the order of AUS
    landmarks: Array  # [68, 2] pixels


def write_expressions(root: str | Path, *, render: Render, workers: int = 1, progress: bool = True) -> TreeSummary:
    """Render missing images of the tree under `root`, `render.videos` for each person, with `workers` processes."""
    people = [Person(Path(root), index, render) for index in range(render.identities)]
    missing = [person for person in people if not person.is_complete()]
    frames = 0
    with Progress("rendering rafdb", total=len(missing), unit="people", is_shown=progress and bool(missing)) as bar:
        for count in map_parallel(write_person, missing, workers=workers):
            frames += count
            bar.advance(note=f"{frames} images")
    lines = [
        f"{name}.jpg {emotion + 1}\n"
        for person in people
        for name, emotion in zip(person.names, person.emotions, strict=True)
    ]
    label_list = Path(root) / LABEL_LIST
    label_list.parent.mkdir(parents=True, exist_ok=True)
    label_list.write_text("".join(lines))
    return TreeSummary(videos=len(people) * render.videos, rendered=frames, frames=frames)


def write_person(person: Person) -> int:
    """Render the images of a person and write them, the ground truth last. Returns the number of images."""
    portraits = [render_portrait(person, number) for number in range(person.render.videos)]
    for name, portrait in zip(person.names, portraits, strict=True):
        target = person.get_image_path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{name}.{os.getpid()}.jpg")
        cv2.imwrite(str(partial), portrait.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        partial.replace(target)
    person.truth_path.parent.mkdir(parents=True, exist_ok=True)
    partial = person.truth_path.with_name(f".{person.truth_path.name}.{os.getpid()}.npz")
    columns = {
        name: np.stack([getattr(portrait, name) for portrait in portraits]) for name in ("intensities", "landmarks")
    }
    metadata = {"recipe": person.recipe, "identity": person.identity, "emotions": person.emotions, "aus": AUS}
    np.savez_compressed(
        partial, allow_pickle=False, **columns, **{key: np.array(value) for key, value in metadata.items()}
    )
    partial.replace(person.truth_path)
    return len(portraits)


def render_portrait(person: Person, number: int) -> Portrait:
    """Render image `number` of a person: the expression, in light, head pose and background of a clip's first frame."""
    clip_seed = (person.render.seed, person.identity, number)
    actor = get_actor(number=person.identity, seed=person.render.seed)
    random = np.random.default_rng([*clip_seed, 6])
    emotion = EMOTIONS[person.emotions[number]]
    apex = np.zeros(len(AUS)) if emotion == "neutral" else sample_expression(emotion, random, peak=sample_peak(random))
    lips_part = AUS.index(25)
    apex[lips_part] = max(apex[lips_part], random.uniform(0, MAX_SPEECH_AU25) * (random.random() < 0.5))
    motion = sample_motion(actor.identity, frames=1, fps=25, seed=clip_seed)
    zero = np.zeros(1, np.float32)
    motion = replace(motion, intensities=apex[None].astype(np.float32), pucker=zero, blink=zero)
    image, geometry = FrameRenderer(actor, size=person.render.size, seed=clip_seed).render_frame(motion, 0)
    return Portrait(image, motion.intensities[0], actor.body.locate_landmarks(geometry))
