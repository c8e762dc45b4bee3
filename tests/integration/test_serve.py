"""`facscale serve` as a user starts it: over HTTP, in a real browser, and what is left afterwards."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
import simplejpeg

from browser import browser_page, chromium, keep_screenshot
from detectors import make_detector, write_video
from facscale.inference.detector import save_detector
from facscale.synthetic import render_clip
from ports import free_port

pytestmark = pytest.mark.slow("a service on Ray, and a browser", minutes=1.5)
TOKEN = "a-token-of-twenty-five-letters"
MAX_MB, MAX_SECONDS = 2, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    (folder / "detector.safetensors").write_bytes(
        save_detector(make_detector(intensities=True, probe=True, card={"name": "toy", "people": ["ab"]}))
    )
    clip = render_clip(identity=5, clip=0, seconds=1.0, fps=12, size=160)
    (folder / "face.jpg").write_bytes(simplejpeg.encode_jpeg(clip.frames[0], quality=95))
    write_video(folder / "talk.mp4", clip.frames, fps=12)
    write_video(folder / "long.mp4", np.zeros((60, 64, 64, 3), np.uint8), fps=12)
    (folder / "grey.jpg").write_bytes(simplejpeg.encode_jpeg(np.full((64, 64, 3), 128, np.uint8)))
    (folder / "tmp").mkdir()
    return folder


@pytest.fixture(scope="module")
def service(folder):
    """The address of a service; ended by SIGTERM, it leaves no file and no word of an upload."""
    port, log = free_port(), folder / "serve.log"
    environment = os.environ | {
        "FACSCALE_SERVE_TOKEN": TOKEN,
        "TMPDIR": str(folder / "tmp"),
        "PYTHONUNBUFFERED": "1",
        "RAY_TMPDIR": tempfile.mkdtemp(prefix="serve-", dir="/tmp"),
    }
    environment.pop("RAY_ADDRESS", None)
    command = [str(Path(sys.executable).parent / "facscale"), "serve", "detector.safetensors", "--port", str(port)]
    command += ["--max-mb", str(MAX_MB), "--max-seconds", str(MAX_SECONDS)]
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        for _ in range(600):
            if process.poll() is not None or "Metrics for Prometheus" in log.read_text():
                break
            time.sleep(0.2)
        assert "is served at" in log.read_text(), log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    assert process.returncode == 0, log.read_text()
    assert TOKEN not in log.read_text()
    left = [path for path in (folder / "tmp").rglob("*") if path.name == "upload"]
    assert left == []


@pytest.fixture
def post(service, folder):
    def post(name, *, token=TOKEN, accept="application/json", query=""):
        headers = {"Authorization": f"Bearer {token}", "Accept": accept} if token else {}
        data = (folder / name).read_bytes() if isinstance(name, str) else name
        return requests.post(f"{service}/v1/predict{query}", data=data, headers=headers, timeout=120)

    return post


def test_a_photo_gives_the_aus_of_its_face(post):
    answer = post("face.jpg")
    assert answer.status_code == 200, answer.text
    result = answer.json()
    assert (result["kind"], result["aus"], len(result["frames"])) == ("image", ["AU01", "AU12", "AU25"], 1)
    (face,) = result["frames"][0]["faces"]
    assert len(face["landmarks"]) == 68
    assert all(0 <= value <= 1 for value in face["probabilities"])
    assert face["present"] == [
        au for au, p, t in zip(result["aus"], face["probabilities"], result["thresholds"], strict=True) if p >= t
    ]
    assert set(face["intensities"]) == {"AU01", "AU12"}


def test_a_clip_gives_what_facscale_predict_gives(post, folder):
    from facscale.inference.api import AUDetector

    result = post("talk.mp4").json()
    table = AUDetector.load(folder / "detector.safetensors").predict(folder / "talk.mp4")
    assert len(result["frames"]) == len(table) == 12
    expected = table[["AU01", "AU12", "AU25"]].to_numpy()
    actual = np.array([frame["faces"][0]["probabilities"] for frame in result["frames"]])
    assert np.abs(actual - expected).max() < 1e-3
    assert result["summary"]["faces"]["0"]["frames"] == 12
    lines = post("talk.mp4", accept="text/csv", query="?every=3").text.splitlines()
    assert len(lines) == 5
    assert '"AU12_c"' in lines[0] or "AU12_c" in lines[0]


def test_requests_at_the_same_time_do_not_mix(post):
    alone = {name: post(name).json()["frames"] for name in ("face.jpg", "talk.mp4", "grey.jpg")}
    names = ["face.jpg", "talk.mp4", "grey.jpg"] * 3
    with ThreadPoolExecutor(6) as pool:
        for name, answer in zip(names, pool.map(post, names), strict=True):
            frames = answer.json()["frames"]
            assert [len(frame["faces"]) for frame in frames] == [len(frame["faces"]) for frame in alone[name]]
            for frame, before in zip(frames, alone[name], strict=True):
                for face, other in zip(frame["faces"], before["faces"], strict=True):
                    assert face["probabilities"] == pytest.approx(other["probabilities"], abs=2e-4)


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("detector.safetensors", 422, "the upload: cannot be opened as a video"),
        (b"", 422, "the request has no body"),
        (b"x" * (MAX_MB * 1_000_000 + 1), 413, "larger than the 2 MB"),
        ("long.mp4", 413, "longer than the 3 s"),
    ],
)
def test_what_cannot_be_read_is_refused(post, name, status, words):
    answer = post(name)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    assert "/facscale-" not in answer.text


def test_a_picture_without_a_face_has_none(post):
    assert post("grey.jpg").json()["frames"][0]["faces"] == []


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x"])
def test_without_the_token_nothing_is_read(service, post, token):
    assert post("face.jpg", token=token).status_code == 401
    headers = {"Authorization": f"Bearer {token}"}
    assert requests.get(f"{service}/v1/model", headers=headers, timeout=30).status_code == 401


def test_what_the_service_says_of_itself(service):
    assert requests.get(f"{service}/health", timeout=30).json() == {"status": "ok"}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    model = requests.get(f"{service}/v1/model", headers=headers, timeout=30).json()
    assert (model["name"], model["limits"]) == ("toy", {"megabytes": MAX_MB, "seconds": MAX_SECONDS})
    assert "people" not in model["card"]
    paths = requests.get(f"{service}/openapi.json", timeout=30).json()["paths"]
    assert {"/health", "/v1/model", "/v1/predict"} <= set(paths)
    assert "security" in paths["/v1/predict"]["post"]


def test_prometheus_reads_what_was_served(post, folder):
    assert post("talk.mp4").status_code == 200
    address = re.search(r"Metrics for Prometheus: (\S+)", (folder / "serve.log").read_text())[1]
    wanted = ("facscale_serve_requests", "facscale_serve_frames", "facscale_serve_faces", "facscale_serve_batch_faces")
    for _ in range(300):  # Ray's workers report every ten seconds
        text = requests.get(address, timeout=30).text
        if all(name in text for name in wanted):
            break
        time.sleep(0.2)
    assert [name for name in wanted if name not in text] == []
    assert TOKEN not in text


@pytest.mark.skipif(chromium() is None, reason="needs chromium")
def test_a_person_drops_a_photo_and_a_clip(service, folder):
    with browser_page() as page:
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{service}/")
        page.get_by_text("The token is missing or wrong.").wait_for()
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Go on").click()
        page.get_by_text("toy: AU01 AU12 AU25").wait_for()
        page.locator("#file").set_input_files(folder / "face.jpg")
        page.get_by_text("1 frame, 0 without a face.").wait_for()
        assert page.locator(".bars tr").count() == 3
        assert re.fullmatch(r"0\.\d\d \(\d\.\d of 5\)", page.locator(".bars .value").first.inner_text())
        page.locator("#file").set_input_files(folder / "talk.mp4")
        page.get_by_text("12 frames, 0 without a face.").wait_for()
        track = page.locator('.track[data-au="AU12"]')
        box = track.bounding_box()
        track.click(position={"x": box["width"] * 0.8, "y": 10})
        page.get_by_text("0.75 s, frame 9: 1 face").wait_for()
        assert abs(page.locator("video").evaluate("video => video.currentTime") - 0.75) < 0.05
        keep_screenshot(page, "serve")
        page.locator("#file").set_input_files(folder / "detector.safetensors")
        page.get_by_text("cannot be opened as a video").wait_for()
        assert errors == []


def test_a_token_that_can_be_guessed_is_refused(folder):
    command = [str(Path(sys.executable).parent / "facscale"), "serve", "detector.safetensors"]
    environment = os.environ | {"FACSCALE_SERVE_TOKEN": "short"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "at least 16 characters" in done.stderr
    assert json.dumps("Traceback") not in done.stderr
