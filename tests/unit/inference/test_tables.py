"""Tables and summaries of predictions."""

from __future__ import annotations

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from facscale.inference.predictor import FaceResult, FrameResult
from facscale.inference.tables import COLUMN_SETS, AULayout, SummaryMeter, build_schema, build_table, open_table
from facscale.ingest.detectors import Box

LAYOUT = AULayout((1, 12), np.array([0.3, 0.6], np.float32), (12,))


def face(number=0, probability=(0.4, 0.5), *, points=None):
    points = np.arange(136, dtype=float).reshape(68, 2) if points is None else points
    pose, rated = np.array([1.0, 2.0, 180.0]), np.array([2.5])
    return FaceResult(number, 0.9, Box(10, 20, 40, 60), pose, points, np.array(probability, np.float32), rated)


FRAMES = [
    FrameResult(0, 0.0, (face(0), face(1, (0.2, 0.7)))),
    FrameResult(1, 0.04, ()),
    FrameResult(2, 0.08, (face(0),)),
]


def test_each_face_of_each_frame_is_a_row():
    table = build_table(FRAMES, LAYOUT, source="a.mp4")
    assert table.schema == build_schema(LAYOUT)
    rows = table.to_pylist()
    assert [(row["frame"], row["face"], row["confidence"]) for row in rows] == [
        (0, 0, pytest.approx(0.9)), (0, 1, pytest.approx(0.9)), (1, None, 0.0), (2, 0, pytest.approx(0.9)),
    ]  # fmt: skip
    assert [row["AU01_c"] for row in rows] == [1, 0, None, 1]
    assert [row["AU12_c"] for row in rows] == [0, 1, None, 0]
    assert rows[2].keys() == rows[0].keys()
    assert {name for name, value in rows[2].items() if value is not None} == {
        "input",
        "frame",
        "timestamp",
        "confidence",
    }
    assert (rows[0]["x_5"], rows[0]["y_5"], rows[0]["right"], rows[0]["AU12_r"]) == (10, 11, 40, 2.5)


def test_unknown_landmarks_are_empty():
    table = build_table([FrameResult(0, 0.0, (face(points=np.full((68, 2), np.nan)),))], LAYOUT, source="")
    assert table["x_0"].null_count == 1
    assert table["AU01"].null_count == 0


@pytest.mark.parametrize("columns", COLUMN_SETS)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_has_what_the_table_has(tmp_path, columns, suffix):
    path = tmp_path / f"a.{suffix}"
    with open_table(path, LAYOUT, columns=columns) as writer:
        for result in FRAMES * 600:  # more than one batch
            writer.add(result, source="a.mp4")
    expected = build_table(FRAMES * 600, LAYOUT, source="a.mp4", columns=columns)
    table = pyarrow.csv.read_csv(path) if suffix == "csv" else pq.read_table(path)
    assert table.column_names == expected.column_names
    assert len(table) == writer.rows == 2400
    for name in expected.column_names:
        if name not in {"input", "Input"}:
            numbers = [column[name].to_pandas().to_numpy(float) for column in (table, expected)]
            assert np.allclose(*numbers, equal_nan=True, atol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_names_of_other_tools():
    def get(columns):
        return build_table(FRAMES, LAYOUT, source="a.mp4", columns=columns).to_pylist()

    first, _, empty, _ = get("py-feat")
    assert (first["FaceRectX"], first["FaceRectWidth"], first["FaceRectHeight"], first["AU12"]) == (10, 30, 40, 0.5)
    first, _, empty, _ = get("openface")
    assert (first["frame"], first["success"], empty["success"], first["AU01_c"]) == (1, 1, 0, 1.0)
    assert first["pose_Rz"] == pytest.approx(np.pi, abs=1e-5)
    assert "AU12_r" in first
    assert "AU01_r" not in first
    first, *_ = get("pyafar")
    assert (first["Occ_au_12"], first["Int_au_12"]) == (0.5, 2.5)


def test_a_table_that_fails_leaves_nothing_and_an_older_one_stays(tmp_path):
    path = tmp_path / "a.csv"

    def write(*, fails):
        with open_table(path, LAYOUT) as writer:
            for result in FRAMES * 1000:
                writer.add(result, source="a.mp4")
            if fails:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(fails=True)
    assert list(tmp_path.iterdir()) == []
    write(fails=False)
    content = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write(fails=True)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [content]


def test_a_table_without_frames_has_its_columns(tmp_path):
    with open_table(tmp_path / "a.csv", LAYOUT):
        pass
    assert (tmp_path / "a.csv").read_text().count("\n") == 1


def test_a_summary_against_a_slow_one():
    random = np.random.default_rng(0)
    meter = SummaryMeter(LAYOUT, 0.04)
    active = {0: {}, 1: {}}  # by face and frame
    for number in range(200):
        faces = []
        for person in (0, 1):
            if random.random() < (0.95 if person else 0.9):
                probability = random.random(2).astype(np.float32)
                active[person][number] = probability >= LAYOUT.thresholds
                faces.append(face(person, probability))
        meter.add(FrameResult(number, number / 25, tuple(faces)))
    summary = meter.summarize()
    assert (summary["frames"], summary["seconds"]) == (200, 8.0)
    assert summary["frames_without_a_face"] == sum(not any(n in active[p] for p in (0, 1)) for n in range(200))
    for person, frames in active.items():
        described = summary["faces"][str(person)]
        assert described["frames"] == len(frames)
        for column, name in enumerate(("AU01", "AU12")):
            states = [frames[n][column] if n in frames else False for n in range(200)]
            onsets = sum(state and not (n and states[n - 1]) for n, state in enumerate(states))
            facts = described["aus"][name]
            assert facts["share"] == round(sum(states) / len(frames), 4)
            assert facts["onsets"] == onsets
            assert facts["mean_seconds"] == round(sum(states) * 0.04 / onsets, 3)
        both = sum(states.all() for states in frames.values())
        assert described["together"] == {"AU01+AU12": round(both / len(frames), 4)}
