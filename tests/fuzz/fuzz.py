"""Feeds damaged and forged files to everything that reads a file of others: `make fuzz`, or `make fuzz SECONDS=3600`.

    python tests/fuzz/fuzz.py [TARGET...] [--seconds 60] [--seed 0]

A reader may accept what it is given, or refuse it with a UserError in one line; any other exception is a defect. The input
that caused one is stored under tests/fuzz/corpus/TARGET, which the unit tests read again, and the exit status is 1.
Inputs are mutations of sound files (made here) and of the corpus: bytes flipped, cut, doubled; values of JSON and YAML
replaced by others, keys dropped; archives with damaged members.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "platform")]
CORPUS = Path(__file__).with_name("corpus")
VALUES = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 1e308, float("nan"), float("inf"), "", "a", "../x", "\0", "é", "x" * 300,
    "9" * 400, [], {}, [[]], [None], {"a": {}}, [1, "b"], {"(a)": 1}, "${HOME}", "!!python/none", "&a [*a]",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A reader of files from elsewhere."""

    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes], Any]
    is_json: bool = False


# ------------------------------------------------------------------ readers, with sound files for them


def read_job(data: bytes) -> None:
    """What `facscale check` does before data is read."""
    from facscale.job.check import check_spec, resolve_yaml
    from facscale.spec import read_spec

    check_spec_file(data, lambda path: resolve_yaml(check_spec(read_spec(path), name="job")[0]))


def read_pipeline(data: bytes) -> None:
    """What `facscale run` of a pipeline does before anything is read."""
    from facscale.ingest import configure
    from facscale.spec import read_spec

    check_spec_file(data, lambda path: configure(read_spec(path)))


