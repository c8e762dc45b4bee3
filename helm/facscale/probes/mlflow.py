"""MLflow is healthy, lets nobody in without a login, and lets our jobs in with theirs."""
# ruff: noqa: INP001, S310, T201 - a pod of `helm test` runs it as it stands

import base64
import os
import urllib.error
import urllib.request

URL = os.environ["MLFLOW_TRACKING_URI"].rstrip("/")
USER, PASSWORD = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD", "")


def status(path: str, *, login: bool = False) -> int:
    """Of a request, 401 and 403 included."""
    request = urllib.request.Request(URL + path)
    if login:
        secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request.add_header("Authorization", f"Basic {secret}")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


search = "/api/2.0/mlflow/experiments/search?max_results=1"
assert status("/health") == 200, f"{URL}/health does not answer 200"
assert USER is None or status(search) == 401, f"{URL} lets in whoever asks: its authentication is off"
found = status(search, login=USER is not None)
assert found == 200, f"{URL} answers {found} to our jobs' login: see the secret of tracking.existingSecret"
print(f"{URL}: healthy, closed to others, open to our jobs")
