"""Folders at any URL: plain paths, `file://`, `s3://` (AWS_* environment variables), and whatever else fsspec supports.

Local and S3 go through pyarrow's own file systems (no Python between the socket and the buffer). A temporary failure
of a store (restarting, overloaded, network down) is retried; a permanent one (no such bucket, key refused) raises
`DataError` at once.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential

from facscale.data import s3
from facscale.data.errors import DataError, NoSpaceError, StoreError
from facscale.files import is_disk_full, publish, sync, write_atomically

Result = TypeVar("Result")
log = logging.getLogger(__name__)

# Another disk, another mount of the same one (bind mounts of containers), or a file system without links.
NO_LINKS = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK)
# Files that stay open for ranged reads. A local one takes a file descriptor, of which a process often has 1024; one in a
# store takes some memory, and a request to open it again.
KEPT_LOCAL, KEPT_REMOTE = 128, 4096
OPEN_TIMEOUT_S = 10.0  # a user is waiting for the answer
READ_TIMEOUT_S = 300.0  # in the middle of a long run: long enough for a store to restart
RENEWAL_S = 60.0  # how long whoever renews temporary keys may be late
MAX_PAUSE_S = 10.0
OBJECT_STORES = {
    "s3",
    "s3a",
    "gs",
    "gcs",
    "abfs",
    "abfss",
    "az",
    "adl",
    "oss",
    "oci",
    "memory",
}  # of fsspec: PUT is atomic
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
        self._handles: OrderedDict[str, pa.NativeFile] = OrderedDict()
        self._lock = threading.Lock()
        self._has_worked = False  # a key that was accepted and then is refused has expired

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

    def find_about(self, name: str) -> str | None:
        """Return where the folder has `name`, "__facscale__/FILE": there or, in data sets of version 0.1, beside the shards.

        None where it does not have it. Raises as `exists`.
        """
        return next((place for place in (name, name.rpartition("/")[2]) if self.exists(place)), None)

    def read_about(self, name: str) -> bytes:
        """Read a small file where `find_about` looks for it. Raises as `read`."""
        try:
            return self.read(name)
        except FileNotFoundError:
            return self.read(name.rpartition("/")[2])

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
            if isinstance(self._filesystem, pafs.PyFileSystem):
                # fsspec's files read megabytes ahead, which is more than a few frames have.
                store = self._filesystem.handler.fs
                return bytes(store.cat_file(self._join(name), start=offset, end=offset + length))
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

    def take_over(self, name: str, *, source: Folder, source_name: str) -> None:
        """Make `name` the same file as one of another folder in the same store, without reading it.

        On one local disk the two are links to the same bytes; otherwise the store makes a copy. Raises DataError,
        FileNotFoundError.
        """
        self._discard_handle(name)
        if self.is_local:
            self._put_local(name, source.path / source_name)
            return

        def copy() -> None:
            self._filesystem.copy_file(source._join(source_name), self._join(name))

        self._retry(copy, name=name, timeout=READ_TIMEOUT_S)

    def write(self, name: str, data: bytes) -> None:
        """Write a file, in place of one of that name; it appears complete or not at all.

        In a local folder the data is on the disk when the call returns; an object store gets it in one request. Raises
        NoSpaceError where it does not fit, StoreError.
        """
        self._discard_handle(name)
        try:
            if self.is_local:
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self.path / name, data)
                return
            self._retry(lambda: self._upload(name, data), name=name, timeout=READ_TIMEOUT_S)
        except (OSError, StoreError) as error:
            if is_disk_full(error):
                raise NoSpaceError(
                    f"{self.url}/{name} does not fit ({len(data):,} bytes: {_get_first_line(error)}): free space there, or "
                    "choose another place"
                ) from None
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{self.url}/{name} cannot be written: {error.strerror or error}") from None

    def _upload(self, name: str, data: bytes) -> None:
        """Put an object; in a remote store that keeps parts of files, rename a complete one."""
        store, folder = open_fsspec(self.url)
        protocols = {store.protocol} if isinstance(store.protocol, str) else set(store.protocol)
        if protocols & OBJECT_STORES:
            store.pipe_file(f"{folder}/{name}", data)
            return
        place, _, file = f"{folder}/{name}".rpartition("/")
        partial = f"{place}/.{file}.{os.getpid()}.partial"
        store.makedirs(place, exist_ok=True)
        store.pipe_file(partial, data)
        store.mv(partial, f"{place}/{file}")

    def create(self) -> None:
        """Create the folder, where the store has folders (a bucket has none). Raises DataError."""
        if self.is_local:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DataError(f"{self.url} cannot be created: {error.strerror}") from None

    def _put_local(self, name: str, source: Path) -> None:
        target = self.path / name
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, partial)
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                pafs.copy_files(str(source), str(partial))
            sync(partial)
            publish(partial, target)
        except OSError as error:
            partial.unlink(missing_ok=True)
            if is_disk_full(error):
                raise NoSpaceError(
                    f"{self.url}/{name} does not fit: free space there, or choose another place"
                ) from None
            raise DataError(f"{self.url}/{name} cannot be written: {error.strerror or error}") from None

    def _join(self, name: str) -> str:
        return f"{self._path}/{name}"

    def _get_handle(self, name: str) -> pa.NativeFile:
        # One open handle per file: opening costs a request for the size, and `read_at` is thread-safe. A handle that is
        # dropped here stays open until the last thread that reads from it is done.
        with self._lock:
            if name in self._handles:
                self._handles.move_to_end(name)
                return self._handles[name]
        handle = self._filesystem.open_input_file(self._join(name))  # without the lock: others need not wait for it
        with self._lock:
            self._handles[name] = handle
            while len(self._handles) > (KEPT_LOCAL if self.is_local else KEPT_REMOTE):
                self._handles.popitem(last=False)
        return handle

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

        started = time.monotonic()

        def should_retry(error: BaseException) -> bool:
            # A key that was accepted before has expired. The SDK reads keys anew for each request, so the next one may have it.
            is_renewable = self._has_worked and time.monotonic() - started < RENEWAL_S
            return _is_temporary(error) or (is_renewable and _has_word(error, ACCESS_ERRORS))

        retrying = Retrying(
            retry=retry_if_exception(should_retry),
            stop=stop_after_delay(timeout),
            wait=_draw_pause,
            sleep=sleep,
            before_sleep=log_retry,
            reraise=True,
        )
        try:
            result = action() if self.is_local else retrying(action)
            self._has_worked = True
        except FileNotFoundError:
            self._check_bucket()
            raise
        except (OSError, pa.ArrowException) as error:
            raise StoreError(self._explain(error)) from None
        return result

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
        endpoint = s3.get_endpoint() or "AWS"
        if any(word in text for word in BUCKET_ERRORS):
            return f"{self.url}: there is no such bucket at {endpoint}; create it or correct the URL"
        if any(word in text for word in ACCESS_ERRORS):
            return (
                f"{self.url}: {endpoint} refused the key; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that "
                f"this key may read and list the bucket ({s3.describe_variables()})"
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


def _has_word(error: BaseException | None, words: tuple[str, ...]) -> bool:
    return isinstance(error, (OSError, pa.ArrowException)) and any(word in str(error) for word in words)


def _draw_pause(state: RetryCallState) -> float:
    # Jitter: all workers retrying at once could overload a store that is just starting.
    return wait_exponential(multiplier=0.1, max=MAX_PAUSE_S)(state) * random.uniform(0.5, 1.5)


def _get_first_line(error: BaseException | None) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].split(". Detail:")[0]


def open_fsspec(url: str, **options: Any) -> tuple[Any, str]:
    """Return fsspec's file system of a URL, and the path in it. Raises ImportError, ValueError where there is none.

    Two colons are a part of a name, as in /data/a::b, unless a scheme follows them or stands before them alone, as in
    zip://b.zip::s3://bucket/a and simplecache::s3://bucket/a, which are chains of file systems.
    """
    import fsspec

    options = {**s3.build_fsspec_options(url), **options}
    first, *rest = url.split("::")
    if rest and first not in fsspec.available_protocols() and not any("://" in part for part in rest):
        filesystem = fsspec.filesystem(first.partition("://")[0] if "://" in first else "file", **options)
        return filesystem, filesystem._strip_protocol(url)  # noqa: SLF001 - there is no public name for it
    filesystem, path = fsspec.core.url_to_fs(url, **options)
    return filesystem, path


def _open_filesystem(url: str) -> tuple[Any, str, bool]:
    """Return a pyarrow file system, the folder's path in it, and whether it is this machine's disk."""
    scheme, _, rest = url.partition("://") if "://" in url else ("", "", url)
    if scheme in ("", "file", "local"):
        return pafs.LocalFileSystem(), str(Path(rest).expanduser().absolute()), True
    if scheme in ("s3", "s3a") and not s3.is_requester_paying():  # which the SDK inside pyarrow cannot say
        return s3.connect(rest), rest, False
    try:
        filesystem, path = open_fsspec(url)
    except (ImportError, ValueError) as error:
        raise DataError(f"{url}: no file system for {scheme}:// ({_get_first_line(error)})") from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path, False
