"""Work side by side."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from facscale.job.slots import TrainingSlots
from facscale.train.errors import DivergedError


def test_two_slots_hold_two_at_once_and_keep_the_order():
    both = threading.Barrier(2)
    slots = TrainingSlots(2)

    def meet(item):
        with slots.hold():
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
        with slots.hold():
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


def test_an_error_that_comes_back_aborts_the_trainings_beside_it():
    slots, runs, aborted = TrainingSlots(3), threading.Barrier(3), threading.Event()

    def train(item):
        with slots.hold() as training:
            if item == 1:
                runs.wait()
                slots.fail(training)
                raise DivergedError("its loss is not finite")
            training.set_abort(aborted.set)
            runs.wait()
            assert aborted.wait(30)
            raise RuntimeError("its controller has ended")

    with pytest.raises(DivergedError, match="its loss is not finite"):
        slots.map(train, [0, 1, 2])
    with pytest.raises(CancelledError), slots.hold():
        pytest.fail("it began")


def test_a_training_that_cannot_be_aborted_yet_is_aborted_as_soon_as_it_can():
    slots, aborted = TrainingSlots(2), []

    def train():
        with slots.hold() as training:
            assert slots.fail()
            assert not slots.fail()
            training.set_abort(lambda: aborted.append("late"))
            raise RuntimeError("its controller has ended")

    with pytest.raises(CancelledError):
        train()
    assert aborted == ["late"]


def test_an_error_that_may_pass_aborts_nothing():
    slots = TrainingSlots(2)
    with pytest.raises(RuntimeError), slots.hold():
        raise RuntimeError("a worker was lost")
    with slots.hold() as training:
        assert not training.is_aborted
