"""The data sets of a job were cropped alike, or the job says that they were not."""

from __future__ import annotations

import logging

import pytest

from faces import write_face_data_set
from facscale.data import DataError
from facscale.ingest.pipeline import build_recipe
from facscale.job.datasets import JobData
from facscale.job.variants import expand_variants
from facscale.spec import Pipeline, read_spec, yaml_io


@pytest.fixture
def write(tmp_path):
    """Write a data set that a pipeline with these blocks might have made; without a name in `detector`, the default's."""

    def write(name, *, au=(), is_ours=True, **blocks):
        pipeline = Pipeline.model_validate(
            {"source": {"layout": "videos", "root": "/videos"}, "output": "/shards", **blocks}
        )
        recipe = build_recipe(pipeline) if is_ours else {"detector": "of somebody else"}
        margin = pipeline.crop.margin
        write_face_data_set(
            str(tmp_path / name), [12] * 9, au=au, recipe=recipe, row_group_mb=0.2, name=name, margin=margin
        )

    return write


@pytest.fixture
def open_job(tmp_path, caplog):
    """Open the data of a job on the sets `unlabelled` and `labelled`; returns the warnings."""

    def open_job(augment="{}", **sources):
        blocks = {"data": {}, "evaluate": {"folds": 3}}
        for key, names in sources.items():
            block = "evaluate" if key in ("transfer", "expressions") else "data"
            blocks[block][key] = [f"{tmp_path}/{name}" for name in names]
        file = tmp_path / "job.yaml"
        blocks["data"]["augment"] = yaml_io.load(augment)
        file.write_text(f"method: {{name: simclr}}\ndata: {blocks['data']}\nevaluate: {blocks['evaluate']}\n")
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="facscale"):
            JobData.open(expand_variants(read_spec(file), name="job"))
        return caplog.messages

    return open_job


def test_sets_of_one_detector_and_crop_are_mixed_without_a_word(write, open_job):
    write("faces", detector={"smallest_face": 0.5, "detect_every_s": 0.0}, crop={"size": 96, "quality": 80})
    write("labels", au=(1, 12))
    assert open_job(unlabelled=["faces"], labelled=["labels"]) == []


def test_another_detector_is_one_warning_that_names_both(write, open_job, tmp_path):
    write("faces", detector={"name": "dlib"})
    write("labels", au=(1, 12))
    write("more", au=(1, 12))
    (warning,) = open_job(unlabelled=["faces"], labelled=["labels", "more"])
    assert "cropped differently" in warning
    assert f"{tmp_path}/faces: detector dlib, crop={{eyes_y: 0.34, eyes_distance: 0.28}}" in warning
    assert f"{tmp_path}/labels, {tmp_path}/more: detector mediapipe, crop=" in warning


def test_other_weights_of_a_detector_are_named(write, open_job):
    write("faces", detector={"name": "dlib", "weights": "/own.dat"})
    write("labels", au=(1, 12), detector={"name": "dlib"})
    (warning,) = open_job(unlabelled=["faces"], labelled=["labels"])
    assert "detector dlib with /own.dat" in warning


def test_eyes_elsewhere_than_in_the_training_are_refused(write, open_job, tmp_path):
    write("faces", crop={"eyes_distance": 0.4})
    write("labels", au=(1, 12))
    with pytest.raises(DataError) as error:
        open_job(unlabelled=["faces"], labelled=["labels"])
    assert f"{tmp_path}/faces (crop={{eyes_y: 0.34, eyes_distance: 0.4}})" in str(error.value)
    assert f"{tmp_path}/labels (crop={{eyes_y: 0.34, eyes_distance: 0.28}})" in str(error.value)


def test_eyes_elsewhere_in_a_set_that_is_tested_alone_are_a_warning(write, open_job):
    write("faces")
    write("labels", au=(1, 12))
    write("foreign", au=(1, 12), crop={"eyes_y": 0.4})
    (warning,) = open_job(unlabelled=["faces"], labelled=["labels"], transfer=["foreign"])
    assert "eyes_y: 0.4" in warning


def test_crops_that_others_made_are_warned_of_but_not_refused(write, open_job):
    write("faces", detector={"name": "none"}, crop={"eyes_y": 0.4})
    write("labels", au=(1, 12))
    (warning,) = open_job(unlabelled=["faces"], labelled=["labels"])
    assert "detector none" in warning


def test_sets_that_no_pipeline_wrote_are_not_compared(write, open_job):
    write("faces", is_ours=False)
    write("labels", au=(1, 12))
    assert open_job(unlabelled=["faces"], labelled=["labels"]) == []


def test_a_margin_is_no_other_crop(write, open_job):
    """The faces lie alike in the face square, whatever is stored around it."""
    write("faces")
    write("labels", au=(1, 12), crop={"margin": 0.3})
    assert open_job(unlabelled=["faces"], labelled=["labels"]) == []


def test_crops_that_training_or_evaluation_would_cut_are_refused_before_anything_starts(write, open_job, tmp_path):
    write("faces", crop={"margin": 0.3})
    write("labels", au=(1, 12))
    write("foreign", au=(1, 12), crop={"margin": 0.1})
    wide = "{crop: [0.9, 1.4]}"
    assert open_job(wide, unlabelled=["faces"], labelled=["labels"]) == []  # SimCLR learns from the first alone
    with pytest.raises(DataError, match=rf"crop shows up to 1.4 times .* {tmp_path}/labels .*crop.margin=0.2 "):
        open_job(wide, unlabelled=["labels"], labelled=["foreign"])
    far = "{crop: [0.9, 1.4], eval_crop: 1.15}"
    with pytest.raises(DataError, match=rf"the crop of evaluation shows up to 1.15 times .* {tmp_path}/labels .*0.08 "):
        open_job(far, unlabelled=["faces"], labelled=["labels"])
    assert open_job(far, unlabelled=["faces"], labelled=["foreign"]) == []
    with pytest.raises(DataError, match=f"{tmp_path}/labels"):
        open_job(far, unlabelled=["faces"], labelled=["foreign"], transfer=["labels"])
