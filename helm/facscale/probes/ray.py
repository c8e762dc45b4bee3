"""Check that Ray's dashboard accepts requests with the token, and no others."""
# ruff: noqa: INP001, S310, T201 - a script that a pod of `helm test` runs

import os
import urllib.error
import urllib.request

URL, TOKEN = os.environ["DASHBOARD"], os.environ["TOKEN"]


def get_status(token: str) -> int:
    """Request the list of jobs with a token ("": without one) and return the HTTP status."""
    request = urllib.request.Request(f"{URL}/api/jobs/", headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


without, wrong, right = get_status(""), get_status("wrong"), get_status(TOKEN)
assert without in {401, 403}, f"{URL} answers {without} without a token: its authentication is off"
assert wrong in {401, 403}, f"{URL} answers {wrong} to a wrong token"
assert right == 200, f"{URL} answers {right} to the right token"
print(f"{URL}: accepts the token, and nothing else")
