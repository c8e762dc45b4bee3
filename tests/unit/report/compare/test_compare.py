"""Runs of many jobs as rows of one table: which are rows, what they are called, what stands beside them."""

from __future__ import annotations

import csv
import io
import re

import mlflow
import numpy as np
import pytest
from click.testing import CliRunner

from facscale.cli import main
from facscale.evaluate import MethodScores, Predictions
from facscale.report.compare import collect_entries, find_entry, log_papers, score_papers
from facscale.report.compare.comparison_report import MAX_DRAWN_ROWS, ComparisonReport, build_report
from facscale.report.compare.entries import CompareError, read_scores
from facscale.report.compare.papers import build_leaderboard, subtract_scores
from facscale.report.f1_table import F1Table
from facscale.report.published import find_results
from facscale.track.query import TrackedRun, search_runs

AUS = (1, 2, 12)


def metrics(f1):
    """F1 [folds, n] as a run's metrics."""
    folds = tuple(f"fold{number}" for number in range(len(f1)))
    return MethodScores("x", AUS, np.asarray(f1, float), np.asarray(f1, float).mean(0), folds).to_metrics()


def run(number, *, row, job="clp", name="", parent="", f1=((0.4, 0.5, 0.6), (0.5, 0.6, 0.7)), **tags):
    own = {"row": row, "job": job, "cluster": "a", "method": "clp", **tags}
    own |= {"mlflow.parentRunId": parent} if parent else {}
    return TrackedRun(f"{number:032x}", name or row, number, "FINISHED", own, {}, metrics(f1) if f1 else {})


def id_of(number):
    return f"{number:032x}"


def test_rows_are_found_and_their_folds_stages_and_trials_are_not():
    found = collect_entries(
        [
            run(1, row="clp"),
            run(2, row="supervised", parent=id_of(1)),
            run(3, row="supervised", name="supervised bp4d fold0", parent=id_of(1), f1=((0.1, 0.1, 0.1),)),
            run(4, row="trial", name="trial 1: margin=0.1", parent=id_of(1), f1=None),
            run(5, row="fan", name="fan", parent=id_of(1), f1=None),
            run(6, row="CLP", name="CLP (CLP, Table I)", source="paper"),
        ]
    )
    assert sorted(one.name for one in found) == ["clp", "supervised"]
    assert {one.name: len(one.scores.folds) for one in found} == {"clp": 2, "supervised": 2}
    np.testing.assert_allclose(found[0].scores.by_fold, [[0.4, 0.5, 0.6], [0.5, 0.6, 0.7]])


def test_seeds_of_a_row_are_one_entry():
    first = run(1, row="clp")
    seeds = [
        run(2 + n, row="clp", name=f"clp seed {1 + n}", parent=first.id, f1=((0.6, 0.7, 0.8), (0.6, 0.7, 0.8)))
        for n in range(2)
    ]
    other = [
        run(9, row="moco", name="moco seed 0", parent=first.id),
        run(10, row="moco", name="moco seed 1", parent=first.id),
    ]
    (clp,) = [one for one in collect_entries([first, *seeds, *other]) if one.label == "clp"]
    assert len(clp.runs) == 3
    assert clp.scores.seeds == 3
    assert clp.scores.mean == pytest.approx(np.mean([0.55, 0.7, 0.7]))


def test_names_are_as_short_as_they_can_be():
    found = collect_entries(
        [
            run(1, row="clp"),
            run(2, row="supervised", parent=id_of(1)),
            run(3, row="wide", job="wide"),
            run(4, row="supervised", job="wide", parent=id_of(3)),
            run(5, row="clp", cluster="b"),
        ]
    )
    assert {one.name for one in found} == {
        "wide",
        "supervised (clp)",
        "supervised (wide)",
        "clp (clp, a)",
        "clp (clp, b)",
    }
    assert find_entry(found, "supervised").job == "wide", "the newest"
    assert find_entry(found, "clp/supervised").job == "clp"
    assert find_entry(found, "clp (clp, a)").cluster == "a"
    assert find_entry(found, id_of(5)[:32]).cluster == "b"
    with pytest.raises(
        CompareError, match=re.escape('no evaluated run is called "supervized" (did you mean "supervised (')
    ):
        find_entry(found, "supervized")


