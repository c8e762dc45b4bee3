"""YAML 1.1 for Kubernetes and for people: PyYAML reads the same from what is written as our own reader."""

from __future__ import annotations

import pytest
import yaml

from facscale.spec import yaml_io

TEXTS = [
    "yes",
    "on",
    "n",
    "0644",
    "1e-3",
    "null",
    "~",
    "",
    "1.0",
    "1:30",
    "a: b",
    "# x",
    "two\nlines\n",
    "word " * 40,
    "é",
]
VALUES = {
    "texts": TEXTS,
    "numbers": [1, 1e-5, 1e20, 0.1, True, None],
    "empty": [{}, []],
    "nested": [{"b": [1], "a": 2}],
}


def test_what_is_written_reads_the_same_everywhere():
    text = yaml_io.dump(VALUES)
    assert yaml_io.load(text) == VALUES
    assert yaml.safe_load(text) == VALUES
    assert list(yaml_io.load(text)) == list(VALUES)


def test_it_looks_like_a_file_written_by_hand():
    assert yaml_io.dump({"train": {"lr": 1e-05, "betas": [0.9, 0.999]}, "name": ""}) == (
        "train:\n  lr: 1.0e-05\n  betas:\n  - 0.9\n  - 0.999\nname: ''\n"
    )


def test_yaml_1_1_is_read_as_kubernetes_reads_it():
    assert yaml_io.load("a: 0644\nb: yes\nc: 'yes'\nd: 1.5\n") == {"a": 420, "b": True, "c": "yes", "d": 1.5}
    assert yaml_io.load("") is None


@pytest.mark.parametrize(
    "text", ["a: !!python/object/apply:os.system [id]", "a: !evil 1", "a: [", "a: 1\na: 2\n", "a: \0"]
)
def test_unsafe_and_invalid_texts_are_errors(text):
    with pytest.raises(yaml_io.YAMLError):
        yaml_io.load(text)
