"""Ray's dashboard takes jobs by the token, and by nothing else."""
# ruff: noqa: INP001, S310, T201 - a pod of `helm test` runs it as it stands

import os
import urllib.error
import urllib.request

URL, TOKEN = os.environ["DASHBOARD"], os.environ["TOKEN"]


def status(token: str) -> int:
    """Of the list of jobs, asked for with that token."""
    request = urllib.request.Request(f"{URL}/api/jobs/", headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


without, wrong, right = status(""), status("wrong"), status(TOKEN)
assert without in {401, 403}, f"{URL} answers {without} without a token: its authentication is off"
assert wrong in {401, 403}, f"{URL} answers {wrong} to a wrong token"
assert right == 200, f"{URL} answers {right} to the right token"
print(f"{URL}: open by the token alone")
