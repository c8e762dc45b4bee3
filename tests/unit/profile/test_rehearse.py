"""What is concluded from a rehearsal, and which trainings a job has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from faces import write_face_data_set
from facscale.cli.jobs import resolve_price
from facscale.evaluate.protocol import LabelledDataset
from facscale.job.cost import Cost
from facscale.job.datasets import JobData
from facscale.job.variants import expand_variants
from facscale.profile import page
from facscale.profile.diagnosis import PartRates, diagnose, estimate_rate
from facscale.profile.forecast import Price, ProfiledTraining, SampleSize, compute_pace_key, forecast_trainings
from facscale.profile.run import choose_main_training
from facscale.profile.trainings import list_trainings
from facscale.profile.worker import WorkerProfile
from facscale.spec import Document, Job

CALM = WorkerProfile(
    rank=0, world=2, device="H100", step_s=0.5, data_wait=0.02, cores=2.0, gpu=0.95, model_step_s=0.45, exchange_s=0.01,
    stream_rate=400.0, read_bytes=200e6, decode_frames=4000.0, bytes_per_sample=1e5, memory=20 << 30,
    memory_size=80 << 30, checkpoint_s=1.0, checkpoint_bytes=1 << 30,
)  # fmt: skip
JOB = Job.model_validate(
    {"method": {"name": "clp"}, "train": {"batch_size": 64}, "cluster": {"workers": 2}, "data": {"threads": 4}}
)


def verdict(*, cached=False, job=JOB, **changes):
    found = [CALM, replace(CALM, rank=1, **changes)]
    return diagnose(found, PartRates.from_workers(found, job=job, frames=9), job=job, cached=cached)


def test_the_slowest_worker_sets_the_compute_pace_key():
    parts = PartRates.from_workers([CALM, replace(CALM, step_s=1.0, read_bytes=100e6)], job=JOB, frames=10)
    assert parts.training == 64
    assert parts.model == pytest.approx(64 / 0.45)
    assert parts.exchange == 6400
    assert (parts.stream, parts.read, parts.decode) == (800, 2000, 800)


@pytest.mark.parametrize(
    ("changes", "bottleneck", "mend"),
    [
        ({}, "model", "train.precision=bf16"),
        ({"data_wait": 0.6}, "decoding", "data.threads=8 and cluster.cpus_per_worker=8"),
        ({"data_wait": 0.6, "read_bytes": 1e6}, "storage", "raise data.cache_gb (100)"),
        ({"exchange_s": 0.2}, "exchange", "train.batch_size=128"),
        ({"gpu": 0.3}, "launching", "train.batch_size=128: the memory holds it"),
    ],
)
def test_each_part_can_be_the_bottleneck(changes, bottleneck, mend):
    found = verdict(**changes)
    assert found.bottleneck == bottleneck
    assert found.suggestions[0].startswith(mend)


@pytest.mark.parametrize("changes", [{"gpu": 0.3}, {"data_wait": 0.6}])
def test_a_reader_process_is_suggested_where_there_is_a_gpu_and_no_reader(changes):
    for gpus, reader, expected in ((1, "threads", 1), (1, "process", 0), (0, "threads", 0)):
        block = {"cluster": {"workers": 2, "gpus_per_worker": gpus}, "data": {"threads": 4, "reader": reader}}
        job = Job.model_validate({"method": {"name": "clp"}, "train": {"batch_size": 64}, **block})
        suggestions = verdict(job=job, **changes).suggestions
        assert sum(text.startswith("data.reader=process") for text in suggestions) == expected


def test_a_cache_that_holds_everything_is_not_to_be_raised():
    assert "first epoch only" in verdict(cached=True, data_wait=0.6, read_bytes=1e6).suggestions[0]


def test_a_full_memory_forbids_a_larger_batch():
    assert any("train.batch_size" in mend for mend in verdict().suggestions)
    assert not any("train.batch_size" in mend for mend in verdict(memory=60 << 30).suggestions)


def test_cores_that_others_use_are_named_on_the_cpu():
    job = JOB.model_copy(update={"cluster": JOB.cluster.model_copy(update={"gpus_per_worker": 0.0})})
    found = [replace(CALM, device="", gpu=None, cores=1.0)]
    assert (
        diagnose(found, PartRates.from_workers(found, job=job, frames=9), job=job, cached=False).bottleneck
        == "neighbours"
    )
    busy = [replace(CALM, device="", gpu=None, cores=4.0)]
    assert diagnose(busy, PartRates.from_workers(busy, job=job, frames=9), job=job, cached=False).bottleneck == "model"


def test_another_training_is_told_from_operations_or_from_frames():
    cost = Cost(1, 1, 1e9, 1.0, 1, 1)
    parts = PartRates(training=90, model=100, exchange=1e6, stream=1000, read=5000, decode=1200)
    same = {"measured": cost, "measured_frames": 9, "rates": parts}
    assert estimate_rate(cost, frames=9, **same) == pytest.approx(90)
    assert estimate_rate(replace(cost, flops_per_sample=2e9), frames=9, **same) == pytest.approx(45)
    assert estimate_rate(replace(cost, flops_per_sample=1.0), frames=18, **same) == pytest.approx(450)


def test_money_is_told_where_a_price_is():
    assert "10.0 GPU-hours, 2.0 node-hours" in page.describe_price(gpu_hours=10, node_hours=2, price=Price())
    assert page.describe_price(gpu_hours=10, node_hours=2, price=Price(gpu=2.5)).startswith("cost: 25.00 (")
    assert page.describe_price(gpu_hours=0, node_hours=2, price=Price(node=3)).startswith(
        "cost: 6.00 (2.0 node-hours at 3"
    )


def test_the_clusters_file_knows_prices(tmp_path, monkeypatch):
    path = tmp_path / "clusters.yaml"
    path.write_text(
        "clusters:\n  munich: {context: gke, gpu_price: 2.5}\n  lab: {address: http://lab:8265, node_price: 1}\n"
    )
    monkeypatch.setenv("FACSCALE_CLUSTERS", str(path))
    monkeypatch.setenv("FACSCALE_CLUSTER", "munich")
    anywhere = Document({}, {(): "?"})
    assert resolve_price(anywhere, Price()) == Price(gpu=2.5)
    assert resolve_price(anywhere, Price(gpu=9)) == Price(gpu=9)
    lab = Document({"cluster": {"name": "lab"}}, {(): "?"})
    assert resolve_price(lab, Price()) == Price(node=1)
    assert resolve_price(lab, Price(gpu=9)) == Price(gpu=9, node=1)  # each as said, or as the file has it
    monkeypatch.setenv("FACSCALE_CLUSTER", "elsewhere")
    assert resolve_price(anywhere, Price()) == Price()


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A function: all trainings of a job with these changes, on 40 unlabelled people and 12 labelled ones."""
    folder = tmp_path_factory.mktemp("data")
    write_face_data_set(str(folder / "u"), [12] * 40, row_group_mb=0.2)
    write_face_data_set(str(folder / "l"), [20] * 12, au=(1, 12), row_group_mb=0.2, name="labelled")
    supervised = {
        "method": {"name": "supervised", "depth": 18, "width": 4},
        "data": {"epoch": {"samples_per": "frame"}},
        "train": {"epochs": 3},
    }

    def plan(**changes):
        spec = {
            "method": {"name": "clp", "depth": 18, "width": 4, "length": 3, "queue_size": 32},
            "data": {"unlabelled": str(folder / "u"), "labelled": str(folder / "l"), "image_size": 32},
            "train": {"batch_size": 8, "epochs": 2},
            "cluster": {"gpus_per_worker": 0, "storage": str(folder / "runs")},
            "evaluate": {"folds": 3, "baselines": {"random": {"train": {"epochs": 0}}, "supervised": supervised}},
        }
        variants = expand_variants(Document({**spec, **changes}, {(): "?"}), name="job")
        sets = [
            LabelledDataset.open(url, evaluate=variants[0].job.evaluate)
            for url in variants[0].job.data.urls("labelled")
        ]
        data = JobData(tuple(sets), identities=40)
        return variants[0], list_trainings(variants, data)

    return plan


