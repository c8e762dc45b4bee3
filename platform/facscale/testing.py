"""For authors of methods: `check_method` tries a method on random images and says what breaks the contract.

    from facscale.testing import check_method

    def test_my_method():
        check_method(MyMethod, MyMethod.Config(depth=18))

`facscale check` and the start of each run check the same rules, with the job's own hyper-parameters and labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from facscale.data.augment import PARAMETERS
from facscale.data.views import Batch, Faces, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, sum_losses
from facscale.spec import Block, SpecError

__all__ = ["ContractError", "check_method", "make_random_batch"]

SAMPLES = 4  # of a batch: BatchNorm needs more than one
EXAMPLE_FACTS = DataFacts(
    aus=(1, 12),
    label_weights=((0.6, 0.7), (2.0, 3.0)),
    au_weights=(0.5, 1.5),
    sets=((1, 12),),
    identities=SAMPLES,
    image_size=64,
)


class ContractError(SpecError):
    """A method breaks a rule of the contract between methods and the platform (`facscale.methods.base`).

    `rule`: config, phases, views, construction, losses, gradients, after_step, encoder, embeddings or predictions.
    """

    def __init__(self, method: type[Method], rule: str, problem: str) -> None:
        super().__init__(f"the method {method.__name__} ({method.__module__}) breaks the contract of {rule}: {problem}")
        self.rule = rule


def check_method(
    method_class: type[Method],
    config: Any = None,
    *,
    facts: DataFacts = EXAMPLE_FACTS,
    inputs: Mapping[str, Method] | None = None,
    seed: int = 0,
) -> None:
    """Build a method and train it for two steps on random images of `facts.image_size`, on the CPU.

    `config`: by default the method's own defaults; choose small networks to be quick. `inputs`: the trained methods
    that its constructor takes, by name. Raises ContractError for the first rule that is broken.
    """
    if not (isinstance(method_class, type) and issubclass(method_class, Method)):
        raise SpecError(f"{method_class!r} is not a class derived from facscale.methods.Method")
    check_class(method_class)
    if config is None:
        config = make_default_config(method_class)
    views = get_views(method_class, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with blame(method_class, "construction"):
            method = method_class(config, facts, **(inputs or {}))
        check_modules(method)
        method.train()
        for step in range(2):  # in the first one, a queue of negatives is still empty
            batch = make_random_batch(
                views, size=facts.image_size, aus=len(facts.aus), samples=SAMPLES, seed=seed + step
            )
            for phase in list_phases(method):
                losses = run_phase(method, phase, batch)
                if step:
                    check_gradients(method, phase, losses)
            run_after_step(method)
        check_outputs(method, config)


def check_class(method_class: type[Method]) -> None:
    """Check what a class declares. Raises ContractError."""
    config_class = method_class.Config
    if not (isinstance(config_class, type) and issubclass(config_class, Block)):
        raise ContractError(method_class, "config", "Config must derive from facscale.methods.MethodConfig")
    for phase, modules in method_class.phases().items():
        if not modules:
            raise ContractError(
                method_class,
                "phases",
                f"@trains() of {phase} names no submodule, so that the phase would train nothing",
            )
    if not method_class.phases():
        raise ContractError(method_class, "phases", "no function is marked with @trains, so that nothing is trained")
    try:
        method_class.roots()
    except TypeError as error:
        raise ContractError(method_class, "phases", str(error)) from None


def make_default_config(method_class: type[Method]) -> Any:
    """The method's default hyper-parameters. Raises ContractError where one has no default."""
    try:
        return method_class.Config()
    except ValidationError as error:
        missing = ", ".join(str(fault["loc"][0]) for fault in error.errors() if fault["loc"])
        raise ContractError(method_class, "config", f"{missing} has no default, or one that is not valid") from None


def get_views(method_class: type[Method], config: Any) -> Mapping[str, View]:
    """The views of a training sample. Raises ContractError where they are none, or choose no frame."""
    with blame(method_class, "views"):
        views = method_class.train_views(config)
        check_views(method_class, views, name="train_views")
        if method_class.learns_from_labels(config):
            check_views(method_class, method_class.eval_views(config), name="eval_views")
    return views