def test_f1_that_is_undefined_in_a_fold_stays_so():
    row = read_scores("x", run(1, row="x", f1=((np.nan, 0.5, 0.6), (0.5, 0.6, 0.7))))
    assert np.isnan(row.by_fold[0, 0])
    assert row.f1[0] == 0.5


def test_a_paper_stands_beside_ours_and_the_difference_below():
    (line,) = [line for line in find_results("BP4D", paper="CLP", method="clp") if line.aus]
    f1 = np.array([[line.values[au] / 100 - 0.02 for au in line.aus]])
    ours = MethodScores("clp", line.aus, f1, f1[0], ("fold0",))
    gap = subtract_scores(ours, line.to_scores())
    np.testing.assert_allclose(gap.f1, -0.02)
    assert gap.mean == pytest.approx(-0.02)
    (entry,) = collect_entries([run(1, row="clp")])
    rows = score_papers(entry, data="BP4D")
    assert [row.name for row in rows[:2]] == ["CLP (CLP, Table I)", "clp minus it"]
    assert rows[1].aus == (1, 2, 12)
    assert score_papers(entry, data="synthetic_bp4d") == []


def test_the_board_has_the_best_first_and_papers_below():
    found = collect_entries([run(1, row="worse", f1=((0.1, 0.1, 0.1),)), run(2, row="better")])
    table = build_leaderboard(found, data="BP4D", papers=True)
    assert [row.name for row in table.rows[:2]] == ["better", "worse"]
    assert {row.folds for row in table.rows[2:]} == {("published",)}
    means = [row.mean for row in table.rows[2:]]
    assert means == sorted(means, reverse=True)
    assert len(build_leaderboard(found, data="BP4D", papers=False).rows) == 2


def said(name, *, right, seed=0):
    """12 people in 3 folds, of whose labels a share is said rightly."""
    random = np.random.default_rng(seed)
    au = (np.random.default_rng(1).random((720, 3)) < 0.4).astype(np.int8)
    probability = np.where(random.random(au.shape) < right, au, 1 - au).astype(np.float32)
    people = np.repeat([f"p{number:02}" for number in range(12)], 60)
    fold = np.repeat(np.arange(3, dtype=np.int8), 240)
    frame = np.tile(np.arange(60, dtype=np.int32), 12)
    folds = ("fold0", "fold1", "fold2")
    return Predictions(name, AUS, probability, au, people, np.full(720, "v"), frame, fold, folds)


def test_a_report_says_who_is_better_and_draws_it():
    found = collect_entries([run(1, row="clp"), run(2, row="moco", job="moco"), run(3, row="other", job="other")])
    kept = {"clp": [said("x", right=0.9)], "moco": [said("x", right=0.7, seed=2)], "other": []}
    chosen = [find_entry(found, name) for name in ("moco", "clp", "other")]
    told = build_report(chosen, data="synthetic", load_predictions=lambda entry: kept[entry.label], papers=True)
    (verdict,) = told.comparison.verdicts
    assert verdict.startswith("clp is better than moco by ")
    assert [row.name for row in told.f1.rows] == ["moco", "clp", "other"]
    assert set(told.subjects) == {"moco", "clp"}
    page = told.to_html()
    assert verdict in page
    assert page.count("data:image/png;base64,") == 2
    assert 'src="http' not in page
    alike = build_report(chosen[:1], data="synthetic", load_predictions=lambda entry: kept[entry.label], papers=True)
    assert alike.comparison is None
    assert alike.thresholds is not None


