"""What is made from the chart and kept in the repository is up to date."""

from __future__ import annotations

import pytest
from helm.chart import CHART, GOLDEN, VALUE_FILES, build_readme, render_golden

RENEW = "python helm/chart.py writes it anew; review the difference"


@pytest.mark.parametrize("name", VALUE_FILES)
def test_renderings_are_the_golden_ones(name):
    kept = (GOLDEN / name).read_text()
    assert render_golden(name).splitlines() == kept.splitlines(), RENEW


def test_every_golden_rendering_has_its_value_file():
    assert sorted(path.name for path in GOLDEN.glob("*.yaml")) == VALUE_FILES


def test_readme_is_up_to_date():
    assert build_readme().splitlines() == (CHART / "README.md").read_text().splitlines(), RENEW
