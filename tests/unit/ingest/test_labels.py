"""Labels against frames: what is tolerated, what is counted and said, and what is an error."""

from __future__ import annotations

import pytest
import simplejpeg

from facscale import ingest, spec
from facscale.data import DataError
from facscale.ingest import layouts
from facscale.ingest.extract import FaceExtractor
from facscale.ingest.items import Item, list_files
from facscale.ingest.layouts.disfa import AU as DISFA_AUS
from facscale.ingest.pipeline import build_recipe, list_items
from facscale.ingest.published import compare_published
from facscale.ingest.report import IngestReport, build_report
from facscale.spec import Pipeline, SpecError
from plugins.blob_faces import draw_moving_face, write_video

pytestmark = pytest.mark.usefixtures("plugins")


def pipeline(tmp_path, layout="bp4d", **source):
    return Pipeline.model_validate(
        {
            "name": "t",
            "source": {"layout": layout, "root": str(tmp_path / "raw"), **source},
            "detector": {"name": "blob", "shortest_track_s": 0.0, "detect_every_s": 0.0},
            "crop": {"size": 48, "eyes_y": 0.38, "eyes_distance": 0.38},
            "output": str(tmp_path / "out"),
        }
    )


def write_task(tmp_path, images, text, *, subject="F001", hidden=()):
    """Write a task of BP4D whose images have the numbers `images`; the face is absent from the `hidden` ones."""
    root = tmp_path / "raw"
    (root / subject / "T1").mkdir(parents=True, exist_ok=True)
    (root / "AUCoding/AU_OCC").mkdir(parents=True, exist_ok=True)
    frames = draw_moving_face(len(images), hidden=[n for n, number in enumerate(images) if number in hidden])
    for number, frame in zip(images, frames, strict=True):
        (root / f"{subject}/T1/{number:04d}.jpg").write_bytes(simplejpeg.encode_jpeg(frame))
    if text is not None:
        (root / f"AUCoding/AU_OCC/{subject}_T1.csv").write_text(text)
    return root


def table(numbers, *, header="0,1,12"):
    return header + "\n" + "".join(f"{number},{number % 2},0\n" for number in numbers)


def extract(tmp_path, **more):
    made = pipeline(tmp_path, **more)
    listing = list_files(made.source.root)
    selection = list_items(made, listing)
    extractor = FaceExtractor(made, run="r")
    statuses = [extractor(item, item.compute_key(listing.files)) for item in selection.items]
    report = build_report(
        name="t",
        output=made.output,
        statuses=statuses,
        faults=(*listing.faults, *selection.faults),
        notes=(*selection.notes, *compare_published(made, statuses)),
        passed_over=selection.passed_over,
        reused=0,
        wall_s=1.0,
    )
    return statuses, report


def test_the_report_counts_rows_images_and_positives_that_do_not_meet(tmp_path):
    # images 1-20, labels 5-22: two rows without an image; frames 11 and 13 show no face, and both show AU1
    write_task(tmp_path, range(1, 21), table(range(5, 23)), hidden=(11, 13))
    (status,), report = extract(tmp_path)
    assert (status.label_rows, status.rows_without_image, status.frames_without_label) == (18, 2, 4)
    assert (status.au, status.positives, status.positives_lost) == ((1, 12), (8, 0), (2, 0))
    assert report.positives == ((1, 8, 2), (12, 0, 0))
    text = report.format_text()
    assert "labels          18   2 without an image, 4 frames without labels" in text
    assert "positive         8   2 lost with frames that were left out, most of AU1: 2 of 8" in text
    report.write([status])
    assert IngestReport.read(report.output) == report


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (range(1, 21), range(101, 121), r"none of the 20 labelled frames has an image \(labels of frames 101 to 120, "),
        (range(1, 21), range(6, 26), r"shifted by 5 frames .* \(labels of frames 6 to 25, images 1 to 20\); renumber"),
        (range(6, 26), range(1, 21), r"shifted by 5 frames"),
    ],
)
def test_labels_of_other_frames_are_an_error(tmp_path, images, labels, message):
    write_task(tmp_path, images, table(labels))
    (status,), report = extract(tmp_path)
    assert status.faces == 0
    (fault,) = status.faults
    assert (fault.item, fault.stage) == ("F001/T1", "labels")
    with pytest.raises(ValueError, match=message):
        raise ValueError(fault.reason)
    assert "F001/T1" in report.format_text()


