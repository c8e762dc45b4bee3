"""Images with fields: a folder with a table, tar files, Hugging Face datasets; and EmotioNet's lists."""

from __future__ import annotations

import io
import json
import tarfile
from typing import ClassVar

import fsspec
import fsspec.implementations.memory
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg

from facscale.data import DataError, Dataset
from facscale.data.manifest import Runs
from facscale.evaluate.protocol import LabelledDataset, build_groups
from facscale.ingest.extract import FaceExtractor
from facscale.ingest.frames import read_ahead
from facscale.ingest.items import Fault, Item, list_files, read_bytes
from facscale.ingest.pipeline import build_recipe, list_items
from facscale.ingest.tasks import LocalPool
from facscale.spec import Job, Pipeline, SpecError
from facscale.spec.models import Evaluate
from merging import merge_items

JOINT = {"method": {"name": "moco"}, "data": {"unlabelled": "u", "labelled": ["a", "b"], "joint": True}}


def picture(level):
    return simplejpeg.encode_jpeg(np.full((32, 32, 3), level, np.uint8))


def pipeline(root, out="/nowhere", *, layout="table", detector=None, **source):
    return Pipeline.model_validate(
        {
            "name": "t",
            "source": {"layout": layout, "root": str(root), **source},
            "detector": detector or {"name": "none"},
            "crop": {"size": 32},
            "output": str(out),
        }
    )


def select(made):
    return list_items(made, list_files(made.source.root))


def build(made):
    """Run the pipeline in this process; returns (the columns of the data set as lists, mean level of each crop)."""
    listing = list_files(made.source.root)
    selection = list_items(made, listing)
    extractor = FaceExtractor(made, run="r")
    items = [Item.from_json(item.to_json()) for item in selection.items]  # as a worker gets them
    statuses = [extractor(item, item.compute_key(listing.files)) for item in items]
    statuses.sort(key=lambda status: status.sort_key)
    merge_items(statuses, pipeline=made, recipe=build_recipe(made))
    data = Dataset(made.output)
    table = data.read_columns([name for name in data.read(shard=0, row_group=0).column_names if name != "landmarks"])
    levels = [round(float(simplejpeg.decode_jpeg(jpeg).mean())) for jpeg in table["jpeg"].to_pylist()]
    return data, table.drop_columns(["jpeg"]).to_pydict(), levels


def test_each_track_keeps_its_own_frame_rate(tmp_path):
    root = tmp_path / "raw/cropped_aligned"
    for folder, numbers in (("46-24-484x360", (1, 2, 3, 4)), ("video59", (10, 20, 30))):
        (root / folder).mkdir(parents=True)
        for number in numbers:
            (root / folder / f"{number:05d}.jpg").write_bytes(picture(number))
    data, _, _ = build(pipeline(tmp_path / "raw", tmp_path / "out", layout="affwild2", labels=False))
    runs = data.runs
    people = [runs.identities[code] for code in runs.identity]
    assert list(zip(people, runs.frames, runs.fps, runs.every, strict=True)) == [
        ("46-24-484x360", 4, 24, 1),
        ("video59", 3, 30, 10),
    ]
    assert data.manifest.fps == 24  # of most faces
    older = pq.read_table(tmp_path / "out/__facscale__/index.parquet").drop_columns(["fps", "every"])
    assert Runs.from_table(older).fps is None


def test_the_official_split_of_videos_is_stored_and_tested(tmp_path):
    for video, part in (("a", "Train"), ("b", "Train"), ("c", "Validation"), ("d", "")):
        (tmp_path / f"raw/cropped_aligned/{video}").mkdir(parents=True)
        for number in (1, 2, 3):
            (tmp_path / f"raw/cropped_aligned/{video}/{number:05d}.jpg").write_bytes(picture(9))
        if part:
            labels = tmp_path / f"raw/annotations/AU_Set/{part}_Set/{video}.txt"
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.write_text("AU1,AU2\n0,1\n1,0\n1,1\n")
    data, columns, _ = build(pipeline(tmp_path / "raw", tmp_path / "out", layout="affwild2"))
    assert dict(zip(columns["identity"], columns["part"], strict=True)) == {
        "a": "train",
        "b": "train",
        "c": "validation",
        "d": "",
    }
    official = LabelledDataset.open(data.url, evaluate=Evaluate())
    assert [(fold.name, fold.train, fold.test) for fold in official.split] == [("official", {"a", "b"}, {"c"})]
    drawn = LabelledDataset.open(data.url, evaluate=Evaluate(folds=2, official_split=False))
    assert sorted(map(len, (fold.test for fold in drawn.split))) == [2, 2]
    with pytest.raises(DataError, match="only one, and evaluate.repeats is 2; set evaluate.official_split=false"):
        LabelledDataset.open(data.url, evaluate=Evaluate(repeats=2))
    with pytest.raises(DataError, match=r"the same number of folds \(here: t 1, t 2\); set evaluate.official_split=fa"):
        build_groups(Job.model_validate(JOINT), [official, drawn])


