"""Rows found by data set, paper and method, under the names of either side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from facscale import methods
from facscale.report.f1_table import F1Table
from facscale.report.published import find_results
from facscale.report.published.tables import load_aliases

JOBS = Path(__file__).parents[4] / "jobs"
UNJUDGED = {"labelvae"}  # a part of AUNet: no table has it


def names(**asked):
    return [line.name for line in find_results(**asked)]


@pytest.mark.parametrize("name", ["BP4D", "bp4d", "Bp-4d"])
def test_capitals_and_punctuation_do_not_count(name):
    found = find_results(name, method="clp")
    assert [line.table for line in found] == ["Table I", *["Table IV"] * 9, *["text"] * 3]
    assert {line.data for line in found} == {"BP4D"}


@pytest.mark.parametrize("name", ["affwild2", "Aff-Wild2", "AffWild2"])
def test_aff_wild2_has_many_spellings(name):
    assert [line.table for line in find_results(name, method="AUNet")] == ["Table IX"]


@pytest.mark.parametrize("name", ["synthetic_bp4d", "bp4d_flow", "BP4D+", "", "nothing"])
def test_another_data_set_finds_nothing(name):
    assert find_results(name) == []


def test_a_method_is_found_wherever_it_stands():
    assert names(data="DISFA", method="tcae") == ["TCAE (TCAE, Table 2)", "TCAE (RTATL, Table 3)"]
    assert names(data="disfa", method="tcnet") == ["Lu et al. (CLP, Table II)", "TC-Net (RTATL, Table 3)"]
    assert names(data="AffectNet", method="fab-net") == ["FAB-Net (CLP, Table VI)"]
    assert names(data="bp4d", method="AU-TDN") == [
        "AU-TDN (AUNet, Table VII)",
        "+TDN (AUNet, Table XI)",
        "AU-TDN (AUNet, Table XII)",
    ]
    assert names(method="Lu et al.") == names(method="tcnet")
    assert names(data="bp4d", paper="rtatl", method="RoII only") == ["RoII (RTATL, Table 1)"]


def test_two_versions_of_a_method_are_two():
    assert {line.printed for line in find_results("BP4D", method="JAA-Net")} == {
        find_results("BP4D", method="JAA")[0].printed
    }
    assert {line.paper for line in find_results(method="jaa")} == {"CLP", "TCAE", "RTATL"}
    assert {line.paper for line in find_results(method="JÄANet")} == {"AUNet"}


def test_a_paper_is_found_by_its_name():
    assert {line.paper for line in find_results(paper="Clp")} == {"CLP"}
    assert len(find_results(paper="clp")) + len(find_results(paper="tcae")) + len(find_results(paper="rtatl")) + len(
        find_results(paper="aunet")
    ) == len(find_results())


def test_every_method_of_ours_is_published():
    ours = {path.stem for path in Path(methods.__file__).parent.glob("*.py")} & set(methods.list_methods())
    assert {name for name in ours if not find_results(method=name)} == UNJUDGED


@pytest.mark.parametrize("job", ["demo_labelled", "demo_methods"])
def test_every_row_of_a_job_is_published(job):
    rows = set(yaml.safe_load((JOBS / f"{job}.yaml").read_text())["evaluate"]["baselines"])
    assert [row for row in sorted(rows) if not find_results(method=row)] in (["random encoder"], ["moco v2"])


def test_every_name_of_the_index_finds_a_row():
    found = {ours: len(find_results(method=ours)) for ours in load_aliases()}
    assert all(found.values()), found
    every = [name for ours, also in load_aliases().items() for name in {ours, *also}]
    assert all(find_results(method=name) for name in every)


def test_a_line_says_what_it_is():
    (clp,) = [line for line in find_results("BP4D", method="clp") if line.aus]
    assert (clp.name, clp.metric, clp.kind, clp.labels) == ("CLP (CLP, Table I)", "F1", "self-supervised", "BP4D")
    assert clp.values[24] == 54.8
    # 47.7 + 50.9 + 49.5 + 75.8 + 78.7 + 80.2 + 84.1 + 67.1 + 52.0 + 62.7 + 45.7 + 54.8 = 749.2
    assert clp.mean == pytest.approx(749.2 / 12)
    assert str(clp.printed) == "62.4"
    other = {line.table: line.labels for line in find_results("DISFA", method="AU-FAN")}
    assert other == {"Table IV": "BP4D", "Table VIII": "BP4D, DISFA and Aff-Wild2", "Table XIV": "DISFA"}


def test_a_line_becomes_a_row_of_our_tables():
    tcnet, clp = (next(line for line in find_results("bp4d", method=name) if line.aus) for name in ("tcnet", "clp"))
    row = tcnet.to_scores()
    assert (row.name, row.folds, row.aus) == ("Lu et al. (CLP, Table I)", ("published",), tcnet.aus)
    assert row.source.endswith("TIP 2023, Table I, quoted from its [42]")
    assert row.f1[:3] == pytest.approx([0.423, 0.243, 0.441])
    assert 100 * row.mean == pytest.approx(tcnet.mean)
    assert "62.43" in F1Table((row, clp.to_scores())).build_fold_table().to_csv()


def test_what_is_no_f1_stays_undefined():
    (resnet,) = find_results("DISFA", paper="aunet", method="ResNet18")[1:]
    assert resnet.values[1] == 4104
    assert np.isnan(resnet.to_scores().f1[0])
    assert resnet.to_scores().f1[1] == pytest.approx(0.478)


def test_without_aus_there_is_no_row():
    with pytest.raises(ValueError, match=r"CLP \(CLP, Table V\) has no F1 by AU"):
        find_results("RAF-DB", method="clp")[0].to_scores()
