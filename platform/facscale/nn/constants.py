"""Constants that are made once on each device: copying them there for each batch would make the host wait."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import wraps
from typing import ParamSpec, TypeVar

from torch import Tensor

Arguments = ParamSpec("Arguments")
Constant = TypeVar("Constant", Tensor, tuple[Tensor, ...])


def cache_constant(make: Callable[Arguments, Constant]) -> Callable[Arguments, Constant]:
    """Call a function once for each list of arguments, all hashable, and return what it returned then.

    Tensors without values, such as torch.export makes while it traces a network, and those of the inference mode would
    break whoever uses them later. They are returned, and made again the next time.
    """
    constants: dict[Hashable, Constant] = {}

    @wraps(make)
    def get(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Constant:
        key = (args, tuple(sorted(kwargs.items())))
        if key in constants:
            return constants[key]
        constant = make(*args, **kwargs)
        tensors = [constant] if isinstance(constant, Tensor) else constant
        if all(type(tensor) is Tensor and not tensor.is_inference() for tensor in tensors):
            constants[key] = constant
        return constant

    return get
