"""Folders at any URL: plain paths, `file://`, `s3://` (AWS_* environment variables), and whatever else fsspec knows.

Local and S3 go through pyarrow's own file systems (no Python between the socket and the buffer). A temporary failure
of a store (restarting, overloaded, network gone) is waited out; a lasting one (no such bucket, key refused) is one
`DataError` at once.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from facscale.data.errors import DataError

Result = TypeVar("Result")
log = logging.getLogger(__name__)

OPEN_PATIENCE_S = 10.0  # a user waits for this answer
READ_PATIENCE_S = 300.0  # in the middle of a long run: long enough for a store's restart
LONGEST_PAUSE_S = 10.0
# What waiting cannot cure, by the words of the AWS SDK inside pyarrow's message and of botocore's inside fsspec's.
REFUSED = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "INVALID_CLIENT_TOKEN_ID", "SIGNATURE_DOES_NOT_MATCH",
           "UNRECOGNIZED_CLIENT", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "HTTP status 403",
           "EXPIRED_TOKEN", "ExpiredToken")  # fmt: skip
NO_BUCKET = ("NO_SUCH_BUCKET", "NoSuchBucket", "Bucket does not exist")


class Folder:
    """A folder at a URL; pickles as that URL. Safe for use by several threads."""

    def __init__(self, url: str) -> None:
        """No request is made yet. Raises DataError for a scheme that nothing here can open."""
        self.url = url.rstrip("/") or "/"
        self._connect()

    def _connect(self) -> None:
        self._filesystem, self._path, self.local = _open_filesystem(self.url)
        self._open: dict[str, pa.NativeFile] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.url}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.url = state["url"]
        self._connect()

    def __repr__(self) -> str:
        return f"Folder({self.url!r})"

    @property
    def path(self) -> Path:
        """Where a local folder lies."""
        if not self.local:
            raise DataError(f"{self.url} is no local folder")
        return Path(self._path)

    def exists(self, name: str) -> bool:
        """Whether the file `name` is there. Raises DataError when the store refuses or stays away."""
        look = lambda: self._filesystem.get_file_info(self._join(name))  # noqa: E731
        info: pafs.FileInfo = self._retry(look, name=name, patience=OPEN_PATIENCE_S)
        if info.type != pafs.FileType.File:
            self._check_bucket()
        return bool(info.type == pafs.FileType.File)

    def read(self, name: str) -> bytes:
        """All bytes of a small file. Raises FileNotFoundError, DataError."""

        def whole() -> bytes:
            with self._filesystem.open_input_file(self._join(name)) as file:
                return bytes(file.read())

        return self._retry(whole, name=name, patience=OPEN_PATIENCE_S)

    def read_range(self, name: str, *, offset: int, length: int, stop: threading.Event | None = None) -> bytes:
        """`length` bytes from `offset` by one range request; fewer at the file's end. Raises as `read` does.

        A store that is away is waited for, until the event `stop` is set.
        """

        def part() -> bytes:
            try:
                data: bytes = self._file(name).read_at(length, offset)
            except OSError:
                self._forget(name)
                raise
            return data

        return self._retry(part, name=name, patience=READ_PATIENCE_S, stop=stop)

    def open(self, name: str) -> pa.NativeFile:
        """The file `name` for reading at any place; the caller closes it. Raises as `read` does."""
        open_ = lambda: self._filesystem.open_input_file(self._join(name))  # noqa: E731
        return self._retry(open_, name=name, patience=READ_PATIENCE_S)

    def put(self, name: str, *, source: Path) -> None:
        """Copy a local file here; it appears whole or not at all. Raises DataError."""
        if self.local:
            self._put_local(name, source)
            return

        def upload() -> None:
            with pa.memory_map(str(source)) as data, self._filesystem.open_output_stream(self._join(name)) as sink:
                while chunk := data.read_buffer(16 << 20):
                    sink.write(chunk)

        self._retry(upload, name=name, patience=READ_PATIENCE_S)

    def make(self) -> None:
        """Create the folder where folders exist (in a bucket they do not)."""
        if self.local:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DataError(f"{self.url} cannot be created: {error.strerror}") from None

    def _put_local(self, name: str, source: Path) -> None:
        partial = self.path / f".{name}.{os.getpid()}.partial"
        try:
            if source.stat().st_dev == self.path.stat().st_dev:
                os.link(source, partial)
            else:
                pafs.copy_files(str(source), str(partial))
            partial.replace(self.path / name)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise DataError(f"{self.url}/{name} cannot be written: {error.strerror or error}") from None

    def _join(self, name: str) -> str:
        return f"{self._path}/{name}"

    def _file(self, name: str) -> pa.NativeFile:
        # One open handle a file: opening costs a request for the size; reads at a place are thread-safe.
        with self._lock:
            if name not in self._open:
                self._open[name] = self._filesystem.open_input_file(self._join(name))
            return self._open[name]

    def _forget(self, name: str) -> None:
        with self._lock:
            self._open.pop(name, None)

    def _retry(
        self, action: Callable[[], Result], *, name: str, patience: float, stop: threading.Event | None = None
    ) -> Result:
        """Do `action`, again and again until `patience` seconds are over if its failure may be temporary."""
        end = time.monotonic() + (0.0 if self.local else patience)
        pause = 0.1
        stop = stop or threading.Event()
        while True:
            try:
                return action()
            except FileNotFoundError:
                self._check_bucket()
                raise
            except (OSError, pa.ArrowException) as error:
                if time.monotonic() >= end or _is_lasting(error):
                    raise DataError(self._explain(error)) from None
                log.warning("%s/%s: %s; trying again", self.url, name, _first_line(error))
            # Not all workers at once, lest they knock a starting store over again.
            if stop.wait(pause * random.uniform(0.5, 1.5)):
                raise DataError(f"{self.url}: reading was stopped")
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _check_bucket(self) -> None:
        """Tell a missing bucket from a missing file in it: a store's answer is the same for both."""
        if not isinstance(self._filesystem, pafs.S3FileSystem):
            return
        try:
            found = self._filesystem.get_file_info(self._path.partition("/")[0]).type
        except OSError:
            return  # this key may not ask
        if found == pafs.FileType.NotFound:
            raise DataError(self._explain(FileNotFoundError(NO_BUCKET[0])))

    def _explain(self, error: Exception) -> str:
        text = _first_line(error)
        endpoint = _endpoint() or "AWS"
        if any(word in text for word in NO_BUCKET):
            return f"{self.url}: there is no such bucket at {endpoint}; create it or correct the URL"
        if any(word in text for word in REFUSED):
            return (
                f"{self.url}: {endpoint} refused the key; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that "
                "this key may read and list the bucket"
            )
        if self.local:
            return f"{self.url} cannot be read: {text}"
        return f"{self.url} cannot be reached: {text}; check that {endpoint} is up and AWS_ENDPOINT_URL is right"


