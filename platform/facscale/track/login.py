"""Tracker credentials: read from the environment, never written to disk, never sent to another server."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from facscale.errors import UserError
from facscale.redact import redact

URI_VARIABLE = "MLFLOW_TRACKING_URI"
LOGIN_VARIABLES = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
LOGIN_ERROR_CODES = ("UNAUTHENTICATED", "PERMISSION_DENIED")
LOGIN_HINT = f"check {LOGIN_VARIABLES[0]} and {LOGIN_VARIABLES[1]}, and that this user may edit the experiment"


class TrackerError(UserError):
    """The address of a tracker names no place where MLflow can write."""


class LoginError(UserError):
    """Credentials would be sent to a server that they are not for."""


def restore_password(uri: str) -> str:
    """Return a redacted tracker URI with its password, if MLFLOW_TRACKING_URI is the same URI unredacted."""
    environment_uri = os.environ.get(URI_VARIABLE, "").rstrip("/")
    return environment_uri if redact(environment_uri) == uri else uri


def check_credentials_target(uri: str) -> None:
    """Raise LoginError if MLflow would send the environment's credentials to another server than theirs.

    A spec can name any server as `uri`; the credentials belong to the server in MLFLOW_TRACKING_URI.
    """
    environment_uri = os.environ.get(URI_VARIABLE, "")
    variables = [name for name in LOGIN_VARIABLES if os.environ.get(name)]
    if not (variables and environment_uri.startswith("http") and uri.startswith("http")):
        return
    if urlsplit(environment_uri)[:2] != urlsplit(uri)[:2]:
        raise LoginError(
            f"track.uri is {uri}, but {variables[0]} is the login for {environment_uri}, and would be sent there too: "
            f"set {URI_VARIABLE} to the server that the login is for, or unset the login"
        )


def check_store_kind(uri: str) -> None:
    """Raise TrackerError for an address of a kind that this MLflow does not write to. No server is asked.

    MLflow 3.13 and later refuse folders of files ("./mlruns").
    """
    if urlsplit(uri).scheme in {"http", "https", "sqlite"}:
        return
    try:
        MlflowClient(tracking_uri=uri, registry_uri=uri)
    except (MlflowException, ImportError, ValueError) as error:
        reason = redact(str(error).splitlines()[0])[:200]
        raise TrackerError(
            f"MLflow cannot track runs at {redact(uri)} (track.uri or {URI_VARIABLE}): {reason} "
            "Name a server, or a file as in sqlite:////home/me/mlflow.db"
        ) from None


def is_login_refused(error: Exception) -> bool:
    """Whether the tracker answers, but rejects the credentials."""
    return isinstance(error, MlflowException) and error.error_code in LOGIN_ERROR_CODES
