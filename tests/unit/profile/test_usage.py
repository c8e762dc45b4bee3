"""How busy a GPU is, where the driver says so; how much memory a worker has."""

from __future__ import annotations

import time
from types import SimpleNamespace

import psutil
import pynvml
import pytest
import torch

from facscale.profile import usage

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def driver(monkeypatch):
    """A driver whose GPU-abc is busy half of the time; its MIG devices have no utilization."""

    def find(uuid):
        if uuid != "GPU-abc":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return uuid

    monkeypatch.setattr(usage, "INTERVAL_S", 0.01)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", find)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", lambda _: SimpleNamespace(gpu=50))


def measure(monkeypatch, uuid):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid=uuid))
    with usage.Usage(GPU) as measured:
        time.sleep(0.2)
    return measured.gpu


@pytest.mark.usefixtures("driver")
def test_a_gpu_is_found_by_its_uuid(monkeypatch):
    assert measure(monkeypatch, "abc") == 0.5


@pytest.mark.usefixtures("driver")
def test_a_mig_device_has_no_utilization(monkeypatch):
    assert measure(monkeypatch, "mig") is None


@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_NO_PERMISSION])
def test_without_a_driver_or_permission_there_is_no_figure(monkeypatch, error):
    def fail():
        raise pynvml.NVMLError(error)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    assert measure(monkeypatch, "abc") is None


def test_a_containers_limit_bounds_the_memory(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(usage, "MEMORY_LIMITS", (str(limit), str(tmp_path / "none")))
    total = psutil.virtual_memory().total
    for text, expected in (("max\n", total), (f"{2**20}\n", 2**20), (f"{2**62}\n", total)):
        limit.write_text(text)
        assert usage.get_memory_size(CPU) == expected
