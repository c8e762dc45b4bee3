"""Rendered people in the layouts of VoxCeleb2, BP4D and DISFA."""

from __future__ import annotations

import csv
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from facscale.spec.pipelines import Render
from facscale.synthetic import AUS, write_tree
from facscale.synthetic.trees import BP4D_AUS, DISFA_AUS, list_people, plan_videos

SMALL = Render(identities=2, videos=2, seconds=0.12, size=96, first_identity=40, seed=5)


def _decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].average_rate == 25
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def test_voxceleb2(tmp_path: Path) -> None:
    written = write_tree(tmp_path, layout="voxceleb2", render=SMALL, progress=False)
    assert (written.videos, written.rendered, written.frames) == (4, 4, 12)
    videos = sorted(tmp_path.glob("dev/mp4/id*/*/00001.mp4"))
    assert [v.parent.parent.name for v in videos] == ["id00040", "id00040", "id00041", "id00041"]
    for video in videos:
        assert len(video.parent.name) == 11
        frames = _decoded(video)
        assert frames.shape == (3, 96, 96, 3)
        with np.load(tmp_path / "truth" / video.relative_to(tmp_path).with_suffix(".npz")) as truth:
            assert truth["intensities"].shape == (3, 15)
            assert truth["landmarks"].shape == (3, 68, 2)
            assert tuple(truth["aus"]) == AUS
            assert truth["identity"] in (40, 41)


def test_only_missing_videos_are_rendered_again(tmp_path: Path) -> None:
    write_tree(tmp_path, layout="voxceleb2", render=SMALL, progress=False)
    videos = sorted(tmp_path.glob("dev/mp4/*/*/*.mp4"))
    before = [v.read_bytes() for v in videos]
    assert write_tree(tmp_path, layout="voxceleb2", render=SMALL, progress=False).rendered == 0
    videos[1].unlink()
    assert write_tree(tmp_path, layout="voxceleb2", render=SMALL, progress=False).rendered == 1
    assert [v.read_bytes() for v in videos] == before
    assert (
        write_tree(
            tmp_path, layout="voxceleb2", render=SMALL.model_copy(update={"seconds": 0.08}), progress=False
        ).rendered
        == 4
    )
    assert [len(_decoded(v)) for v in sorted(tmp_path.glob("dev/mp4/*/*/*.mp4"))] == [2] * 4
    assert not list(tmp_path.rglob("*.part"))


def test_bp4d(tmp_path: Path) -> None:
    write_tree(tmp_path, layout="bp4d", render=SMALL, progress=False)
    widths = set()
    for video in plan_videos(tmp_path, layout="bp4d", render=SMALL):
        images = sorted((tmp_path / video.path).glob("*.jpg"), key=lambda p: int(p.stem))
        widths |= {len(p.stem) - len(p.stem.lstrip("0")) for p in images}
        assert cv2.imread(str(images[0])).shape == (96, 96, 3)
        rows = list(csv.reader((tmp_path / f"AUCoding/AU_OCC/{video.person}_{video.path.name}.csv").open()))
        header, table = [int(c) for c in rows[0]], np.array(rows[1:], int)
        assert header[0] == 0
        np.testing.assert_array_equal(table[:, 0], [int(p.stem) for p in images])
        with np.load(video.truth_path) as truth:
            np.testing.assert_array_equal(truth["frames"], table[:, 0])
            for au in BP4D_AUS:
                column, truly = table[:, header.index(au)], truth["intensities"][:, AUS.index(au)] >= 2
                np.testing.assert_array_equal(column[column != 9], truly[column != 9])
        assert (table[:, header.index(20)] == 9).all()
    assert len(widths) > 1  # zero padding varies


def test_disfa(tmp_path: Path) -> None:
    write_tree(tmp_path, layout="disfa", render=SMALL, progress=False)
    for person in ("SN001", "SN006"):
        assert len(_decoded(tmp_path / f"Videos_LeftCamera/LeftVideo{person}_comp.avi")) == 6
        files = sorted((tmp_path / "ActionUnit_Labels" / person).iterdir())
        assert {int(f.stem.split("_au")[1]) for f in files} == set(DISFA_AUS)
        with np.load(tmp_path / f"truth/Videos_LeftCamera/LeftVideo{person}_comp.npz") as truth:
            for au in set(DISFA_AUS) & set(AUS):
                table = np.loadtxt(
                    tmp_path / f"ActionUnit_Labels/{person}/{person}_au{au}.txt", delimiter=",", dtype=int
                )
                np.testing.assert_array_equal(table[:, 0], np.arange(1, 7))
                intensity = truth["intensities"][:, AUS.index(au)]
                np.testing.assert_array_equal(table[:, 1] >= 2, intensity >= 2 - 1e-4)


def test_a_few_people_fill_all_published_folds() -> None:
    assert list_people(layout="bp4d", count=6, first=900) == ["F001", "F003", "F004", "F002", "F005", "F006"]
    many = list_people(layout="bp4d", count=60, first=0)
    assert len(set(many)) == 60
    assert len(set(list_people(layout="disfa", count=40, first=0))) == 40


def test_bp4d_has_eight_tasks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8 tasks"):
        plan_videos(tmp_path, layout="bp4d", render=SMALL.model_copy(update={"videos": 9}))


def test_several_processes_write_the_same_files(tmp_path: Path) -> None:
    for workers in (1, 2):
        write_tree(tmp_path / str(workers), layout="voxceleb2", render=SMALL, workers=workers, progress=False)
    serial, parallel = ([p.read_bytes() for p in sorted((tmp_path / n).rglob("*.mp4"))] for n in "12")
    assert serial == parallel
    assert len(serial) == 4
