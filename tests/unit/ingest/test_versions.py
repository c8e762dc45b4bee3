"""Building versions of a data set: killed anywhere and resumed, in any order of work, and extended by what has changed."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
import simplejpeg

from facscale import ingest
from facscale.data import DataError, Dataset
from facscale.data.derivation import forget_people, list_forgotten
from facscale.data.storage import Folder
from facscale.data.verification import verify_dataset
from facscale.data.versions import find_next_version, list_versions
from facscale.ingest.failures import list_failed
from facscale.ingest.lock import OutputLock
from facscale.ingest.parts import plan_parts
from facscale.ingest.report import IngestReport
from facscale.ingest.tasks import LocalPool
from facscale.ingest.work_store import ItemStatus
from facscale.spec import Pipeline
from plugins.blob_faces import draw, draw_moving_face, write_video

pytestmark = pytest.mark.usefixtures("plugins")
FRAMES = 6


class CountingPool(LocalPool):
    """Counts what is done; tasks are carried out in the order of `random`."""

    def __init__(self, seed: int = 0) -> None:
        self.done: list[str] = []
        self._random = random.Random(seed)

    def run(self, action, rows, *, pipeline):
        rows = list(rows)
        self._random.shuffle(rows)
        for row in rows:
            yield action(row)
            self.done.append(action.func.__name__)


class ForgetfulPool(LocalPool):
    """Ends this process as kill -9 does when a number of files has been put in place, or is about to be."""

    def __init__(self, puts: int, *, is_after: bool) -> None:
        self.puts, self.is_after = puts, is_after

    def install(self) -> None:
        def wrap(place):
            def place_or_die(*words, **options):
                self.puts -= 1
                if not self.puts and not self.is_after:
                    os.kill(os.getpid(), signal.SIGKILL)
                place(*words, **options)
                if not self.puts:
                    os.kill(os.getpid(), signal.SIGKILL)

            return place_or_die

        Folder.put, Folder.write = wrap(Folder.put), wrap(Folder.write)


def make_pipeline(tmp_path: Path, output: str = "out", **more) -> Pipeline:
    return Pipeline.model_validate(
        {
            "name": "set",
            "source": {"layout": "videos", "root": str(tmp_path / "raw")},
            "detector": {"name": "blob", "detect_every_s": 1.0, "shortest_track_s": 0.1},
            "crop": {"size": 64},
            "output": str(tmp_path / output),
            "ingest": {"row_group_mb": 0.1, "shard_mb": 1},
            **more,
        }
    )


def write_videos(tmp_path: Path, names: str, *, frames: int = FRAMES) -> None:
    for name in names:
        write_video(tmp_path / f"raw/{name}/{name}.mp4", draw_moving_face(frames))


def run(spec: Pipeline, *, pool: LocalPool | None = None, **options) -> IngestReport:
    return ingest.run(spec, progress=False, pool=pool or LocalPool(), **options)


def read_files(output: str) -> dict[str, bytes]:
    """Read all that makes the data set: shards, index and manifest."""
    folder = Path(output)
    names = [
        *sorted(path.name for path in folder.glob("*")),
        "__facscale__/index.parquet",
        "__facscale__/manifest.json",
    ]
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


def list_names(output: str) -> list[str]:
    return sorted(str(path.relative_to(output)) for path in Path(output).rglob("*"))


@pytest.fixture
def small_shards(monkeypatch):
    """Parts of two or three of the tests' videos."""
    monkeypatch.setattr("facscale.ingest.parts.MB", 50_000)


def run_and_die(spec_json: str, puts: int, *, is_after: bool) -> None:
    ForgetfulPool(puts, is_after=is_after).install()
    ingest.run(Pipeline.model_validate_json(spec_json), progress=False, pool=LocalPool())


@pytest.mark.usefixtures("small_shards")
def test_killed_at_any_write_and_resumed_the_data_set_is_the_same(tmp_path):
    write_videos(tmp_path, "abcde")
    spec = make_pipeline(tmp_path, "calm")
    run(spec)
    expected = read_files(spec.output)
    assert sum(name.startswith("shard-") for name in expected) > 1
    fork = multiprocessing.get_context("fork")
    output = str(tmp_path / "killed")
    spec, killed = make_pipeline(tmp_path, "killed"), 0
    for number in range(1, 200):
        options = {"spec_json": spec.model_dump_json(), "puts": 1 + number % 4, "is_after": number % 2 == 1}
        child = fork.Process(target=run_and_die, kwargs=options)
        child.start()
        child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        killed += 1
    assert killed > 8
    run(spec)
    assert read_files(output) == expected
    assert list_names(output) == list_names(str(tmp_path / "calm"))