def write_folder(root, rows, *, table="labels.csv", images=range(6)):
    root.mkdir(parents=True, exist_ok=True)
    (root / table).write_text("".join(f"{row}\n" for row in rows))
    for number in images:
        (root / "img").mkdir(exist_ok=True)
        (root / f"img/{number}.jpg").write_bytes(picture(12 * number))


def test_a_table_with_people_videos_and_frames_gives_videos(tmp_path):
    rows = ["image,identity,video,frame,AU01,AU12", *(f"img/{n}.jpg,anna,v{n // 3},{n},{n % 2},9" for n in range(6))]
    write_folder(tmp_path / "raw", rows)
    data, columns, levels = build(pipeline(tmp_path / "raw", tmp_path / "out"))
    assert data.manifest.au == (1,)
    assert columns["video"] == ["v0"] * 3 + ["v1"] * 3
    assert (columns["frame"], columns["track"]) == (list(range(6)), [0] * 6)
    assert columns["au"] == [[0], [1], [0], [1], [0], [1]]
    assert levels == pytest.approx([12 * n for n in range(6)], abs=2)


def test_a_table_with_people_alone_gives_a_track_for_each_image(tmp_path):
    write_folder(tmp_path / "raw", ["image,identity,AU1", *(f"./img/{n}.jpg,p{n % 2},1.0" for n in range(6))])
    made = pipeline(tmp_path / "raw", tmp_path / "out", detector={"name": "none", "shortest_track_s": 0.2})
    data, columns, levels = build(made)
    assert columns["identity"] == ["p0"] * 3 + ["p1"] * 3
    assert data.manifest.fps == 0
    assert columns["track"] == [0, 1, 2, 0, 1, 2]
    assert data.manifest.counts["tracks"] == 6
    assert levels == pytest.approx([0, 24, 48, 12, 36, 60], abs=2)


def test_a_table_of_nobody_gives_a_person_for_each_image_and_keeps_the_labels(tmp_path):
    rows = ["file\tAU 1\tAU 4", *(f"{n}.jpg\t{n % 2}\t{'' if n == 3 else 0}" for n in range(6))]
    write_folder(tmp_path / "raw", rows, table="labels.tsv")
    made = pipeline(tmp_path / "raw", tmp_path / "out", table="labels.tsv", image="file", folder="img")
    data, columns, _ = build(made)
    assert columns["identity"] == [f"img_{n}.jpg" for n in range(6)]
    assert columns["au"] == [[0, 0], [1, 0], [0, 0], [1, -1], [0, 0], [1, 0]]
    assert (data.manifest.au, data.manifest.counts["labelled_frames"]) == ((1, 4), 6)


def test_a_table_of_expressions_keeps_the_split(tmp_path):
    rows = [
        "image,emotion,split",
        *(f"img/{n}.jpg,{'sad' if n % 2 else 'happy'},{'val' if n < 2 else 'train'}" for n in range(6)),
    ]
    write_folder(tmp_path / "raw", rows)
    made = pipeline(tmp_path / "raw", tmp_path / "out", expression="emotion", expressions=["happy", "sad"])
    data, columns, _ = build(made)
    assert data.manifest.expressions == ("happy", "sad")
    assert sorted(zip(columns["identity"], columns["part"], columns["expression"], strict=True)) == [
        (f"img_{n}.jpg", "test" if n < 2 else "train", n % 2) for n in range(6)
    ]
    with pytest.raises(SpecError, match=r"source\.expressions: name the classes"):
        select(pipeline(tmp_path / "raw", expression="emotion"))


