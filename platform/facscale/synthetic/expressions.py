"""Writes rendered people with facial expressions as RAF-DB's authors lay theirs out; truth in `truth/` beside it.

An expression is one of EMFACS's combinations of action units, at random intensity; neutral is none. Lips may part a
little in each, as of somebody who talks. Every fifth person belongs to the test part, and to it alone.
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
from facscale.synthetic.motion import expressed, peak, script
from facscale.synthetic.render import Painter, cast
from facscale.synthetic.trees import Written, each

EMOTIONS = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")  # RAF-DB's 1 to 7
LIST = "basic/EmoLabel/list_patition_label.txt"  # sic
TESTED = 5  # each n-th person
PARTED = 1.5  # intensity of AU25 that talking may add
VERSION = 1  # of the faces: another version renders anew


@dataclass(frozen=True)
class Person:
    """All images of one person."""

    root: Path
    place: int  # in the tree, from 0
    render: Render

    @property
    def identity(self) -> int:
        """Number among all rendered people."""
        return self.render.first_identity + self.place

    @property
    def part(self) -> str:
        """Of the split."""
        return "test" if self.place % TESTED == TESTED - 1 else "train"

    @property
    def names(self) -> list[str]:
        """Of the images, as in train_00001."""
        before = self.place // TESTED
        first = self.render.videos * (before if self.part == "test" else self.place - before) + 1
        return [f"{self.part}_{first + number:05d}" for number in range(self.render.videos)]

    @property
    def emotions(self) -> list[int]:
        """Numbers in EMOTIONS, one an image: all of them in turn, in an order of the person's own."""
        order = np.random.default_rng([self.render.seed, self.identity, 7]).permutation(len(EMOTIONS))
        return [int(order[number % len(order)]) for number in range(self.render.videos)]

    @property
    def recipe(self) -> str:
        """What the pixels depend on."""
        r = self.render
        return json.dumps([VERSION, "rafdb", self.identity, self.names[0], r.videos, r.size, r.seed])

    @property
    def truth(self) -> Path:
        """Its npz."""
        return self.root / "truth" / "basic" / f"{self.names[0]}.npz"

    def image(self, name: str) -> Path:
        """Its file."""
        return self.root / "basic" / "Image" / "aligned" / f"{name}_aligned.jpg"

    def done(self) -> bool:
        """Whether these very images stand."""
        if not (self.truth.exists() and all(self.image(name).exists() for name in self.names)):
            return False
        with np.load(self.truth) as stored:
            return bool(str(stored["recipe"]) == self.recipe)


class Portrait(NamedTuple):
    """An image of known expression."""

    image: NDArray[np.uint8]  # [size, size, 3] RGB
    intensities: Array  # [15] 0..5, in the order of AUS
    landmarks: Array  # [68, 2] pixels


def write_expressions(root: str | Path, *, render: Render, workers: int = 1, progress: bool = True) -> Written:
    """Render what is missing of the tree under `root`, with `workers` processes; `render.videos` images a person."""
    people = [Person(Path(root), place, render) for place in range(render.identities)]
    missing = [person for person in people if not person.done()]
    frames = 0
    with Progress("rendering rafdb", total=len(missing), unit="people", shown=progress and bool(missing)) as bar:
        for count in each(write_person, missing, workers=workers):
            frames += count
            bar.advance(note=f"{frames} images")
    lines = [
        f"{name}.jpg {emotion + 1}\n"
        for person in people
        for name, emotion in zip(person.names, person.emotions, strict=True)
    ]
    text = Path(root) / LIST
    text.parent.mkdir(parents=True, exist_ok=True)
    text.write_text("".join(lines))
    return Written(videos=len(people) * render.videos, rendered=frames, frames=frames)


def write_person(person: Person) -> int:
    """Render one person's images, then the truth; the number of images."""
    portraits = [portrait(person, number) for number in range(person.render.videos)]
    for name, one in zip(person.names, portraits, strict=True):
        target = person.image(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{name}.{os.getpid()}.jpg")
        cv2.imwrite(str(partial), one.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        partial.replace(target)
    person.truth.parent.mkdir(parents=True, exist_ok=True)
    partial = person.truth.with_name(f".{person.truth.name}.{os.getpid()}.npz")
    columns = {name: np.stack([getattr(one, name) for one in portraits]) for name in ("intensities", "landmarks")}
    about = {"recipe": person.recipe, "identity": person.identity, "emotions": person.emotions, "aus": AUS}
    np.savez_compressed(
        partial, allow_pickle=False, **columns, **{key: np.array(value) for key, value in about.items()}
    )
    partial.replace(person.truth)
    return len(portraits)


def portrait(person: Person, number: int) -> Portrait:
    """Image `number` of a person: light, head and background of a clip's first frame, and the expression held."""
    name = (person.render.seed, person.identity, number)
    who = cast(number=person.identity, seed=person.render.seed)
    random = np.random.default_rng([*name, 6])
    emotion = EMOTIONS[person.emotions[number]]
    apex = np.zeros(len(AUS)) if emotion == "neutral" else expressed(emotion, random, peak=peak(random))
    talks = AUS.index(25)
    apex[talks] = max(apex[talks], random.uniform(0, PARTED) * (random.random() < 0.5))
    still = script(who.who, frames=1, fps=25, seed=name)
    nothing = np.zeros(1, np.float32)
    held = replace(still, intensities=apex[None].astype(np.float32), pucker=nothing, blink=nothing)
    image, figure = Painter(who, size=person.render.size, seed=name).frame(held, 0)
    return Portrait(image, held.intensities[0], who.body.landmarks(figure))