@pytest.mark.usefixtures("small_shards")
def test_the_order_of_the_work_changes_nothing(tmp_path):
    write_videos(tmp_path, "abcdef")
    contents = []
    for seed in range(3):
        spec = make_pipeline(tmp_path, f"order{seed}")
        run(spec, pool=CountingPool(seed))
        contents.append(read_files(spec.output))
    assert contents[0] == contents[1] == contents[2]


@pytest.mark.usefixtures("small_shards")
def test_finished_parts_are_not_written_again_and_faces_are_stored_once(tmp_path):
    write_videos(tmp_path, "abcdef")
    spec = make_pipeline(tmp_path)

    class Interrupted(CountingPool):
        def run(self, action, rows, *, pipeline):
            for number, result in enumerate(super().run(action, rows, pipeline=pipeline)):
                yield result
                if action.func.__name__ == "_write" and number == 0:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, pool=Interrupted())
    folder = Path(spec.output)
    shards = {path: path.stat().st_mtime_ns for path in folder.glob("shard-*")}
    assert len(shards) >= 1
    rows = [pq.read_metadata(path).num_rows for path in (*shards, *folder.glob("_parts/*.parquet"))]
    assert sum(rows) == 6 * FRAMES, "each face is stored once"
    (folder / "shard-00099.parquet").write_bytes(b"of a plan that is no longer one")
    pool = CountingPool()
    run(spec, pool=pool)
    assert "_extract" not in pool.done
    assert pool.done.count("_write") == len({shard.origin for shard in Dataset(spec.output).manifest.shards}) - 1
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    assert not (folder / "shard-00099.parquet").exists()


@pytest.mark.usefixtures("small_shards")
def test_a_source_that_changes_under_an_interrupted_merge(tmp_path):
    """Faces that went into shards of a part that is no longer one are made again."""
    write_videos(tmp_path, "bcdefg")
    spec = make_pipeline(tmp_path)

    class Interrupted(CountingPool):
        def run(self, action, rows, *, pipeline):
            for result in super().run(action, rows, pipeline=pipeline):
                yield result
                if self.done.count("_write") == 2:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, pool=Interrupted())
    write_videos(tmp_path, "a")
    run(spec)
    other = make_pipeline(tmp_path, "other")
    run(other)
    assert Dataset(spec.output).manifest.fingerprint == Dataset(other.output).manifest.fingerprint
    assert not verify_dataset(Dataset(spec.output))


@pytest.mark.usefixtures("small_shards")
def test_a_changed_source_gives_a_version_that_says_what_changed(tmp_path):
    write_videos(tmp_path, "abcdefghijkl")
    (tmp_path / "raw/z.mp4").write_bytes(b"not yet uploaded")
    spec = make_pipeline(tmp_path)
    first = run(spec)
    assert (first.previous, len(first.faults)) == ("", 1)
    before = read_files(spec.output)

    write_videos(tmp_path, "m")
    write_videos(tmp_path, "c", frames=FRAMES + 2)
    write_video(tmp_path / "raw/z.mp4", draw_moving_face(FRAMES))
    (tmp_path / "raw/l/l.mp4").unlink()
    pool = CountingPool()
    report = run(spec, pool=pool)
    assert pool.done.count("_extract") == 3
    assert report.changes == {
        "added": ("m/m.mp4",),
        "replaced": ("c/c.mp4",),
        "repaired": ("z.mp4",),
        "removed": ("l/l.mp4",),
    }
    second = Dataset(f"{spec.output}-v2")
    assert second.manifest.changes == report.changes
    assert (second.manifest.version, second.manifest.previous) == (2, Dataset(spec.output).manifest.fingerprint)
    assert report.output == second.url
    assert f"since {spec.output}: 1 added, 1 replaced, 1 repaired, 1 removed" in report.format_text()
    assert read_files(spec.output) == before, "the first version has not changed"
    assert not verify_dataset(second)
    origins = {shard.origin for shard in Dataset(spec.output).manifest.shards}
    assert 0 < pool.done.count("_write") < len({shard.origin for shard in second.manifest.shards})
    assert origins & {shard.origin for shard in second.manifest.shards}, "shards are taken over"

    fresh = make_pipeline(tmp_path, "fresh")
    run(fresh)
    manifest = Dataset(fresh.output).manifest
    assert (manifest.fingerprint, manifest.counts) == (second.manifest.fingerprint, second.manifest.counts)
    assert Dataset(fresh.output).read_index().equals(second.read_index())

    pool = CountingPool()
    assert run(spec, pool=pool).outcome == "already there"
    assert pool.done == []
    write_videos(tmp_path, "n")
    third = run(spec)
    assert (third.output, third.previous, third.changes["added"]) == (f"{spec.output}-v3", second.url, ("n/n.mp4",))

    for old in (spec.output, second.url):  # no job needs them any more
        shutil.rmtree(old)
    assert run(spec).outcome == "already there"
    assert not verify_dataset(Dataset(third.output))
    write_videos(tmp_path, "o")
    assert run(spec).output == f"{spec.output}-v4"


