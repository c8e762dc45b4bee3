"""The forms in which data sets are published or in which people have them: small trees, listed and read."""

from __future__ import annotations

import pytest

from facscale.ingest import layouts
from facscale.ingest.layouts.ckplus import CKPlusConfig
from facscale.ingest.layouts.crops import CropsConfig
from facscale.ingest.layouts.disfa import DISFAConfig
from facscale.ingest.layouts.gft import GFTConfig
from facscale.spec import SpecError


def list_items(name, files, config=None):
    layout = layouts.find_class(name)(config)
    return sorted(layout.list_items(dict.fromkeys(files, 1)), key=lambda item: item.sort_key)


def read_labels(name, item, files, config=None):
    return layouts.find_class(name)(config).read_labels(item, lambda file: files[file].encode())


@pytest.mark.parametrize(
    ("name", "part", "split"),
    [
        ("dev/mp4/id00012/21Uxsk56VDQ/00001.mp4", "dev/00001", "train"),
        ("test/mp4/id00012/21Uxsk56VDQ/00001.mp4", "test/00001", "test"),
        ("dev/id00012/21Uxsk56VDQ/00001.mp4", "dev/00001", "train"),
        ("mp4/id00012/21Uxsk56VDQ/00001.mp4", "00001", ""),
        ("id00012/21Uxsk56VDQ/00001.mp4", "00001", ""),
        ("vox2/dev/mp4/id00012/21Uxsk56VDQ/00001.mp4", "dev/00001", "train"),
        ("raw/vox2_test/test/id00012/21Uxsk56VDQ/00001.mp4", "test/00001", "test"),
    ],
)
@pytest.mark.parametrize("layout", ["voxceleb1", "voxceleb2"])
def test_voxceleb_is_read_in_each_of_its_forms(layout, name, part, split):
    (item,) = list_items(layout, [name, "dev/aac/id00012/21Uxsk56VDQ/00001.mp4", "vox2/meta.csv"])
    assert (item.identity, item.video, item.part, item.split) == ("id00012", "21Uxsk56VDQ", part, split)
    assert item.files == (name,)


def test_voxceleb1_has_crops_too():
    names = [f"unzippedFaces/A.J._Buckley/1.6/J9lHsKG98U8/{track}/{n:07d}.jpg" for track in (2, 11) for n in (50, 25)]
    items = list_items("voxceleb1", names)
    assert [(item.identity, item.video, item.part, item.numbers) for item in items] == [
        ("A.J._Buckley", "J9lHsKG98U8", "11", (25, 50)),
        ("A.J._Buckley", "J9lHsKG98U8", "2", (25, 50)),
    ]


def test_crops_of_others_are_read_by_their_folders():
    tcae = [f"id09238/VqEJCd7pbgQ/{track}_folder/img_{track}_{n:03d}.jpg" for track in (0, 1) for n in (1, 2, 10)]
    items = list_items("crops", [*tcae, "id09238/VqEJCd7pbgQ/0_folder/cover.jpg", "readme.jpg"])
    assert [(item.identity, item.video, item.part, item.numbers, item.fps) for item in items] == [
        ("id09238", "VqEJCd7pbgQ", f"{track}_folder", (1, 2, 10), 1.0) for track in (0, 1)
    ]
    fabnet = [f"all/faces/ID7/VIDEO/TRACK/frame{n:04d}.jpg" for n in (1, 2)]
    (item,) = list_items("crops", fabnet, CropsConfig(fps=25))
    assert (item.identity, item.video, item.part, item.fps, item.numbers) == ("ID7", "VIDEO", "TRACK", 25, (1, 2))
    flat = [f"anna/monday/{n}.png" for n in (7, 8)]
    assert [item.sort_key for item in list_items("crops", flat)] == [("anna", "monday", "")]
    assert [item.sort_key for item in list_items("crops", ["x/anna/7.png"], CropsConfig(levels=1))] == [
        ("anna", "anna", "")
    ]


def test_bp4dplus_has_other_people_than_bp4d():
    files = {"F001/T1/000.jpg": "", "F001/T1/001.jpg": "", "AUCoding/AU_OCC/F001_T1.csv": "0,1,2\n0,1,0\n1,9,1\n"}
    (item,) = list_items("bp4dplus", files)
    assert (item.identity, item.video, item.numbers) == ("2F001", "T1", (0, 1))
    labels, notes = read_labels("bp4dplus", item, files)
    assert (labels.get_frame(1)[0].tolist(), notes) == ([-1, 1], [])


