"""How S3 is reached: the AWS_ variables, and what each process that reads has of them.

    AWS_NO_SIGN_REQUEST=YES          public buckets, without a key
    AWS_REQUEST_PAYER=requester      buckets whose readers pay
    AWS_VIRTUAL_HOSTING=TRUE|FALSE   bucket.host/key, or host/bucket/key; unset: the former for AWS, the latter for others

    AWS_CA_BUNDLE=FILE               certificates of a private authority, PEM
    HTTPS_PROXY, HTTP_PROXY, NO_PROXY

The first three names are GDAL's. Keys are found by the AWS SDK, by its own rules: variables, profile, container, instance role, web
identity. It looks for them anew at each request, so keys may be renewed while a run goes on; only those in variables cannot,
since nobody else can change the variables of a running process.
"""

from __future__ import annotations

import os
import socket
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from facscale.errors import UserError

DRIVER_VARIABLE = "FACSCALE_DRIVER_VARIABLES"  # in a worker: names of the AWS_ variables that its driver has
CONNECTIONS = 64  # of one client: each waits for its answer, so a distant store needs many
TRUE, FALSE = ("yes", "true", "on", "1"), ("no", "false", "off", "0", "")


def is_anonymous() -> bool:
    """Whether requests go out without a signature. Raises UserError for a value that is neither yes nor no."""
    return bool(_read_switch("AWS_NO_SIGN_REQUEST"))


def is_requester_paying() -> bool:
    """Whether we agree to pay for what we read. Raises UserError for another value than AWS knows."""
    value = os.environ.get("AWS_REQUEST_PAYER", "")
    if value.lower() not in ("", "requester"):
        raise UserError(f"AWS_REQUEST_PAYER is {value!r}; its only value is requester, or unset it")
    return bool(value)


def is_virtual_hosted() -> bool | None:
    """Whether the bucket stands in the host's name; None: as is usual for the endpoint. Raises UserError."""
    return _read_switch("AWS_VIRTUAL_HOSTING")


def get_endpoint() -> str:
    """The endpoint of the variables; "" for AWS itself."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")


def build_fsspec_options(url: str) -> dict[str, Any]:
    """Return the options of fsspec's file system for a URL, by the same variables; {} for other schemes than S3."""
    if urlsplit(url).scheme not in ("s3", "s3a"):
        return {}
    options: dict[str, Any] = {}
    if is_anonymous():
        options["anon"] = True
    if is_requester_paying():
        options["requester_pays"] = True
    if (virtual := is_virtual_hosted()) is not None:
        options["config_kwargs"] = {"s3": {"addressing_style": "virtual" if virtual else "path"}}
    return options


def connect(path: str) -> pafs.S3FileSystem:
    """Return a client for the bucket at the beginning of `path`; clients of the same settings are shared."""
    key = tuple(os.environ.get(name, "") for name in ("AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "AWS_PROFILE"))
    return _connect(
        get_endpoint(),
        key,
        _find_region(path),
        anonymous=is_anonymous(),
        virtual=bool(is_virtual_hosted()),
        certificates=_find_certificates(),
        proxy=find_proxy(),
    )


@lru_cache(maxsize=16)
def _connect(
    endpoint: str,
    key: tuple[str, ...],
    region: str | None,
    *,
    anonymous: bool,
    virtual: bool,
    certificates: str,
    proxy: str,
) -> pafs.S3FileSystem:
    """Return one client per endpoint and key (the SDK reads the secret itself), shared for its connection pool.

    `certificates` (a PEM file) and `proxy` are variables that botocore, which fsspec and MLflow use, reads itself.
    """
    del key  # only part of the cache key: a changed access key needs a new client
    pa.set_io_thread_count(
        max(pa.io_thread_count(), CONNECTIONS)
    )  # the client has as many connections as there are these
    parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
    return pafs.S3FileSystem(
        anonymous=anonymous,
        endpoint_override=parts.netloc or None,
        scheme=parts.scheme or "https",
        region=region,
        force_virtual_addressing=virtual,
        connect_timeout=5.0,
        request_timeout=60.0,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=3),
        tls_ca_file_path=certificates or None,
        proxy_options=proxy or None,
    )


def find_proxy() -> str:
    """The proxy to S3's endpoint by the usual variables (HTTPS_PROXY, HTTP_PROXY, NO_PROXY); "" for none."""
    from requests.utils import get_environ_proxies  # not before somebody uses S3: it takes 0.08 s

    endpoint = get_endpoint() or "https://s3.amazonaws.com"
    proxies = get_environ_proxies(endpoint)
    proxy = str(proxies.get(urlsplit(endpoint).scheme) or proxies.get("all") or "")
    return proxy if "://" in proxy or not proxy else f"http://{proxy}"


def list_variables() -> list[str]:
    """Names of the AWS_ variables that this process has."""
    return sorted(name for name in os.environ if name.startswith("AWS_") and os.environ[name])


def describe_variables() -> str:
    """Say where this process runs and which variables it lacks that its driver has: for errors about keys."""
    given = os.environ.get(DRIVER_VARIABLE, "").split()
    missing = [name for name in given if not os.environ.get(name)]
    if missing:
        return f"the worker on {socket.gethostname()} lacks {', '.join(missing)}, which the driver has; set it on every node"
    if is_anonymous():
        return f"{socket.gethostname()} asked without a key: AWS_NO_SIGN_REQUEST is set"
    return f"{socket.gethostname()} has {', '.join(list_variables()) or 'no AWS_ variable'}"


def _find_certificates() -> str:
    certificates = os.environ.get("AWS_CA_BUNDLE", "")
    if certificates and not Path(certificates).is_file():
        raise UserError(f"AWS_CA_BUNDLE names {certificates}, which is no file")
    return certificates


def _read_switch(name: str) -> bool | None:
    value = os.environ.get(name)
    if value is None:
        return None
    if value.lower() not in (*TRUE, *FALSE):
        raise UserError(f"{name} is {value!r}; write YES or NO")
    return value.lower() in TRUE


def _find_region(path: str) -> str | None:
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region or get_endpoint():
        return region or "us-east-1"
    try:
        return str(pafs.resolve_s3_region(path.partition("/")[0]))
    except OSError:
        return None  # the first request will report the reason
