"""Data sets of single images with expressions: their lists, written by hand, and rendered faces from tree to shards."""

from __future__ import annotations

import io

import numpy as np
import pytest
import simplejpeg

from facscale.data import DataError, Dataset
from facscale.ingest import layouts
from facscale.ingest.extract import Extractor
from facscale.ingest.items import Item, Listing, list_files
from facscale.ingest.layouts.affectnet import COLUMNS
from facscale.ingest.layouts.rafdb import LIST
from facscale.ingest.merge import merge
from facscale.ingest.parts import Parts
from facscale.ingest.pipeline import _items, recipe_of
from facscale.ingest.report import summarise
from facscale.ingest.sheet import contact_sheet
from facscale.ingest.stills import BATCH, batches
from facscale.spec import Pipeline, SpecError
from facscale.spec.pipelines import Render, Source
from facscale.synthetic import write_expressions

RAF = {LIST: "train_00001.jpg 5\r\ntrain_00002.jpg 7\n\ntest_0001.jpg 1\n"}
TABLES = {part: f"Manually_Annotated_file_lists/{part}.csv" for part in ("training", "validation")}


def stills(layout, files):
    contents = {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}
    return list(layouts.stills(layout)(dict.fromkeys(contents, 1), contents.__getitem__))


def source(tmp_path, files, layout, **more):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return Source(layout=layout, root=str(tmp_path), **more)


def made(source):
    return batches(source, list_files(source.root))


def test_rafdb_lists_parts_and_classes():
    found = stills("rafdb", RAF)
    assert [tuple(still) for still in found] == [
        ("train_00001", "basic/Image/aligned/train_00001_aligned.jpg", "train", "sad"),
        ("train_00002", "basic/Image/aligned/train_00002_aligned.jpg", "train", "neutral"),
        ("test_0001", "basic/Image/aligned/test_0001_aligned.jpg", "test", "surprise"),
    ]
    text = "".join(f"test_{number}.jpg {number}\n" for number in range(1, 8))
    names = ["surprise", "fear", "disgust", "happy", "sad", "anger", "neutral"]
    assert [still.expression for still in stills("rafdb", {LIST: text})] == names


@pytest.mark.parametrize(
    "line", ["train_00003.jpg 8", "train_00003.jpg 0", "train_3.jpg", "valid_3.jpg 1", "train_3.jpg x"]
)
def test_rafdb_says_which_line_is_wrong(line):
    with pytest.raises(ValueError, match=r"list_patition_label.txt, line 2: .* with a class of 1 to 7"):
        stills("rafdb", {LIST: f"train_00001.jpg 5\n{line}\n"})


def test_without_its_list_a_source_is_one_clear_error(tmp_path):
    wrong = source(tmp_path, {"Image/aligned/train_1_aligned.jpg": b"x"}, "rafdb")
    with pytest.raises(DataError, match=r"there is no basic/EmoLabel/list_patition_label.txt; source.root is"):
        made(wrong)
    wrong = source(tmp_path, {TABLES["training"]: ""}, "affectnet")
    with pytest.raises(DataError, match=r"there is neither Manually_Annotated_file_lists/validation.csv nor an image"):
        made(wrong)


def npy(value):
    out = io.BytesIO()
    np.save(out, value)
    return out.getvalue()


