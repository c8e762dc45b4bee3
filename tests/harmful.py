"""A pickle that shows when it is read; the fixture `harmless` checks that none was."""

from __future__ import annotations


class Harmful:
    """What a pickle runs when it is read."""

    def __reduce__(self):
        return print, ("harm",)