def check_views(method_class: type[Method], views: Any, *, name: str) -> None:
    """Raise ContractError for views that are none, are no views, or choose no frame."""
    if not (isinstance(views, Mapping) and views):
        raise ContractError(method_class, "views", f"{name} must return views by name, at least one, not {views!r}")
    for key, view in views.items():
        if not (isinstance(key, str) and isinstance(view, View)):
            raise ContractError(method_class, "views", f"{name}[{key!r}] is {view!r}, which is no View")
        if view.source not in ("unlabelled", "labelled"):
            raise ContractError(method_class, "views", f"{name}[{key!r}] has the source {view.source!r}")
        if view.count < 1 or view.views < 1 or view.extent < 1:
            raise ContractError(method_class, "views", f"{name}[{key!r}] chooses no frame: {view}")


def check_modules(method: Method) -> None:
    """Check that phases name submodules, and that each parameter that learns is in one. Raises ContractError."""
    kind, trained = type(method), set[int]()
    for phase, names in method.phases().items():
        for name in names:
            try:
                module = method.get_submodule(name)
            except AttributeError:
                raise ContractError(kind, "phases", f"{phase} trains {name!r}, which is no submodule") from None
            trained |= {id(parameter) for parameter in module.parameters()}
    untrained = [
        name
        for name, parameter in method.named_parameters()
        if parameter.requires_grad and id(parameter) not in trained
    ]
    if untrained:
        modules = ", ".join(dict.fromkeys(name.rpartition(".")[0] or name for name in untrained))
        raise ContractError(
            kind, "phases", f"no phase trains {modules}: name it in @trains, or freeze it with requires_grad_(False)"
        )
    if not kind.has_image_encoder:
        return
    encoder = getattr(method, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise ContractError(
            kind,
            "encoder",
            "the constructor sets no `encoder`; a mere stage of other methods sets has_image_encoder=False",
        )
    dim = getattr(encoder, "dim", None)
    if not isinstance(dim, int) or dim < 1:
        raise ContractError(kind, "encoder", f"encoder.dim must be the number of features, not {dim!r}")


def list_phases(method: Method) -> list[str]:
    """The phases that are trained: those whose submodules have parameters."""
    return [phase for root in method.trainable_roots() for phase in root.phases]


def run_phase(method: Method, phase: str, batch: Batch) -> Losses:
    """Compute the losses of a phase. Raises ContractError unless they are finite scalars by name, one with a weight."""
    with blame(type(method), "losses", f"{phase} fails on a batch of random images"):
        losses = getattr(method, phase)(batch)
    check_losses(method, phase, losses)
    return losses


def check_losses(method: Method, phase: str, losses: Any) -> None:
    """Raise ContractError unless `losses` are finite scalars by name, of which one is trained."""
    kind = type(method)
    if not (isinstance(losses, dict) and losses):
        raise ContractError(kind, "losses", f"{phase} must return a dict of losses, at least one, not {losses!r}")
    for name, loss in losses.items():
        where = f"{phase} returns {name!r}"
        if not (isinstance(name, str) and isinstance(loss, Loss) and isinstance(loss.value, Tensor)):
            raise ContractError(kind, "losses", f"{where} as a {type(loss).__name__}; return Loss(tensor, weight=...)")
        if loss.value.dim() or not loss.value.is_floating_point():
            shape = list(loss.value.shape)
            raise ContractError(kind, "losses", f"{where} with shape {shape} and {loss.value.dtype}; take its mean")
        if not (loss.value.isfinite() and math.isfinite(loss.weight)):
            raise ContractError(kind, "losses", f"{where} as {loss.value.item()} with weight {loss.weight}; not finite")
    if not any(loss.weight and loss.value.requires_grad for loss in losses.values()):
        raise ContractError(kind, "losses", f"{phase} returns no loss with a weight and a gradient: it trains nothing")


def check_gradients(method: Method, phase: str, losses: Losses) -> None:
    """Raise ContractError for a submodule of the phase's that its losses, with any weight, give no gradient."""
    total = torch.stack([loss.value for loss in losses.values() if loss.value.requires_grad]).sum()
    for name in method.phases()[phase]:
        parameters = [parameter for parameter in method.get_submodule(name).parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True) if parameters else ()
        if parameters and not any(gradient is not None and bool(gradient.any()) for gradient in gradients):
            raise ContractError(
                type(method), "gradients", f"{phase} is to train {name!r}, but its losses give it no gradient"
            )
        if any(gradient is not None and not bool(gradient.isfinite().all()) for gradient in gradients):
            raise ContractError(type(method), "gradients", f"the gradient of {phase} in {name!r} is not finite")


def check_trained(method: Method, phase: str, losses: Losses) -> None:
    """Backpropagate a phase's losses. Raises ContractError where no parameter that it trains depends on them."""
    sum_losses(losses).backward()
    parameters = [p for name in method.phases()[phase] for p in method.get_submodule(name).parameters()]
    if not any(parameter.grad is not None for parameter in parameters):
        trained = ", ".join(method.phases()[phase])
        raise ContractError(
            type(method), "gradients", f"{phase} is to train {trained}, but its losses do not depend on it"
        )


def run_after_step(method: Method) -> None:
    """Call `after_step`. Raises ContractError where it fails."""
    with blame(type(method), "after_step", "it must run without arguments after each step"), torch.no_grad():
        method.after_step()


def check_outputs(method: Method, config: Any) -> None:
    """Check what an evaluation takes from a method: features, embeddings and predictions. Raises ContractError."""
    kind, facts = type(method), method.facts
    method.eval()
    with torch.no_grad():
        if kind.has_image_encoder:
            images = torch.rand(3, 3, facts.image_size, facts.image_size)
            with blame(kind, "encoder", f"it fails on images {list(images.shape)}"):
                features = method.encoder(images)
            check_shape(kind, "encoder", features, shape=[3, method.encoder.dim], name="the encoder")
            with blame(kind, "embeddings", "embed(images) fails"):
                embeddings = method.embed(images)
            if not (isinstance(embeddings, Mapping) and embeddings):
                raise ContractError(kind, "embeddings", f"embed must return embeddings by name, not {embeddings!r}")
            for name, value in embeddings.items():
                shape = [3, value.shape[-1] if isinstance(value, Tensor) and value.dim() else 0]
                check_shape(kind, "embeddings", value, shape=shape, name=f"embed(images)[{name!r}]")
        if kind.learns_from_labels(config) and kind.has_image_encoder:
            views = method.eval_views(config)
            batch = make_random_batch(views, size=facts.image_size, aus=len(facts.aus), samples=3)
            with blame(kind, "predictions", "predict(batch) fails"):
                logits = method.predict(batch)
            check_shape(kind, "predictions", logits, shape=[3, len(facts.aus)], name="predict(batch)")


def check_shape(kind: type[Method], rule: str, value: Any, *, shape: list[int], name: str) -> None:
    """Raise ContractError for what is not a finite tensor of this shape."""
    if not isinstance(value, Tensor) or list(value.shape) != shape:
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ContractError(kind, rule, f"{name} must return a tensor of shape {shape}, not {got}")
    if not bool(value.isfinite().all()):
        raise ContractError(kind, rule, f"{name} returns numbers that are not finite")


@contextmanager
def blame(kind: type[Method], rule: str, problem: str = "it fails") -> Iterator[None]:
    """Make any error of the block a ContractError; our own errors pass as they are."""
    try:
        yield
    except SpecError:
        raise
    except NotImplementedError:
        raise ContractError(kind, rule, "the method does not define it") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ContractError(kind, rule, f"{problem}: {type(error).__name__}: {reason}") from error


def make_random_batch(
    views: Mapping[str, View], *, size: int, aus: int, samples: int = SAMPLES, seed: int = 0
) -> Batch:
    """A batch of noise, shaped as the stream and the augmentation deliver it; every sample is another person."""
    random = torch.Generator().manual_seed(seed)

    def column(name: str, view: View) -> Tensor:
        if name == "landmarks":
            return size * torch.rand(samples, view.count, view.views, 68, 2, generator=random)
        if name == "flow":
            return torch.randn(samples, view.count, view.views, 2, size // 4, size // 4, generator=random)
        if name == "data_set":
            return torch.zeros(samples, view.count, dtype=torch.int64)
        return torch.randint(0, 2, (samples, view.count, aus), generator=random, dtype=torch.int8)

    def images(view: View) -> Tensor:
        side = size if view.pixels else 0
        return torch.rand(samples, view.count, view.views, 3, side, side, generator=random)

    return Batch(
        {
            name: Faces(
                images=images(view),
                identity=torch.arange(samples),
                augmentation=torch.zeros(samples, view.count, view.views, len(PARAMETERS)),
                columns={name: column(name, view) for name in view.columns},
            )
            for name, view in views.items()
        }
    )
