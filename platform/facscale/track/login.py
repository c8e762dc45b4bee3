"""Who we are to a tracker: passwords stay in the environment, are written nowhere, and go to nobody else."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from mlflow.exceptions import MlflowException

from facscale.errors import UserError
from facscale.redact import redacted

TRACKER = "MLFLOW_TRACKING_URI"
LOGINS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
REFUSALS = ("UNAUTHENTICATED", "PERMISSION_DENIED")
CURE = f"check {LOGINS[0]} and {LOGINS[1]}, and that this user may edit the experiment"


class LoginError(UserError):
    """A login would go to somebody whom it is not for."""


def with_password(place: str) -> str:
    """The address of a tracker, from one that has lost its password: the environment may know it."""
    whole = os.environ.get(TRACKER, "").rstrip("/")
    return whole if redacted(whole) == place else place


def refuse_stranger(uri: str) -> None:
    """Raise LoginError where MLflow would send the environment's login for one server to another, which a spec names."""
    own = os.environ.get(TRACKER, "")
    given = [name for name in LOGINS if os.environ.get(name)]
    if not (given and own.startswith("http") and uri.startswith("http")):
        return
    if urlsplit(own)[:2] != urlsplit(uri)[:2]:
        raise LoginError(
            f"track.uri is {uri}, but {given[0]} is the login for {own}, and would be sent there too: "
            f"set {TRACKER} to the server that the login is for, or unset the login"
        )


def is_refused(error: Exception) -> bool:
    """Whether a tracker answers, and does not let us in."""
    return isinstance(error, MlflowException) and error.error_code in REFUSALS
