"""The numbers: whole, in their places, and those that the papers print."""

from __future__ import annotations

import pkgutil
import tomllib
from collections import Counter
from decimal import Decimal
from importlib.resources import files
from pathlib import Path, PurePosixPath

import pytest
from scipy.stats import norm

from facscale import methods
from facscale.report.published import find_results, load_papers, load_tables, load_trainings

ROOT = Path(__file__).parents[4]


def test_every_training_is_of_a_method():
    assert set(load_trainings()) <= {method.name for method in pkgutil.iter_modules(methods.__path__)}


ROWS = {  # counted in the papers
    "clp_table1": 25, "clp_table2": 25, "clp_table3": 11, "clp_table4": 18, "clp_table5": 8, "clp_table6": 8,
    "clp_text_clips": 3, "clp_text_cost": 1,
    "tcae_table1": 12, "tcae_table2": 9, "tcae_table3": 9, "tcae_text_lengths": 1,
    "rtatl_table1": 8, "rtatl_table2": 7, "rtatl_table3": 7, "rtatl_text_cost": 2,
    "aunet_table3": 4, "aunet_table4": 4, "aunet_table5": 4, "aunet_table7": 4, "aunet_table8": 4, "aunet_table9": 4,
    "aunet_table10": 3, "aunet_table11": 2, "aunet_table12": 3, "aunet_table13": 11, "aunet_table14": 11,
    "aunet_table15": 5, "aunet_text_backbone": 1, "aunet_text_aligned": 1, "aunet_text_cost": 6,
}  # fmt: skip

BP4D, DISFA, GFT = (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24), (1, 2, 4, 6, 9, 12, 25, 26), (1, 2, 4, 6, 10, 12, 14, 15, 23, 24)  # fmt: skip

COLUMNS = {
    "clp_table1": BP4D, "clp_table2": DISFA, "clp_table3": GFT,
    "clp_table5": ("Neutral", "Anger", "Disgust", "Fear", "Happy", "Sad", "Surprise"),
    "tcae_table1": BP4D, "tcae_table2": DISFA, "tcae_table3": GFT,
    "rtatl_table1": BP4D, "rtatl_table2": BP4D, "rtatl_table3": DISFA,
    "aunet_table3": BP4D, "aunet_table4": (1, 2, 4, 6, 12), "aunet_table5": (1, 2, 4, 6, 12, 15),
    "aunet_table7": BP4D, "aunet_table8": DISFA, "aunet_table9": (1, 2, 4, 6, 12, 15, 25),
    "aunet_table13": BP4D, "aunet_table14": DISFA,
}  # fmt: skip

SPOTS = {  # typed from the papers, not from the files
    "clp_table1": {("ROI", 6): "77.1", ("SO-Net", 12): "90.8", ("SimSiam", 23): "25.4", ("CVC", 4): "38.7", ("EmoCo", 14): "66.6", ("CLP", 2): "50.9", ("AU-RCNN", 23): "50.4"},
    "clp_table2": {("ATF", 12): "55.0", ("PIAP", 25): "94.1", ("MoCo", 2): "18.2", ("ARL", 26): "66.8", ("DSIN", 6): "28.6", ("CLP", 6): "59.7"},
    "clp_table3": {("AlexNet", 4): "2", ("MAL", 14): "43.1", ("SimCLR", 4): "5.6", ("SimSiam", 12): "75.7", ("Fab-Net", 15): "1.7", ("CLP", 24): "42.2"},
    "clp_table5": {("VGG16", "Fear"): "35.1", ("DeformAE", "Sad"): "29.1", ("gACNN", "Happy"): "93.2", ("CLP", "Surprise"): "77.8"},
    "clp_table6": {("VGG16", "Disgust"): "20.6", ("VTFF", "Neutral"): "65.0", ("TAE", "Surprise"): "54.4", ("CLP", "Happy"): "83.3"},
    "clp_text_cost": {("CLP", "Parameters (M)"): "21.8", ("CLP", "GFLOPs"): "3.68", ("CLP", "CPU (ms)"): "248.6"},
    "tcae_table1": {("Handcrafted", 12): "68.5", ("SplitBrain", 24): "45.1", ("DeformAE", 15): "23.1", ("TCAE", 10): "80.8"},
    "tcae_table2": {("VGG emotion", 9): "32.4", ("DRML", 26): "20.1", ("EAC-Net", 9): "80.5", ("TCAE", 25): "82.1"},
    "tcae_table3": {("Handcrafted", 15): "29", ("ResNet-50 face", 2): "50.7", ("DeformAE", 15): "3.9", ("TCAE", 4): "6.3"},
    "tcae_text_lengths": {("TCAE", "AU displacements"): "0.008", ("TCAE", "Pose displacements"): "0.044"},
    "rtatl_table1": {("Backbone^G", 24): "45.7", ("Jigsaw", 15): "32.7", ("OFE", 23): "50.1", ("RoII", 24): "43.5", ("RTATL", 17): "67.0"},
    "rtatl_table2": {("LP-Net", 2): "38.0", ("TC-Net", 23): "29.8", ("UGN", 1): "54.2", ("RTATL", 24): "48.6"},
    "rtatl_table3": {("JAA", 25): "88.3", ("LP-Net", 4): "72.7", ("RTATL", 26): "51.9", ("SRERL", 2): "47.8"},
    "aunet_table3": {("AU-FP", 15): "47.5", ("JÄANet", 2): "47.8", ("AU-FAN", 4): "61.6", ("ResNet18", 24): "43.3"},
    "aunet_table4": {("ResNet18", 1): "8.5", ("AU-FP", 2): "18.5", ("AU-FAN", 12): "45.8"},
    "aunet_table5": {("ResNet18", 15): "0.1", ("JÄANet", 1): "42.3", ("AU-FAN", 15): "24.1"},
    "aunet_table7": {("AU-FAN", 15): "40.0", ("AU-VAE", 23): "37.8", ("AU-TDN", 14): "64.4", ("AUNet", 12): "90.5"},
    "aunet_table8": {("AU-FAN", 9): "70.3", ("AU-VAE", 6): "59.7", ("AUNet", 25): "91.9"},
    "aunet_table9": {("AU-VAE", 2): "0.0", ("AU-TDN", 6): "10.7", ("AUNet", 15): "85.8"},
    "aunet_table11": {("+TDN", "Model size (M)"): "2.66", ("+FlowNet", "Model size (M)"): "187.75"},
    "aunet_table12": {("AU-VAE", "t-statistic"): "-26.78", ("AU-TDN", "p-value"): "7.62E-160", ("AUNet", "p-value"): "1.51E-153"},
    "aunet_table13": {("MEGraph", 7): "80.0", ("AR-LSTM", 24): "56.4", ("SAT-Net", 2): "49.5", ("ResNet18-A", 23): "34.0", ("AUNet", 1): "58.0"},
    "aunet_table14": {("JÄANet", 1): "62.4", ("ResNet18", 1): "4104", ("MEGraph", 9): "55.7", ("AUNet", 12): "79.7"},
    "aunet_table15": {("BP4D", "Subjects"): "41", ("EmotioNet", "Faces (K)"): "960", ("FERA2015", "AUs"): "14"},
    "aunet_text_cost": {("JÄANet", "GFLOPs"): "8.38", ("FAN", "Parameters (M)"): "12.11", ("AU-FAN", "GFLOPs"): "3.02"},
}  # fmt: skip