@pytest.mark.usefixtures("small_shards")
def test_a_store_without_folders_and_links_is_extended_too(tmp_path):
    write_videos(tmp_path, "abcd")
    store = fsspec.filesystem("memory")
    base = f"/{tmp_path.name}"
    for name in "abcd":
        store.pipe(f"{base}/raw/{name}.mp4", (tmp_path / f"raw/{name}/{name}.mp4").read_bytes())
    source = {"layout": "videos", "root": f"memory:/{base}/raw"}
    spec = make_pipeline(tmp_path, source=source).model_copy(update={"output": f"memory:/{base}/set"})
    run(spec)
    write_videos(tmp_path, "e")
    store.pipe(f"{base}/raw/e.mp4", (tmp_path / "raw/e/e.mp4").read_bytes())
    store.rm(f"{base}/raw/a.mp4")
    pool = CountingPool()
    report = run(spec, pool=pool)
    assert (report.changes["added"], report.changes["removed"]) == (("e.mp4",), ("a.mp4",))
    assert pool.done.count("_extract") == 1
    assert not verify_dataset(Dataset(report.output))
    with OutputLock(spec.output), pytest.raises(DataError, match="another run is writing there"):
        OutputLock(spec.output).__enter__()
    left = [name for name in store.find(base) if "_parts" in name or "locks" in name]
    assert not left


def test_a_file_that_is_written_again_counts_by_its_content(tmp_path):
    write_videos(tmp_path, "ab")
    spec = make_pipeline(tmp_path)
    run(spec)
    path = tmp_path / "raw/a/a.mp4"
    os.utime(path, ns=(10**18, 10**18))
    pool = CountingPool()
    assert run(spec, pool=pool).outcome == "already there"
    assert pool.done == ["_hash"]
    pool = CountingPool()
    assert run(spec, pool=pool).outcome == "already there"
    assert pool.done == [], "the new time is stored"
    content = path.read_bytes()
    path.write_bytes(b"\0" * len(content))  # the same size
    report = run(spec)
    assert report.changes["replaced"] == ("a/a.mp4",)
    path.write_bytes(content)
    assert run(spec).changes["repaired"] == ("a/a.mp4",)


def test_a_data_set_of_an_earlier_release_is_kept_but_not_extended(tmp_path):
    write_videos(tmp_path, "ab")
    spec = make_pipeline(tmp_path)
    run(spec)
    table = tmp_path / "out/__facscale__/items.parquet"
    columns = pq.read_table(table)
    pq.write_table(columns.drop_columns(["stamp", "content", "face_bytes", "checksum"]), table)
    assert run(spec).outcome == "already there"
    write_videos(tmp_path, "c")
    with pytest.raises(DataError, match=r"from other source files.*choose another output"):
        run(spec)


def test_labels_with_another_au_are_added_to_all_videos(tmp_path):
    raw = tmp_path / "raw"
    source = {"layout": "bp4d", "root": str(raw)}

    def write(subject: str, au: int) -> None:
        (raw / subject / "T1").mkdir(parents=True)
        (raw / "AUCoding/AU_OCC").mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(draw_moving_face(FRAMES), start=1):
            (raw / subject / f"T1/{number}.jpg").write_bytes(simplejpeg.encode_jpeg(image))
        rows = [f"0,{au}", *(f"{n},{n % 2}" for n in range(1, FRAMES + 1))]
        (raw / f"AUCoding/AU_OCC/{subject}_T1.csv").write_text("\n".join(rows))

    write("F001", 12)
    spec = make_pipeline(tmp_path, source=source)
    run(spec)
    write("M001", 4)
    run(spec)
    data = Dataset(f"{spec.output}-v2")
    assert data.manifest.au == (4, 12)
    expected = [[-1, n % 2] for n in range(1, FRAMES + 1)] + [[n % 2, -1] for n in range(1, FRAMES + 1)]
    assert data.read_columns(["au"])["au"].to_pylist() == expected
    assert data.manifest.counts["labelled_frames"] == 2 * FRAMES


def test_forgotten_people_stay_forgotten(tmp_path):
    write_videos(tmp_path, "abc")
    spec = make_pipeline(tmp_path)
    run(spec)
    forget_people(Dataset(spec.output), find_next_version(spec.output), identities=["b"])
    assert run(spec).outcome == "already there"
    write_videos(tmp_path, "d")
    report = run(spec)
    latest = list_versions(spec.output)[-1]
    assert (report.output, latest.url) == (f"{spec.output}-v3",) * 2
    assert latest.runs.identities == ("a", "c", "d")
    assert (report.changes["added"], report.changes["removed"]) == (("d/d.mp4",), ())
    assert "1 items of people whom a version" in report.format_text()
    assert list_forgotten(latest.manifest.recipe), "a search for runs that have seen them knows"


