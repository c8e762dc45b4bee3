"""Rendered people with facial expressions in the layout of RAF-DB."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from facscale.spec.pipelines import Render
from facscale.synthetic import AUS, actions, write_expressions
from facscale.synthetic.expressions import EMOTIONS, LABEL_LIST, MAX_SPEECH_AU25, Person

SMALL = Render(identities=6, videos=8, size=64, first_identity=80, seed=3)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    written = write_expressions(folder, render=SMALL, progress=False)
    assert (written.videos, written.rendered) == (48, 48)
    return folder


def read_list(tree):
    return [line.split() for line in (tree / LABEL_LIST).read_text().splitlines()]


def test_names_and_numbers_are_the_lists(tree):
    names = {name[:-4] for name, _ in read_list(tree)}
    assert names == {f"train_{n:05d}" for n in range(1, 41)} | {f"test_{n:05d}" for n in range(1, 9)}
    assert {int(number) for _, number in read_list(tree)} == set(range(1, 8))
    images = list((tree / "basic/Image/aligned").iterdir())
    assert {path.name for path in images} == {f"{name}_aligned.jpg" for name in names}
    assert all(cv2.imread(str(path)).shape == (64, 64, 3) for path in images)


def test_nobody_is_in_both_parts_and_everybody_shows_every_expression(tree):
    numbers = dict(read_list(tree))
    people = {"train": set(), "test": set()}
    for index in range(6):
        person = Person(tree, index, SMALL)
        people[person.part].add(person.identity)
        assert [int(numbers[f"{name}.jpg"]) for name in person.names] == [1 + e for e in person.emotions]
        assert set(person.emotions) == set(range(7))
        with np.load(person.truth_path) as truth:
            assert truth["identity"] == 80 + index
            assert truth["landmarks"].shape == (8, 68, 2)
            for emotion, intensities in zip(person.emotions, truth["intensities"], strict=True):
                check_expression(EMOTIONS[emotion], intensities)
    assert people == {"train": {80, 81, 82, 83, 85}, "test": {84}}


def check_expression(emotion, intensities):
    """Some complete combinations of the emotion in AUNet's Table II, and nothing else but slightly parted lips."""
    groups = actions.EMOTIONS.get(emotion, ())
    active = {au for au, level in zip(AUS, intensities, strict=True) if level > 0}
    assert active <= {au for group in groups for au in group} | {25}
    assert not groups or any(set(group) <= active for group in groups)
    levels = dict(zip(AUS, intensities.tolist(), strict=True))
    assert levels[25] <= MAX_SPEECH_AU25
    assert all(1 <= levels[au] <= 5 for au in active - {25})


def test_only_missing_images_are_rendered_again(tree):
    person = Person(tree, 1, SMALL)
    path = person.get_image_path(person.names[0])
    before = path.read_bytes()
    assert write_expressions(tree, render=SMALL, progress=False).rendered == 0
    path.unlink()
    assert write_expressions(tree, render=SMALL, progress=False).rendered == 8
    assert path.read_bytes() == before
    assert not replace(person, render=SMALL.model_copy(update={"seed": 4})).is_complete()
