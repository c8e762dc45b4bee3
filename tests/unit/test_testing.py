"""What breaks the contract of a method is named, before anything is trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from facscale.data.views import FrameOffsets, RandomFrames
from facscale.methods import Loss, Method, MethodConfig, find_method, trains
from facscale.spec import SpecError
from facscale.testing import ContractError, check_method


class Encoder(nn.Sequential):
    dim = 4

    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 4, 4), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Sound(Method):
    """A method that keeps all rules; each test breaks one of them."""

    def __init__(self, config, facts):
        super().__init__(config, facts)
        self.encoder = Encoder()
        self.head = nn.Linear(4, 1)

    @staticmethod
    def train_views(config):
        return {"faces": RandomFrames(count=1)}

    @trains("encoder", "head")
    def learn(self, batch):
        return {"loss": Loss(self.head(self.encoder(batch.faces.images.flatten(0, 2))).square().mean())}


def build(**members):
    return type("Broken", (Sound,), {"__module__": __name__, **members})


def init(change):
    def construct(self, config, facts):
        Sound.__init__(self, config, facts)
        change(self)

    return construct


def learn(function, *modules):
    return trains(*(modules or ("encoder", "head")))(function)


def loss_of(method, batch):
    return Sound.learn(method, batch)["loss"].value


class WithoutDim(nn.Sequential):
    pass


BROKEN = {
    "no phase": ({"learn": None}, "phases", "no function is marked with @trains"),
    "a phase of nothing": (
        {"learn": trains()(lambda self, batch: {})},
        "phases",
        r"@trains\(\) of learn names no submodule",
    ),
    "a misspelt submodule": (
        {"learn": learn(lambda self, batch: {}, "encoder", "haed")}, "phases", "learn trains 'haed', which is no submodule"
    ),
    "a submodule of no phase": (
        {"__init__": init(lambda self: setattr(self, "extra", nn.Linear(2, 2)))}, "phases", "no phase trains extra: name it"
    ),
    "no view": ({"train_views": staticmethod(lambda config: {})}, "views", "at least one, not {}"),
    "no view at all": ({"train_views": Method.train_views}, "views", "does not define it"),
    "a view of no frame": (
        {"train_views": staticmethod(lambda config: {"faces": FrameOffsets(offsets=())})}, "views", "chooses no frame"
    ),
    "a view of zero frames": (
        {"train_views": staticmethod(lambda config: {"faces": RandomFrames(count=0)})}, "views", "chooses no frame"
    ),
    "a constructor that fails": ({"__init__": init(lambda self: self.nothing)}, "construction", "AttributeError"),
    "no encoder": ({"__init__": init(lambda self: delattr(self, "encoder")), "learn": learn(
        lambda self, batch: {"a": Loss(self.head(torch.rand(2, 4)).mean())}, "head")}, "encoder", "sets no `encoder`"),
    "an encoder without dim": (
        {"__init__": init(lambda self: setattr(self, "encoder", WithoutDim(*self.encoder)))}, "encoder", "not None"
    ),
    "an encoder of another dim": (
        {"__init__": init(lambda self: setattr(self.encoder, "dim", 5))}, "encoder", r"shape \[3, 5\], not \[3, 4\]"
    ),
    "a tensor in place of losses": ({"learn": learn(loss_of)}, "losses", "must return a dict of losses"),
    "no loss": ({"learn": learn(lambda self, batch: {})}, "losses", "at least one, not {}"),
    "a bare tensor": (
        {"learn": learn(lambda self, batch: {"a": loss_of(self, batch)})}, "losses", "returns 'a' as a Tensor"
    ),
    "a loss for each sample": (
        {"learn": learn(lambda self, batch: {"a": Loss(loss_of(self, batch).repeat(3))})}, "losses", r"shape \[3\]"
    ),
    "a loss that is not finite": (
        {"learn": learn(lambda self, batch: {"a": Loss(loss_of(self, batch) / 0)})}, "losses", "as inf with weight 1.0"
    ),
    "losses without a weight": (
        {"learn": learn(lambda self, batch: {"a": Loss(loss_of(self, batch), 0)})}, "losses", "it trains nothing"
    ),
    "a loss without a gradient": (
        {"learn": learn(lambda self, batch: {"a": Loss(loss_of(self, batch).detach())})}, "losses", "it trains nothing"
    ),
    "a phase that fails": ({"learn": learn(lambda self, batch: batch.clip)}, "losses", "has no view 'clip'; it has faces"),
    "a submodule without a gradient": (
        {"learn": learn(lambda self, batch: {"a": Loss(self.head(torch.rand(2, 4)).mean())})},
        "gradients", "learn is to train 'encoder', but its losses give it no gradient",
    ),
    "an after_step with an argument": ({"after_step": lambda self, step: None}, "after_step", "must run without arguments"),
    "an embed without a name": ({"embed": lambda self, images: self.encoder(images)}, "embeddings", "by name"),
}  # fmt: skip


def test_a_sound_method_passes():
    check_method(Sound)


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named(name):
    members, rule, message = BROKEN[name]
    with pytest.raises(ContractError, match=message) as caught:
        check_method(build(**members))
    assert caught.value.rule == rule
    assert str(caught.value).startswith(f"the method Broken ({__name__}) breaks the contract of {rule}: ")


def test_predictions_have_a_logit_for_each_au():
    labelled = {"train_views": staticmethod(lambda config: {"faces": RandomFrames(source="labelled", columns=("au",))})}
    with pytest.raises(ContractError, match="does not define it") as caught:
        check_method(build(**labelled))
    assert caught.value.rule == "predictions"
    with pytest.raises(ContractError, match=r"predict\(batch\) must return a tensor of shape \[3, 2\], not \[3, 1\]"):
        check_method(
            build(**labelled, predict=lambda self, batch: self.head(self.encoder(batch.face.images.flatten(0, 2))))
        )


def test_a_hyper_parameter_without_a_default_is_asked_for():
    class Config(MethodConfig):
        width: int

    with pytest.raises(ContractError, match="width has no default"):
        check_method(build(Config=Config))
    check_method(build(Config=Config), Config(width=3))
    with pytest.raises(SpecError, match="is not a class derived from"):
        check_method(nn.Linear)


def test_the_random_state_of_the_caller_is_kept():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    check_method(find_method("simsiam"), find_method("simsiam").Config(depth=18, width=4))
    assert torch.equal(torch.rand(2), expected)