def test_failed_items_are_listed_and_retried_on_demand(tmp_path, monkeypatch):
    write_videos(tmp_path, "ab")
    write_video(tmp_path / "raw/nobody.mp4", [draw()] * FRAMES)
    with monkeypatch.context() as fault:

        def fail(self, image, box):
            raise MemoryError("no memory")

        calls = iter([False] * 1 + [True] * 1000)
        fits = ingest.detectors.find("blob").predict_landmarks
        fault.setattr(
            "blob_faces.Blob.predict_landmarks",
            lambda self, image, box: fits(self, image, box) if next(calls) else fail(self, image, box),
        )
        spec = make_pipeline(tmp_path)
        run(spec)
    (failed,) = list_failed(spec.output)
    assert "no memory" in failed.faults[0].reason
    assert run(spec).outcome == "already there"
    report = run(spec, should_retry=True)
    assert report.changes["repaired"] == (failed.source,)
    assert list_failed(report.output) == []
    with pytest.raises(DataError, match="no pipeline has written there"):
        list_failed(str(tmp_path))


def test_a_second_run_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path):
    output = str(tmp_path / "out")
    write_videos(tmp_path, "a")
    spec = make_pipeline(tmp_path)
    with (
        OutputLock(output),
        pytest.raises(DataError, match=rf"another run is writing there: process {os.getpid()} on \S+, since 20"),
    ):
        run(spec)
    assert not Path(output).exists() or not list(Path(output).rglob("*.json"))

    fork = multiprocessing.get_context("fork")

    def hold() -> None:
        OutputLock(output).__enter__()
        os.kill(os.getpid(), signal.SIGKILL)

    child = fork.Process(target=hold)
    child.start()
    child.join()
    assert list(Path(output).rglob("locks/*.json")), "its lock is still there"
    assert run(spec).outcome == "made"
    assert not list(Path(output).rglob("locks"))


def test_a_lock_of_another_host_expires(tmp_path, monkeypatch):
    output = str(tmp_path / "out")
    with OutputLock(output):
        (file,) = Path(output).rglob("locks/*.json")
        file.write_text(file.read_text().replace('"host": "', '"host": "elsewhere-'))
        with pytest.raises(DataError, match="on elsewhere-"):
            OutputLock(output).__enter__()
        os.utime(file, (file.stat().st_mtime - 301,) * 2)
        with OutputLock(output) as second:
            second.check()
    with OutputLock(output) as lock:
        (file,) = Path(output).rglob("locks/*.json")
        file.unlink()
        with pytest.raises(DataError, match="another one has started"):
            lock.check()


def make_statuses(count: int, *, seed: int = 0) -> list[ItemStatus]:
    draw_size = random.Random(seed)
    return [
        ItemStatus(
            f"k{number:05d}",
            "s",
            f"id{number:05d}",
            "v",
            "",
            faces=10,
            tracks=1,
            face_bytes=draw_size.randint(1_000_000, 9_000_000),
            checksum=f"c{number}",
        )
        for number in range(count)
    ]


def test_parts_keep_to_their_size_and_one_more_item_changes_few(tmp_path):
    statuses = make_statuses(1000)
    parts = plan_parts(statuses, settings={}, shard_mb=64)
    assert [item.key for part in parts for item in part.items] == [status.key for status in statuses]
    sizes = [sum(item.face_bytes for item in part.items) for part in parts]
    assert max(sizes) <= 64_000_000
    assert min(sizes[:-1]) >= 32_000_000
    keys = {part.key for part in parts}
    changed = []
    for number in range(0, 1000, 20):
        rest = statuses[:number] + statuses[number + 1 :]
        changed.append(len({part.key for part in plan_parts(rest, settings={}, shard_mb=64)} - keys))
    assert sum(changed) / len(changed) < 4
    assert not {part.key for part in plan_parts(statuses, settings={"au": [1]}, shard_mb=64)} & keys


def test_an_item_above_the_size_of_a_shard_is_split(tmp_path):
    small, large = make_statuses(2)
    large = ItemStatus(**{**vars(large), "face_bytes": 200_000_000})
    parts = plan_parts([small, large], settings={}, shard_mb=64)
    assert [(part.is_split, part.name_shard(1)) for part in parts] == [
        (False, "shard-00000.parquet"),
        (True, "shard-00001-001.parquet"),
    ]
