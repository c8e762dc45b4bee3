"""Misprints, each with its sum done by hand, and what else does not agree."""

from __future__ import annotations

from decimal import Decimal

import pytest

from facscale.report.published import PublishedResult, find_contradictions, find_misprints, find_repeats
from facscale.report.published.check import AVERAGE, find_misprint

# fmt: off
EAC = (39.0 + 35.2 + 48.6 + 76.1 + 72.9 + 81.9 + 86.2 + 58.8 + 37.5 + 59.1 + 35.9 + 35.8) / 12       # 667.0 / 12
IDEN = (50.5 + 35.9 + 50.6 + 77.2 + 74.2 + 82.9 + 85.1 + 65.3 + 42.2 + 60.8 + 42.1 + 46.5) / 12      # 713.3 / 12
SRERL = (46.9 + 45.3 + 55.6 + 77.1 + 78.4 + 83.5 + 87.6 + 63.9 + 52.2 + 63.9 + 47.1 + 53.3) / 12     # 754.8 / 12
EAC_DISFA = (41.5 + 26.4 + 66.4 + 50.7 + 80.5 + 89.3 + 88.9 + 15.6) / 8                              # 459.3 / 8
UGN = (43.3 + 48.1 + 63.4 + 49.5 + 48.2 + 72.9 + 90.8 + 59.0) / 8                                    # 475.2 / 8
CVC = (30.3 + 20.9 + 56.4 + 49.5 + 26.3 + 75.5 + 79.1 + 51.8) / 8                                    # 389.8 / 8
TAE = (21.4 + 19.6 + 64.5 + 46.8 + 44.0 + 73.2 + 85.1 + 55.3) / 8                                    # 409.9 / 8
VTFF = (81.5 + 85.8 + 68.1 + 64.8 + 94.1 + 87.2 + 85.4) / 7                                          # 566.9 / 7
RESNET80 = (39.3 + 40.6 + 38.5 + 64.2 + 67.5 + 71.0 + 65.3 + 57.2 + 37.8 + 51.3 + 35.1 + 32.6) / 12  # 600.4 / 12
DRML = (36.4 + 41.8 + 43.0 + 55.0 + 67.0 + 66.3 + 65.8 + 54.1 + 33.2 + 48.0 + 31.7 + 30.0) / 12      # 572.3 / 12
DRML_DISFA = (17.3 + 17.7 + 37.4 + 29.0 + 10.7 + 37.7 + 38.5 + 20.1) / 8                             # 208.4 / 8
JAA_III = (53.8 + 47.8 + 58.2 + 78.5 + 78.6 + 82.7 + 88.2 + 63.7 + 43.3 + 61.8 + 45.6 + 49.9) / 12   # 752.1 / 12
JAA_XIII = (53.8 + 47.8 + 48.2 + 78.5 + 75.8 + 82.7 + 88.2 + 63.7 + 43.3 + 61.8 + 45.6 + 49.9) / 12  # 739.3 / 12
AUFAN = (54.9 + 46.6 + 61.0 + 82.9 + 74.5 + 86.2 + 87.5 + 50.7 + 40.0 + 64.6 + 47.9 + 47.6) / 12     # 744.4 / 12
AUTDN = (76.2 + 0.0 + 63.1 + 10.7 + 46.5 + 66.8 + 0.0) / 7                                           # 263.3 / 7
RESNET18_AU1 = 8 * 53.8 - (47.8 + 43.4 + 43.1 + 37.2 + 73.8 + 82.4 + 61.8)                           # 430.4 - 389.5

EXPECTED = [
    ("CLP, Table I", "EAC-Net", AVERAGE, "55.9", EAC),               # 55.58
    ("CLP, Table I", "IdenNet", AVERAGE, "59.3", IDEN),              # 59.44
    ("CLP, Table I", "SRERL", AVERAGE, "62.1", SRERL),               # 62.90
    ("CLP, Table II", "ROI", AVERAGE, "48.5", EAC_DISFA),            # 57.41: it is EAC-Net's row
    ("CLP, Table II", "EAC-Net", AVERAGE, "48.5", EAC_DISFA),        # 57.41
    ("CLP, Table II", "UGN", AVERAGE, "60.0", UGN),                  # 59.40
    ("CLP, Table II", "CVC", AVERAGE, "48.6", CVC),                  # 48.73
    ("CLP, Table II", "TAE", AVERAGE, "51.5", TAE),                  # 51.24
    ("CLP, Table V", "VTFF", AVERAGE, "81.8", VTFF),                 # 80.99
    ("TCAE, Table 1", "ResNet-80 face", AVERAGE, "49.9", RESNET80),  # 50.03
    ("TCAE, Table 1", "DRML", AVERAGE, "48.3", DRML),                # 47.69
    ("TCAE, Table 1", "EAC-Net", AVERAGE, "55.9", EAC),              # 55.58
    ("TCAE, Table 2", "DRML", AVERAGE, "26.7", DRML_DISFA),          # 26.05
    ("TCAE, Table 2", "EAC-Net", AVERAGE, "48.5", EAC_DISFA),        # 57.41
    ("RTATL, Table 3", "UGN", AVERAGE, "60.0", UGN),                 # 59.40
    ("AUNet, Table III", "JÄANet", AVERAGE, "62.4", JAA_III),        # 62.68
    ("AUNet, Table VII", "AU-FAN", AVERAGE, "62.7", AUFAN),          # 62.03
    ("AUNet, Table IX", "AU-TDN", AVERAGE, "38.4", AUTDN),           # 37.61
    ("AUNet, Table XIII", "DRML", AVERAGE, "48.3", DRML),            # 47.69
    ("AUNet, Table XIII", "JÄANet", AVERAGE, "62.4", JAA_XIII),      # 61.61
    ("AUNet, Table XIII", "SRERL", AVERAGE, "62.1", SRERL),          # 62.90
    ("AUNet, Table XIV", "DRML", AVERAGE, "26.7", DRML_DISFA),       # 26.05
    ("AUNet, Table XIV", "ResNet18", 1, "4104", RESNET18_AU1),       # 40.9
]
# fmt: on


