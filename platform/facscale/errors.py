"""The base class of all errors that are shown to the user."""

from __future__ import annotations

from facscale.redact import redact


class UserError(Exception):
    """An error whose cause is outside the code: it is shown without a traceback.

    The message is complete (what is wrong, where, what to do). Passwords in its addresses are removed.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(redact(message))
