"""Uploads that ended in the middle: a checkpoint is sent in parts, and those of a killed worker stay, unlisted and billed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from facscale.doctor.examination import check
from facscale.doctor.finding import Finding, ok, told, warning
from facscale.doctor.patient import Patient
from facscale.train.trainer import absolute

AGE = timedelta(days=1)  # a younger one may still be going on
MOST = 1000  # uploads that are counted; each costs a request


@dataclass(frozen=True)
class Remains:
    """What unfinished uploads left in a bucket."""

    count: int
    size: int  # bytes
    oldest: datetime


@check("uploads", rank=115)
def uploads(patient: Patient) -> Iterator[Finding]:
    """Look at cluster.storage: `aws s3api list-multipart-uploads`."""
    place = absolute(patient.storage)
    if urlsplit(place).scheme not in ("s3", "s3a"):
        return
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        remains = measure_remains(place, age=AGE)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("AccessDenied", "NotImplemented", "MethodNotAllowed"):
            yield told(error, mend="see that the bucket of cluster.storage is right")
            return
        yield ok(f"{place}: this key may not list unfinished uploads, so they were not looked for")
        return
    except BotoCoreError as error:
        yield told(error, mend="see that the store of cluster.storage is up, and AWS_ENDPOINT_URL right")
        return
    if remains is None:
        yield ok(f"{place} has no unfinished uploads older than a day")
        return
    count = f"{'at least ' if remains.count == MOST else ''}{remains.count}"
    yield warning(
        f"{place}: unfinished uploads hold {remains.size / 1e9:,.2f} GB that no listing shows and that is paid for ({count} "
        f"of them, the oldest of {remains.oldest:%Y-%m-%d})",
        "give the bucket a lifecycle rule with AbortIncompleteMultipartUpload, or end them: aws s3api abort-multipart-upload",
    )


def measure_remains(url: str, *, age: timedelta) -> Remains | None:
    """Sum up the uploads below an s3:// URL that began longer than `age` ago; None where there are none. Raises ClientError, BotoCoreError."""
    import boto3

    parts = urlsplit(url)
    client, bucket = boto3.client("s3"), parts.netloc
    pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=parts.path.lstrip("/"))
    began_before = datetime.now(UTC) - age
    old = (upload for page in pages for upload in page.get("Uploads", []) if upload["Initiated"] <= began_before)
    stale = list(islice(old, MOST))
    if not stale:
        return None
    size = sum(measure_upload(client, bucket, upload) for upload in stale)
    return Remains(len(stale), size, min(upload["Initiated"] for upload in stale))


def measure_upload(client: Any, bucket: str, upload: dict[str, Any]) -> int:
    """Sum up the bytes of an upload's parts."""
    pages = client.get_paginator("list_parts").paginate(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    return sum(part["Size"] for page in pages for part in page.get("Parts", []))
