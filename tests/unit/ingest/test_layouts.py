"""The layouts of published data sets, on hand-written listings and label files."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg

from facscale.data import DataError
from facscale.ingest import layouts
from facscale.ingest.extract import FaceExtractor
from facscale.ingest.items import Item, is_unsafe, list_files
from facscale.spec import Pipeline, SpecError


def list_items(name, *files):
    return sorted(layouts.find(name).list_items(dict.fromkeys(files, 1)), key=lambda item: item.sort_key)


def read_labels(name, item, **contents):
    files = {key.replace("__", "/"): text.encode() for key, text in contents.items()}
    return layouts.find(name).read_labels(item, lambda file: files[file])


def test_every_layout_of_the_spec_exists():
    assert {"affectnet", "affwild2", "bp4d", "disfa", "rafdb", "videos", "voxceleb2"} <= set(layouts.list_names())
    assert "base" not in layouts.list_names()
    with pytest.raises(SpecError, match="bp4d"):
        layouts.find("bp4")


def test_voxceleb2_takes_utterances_and_nothing_else():
    items = list_items(
        "voxceleb2",
        "dev/mp4/id00012/21Uxsk56VDQ/00002.mp4",
        "dev/mp4/id00012/21Uxsk56VDQ/00001.mp4",
        "test/mp4/id00017/01dfn2spqyE/00001.mp4",
        "dev/txt/id00012/21Uxsk56VDQ/00001.txt",
        "dev/mp4/readme.mp4",
        "dev/aac/id00012/21Uxsk56VDQ/00001.mp4",
    )
    assert [item.sort_key for item in items] == [
        ("id00012", "21Uxsk56VDQ", "dev/00001"),
        ("id00012", "21Uxsk56VDQ", "dev/00002"),
        ("id00017", "01dfn2spqyE", "test/00001"),
    ]


def test_videos_take_the_identity_from_the_first_folder_or_the_name():
    items = list_items(
        "videos", "anna/monday/a.mp4", "anna/b.AVI", "carl.mov", "carl.txt", "notes/readme.md", "anna/b.mp4"
    )
    assert [item.sort_key for item in items] == [
        ("anna", "b", ".avi"),
        ("anna", "b", ".mp4"),
        ("anna", "monday/a", ".mp4"),
        ("carl", "carl", ".mov"),
    ]


def test_bp4d_orders_frames_as_numbers_whatever_their_padding():
    (item,) = list_items(
        "bp4d", "F001/T1/10.jpg", "F001/T1/9.jpg", "F001/T1/0011.jpg", "AUCoding/AU_OCC/F001_T1.csv", "F001/T1/x.jpg"
    )
    assert item.numbers == (9, 10, 11)
    assert item.files == ("F001/T1/9.jpg", "F001/T1/10.jpg", "F001/T1/0011.jpg")
    assert item.labels == ("AUCoding/AU_OCC/F001_T1.csv",)
    assert item.source == "F001/T1"


def test_bp4d_labels_match_numerically_and_9_is_not_labelled():
    item = Item("F001", "T1", "", ("F001/T1/0732.jpg",), (732,), labels=("occ",))
    labels, notes = read_labels("bp4d", item, occ="0,1,2,45\n0732,1,0,9\n733,9,1,9\n")
    assert (labels.au, notes) == ((1, 2, 45), [])
    assert labels.get_frame(732)[0].tolist() == [1, 0, -1]
    assert labels.get_frame(733)[0].tolist() == [-1, 1, -1]
    assert labels.get_frame(734)[0].tolist() == [-1, -1, -1]
    assert labels.get_frame(732)[1].tolist() == [-1, -1, -1]
    coded = labels.select_coded()
    assert coded.au == (1, 2)
    assert labels.select_coded(only=(2, 4, 45)).au == (2,)
    assert coded.get_frame(733)[0].tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,4\n1,0,0\n", "occ, line 1: the first column is 1, an AU, where 0 heads the frame numbers"),
        ("0,1,2\n1,0\n", "occ, line 2: 2 values under a header of 3"),
        ("0,1\n1,7\n", "occ, line 2: '7' is none of 0, 1, 9"),
        ("0,1\n1,0.0\n", "occ, line 2: '0.0' is not a whole number, as the published codes are"),
        ("0,1\nx,1\n", "occ, line 2: 'x' is not a number"),
        ("0,AU1\n1,1\n", "occ, line 1: 'AU1' is not a number"),
    ],
)
def test_bp4d_errors_name_the_line(text, message):
    with pytest.raises(ValueError, match=message):
        read_labels("bp4d", Item("F001", "T1", "", (), labels=("occ",)), occ=text)


def test_bp4d_without_labels_is_noted():
    labels, notes = read_labels("bp4d", Item("F001", "T1", "", ()))
    assert labels.au == ()
    assert "no label file" in notes[0]


def test_disfa_keeps_intensities_and_counts_from_two_on():
    names = ("ActionUnit_Labels/SN001/SN001_au1.txt", "ActionUnit_Labels/SN001/SN001_au12.txt")
    (item,) = list_items(
        "disfa", "Videos_LeftCamera/LeftVideoSN001_comp.avi", "Video_RightCamera/RightVideoSN001_comp.avi", *names
    )
    assert (item.identity, item.first, item.labels) == ("SN001", 1, names)
    texts = {names[0]: b"1,0\r\n2,1\r\n3,2\r\n4,5\r\n", names[1]: b"1,2\n2,0\n"}
    labels, notes = layouts.find("disfa").read_labels(item, texts.__getitem__)
    one, twelve = labels.au.index(1), labels.au.index(12)
    assert [labels.get_frame(n)[0][one] for n in range(1, 6)] == [0, 0, 1, 1, -1]
    assert [labels.get_frame(n)[1][one] for n in range(1, 6)] == [0, 1, 2, 5, -1]
    assert [labels.get_frame(n)[0][twelve] for n in range(1, 5)] == [1, 0, -1, -1]
    assert "AU 2, 4, 5, 6, 9, 15, 17, 20, 25, 26" in notes[0]
    assert notes[1] == "SN001: frames that the files of other AUs list are missing: AU12 2; stored as not labelled"
    assert labels.select_coded().au == (1, 12)
    assert labels.au == (1, 12)


@pytest.mark.parametrize("line", ["1,6", "1", "a,1", "1,-1"])
def test_disfa_errors_name_the_line(line):
    item = Item("SN001", "left", "", (), labels=("SN001_au1.txt",))
    with pytest.raises(ValueError, match=r"SN001_au1\.txt, line 2"):
        layouts.find("disfa").read_labels(item, lambda _: f"0,0\n{line}\n".encode())


def affwild2(*names, video="video59", images=("00001", "00002")):
    return list_items("affwild2", *(f"cropped_aligned/{video}/{image}.jpg" for image in images), *names)


def test_affwild2_makes_an_identity_of_each_folder():
    train, right = "annotations/AU_Set/Train_Set/video59.txt", "annotations/AU_Set/Validation_Set/video59_right.txt"
    items = list_items(
        "affwild2",
        "cropped_aligned/video59/00010.jpg",
        "cropped_aligned/video59/00009.jpg",
        "cropped_aligned/video59/cover.jpg",
        "cropped_aligned/video59_right/00001.jpg",
        "cropped_aligned/46-24-484x360_left/00003.jpg",
        "annotations/VA_Set/Train_Set/video59.txt",
        "cropped/video59/00009.jpg",
        train,
        right,
    )
    assert [(item.identity, item.video, item.fps, item.labels) for item in items] == [
        ("46-24-484x360_left", "46-24-484x360", 24, ()),
        ("video59", "video59", 30, (train,)),
        ("video59_right", "video59", 30, (right,)),
    ]
    assert items[1].numbers == (9, 10)
    assert items[1].files == ("cropped_aligned/video59/00009.jpg", "cropped_aligned/video59/00010.jpg")
    for folder in ("AU_Set/Training_Set", "AU_Detection_Challenge/Train_Set"):
        assert affwild2(f"annotations/{folder}/video59.txt")[0].labels == (f"annotations/{folder}/video59.txt",)


@pytest.mark.parametrize("au", [(1, 2, 4, 6, 12, 15, 20, 25), (1, 2, 4, 6, 7, 10, 12, 15, 23, 24, 25, 26)])
def test_affwild2_rows_belong_to_images_from_one_on(au):
    (item,) = affwild2("annotations/AU_Set/Train_Set/video59.txt", images=("00001", "00003", "00006"))
    rows = np.eye(5, len(au), dtype=int)
    rows[1, 3] = -1
    text = ",".join(f"AU{n}" for n in au) + " \r\n" + "".join(",".join(map(str, row)) + "\r\n" for row in rows)
    labels, notes = layouts.find("affwild2").read_labels(item, lambda _: text.encode())
    assert labels.au == au
    assert notes == ["images after the last row of annotations/AU_Set/Train_Set/video59.txt: 1; stored as not labelled"]
    for number in (1, 3, 4, 5):
        assert labels.get_frame(number)[0].tolist() == rows[number - 1].tolist()
    for number in (0, 2, 6):  # one -1: nobody labelled the frame
        assert set(labels.get_frame(number)[0].tolist()) == {-1}
    assert set(labels.get_frame(1)[1].tolist()) == {-1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "occ, line 1: '' does not name AUs"),
        ("0,1\n0,0\n", "occ, line 1: '0,1' does not name AUs"),
        ("Neutral,Anger\n0,0\n", "occ, line 1: 'Neutral,Anger' does not name AUs"),
        ("AU1,AU9\n0,0\n", "occ, line 1: 'AU1,AU9' does not name AUs of Aff-Wild2"),
        ("AU1,AU2\n0,1\n0\n", "occ, line 3: 1 values under a header of 2; unpack"),
        ("AU1,AU2\n0,1\n\n0,1\n", "occ, line 3: 1 values under a header of 2"),
        ("AU1,AU2\n0,x\n", "occ, line 2: 'x' is none of 0, 1, -1"),
        ("AU1,AU2\n0,0.5\n", "occ, line 2: '0.5' is none of 0, 1, -1"),
    ],
)
def test_affwild2_errors_name_the_line(text, message):
    with pytest.raises(ValueError, match=message):
        read_labels("affwild2", Item("video1", "video1", "", (), labels=("occ",)), occ=text)


def test_affwild2_without_labels_is_noted_and_with_two_files_rejected():
    labels, notes = layouts.find("affwild2").read_labels(affwild2()[0], bytes)
    assert labels.au == ()
    assert notes == ["no label file video59.txt in annotations/AU_Set: stored as not labelled"]
    (item,) = affwild2(*(f"annotations/AU_Set/{name}/video59.txt" for name in ("Train_Set", "Training_Set")))
    with pytest.raises(ValueError, match=r"several label files \(.*Train_Set/video59.txt, .*\): keep those of one"):
        layouts.find("affwild2").read_labels(item, bytes)


def test_affwild2_images_numbered_from_zero_are_rejected():
    (item,) = affwild2(images=("00000", "00001"))
    with pytest.raises(ValueError, match=r"video59/00000\.jpg: images must be numbered from 1"):
        layouts.find("affwild2").read_labels(item, bytes)


def test_affwild2_from_files_to_labelled_crops(tmp_path):
    folder = tmp_path / "raw/cropped_aligned/video1_left"
    folder.mkdir(parents=True)
    for number in (1, 2, 4):  # 3: its authors found no face
        (folder / f"{number:05d}.jpg").write_bytes(simplejpeg.encode_jpeg(np.full((112, 112, 3), 90, np.uint8)))
    text = tmp_path / "raw/annotations/AU_Set/Validation_Set/video1_left.txt"
    text.parent.mkdir(parents=True)
    text.write_text("AU1,AU25\n0,1\n-1,1\n1,1\n1,0\n1,1\n")
    spec = Pipeline.model_validate(
        {
            "source": {"layout": "affwild2", "root": str(tmp_path / "raw")},
            "detector": {"name": "none"},
            "crop": {"size": 64},
            "output": str(tmp_path / "out"),
        }
    )
    listing = list_files(spec.source.root)
    (item,) = layouts.find("affwild2").list_items(listing.files)
    status = FaceExtractor(spec, run="r")(item, item.compute_key(listing.files))
    assert (status.identity, status.video, status.faces, status.fps, status.faults) == (
        "video1_left",
        "video1",
        3,
        30,
        (),
    )
    table = pq.read_table(tmp_path / f"out/_parts/{status.key}.parquet")
    assert table["frame"].to_pylist() == [1, 2, 4]
    assert table["au"].to_pylist() == [[0, 1], [-1, -1], [1, 0]]


@pytest.mark.parametrize("name", ["../a.mp4", "a/../../b.mp4", "/etc/passwd", "a//b.mp4", "a\\b.mp4", "a\n.mp4", "./a"])
def test_names_that_lead_out_of_the_source_are_unsafe(name):
    assert is_unsafe(name)


def test_ordinary_names_are_safe():
    assert not is_unsafe("dev/mp4/id00012/-1Uxsk56VDQ/00001.mp4")
    assert not is_unsafe("Zoë..final/a b.mp4")


def test_listing_follows_links_once_skips_hidden_files_and_rejects_unsafe_ones(tmp_path):
    (tmp_path / "elsewhere/sub").mkdir(parents=True)
    (tmp_path / "elsewhere/sub/a.mp4").write_bytes(b"123")
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "circle").symlink_to(root)
    (root / "._b.mp4").write_bytes(b"x")
    (root / "new\nline.mp4").write_bytes(b"x")
    listing = list_files(str(root))
    assert listing.files == {"linked/sub/a.mp4": 3}
    assert [(fault.stage, fault.item) for fault in listing.faults] == [("list", "'new\\nline.mp4'")]


def test_a_source_without_files_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"source\.root"):
        list_files(str(tmp_path / "nowhere"))


def test_keys_change_with_sizes_and_labels():
    item = Item("a", "b", "c", ("v.mp4",), labels=("l.csv",))
    keys = {item.compute_key({"v.mp4": size, "l.csv": other}) for size in (1, 2) for other in (3, 4)}
    assert len(keys) == 4
    assert Item.from_json(item.to_json()) == item