def test_disfa_has_two_cameras():
    videos = ["Videos_LeftCamera/LeftVideoSN001_comp.avi", "Video_RightCamera/RightVideoSN001_comp.avi"]
    for camera, file in zip(("left", "right"), videos, strict=True):
        (item,) = list_items("disfa", videos, DISFAConfig(camera=camera))
        assert (item.video, item.files, item.first) == (camera, (file,), 1)


@pytest.mark.parametrize(("folder", "first"), [("SN001", 0), ("Images/SN001", 1), ("Images/Left/sn001", 0)])
def test_disfa_as_images_begins_with_the_first_label(folder, first):
    names = [f"{folder}/{first + n}.jpg" for n in range(12)]
    (item,) = list_items("disfa", [*names, "Images/Right/SN001/0.jpg", "Images2/SN001/0.png"])
    assert (item.identity, item.numbers, item.files[10]) == ("SN001", tuple(range(1, 13)), names[10])


def test_disfaplus_has_a_file_per_au_and_trial():
    trial = "SN001/A1_AU1_TrailNo_1"
    files = {f"Images/{trial}/{n:03d}.jpg": "" for n in range(3)}
    files |= {f"Labels/{trial}/AU1.txt": "frame intensity\n000.jpg 0\n001.jpg\t5\n002.jpg, 1\n"}
    files |= {f"Labels/{trial}/AU12.txt": "000.jpg 2\n001.jpg 1\n"}
    (item,) = list_items("disfaplus", files)
    assert (item.identity, item.video, item.numbers) == ("SN001", "A1_AU1_TrailNo_1", (0, 1, 2))
    labels, notes = read_labels("disfaplus", item, files)
    missing = "SN001: frames that the files of other AUs list are missing: AU12 1; stored as not labelled"
    assert (labels.au, notes) == ((1, 12), [missing])
    assert [labels.get_frame(n)[0].tolist() for n in range(3)] == [[0, 1], [1, 0], [0, -1]]
    assert labels.get_frame(1)[1].tolist() == [5, 1]
    for text, message in (
        ("x\n", r"AU1\.txt: no line is like"),
        ("0.jpg 1\nx\n", r"AU1\.txt, line 2: 'x' is not like"),
    ):
        with pytest.raises(ValueError, match=message):
            read_labels("disfaplus", item, files | {f"Labels/{trial}/AU1.txt": text})


def test_two_files_of_one_au_are_noted_where_they_contradict_each_other():
    trial = "SN001/A1_AU1_TrailNo_1"
    files = {f"Images/{trial}/{n:03d}.jpg": "" for n in range(3)}
    files |= {f"Labels/{trial}/AU1.txt": "000.jpg 0\n001.jpg 5\n002.jpg 1\n"}
    files |= {f"Labels_old/{trial}/AU1.txt": "000.jpg 0\n001.jpg 0\n002.jpg 1\n"}
    (item,) = list_items("disfaplus", files)
    labels, notes = read_labels("disfaplus", item, files)
    assert [labels.get_frame(n)[0].tolist() for n in range(3)] == [[0], [-1], [0]]
    assert notes == ["SN001: labels that contradict each other: 1 of AU1, the first in frame 1; stored as not labelled"]


def test_two_videos_of_a_person_are_not_both_read():
    folder = "Videos_LeftCamera"
    (item,) = list_items("disfa", [f"{folder}/LeftVideoSN001_comp.avi", f"{folder}/LeftVideoSN001.avi"])
    assert item.files == (f"{folder}/LeftVideoSN001.avi",)
    assert item.notes == (f"several videos of one person: {folder}/LeftVideoSN001_comp.avi not read",)


