"""The files under pipelines/, and the checks of a pipeline before it needs Ray."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from facscale import ingest, spec
from facscale.data import DataError
from facscale.ingest.changes import select_settings
from facscale.ingest.items import Fault
from facscale.ingest.pipeline import build_recipe
from facscale.ingest.report import IngestReport, build_report
from facscale.ingest.work_store import ItemStatus

PIPELINES = sorted((Path(__file__).parents[3] / "pipelines").glob("*.yaml"))


@pytest.mark.parametrize("file", PIPELINES, ids=lambda file: file.stem)
def test_every_pipeline_is_a_valid_program(file, monkeypatch):
    monkeypatch.setenv("FACSCALE_DATA", "/data")
    lines = file.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env -S facscale run"
    assert os.access(file, os.X_OK)
    comment = " ".join(line for line in lines[1:] if line.startswith("#"))
    assert "Cost:" in comment
    assert "ou need:" in comment
    pipeline = ingest.configure(spec.read_spec(file))
    assert pipeline.name == file.stem
    assert pipeline.source.root.startswith("/data/")
    assert pipeline.output.startswith("/data/")


def test_there_are_pipelines():
    assert len(PIPELINES) >= 6


def make(tmp_path, **more):
    return spec.Pipeline.model_validate(
        {
            "source": {"layout": "videos", "root": str(tmp_path)},
            "detector": {"name": "none"},
            "output": str(tmp_path / "out"),
            **more,
        }
    )


def test_the_recipe_holds_what_changes_the_crops_and_nothing_else(tmp_path):
    recipe = build_recipe(make(tmp_path))
    assert build_recipe(make(tmp_path / "moved", name="x", ingest={"workers": 9, "row_group_mb": 1.0})) == recipe
    assert build_recipe(make(tmp_path, crop={"size": 64})) != recipe
    assert build_recipe(make(tmp_path, detector={"name": "none", "detect_every_s": 0.2})) != recipe
    assert (
        build_recipe(make(tmp_path, detector={"name": "none", "detect_every_s": 0.0})) == recipe
    )  # the default, spelled out


def test_licence_and_consent_are_stored_and_may_change_without_a_new_data_set(tmp_path):
    source = {"layout": "videos", "root": str(tmp_path), "licence": "research only", "consent": "form B"}
    recipe = build_recipe(make(tmp_path, source=source))
    assert (recipe["licence"], recipe["consent"]) == ("research only", "form B")
    assert select_settings(recipe) == build_recipe(make(tmp_path, source={"layout": "videos", "root": str(tmp_path)}))


def test_a_layout_that_does_not_fit_its_source_is_an_error(tmp_path):
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(DataError, match=r'the layout "videos" expects'):
        ingest.run(make(tmp_path), progress=False)


def test_rendering_needs_a_tree_and_a_local_folder(tmp_path):
    with pytest.raises(spec.SpecError, match="cannot be rendered in the layout"):
        ingest.run(make(tmp_path, render={}), progress=False)
    remote = make(tmp_path, render={}, source={"layout": "bp4d", "root": "memory://raw"})
    with pytest.raises(spec.SpecError, match="local folder only"):
        ingest.run(remote, progress=False)


def test_the_report_counts_and_reads_back(tmp_path):
    statuses = [
        ItemStatus("1", "a.mp4", "a", "a", "", frames=100, faces=80, faceless=15, dropped=5, tracks=2, seconds=2.0),
        ItemStatus(
            "2",
            "b.mp4",
            "b",
            "b",
            "",
            frames=50,
            faceless=50,
            seconds=1.0,
            faults=(Fault("b.mp4", "faces", "no face"),),
        ),
    ]
    listed = (Fault("'x\\n'", "list", "unsafe file name"),)
    report = build_report(name="n", output=str(tmp_path), statuses=statuses, faults=listed, reused=1, wall_s=3.0)
    assert (report.items, report.identities, report.tracks, report.frames, report.faces) == (2, 1, 2, 150, 80)
    assert report.detection_rate == pytest.approx(85 / 150)
    assert [fault.item for fault in report.sorted_faults] == ["'x\\n'", "b.mp4"]
    text = report.format_text()
    assert "1 faces, 1 list" in text
    assert "b.mp4" in text
    report.write(statuses)
    assert IngestReport.read(str(tmp_path)) == report
    assert (tmp_path / "__facscale__/report.txt").read_text().startswith("n -> ")
    assert IngestReport.read(str(tmp_path / "nowhere")) is None


def test_the_contact_sheet_shows_each_identity_in_its_row(tmp_path):
    import pyarrow as pa
    import simplejpeg

    from facscale.data import ShardWriter

    colours = {"a": (250, 0, 0), "b": (0, 250, 0), "c": (0, 0, 250)}
    with ShardWriter(str(tmp_path), name="n", image_size=32, fps=25.0, recipe={}) as writer:
        for name, colour in colours.items():
            jpeg = simplejpeg.encode_jpeg(np.full((32, 32, 3), colour, np.uint8))
            rows = {
                "identity": name,
                "video": "v",
                "track": 0,
                "time_s": 0.0,
                "jpeg": jpeg,
                "landmarks": [float("nan")] * 136,
            }
            writer.add_track(pa.Table.from_pylist([{**rows, "frame": n} for n in range(6)]))
    picture = ingest.draw_contact_sheet(str(tmp_path), identities=3, crops=4, size=16, landmarks=True)
    assert picture.shape == (3 * 18, 4 * 18, 3)
    for row, colour in enumerate(colours.values()):
        for column in range(4):
            cell = picture[row * 18 : row * 18 + 16, column * 18 : column * 18 + 16]
            assert cell.reshape(-1, 3).mean(axis=0) == pytest.approx(colour, abs=8)
    assert ingest.draw_contact_sheet(str(tmp_path), identities=2, crops=9, size=16).shape == (2 * 18, 9 * 18, 3)
