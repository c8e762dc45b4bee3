"""Rendered people with facial expressions, in RAF-DB's tree."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from facscale.spec.pipelines import Render
from facscale.synthetic import AUS, actions, write_expressions
from facscale.synthetic.expressions import EMOTIONS, LIST, PARTED, Person

SMALL = Render(identities=6, videos=8, size=64, first_identity=80, seed=3)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    written = write_expressions(folder, render=SMALL, progress=False)
    assert (written.videos, written.rendered) == (48, 48)
    return folder


def listed(tree):
    return [line.split() for line in (tree / LIST).read_text().splitlines()]


def test_names_and_numbers_are_the_lists(tree):
    names = {name[:-4] for name, _ in listed(tree)}
    assert names == {f"train_{n:05d}" for n in range(1, 41)} | {f"test_{n:05d}" for n in range(1, 9)}
    assert {int(number) for _, number in listed(tree)} == set(range(1, 8))
    images = list((tree / "basic/Image/aligned").iterdir())
    assert {path.name for path in images} == {f"{name}_aligned.jpg" for name in names}
    assert all(cv2.imread(str(path)).shape == (64, 64, 3) for path in images)


def test_nobody_is_in_both_parts_and_everybody_shows_every_expression(tree):
    numbers = dict(listed(tree))
    people = {"train": set(), "test": set()}
    for place in range(6):
        person = Person(tree, place, SMALL)
        people[person.part].add(person.identity)
        assert [int(numbers[f"{name}.jpg"]) for name in person.names] == [1 + e for e in person.emotions]
        assert set(person.emotions) == set(range(7))
        with np.load(person.truth) as truth:
            assert truth["identity"] == 80 + place
            assert truth["landmarks"].shape == (8, 68, 2)
            for emotion, intensities in zip(person.emotions, truth["intensities"], strict=True):
                shows(EMOTIONS[emotion], intensities)
    assert people == {"train": {80, 81, 82, 83, 85}, "test": {84}}


def shows(emotion, intensities):
    """One or more of its combinations in AUNet's Table II, whole, and nothing else but lips that part a little."""
    groups = actions.EMOTIONS.get(emotion, ())
    active = {au for au, level in zip(AUS, intensities, strict=True) if level > 0}
    assert active <= {au for group in groups for au in group} | {25}
    assert not groups or any(set(group) <= active for group in groups)
    levels = dict(zip(AUS, intensities.tolist(), strict=True))
    assert levels[25] <= PARTED
    assert all(1 <= levels[au] <= 5 for au in active - {25})


def test_what_stands_is_not_rendered_again_and_what_is_broken_is(tree):
    person = Person(tree, 1, SMALL)
    path = person.image(person.names[0])
    before = path.read_bytes()
    assert write_expressions(tree, render=SMALL, progress=False).rendered == 0
    path.unlink()
    assert write_expressions(tree, render=SMALL, progress=False).rendered == 8
    assert path.read_bytes() == before
    assert not replace(person, render=SMALL.model_copy(update={"seed": 4})).done()
