"""Our clock against those of the servers that check signatures and tokens by their own."""

from __future__ import annotations

import email.utils
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

from facscale.doctor.checks.nodes import SKEW_PROBLEM_S, SKEW_WARNING_S
from facscale.doctor.context import DiagnosticContext
from facscale.doctor.finding import Finding, ok, problem, warning
from facscale.doctor.runner import register_check

TIMEOUT_S = 10.0


@register_check("clocks of servers", rank=130, timeout_s=60)
def check_server_clocks(context: DiagnosticContext) -> Iterator[Finding]:
    """Compare `date -u` with what `curl -sI ADDRESS` prints."""
    for name, address in list_servers(context).items():
        seconds = measure_skew(address)
        if seconds is None:
            continue  # a server that does not answer is reported by the checks that need it
        if seconds <= SKEW_WARNING_S:
            yield ok(f"our clock and {name}'s ({address}) agree within {SKEW_WARNING_S:g} s")
        else:
            severity = problem if seconds > SKEW_PROBLEM_S else warning
            message = f"our clock and {name}'s ({address}) are {seconds:.0f} s apart"
            yield severity(message, "run NTP (chrony) here and there")


def list_servers(context: DiagnosticContext) -> dict[str, str]:
    """List the addresses of the HTTP servers that the job uses, by name."""
    servers = {}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint or any(url.startswith("s3") for url in (*context.data_urls, context.storage_url)):
        servers["S3"] = endpoint or "https://s3.amazonaws.com"
    if context.tracking_uri.startswith("http"):
        servers["MLflow"] = context.tracking_uri
    return servers


def measure_skew(address: str) -> float | None:
    """Return how many seconds at least a server's clock is off ours; None if it does not answer, or sends no date."""
    start = time.time()
    request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - an address of the user's
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310
            date = response.headers["Date"]
    except urllib.error.HTTPError as error:  # a refusal has a date too
        date = error.headers["Date"]
    except OSError:
        return None
    if not date:
        return None
    server_time = email.utils.parsedate_to_datetime(date).timestamp()  # truncated to seconds: up to 1 s later
    return max(start - (server_time + 1), server_time - time.time(), 0.0)
