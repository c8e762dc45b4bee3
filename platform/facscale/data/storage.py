"""Folders at any URL: plain paths, `file://`, `s3://` (AWS_* environment variables), and whatever else fsspec supports.

Local and S3 go through pyarrow's own file systems (no Python between the socket and the buffer). A temporary failure
of a store (restarting, overloaded, network down) is retried; a permanent one (no such bucket, key refused) raises
`DataError` at once.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs
from requests.utils import get_environ_proxies
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential

from facscale.data.errors import DataError, StoreError

Result = TypeVar("Result")
log = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 10.0  # a user is waiting for the answer
READ_TIMEOUT_S = 300.0  # in the middle of a long run: long enough for a store to restart
MAX_PAUSE_S = 10.0
# Permanent errors, by the words of the AWS SDK inside pyarrow's message and of botocore's inside fsspec's.
ACCESS_ERRORS = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "INVALID_CLIENT_TOKEN_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "UNRECOGNIZED_CLIENT",
    "EXPIRED_TOKEN",
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "HTTP status 403",
)
BUCKET_ERRORS = ("NO_SUCH_BUCKET", "NoSuchBucket", "Bucket does not exist")


class Folder:
    """A folder at a URL; pickles as that URL. Safe for use by several threads."""

    def __init__(self, url: str) -> None:
        """Connect lazily: no request is made yet. Raises DataError for a scheme that no file system supports."""
        self.url = url.rstrip("/") or "/"
        self._connect()

    def _connect(self) -> None:
        self._filesystem, self._path, self.is_local = _open_filesystem(self.url)
        self._handles: dict[str, pa.NativeFile] = {}
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
        """The path of a local folder. Raises DataError for any other."""
        if not self.is_local:
            raise DataError(f"{self.url} is not a local folder")
        return Path(self._path)

    def exists(self, name: str) -> bool:
        """Return whether the file `name` exists. Raises DataError when the store refuses or does not answer."""
        return self.measure(name) is not None

    def measure(self, name: str) -> int | None:
        """Return the size of a file in bytes; None if there is no such file. Raises as `exists` does."""

        def get_info() -> pafs.FileInfo:
            return self._filesystem.get_file_info(self._join(name))

        info = self._retry(get_info, name=name, timeout=OPEN_TIMEOUT_S)
        if info.type != pafs.FileType.File:
            self._check_bucket()
            return None
        return int(info.size)

    def read(self, name: str) -> bytes:
        """Read all bytes of a small file. Raises FileNotFoundError, DataError."""

        def read_all() -> bytes:
            with self._filesystem.open_input_file(self._join(name)) as file:
                return bytes(file.read())

        return self._retry(read_all, name=name, timeout=OPEN_TIMEOUT_S)

    def read_range(self, name: str, *, offset: int, length: int, stop: threading.Event | None = None) -> bytes:
        """Read `length` bytes from `offset` by one range request; fewer at the file's end. Raises as `read` does.

        A store that does not answer is retried until the event `stop` is set.
        """

        def read_part() -> bytes:
            try:
                data: bytes = self._get_handle(name).read_at(length, offset)
            except OSError:
                self._discard_handle(name)
                raise
            return data

        return self._retry(read_part, name=name, timeout=READ_TIMEOUT_S, stop=stop)

    def open(self, name: str) -> pa.NativeFile:
        """Open the file `name` for random access; the caller closes it. Raises as `read` does."""

        def open_file() -> pa.NativeFile:
            return self._filesystem.open_input_file(self._join(name))

        return self._retry(open_file, name=name, timeout=READ_TIMEOUT_S)

    def put(self, name: str, *, source: Path) -> None:
        """Copy a local file into the folder; it appears complete or not at all. Raises DataError."""
        self._discard_handle(name)  # of a file that is replaced
        if self.is_local:
            self._put_local(name, source)
            return

        def upload() -> None:
            with pa.memory_map(str(source)) as data, self._filesystem.open_output_stream(self._join(name)) as sink:
                while chunk := data.read_buffer(16 << 20):
                    sink.write(chunk)

        self._retry(upload, name=name, timeout=READ_TIMEOUT_S)

    def create(self) -> None:
        """Create the folder, where the store has folders (a bucket has none). Raises DataError."""
        if self.is_local:
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

    def _get_handle(self, name: str) -> pa.NativeFile:
        # One open handle per file: opening costs a request for the size, and `read_at` is thread-safe.
        with self._lock:
            if name not in self._handles:
                self._handles[name] = self._filesystem.open_input_file(self._join(name))
            return self._handles[name]

    def _discard_handle(self, name: str) -> None:
        with self._lock:
            self._handles.pop(name, None)

    def _retry(
        self, action: Callable[[], Result], *, name: str, timeout: float, stop: threading.Event | None = None
    ) -> Result:
        """Call `action`; retry errors that may be temporary for up to `timeout` seconds (in a local folder: never)."""

        def sleep(seconds: float) -> None:
            if (stop or threading.Event()).wait(seconds):
                raise DataError(f"{self.url}: reading was stopped")

        def log_retry(state: RetryCallState) -> None:
            assert state.outcome is not None
            log.warning("%s/%s: %s; retrying", self.url, name, _get_first_line(state.outcome.exception()))

        retrying = Retrying(
            retry=retry_if_exception(_is_temporary),
            stop=stop_after_delay(timeout),
            wait=_draw_pause,
            sleep=sleep,
            before_sleep=log_retry,
            reraise=True,
        )
        try:
            return action() if self.is_local else retrying(action)
        except FileNotFoundError:
            self._check_bucket()
            raise
        except (OSError, pa.ArrowException) as error:
            raise StoreError(self._explain(error)) from None

    def _check_bucket(self) -> None:
        """Raise DataError if the bucket is missing: a store gives the same answer for a missing file and a missing bucket."""
        if not isinstance(self._filesystem, pafs.S3FileSystem):
            return
        try:
            kind = self._filesystem.get_file_info(self._path.partition("/")[0]).type
        except OSError:
            return  # this key is not allowed to look at the bucket
        if kind == pafs.FileType.NotFound:
            raise StoreError(self._explain(FileNotFoundError(BUCKET_ERRORS[0])))

    def _explain(self, error: Exception) -> str:
        text = _get_first_line(error)
        endpoint = _get_endpoint() or "AWS"
        if any(word in text for word in BUCKET_ERRORS):
            return f"{self.url}: there is no such bucket at {endpoint}; create it or correct the URL"
        if any(word in text for word in ACCESS_ERRORS):
            return (
                f"{self.url}: {endpoint} refused the key; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that "
                "this key may read and list the bucket"
            )
        if self.is_local:
            return f"{self.url} cannot be read: {text}"
        return f"{self.url} cannot be reached: {text}; check that {endpoint} is up and AWS_ENDPOINT_URL is right"


def is_remote(url: str) -> bool:
    """Return whether a URL leads to a store that is reached over the network."""
    return urlsplit(url).scheme not in ("", "file", "local")


def try_access(url: str) -> str:
    """Say why the store of a URL cannot be read from this process; "" if it can."""
    try:
        Folder(url).exists("manifest.json")
    except DataError as error:
        return str(error)
    return ""


def _is_temporary(error: BaseException) -> bool:
    if not isinstance(error, (OSError, pa.ArrowException)) or isinstance(error, (FileNotFoundError, PermissionError)):
        return False
    return not any(word in str(error) for word in (*ACCESS_ERRORS, *BUCKET_ERRORS))


def _draw_pause(state: RetryCallState) -> float:
    # Jitter: all workers retrying at once could overload a store that is just starting.
    return wait_exponential(multiplier=0.1, max=MAX_PAUSE_S)(state) * random.uniform(0.5, 1.5)


def _get_first_line(error: BaseException | None) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].split(". Detail:")[0]


def _get_endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")


def _open_filesystem(url: str) -> tuple[Any, str, bool]:
    """Return a pyarrow file system, the folder's path in it, and whether it is this machine's disk."""
    scheme, _, rest = url.partition("://") if "://" in url else ("", "", url)
    if scheme in ("", "file", "local"):
        return pafs.LocalFileSystem(), str(Path(rest).expanduser().absolute()), True
    if scheme in ("s3", "s3a"):
        key = os.environ.get("AWS_ACCESS_KEY_ID", "")
        certificates = os.environ.get("AWS_CA_BUNDLE", "")
        if certificates and not Path(certificates).is_file():
            raise DataError(f"{url}: AWS_CA_BUNDLE names {certificates}, which is no file")
        endpoint, proxy = _get_endpoint(), _find_proxy()
        return _connect_s3(endpoint, key, _find_region(rest), certificates=certificates, proxy=proxy), rest, False
    try:
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise DataError(f"{url}: no file system for {scheme}:// ({_get_first_line(error)})") from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path, False


@lru_cache(maxsize=16)
def _connect_s3(endpoint: str, key: str, region: str | None, *, certificates: str, proxy: str) -> pafs.S3FileSystem:
    """Return one client per endpoint and key (the SDK reads the secret itself), shared for its connection pool.

    `certificates` (a PEM file) and `proxy` are variables that botocore, which fsspec and MLflow use, reads itself.
    """
    del key  # only part of the cache key: a changed access key needs a new client
    parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
    return pafs.S3FileSystem(
        endpoint_override=parts.netloc or None,
        scheme=parts.scheme or "https",
        region=region,
        connect_timeout=5.0,
        request_timeout=60.0,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=3),
        tls_ca_file_path=certificates or None,
        proxy_options=proxy or None,
    )


def _find_proxy() -> str:
    """Return the proxy to S3's endpoint by the usual variables (HTTPS_PROXY, HTTP_PROXY, NO_PROXY); "" for none."""
    endpoint = _get_endpoint() or "https://s3.amazonaws.com"
    proxies = get_environ_proxies(endpoint)
    proxy = str(proxies.get(urlsplit(endpoint).scheme) or proxies.get("all") or "")
    return proxy if "://" in proxy or not proxy else f"http://{proxy}"


def _find_region(path: str) -> str | None:
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region or _get_endpoint():
        return region or "us-east-1"
    try:
        return str(pafs.resolve_s3_region(path.partition("/")[0]))
    except OSError:
        return None  # the first request will report the reason
