"""The cross-data-set matrix."""

from __future__ import annotations

import csv
import io

import numpy as np

from facscale.evaluate.across import Across, Cell

FOUND = Across(
    (
        Cell("clp", "BP4D", "BP4D", 0.6),
        Cell("random", "BP4D", "BP4D", 0.3),
        Cell("clp", "BP4D", "DISFA", 0.41),
        Cell("clp", "DISFA", "DISFA", 0.55),
        Cell("clp", "DISFA", "BP4D", np.nan),
    )
)


def test_lines_learn_and_columns_test():
    np.testing.assert_allclose(FOUND.matrix("clp"), [[60, 41], [np.nan, 55]])
    np.testing.assert_allclose(FOUND.matrix("random"), [[30, np.nan], [np.nan, np.nan]])


def test_each_form_says_the_same():
    assert "| clp | BP4D | 60.0 | 41.0 |" in FOUND.markdown()
    assert "| clp | DISFA | - | 55.0 |" in FOUND.markdown()
    told = list(csv.DictReader(io.StringIO(FOUND.csv())))
    assert told[2] == {"method": "clp", "learned": "BP4D", "tested": "DISFA", "f1": "41.00"}
    shown = [axes for axes in FOUND.figure(title="across").axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in shown] == ["clp", "random"]
    assert [text.get_text() for text in shown[0].texts] == ["60.0", "41.0", "-", "55.0"]
