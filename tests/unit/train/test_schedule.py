"""The arithmetic of a run, by hand."""

from __future__ import annotations

import math

import pytest

from facscale.spec import Job, SpecError
from facscale.train.engine import build_deepspeed_config
from facscale.train.schedule import Schedule


def job(deepspeed=None, **train):
    return Job(method={"name": "clp"}, train=train, deepspeed=deepspeed or {})


def plan(samples=100, **train):
    return Schedule(job(**{"batch_size": 10, "epochs": 4, **train}), samples)


def test_steps_cover_every_sample_of_every_epoch():
    assert plan().steps == 40
    assert plan(samples=101).steps == 41
    assert plan(epochs=0).steps == 0
    assert plan(epochs=0.05).steps == 1


def test_constant_rate():
    assert {plan(optimizer={"lr": 0.5}).learning_rate(step) for step in range(40)} == {0.5}


def test_cosine_starts_at_the_rate_and_ends_near_zero():
    p = plan(schedule={"name": "cosine"}, optimizer={"lr": 2.0})
    assert p.learning_rate(0) == 2.0
    assert p.learning_rate(20) == pytest.approx(1.0)
    assert p.learning_rate(39) == pytest.approx(1 + math.cos(math.pi * 39 / 40))


def test_warm_up_rises_linearly_to_the_rate():
    p = plan(schedule={"name": "cosine", "warmup_epochs": 1.0}, optimizer={"lr": 1.0})
    assert [p.learning_rate(step) for step in range(10)] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert p.learning_rate(10) == 1.0


def test_steps_multiply_at_milestones():
    p = plan(schedule={"name": "step", "milestones": [1.0, 3.0], "gamma": 0.1}, optimizer={"lr": 1.0})
    assert [p.learning_rate(step) for step in (0, 9, 10, 29, 30)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_what_is_due():
    p = plan()
    assert [step for step in range(1, 41) if p.is_due(step, every=15)] == [15, 30, 40]
    assert not any(p.is_due(step, every=0) for step in range(1, 41))


def test_deepspeed_gets_the_specs_block_verbatim_and_what_the_rest_fixes():
    found = build_deepspeed_config(
        job(deepspeed={"zero_optimization": {"stage": 2}, "prescale_gradients": True}, batch_size=24, accumulate=2),
        world=3,
    )
    assert found["zero_optimization"] == {"stage": 2}
    assert found["prescale_gradients"] is True
    assert "reduce_scatter" not in found["zero_optimization"], "defaults are DeepSpeed's own"
    assert (
        found["train_batch_size"],
        found["train_micro_batch_size_per_gpu"],
        found["gradient_accumulation_steps"],
    ) == (24, 4, 2)
    assert found["gradient_clipping"] == 0


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(SpecError, match="batch_size 10 does not divide among 3 workers"):
        build_deepspeed_config(job(batch_size=10), world=3)