def write_disfa(root, lines, *, frames=20):
    write_video(root / "Videos_LeftCamera/LeftVideoSN001_comp.avi", draw_moving_face(frames))
    folder = root / "ActionUnit_Labels/SN001"
    folder.mkdir(parents=True)
    for au in DISFA_AUS:
        (folder / f"SN001_au{au}.txt").write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize("every", [1, 3])
def test_labels_of_a_video_file_are_compared_with_its_frames(tmp_path, every):
    write_disfa(tmp_path / "raw", [f"{number},{number % 6}" for number in range(1, 21)])
    (status,), _ = extract(tmp_path, layout="disfa", every=every)
    assert (status.label_rows, status.rows_without_image, status.frames_without_label) == (20, 0, 0)
    assert status.faces == len(range(0, 20, every))


def test_labels_of_a_video_file_that_are_shifted_are_an_error(tmp_path):
    write_disfa(tmp_path / "raw", [f"{number},1" for number in range(6, 26)])
    (status,), _ = extract(tmp_path, layout="disfa")
    assert (status.faces, status.faults[0].stage) == (0, "labels")
    assert "the labels are shifted by 5 frames" in status.faults[0].reason


def test_what_a_spreadsheet_adds_costs_nothing(tmp_path):
    text = "\ufeff0, 1, 12\r\n0001, 1, 0\r\n2,1,\r\n\r\n3.0,0,1\r\n3,0,1\r\n"
    write_task(tmp_path, range(1, 6), text)
    labels, notes = layouts.find("bp4d").read_labels(Item("F001", "T1", "", (), labels=("x",)), lambda _: text.encode())
    rows = {number: labels.get_frame(number)[0].tolist() for number in range(1, 5)}
    assert rows == {1: [1, 0], 2: [1, -1], 3: [0, 1], 4: [-1, -1]}
    assert notes == [
        "x: frames with two rows: 1, the first is frame 3",
        "x, line 3: empty cells from here on: 1; stored as not labelled",
    ]
    (status,), _ = extract(tmp_path)
    assert (status.faces, status.label_rows) == (5, 3)


def test_labels_that_contradict_each_other_are_not_labelled(tmp_path):
    twice = "0,1,1,4\n1,1,0,1\n2,0,0,1\n3,1,1,0\n3,1,1,1\n3,1,1,1\n"
    labels, notes = layouts.find("bp4d").read_labels(
        Item("F001", "T1", "", (), labels=("x",)), lambda _: twice.encode()
    )
    assert labels.au == (1, 4)
    assert [labels.get_frame(number)[0].tolist() for number in (1, 2, 3)] == [[-1, 1], [0, 1], [1, -1]]
    assert notes == [
        "x: AU1 has two columns",
        "x: frames with two rows: 1, the first is frame 3",
        "x: labels that contradict each other: 2 of AU1, AU4, the first in frame 1; stored as not labelled",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"x, line 1: '' is not a header"),
        ("0,1\n1,1\n".encode("utf-16"), "x: the file is UTF-16; save it as UTF-8"),
        (b"0,1\n1,\xff\n", "x: byte 6 is not UTF-8 text"),
        (b"0;1;2\n1;0;1\n", "x, line 1: '0;1;2' is not a header"),
    ],
)
def test_unreadable_label_files_are_named(content, message):
    with pytest.raises(ValueError, match=message):
        layouts.find("bp4d").read_labels(Item("F001", "T1", "", (), labels=("x",)), lambda _: content)


def test_two_files_for_one_frame_are_noted(tmp_path):
    root = write_task(tmp_path, range(1, 9), table(range(1, 9)))
    (root / "F001/T1/3.jpg").write_bytes((root / "F001/T1/0003.jpg").read_bytes())
    (status,), _ = extract(tmp_path)
    assert status.faces == 8
    assert [(fault.stage, fault.reason) for fault in status.faults] == [
        ("list", "frames with two files: 1, such as F001/T1/0003.jpg and F001/T1/3.jpg; the first is used")
    ]


