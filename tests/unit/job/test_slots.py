"""Work side by side."""

from __future__ import annotations

import threading

import pytest

from facscale.job.slots import TrainingSlots
from facscale.train.errors import DivergedError


def test_two_slots_hold_two_at_once_and_keep_the_order():
    both = threading.Barrier(2)
    slots = TrainingSlots(2)

    def meet(item):
        with slots.slot:
            both.wait()  # would never end if one came after the other
        return item * 10

    assert slots.map(meet, [1, 2, 3, 4]) == [10, 20, 30, 40]


def test_one_lane_stays_in_its_thread():
    assert TrainingSlots(1).map(lambda _: threading.current_thread(), [1, 2]) == [threading.main_thread()] * 2


def test_a_failure_does_not_stop_the_others():
    done = []

    def work(item):
        if item == 1:
            raise ValueError("the first one")
        done.append(item)

    with pytest.raises(ValueError, match="the first one"):
        TrainingSlots(2).map(work, [1, 2, 3])
    assert sorted(done) == [2, 3]


def test_folds_inside_rows_do_not_wait_for_each_other_for_ever():
    slots = TrainingSlots(2)

    def fold(number):
        with slots.slot:
            return number

    assert slots.map(lambda row: slots.map(fold, range(row)), [3, 3, 3]) == [[0, 1, 2]] * 3


def test_after_an_error_that_comes_back_no_sibling_begins():
    begun, has_failed = [], threading.Event()

    def work(item):
        begun.append(item)
        if item == 1:
            has_failed.set()
            raise DivergedError("its loss is not finite")
        has_failed.wait()
        return item

    with pytest.raises(DivergedError):
        TrainingSlots(2).map(work, [0, 1, *range(2, 40)])
    assert len(begun) <= 3  # the thread of item 0 may begin another one just before the error is seen