def test_rows_that_do_not_fit_are_said_and_cost_only_themselves(tmp_path):
    rows = ["image,identity,AU1", *(f"img/{n}.jpg,p,1" for n in range(8)), "img/0.jpg,p,1", "img/1.jpg,p,0"]
    write_folder(tmp_path / "raw", rows)
    selection = select(pipeline(tmp_path / "raw"))
    assert [file for item in selection.items for file in item.files] == [f"img/{n}.jpg" for n in (0, 2, 3, 4, 5)]
    assert selection.faults == (
        Fault("img/1.jpg", "labels", "two rows that differ (labels.csv, line 3; labels.csv, line 11): left out"),
        Fault("img/6.jpg", "labels", "label rows without an image (of 7): 2, such as labels.csv, line 8; left out"),
    )
    assert selection.notes[0] == "passed over: .jpg files in img/: 1, such as img/1.jpg"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["file,AU1", "img/1.jpg,1"], r"line 1: there is no column 'image'; there are: file, AU1; set source\.image"),
        (["image,AU1,AU1", "img/1.jpg,1,1"], "the column 'AU1' occurs twice"),
        (["image,AU1", "img/1.jpg"], "labels.csv, line 2: 1 values under a header of 2"),
        (["image,AU1", "img/1.jpg,yes"], "labels.csv, line 2, AU1: 'yes' is none of 0, 1"),
        (["image,AU1", "elsewhere/1.jpg,1"], r"none of the 1 listed images exists, such as elsewhere/1\.jpg"),
        (["image,identity", "img/1.jpg,a", "img/2.jpg,"], "labels.csv, line 3: the field 'identity' is empty here"),
        (["image,identity,frame", "img/1.jpg,a,x"], "labels.csv, line 2: 'x' is not a number"),
    ],
)
def test_errors_of_tables_name_the_line(tmp_path, rows, message):
    write_folder(tmp_path, rows)
    with pytest.raises(DataError, match=message):
        select(pipeline(tmp_path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"au": [1, 12]}, "x.jpg, au: a list of AUs does not say which others are absent"),
        ({"AU1": 1, "AU01": 0}, "x.jpg: AU1 has two fields, one of them AU01; remove one"),
    ],
)
def test_labels_whose_meaning_is_open_are_an_error(tmp_path, fields, message):
    write_tar(tmp_path / "raw/a.tar", {"x.jpg": picture(9), "x.json": json.dumps(fields).encode()})
    with pytest.raises(DataError, match=message):
        select(pipeline(tmp_path / "raw", layout="webdataset"))


