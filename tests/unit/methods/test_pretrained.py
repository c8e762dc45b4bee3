"""Weights that a method begins with: an ImageNet checkpoint as `inputs.pretrained`, another training as `start`."""

from __future__ import annotations

import inspect
from io import BytesIO

import pytest
import torch

from facscale import methods
from facscale.inference import export
from facscale.methods import DataFacts
from facscale.nn import MomentumEncoder, ResNet
from facscale.spec import SpecError
from facscale.train.setup import start_from
from tiny import get_tiny_options

FACTS = DataFacts(
    aus=(1, 12),
    label_weights=((0.6, 0.7), (2.0, 3.0)),
    au_weights=(0.5, 1.5),
    sets=((1, 12),),
    identities=6,
    image_size=32,
)
SELF_SUPERVISED = ["clp", "cvc", "moco", "simclr", "simsiam"]


def build(name, *, seed=0, **inputs):
    torch.manual_seed(seed)
    kind = methods.find_method(name)
    return export.build_method(name, kind.Config(**get_tiny_options(kind.Config)), FACTS, **inputs)


def list_momentum_encoders(method):
    return {name: module for name, module in method.named_modules() if isinstance(module, MomentumEncoder)}


def make_checkpoint(*, width=4):
    """A ResNet-18 as torchvision saves it, whose BatchNorm statistics are not those of a new network."""
    torch.manual_seed(7)
    resnet = ResNet(18, width=width)
    for name, value in resnet.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_()
    weights = {**resnet.state_dict(), "fc.weight": torch.zeros(1000, 8 * width), "fc.bias": torch.zeros(1000)}
    file = BytesIO()
    torch.save(weights, file)
    return resnet.state_dict(), file.getvalue()


@pytest.mark.parametrize("name", SELF_SUPERVISED)
def test_an_imagenet_checkpoint_replaces_the_new_resnet_and_its_momentum_copy(name):
    weights, file = make_checkpoint()
    method = build(name, pretrained=export.load_export(file))
    encoder = method.encoder.state_dict()
    assert all(torch.equal(encoder[key], value) for key, value in weights.items())
    assert all(parameter.requires_grad for parameter in method.encoder.parameters())
    for momentum in list_momentum_encoders(method).values():
        own = momentum.module.state_dict()
        if any("conv1" in key for key in own):  # MoCo's has a prefix: encoder and head are one module there
            assert all(torch.equal(value, own[key if key in own else f"0.{key}"]) for key, value in weights.items())
    again = export.load_export(export.save_export(method))  # rebuilds the checkpoint's width, not the spec's
    assert again.encoder.dim == 32
    assert torch.equal(again.encoder.state_dict()["bn1.running_mean"], weights["bn1.running_mean"])


@pytest.mark.parametrize("name", SELF_SUPERVISED)
def test_another_kind_of_encoder_is_refused(name):
    with pytest.raises(SpecError, match=r"inputs.pretrained is splitbrain, which has no ResNet as its encoder"):
        build(name, pretrained=build("splitbrain"))


def test_an_encoder_whose_batchnorm_alone_was_trained_is_trainable_again():
    supervised = methods.find_method("supervised")
    config = supervised.Config(depth=18, width=4, trainable="batchnorm")
    adapted = export.build_method("supervised", config, FACTS)
    assert not adapted.encoder.conv1.weight.requires_grad
    assert all(parameter.requires_grad for parameter in build("clp", pretrained=adapted).encoder.parameters())


def test_every_input_is_known_to_the_spec():
    for name in SELF_SUPERVISED:
        assert "pretrained" in inspect.signature(methods.find_method(name)).parameters


def test_after_a_start_momentum_encoders_are_copies_of_the_started_weights():
    checked = [name for name in methods.list_methods() if start_and_compare(name)]
    assert {"clp", "cvc", "moco"} <= set(checked)


def start_and_compare(name):
    """Start a method from another seed's weights; returns whether it has momentum encoders."""
    start, method = build(name, seed=1), build(name, seed=2)
    momentum = list_momentum_encoders(start)
    with torch.no_grad():
        for module in momentum.values():  # they lag behind, and what they have is not taken over
            for value in module.state_dict().values():
                if value.is_floating_point():
                    value.normal_()
        for key, value in start.state_dict().items():
            if key.endswith(("running_mean", "bias")):
                value.normal_()
    sources = {
        (key.split(".", 1)[1], value.shape): value
        for key, value in start.state_dict().items()
        if momentum and not key.startswith(tuple(momentum)) and "." in key
    }
    start_from(method, start)
    for module in list_momentum_encoders(method).values():
        for key, value in module.module.state_dict().items():
            # a momentum copy of one module has its names, one of several adds their number
            source = sources.get((key, value.shape))
            source = sources[key.split(".", 1)[1], value.shape] if source is None else source
            assert torch.equal(value, source), f"{name}: {key}"
    return bool(momentum)
