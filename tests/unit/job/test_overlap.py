"""Which tested people the unlabelled data have too: by names that mean the same people, never by equal names alone."""

from __future__ import annotations

import pytest
from rich.console import Console

from faces import write_face_data_set
from facscale.data import Dataset
from facscale.data.derivation import forget_people, merge_datasets, select_people
from facscale.ingest.pipeline import build_recipe
from facscale.job.check import print_data
from facscale.job.datasets import JobData
from facscale.job.overlap import describe_overlap, list_origins
from facscale.job.variants import expand_variants
from facscale.spec import Pipeline, read_spec

VIDEOS = {"source": {"layout": "videos", "root": "/videos"}}
BP4D = {"source": {"layout": "bp4d", "root": "/bp4d"}}


@pytest.fixture
def write(tmp_path):
    """Write a data set of so many people, who have the same names in each, as a pipeline with these blocks makes it."""

    def write(name, people=6, *, au=(1, 12), listing="", recipe=None, **blocks):
        if recipe is None:
            pipeline = Pipeline.model_validate({**VIDEOS, "output": "/shards", **blocks})
            recipe = build_recipe(pipeline) | ({"listing": listing} if listing else {})
        return write_face_data_set(
            str(tmp_path / name), [12] * people, au=au, recipe=recipe, row_group_mb=0.2, name=name
        )

    return write


@pytest.fixture
def describe(tmp_path):
    """Describe the overlap of a job's data."""

    def describe(unlabelled, *labelled, transfer=()):
        return describe_overlap(open_data(unlabelled, *labelled, transfer=transfer))

    def open_data(unlabelled, *labelled, transfer=()):
        file = tmp_path / "job.yaml"
        data = {"unlabelled": unlabelled.url, "labelled": [dataset.url for dataset in labelled]}
        evaluate = {"folds": 3, "transfer": [dataset.url for dataset in transfer]}
        file.write_text(f"method: {{name: simclr}}\ndata: {data}\nevaluate: {evaluate}\n")
        return JobData.open(expand_variants(read_spec(file), name="job"))

    describe.open_data = open_data
    return describe


def test_equal_names_of_different_data_sets_are_different_people(write, describe):
    assert describe(write("own"), write("labels")) == ""
    assert describe(write("tree", listing="1f"), write("other", listing="2e")) == ""
    assert describe(write("foreign", recipe={"history": ["by hand", {"from": 3}], "sources": 7}), write("more")) == ""


def test_one_data_set_is_known_by_its_content(write, describe, tmp_path):
    labels = write("labels")
    assert describe(labels, labels).startswith(
        "the unlabelled data hold 6 of the 6 people of labels: pre-training sees"
    )
    copy = write_face_data_set(str(tmp_path / "copy"), [12] * 6, au=(1, 12), row_group_mb=0.2, name="labels")
    assert copy.manifest.fingerprint == labels.manifest.fingerprint
    assert "hold 6 of the 6 people" in describe(copy, labels)


def test_what_is_made_from_a_data_set_has_its_people(write, describe, tmp_path):
    labels, strangers = write("labels"), write("strangers", 9)
    everybody = labels.runs.identities
    forget_people(labels, str(tmp_path / "fewer"), identities=everybody[:2])
    select_people(labels, str(tmp_path / "few"), identities=everybody[:3], step={"command": "sample"})
    fewer, few = (Dataset(str(tmp_path / name)) for name in ("fewer", "few"))
    assert "hold 4 of the 6 people of labels" in describe(fewer, labels)
    assert "hold 1 of the 4 people of labels" in describe(few, fewer)
    merge_datasets([few, strangers], str(tmp_path / "merged"), should_prefix=True)
    merged = Dataset(str(tmp_path / "merged"))
    assert any(identity.startswith("labels:") for identity in merged.runs.identities)
    assert "hold 3 of the 6 people of labels" in describe(merged, labels)
    assert "hold 9 of the 9 people of strangers" in describe(merged, strangers)


def test_one_public_data_set_is_known_by_its_layout_unless_it_is_rendered(write, describe, tmp_path):
    rendered = {**BP4D, "render": {"identities": 6}}
    faces = write("faces", 4, au=(), **BP4D)
    assert "hold 4 of the 6 people of labels" in describe(faces, write("labels", **BP4D))
    assert describe(faces, write("synthetic", **rendered)) == ""
    again = write("again", 4, au=(), **rendered)
    assert "hold 4 of the 6 people" in describe(again, write("twin", **rendered))
    others = {**BP4D, "render": {"identities": 6, "first_identity": 40}}
    different = write("others", **others)
    assert describe(again, different) == ""
    merge_datasets([again, different], str(tmp_path / "merged"), should_prefix=True)
    places = {origin.place for origin in list_origins(Dataset(str(tmp_path / "merged")).manifest)}
    assert {"rendering bp4d 0 0", "rendering bp4d 0 40"} <= places
    assert "layout bp4d" not in places, "which is what the recipes of both share"


def test_the_same_files_have_the_same_people(write, describe):
    assert "hold 6 of the 6 people of small" in describe(
        write("large", listing="1f", crop={"quality": 80}), write("small", listing="1f")
    )


def test_each_tested_set_is_counted_and_check_prints_the_line(write, describe):
    faces, labels, more = (write(name, people, **BP4D) for name, people in (("faces", 4), ("labels", 5), ("more", 6)))
    strangers = write("strangers")
    data = describe.open_data(faces, labels, strangers, transfer=[more])
    line = describe_overlap(data)
    assert "hold 4 of the 5 people of labels and 4 of the 6 people of more: " in line
    console = Console(width=80, record=True)
    print_data(data, {}, console)
    assert line in console.export_text()