def test_ckplus_labels_the_last_frame():
    files = {f"cohn-kanade-images/S005/001/S005_001_{n:08d}.png": "" for n in (1, 2, 11)}
    name = "FACS/S005/001/S005_001_00000011_facs.txt"
    files[name] = "   9.0000000e+00   3.0000000e+00\n   1.7000000e+01   0.0000000e+00\n   9.9e+01 1\n"
    (item,) = list_items("ckplus", [*files, "FACS/S005/002/S005_002_00000009_facs.txt"])
    assert (item.identity, item.video, item.numbers, item.labels) == ("S005", "001", (1, 2, 11), (name,))
    labels, notes = read_labels("ckplus", item, files)
    occurrence, intensity = (dict(zip(labels.au, row.tolist(), strict=True)) for row in labels.get_frame(11))
    assert {au for au, value in occurrence.items() if value == 1} == {9, 17}
    assert set(occurrence.values()) == {0, 1}
    assert (intensity[9], intensity[17], intensity[1]) == (3, -1, 0)
    assert notes == [f"{name}, line 3: AU99 is none of those that CK+ codes: left out"]
    assert set(labels.get_frame(1)[0].tolist()) == {-1}
    labels, _ = read_labels("ckplus", item, files, CKPlusConfig(neutral=True))
    assert set(labels.get_frame(1)[0].tolist()) == {0}
    assert set(labels.get_frame(2)[0].tolist()) == {-1}
    with pytest.raises(ValueError, match=r"_facs\.txt, line 1: 'x y' is not an AU"):
        read_labels("ckplus", item, files | {name: "x y\n"})
    with pytest.raises(ValueError, match=r"_facs\.txt: the file is empty"):
        read_labels("ckplus", item, files | {name: "\n"})
    labels, notes = read_labels("ckplus", item, files | {name: "9 3\n9 4\n17 2\n17 2\n"})
    occurrence, intensity = (dict(zip(labels.au, row.tolist(), strict=True)) for row in labels.get_frame(11))
    assert (occurrence[9], intensity[9], intensity[17]) == (1, -1, 2)
    assert notes == [f"{name}, line 2: AU9 is listed with two intensities; stored without one"]


def test_gft_finds_people_by_an_expression_and_has_a_split_by_list(tmp_path):
    files = {
        "videos/001A.mp4": "",
        "videos/GFT_002B_front.mp4": "",
        "frames/003C/0001.jpg": "",
        "frames/003C/0002.jpg": "",
    }
    files |= {"AU/001A.csv": "frame,AU01,AU4\n1,1,0\n2,9,NaN\n", "AU/GFT_002B.csv": "0,1,2\n1,1,0\n", "notes.txt": ""}
    (tmp_path / "test.txt").write_text("002B\n")
    config = GFTConfig(test=(f"@{tmp_path}/test.txt",), fps=30)
    items = list_items("gft", files, config)
    assert [(item.identity, item.split, item.labels, item.first) for item in items] == [
        ("001A", "train", ("AU/001A.csv",), 1),
        ("002B", "test", ("AU/GFT_002B.csv",), 1),
        ("003C", "train", (), 0),
    ]
    labels, _ = read_labels("gft", items[0], files, config)
    assert (labels.au, labels.get_frame(1)[0].tolist()) == ((1, 4), [1, 0])
    assert labels.get_frame(2)[0].tolist() == [-1, -1]
    labels, _ = read_labels("gft", items[1], files, config)
    assert labels.au == (1, 2)
    for text in ("AU01,AU04\n1,0\n", "1,2\n1,0\n"):
        with pytest.raises(ValueError, match=r"001A\.csv, line 1: there is no column of frame numbers"):
            read_labels("gft", items[0], files | {"AU/001A.csv": text}, config)
    with pytest.raises(SpecError, match=r"source\.subject: '\[' is no regular expression"):
        layouts.find_class("gft")(GFTConfig(subject="["))


@pytest.mark.parametrize(
    ("root", "split"),
    [
        ("annotations/AU_Set/Train_Set", "train"),
        ("annotations/AU_Detection_Challenge/Validation_Set", "validation"),
        ("Third ABAW Annotations/AU_Detection_Challenge/Train_Set", "train"),
        ("AU_Set/Validation_Set", "validation"),
    ],
)
def test_affwild2_keeps_its_split_in_each_release(root, split):
    items = list_items(
        "affwild2",
        ["batch1/cropped_aligned/video1/00001.jpg", "cropped_aligned/video2/00001.jpg", f"{root}/video1.txt"],
    )
    assert [(item.identity, item.split, item.labels) for item in items] == [
        ("video1", split, (f"{root}/video1.txt",)),
        ("video2", "", ()),
    ]