def check_spec_file(data: bytes, read: Callable[[Path], Any]) -> None:
    """Give a reader a file with this content."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spec.yaml"
        path.write_bytes(data)
        read(path)


def list_specs(folder: str) -> list[bytes]:
    """Our own jobs or pipelines, with `extends` resolved by leaving out those that have it."""
    files = sorted((TESTS.parent / folder).glob("*.yaml"))
    return [data for file in files if b"extends:" not in (data := file.read_bytes())]


@cache
def make_faces() -> tuple[Path, bytes]:
    """A data set, and its manifest."""
    from faces import write_face_data_set
    from facscale.data.manifest import MANIFEST

    folder = Path(tempfile.mkdtemp(prefix="fuzz-")) / "faces"
    write_face_data_set(str(folder), [12] * 3, au=(1, 12), row_group_mb=0.2)
    return folder, (folder / MANIFEST).read_bytes()


def read_manifest(data: bytes) -> None:
    """What opens a data set."""
    from facscale.data import Dataset
    from facscale.data.manifest import MANIFEST

    folder, _ = make_faces()
    (folder / MANIFEST).write_bytes(data)
    dataset = Dataset(str(folder))
    len(dataset.runs)
    sum(dataset.manifest.counts.values())


def make_card() -> bytes:
    """A card with all that cards can hold."""
    result = {
        "aus": [1, 12],
        "folds": ["fold0", "fold1"],
        "f1": [[0.5, None], [0.25, 1]],
        "mean": 0.58,
        "threshold": 0.5,
    }
    paper = {
        "name": "CLP", "source": "TIP 2023", "printed": {"AU1": 50.0}, "difference": {"AU1": -1.5}, "mean_difference": -1.5
    }  # fmt: skip
    folds = {"source": "published", "hash": "ab" * 8, "subjects": {"fold0": ["a"], "fold1": ["b"]}}
    counts = {"identities": 2, "frames": 10}
    data = {"name": "bp4d", "url": "/data/bp4d", "fingerprint": "ab" * 32, "counts": counts, "recipe": {}}
    card = {
        "job": "clp", "row": "clp", "seed": 0, "spec": {"method": {"name": "clp"}},
        "data": [{**data, "role": "pre-training"}, {**data, "role": "evaluation", "aus": [1, 12], "folds": folds}],
        "weights": {"clp": {"url": "/runs/clp", "sha256": "ab" * 32}}, "results": {"bp4d": result},
        "papers": {"bp4d": [paper]}, "versions": {"torch": "2"}, "commit": "", "cluster": "", "schema": 1, "notes": [],
    }  # fmt: skip
    return json.dumps(card).encode()


def read_card(data: bytes) -> None:
    """What `facscale verify` reads, and what its page shows."""
    from facscale.job.card import Card, render_card
    from facscale.job.verify import build_card_variant

    card = Card.from_json(data, source="card.json")
    render_card(card)
    build_card_variant(card, changes=[])


def make_journal() -> bytes:
    """A journal with a record of each kind."""
    records = [
        {"do": "run", "run": "job", "lane": "records", "uri": "sqlite:////tmp/x.db", "experiment": "e", "name": "clp",
         "tags": {"a": "b"}, "parent": "", "time": 1},
        {"do": "metrics", "run": "job", "lane": "records", "step": 1, "values": {"loss": 0.5}, "time": 1},
        {"do": "params", "run": "job", "lane": "records", "values": {"a": "1"}},
        {"do": "artifact", "run": "job", "lane": "files", "file": "x", "name": "a.txt", "folder": ""},
    ]  # fmt: skip
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def read_journal(data: bytes) -> None:
    """What `facscale sync` reads before it sends."""
    from facscale.track.sync import plan_sync

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "journal.jsonl").write_bytes(data)
        (Path(folder) / "sent.json").write_bytes(data[:200])
        plan_sync(Path(folder))


def make_predictions() -> bytes:
    """Predictions of two AUs."""
    from predicted import make_tied_predictions

    return make_tied_predictions(20).to_parquet()


def read_predictions(data: bytes) -> None:
    """What `facscale compare` reads of runs."""
    from facscale.evaluate import Predictions

    Predictions.from_parquet(data).score(0.5)


@cache
def make_exports() -> tuple[bytes, ...]:
    """An export of ours, and weights as torch.save writes them."""
    import torch

    from facscale.inference import export
    from facscale.methods import DataFacts, find_method
    from facscale.nn import ResNet

    config = find_method("simsiam").Config(depth=18, width=2, projection=4, bottleneck=2)
    torch.manual_seed(0)
    archive = io.BytesIO()
    torch.save(ResNet(18, width=2).state_dict(), archive)
    return export.save_export(export.build_method("simsiam", config, DataFacts())), archive.getvalue()


def read_export(data: bytes) -> None:
    """What `inputs:`, `start:` and `facscale retrieve` load."""
    from facscale.inference.export import load_export

    load_export(data)


@cache
def make_detectors() -> tuple[bytes, ...]:
    """A detector with probes, and one with the head of its method."""
    from detectors import make_detector
    from facscale.inference.detector import save_detector

    probed = make_detector("simsiam", probe=True, intensities=True)
    return save_detector(probed), save_detector(make_detector())


def read_detector(data: bytes) -> None:
    """What `facscale predict` does with its model, and what `facscale export --to hf` says of it."""
    from facscale.inference.api import AUDetector
    from facscale.inference.detector import load_detector_bytes
    from facscale.inference.hub_export import render_model_card

    detector = load_detector_bytes(data)
    assert AUDetector(detector, device="cpu").predictor.face_detector
    render_model_card(detector)


TARGETS = {
    "jobs": Target(lambda: list_specs("jobs"), read_job),
    "pipelines": Target(lambda: list_specs("pipelines"), read_pipeline),
    "manifests": Target(lambda: [make_faces()[1]], read_manifest, is_json=True),
    "cards": Target(lambda: [make_card()], read_card, is_json=True),
    "journals": Target(lambda: [make_journal()], read_journal),
    "predictions": Target(lambda: [make_predictions()], read_predictions),
    "exports": Target(lambda: list(make_exports()), read_export),
    "detectors": Target(lambda: list(make_detectors()), read_detector),
}


# ------------------------------------------------------------------ mutations


def mutate(data: bytes, chance: random.Random, *, is_json: bool) -> bytes:
    """One to three changes of a file."""
    for _ in range(chance.randint(1, 3)):
        kinds: list[Callable[[bytes, random.Random], bytes]] = [change_bytes, change_lines]
        if is_json or data[:1] in (b"{", b"["):
            kinds += [change_json] * 6
        if data[:2] == b"PK":
            kinds += [change_archive] * 2
        if data[8:9] == b"{":
            kinds += [change_header] * 3
        data = chance.choice(kinds)(data, chance)
    return data


def change_bytes(data: bytes, chance: random.Random) -> bytes:
    """Flip, cut, repeat or insert bytes."""
    if not data:
        return bytes([chance.randrange(256)])
    start = chance.randrange(len(data))
    end = min(len(data), start + chance.choice([1, 1, 2, 8, 64, 1024]))
    return {
        0: data[:start] + bytes([data[start] ^ (1 << chance.randrange(8))]) + data[start + 1 :],
        1: data[:start],
        2: data[:start] + data[end:],
        3: data[:end] + data[start:],
        4: data[:start] + bytes(chance.randrange(256) for _ in range(end - start)) + data[end:],
    }[chance.randrange(5)]


def change_lines(data: bytes, chance: random.Random) -> bytes:
    """Replace the value of a line, drop a line, or double it."""
    lines = data.split(b"\n")
    number = chance.randrange(len(lines))
    key, colon, _ = lines[number].partition(b":")
    if chance.random() < 0.6 and colon:
        lines[number] = key + b": " + dump(chance.choice(VALUES))
    elif chance.random() < 0.5:
        lines.insert(number, lines[number])
    else:
        del lines[number]
    return b"\n".join(lines)


def change_json(data: bytes, chance: random.Random) -> bytes:
    """Replace, drop or add a value somewhere in a JSON document."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return change_bytes(data, chance)
    places = list(iterate_places(document))
    if not places:
        return dump(chance.choice(VALUES))
    parent, key = chance.choice(places)
    change = chance.randrange(4)
    if change == 0:
        del parent[key]
    elif change == 1 and isinstance(parent, dict):
        parent[str(chance.choice(["(a)", "name", "", "é", "int"]))] = parent[key]
    else:
        parent[key] = chance.choice(VALUES)
    return dump(document)