def test_affectnets_new_tree_tells_expressions_in_files_of_their_own():
    found = stills("affectnet", {
        "train_set/images/9.jpg": b"", "train_set/annotations/9_exp.npy": npy(np.array("6")),
        "train_set/images/10.jpg": b"", "train_set/annotations/10_exp.npy": npy(np.array(7)),
        "train_set/images/11.jpg": b"", "train_set/annotations/11_exp.npy": npy("10"),
        "val_set/images/10.jpg": b"", "val_set/annotations/10_exp.npy": npy(np.array(0.0)),
        "val_set/annotations/10_aro.npy": npy(0.5),
    })  # fmt: skip
    assert sorted(tuple(still) for still in found) == [
        ("test_10", "val_set/images/10.jpg", "test", "neutral"),
        ("train_10", "train_set/images/10.jpg", "train", "contempt"),
        ("train_9", "train_set/images/9.jpg", "train", "anger"),
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"1 of 1 label files are missing, such as train_set/annotations/9_exp.npy; unpack"),
        ({"train_set/annotations/9_exp.npy": b"no array"}, r"9_exp.npy: no number can be read"),
        ({"train_set/annotations/9_exp.npy": b""}, r"9_exp.npy: no number can be read"),
        ({"train_set/annotations/9_exp.npy": npy(11)}, r"9_exp.npy: '11' is no expression of AffectNet"),
        ({"train_set/annotations/9_exp.npy": npy([1, 2])}, r"9_exp.npy: no number can be read"),
    ],
)
def test_affectnets_new_tree_says_which_file_is_wrong(files, message):
    with pytest.raises(ValueError, match=message):
        stills("affectnet", {"train_set/images/9.jpg": b"", **files})


def row(path, expression):
    return f"{path},134,134,899,899,181.64;530.91,{expression},0.7,-0.1"


def tables(training, validation):
    header = ",".join(COLUMNS)
    return {
        TABLES["training"]: "\n".join([header, *training]) + "\n",
        TABLES["validation"]: "\n".join(validation),  # as published: without a header
    }


def test_affectnets_old_tree_has_two_tables():
    found = stills("affectnet", tables([row("689/737db2.jpg", 1), row("1/a.png", 9)], [row("2/B.JPG", 3)]))
    assert [tuple(still) for still in found] == [
        ("train_689_737db2", "Manually_Annotated_Images/689/737db2.jpg", "train", "happy"),
        ("test_2_B", "Manually_Annotated_Images/2/B.JPG", "test", "surprise"),
    ]
    with pytest.raises(ValueError, match=r"training.csv, line 2: '11' is no expression"):
        stills("affectnet", tables([row("1/a.jpg", 11)], []))
    with pytest.raises(ValueError, match=r"validation.csv, line 2: 2 values where 9 belong"):
        stills("affectnet", tables([], [row("1/a.jpg", 1), "1/b.jpg,1"]))


def test_batches_keep_the_wanted_classes_in_their_order(tmp_path):
    lines = [f"train_{n:05d}.jpg {n % 7 + 1}\n" for n in range(3 * BATCH)] + ["test_0001.jpg 7\n", "test_0002.jpg 3\n"]
    files = {LIST: "".join(reversed(lines)), **dict.fromkeys(map(image, (f"train_{n:05d}" for n in range(9))), b"x")}
    files[image("test_0001")] = b"x"
    kept = made(source(tmp_path, files, "rafdb", expressions=("neutral", "fear")))
    numbers = [n for n in range(3 * BATCH) if n % 7 in (6, 1)]
    assert [item.part for item in kept] == ["train", "test"]
    assert kept[0].people == tuple(f"train_{n:05d}" for n in numbers)
    assert kept[0].expressions == tuple(0 if n % 7 == 6 else 1 for n in numbers)
    assert kept[0].order == ("train_00001", "image", "train")
    assert kept[0].source == f"{image('train_00001')} and {len(numbers) - 1} more"
    assert kept[1].people == ("test_0001",)
    assert Item.from_json(kept[0].to_json()) == kept[0]
    sizes = list_files(str(tmp_path)).files
    relabelled = type(kept[0])(**{**vars(kept[0]), "expressions": (0, *kept[0].expressions[1:])})
    assert kept[0].key(sizes) != relabelled.key(sizes)
    everything = made(source(tmp_path, {}, "rafdb"))
    assert [len(item.files) for item in everything] == [BATCH, BATCH, BATCH, 2]
    limited = made(source(tmp_path, {}, "rafdb", limit=1))
    assert [item.people for item in limited] == [("train_00000",), ("test_0001",)]


def image(name):
    return f"basic/Image/aligned/{name}_aligned.jpg"


