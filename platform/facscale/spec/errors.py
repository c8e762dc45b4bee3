"""What is wrong with a user's file, and where it was written."""

from __future__ import annotations

from dataclasses import dataclass

from facscale.errors import UserError


class SpecError(UserError):
    """The user's file cannot be used."""


@dataclass(frozen=True)
class Origin:
    """Where a value was written."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file
