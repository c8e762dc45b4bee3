"""Passwords in addresses, which nobody is to read in a message, a log, a journal or a tracker."""

from __future__ import annotations

import re

USERINFO = re.compile(r"(\b[A-Za-z][\w+.-]*://[^\s/:@?#'\"]*):[^\s/'\"\\]*@")  # scheme://user:password@
QUERY = re.compile(r"([?&][\w.-]*(?:password|passwd|token|secret|signature|credential)=)[^&\s'\"),]+", re.IGNORECASE)


def redacted(text: str) -> str:
    """Without the passwords of all addresses in it: https://anna:pw@host/x as https://anna@host/x, ?token=x as ?token=***."""
    return QUERY.sub(r"\1***", USERINFO.sub(r"\1@", text))
