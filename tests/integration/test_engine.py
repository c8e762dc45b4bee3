"""DeepSpeed engines against plain PyTorch: a GAN's two roots, all ZeRO stages, resumed on other numbers of workers."""

from __future__ import annotations

import pytest
import torch
from torch import multiprocessing

from integration import engine_worker
from ports import free_port

pytestmark = pytest.mark.slow("processes of their own for each number of workers")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    for world in (2, 1, 3):
        multiprocessing.spawn(engine_worker.work, (world, str(folder), free_port()), nprocs=world)
    return folder


def weights(path):
    return torch.load(path, weights_only=True)["method"]


@pytest.mark.parametrize(("name", "stage"), engine_worker.CASES)
def test_two_workers_equal_plain_torch(trained, name, stage):
    expected = engine_worker.plain_torch(name, 6)
    found = weights(trained / f"{name}-{stage}-whole.pt")
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=2e-6, rtol=0)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize(("name", "stage"), engine_worker.CASES)
def test_resumed_on_any_number_of_workers(trained, name, stage, world):
    expected = weights(trained / f"{name}-{stage}-whole.pt")
    found = weights(trained / f"{name}-{stage}-resumed-{world}.pt")
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=0 if world == 2 else 2e-6, rtol=0)


def test_a_worker_does_not_wait_for_a_silent_one_for_ever(tmp_path):
    told = tmp_path / "told"
    multiprocessing.spawn(engine_worker.desert, (free_port(), str(told)), nprocs=2)
    assert "imed out" in told.read_text()
