"""The base of all errors that are for the user's eyes."""

from __future__ import annotations

from facscale.redact import redacted


class UserError(Exception):
    """Something outside this code has to change. The message is whole (what, where, what to do) and is printed alone.

    Addresses in it lose their passwords.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))
