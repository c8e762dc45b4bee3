"""Where detectors are read from: a file, a folder, a run or a registered model of MLflow."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from facscale.data.storage import Folder, is_remote
from facscale.inference.detector import WEIGHTS_FILE, Detector, DetectorError, load_detector_bytes

MAX_BYTES = 8 << 30  # of a file, which is read into memory
RUN_ID = re.compile(r"(?:runs:/)?([0-9a-f]{32})(?:/(.+))?")
MODEL_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+|latest))?")
# In a folder, in this order: a plain one, and a model of MLflow's, whose loader is `inference.pyfunc`.
PLACES = (WEIGHTS_FILE, f"data/detector/{WEIGHTS_FILE}", f"detector/{WEIGHTS_FILE}")


def load_detector(source: str | os.PathLike[str], *, tracker: str = "") -> Detector:
    """Load a detector from a file or folder (a path or URL), `models:/NAME@ALIAS`, `models:/NAME/VERSION`, or a run.

    A run is `runs:/ID`, or the ID alone; `runs:/ID/PATH` names one of several detectors. tracker: MLflow's URI, else
    MLFLOW_TRACKING_URI, else the SQLite file that jobs without a tracker leave beside their runs. Raises DetectorError,
    and DataError for a store that does not answer.
    """
    text = os.fspath(source)
    return load_detector_bytes(read_detector(text, tracker=tracker), source=text)


def read_detector(source: str, *, tracker: str = "") -> bytes:
    """Read the bytes of a detector's file; arguments and errors as in `load_detector`."""
    path = Path(source).expanduser()
    if path.is_dir():
        return _read_folder(path, source=source)
    if path.is_file() or "://" in source:
        return _read_file(source)
    if source.startswith("models:/") or RUN_ID.fullmatch(source):
        return _download(source, uri=tracker or find_tracker())
    raise DetectorError(
        f"{source}: there is no such file or folder (you are in {Path.cwd()}); a model is a {WEIGHTS_FILE}, a folder that "
        "holds one, a run's ID, or models:/NAME@ALIAS"
    )


def find_tracker() -> str:
    """Find the tracker of this environment: MLFLOW_TRACKING_URI, else the SQLite file of local jobs. Raises DetectorError."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    runs = os.environ.get("FACSCALE_RUNS", "~/facscale/runs")
    folders = [Path("~/facscale").expanduser()] if is_remote(runs) else [Path(runs).expanduser()]
    for folder in folders:
        if (folder / "mlflow.db").is_file():
            return f"sqlite:///{folder / 'mlflow.db'}"
    raise DetectorError(
        "which MLflow has the model? set MLFLOW_TRACKING_URI to http://HOST:PORT or sqlite:///FILE, or name the model's file"
    )


def _read_folder(folder: Path, *, source: str) -> bytes:
    files = [folder / place for place in PLACES if (folder / place).is_file()] or sorted(folder.glob("*.safetensors"))
    if len(files) == 1 or (files and files[0].name == WEIGHTS_FILE):
        return _read_file(str(files[0]))
    if not files:
        raise DetectorError(f"{source}: there is no {WEIGHTS_FILE} in this folder")
    raise DetectorError(f"{source}: holds {len(files)} files of weights, such as {files[0].name}; name one of them")


def _read_file(url: str) -> bytes:
    folder, slash, name = url.rpartition("/")
    store = Folder(folder or slash or ".")
    size = store.measure(name)
    if size is None and "://" in url:  # a folder of a store
        store, name = Folder(url), WEIGHTS_FILE
        size = store.measure(name)
    if size is None:
        raise DetectorError(f"{url}: there is no such file, nor a {WEIGHTS_FILE} below it")
    if size > MAX_BYTES:
        raise DetectorError(
            f"{url}: {size:,} bytes are more than any detector has ({MAX_BYTES:,}); is it the right file?"
        )
    return store.read(name)


def _download(source: str, *, uri: str) -> bytes:
    from facscale.track.fetch import ModelNotFoundError, download_model, download_run_file  # MLflow takes a second

    with tempfile.TemporaryDirectory(prefix="facscale-") as scratch:
        try:
            if match := RUN_ID.fullmatch(source):
                file = download_run_file(match[1], match[2] or WEIGHTS_FILE, into=scratch, uri=uri)
                return _read_folder(file, source=source) if file.is_dir() else _read_file(str(file))
            if not (match := MODEL_URI.fullmatch(source)):
                raise DetectorError(f"{source}: write models:/NAME@ALIAS or models:/NAME/VERSION")
            folder = download_model(match["name"], match["alias"] or "", match["version"] or "", into=scratch, uri=uri)
        except ModelNotFoundError as error:
            raise DetectorError(f"{source}: {error}") from None
        return _read_folder(folder, source=source)
