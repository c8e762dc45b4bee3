"""Errors of a user's spec files, and the places that they point to."""

from __future__ import annotations

from dataclasses import dataclass

from facscale.errors import UserError


class SpecError(UserError):
    """A spec file, or an override of it, cannot be used."""


@dataclass(frozen=True)
class SourceLocation:
    """Where a value was written: "jobs/clp.yaml:12", or a file or the command line alone where `line` is 0."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file
