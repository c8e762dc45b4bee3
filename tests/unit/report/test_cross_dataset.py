"""The cross-data-set matrix."""

from __future__ import annotations

import csv
import io

import numpy as np

from facscale.report.cross_dataset import CrossDatasetMatrix, CrossDatasetScore

MATRIX = CrossDatasetMatrix(
    (
        CrossDatasetScore("clp", "BP4D", "BP4D", 0.6),
        CrossDatasetScore("random", "BP4D", "BP4D", 0.3),
        CrossDatasetScore("clp", "BP4D", "DISFA", 0.41),
        CrossDatasetScore("clp", "DISFA", "DISFA", 0.55),
        CrossDatasetScore("clp", "DISFA", "BP4D", np.nan),
    )
)


def test_rows_are_trained_on_and_columns_tested_on():
    np.testing.assert_allclose(MATRIX.build_matrix("clp"), [[60, 41], [np.nan, 55]])
    np.testing.assert_allclose(MATRIX.build_matrix("random"), [[30, np.nan], [np.nan, np.nan]])


def test_each_form_has_the_same_values():
    assert "| clp | BP4D | 60.0 | 41.0 |" in MATRIX.build_table().to_markdown()
    assert "| clp | DISFA | - | 55.0 |" in MATRIX.build_table().to_markdown()
    lines = list(csv.DictReader(io.StringIO(MATRIX.to_csv())))
    assert lines[2] == {"method": "clp", "learned": "BP4D", "tested": "DISFA", "f1": "41.00"}
    shown = [axes for axes in MATRIX.plot(title="across").axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in shown] == ["clp", "random"]
    assert [text.get_text() for text in shown[0].texts] == ["60.0", "41.0", "-", "55.0"]
