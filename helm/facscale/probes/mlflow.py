"""Check that MLflow is healthy, refuses requests without a login, and accepts the login of our jobs."""
# ruff: noqa: INP001, S310, T201 - a script that a pod of `helm test` runs

import base64
import os
import urllib.error
import urllib.request

URL = os.environ["MLFLOW_TRACKING_URI"].rstrip("/")
USER, PASSWORD = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD", "")


def get_status(path: str, *, login: bool = False) -> int:
    """Request a page and return the HTTP status, also 401 or 403."""
    request = urllib.request.Request(URL + path)
    if login:
        secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request.add_header("Authorization", f"Basic {secret}")
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


search = "/api/2.0/mlflow/experiments/search?max_results=1"
assert get_status("/health") == 200, f"{URL}/health does not answer 200"
assert USER is None or get_status(search) == 401, f"{URL} accepts requests without a login: its authentication is off"
status = get_status(search, login=USER is not None)
assert status == 200, f"{URL} answers {status} to the login of our jobs: check the secret of tracking.existingSecret"
print(f"{URL}: healthy, refuses requests without a login, accepts the login of our jobs")