def test_a_label_folder_that_is_not_found_is_an_error_unless_no_labels_are_wanted(tmp_path):
    root = write_task(tmp_path, range(1, 9), None)
    (root / "AU_OCC").mkdir()
    (root / "AU_OCC/F001_T1.csv").write_text(table(range(1, 9)))
    made = pipeline(tmp_path)
    with pytest.raises(DataError, match=r"no label file where .* \(AUCoding/AU_OCC/SUBJECT_TASK\.csv\); unpack them"):
        list_items(made, list_files(made.source.root))
    (status,), _ = extract(tmp_path, labels=False)
    assert (status.faces, status.au, status.faults) == (8, (), ())
    assert build_recipe(pipeline(tmp_path, labels=False))["labels"] is False


def test_files_that_nothing_reads_are_counted_and_media_among_them_named(tmp_path):
    root = write_task(tmp_path, range(1, 9), table(range(1, 9)))
    (root / "AUCoding/AU_OCC/F009_T1.csv").write_text(table(range(1, 9)))
    write_video(root / "videos/F001_T1.mp4", draw_moving_face(3))
    (root / "readme.txt").write_text("x")
    _, report = extract(tmp_path)
    assert report.passed_over == 3
    assert report.notes[:2] == (
        "passed over: .mp4 files in videos/: 1, such as videos/F001_T1.mp4",
        "passed over: label files without a video: 1, such as AUCoding/AU_OCC/F009_T1.csv",
    )
    assert "unused           3   files" in report.format_text()


def test_a_set_is_compared_with_its_published_counts(tmp_path):
    write_task(tmp_path, range(1, 9), table(range(1, 9)))
    _, report = extract(tmp_path)
    assert report.notes[-1] == (
        "published BP4D (RTATL and ME-GraphAU): 41 people, here 1 (40 fewer); 328 videos, here 1 (327 fewer); "
        "146,847 labelled frames, here 8 (146,839 fewer)"
    )


def test_a_layout_of_another_package_is_loaded_by_its_entry_point(tmp_path):
    assert "shelf" in layouts.list_names()
    with pytest.raises(SpecError, match='the entry point "not-a-layout" of .* is not a facscale Layout'):
        layouts.find("not-a-layout")
    root = tmp_path / "raw"
    write_video(root / "b-anna-1.avi", draw_moving_face(8))
    (root / "b-anna-1.csv").write_text("0,1\n1,0\n2,1\n")
    (status,), _ = extract(tmp_path, layout="shelf", shelf="b")
    assert (status.identity, status.video, status.faces, status.positives) == ("anna", "1", 8, (2,))
    assert build_recipe(pipeline(tmp_path, "shelf", shelf="b"))["layout_options"] == {"shelf": "b"}
    assert "layout_options" not in build_recipe(pipeline(tmp_path, "shelf"))


def test_a_wrong_layout_or_option_names_file_line_and_the_nearest(tmp_path):
    file = tmp_path / "p.yaml"
    text = "output: /o\nsource:\n  layout: LAYOUT\n  root: /r\n  LINE\n"
    for layout, line, message in (
        ("dsfa", "every: 2", r'p\.yaml:3: there is no layout "dsfa" \(did you mean "disfa"\?\)'),
        ("disfa", "camara: right", r'p\.yaml:5: unknown key "source\.camara" \(did you mean "camera"\?\)'),
        ("disfa", "evry: 2", r'p\.yaml:5: unknown key "source\.evry" \(did you mean "every"\?\)'),
        ("disfa", "camera: top", r'p\.yaml:5: "source\.camera"'),
        ("bp4d", "camera: right", r'p\.yaml:5: unknown key "source\.camera"'),
    ):
        file.write_text(text.replace("LAYOUT", layout).replace("LINE", line))
        with pytest.raises(SpecError, match=message):
            ingest.configure(spec.read_spec(file))
    file.write_text(text.replace("LAYOUT", "disfa").replace("LINE", "camera: right"))
    assert layouts.open_layout(ingest.configure(spec.read_spec(file)).source).config.camera == "right"