def write_tar(path, members, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_webdataset_joins_images_and_json_by_their_names(tmp_path):
    for shard in range(2):
        members = {}
        for n in range(3):
            members[f"./{shard}{n}.jpg"] = picture(60 * shard + 20 * n)
            members[f"./{shard}{n}.json"] = json.dumps(
                {"identity": f"p{n % 2}", "au": {"1": n % 2, "AU12": 9}}
            ).encode()
        write_tar(tmp_path / f"raw/{shard:06d}.tar", members)
    _, columns, levels = build(pipeline(tmp_path / "raw", tmp_path / "out", layout="webdataset"))
    assert columns["identity"] == ["p0"] * 4 + ["p1"] * 2  # people of several tar files are joined
    assert levels == pytest.approx([0, 40, 60, 100, 20, 80], abs=2)
    assert columns["au"] == [[0]] * 4 + [[1]] * 2


def test_webdataset_of_nobody_and_with_people_in_its_names(tmp_path):
    write_tar(tmp_path / "raw/a.tar", {f"id1/vid/0_folder/img_0_{n:03d}.jpg": picture(20 * n) for n in (2, 0, 1)})
    _, columns, _ = build(pipeline(tmp_path / "raw", tmp_path / "nobody", layout="webdataset"))
    assert len(set(columns["identity"])) == 3
    _, columns, levels = build(pipeline(tmp_path / "raw", tmp_path / "people", layout="webdataset", levels=3, fps=1))
    assert (set(columns["identity"]), set(columns["video"])) == ({"id1"}, {"vid/0_folder"})
    assert (columns["frame"], columns["time_s"]) == ([0, 1, 2], [0, 1, 2])
    assert levels == pytest.approx([0, 20, 40], abs=2)


def test_webdataset_in_a_bucket_is_read_by_ranges(tmp_path):
    write_tar(tmp_path / "a.tar", {"1.jpg": picture(50), "1.cls": b"3", "2.jpg": picture(90)})
    system = fsspec.filesystem("memory")
    system.pipe_file("/webdataset/a.tar", (tmp_path / "a.tar").read_bytes())
    (batch,) = select(pipeline("memory://webdataset", layout="webdataset")).items
    assert [simplejpeg.decode_jpeg(read_bytes("memory://webdataset", file)).mean() for file in batch.files] == [50, 90]


def test_images_are_found_in_either_unicode_form(tmp_path):
    composed, decomposed = "Jos\u00e9/a.jpg", "Jose\u0301/a.jpg"
    (tmp_path / decomposed).parent.mkdir()
    (tmp_path / decomposed).write_bytes(picture(9))
    (tmp_path / "labels.csv").write_text(f"image,identity\n{composed},x\n")
    selection = select(pipeline(tmp_path, layout="table"))
    assert [item.files for item in selection.items] == [(decomposed,)]
    assert selection.faults == ()


def test_workers_list_the_images_of_a_bucket_as_threads_do(tmp_path):
    system, base = fsspec.core.url_to_fs("memory://tars")
    for shard in range(3):
        fields = {f"{n}.json": json.dumps({"identity": f"p{shard}", "AU1": n % 2}).encode() for n in range(4)}
        write_tar(tmp_path / "a.tar", {**{f"{n}.jpg": picture(9 * n) for n in range(4)}, **fields})
        system.pipe_file(f"{base}/{shard}.tar", (tmp_path / "a.tar").read_bytes())
    made = pipeline("memory://tars", layout="webdataset")
    listing = list_files("memory://tars")
    selection = list_items(made, listing, LocalPool)
    assert [item.identity for item in selection.items] == ["p0", "p1", "p2"]
    assert selection == list_items(made, listing)
    system.pipe_file(f"{base}/3.tar", b"x" * 2000)
    with pytest.raises(DataError, match=r"memory://tars: 3\.tar: not a plain tar file"):
        list_items(made, list_files("memory://tars"), LocalPool)


def test_webdataset_that_cannot_be_indexed_is_an_error(tmp_path):
    write_tar(tmp_path / "a/x.tar.gz", {"1.jpg": picture(1)}, mode="w:gz")
    with pytest.raises(DataError, match=r"there is no tar file; x\.tar\.gz is compressed: unpack it"):
        select(pipeline(tmp_path / "a", layout="webdataset"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b/x.tar").write_bytes((tmp_path / "a/x.tar.gz").read_bytes())
    with pytest.raises(DataError, match=r"x\.tar: not a plain tar file"):
        select(pipeline(tmp_path / "b", layout="webdataset"))
    write_tar(tmp_path / "c/x.tar", {"1.jpg": picture(1), "1.json": b"{"})
    with pytest.raises(DataError, match=r"x\.tar::.*::1\.json: not JSON"):
        select(pipeline(tmp_path / "c", layout="webdataset"))


def make_hub_table(count=6):
    """A table as Hugging Face's library writes it: images as bytes and path, class numbers with names."""
    features = {"label": {"names": ["happy", "sad"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    table = pa.table(
        {
            "image": [{"bytes": picture(5 * n), "path": f"{n}.jpg"} for n in range(count)],
            "person": pa.array([n // 2 for n in range(count)], pa.int64()),
            "label": pa.array([n % 2 for n in range(count)], pa.int64()),
            "AU1": pa.array([None if n == 1 else n % 2 for n in range(count)], pa.int8()),
        }
    )
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def test_hugging_face_parquet_with_people(tmp_path):
    (tmp_path / "raw/data").mkdir(parents=True)
    pq.write_table(make_hub_table(), tmp_path / "raw/data/train-00000-of-00001.parquet", row_group_size=4)
    made = pipeline(tmp_path / "raw", tmp_path / "out", layout="huggingface", identity="person")
    _, columns, levels = build(made)
    assert columns["identity"] == ["0", "0", "1", "1", "2", "2"]
    assert columns["au"] == [[0], [-1], [0], [1], [0], [1]]
    assert levels == pytest.approx([5 * n for n in range(6)], abs=2)
    with pytest.raises(DataError, match="there is no column 'photo'; there are: image, person"):
        select(pipeline(tmp_path / "raw", layout="huggingface", image="photo"))


class CountedStore(fsspec.implementations.memory.MemoryFileSystem):
    """A store that is not this machine's disk; notes which files are opened."""

    protocol = "counted"
    store: ClassVar[dict] = {}
    opened: ClassVar[list] = []

    def open(self, path, *args, **options):
        self.opened.append(path)
        return super().open(path, *args, **options)


def test_threads_that_read_ahead_fetch_a_row_group_once(tmp_path):
    fsspec.register_implementation("counted", CountedStore, clobber=True)
    with io.BytesIO() as file:
        pq.write_table(make_hub_table(40), file, row_group_size=20)
        system, base = fsspec.core.url_to_fs("counted://hub")
        system.pipe_file(f"{base}/a.parquet", file.getvalue())
    names = [f"a.parquet::{row}::image" for row in range(40)]
    CountedStore.opened.clear()
    images = [content.result() for content in read_ahead(names, root="counted://hub")]
    assert images == [picture(5 * row) for row in range(40)]
    assert len(CountedStore.opened) == 1 + 2  # the footer, and the two row groups


def test_hugging_face_arrow_with_expressions(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "raw" / split).mkdir(parents=True)
        table = make_hub_table(4)
        with pa.ipc.new_stream(tmp_path / f"raw/{split}/data-00000-of-00001.arrow", table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
    options = {"expression": "label", "expressions": ["sad", "happy"]}
    made = pipeline(tmp_path / "raw", tmp_path / "out", layout="huggingface", **options)
    _, columns, levels = build(made)
    assert columns["part"] == ["test"] * 4 + ["train"] * 4
    assert columns["expression"] == [1, 0, 1, 0] * 2
    assert levels == pytest.approx([0, 5, 10, 15] * 2, abs=2)


def test_emotionet_has_lists_of_links(tmp_path):
    def row(number, *present):
        codes = [1 if au in present else 999 if au > 40 else 0 for au in range(1, 61)]
        return "\t".join([f"http://host/N_1/N_{number:010d}_00001.jpg?x=1", "http://there/a.jpg", *map(str, codes)])

    lists = tmp_path / "raw/emotioNet_challenge_files_server_challenge_1.2_aws"
    lists.mkdir(parents=True)
    (lists / "dataFile_0001.txt").write_text("".join(f"{row(n, n + 1, 12)}\n" for n in range(4)))
    (lists / "readme.txt").write_text("Read me\n")
    (tmp_path / "raw/images/0").mkdir(parents=True)
    for n in range(3):
        (tmp_path / f"raw/images/0/N_{n:010d}_00001.jpg").write_bytes(picture(30 * n))
    made = pipeline(tmp_path / "raw", tmp_path / "out", layout="emotionet", aus=[1, 2, 12, 43])
    selection = select(made)
    assert [(fault.stage, fault.reason) for fault in selection.faults] == [
        ("labels", "label rows without an image (of 4): 1, such as N_0000000003_00001.jpg; left out")
    ]
    data, columns, _ = build(made)
    assert data.manifest.au == (1, 2, 12)
    assert columns["identity"] == [f"N_{n:010d}_00001" for n in range(3)]
    (tmp_path / "raw/images/1").mkdir()
    (tmp_path / "raw/images/1/N_0000000001_00001.jpg").write_bytes(picture(200))
    faults = [fault.reason for fault in select(made).faults]
    assert "N_0000000001_00001 is listed twice, as images/0/N_0000000001_00001.jpg" in faults[0]
    assert columns["au"] == [[1, 0, 1], [0, 1, 1], [0, 0, 1]]


def test_emotionet_manual_labels_are_a_table_with_a_header(tmp_path):
    (tmp_path / "N_1_2.jpg").write_bytes(picture(9))
    (tmp_path / "emotionet_facs_24600.xlsx").write_bytes(b"PK")
    made = pipeline(tmp_path, layout="emotionet")
    with pytest.raises(DataError, match=r"no list of AUs .*; save emotionet_facs_24600\.xlsx as CSV beside it"):
        select(made)
    (tmp_path / "emotionet_facs_24600.csv").write_text("URL,\"'AU 1'\",\"'AU 01'\"\nhttp://h/N_1_2.jpg,1,0\n")
    with pytest.raises(DataError, match=r"24600\.csv, line 1: AU1 has two columns"):
        select(made)
    (tmp_path / "emotionet_facs_24600.csv").write_text("URL,\"'AU 1'\",\"'AU 43'\"\nhttp://h/N_1_2.jpg,1,999\n")
    (batch,) = select(made).items
    assert (batch.people, batch.au, batch.occurrence) == (("N_1_2",), (1,), ("1",))