def test_rows_folds_and_seeds_are_counted_and_nothing_is_trained(planned):
    main, found = planned(seeds=2)
    assert [(one.row, one.seeds) for one in found] == [("job", 2), *[("supervised", 2)] * 3]
    assert found[0].steps == 10
    assert [one.steps for one in found[1:]] == [60] * 3  # of 160 frames a fold, three times, in batches of 8
    assert choose_main_training(main, found) is found[0]


def test_batchnorm_probes_are_trainings_too(planned):
    _, found = planned(evaluate={"folds": 3, "protocol": "adapted-batchnorm"})
    assert [one.task.job.method.name for one in found] == ["clp", *["supervised"] * 3]


def test_a_job_whose_main_row_trains_nothing_rehearses_another(planned):
    main, found = planned(train={"batch_size": 8, "epochs": 0})
    assert [one.row for one in found] == ["supervised"] * 3
    assert choose_main_training(main, found).row == "supervised"


def test_what_was_not_rehearsed_is_told_and_all_is_added_up(planned):
    _, found = planned(seeds=2)
    first = found[0]
    done = {compute_pace_key(first.task): ProfiledTraining.from_workers(first, [replace(CALM, device="", gpu=None)])}
    clp, supervised = forecast_trainings(found, done, first=compute_pace_key(first.task))
    assert clp.is_measured
    assert not supervised.is_measured
    assert (clp.count, clp.steps, supervised.count) == (2, 20, 6)
    assert clp.seconds == pytest.approx(2 * 10 * 0.5)
    assert supervised.seconds > 0
    assert clp.gpu_s == 0
    again = {**done, compute_pace_key(found[1].task): done[compute_pace_key(first.task)]}
    assert all(one.is_measured for one in forecast_trainings(found, again, first=compute_pace_key(first.task)))


def test_a_sample_has_frames_and_images(planned):
    _, found = planned()
    assert SampleSize.from_task(found[0].task) == SampleSize(frames=5, images=7)
    assert SampleSize.from_task(found[1].task) == SampleSize(frames=1, images=1)


@pytest.mark.usefixtures("plugins")
def test_stages_are_trained_before_what_stands_on_them(planned):
    main, found = planned(
        method={"name": "tiny-staged"},
        inputs={"teacher": {"stage": "teacher"}},
        stages={"teacher": {"method": {"name": "tiny-gan"}}},
        evaluate={"folds": 3},
    )
    assert [one.task.job.method.name for one in found] == ["tiny-gan", "tiny-staged"]
    assert choose_main_training(main, found) is found[1]