def line(average, *cells):
    return PublishedResult(
        "clp_table1", "made up", "BP4D", {n: Decimal(cell) for n, cell in enumerate(cells, 1)}, Decimal(average)
    )


def test_the_misprints_are_these():
    found = [(it.result.source.place, it.result.method, it.heading, str(it.printed)) for it in find_misprints()]
    assert found == [expected[:4] for expected in EXPECTED]
    assert [it.expected for it in find_misprints()] == pytest.approx([expected[4] for expected in EXPECTED])


def test_what_the_notes_say_is_so():
    assert round((EAC_DISFA * 8 - 80.5 + 8.5) / 8, 1) == 48.4
    assert round((VTFF * 7 - 81.5 + 87.5) / 7, 1) == 81.8
    assert round((JAA_III * 12 - 78.6 + 75.8) / 12, 1) == round((JAA_XIII * 12 - 48.2 + 58.2) / 12, 1) == 62.4
    (resnet,) = [it for it in find_misprints() if it.heading == 1]
    assert resnet.tolerance == pytest.approx(0.05 * 7 + 0.05 * 8)
    assert all(abs(resnet.expected - fitting) < resnet.tolerance for fitting in (41.04, 41.4))


@pytest.mark.parametrize(
    ("average", "cells", "wrong"),
    [
        ("10.1", ("10.0", "10.0"), False),  # 10.05 and 10.05 round to 10.0 (or 10.1), their mean to 10.1
        ("10.2", ("10.0", "10.0"), True),
        ("9.9", ("10.0", "10.0"), False),
        ("9.8", ("10.0", "10.0"), True),
        ("10.5", ("10", "10"), False),  # 10.49 and 10.49
        ("10.7", ("10", "10"), True),
        ("10.3", ("10", "10.0"), False),  # (10.5 + 10.05) / 2 = 10.275
        ("10.4", ("10", "10.0"), True),
        ("10.01", ("10.0", "10.0"), False),
        ("10.06", ("10.0", "10.0"), True),  # 10.05 is as far as it goes, and 10.055 is no 10.05
        ("50.0", ("100.0", "0.0"), False),
    ],
)
def test_rounding_is_no_misprint(average, cells, wrong):
    assert bool(find_misprint(line(average, *cells))) is wrong


def test_where_nothing_is_averaged_nothing_is_misprinted():
    assert (
        find_misprint(
            PublishedResult("aunet_table11", "+TDN", "BP4D", {"Model size (M)": Decimal("2.66")}, Decimal("64.9"))
        )
        is None
    )
    assert find_misprint(PublishedResult("clp_table6", "AlexNet", "AffectNet", {}, Decimal("47.0"))) is None


def test_the_contradictions_are_these():
    assert [str(found) for found in find_contradictions()] == [
        "SRERL on BP4D: Average 62.1 (CLP, Table I), 62.9 (RTATL, Table 2), 62.1 (AUNet, Table XIII).",
        "JÄANet on BP4D: AU4 58.2 (AUNet, Table III), 48.2 (AUNet, Table XIII); AU7 78.6 (AUNet, Table III), 75.8 (AUNet, Table XIII).",
        "AU-FAN on BP4D: AU4 61.6 (AUNet, Table III), 61.5 (AUNet, Table XIII).",
    ]


def test_the_repeats_are_these():
    assert [str(found) for found in find_repeats()] == [
        "On DISFA the same numbers for SimSiam (CLP, Table II) and VGG emotion (TCAE, Table 2).",
        "On DISFA the same numbers for ROI (CLP, Table II) and EAC-Net (CLP, Table II) and EAC-Net (TCAE, Table 2).",
    ]


def test_a_misprint_is_told_with_its_sum():
    told = {it.result.name: str(it) for it in find_misprints()}
    assert told["SRERL (CLP, Table I)"] == (
        "CLP, Table I: SRERL: Average 62.1, but its numbers give 62.90 (±0.1 by rounding). RTATL's Table 2 prints 62.9."
    )
    assert told["ResNet18 (AUNet, Table XIV)"].startswith(
        "AUNet, Table XIV: ResNet18: AU1 4104, but the average and the others give 40.90 (±0.75 by rounding)."
    )
