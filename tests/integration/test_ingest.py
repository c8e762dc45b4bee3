"""Complete pipelines on a local Ray: from files to a readable data set, and their failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg

from facscale import ingest, spec
from facscale.data import DataError, Dataset, Stream
from facscale.data.augment import FLOW_STEP, FLOW_UNKNOWN, Augmenter
from facscale.data.verification import verify_dataset
from facscale.data.views import RandomFrames
from facscale.ingest import layouts
from facscale.ingest.extract import FaceExtractor
from facscale.ingest.items import list_files
from facscale.ingest.lock import OutputLock
from facscale.ingest.report import IngestReport
from facscale.ingest.tasks import LocalPool
from facscale.spec.models import Data
from plugins.blob_faces import CRASH_COLOUR, draw, draw_moving_face, write_video

pytestmark = [pytest.mark.slow("pipelines with processes of their own"), pytest.mark.usefixtures("plugins")]
ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from facscale import ingest, spec
if __name__ == "__main__":
    print(ingest.run(spec.Pipeline.model_validate_json(sys.argv[1]), progress=False).format_text())
"""


def pipeline(tmp_path, **more):
    return spec.Pipeline.model_validate(
        {
            "name": "test",
            "source": {"layout": "videos", "root": str(tmp_path / "raw")},
            "detector": {"name": "blob"},
            "crop": {"size": 48, "eyes_y": 0.38, "eyes_distance": 0.38},
            "output": str(tmp_path / "out"),
            "ingest": {"workers": 2, "row_group_mb": 0.1},
            **more,
        }
    )