def iterate_places(document: Any) -> Iterator[tuple[Any, Any]]:
    """All places of values in a document."""
    for key in (
        list(document) if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    ):
        yield document, key
        yield from iterate_places(document[key])


def change_archive(data: bytes, chance: random.Random) -> bytes:
    """Change a member of a zip archive, which its checksums then fit."""
    out = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as archive:
            names = source.namelist()
            chosen = chance.choice(names)
            for name in names:
                content = source.read(name)
                archive.writestr(name, change_bytes(content, chance) if name == chosen else content)
    except Exception:  # noqa: BLE001 - an archive that an earlier change damaged
        return change_bytes(data, chance)
    return out.getvalue()


def change_header(data: bytes, chance: random.Random) -> bytes:
    """Change the JSON header of a safetensors file, or the recipe in it."""
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
        metadata = header.get("__metadata__", {})
        if isinstance(metadata, dict) and metadata and chance.random() < 0.7:
            key = chance.choice(sorted(metadata))
            metadata[key] = change_json(metadata[key].encode(), chance).decode(errors="replace")
            text = dump(header)
        else:
            text = change_json(data[8 : 8 + size], chance)
    except (ValueError, AttributeError, RecursionError):
        return change_bytes(data, chance)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def dump(value: Any) -> bytes:
    """JSON, which is YAML too."""
    return json.dumps(value).encode()


# ------------------------------------------------------------------ the run


def find_defect(target: Target, data: bytes) -> str:
    """The traceback of an exception that is no UserError, or a message of several paragraphs; "" where all is well."""
    from facscale.errors import UserError

    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            target.read(data)
    except UserError as error:
        return "" if str(error).strip() else f"an empty message: {error!r}"
    except Exception:  # noqa: BLE001 - that is what is looked for
        return traceback.format_exc()
    return ""


def fuzz(name: str, *, seconds: float, seed: int) -> int:
    """Try one target for some seconds; the number of distinct defects, whose inputs are stored in the corpus."""
    target, chance = TARGETS[name], random.Random(f"{name} {seed}")
    pool = [*target.seeds(), *(file.read_bytes() for file in sorted((CORPUS / name).glob("*")))]
    for data in pool[: len(target.seeds())]:
        if defect := find_defect(target, data):
            raise SystemExit(f"{name}: a sound file is refused\n{defect}")
    found, tried, end = set[str](), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutate(chance.choice(pool), chance, is_json=target.is_json)
        tried += 1
        began = time.monotonic()
        defect = find_defect(target, data)
        if (took := time.monotonic() - began) > 20:
            defect = defect or f"it took {took:.0f} s"
        places = [line.strip() for line in defect.splitlines() if line.strip().startswith("File ")]
        key = places[-1] + defect.splitlines()[-1][:30] if places else defect[:40]
        if not defect or key in found:
            continue
        found.add(key)
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        file = CORPUS / name / hashlib.sha256(data).hexdigest()[:12]
        file.write_bytes(data)
        print(f"{name}: {file}\n{defect}", flush=True)
    print(f"{name}: {tried:,} inputs, {len(found)} defects", flush=True)
    return len(found)


def main() -> int:
    """Run the targets of the command line, or all of them, each for its share of the time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], help="by default all")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    names = options.targets or list(TARGETS)
    return int(sum(fuzz(name, seconds=options.seconds / len(names), seed=options.seed) for name in names) > 0)


if __name__ == "__main__":
    sys.exit(main())
