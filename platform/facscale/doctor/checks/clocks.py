"""Our clock against those of the servers that check signatures and tokens by theirs."""

from __future__ import annotations

import email.utils
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

from facscale.doctor.checks.nodes import FAR_S, SKEW_S
from facscale.doctor.examination import check
from facscale.doctor.finding import Finding, ok, problem, warning
from facscale.doctor.patient import Patient

PATIENCE_S = 10.0


@check("clocks of servers", rank=130, limit_s=60)
def clocks(patient: Patient) -> Iterator[Finding]:
    """Compare `date -u` with what `curl -sI ADDRESS` prints."""
    for name, address in servers(patient).items():
        seconds = apart(address)
        if seconds is None:
            continue  # who does not answer, or names no time, is told by the checks that need it
        if seconds <= SKEW_S:
            yield ok(f"our clock and {name}'s ({address}) agree within {SKEW_S:g} s")
        else:
            kind = problem if seconds > FAR_S else warning
            yield kind(
                f"our clock and {name}'s ({address}) are {seconds:.0f} s apart", "run NTP (chrony) here and there"
            )


def servers(patient: Patient) -> dict[str, str]:
    """Addresses of what we talk HTTP to."""
    found = {}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint or any(url.startswith("s3") for url in (*patient.urls, patient.storage)):
        found["S3"] = endpoint or "https://s3.amazonaws.com"
    if patient.tracker.startswith("http"):
        found["MLflow"] = patient.tracker
    return found


def apart(address: str) -> float | None:
    """Seconds by which the server's clock is at least off ours; None where it does not say."""
    began = time.time()
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE_S) as answer:  # noqa: S310 - an address of the user's
            said = answer.headers["Date"]
    except urllib.error.HTTPError as error:  # a refusal has the time too
        said = error.headers["Date"]
    except OSError:
        return None
    if not said:
        return None
    theirs = email.utils.parsedate_to_datetime(said).timestamp()  # in whole seconds: from then to a second later
    return max(began - (theirs + 1), theirs - time.time(), 0.0)
