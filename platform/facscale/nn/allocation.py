"""A limit on the memory of new tensors, for networks whose sizes somebody else wrote."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class AllocationLimitError(ValueError):
    """New tensors would need more memory than the limit."""


class AllocationLimit(TorchDispatchMode):
    """Within the block, new tensors together may have `limit` bytes. A larger one raises before it is allocated.

    Counts what factory functions make (torch.empty, zeros, rand, ...), which is what modules build their parameters
    from, and not what is freed again.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.limit, self.total = limit, 0

    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the result of a factory function before it is called. Raises AllocationLimitError."""
        kwargs = kwargs or {}
        if "device" in {argument.name for argument in func._schema.arguments} and not any(  # noqa: SLF001 - torch has no other
            isinstance(argument, torch.Tensor) for argument in args
        ):
            shadow = func(*args, **kwargs | {"device": torch.device("meta")})
            self.total += shadow.numel() * shadow.element_size()
            if self.total > self.limit:
                raise AllocationLimitError(
                    f"a tensor of shape {list(shadow.shape)} brings the network to {self.total / 1e9:,.1f} GB, and "
                    f"{self.limit / 1e9:,.1f} GB are the limit"
                )
        return func(*args, **kwargs)
