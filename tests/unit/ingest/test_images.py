"""Data sets of single images with expressions: hand-written lists, and rendered faces from images to shards."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import simplejpeg

from facscale.data import DataError, Dataset
from facscale.ingest import layouts
from facscale.ingest.contact_sheet import draw_contact_sheet
from facscale.ingest.extract import FaceExtractor
from facscale.ingest.images import BATCH, build_batches
from facscale.ingest.items import Item, Listing, list_files
from facscale.ingest.layouts.affectnet import COLUMNS
from facscale.ingest.layouts.rafdb import LIST
from facscale.ingest.pipeline import build_recipe, list_items
from facscale.ingest.report import build_report
from facscale.spec import Pipeline, SpecError
from facscale.spec.pipelines import Render, Source
from facscale.synthetic import write_expressions
from merging import merge_items

RAF = {LIST: "train_00001.jpg 5\r\ntrain_00002.jpg 7\n\ntest_0001.jpg 1\n"}
TABLES = {part: f"Manually_Annotated_file_lists/{part}.csv" for part in ("training", "validation")}


def read_list(layout, files):
    contents = {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}
    return list(layouts.find(layout).list_images(dict.fromkeys(contents, 1), contents.__getitem__))


def source(tmp_path, files, layout, **more):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return Source(layout=layout, root=str(tmp_path), **more)


def build(source):
    return build_batches(source, list_files(source.root))


def test_rafdb_lists_parts_and_classes():
    images = read_list("rafdb", RAF)
    assert [entry[:4] for entry in images] == [
        ("train_00001", "basic/Image/aligned/train_00001_aligned.jpg", "train", "sad"),
        ("train_00002", "basic/Image/aligned/train_00002_aligned.jpg", "train", "neutral"),
        ("test_0001", "basic/Image/aligned/test_0001_aligned.jpg", "test", "surprise"),
    ]
    text = "".join(f"test_{number}.jpg {number}\n" for number in range(1, 8))
    names = ["surprise", "fear", "disgust", "happy", "sad", "anger", "neutral"]
    assert [entry.expression for entry in read_list("rafdb", {LIST: text})] == names


@pytest.mark.parametrize(
    "line", ["train_00003.jpg 8", "train_00003.jpg 0", "train_3.jpg", "valid_3.jpg 1", "train_3.jpg x"]
)
def test_rafdb_errors_name_the_line(line):
    with pytest.raises(ValueError, match=r"list_patition_label.txt, line 2: .* with a class of 1 to 7"):
        read_list("rafdb", {LIST: f"train_00001.jpg 5\n{line}\n"})


def test_a_source_without_its_list_is_an_error(tmp_path):
    wrong = source(tmp_path, {"Image/aligned/train_1_aligned.jpg": b"x"}, "rafdb")
    with pytest.raises(DataError, match=r"there is no basic/EmoLabel/list_patition_label.txt; set source.root to"):
        build(wrong)
    wrong = source(tmp_path, {TABLES["training"]: ""}, "affectnet")
    with pytest.raises(DataError, match=r"there is neither Manually_Annotated_file_lists/validation.csv nor an image"):
        build(wrong)


def npy(value):
    out = io.BytesIO()
    np.save(out, value)
    return out.getvalue()


def test_affectnet_new_tree_has_one_label_file_per_image():
    images = read_list(
        "affectnet",
        {
            "train_set/images/9.jpg": b"",
            "train_set/annotations/9_exp.npy": npy(np.array("6")),
            "train_set/images/10.jpg": b"",
            "train_set/annotations/10_exp.npy": npy(np.array(7)),
            "train_set/images/11.jpg": b"",
            "train_set/annotations/11_exp.npy": npy("10"),
            "val_set/images/10.jpg": b"",
            "val_set/annotations/10_exp.npy": npy(np.array(0.0)),
            "val_set/annotations/10_aro.npy": npy(0.5),
        },
    )
    assert sorted(entry[:4] for entry in images) == [
        ("test_10", "val_set/images/10.jpg", "test", "neutral"),
        ("train_10", "train_set/images/10.jpg", "train", "contempt"),
        ("train_9", "train_set/images/9.jpg", "train", "anger"),
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"all 1 label files are missing, such as train_set/annotations/9_exp.npy; unpack"),
        ({"train_set/annotations/9_exp.npy": b"no array"}, r"9_exp.npy: no number can be read"),
        ({"train_set/annotations/9_exp.npy": b""}, r"9_exp.npy: no number can be read"),
        ({"train_set/annotations/9_exp.npy": npy(11)}, r"9_exp.npy: '11' is not an expression of AffectNet"),
        ({"train_set/annotations/9_exp.npy": npy([1, 2])}, r"9_exp.npy: no number can be read"),
    ],
)
def test_affectnet_new_tree_errors_name_the_file(files, message):
    with pytest.raises(ValueError, match=message):
        read_list("affectnet", {"train_set/images/9.jpg": b"", **files})


def row(path, expression):
    return f"{path},134,134,899,899,181.64;530.91,{expression},0.7,-0.1"


def tables(training, validation):
    header = ",".join(COLUMNS)
    return {
        TABLES["training"]: "\n".join([header, *training]) + "\n",
        TABLES["validation"]: "\n".join(validation),  # as published: without a header
    }


def test_affectnet_old_tree_has_two_tables():
    images = read_list("affectnet", tables([row("689/737db2.jpg", 1), row("1/a.png", 9)], [row("2/B.JPG", 3)]))
    assert [entry[:4] for entry in images] == [
        ("train_689_737db2", "Manually_Annotated_Images/689/737db2.jpg", "train", "happy"),
        ("test_2_B", "Manually_Annotated_Images/2/B.JPG", "test", "surprise"),
    ]
    with pytest.raises(ValueError, match=r"training.csv, line 2: '11' is not an expression"):
        read_list("affectnet", tables([row("1/a.jpg", 11)], []))
    with pytest.raises(ValueError, match=r"validation.csv, line 2: 2 values instead of 9"):
        read_list("affectnet", tables([], [row("1/a.jpg", 1), "1/b.jpg,1"]))


def test_batches_hold_the_selected_classes_in_their_order(tmp_path):
    lines = [f"train_{n:05d}.jpg {n % 7 + 1}\n" for n in range(3 * BATCH)] + ["test_0001.jpg 7\n", "test_0002.jpg 3\n"]
    files = {LIST: "".join(reversed(lines)), **dict.fromkeys(map(image, (f"train_{n:05d}" for n in range(9))), b"x")}
    files[image("test_0001")] = b"x"
    batches = build(source(tmp_path, files, "rafdb", expressions=("neutral", "fear")))
    numbers = [n for n in range(3 * BATCH) if n % 7 in (6, 1)]
    assert [item.part for item in batches] == ["train", "test"]
    assert batches[0].people == tuple(f"train_{n:05d}" for n in numbers)
    assert batches[0].expressions == tuple(0 if n % 7 == 6 else 1 for n in numbers)
    assert batches[0].sort_key == ("train_00001", "image", "train")
    assert batches[0].source == f"{image('train_00001')} and {len(numbers) - 1} more"
    assert batches[1].people == ("test_0001",)
    assert Item.from_json(batches[0].to_json()) == batches[0]
    sizes = list_files(str(tmp_path)).files
    relabelled = type(batches[0])(**{**vars(batches[0]), "expressions": (0, *batches[0].expressions[1:])})
    assert batches[0].compute_key(sizes) != relabelled.compute_key(sizes)
    everything = build(source(tmp_path, {}, "rafdb"))
    assert [len(item.files) for item in everything] == [BATCH, BATCH, BATCH, 2]
    limited = build(source(tmp_path, {}, "rafdb", limit=1))
    assert [item.people for item in limited] == [("train_00000",), ("test_0001",)]


def image(name):
    return f"basic/Image/aligned/{name}_aligned.jpg"


def test_images_that_are_all_missing_are_rejected(tmp_path):
    missing = source(tmp_path, {**RAF, image("train_00001"): b"x"}, "rafdb")
    with pytest.raises(
        DataError, match=r"none of the 1 listed test images exists, such as .*test_0001_aligned.jpg; unp"
    ):
        build(missing)
    with pytest.raises(DataError, match="no listed test image can be used"):
        build(source(tmp_path, {LIST: "train_00001.jpg 5\n"}, "rafdb"))


def test_an_image_with_two_labels_or_with_none_costs_only_itself(tmp_path):
    lines = f"{RAF[LIST]}train_00002.jpg 6\ntrain_00001.jpg 5.0\n"
    files = {LIST: lines, **{image(name): b"x" for name in ("train_00001", "train_00002", "test_0001")}}
    faults = []
    rafdb = source(tmp_path, files, "rafdb")
    train, test = build_batches(rafdb, list_files(rafdb.root), add_fault=faults.append)
    assert (train.people, test.people) == (("train_00001",), ("test_0001",))
    (fault,) = faults
    assert fault.stage == "labels"
    assert re.match(r"train_00002 is listed twice, as .* \(neutral\) and .* \(anger\): left out", fault.reason)

    files = tables([row("1/a.jpg", 1), row("1/b.jpg", ""), row("1/a.jpg", "1.0")], [row("2/c.jpg", "3.0")])
    files |= {f"Manually_Annotated_Images/{name}": b"x" for name in ("1/a.jpg", "1/b.jpg", "2/c.jpg")}
    affectnet = source(tmp_path / "affectnet", files, "affectnet")
    faults.clear()
    train, test = build_batches(affectnet, list_files(affectnet.root), add_fault=faults.append)
    assert (train.people, test.people) == (("train_1_a",), ("test_2_c",))
    assert [fault.reason for fault in faults] == [
        "images without a label: 1, such as Manually_Annotated_Images/1/b.jpg; left out"
    ]


def test_an_image_in_both_parts_of_the_split_is_left_out(tmp_path):
    files = tables([row("1/a.jpg", 1), row("1/b.jpg", 1)], [row("2/c.jpg", 3), row("1/a.jpg", 1)])
    files |= {f"Manually_Annotated_Images/{name}": b"x" for name in ("1/a.jpg", "1/b.jpg", "2/c.jpg")}
    affectnet, faults = source(tmp_path, files, "affectnet"), []
    train, test = build_batches(affectnet, list_files(affectnet.root), add_fault=faults.append)
    assert (train.people, test.people) == (("train_1_b",), ("test_2_c",))
    assert "1/a.jpg (happy, part train) and Manually_Annotated_Images/1/a.jpg (happy, part test)" in faults[0].reason


def test_one_part_of_the_split_can_be_selected_and_nobody_by_name(tmp_path):
    files = {**RAF, image("train_00001"): b"x", image("test_0001"): b"x"}
    (batch,) = build(source(tmp_path, files, "rafdb", parts=("test",)))
    assert batch.people == ("test_0001",)
    with pytest.raises(DataError, match=r"no part 'valid'; there are: train, test"):
        build(source(tmp_path, files, "rafdb", parts=("valid",)))
    with pytest.raises(SpecError, match=r"source\.exclude: the layout rafdb has single images of nobody"):
        build(source(tmp_path, files, "rafdb", exclude=("x",)))


@pytest.mark.parametrize(
    ("layout", "names", "message"),
    [
        ("rafdb", ("neutral", "hapy"), r'there is no "hapy" \(did you mean "happy"\?\)'),
        ("rafdb", ("neutral",), "name two or more"),
        ("rafdb", ("neutral", "sad", "sad"), "each once"),
        ("bp4d", ("happy", "sad"), r'no "happy": the layout bp4d has no expressions'),
    ],
)
def test_unknown_expressions_are_rejected(tmp_path, layout, names, message):
    with pytest.raises(SpecError, match=message):
        layouts.select_expressions(Source(layout=layout, root=str(tmp_path), expressions=names))


def pipeline(root, out, **more):
    return Pipeline.model_validate(
        {
            "name": "rendered",
            "source": {"layout": "rafdb", "root": str(root)},
            "detector": {"name": "dlib"},
            "crop": {"size": 48},
            "output": str(out),
            **more,
        }
    )


def test_videos_have_no_expressions_and_single_images_no_flow(tmp_path):
    assert layouts.select_expressions(Source(layout="bp4d", root="")) == ()
    assert "expressions" not in build_recipe(pipeline("", tmp_path, source={"layout": "videos", "root": ""}))
    assert build_recipe(pipeline("", tmp_path))["expressions"] == list(
        layouts.select_expressions(Source(layout="rafdb", root=""))
    )
    with pytest.raises(SpecError, match="has single images, and flow needs videos"):
        list_items(pipeline("", tmp_path, flow={}), Listing("", {}, ()))


def test_from_rendered_images_to_shards(tmp_path):
    """Two images are missing or invalid and one shows no face; the others are aligned and stored with their labels."""
    root, out = tmp_path / "raw", tmp_path / "out"
    render = Render(identities=5, videos=3, size=128, first_identity=70)
    write_expressions(root, render=render, progress=False)
    (root / image("train_00002")).unlink()
    (root / image("train_00005")).write_bytes(b"no image")
    (root / image("train_00007")).write_bytes(simplejpeg.encode_jpeg(np.full((128, 128, 3), 90, np.uint8)))
    spec = pipeline(root, out)
    listing = list_files(str(root))
    items = sorted(list_items(spec, listing).items, key=lambda item: item.sort_key)
    extract = FaceExtractor(spec, run="r")
    statuses = [extract(item, item.compute_key(listing.files)) for item in items]
    assert [(status.part, status.frames, status.faces, status.faceless) for status in statuses] == [
        ("test", 3, 3, 0),
        ("train", 10, 9, 1),
    ]
    (fault,) = statuses[1].faults
    assert fault.stage == "decode"
    assert fault.reason.startswith(f"2 of 12 images cannot be read; the first: {image('train_00002')}")
    report = build_report(name="n", output=str(out), statuses=statuses, faults=(), reused=0, wall_s=1.0)
    assert (report.identities, report.faces, report.tracks) == (12, 12, 12)

    merge_items(statuses, pipeline=spec, recipe={})
    data = Dataset(str(out))
    assert data.manifest.expressions == layouts.select_expressions(spec.source)
    assert (data.manifest.fps, data.manifest.au) == (0, ())
    assert data.manifest.counts["labelled_frames"] == data.manifest.counts["identities"] == 12
    table = data.read_columns(
        ["identity", "video", "track", "frame", "time_s", "expression", "part", "landmarks"]
    ).to_pylist()
    listed = dict(line.split() for line in (root / LIST).read_text().splitlines())
    gone = {"train_00002", "train_00005", "train_00007"}
    assert [face["identity"] for face in table] == sorted(name[:-4] for name in listed if name[:-4] not in gone)
    for face in table:
        assert face["expression"] == int(listed[f"{face['identity']}.jpg"]) - 1
        assert face["identity"].startswith(face["part"])
        assert (face["video"], face["track"], face["frame"], face["time_s"]) == ("image", 0, 0, 0)
        eyes = np.array(face["landmarks"]).reshape(68, 2)[36:48].reshape(2, 6, 2).mean(axis=1)
        expected = (np.array([[0.5 - 0.14, 0.34], [0.5 + 0.14, 0.34]]) * 48 - 0.5).tolist()
        np.testing.assert_allclose(eyes, expected, atol=0.05)  # of this image alone: nothing is smoothed over others
    sheet = draw_contact_sheet(str(out), crops=4, size=16)
    assert sheet.shape == (len({face["expression"] for face in table}) * 18, 4 * 18, 3)