AVERAGES = {  # of rows without numbers by AU, typed from the papers
    "clp_table4": "52.0 55.8 59.3 62.4 61.3 60.5 58.3 61.3 59.1 39.4 47.2 54.2 57.4 57.0 55.8 56.6 56.7 50.3",
    "clp_text_clips": "59.7 60.3 58.7",
    "aunet_table11": "64.9 64.5",
    "aunet_text_backbone": "61.5",
    "aunet_text_aligned": "65.0",
}

CLAIMS = [  # leads that the papers' texts give: a second way to the averages
    ("clp_table1", "CLP", "ResNet-34", "3.2"), ("clp_table2", "CLP", "ResNet-34", "6.1"), ("clp_table3", "CLP", "ResNet-34", "1.3"),
    ("clp_table1", "CLP", "CVC", "8.2"), ("clp_table2", "CLP", "SimSiam", "5.6"), ("clp_table3", "CLP", "SimSiam", "2.5"),
    ("clp_table1", "CLP", "TAE", "2.1"), ("clp_table2", "CLP", "TAE", "5.9"), ("clp_table3", "CLP", "TAE", "3.8"),
    ("rtatl_table1", "Backbone^T", "Backbone^G", "1.4"), ("rtatl_table1", "Rotation", "Backbone^T", "0.4"),
    ("rtatl_table1", "Exemplar", "Backbone^T", "0.7"), ("rtatl_table1", "OFE", "Backbone^T", "1.3"),
    ("rtatl_table1", "RoII", "Backbone^T", "1.6"), ("rtatl_table1", "RTATL", "RoII", "0.5"), ("rtatl_table3", "RTATL", "UGN", "3.1"),
    ("aunet_table7", "AU-VAE", "AU-FAN", "0.6"), ("aunet_table8", "AU-VAE", "AU-FAN", "3.1"), ("aunet_table9", "AU-VAE", "AU-FAN", "4.9"),
    ("aunet_table7", "AU-TDN", "AU-FAN", "2.2"), ("aunet_table7", "AUNet", "AU-TDN", "0.6"),
    ("aunet_table8", "AUNet", "AU-VAE", "0.2"), ("aunet_table9", "AUNet", "AU-VAE", "2.5"), ("aunet_table13", "AU-FAN", "HMP-PS", "0.4"),
]  # fmt: skip


def lines(file):
    return [line for line in find_results() if line.file == file]


def row(file, method):
    (found,) = [line for line in lines(file) if line.method == method]
    return found


def test_each_table_has_its_file_and_each_file_its_entry():
    stored = {PurePosixPath(file.name).stem for file in (files("facscale.report.published") / "tables").iterdir()}
    assert stored == set(load_tables()) == set(ROWS)