def test_papers_become_runs_once(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    lines = [line for line in find_results("DISFA") if line.aus and line.metric == "F1"]
    for _ in range(2):
        assert log_papers(uri, data="DISFA", experiment="disfa") == len(lines)
    found = search_runs(uri, experiment="disfa")
    rows = [one for one in found if "f1/mean" in one.metrics]
    assert len(rows) == len({(line.file, line.method) for line in lines})
    assert {one.tags["source"] for one in found} == {"paper"}
    (clp,) = [one for one in rows if one.tags["method"] == "CLP" and one.tags["table"] == "Table II"]
    (line,) = [line for line in lines if line.method == "CLP" and line.table == "Table II"]
    assert clp.metrics["f1/mean"] == pytest.approx(line.mean / 100)
    assert collect_entries(found) == []


@pytest.fixture
def store(tmp_path):
    """A tracker with two rows and what they said."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("synthetic", artifact_location=(tmp_path / "artifacts").as_uri())
    for name, right, protocol in (("clp", 0.9, "adapted-batchnorm"), ("moco", 0.7, "linear-probe")):
        predictions = said(name, right=right)
        made = client.create_run(
            experiment,
            run_name=name,
            tags={"row": name, "job": name, "cluster": "a", "method": name, "protocol": protocol},
        )
        for metric, value in predictions.score(0.5).to_metrics().items():
            client.log_metric(made.info.run_id, metric, value)
        file = tmp_path / "predictions_synthetic.parquet"
        file.write_bytes(predictions.to_parquet())
        client.log_artifact(made.info.run_id, str(file))
    return uri


def test_the_command(store, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    whole = CliRunner().invoke(main, ["compare"], catch_exceptions=False)
    assert whole.exit_code == 0
    assert whole.output.index("clp") < whole.output.index("moco")
    two = CliRunner().invoke(
        main, ["compare", "moco", "clp", "--page", str(tmp_path / "x.html")], catch_exceptions=False
    )
    assert "clp is better than moco by" in two.output
    assert "cheating" in two.output
    notes = " ".join(two.output.split())
    assert "linear probe on the frozen encoder: moco" in notes
    assert "frozen except for its BatchNorm layers: clp" in notes
    assert "frozen except for its BatchNorm layers: clp" in (tmp_path / "x.html").read_text()
    assert "data:image/png" in (tmp_path / "x.html").read_text()
    lines = CliRunner().invoke(main, ["compare", "--csv"], catch_exceptions=False).output.splitlines()
    assert lines[0] == "method,fold,AU1,AU2,AU12,Avg,protocol"
    assert lines[1].startswith("clp,mean,")
    assert lines[1].endswith(",adapted-batchnorm")


def test_a_page_without_a_run_is_the_leaderboard(store, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    page = tmp_path / "all.html"
    done = CliRunner().invoke(main, ["compare", "--page", str(page)], catch_exceptions=False)
    assert f"{page}: open it in a browser" in done.stderr
    text = page.read_text()
    assert "<h1>2 rows on synthetic</h1>" in text
    assert "data:image/png" in text
    assert text.index("<td>clp</td>") < text.index("<td>moco</td>")  # the best first


def test_many_rows_are_in_the_table_and_the_first_of_them_drawn():
    rows = tuple(said(f"row {number}", right=0.9).score(0.5) for number in range(MAX_DRAWN_ROWS + 3))
    page = ComparisonReport("synthetic", F1Table(rows)).to_html()
    assert f"The first {MAX_DRAWN_ROWS} rows are drawn; the table has 3 more." in page
    assert f"<td>row {MAX_DRAWN_ROWS + 2}</td>" in page


@pytest.mark.parametrize("words", [[], ["moco", "clp"]])
def test_csv_is_csv_whatever_else_is_written(store, tmp_path, monkeypatch, words):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    page = tmp_path / "x.html"
    done = CliRunner().invoke(main, ["compare", *words, "--csv", "--page", str(page)], catch_exceptions=False)
    head, *lines = csv.reader(io.StringIO(done.stdout))
    assert head[:2] == ["method", "fold"]
    assert all(len(line) == len(head) for line in lines)
    assert page.is_file()


def test_a_row_is_compared_with_others_not_with_itself(store):
    done = CliRunner().invoke(main, ["compare", "--tracker", store, "clp", "moco", "clp"])
    assert done.exit_code == 2
    assert "clp and clp are the same row; leave one out" in done.output


def test_what_is_not_there_is_told(store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for words, message in (
        ([], "which MLflow?"),
        (["--tracker", store, "--data", "bp4d"], "has no experiment 'bp4d'; it has"),
        (["--tracker", store, "cpl"], 'no evaluated run is called "cpl" (did you mean "clp"?)'),
        (["--tracker", store, "--log-papers"], "no paper prints F1 by AU on synthetic"),
    ):
        result = CliRunner().invoke(main, ["compare", *words])
        assert result.exit_code == 2
        assert message in result.output
