"""Data sets are read by their folder with pandas, pyarrow, torch and Hugging Face's datasets, as docs/reference/data_sets.md says."""

from __future__ import annotations

import json
import re

import pandas as pd
import pyarrow.dataset as pads
import pytest
import torch

from conftest import ROOT
from faces import write_face_data_set
from facscale.data import Dataset
from facscale.data.manifest import ABOUT
from facscale.data.pixels import decode_jpeg
from facscale.data.torch_dataset import FaceDataset


@pytest.fixture
def faces(tmp_path):
    dataset = write_face_data_set(str(tmp_path / "bp4d"), [12] * 9, au=(1, 12), name="BP4D")
    for name in ("report.txt", "report.json", "contact_sheet.png"):  # of a pipeline
        (tmp_path / "bp4d" / ABOUT / name).write_text("not Parquet")
    return dataset


BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "reference" / "data_sets.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split()[1])
def test_the_lines_of_the_documentation_run(faces, monkeypatch, tmp_path, block):
    monkeypatch.chdir(faces.folder.path.parent)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if "import datasets" in block:
        pytest.importorskip("datasets", reason="pip install datasets")
    exec(compile(block, "docs/reference/data_sets.md", "exec"), {})


def test_pandas_and_pyarrow_see_every_frame_and_nothing_else(faces):
    table = pd.read_parquet(faces.url)
    assert len(table) == 108
    assert list(table.columns) == faces.arrow_schema.names
    assert decode_jpeg(table["jpeg"][5]).shape == (32, 32, 3)
    assert pads.dataset(faces.url).count_rows() == 108


def test_torch_reads_frames_by_number_in_worker_processes(faces):
    frames = FaceDataset(faces.url, columns=("identity", "frame", "au"))
    assert len(frames) == 108
    table = pd.read_parquet(faces.url)
    for index in (0, 5, 107, -1, 60, 0):
        frame, row = frames[index], table.iloc[index]
        assert (frame["identity"], frame["frame"], frame["au"].tolist()) == (row.identity, row.frame, row.au.tolist())
        assert torch.equal(frame["image"], torch.from_numpy(decode_jpeg(row.jpeg)).permute(2, 0, 1))
    with pytest.raises(IndexError):
        frames[108]
    loader = torch.utils.data.DataLoader(frames, batch_size=27, num_workers=2, multiprocessing_context="spawn")
    batches = list(loader)
    assert [batch["image"].shape for batch in batches] == [(27, 3, 32, 32)] * 4
    assert torch.cat([batch["frame"] for batch in batches]).tolist() == table["frame"].tolist()


def test_data_sets_with_their_files_beside_the_shards_are_still_read(faces):
    folder = faces.folder.path
    for path in (folder / ABOUT).iterdir():
        path.rename(folder / path.name)
    (folder / ABOUT).rmdir()
    assert json.loads((folder / "manifest.json").read_text())["name"] == "BP4D"
    assert len(Dataset(faces.url).runs) == len(faces.runs)
