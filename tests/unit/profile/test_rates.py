"""How fast a data set is read and decoded."""

from __future__ import annotations

from faces import write_face_data_set
from facscale.profile.rates import measure_decode_rate, measure_rate, measure_read_rate


def test_rates_of_a_data_set_are_positive(tmp_path):
    dataset = write_face_data_set(str(tmp_path / "faces"), [12] * 4)
    assert measure_read_rate(dataset, seconds=0.01) > 0
    assert measure_decode_rate(dataset, threads=2, seconds=0.01) > 0


def test_work_is_done_at_least_once():
    amounts = []
    assert measure_rate(lambda: amounts.append(1) or 7, seconds=0) > 0
    assert amounts == [1]