def _is_lasting(error: Exception) -> bool:
    return isinstance(error, PermissionError) or any(word in str(error) for word in (*REFUSED, *NO_BUCKET))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].split(". Detail:")[0]


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")


def _open_filesystem(url: str) -> tuple[Any, str, bool]:
    """A pyarrow file system, the folder's path in it, and whether that is this machine's disk."""
    scheme, _, rest = url.partition("://") if "://" in url else ("", "", url)
    if scheme in ("", "file", "local"):
        return pafs.LocalFileSystem(), str(Path(rest).expanduser().absolute()), True
    if scheme in ("s3", "s3a"):
        return _s3(_endpoint(), os.environ.get("AWS_ACCESS_KEY_ID", ""), _region(rest)), rest, False
    try:
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise DataError(f"{url}: no file system for {scheme}:// ({_first_line(error)})") from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path, False


@lru_cache(maxsize=16)
def _s3(endpoint: str, key: str, region: str | None) -> pafs.S3FileSystem:
    """One client per endpoint and key (the SDK reads the secret itself), shared for its pool of connections."""
    del key  # part of the cache's key only: a changed key needs a new client
    parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
    return pafs.S3FileSystem(
        endpoint_override=parts.netloc or None,
        scheme=parts.scheme or "https",
        region=region,
        connect_timeout=5.0,
        request_timeout=60.0,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=3),
    )


def _region(path: str) -> str | None:
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region or _endpoint():
        return region or "us-east-1"
    try:
        return str(pafs.resolve_s3_region(path.partition("/")[0]))
    except OSError:
        return None  # the first request will say what is wrong
