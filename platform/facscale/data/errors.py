"""What goes wrong with data, in words for the user."""

from __future__ import annotations

from facscale.errors import UserError


class DataError(UserError):
    """A data set cannot be written, reached or read."""


class CorruptError(DataError):
    """Stored bytes are not what was written: this row group is lost, the rest of the data set may be fine."""
