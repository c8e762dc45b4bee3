"""Layers and losses that look beyond a worker's own samples: on any number of workers they equal the whole batch."""

from __future__ import annotations

import pytest
import torch
from torch import multiprocessing

from facscale.methods.base import sum_losses
from integration import workers_worker
from ports import free_port

pytestmark = pytest.mark.slow("processes of their own for each number of workers")


@pytest.fixture(scope="module", params=[2, 3])
def found(request, tmp_path_factory):
    folder, world = tmp_path_factory.mktemp("workers"), request.param
    multiprocessing.spawn(workers_worker.work, (world, str(folder), free_port()), nprocs=world)
    return [torch.load(folder / f"{world}-{rank}.pt", weights_only=True) for rank in range(world)]


def test_nt_xent_and_batchnorm_are_the_whole_batchs(found):
    layers = workers_worker.network()  # plain BatchNorm, one process, all samples
    expected = workers_worker.loss(layers, workers_worker.batch())
    expected.backward()
    for one in found:
        assert one["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
        for name, parameter in layers.named_parameters():
            torch.testing.assert_close(one["gradients"][name], parameter.grad, atol=5e-6, rtol=1e-5)
        for name, value in layers.state_dict().items():
            torch.testing.assert_close(one["state"][name], value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["tcae", "tcae by term", "fabnet"])
def test_a_curriculum_sorts_the_samples_of_all_workers(found, name):
    """Losses and gradients in float64 are those of one process with all samples: its windows, and its BatchNorm."""
    method = dict(workers_worker.curricula())[name]
    losses = workers_worker.curriculum_losses(method, workers_worker.moving_faces())
    sum_losses(losses).backward()
    for one in (worker["curricula"][name] for worker in found):
        for key, loss in losses.items():
            assert one["losses"][key].item() == pytest.approx(loss.value.item(), rel=1e-9), key
        for key, parameter in method.named_parameters():
            torch.testing.assert_close(one["gradients"][key], parameter.grad, atol=1e-9, rtol=1e-6, msg=key)


def test_shuffled_batches_are_mixed_and_come_back_in_place(found):
    parts = workers_worker.batch().chunk(len(found))
    for one, mine in zip(found, parts, strict=True):
        torch.testing.assert_close(one["shuffled"], mine.flatten(1) * 2)
    assert not any(torch.equal(one["seen"], mine) for one, mine in zip(found, parts, strict=True))
    seen = torch.cat([one["seen"] for one in found]).flatten(1)
    assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, workers_worker.batch().flatten(1).tolist()))