def raw(tmp_path):
    """Two people, three good videos, and four that are not."""
    root = tmp_path / "raw"
    write_video(root / "anna/a.mp4", draw_moving_face(20))
    write_video(root / "anna/b.mp4", draw_moving_face(30, hidden=range(10, 16)))
    write_video(root / "bela.mp4", draw_moving_face(12))
    write_video(root / "empty_room.mp4", [draw()] * 10)
    write_video(root / "killer.mp4", [draw(colour=CRASH_COLOUR)] * 3)
    (root / "nothing.mp4").write_bytes(b"")
    (root / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    return root


def in_another_process(pipeline, **environment):
    paths = os.pathsep.join([str(ROOT / "platform"), str(ROOT / "tests/plugins")])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, pipeline.model_dump_json()],
        env={**os.environ, "RAY_ADDRESS": "local", "PYTHONPATH": paths, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.usefixtures("ray_cluster")
def test_good_videos_become_a_data_set_and_bad_ones_are_reported(tmp_path, monkeypatch, capsys):
    raw(tmp_path)
    report = ingest.run(pipeline(tmp_path), progress=True)
    assert {(fault.item, fault.stage) for fault in report.faults} == {
        ("empty_room.mp4", "faces"),
        ("killer.mp4", "crash"),
        ("nothing.mp4", "decode"),
        ("noise.mp4", "decode"),
    }
    assert (report.outcome, report.items, report.faces, report.tracks, report.identities) == ("made", 7, 56, 4, 2)
    assert "7/7" in capsys.readouterr().err

    data = Dataset(str(tmp_path / "out"))
    table = data.read_columns(["identity", "video", "track", "frame", "landmarks"])
    expected = [
        *(("anna", "a", 0, n) for n in range(20)),
        *(("anna", "b", 0, n) for n in range(10)),
        *(("anna", "b", 1, n) for n in range(16, 30)),
        *(("bela", "bela", 0, n) for n in range(12)),
    ]
    assert (
        list(zip(*(table[name].to_pylist() for name in ("identity", "video", "track", "frame")), strict=True))
        == expected
    )
    assert (data.manifest.name, data.manifest.au, data.manifest.image_size, data.manifest.fps) == ("test", (), 48, 25)
    assert np.isfinite(np.array(table["landmarks"].to_pylist())).all()
    assert simplejpeg.decode_jpeg(data.read(shard=0, row_group=0)["jpeg"][0].as_py()).shape == (48, 48, 3)

    assert {path.name for path in (tmp_path / "out").iterdir()} == {"shard-00000.parquet", "__facscale__"}
    assert {path.name for path in (tmp_path / "out/__facscale__").iterdir()} == {
        "manifest.json",
        "index.parquet",
        "report.json",
        "report.txt",
        "items.parquet",
        "contact_sheet.png",
    }
    items = pq.read_table(tmp_path / "out/__facscale__/items.parquet").to_pylist()
    assert {item["source"]: item["faces"] for item in items}["anna/b.mp4"] == 24

    # a second time: nothing is opened, nothing is written, no Ray
    monkeypatch.setattr("facscale.ingest.pipeline.VersionBuilder", lambda *_, **__: pytest.fail("it worked again"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = ingest.run(pipeline(tmp_path), progress=False)
    assert {**vars(again), "outcome": "made"} == vars(report)
    assert again.outcome == "already there"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before

    # another recipe must not look like the same
    with pytest.raises(DataError, match=r"another recipe \(different: crop\).*choose another output"):
        ingest.run(pipeline(tmp_path, crop={"size": 32}), progress=False)


@pytest.mark.usefixtures("ray_cluster")
def test_an_interrupted_run_is_resumed(tmp_path):
    root = tmp_path / "raw"
    for name in "abcd":
        write_video(root / f"{name}.mp4", draw_moving_face(10))
    whole = pipeline(tmp_path, output=str(tmp_path / "whole"))
    expected = ingest.run(whole, progress=False)

    broken_off = pipeline(tmp_path)
    listing = list_files(broken_off.source.root)
    items = list(layouts.find("videos").list_items(listing.files))
    extractor = FaceExtractor(broken_off, run="killed")
    done = [extractor(item, item.compute_key(listing.files), item.compute_stamp(listing.stamps)) for item in items[:2]]
    (tmp_path / "out/_parts/0123.parquet").write_bytes(b"of a worker that died")
    for file in (root / "a.mp4", root / "b.mp4"):  # whoever opens them again finds nothing
        before = file.stat()
        file.write_bytes(b"\0" * before.st_size)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    report = ingest.run(broken_off, progress=False)
    assert len(done) == report.reused == 2
    assert (report.faces, report.faults) == (expected.faces, ()) == (40, ())
    assert Dataset(broken_off.output).manifest.fingerprint == Dataset(whole.output).manifest.fingerprint
    assert not (tmp_path / "out/_parts").exists()


@pytest.mark.usefixtures("ray_cluster")
def test_the_next_run_cleans_up_after_a_kill(tmp_path):
    write_video(tmp_path / "raw/a.mp4", draw_moving_face(10))
    ingest.run(pipeline(tmp_path), progress=False)
    (tmp_path / "out/_parts").mkdir()
    (tmp_path / "out/_parts/left.parquet").write_bytes(b"x")
    (tmp_path / "out/__facscale__/contact_sheet.png").unlink()
    assert ingest.run(pipeline(tmp_path), progress=False).outcome == "already there"
    assert not (tmp_path / "out/_parts").exists()
    assert (tmp_path / "out/__facscale__/contact_sheet.png").exists()


def test_a_killed_process_is_resumed(tmp_path):
    for n in range(40):
        write_video(tmp_path / f"raw/p{n:02d}.mp4", draw_moving_face(10))
    spec_ = pipeline(tmp_path, output=str(tmp_path / "killed"))
    parts = tmp_path / "killed/_parts"
    with in_another_process(spec_) as process:
        while process.poll() is None and len(list(parts.glob("*.json"))) < 4:  # the recipe and three items
            time.sleep(0.01)
        assert process.poll() is None, process.stdout.read()
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "killed/__facscale__/manifest.json").exists()
    with in_another_process(spec_) as process:
        output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    report = IngestReport.read(spec_.output)
    assert report.reused >= 3
    assert (report.items, report.faces) == (40, 400)
    assert Dataset(spec_.output).manifest.counts["frames"] == 400


@pytest.mark.usefixtures("ray_cluster")
def test_labels_are_stored_in_the_data_set(tmp_path):
    root = tmp_path / "raw"
    for subject, au in (("F001", (1, 12)), ("M001", (12, 4))):
        (root / subject / "T1").mkdir(parents=True)
        (root / "AUCoding/AU_OCC").mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(draw_moving_face(6), start=1):
            (root / subject / f"T1/{number}.jpg").write_bytes(simplejpeg.encode_jpeg(image))
        lines = [f"0,{au[0]},{au[1]}", *(f"{n:04d},{n % 2},1" for n in range(1, 6))]
        (root / f"AUCoding/AU_OCC/{subject}_T1.csv").write_text("\n".join(lines))
    ingest.run(pipeline(tmp_path, source={"layout": "bp4d", "root": str(root)}), progress=False)
    data = Dataset(str(tmp_path / "out"))
    assert data.manifest.au == (1, 4, 12)
    assert data.read_columns(["au"])["au"].to_pylist() == [
        *([n % 2, -1, 1] for n in range(1, 6)),
        [-1, -1, -1],
        *([-1, 1, n % 2] for n in range(1, 6)),
        [-1, -1, -1],
    ]
    assert data.manifest.counts["labelled_frames"] == 10


@pytest.mark.usefixtures("ray_cluster")
def test_utterances_of_a_video_become_its_tracks(tmp_path):
    folder = tmp_path / "raw/dev/mp4/id00001/21Uxsk56VDQ"
    for name, frames in (("00001", 6), ("00002", 8), ("00010", 5)):
        write_video(folder / f"{name}.mp4", draw_moving_face(frames))
    ingest.run(pipeline(tmp_path, source={"layout": "voxceleb2", "root": str(tmp_path / "raw")}), progress=False)
    runs = Dataset(str(tmp_path / "out")).runs
    assert runs.track.tolist() == [0, 1, 2]
    assert runs.frames.tolist() == [6, 8, 5]
    assert (runs.identities, set(runs.videos)) == (("id00001",), {"21Uxsk56VDQ"})


@pytest.mark.usefixtures("ray_cluster")
def test_a_source_without_faces_is_an_error_with_the_report(tmp_path):
    write_video(tmp_path / "raw/a.mp4", [draw()] * 6)
    with pytest.raises(DataError, match=r"no face could be used(.|\n)*no face in its 6 frames"):
        ingest.run(pipeline(tmp_path), progress=False)
    assert json.loads((tmp_path / "out/__facscale__/report.json").read_text())["outcome"] == "nothing found"
    assert not (tmp_path / "out/__facscale__/manifest.json").exists()


@pytest.mark.usefixtures("ray_cluster")
def test_a_spec_error_in_a_worker_is_raised_unchanged(tmp_path):
    write_video(tmp_path / "raw/a.mp4", draw_moving_face(6))
    with pytest.raises(spec.SpecError, match=r"^detector\.weights: /nowhere is not a dlib shape predictor"):
        ingest.run(pipeline(tmp_path, detector={"name": "dlib", "weights": "/nowhere"}), progress=False)
    with pytest.raises(spec.SpecError, match=r"99 CPUs of ingest\.cpus_per_worker"):
        ingest.run(pipeline(tmp_path, output=str(tmp_path / "b"), ingest={"cpus_per_worker": 99}), progress=False)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("name", ["mediapipe", "dlib"])
def test_a_detector_on_rendered_faces(tmp_path, name):
    data = str(tmp_path / "data")
    rendered = pipeline(
        tmp_path,
        render={"identities": 2, "videos": 1, "seconds": 0.6},
        source={"layout": "voxceleb2", "root": str(tmp_path / "raw")},
        detector={"name": name},
        output=data,
    )
    report = ingest.run(rendered, progress=False)
    assert Dataset(data).manifest.recipe["detector"]["name"] == name
    assert report.frames == 30
    assert report.detection_rate >= 0.9
    assert report.identities == 2
    points = np.array(Dataset(data).read_columns(["landmarks"])["landmarks"].to_pylist()).reshape(-1, 68, 2)
    eyes = np.stack([points[:, 36:42].mean(axis=1), points[:, 42:48].mean(axis=1)], axis=1)
    wanted = np.array([[0.5 - 0.19, 0.38], [0.5 + 0.19, 0.38]]) * 48 - 0.5
    assert np.abs(eyes - wanted).max() < 2.5  # pixels: what the smoothing over time leaves
    assert ingest.run(rendered, progress=False).outcome == "already there"


def test_from_s3_to_s3_and_one_more_video(tmp_path, s3_bucket):
    raw(tmp_path)
    fsspec.filesystem("s3", skip_instance_cache=True).put(str(tmp_path / "raw"), f"{s3_bucket}/raw", recursive=True)
    remote = pipeline(tmp_path, source={"layout": "videos", "root": f"{s3_bucket}/raw"}, output=f"{s3_bucket}/set")
    with in_another_process(remote) as process:
        output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    data = Dataset(remote.output)
    assert data.manifest.counts["frames"] == 56
    assert len(IngestReport.read(remote.output).faults) == 4
    names = fsspec.filesystem("s3", skip_instance_cache=True).find(remote.output)
    assert not [name for name in names if "_parts" in name]
    assert ingest.draw_contact_sheet(remote.output).shape[2] == 3
    again = ingest.run(remote, progress=False)
    assert again.outcome == "already there"

    store = fsspec.filesystem("s3", skip_instance_cache=True)
    with store.open(f"{s3_bucket}/raw/new.mp4", "wb") as file:  # extended in this process, without Ray
        file.write(write_video(tmp_path / "new.mp4", draw_moving_face(9)).read_bytes())
    content = store.cat(f"{s3_bucket}/raw/bela.mp4")
    report = ingest.run(remote, progress=False, pool=LocalPool())
    assert (report.reused, report.changes["added"]) == (7, ("new.mp4",))
    store.pipe(f"{s3_bucket}/raw/bela.mp4", content[:-1] + b"\0")  # re-uploaded, with the same size
    report = ingest.run(remote, progress=False, pool=LocalPool())
    assert report.reused == 7
    assert report.output.endswith("set-v2" if report.outcome == "already there" else "set-v3")
    assert Dataset(f"{remote.output}-v2").manifest.counts["frames"] == 65
    assert not verify_dataset(Dataset(f"{remote.output}-v2"))
    with OutputLock(remote.output), pytest.raises(DataError, match="another run is writing there"):
        OutputLock(remote.output).__enter__()


@pytest.mark.usefixtures("ray_cluster")
def test_flow_is_stored_with_each_frame_that_has_a_later_one(tmp_path):
    write_video(tmp_path / "raw/anna/a.mp4", draw_moving_face(20))
    ingest.run(pipeline(tmp_path, flow={"frames": 3}), progress=False)
    dataset = Dataset(str(tmp_path / "out"))
    rows = dataset.read_columns(["frame", "flow"])
    flow = np.array(rows["flow"].to_pylist(), np.int8)
    assert flow.shape == (20, 2 * 12 * 12)  # a quarter of the crop's side
    known = (flow != FLOW_UNKNOWN).all(axis=1)
    assert known.tolist() == [True] * 17 + [False] * 3
    assert (flow[~known] == FLOW_UNKNOWN).all()
    assert np.abs(flow[known] * FLOW_STEP).mean() < 1  # the red square moves through the room, not within its crop
    stream = Stream(
        [dataset],
        {"face": RandomFrames(columns=("flow",))},
        spec=Data(epoch={"samples_per": "frame"}),
        batch_size=20,
        seed=0,
    )
    batches = stream.batches()
    seen = Augmenter(size=24)(next(batches)).face.flow
    batches.close()
    assert seen.shape == (20, 1, 1, 2, 6, 6)
    assert int(seen.isnan().flatten(1).all(1).sum()) == 3
