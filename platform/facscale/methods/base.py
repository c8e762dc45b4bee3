"""The contract between a method and the platform.

A method is one file that says three things: its hyper-parameters (`Config`), the sample it wants (`sample`), and its
losses (one *phase* for each optimizer step, marked by `@trains`). It imports torch and our lower rooms, and never meets
an engine, a cluster, a tracker or a store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from facscale.data.views import Batch, Frames, View
from facscale.nn import Encoder
from facscale.spec import Block, SpecError

MethodConfig = Block  # frozen and closed: a wrong key fails before anything starts, with the nearest known one


class Loss(NamedTuple):
    """A scalar that is logged under its own name, and trained with this weight (0: only logged)."""

    value: Tensor
    weight: float = 1.0


Losses = dict[str, Loss]
Phase = Callable[[Any, Batch], Losses]
AnyPhase = TypeVar("AnyPhase", bound=Phase)
AnyEncoder = TypeVar("AnyEncoder", bound=Encoder)


@dataclass(frozen=True)
class DataFacts:
    """What a method may know of the data before it sees any."""

    aus: tuple[int, ...] = ()  # the labelled action units, in the order of the columns of `au`
    label_weights: tuple[tuple[float, ...], ...] = ()  # of their negatives and positives: inverse class frequencies
    au_weights: tuple[float, ...] = ()  # of each AU, inverse to its frequency; their mean is 1
    sets: tuple[tuple[int, ...], ...] = ()  # the AUs of each labelled data set that is trained on
    identities: int = 0  # of the unlabelled data
    image_size: int = 224  # pixels, side of the network's square input


@dataclass(frozen=True)
class Root:
    """Submodules that one phase trains together: they share an optimizer and its state."""

    modules: tuple[str, ...]
    phases: tuple[str, ...] = field(compare=False)

    @property
    def name(self) -> str:
        """As in "encoder+tcl_head"."""
        return "+".join(self.modules)


def trains(*modules: str) -> Callable[[AnyPhase], AnyPhase]:
    """Mark a method of a Method as a phase that trains these submodules (attribute names) and no other.

    Phases run in the order in which they are written. Two phases train the same modules or wholly different ones.
    """

    def mark(phase: AnyPhase) -> AnyPhase:
        phase.__dict__["trains"] = modules
        return phase

    return mark


class Method(nn.Module):
    """Base of all methods. A subclass sets `encoder`, the part that is kept and judged.

    Its docstring is the paper: citation, equations, letters, and "Differs from the paper".
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    constant_rate: ClassVar[tuple[str, ...]] = ()  # submodules whose learning rate no schedule changes
    sees: ClassVar[bool] = True  # False: it has no encoder of images, and can only be a stage of others
    encoder: Encoder
    recipe: Any  # what rebuilds it (`export.Recipe`); the platform sets it

    def __init__(self, config: Any, facts: DataFacts) -> None:
        """Subclasses take further keyword-only arguments of type Method for the spec's `inputs:` (frozen or not)."""
        super().__init__()
        self.config = config
        self.facts = facts

    @staticmethod
    def sample(config: Any) -> Mapping[str, View]:
        """The views of a training sample, by name."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Called after each real optimizer step, once for all phases."""

    def after_validation(self, loss: float) -> None:
        """Called on every worker with the same mean loss over people who are not trained on, after each look at them."""

    def embeddings(self, images: Tensor) -> Mapping[str, Tensor]:
        """What there is to judge in images [N, 3, S, S]: features [N, D] by name, "encoder" first."""
        return {"encoder": self.encoder(images)}

    def matrices(self) -> Mapping[str, Tensor]:
        """What it has learned about pairs of AUs: by name, [A, A] in the order of `facts.aus`."""
        return {}

    def movements(self, source: Tensor, target: Tensor) -> Mapping[str, Tensor]:
        """Methods that move pixels: by name, from where each pixel comes, [N, 2, S, S] in pixels (x, then y)."""
        return {}

    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """The columns of a sheet: images [N, 3, S, S] in [0, 1], or displacements [N, 2, S, S] in pixels."""
        return {}

    @staticmethod
    def judged(config: Any) -> Mapping[str, View]:
        """The views from which `predict` tells the AUs of a frame: the frame alone, unless a method wants more."""
        return {"face": Frames(source="labelled")}

    def predict(self, batch: Batch) -> Tensor:
        """Samples with the views of `judged` -> AU logits [B, len(facts.aus)]; methods that train on labels have it."""
        raise NotImplementedError

    @classmethod
    def phases(cls) -> dict[str, tuple[str, ...]]:
        """The phases in written order: name -> the submodules that it trains."""
        members = {name: member for base in reversed(cls.__mro__) for name, member in vars(base).items()}
        return {name: member.trains for name, member in members.items() if hasattr(member, "trains")}

    @classmethod
    def roots(cls) -> tuple[Root, ...]:
        """What needs an optimizer of its own. Raises TypeError where two roots overlap."""
        phases = cls.phases()
        roots = tuple(
            Root(modules, tuple(name for name, trained in phases.items() if trained == modules))
            for modules in dict.fromkeys(phases.values())
        )
        names = [name for root in roots for name in root.modules]
        if not roots or len(names) != len(set(names)):
            raise TypeError(
                f"{cls.__name__}: phases must train the same submodules or wholly different ones, not {phases}"
            )
        return roots

    def learning(self) -> tuple[Root, ...]:
        """The roots that hold something to learn: an option may leave one empty, and then its phases are left out."""
        roots = self.roots()
        return tuple(root for root in roots if any(list(self.get_submodule(n).parameters()) for n in root.modules))

    @classmethod
    def learns_from_labels(cls, config: Any) -> bool:
        """Whether training sees labels: then it is trained anew in each fold of the cross-validation."""
        return any(view.source == "labelled" for view in cls.sample(config).values())

    @classmethod
    def adopted(cls, weights: Mapping[str, Tensor]) -> tuple[Any, dict[str, Tensor]] | None:
        """Public weights of its encoder, under the names of their own release: the configuration and the encoder's state.

        None: they are not of this method.
        """
        return None


def encoder_of(given: Method, kind: type[AnyEncoder], *, place: str) -> AnyEncoder:
    """The encoder of an input. Raises SpecError where it is of another kind; `place` is where the spec names it."""
    found = getattr(given, "encoder", None)
    if not isinstance(found, kind):
        raise SpecError(f"{place} is {given.recipe.method}, which holds no {kind.__name__}")
    return found


def total(losses: Losses) -> Tensor:
    """The weighted sum that is trained."""
    return torch.stack([loss.value * loss.weight for loss in losses.values() if loss.weight]).sum()