def test_the_files_belong_to_the_package():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    place = ROOT / "platform" / "facscale" / "report" / "published"
    packed = {path for pattern in patterns["facscale.report.published"] for path in place.glob(pattern)}
    assert packed == {path for path in place.rglob("*") if path.suffix in {".toml", ".csv"}}


def test_every_row_is_there():
    assert Counter(line.file for line in find_results()) == ROWS


@pytest.mark.parametrize("file", COLUMNS)
def test_rows_have_all_columns_in_the_printed_order(file):
    assert {tuple(line.cells) for line in lines(file)} == {COLUMNS[file]}
    assert all(line.printed is not None for line in lines(file))


@pytest.mark.parametrize("file", SPOTS)
def test_numbers_are_the_papers(file):
    found = {(method, what): str(row(file, method).cells[what]) for method, what in SPOTS[file]}
    assert found == SPOTS[file]


@pytest.mark.parametrize("file", AVERAGES)
def test_averages_are_the_papers(file):
    assert " ".join(str(line.printed) for line in lines(file)) == AVERAGES[file]


@pytest.mark.parametrize(("file", "ahead", "behind", "lead"), CLAIMS)
def test_leads_are_those_of_the_text(file, ahead, behind, lead):
    assert row(file, ahead).printed - row(file, behind).printed == Decimal(lead)


def test_settings_of_the_ablation():
    found = [tuple(value for _, value in line.settings) for line in lines("clp_table4")]
    assert found[:9] == found[9:]
    assert found[:9] == [
        ("✓", "×", "1", "×"),
        ("✓", "×", "1/√j", "×"),
        ("×", "✓", "1/√j", "32768"),
        ("✓", "✓", "1/√j", "32768"),
        ("✓", "✓", "exp(-j)", "32768"),
        ("✓", "✓", "1/j", "32768"),
        ("✓", "✓", "1/√j", "40960"),
        ("✓", "✓", "1/√j", "16384"),
        ("✓", "✓", "1/√j", "8192"),
    ]
    assert [line.data for line in lines("clp_table4")] == ["BP4D"] * 9 + ["DISFA"] * 9


def test_numbers_by_data_set():
    found = {line.data: tuple(map(str, line.cells.values())) for line in lines("aunet_table10")}
    assert found == {"BP4D": ("2.2", "1.5"), "DISFA": ("6.5", "3.1"), "Aff-Wild2": ("2.1", "6.3")}
    phases = {line.settings[0][1]: tuple(map(str, line.cells.values())) for line in lines("rtatl_text_cost")}
    assert phases == {"training": ("54.62", "10.75"), "inference": ("19.12", "5.57")}


@pytest.mark.parametrize("line", lines("aunet_table12"), ids=lambda line: line.method)
def test_p_belongs_to_t(line):
    # 46,000 frames of 12 AUs: as good as normal. t has two decimals and is 27: ln p moves by 27 * 0.005 = 0.13.
    t, p = line.cells["t-statistic"], line.cells["p-value"]
    assert float(p.ln()) == pytest.approx(norm.logsf(-float(t)) + float(Decimal(2).ln()), abs=0.25)


def test_an_average_that_is_all_that_is_printed():
    alexnet = row("clp_table6", "AlexNet")
    assert (alexnet.values, alexnet.mean, str(alexnet.printed)) == ({}, None, "47.0")


def test_shares_are_shares():
    outside = [
        (line.file, line.method, what)
        for line in find_results()
        if line.source.unit == "%" and line.source.averaged
        for what, cell in (*line.cells.items(), ("Average", line.printed))
        if cell is not None and not 0 <= cell <= 100
    ]
    assert outside == [("aunet_table14", "ResNet18", 1)]


def test_every_method_is_of_one_kind_and_every_note_is_of_a_row():
    for file, source in load_tables().items():
        methods = {line.method for line in lines(file)}
        sorted_in = [method for kind in source.kinds.values() for method in kind]
        if source.kinds:
            assert Counter(sorted_in) == Counter(methods), file
        assert set(source.notes) <= methods, file
        assert source.paper in load_papers()
        assert source.section
        assert source.metric


def test_only_the_list_of_data_sets_has_no_kinds():
    assert [file for file, source in load_tables().items() if not source.kinds] == ["aunet_table15"]


def test_marks_are_no_part_of_a_name():
    taken = row("clp_table1", "Jacob et al.")
    assert (taken.reference, taken.is_quoted) == ("37", True)
    retrained = row("clp_table1", "SimCLR")
    assert (retrained.reference, retrained.is_quoted) == ("47", False)
    assert (row("clp_table1", "CLP").reference, row("clp_table1", "CLP").is_quoted) == ("", False)
    assert not [line.method for line in find_results() if set("[]*(") & set(line.method)]
    quoted = Counter(line.file for line in find_results() if line.is_quoted)
    assert quoted == {"clp_table1": 19, "clp_table2": 19, "clp_table3": 4, "tcae_table1": 6, "tcae_table2": 3, "tcae_table3": 2}  # fmt: skip