def test_images_that_are_all_missing_or_listed_twice_are_refused(tmp_path):
    some = source(tmp_path, {**RAF, image("train_00001"): b"x"}, "rafdb")
    with pytest.raises(DataError, match=r"of 1 listed test images none is there, such as .*test_0001_aligned.jpg; unp"):
        made(some)
    twice = {LIST: RAF[LIST] + "train_00002.jpg 6\n", image("test_0001"): b"x"}
    with pytest.raises(DataError, match=r"train_00002 is listed twice, as .* \(neutral\) and .* \(anger\); leave"):
        made(source(tmp_path, twice, "rafdb"))
    with pytest.raises(DataError, match="of 0 listed test images none is there; unpack"):
        made(source(tmp_path, {LIST: "train_00001.jpg 5\n"}, "rafdb"))


@pytest.mark.parametrize(
    ("layout", "names", "message"),
    [
        ("rafdb", ("neutral", "hapy"), r'there is no "hapy" \(did you mean "happy"\?\)'),
        ("rafdb", ("neutral",), "name two or more"),
        ("rafdb", ("neutral", "sad", "sad"), "each once"),
        ("bp4d", ("happy", "sad"), r'no "happy": there are none in the layout bp4d'),
    ],
)
def test_expressions_that_a_layout_does_not_know_are_refused(tmp_path, layout, names, message):
    with pytest.raises(SpecError, match=message):
        layouts.expressions(Source(layout=layout, root=str(tmp_path), expressions=names))


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
    assert layouts.expressions(Source(layout="bp4d", root="")) == ()
    assert "expressions" not in recipe_of(pipeline("", tmp_path, source={"layout": "videos", "root": ""}))
    assert recipe_of(pipeline("", tmp_path))["expressions"] == list(
        layouts.expressions(Source(layout="rafdb", root=""))
    )
    with pytest.raises(SpecError, match="single images, which no other one follows"):
        _items(pipeline("", tmp_path, flow={}), Listing("", {}, ()))


def test_from_rendered_images_to_shards(tmp_path):
    """Two are missing or no image, one shows nobody: the others come out, each with its labels and aligned."""
    root, out = tmp_path / "raw", tmp_path / "out"
    render = Render(identities=5, videos=3, size=128, first_identity=70)
    write_expressions(root, render=render, progress=False)
    (root / image("train_00002")).unlink()
    (root / image("train_00005")).write_bytes(b"no image")
    (root / image("train_00007")).write_bytes(simplejpeg.encode_jpeg(np.full((128, 128, 3), 90, np.uint8)))
    spec = pipeline(root, out)
    listing = list_files(str(root))
    items = sorted(_items(spec, listing), key=lambda item: item.order)
    extract = Extractor(spec, run="r")
    statuses = [extract(item, item.key(listing.files)) for item in items]
    assert [(status.part, status.frames, status.faces, status.faceless) for status in statuses] == [
        ("test", 3, 3, 0), ("train", 10, 9, 1)
    ]  # fmt: skip
    (fault,) = statuses[1].faults
    assert fault.stage == "decode"
    assert fault.reason.startswith(f"2 of 12 images cannot be read; the first: {image('train_00002')}")
    report = summarise(name="n", output=str(out), statuses=statuses, faults=(), reused=0, wall_s=1.0)
    assert (report.identities, report.faces, report.tracks) == (12, 12, 12)

    merge(statuses, pipeline=spec, parts=Parts(spec.output), recipe={}, advance=lambda: None)
    data = Dataset(str(out))
    assert data.manifest.expressions == layouts.expressions(spec.source)
    assert (data.manifest.fps, data.manifest.au) == (0, ())
    assert data.manifest.counts["labelled_frames"] == data.manifest.counts["identities"] == 12
    table = data.table(["identity", "video", "track", "frame", "time_s", "expression", "part", "landmarks"]).to_pylist()
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
    sheet = contact_sheet(str(out), crops=4, size=16)
    assert sheet.shape == (len({face["expression"] for face in table}) * 18, 4 * 18, 3)
