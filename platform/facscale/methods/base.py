"""The contract between a method and the platform.

A method is one file that declares three things: its hyper-parameters (`Config`), the views of a training sample
(`train_views`), and its losses (one *phase* for each optimizer step, marked by `@trains`). It imports torch and the
lower rooms of facscale only: no engine, cluster, tracker or storage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from facscale.data.views import Batch, RandomFrames, View
from facscale.nn import Encoder, ResNet
from facscale.spec import Block, SpecError
from facscale.spec.models import Weighting

MethodConfig = Block  # frozen and closed: a wrong key is an error before anything starts, with a suggestion


class Loss(NamedTuple):
    """A scalar that is logged under its own name and trained with this weight (0: only logged)."""

    value: Tensor
    weight: float = 1.0


Losses = dict[str, Loss]
Phase = Callable[[Any, Batch], Losses]
AnyPhase = TypeVar("AnyPhase", bound=Phase)
AnyEncoder = TypeVar("AnyEncoder", bound=Encoder)


@dataclass(frozen=True)
class DataFacts:
    """Facts about the training data that a method is built with."""

    aus: tuple[int, ...] = ()  # the labelled action units, in the order of the columns of `au`
    label_weights: tuple[tuple[float, ...], ...] = ()  # of their negatives and positives: inverse class frequencies
    au_weights: tuple[float, ...] = ()  # of each AU, inverse to its frequency; their mean is 1
    sets: tuple[tuple[int, ...], ...] = ()  # the AUs of each labelled data set that is trained on
    identities: int = 0  # number of people in the unlabelled data
    image_size: int = 224  # pixels, side of the network's square input

    def get_label_weights(self, weighting: Weighting) -> Tensor:
        """Get the weights [2, n] of negatives and positives that `data.labels.compute_label_weights` computes."""
        au_weights = self.au_weights if weighting == "au" else (1.0,) * len(self.aus)
        return torch.tensor(self.label_weights if weighting == "class" else (au_weights, au_weights))


@dataclass(frozen=True)
class Root:
    """Submodules that the same phases train: they share an optimizer and its state."""

    modules: tuple[str, ...]
    phases: tuple[str, ...] = field(compare=False)

    @property
    def name(self) -> str:
        """The submodules, joined: "encoder+tcl_head"."""
        return "+".join(self.modules)


def trains(*modules: str) -> Callable[[AnyPhase], AnyPhase]:
    """Decorate a function of a Method as a phase that trains these submodules (attribute names) and no others.

    Phases run in the order in which they are written. Two phases train the same submodules, or disjoint ones.
    """

    def mark(phase: AnyPhase) -> AnyPhase:
        phase.__dict__["trains"] = modules
        return phase

    return mark


class Method(nn.Module):
    """Base class of all methods. A subclass sets `encoder`, the part that is kept and evaluated.

    Its docstring documents the paper: citation, equations, letters, and a paragraph that begins with "Departures from the
    paper". What the paper leaves open, and what its authors' code decides, is listed there too.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    constant_rate: ClassVar[tuple[str, ...]] = ()  # submodules whose learning rate no schedule changes
    has_image_encoder: ClassVar[bool] = True  # False: usable only as a stage of another method
    encoder: Encoder
    recipe: Any  # what rebuilds the method (`inference.export.Recipe`); the platform sets it

    def __init__(self, config: Any, facts: DataFacts) -> None:
        """Subclasses add keyword-only arguments of type Method, for the spec's `inputs:`, frozen or not."""
        super().__init__()
        self.config = config
        self.facts = facts

    @staticmethod
    def train_views(config: Any) -> Mapping[str, View]:
        """Return the views of a training sample, by name."""
        raise NotImplementedError

    @staticmethod
    def eval_views(config: Any) -> Mapping[str, View]:
        """Return the views from which `predict` predicts the AUs of a frame; by default the frame alone."""
        return {"face": RandomFrames(source="labelled")}

    @property
    def rate_factor(self) -> float:
        """Factor of the scheduled learning rate, for a method that lowers it itself, such as after validations."""
        return 1.0

    def after_step(self) -> None:
        """Update what is not trained by gradient; called once after the optimizer step of all phases."""

    def after_validation(self, loss: float) -> None:
        """React to a validation; called on every worker with the same mean loss over the held-out subjects."""

    def embed(self, images: Tensor) -> Mapping[str, Tensor]:
        """Compute the embeddings of images [N, 3, S, S] that are evaluated: [N, D] by name, "encoder" first."""
        return {"encoder": self.encoder(images)}

    def au_relations(self) -> Mapping[str, Tensor]:
        """Return learned relations between AUs by name: matrices [A, A], in the order of `facts.aus`."""
        return {}

    def predict_motion(self, source: Tensor, target: Tensor) -> Mapping[str, Tensor]:
        """Predict displacements by name, for methods that move pixels: [N, 2, S, S] in pixels (x, then y).

        Each gives the position that a pixel is taken from, relative to its own.
        """
        return {}

    def visualize(self, batch: Batch) -> Mapping[str, Tensor]:
        """Draw columns of a figure by title: images [N, 3, S, S] in [0, 1] or displacements [N, 2, S, S] in pixels."""
        return {}

    def predict(self, batch: Batch) -> Tensor:
        """Predict AU logits [B, len(facts.aus)] from the views of `eval_views`. For methods trained on labels."""
        raise NotImplementedError

    @classmethod
    def predicts_intensities(cls, config: Any) -> bool:
        """Return whether `predict_intensities` is there, beside `predict`."""
        return False

    def predict_intensities(self, batch: Batch) -> Tensor:
        """Predict AU intensities from 0 to 5, [B, len(facts.aus)], from the views of `eval_views`."""
        raise NotImplementedError

    @classmethod
    def phases(cls) -> dict[str, tuple[str, ...]]:
        """Return the phases in written order: name -> the submodules that the phase trains."""
        members = {name: member for base in reversed(cls.__mro__) for name, member in vars(base).items()}
        return {name: member.trains for name, member in members.items() if hasattr(member, "trains")}

    @classmethod
    def roots(cls) -> tuple[Root, ...]:
        """Return the groups of submodules that need an optimizer each. Raises TypeError if two of them overlap."""
        phases = cls.phases()
        roots = tuple(
            Root(modules, tuple(name for name, trained in phases.items() if trained == modules))
            for modules in dict.fromkeys(phases.values())
        )
        names = [name for root in roots for name in root.modules]
        if not roots or len(names) != len(set(names)):
            raise TypeError(f"{cls.__name__}: two phases must train the same submodules or disjoint ones, not {phases}")
        return roots

    def trainable_roots(self) -> tuple[Root, ...]:
        """Return the roots that have parameters. An option may leave a root empty; its phases are then skipped."""
        return tuple(
            root for root in self.roots() if any(list(self.get_submodule(name).parameters()) for name in root.modules)
        )

    @classmethod
    def learns_from_labels(cls, config: Any) -> bool:
        """Return whether training sees labels; such a method is trained anew in each fold of the cross-validation."""
        return any(view.source == "labelled" for view in cls.train_views(config).values())

    @classmethod
    def convert_public_weights(cls, weights: Mapping[str, Tensor]) -> tuple[Any, dict[str, Tensor]] | None:
        """Convert weights of a public release: returns the configuration and the state dictionary of the encoder.

        `weights` has the release's own parameter names. Returns None for weights that do not belong to this method.
        """
        return None


def require_encoder(method: Method, kind: type[AnyEncoder], *, key: str) -> AnyEncoder:
    """Return the encoder of an input. Raises SpecError if it is not a `kind`; `key` is the input's key in the spec."""
    encoder = getattr(method, "encoder", None)
    if not isinstance(encoder, kind):
        raise SpecError(f"{key} is {method.recipe.method}, which has no {kind.__name__} as its encoder")
    return encoder


def adopt_resnet(pretrained: Method) -> ResNet:
    """Return the ResNet of `inputs.pretrained`, all of it trainable. Raises SpecError for another kind of encoder."""
    return require_encoder(pretrained, ResNet, key="inputs.pretrained").requires_grad_(True)


def sum_losses(losses: Losses) -> Tensor:
    """Return the weighted sum, which is what is trained."""
    return torch.stack([loss.value * loss.weight for loss in losses.values() if loss.weight]).sum()
