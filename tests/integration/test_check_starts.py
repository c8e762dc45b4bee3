"""What `facscale check` passes, starts: mutated specs are refused in words, or train a step without an error."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faces import write_face_data_set
from facscale.errors import UserError
from facscale.job.check import check_methods, check_spec, open_or_outline
from facscale.job.plan import build_plan, make_task
from facscale.spec import read_spec
from facscale.train.local import LocalTrainer

pytestmark = pytest.mark.slow("trains a step of each spec that is passed", minutes=2)

METHODS = {
    "clp": {"depth": 18, "width": 4, "hidden": 8, "embedding": 8, "length": 3, "queue_size": 32},
    "simsiam": {"depth": 18, "width": 4, "projection": 8, "bottleneck": 4},
    "moco": {"depth": 18, "width": 4, "embedding": 8, "queue_size": 32},
    "supervised": {"depth": 18, "width": 4},
}
NUMBERS = st.sampled_from(
    [0, 1, 2, 3, 4, 5, 8, 64, 4096, -1, 0.5, 0.99, 1.0, 1.5, 1e-9, 1e9, float("inf"), float("nan")]
)
MUTATIONS = {
    "method.width": NUMBERS, "method.depth": NUMBERS, "method.queue_size": NUMBERS, "method.length": NUMBERS,
    "method.temperature": NUMBERS, "method.margin": NUMBERS, "method.momentum": NUMBERS,
    "data.image_size": st.sampled_from([1, 2, 8, 16, 31, 32, 33]), "data.per_track": st.sampled_from([1, 2, "all", "some"]),
    "data.validation": NUMBERS, "data.augment.crop": st.tuples(NUMBERS, NUMBERS), "data.augment.rotation": NUMBERS,
    "train.batch_size": NUMBERS, "train.accumulate": NUMBERS, "train.clip": NUMBERS, "train.precision": st.sampled_from(
        ["float32", "bf16", "fp8"]), "train.optimizer.name": st.sampled_from(["sgd", "adam", "adamw", "lars", "auto"]),
    "train.optimizer.lr": NUMBERS, "train.optimizer.betas": st.tuples(NUMBERS, NUMBERS),
    "train.optimizer.momentum": NUMBERS, "train.schedule.name": st.sampled_from(["constant", "cosine", "step"]),
    "train.schedule.warmup_epochs": NUMBERS, "train.schedule.milestones": st.lists(NUMBERS, max_size=2),
    "deepspeed.zero_optimization.stage": st.sampled_from([0, 1, 2, 3, "auto", True]),
    "deepspeed.zero_optimization.reduce_scatter": st.booleans(), "deepspeed.prescale_gradients": st.booleans(),
    "deepspeed.communication_data_type": st.sampled_from(["fp32", "fp16", "auto"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def spec_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    write_face_data_set(str(folder / "u"), [12] * 6, row_group_mb=0.2)
    write_face_data_set(str(folder / "l"), [20] * 6, au=(1, 12), row_group_mb=0.2, name="labelled")
    (folder / "job.yaml").write_text(
        f"data: {{unlabelled: {folder}/u, labelled: {folder}/l, image_size: 32, threads: 1}}\n"
        "train: {batch_size: 4, epochs: 0.5, probe_every: 0}\n"
        f"cluster: {{gpus_per_worker: 0, storage: {folder}/runs}}\nevaluate: {{folds: 2}}\n"
    )
    return folder / "job.yaml"


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from(sorted(METHODS)),
    changes=st.dictionaries(st.sampled_from(sorted(MUTATIONS)), st.none(), min_size=1, max_size=2),
    chosen=st.data(),
)
def test_what_check_passes_starts(spec_file, method, changes, chosen):
    overrides = [f"method={json.dumps({'name': method, **METHODS[method]})}"]
    for key in changes:
        value = json.dumps(chosen.draw(MUTATIONS[key], label=key))
        overrides.append(f"{key}={value.replace('Infinity', '.inf').replace('NaN', '.nan')}")
    try:
        variants = check_spec(read_spec(spec_file, overrides), name="job")
        data, _ = open_or_outline(variants)
        check_methods(variants, data)
    except UserError:  # a wrong spec, or data that does not fit it
        return
    plan = build_plan(variants, data)
    node = next(iter(plan.trainings.values()))
    LocalTrainer().fit(make_task(node, {}, identities=data.identities), name=str(abs(hash(tuple(overrides)))))
