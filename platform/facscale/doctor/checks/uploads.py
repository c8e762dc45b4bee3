"""Unfinished uploads: a checkpoint is sent in parts, and those of a killed worker stay, unlisted and billed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from facscale.doctor.context import DiagnosticContext
from facscale.doctor.finding import Finding, from_error, ok, warning
from facscale.doctor.runner import register_check
from facscale.train.trainer import make_absolute

MIN_AGE = timedelta(days=1)  # a younger upload may still be running
MAX_UPLOADS = 1000  # that are measured; each costs a request


@dataclass(frozen=True)
class UnfinishedUploads:
    """What unfinished uploads left in a bucket."""

    count: int
    size: int  # bytes
    oldest: datetime


@register_check("uploads", rank=115)
def check_uploads(context: DiagnosticContext) -> Iterator[Finding]:
    """Look at cluster.storage: `aws s3api list-multipart-uploads`."""
    url = make_absolute(context.storage_url)
    if urlsplit(url).scheme not in ("s3", "s3a"):
        return
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        unfinished = measure_unfinished(url, min_age=MIN_AGE)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("AccessDenied", "NotImplemented", "MethodNotAllowed"):
            yield from_error(error, fix="see that the bucket of cluster.storage is right")
            return
        yield ok(f"{url}: this key may not list unfinished uploads, so they were not looked for")
        return
    except BotoCoreError as error:
        yield from_error(error, fix="see that the store of cluster.storage is up, and AWS_ENDPOINT_URL right")
        return
    if unfinished is None:
        yield ok(f"{url} has no unfinished uploads older than a day")
        return
    count = f"{'at least ' if unfinished.count == MAX_UPLOADS else ''}{unfinished.count}"
    yield warning(
        f"{url}: unfinished uploads hold {unfinished.size / 1e9:,.2f} GB that no listing shows and that is paid for "
        f"({count} of them, the oldest of {unfinished.oldest:%Y-%m-%d})",
        "give the bucket a lifecycle rule with AbortIncompleteMultipartUpload, or end them: aws s3api "
        "abort-multipart-upload",
    )


def measure_unfinished(url: str, *, min_age: timedelta) -> UnfinishedUploads | None:
    """Measure the uploads below an s3:// URL that began longer than `min_age` ago; None if there are none.

    Raises ClientError, BotoCoreError.
    """
    import boto3

    parts = urlsplit(url)
    client, bucket = boto3.client("s3"), parts.netloc
    pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=parts.path.lstrip("/"))
    latest_start = datetime.now(UTC) - min_age
    old = (upload for page in pages for upload in page.get("Uploads", []) if upload["Initiated"] <= latest_start)
    uploads = list(islice(old, MAX_UPLOADS))
    if not uploads:
        return None
    size = sum(measure_upload(client, bucket, upload) for upload in uploads)
    return UnfinishedUploads(len(uploads), size, min(upload["Initiated"] for upload in uploads))


def measure_upload(client: Any, bucket: str, upload: dict[str, Any]) -> int:
    """Sum the bytes of an upload's parts."""
    pages = client.get_paginator("list_parts").paginate(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    return sum(part["Size"] for page in pages for part in page.get("Parts", []))
