"""The tutorials, as a reader types them: each page's own cells in their order, in one folder and on one Ray.

Trainings are made smaller by overrides, which are added to the command of a page. What needs more than this machine (an
account, a cluster, `pip install`) is left out by name; its options are checked by tests/unit/docs.
"""

from __future__ import annotations

import os
import subprocess

import cv2
import pytest

from conftest import ROOT
from detecting import make_detector
from doc_hooks import load_hook
from faces import write_face_data_set
from facscale.cli.demo import get_ray_credentials, start_ray, stop_ray
from facscale.cli.init import copy_shipped
from facscale.data import Dataset
from facscale.inference.detector import save_detector
from facscale.spec.pipelines import Crop, DetectorBlock
from facscale.synthetic import render_clip
from plugins.blob_faces import write_video
from ports import free_run

pytestmark = pytest.mark.nightly("the commands of three tutorials, three of them trainings on Ray", minutes=3)

SIDE = 128  # pixels of the videos
VIDEOS = ("anna/monday.mp4", "anna/tuesday.mp4", "ben/01.mkv", "cleo/01.mp4")
IMAGES = 6  # of each person: a sequence of 0.24 seconds, of which shorter ones are left out
PEOPLE = ("anna", "ben", "cleo", "dora", "emil", "finn")
TINY = "data.image_size=32 data.threads=1 train.batch_size=4 train.epochs=1 train.precision=float32 train.probe_every=0"
CPU = "cluster.workers=1 cluster.gpus_per_worker=0 cluster.cpus_per_worker=1"
JUDGED = "evaluate.protocol=linear-probe evaluate.folds=2 'evaluate.probe={epochs: 1}' evaluate.rendered_people=0"
CLP = "method.depth=18 method.width=4 method.hidden=8 method.embedding=8 method.length=3 method.queue_size=32"
SMALLER = {  # what is added to a command, by its beginning
    "facscale check jobs/clp.yaml": f"{TINY} {CPU} {JUDGED} {CLP}",
    "facscale run jobs/clp.yaml": f"{TINY} {CPU} {JUDGED} {CLP} evaluate.detector=none",
    "facscale run jobs/supervised.yaml data": f"{TINY} {CPU} {JUDGED} method.depth=18 method.width=4 evaluate.detector=none",
    "facscale check order.yaml": f"{TINY} {CPU} {JUDGED} method.width=4",
    "facscale run order.yaml": f"{TINY} {CPU} {JUDGED} method.width=4 evaluate.detector=none",
}
WRONG = "facscale check pipelines/videos.yaml source.root=/nowhere"  # whose error a page shows
EGG_INFO = "(cd frame_order; python -c 'from setuptools import build_meta; build_meta.get_requires_for_build_wheel()')"
LEFT_OUT = (
    "pip install",  # the folder is on the path of this cluster; only its egg-info is made
    'facscale run jobs/supervised.yaml "evaluate.transfer',  # needs BP4D
)


