"""What may be searched, and how a trial's values become a spec."""

from __future__ import annotations

import pytest
from ray.tune.search.sample import Categorical, Float, Integer

from facscale.job.variants import build_variant
from facscale.spec import Job, SpecError, parse, read_spec
from facscale.spec.sweep import Span, Sweep
from facscale.sweep.check import describe_domain
from facscale.sweep.space import apply_values, check_objective, check_space, clip_to_space, make_tune_space

JOB = """
method: {name: clp, margin: 0.2}
data: {unlabelled: faces, labelled: [coded]}
stages: {first: {method: {name: clp}, train: {epochs: 1}}}
sweep:
  space:
    method.margin: {low: 0.01, high: 0.5, log: true}
    method.queue_size: [64, 128]
    train.epochs: {low: 1, high: 4}
"""


@pytest.fixture
def document(tmp_path):
    def written(text=JOB, *words):
        path = tmp_path / "job.yaml"
        path.write_text(text)
        return read_spec(path, words)

    return written


def sweep_of(document):
    return parse(document, Job).sweep


def test_domains_are_ray_tunes(document):
    found = make_tune_space(sweep_of(document()))
    margin, size, epochs = (found[key] for key in ("method.margin", "method.queue_size", "train.epochs"))
    assert isinstance(margin, Float)
    assert (margin.lower, margin.upper) == (0.01, 0.5)
    assert isinstance(size, Categorical)
    assert size.categories == [64, 128]
    assert isinstance(epochs, Integer)
    assert (epochs.lower, epochs.upper) == (1, 5), "Ray Tune leaves the upper end out, a spec does not"
    assert type(margin.sampler).__name__.endswith("LogUniform")


def test_a_trial_is_the_spec_with_its_values_and_without_the_sweep(document):
    spec = document()
    row = build_variant(
        apply_values(spec, {"method.margin": 0.05, "method.queue_size": 64, "train.epochs": 3}), name="trial"
    )
    assert (row.config.margin, row.config.queue_size, row.job.train.epochs) == (0.05, 64, 3)
    assert row.job.sweep is None
    assert spec.data["method"]["margin"] == 0.2


def test_pbt_is_brought_back_into_the_ranges(document):
    values = {"method.margin": 0.6, "method.queue_size": 128, "train.epochs": 4.8}
    assert clip_to_space(values, sweep_of(document())) == {
        "method.margin": 0.5,
        "method.queue_size": 128,
        "train.epochs": 4,
    }
    low = {"method.margin": 0.008, "method.queue_size": 64, "train.epochs": 2.4}
    assert clip_to_space(low, sweep_of(document())) == {
        "method.margin": 0.01,
        "method.queue_size": 64,
        "train.epochs": 2,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep.space={cluster.workers: [1, 2]}"], "cluster.workers does not affect the training"),
        (["sweep.space={method.margin: [0.1]}"], "needs two values or more to choose from"),
        (["sweep.space={method.margin: {low: 2, high: 1}}"], "low must be smaller than high"),
        (["sweep.space={method.margin: {low: 0, high: 1, log: true}}"], "a range with log needs a low above 0"),
        (["sweep.search=grid"], "a grid needs a list of values for method.margin"),
        (["sweep.space={method.margin: null, method.queue_size: null, train.epochs: null}"], "space names no key"),
        (["sweep.keep=1"], "sweep.keep"),
        (["sweep.serch=grid"], 'unknown key "sweep.serch" (did you mean "search"?)'),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(document, words, message):
    with pytest.raises(SpecError) as error:
        parse(document(JOB, *words), Job)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("method.margin:", "method.marge:", 7, 'did you mean "margin"?'),
        ("[64, 128]", "[64, many]", 8, "queue_size"),
        ("low: 1, high: 4", "low: -1, high: 4", 9, "train.epochs"),
        ("train.epochs:", "data.cache_GB:", 9, 'unknown key "data.cache_GB"'),
    ],
)
def test_a_value_that_the_spec_cannot_take_is_told_with_its_line(document, old, new, line, message):
    spec = document(JOB.replace(old, new))
    with pytest.raises(SpecError) as error:
        check_space(spec, sweep_of(spec), name="job")
    assert f"job.yaml:{line}" in str(error.value)
    assert message in str(error.value)


def test_every_value_of_a_sound_space_is_taken(document):
    spec = document()
    check_space(spec, sweep_of(spec), name="job")


@pytest.mark.parametrize(
    ("words", "labelled", "message"),
    [
        (["train.probe_every=0"], True, "train.probe_every"),
        ([], False, "online/effective_rank"),
        (["sweep.objective=validation/total"], True, "data.validation"),
        (["sweep.objective=validation/total", "data.validation=0.2"], True, "train.validate_every"),
        (["sweep.objective=f1/mean"], True, "is not a validation metric"),
        (["sweep.objective=loss/total"], True, "is not a validation metric"),
    ],
)
def test_an_objective_that_is_never_told_is_refused(document, words, labelled, message):
    spec = document(JOB, *words)
    with pytest.raises(SpecError, match=message):
        check_objective(build_variant(spec, name="job"), sweep_of(spec), labelled=labelled)


def test_null_leaves_out_what_an_extended_file_searches(document):
    assert set(sweep_of(document(JOB, "sweep.space={method.margin: null}")).active_space) == {
        "method.queue_size",
        "train.epochs",
    }


def test_objectives_that_are_told_are_taken(document):
    for words in ([], ["sweep.objective=online/effective_rank"]):
        spec = document(JOB, *words)
        check_objective(build_variant(spec, name="job"), sweep_of(spec), labelled=not words)
    spec = document(JOB, "sweep.objective=validation/f1", "data.validation=0.2", "train.validate_every=5")
    check_objective(build_variant(spec, name="job"), sweep_of(spec), labelled=True)


def test_a_range_says_itself():
    assert describe_domain(Span(low=0.01, high=0.5, log=True)) == "0.01 to 0.5, evenly over orders of magnitude"
    assert describe_domain((64, 128)) == "one of 64, 128"
    assert Sweep(space={"seed": (1, 2)}).goal == "max"
