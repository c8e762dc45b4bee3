"""Errors about data sets, written for the user."""

from __future__ import annotations

from facscale.errors import UserError


class DataError(UserError):
    """A data set cannot be written, reached or read."""


class CorruptError(DataError):
    """Stored bytes differ from what was written: this row group is lost, the rest of the data set may be intact."""


class StoreError(DataError):
    """A store refuses access or does not answer."""


class ReaderDiedError(DataError):
    """The process that reads a stream (`data.reader=process`) was ended from outside."""


class NoSpaceError(DataError):
    """A file does not fit where it is to be written."""


class DatasetNotFoundError(DataError):
    """There is no data set at a URL."""