@pytest.fixture(scope="module")
def notebooks():
    return load_hook("notebooks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the reader works: all jobs and pipelines, videos, images, and data sets as the demo makes them."""
    folder = tmp_path_factory.mktemp("reader")
    copy_shipped(folder)
    for number, name in enumerate(VIDEOS):
        clip = render_clip(identity=number, clip=0, seconds=0.32, size=SIDE)
        write_video(folder / "interviews" / "videos" / name, clip.frames)
    for number, person in enumerate(PEOPLE):
        (folder / "mine" / "raw" / person).mkdir(parents=True)
        frames = render_clip(identity=100 + number, clip=0, seconds=IMAGES / 25, size=SIDE).frames
        for place, frame in enumerate(frames, start=1):
            cv2.imwrite(str(folder / "mine" / "raw" / person / f"{place:04d}.jpg"), frame[:, :, ::-1])
    write_face_data_set(str(folder / "demo" / "synthetic"), [12] * 8, row_group_mb=0.2)
    write_face_data_set(str(folder / "demo" / "synthetic_bp4d"), [12] * 6, au=(1, 12), name="synthetic_bp4d")
    detector = make_detector(detector=DetectorBlock(), crop=Crop(size=256))  # as pipelines/videos.yaml
    (folder / "detector.safetensors").write_bytes(save_detector(detector))
    return folder


@pytest.fixture(scope="module")
def environment(folder, tmp_path_factory):
    """A Ray whose workers find our source and the package of the tutorial; a tracker of its own."""
    home = tmp_path_factory.mktemp("ray")
    variables = {
        "PYTHONPATH": os.pathsep.join(map(str, (folder / "frame_order", ROOT / "platform"))),
        "FACSCALE_RUNS": str(folder / "runs"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
        "COLUMNS": "120",
        **get_ray_credentials(home),
    }
    port = free_run(4)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        start_ray(home, port=port, dashboard=port + 1)
    yield {**os.environ, **variables, "RAY_ADDRESS": f"127.0.0.1:{port}"}
    stop_ray(home / "ray.pid")


@pytest.fixture
def follow(notebooks, folder, environment):
    """Run the cells of a tutorial, with further lines at the end of a file that it writes; returns what they print."""

    def run(name, *, added=None, **variables):
        script = notebooks.build_script((ROOT / "docs" / "tutorials" / f"{name}.md").read_text())
        for path, text in (added or {}).items():
            assert f"cat > {path} <<" in script
            head, _, rest = script.partition(f"cat > {path} <<'END-OF-FILE'\n")
            script = f"{head}cat > {path} <<'END-OF-FILE'\n{rest.replace('END-OF-FILE', f'{text}END-OF-FILE', 1)}"
        path = folder / f"{name}.sh"
        path.write_text("\n".join(map(change_line, script.splitlines())))
        command = ["bash", str(path)]
        done = subprocess.run(
            command, cwd=folder, env={**environment, **variables}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
        return done.stdout + done.stderr

    return run


def change_line(line):
    """A line of a page's commands: made smaller, left out, or expected to fail."""
    if line.startswith("pip install"):
        return EGG_INFO
    if line.startswith(LEFT_OUT):
        return f": left out: {line.split()[0]}"
    if line.startswith(WRONG):
        return f"! {line}"
    words = next((words for start, words in SMALLER.items() if line.startswith(start)), "")
    return f"{line} {words}".rstrip()


def test_videos_become_a_data_set_and_tables_of_aus(follow, folder):
    printed = follow("videos")
    assert "error: /nowhere: there are no files" in printed
    manifest = Dataset(str(folder / "interviews" / "shards" / "videos")).manifest
    assert manifest.counts["identities"] == 3
    assert manifest.counts["videos"] == len(VIDEOS)
    assert (folder / "sheet.png").stat().st_size > 1000
    assert "<html" in (folder / "videos.html").read_text()
    tables = sorted((folder / "aus").rglob("*.parquet")) + sorted((folder / "aus").rglob("*.csv"))
    print([str(path.relative_to(folder)) for path in tables])
    assert len(tables) > len(VIDEOS)


def test_a_labelled_set_tests_and_trains_encoders(follow, folder):
    sequences = {"anna": "monday"}  # of the rows on the page
    rows = [
        f"{person}/{image:04d}.jpg,{person},{sequences.get(person, '01')},{image},{(number + image) % 2},{image % 2},{number % 2}"
        for number, person in enumerate(PEOPLE)
        for image in range(1, IMAGES + 1)
        if (person, image) not in {("anna", 1), ("anna", 2), ("ben", 1)}
    ]
    printed = follow("labels", added={"mine/raw/labels.csv": "\n".join(rows) + "\n"})
    manifest = Dataset(str(folder / "mine" / "faces")).manifest
    assert manifest.counts["identities"] == len(PEOPLE)
    assert tuple(manifest.au) == (1, 4, 12)
    assert "<html" in (folder / "faces.html").read_text()
    assert printed.count("F1") > 1


def test_a_method_of_your_own_becomes_a_row(follow, folder):
    printed = follow("method", FACSCALE_DATA=str(folder / "demo"))
    assert "the contract holds" in printed
    assert "trains encoder+head in order" in printed
    _, _, compared = printed.rpartition("### cell")
    assert "order" in compared
    assert "random encoder" in compared


def test_what_is_changed_is_still_on_the_pages(notebooks):
    names = ("videos", "labels", "method")
    scripts = "\n".join(
        notebooks.build_script((ROOT / "docs" / "tutorials" / f"{name}.md").read_text()) for name in names
    )
    for start in (*SMALLER, *LEFT_OUT, WRONG):
        assert f"\n{start}" in scripts, f"no tutorial has a command that begins with {start!r}"
