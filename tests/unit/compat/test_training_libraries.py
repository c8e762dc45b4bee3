"""The private names of Ray Train, DeepSpeed and torch that `facscale.compat` touches still exist upstream."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import pytest
import torch
from ray.train import RunConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from torch import distributed
from torch.distributed import distributed_c10d as c10d

from facscale.compat import ray_train
from facscale.compat.deepspeed import LINK, is_sharded
from facscale.compat.torch import set_collective_timeouts


def test_ray_train_has_the_backend_that_forms_the_process_group():
    assert TorchConfig().backend_cls is ray_train.TORCH_BACKEND
    assert callable(ray_train.TORCH_BACKEND.on_start)


def test_ray_train_starts_no_actor_for_data_sets_that_nobody_reads(tmp_path):
    def kinds(trainer):
        made = trainer(print, run_config=RunConfig(storage_path=str(tmp_path)))._create_default_callbacks()
        return [type(callback) for callback in made]

    assert [kind for kind in kinds(TorchTrainer) if kind not in kinds(ray_train.LeanTorchTrainer)] == [DatasetsCallback]


def test_ray_trains_worker_group_can_be_forgotten():
    class Group(WorkerGroup):
        def __init__(self):
            self._worker_group_state = self._replica_groups = self._worker_rank_to_replica_group_rank = "held"
            self._world_rank_to_ongoing_poll = {0: "poll"}

    group = Group()
    ray_train.forget_worker_group(group)
    assert group._worker_group_state is None
    assert not group.has_started()


def test_ray_train_keeps_the_announcement_of_a_preemption_where_we_read_it():
    """As `ray.train.get_preemption_info` reads it, before its workers meet."""
    from ray.train.v2._internal.execution import context
    from ray.train.v2._internal.execution.preemption import PreemptionContext

    assert callable(context.get_train_context)
    assert "preemption_context" in context.TrainContext.__dataclass_fields__
    assert PreemptionContext().preemption_info is None


def test_ray_trains_controller_can_be_asked_to_abort():
    assert callable(TrainController.abort)


def test_deepspeed_links_the_states_of_its_sharded_optimizer():
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    assert callable(getattr(DeepSpeedZeroOptimizer, LINK))
    assert is_sharded(object.__new__(DeepSpeedZeroOptimizer))
    assert not is_sharded(torch.optim.SGD([torch.zeros(1)]))


WITHOUT_COMPILER = """
import sys
import torch
from torch.utils.flop_counter import FlopCounterMode
from facscale.compat.torch import without_compiler

layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to("meta")
with without_compiler(), FlopCounterMode(display=False) as counter:
    faces = torch.cat([torch.rand(1, 3, 8, 8, device="meta")] * 2)
    (layers(faces) - 1).square().mean().backward()
assert counter.get_total_flops() == 2 * (2 * 2 * 4 * 3 * 9 * 36), counter.get_total_flops()
real = torch.nn.Linear(3, 2)
with without_compiler():
    for kind in (torch.optim.SGD, torch.optim.AdamW):
        optimizer, before = kind(real.parameters(), lr=0.1), real.weight.clone()
        real(torch.rand(4, 3)).square().sum().backward()
        optimizer.step()
        assert not torch.equal(real.weight, before)
for name in ("torch._dynamo", "sympy", "torch.fx.experimental.symbolic_shapes"):
    assert name not in sys.modules, name
assert "_dynamo" not in vars(torch)
"""
COMPILER_AFTER_ALL = """
import torch
from facscale.compat.torch import without_compiler

with without_compiler():
    torch.optim.SGD([torch.zeros(1)])
    {use}
import torch._dynamo as dynamo
assert dynamo.disable.__module__.startswith("torch._dynamo")
layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
assert dynamo.explain(layers)(torch.rand(2, 3, 8, 8)).graph_count == 1
torch.optim.SGD(layers.parameters()).step()
import sympy
assert (sympy.Symbol("x") + 1).subs("x", 2) == 3
"""


def run_python(code):
    """In a process of its own: this one may have the compiler."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_torch_counts_operations_and_trains_without_importing_its_compiler():
    run_python(WITHOUT_COMPILER)


@pytest.mark.parametrize(
    "use",
    [
        "pass",
        "assert torch._dynamo.config is not None",  # what the stand-in lacks is the compiler's own
        "from torch._dynamo.utils import counters",
        "from torch._dynamo import config",
        "from sympy import Symbol; from torch.fx.experimental.symbolic_shapes import ShapeEnv; ShapeEnv()",
    ],
)
def test_torchs_compiler_works_in_the_block_and_after_it(use):
    run_python(COMPILER_AFTER_ALL.format(use=use))


@pytest.mark.skipif(distributed.is_initialized(), reason="another test of this process has a process group")
def test_torch_sets_the_timeout_of_groups_that_nobody_holds():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        distributed.new_group([0])  # as DeepSpeed makes one
        assert len(c10d._world.pg_map) == 2
        set_collective_timeouts(7)
        for group in c10d._world.pg_map:
            assert group._get_backend(torch.device("cpu")).options._timeout == timedelta(seconds=7)
    finally:
        distributed.destroy_process_group()
    set_collective_timeouts(7)  # without a process group there is nothing to set
