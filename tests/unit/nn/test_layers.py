"""Layers against their definitions and well-known counts."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from facscale.nn import MomentumEncoder, Queue, ResNet, distributed, projection_head
from facscale.nn.resnet import _shortcut


@pytest.mark.parametrize(("depth", "millions", "dim"), [(18, 11.18, 512), (34, 21.28, 512), (50, 23.51, 2048)])
def test_parameters_are_torchvisions_without_the_classifier(depth, millions, dim):
    with torch.device("meta"):
        encoder = ResNet(depth)
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)
    assert encoder.dim == dim
    names = set(encoder.state_dict())
    assert {"conv1.weight", "bn1.running_mean", "layer2.0.downsample.0.weight", "layer4.1.bn2.bias"} <= names
    assert not any(name.startswith(("mean", "std", "fc")) for name in names)
    assert "layer1.0.downsample.0.weight" not in names or depth == 50


def test_operations_of_resnet_34_are_the_papers():
    from torch.utils.flop_counter import FlopCounterMode

    encoder = ResNet(34).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert encoder(torch.zeros(1, 3, 224, 224)).shape == (1, 512)
    assert counter.get_total_flops() / 2 == pytest.approx(3.6e9, rel=0.02)  # the papers count multiply-adds


def test_input_is_normalised_by_imagenet():
    encoder = ResNet(18, width=4).eval()
    inputs_of_conv1 = []
    encoder.conv1.register_forward_pre_hook(lambda _, inputs: inputs_of_conv1.append(inputs[0]))
    encoder(torch.full((1, 3, 32, 32), 0.5))
    assert inputs_of_conv1[0][0, :, 0, 0].tolist() == pytest.approx(
        [(0.5 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0.5 - 0.406) / 0.225], abs=1e-6
    )


def test_projection_head_has_relu_between_and_none_after():
    kinds = [type(layer) for layer in projection_head(512, 256, 128)]
    assert kinds == [nn.Linear, nn.ReLU, nn.Linear]


def test_momentum_is_exponential_averaging_in_float32():
    source = nn.Linear(2, 2).bfloat16()
    momentum = MomentumEncoder(source, momentum=0.999)
    start = momentum.module.weight.clone()
    with torch.no_grad():
        source.weight.add_(1.0)
    for _ in range(1000):
        momentum.update()
    expected = source.weight.float() + (start - source.weight.float()) * 0.999**1000
    torch.testing.assert_close(momentum.module.weight, expected, atol=1e-4, rtol=0)


def test_a_momentum_encoder_is_reset_to_its_source_with_statistics_and_is_saved_once():
    source = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    holder = nn.ModuleDict({"source": source, "momentum": MomentumEncoder(source, momentum=0.9)})
    names = [name for name in holder.state_dict() if "0.weight" in name]
    assert names == ["source.0.weight", "momentum.module.0.weight"]
    source(torch.randn(8, 3))  # moves the running statistics
    nn.init.normal_(source[0].weight)
    assert not torch.equal(holder["momentum"].module[1].running_mean, source[1].running_mean)
    copied = copy.deepcopy(holder)
    for module in (holder, copied):
        nn.init.normal_(module["source"][0].bias)
        module["momentum"].reset()
        for name, value in module["source"].state_dict().items():
            assert torch.equal(module["momentum"].module.state_dict()[name], value), name
    assert not torch.equal(holder["source"][0].bias, copied["source"][0].bias)  # a copy follows its own source


def test_queue_wraps_around():
    queue = Queue(5, 1)
    for step in range(3):
        queue.enqueue(torch.full((2, 1), float(step)), torch.tensor([step, step]))
        assert int(queue.filled) == min(5, 2 * (step + 1))
    assert sorted(queue.identities.tolist()) == [0, 1, 1, 2, 2]
    assert queue.keys[:, 0].tolist() == [float(i) for i in queue.identities.tolist()]


def test_more_keys_than_rows_keep_the_newest():
    queue = Queue(3, 1)
    queue.enqueue(torch.arange(5.0)[:, None], torch.arange(5))
    assert sorted(queue.identities.tolist()) == [2, 3, 4]


def test_queue_is_saved():
    queue = Queue(4, 2)
    queue.enqueue(torch.rand(3, 2), torch.arange(3))
    other = Queue(4, 2)
    other.load_state_dict(queue.state_dict())
    assert torch.equal(other.keys, queue.keys)
    assert (int(other.cursor), int(other.filled)) == (3, 3)


@pytest.mark.parametrize("world", [2, 3, 5])
def test_samples_are_dealt_evenly_whatever_their_number(monkeypatch, world):
    """What `shuffled_forward` sends and receives: every worker sends all of its samples, and gets as many."""
    monkeypatch.setattr(distributed, "get_world_size", lambda: world)
    for count in range(2 * world + 2):
        sent = [
            [distributed.share_of(count, (other - rank) % world) for other in range(world)] for rank in range(world)
        ]
        assert [sum(row) for row in sent] == [count] * world
        assert [sum(column) for column in zip(*sent, strict=True)] == [count] * world
        assert max(map(max, sent)) - min(map(min, sent)) <= 1


def test_a_queues_counters_stay_on_the_host():
    """The host chooses rows by them, and would wait for a device to read them."""
    queue = nn.ModuleDict({"queue": Queue(4, 2)}).to("meta").double()["queue"]
    assert queue.keys.is_meta
    queue.enqueue(torch.rand(3, 2, device="meta"), torch.arange(3, device="meta"))
    assert (queue.cursor.device.type, int(queue.cursor), queue.stored.shape) == ("cpu", 3, (3, 2))
    assert list(queue.state_dict()) == ["keys", "identities", "cursor", "filled"]


@pytest.mark.parametrize("channels", [2, 4, 7, 8])
def test_a_strided_shortcut_is_the_same_whatever_the_order_of_channels_in_memory(channels):
    """Of few channels torch 2.14.1 writes outside its buffers when they come last: see resnet._NarrowShortcut."""
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, 6, 1, stride=2, bias=False)
    shortcut = _shortcut(channels, 6, stride=2)[0]
    shortcut.load_state_dict(plain.state_dict())
    pixels, weights = torch.randn(3, channels, 9, 12), torch.randn(3, 6, 5, 6)
    result = []
    for layer, layout in ((plain, torch.contiguous_format), (shortcut, torch.channels_last)):
        images = pixels.clone(memory_format=layout).requires_grad_()
        outputs = layer(images)
        (outputs * weights).sum().backward()
        result.append((outputs, images.grad, layer.weight.grad))
    for expected, value in zip(*result, strict=True):
        torch.testing.assert_close(value, expected)
