"""Reads a stream in a process of its own, whose batches the training process finds in memory that both share.

Choosing, fetching, decoding and collating hold the GIL for 30 to 120 microseconds a frame, little of it in the decoder.
Here they hold that of the reader. Everything about the samples and their order is `Stream`'s own code, which the reader
runs with the arguments of the trainer's stream.

    trainer -> reader   over a socket: the number of a free buffer; with a new one, its file descriptor
    reader -> trainer   over a pipe: the number of a finished buffer; log records; the error that ended the stream

There are as many buffers as the reader may prepare, and as many more as the trainer holds. They have no names: nothing
is left of them when both processes have ended, however they end. The reader ends when the socket is closed or its parent
is gone; the trainer raises ReaderDiedError when the pipe is closed.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import pickle
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from torch import Tensor

from facscale.data.batch_memory import BatchLayout, SharedBuffer, lend, open_shared
from facscale.data.errors import DataError, ReaderDiedError
from facscale.data.rows import ReadFailureLog
from facscale.data.views import Batch

if TYPE_CHECKING:
    import numpy as np

    from facscale.data.stream import Stream

NUMBER = 4  # bytes of a buffer's number
PARENT_CHECK_S = 1.0  # how often the reader looks whether its parent lives
CLOSE_S = 5.0  # after which a reader that does not end is killed


class FinishedBatch(NamedTuple):
    """A buffer that holds a batch, and what happened since the one before."""

    number: int  # of the buffer
    traffic: dict[str, int]  # what was read
    failure_log: ReadFailureLog | None  # if it has changed


class ReaderProcess:
    """The trainer's side: starts a reader for one pass over a stream, and receives its batches."""

    def __init__(self, stream: Stream, *, start: int) -> None:
        """`start`: the global cursor of the first batch. Raises DataError where the system has no such memory."""
        if not hasattr(os, "memfd_create"):
            raise DataError("data.reader=process needs Linux; set data.reader=threads")
        self._stream, self._layout = stream, BatchLayout(stream)
        self._buffers: dict[int, np.ndarray] = {}
        self._free: deque[int] = deque()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        receiver, sender = os.pipe()
        self._messages = os.fdopen(receiver, "rb")
        request = os.memfd_create("facscale-request", os.MFD_CLOEXEC)
        with theirs, os.fdopen(sender, "wb"), os.fdopen(request, "w+b") as file:
            pickle.dump((stream, start), file)
            file.flush()
            file.seek(0)
            handles = (theirs.fileno(), sender, request)
            self._process = subprocess.Popen(  # noqa: S603 - this module, in the same Python
                [sys.executable, "-P", "-c", f"from {__name__} import main; main()", *map(str, handles)],
                stdin=subprocess.DEVNULL,
                pass_fds=handles,
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)), "OMP_NUM_THREADS": "1"},
            )

    def run(self) -> Iterator[Batch]:
        """Yield batches. Raises what the stream raises in the reader, and ReaderDiedError when the reader has ended."""
        for _ in range(self._stream.spec.prefetch + 1):
            self._lend_buffer()
        while True:
            finished = self._receive()
            self._stream.traffic.add(**finished.traffic)
            if finished.failure_log is not None:
                self._stream.failure_log = finished.failure_log
            self._lend_buffer()
            yield self._open_batch(finished.number)

    def close(self) -> None:
        """End the reader. Batches that the caller still holds stay as they are."""
        self._socket.shutdown(socket.SHUT_RDWR)  # also where a forked process has inherited the socket
        self._socket.close()
        self._messages.close()
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._buffers.clear()

    def _lend_buffer(self) -> None:
        """Give the reader a buffer that nobody uses, or a new one."""
        try:
            if self._free:
                self._socket.sendall(self._free.popleft().to_bytes(NUMBER, "little"))
                return
            buffer, number = SharedBuffer(self._layout.bytes, pin=self._stream.pin), len(self._buffers)
            self._buffers[number] = buffer.bytes
            try:
                socket.send_fds(self._socket, [number.to_bytes(NUMBER, "little")], [buffer.handle])
            finally:
                buffer.close_handle()
        except (BrokenPipeError, ConnectionResetError):
            pass  # the pipe has its last words, or none

    def _open_batch(self, number: int) -> Batch:
        return self._layout.build(lend(self._buffers[number], lambda: self._free.append(number)))

    def _receive(self) -> FinishedBatch:
        """Wait for the next batch. Raises as `run`."""
        while True:
            try:
                message = pickle.load(self._messages)  # noqa: S301 - from our own process
            except (EOFError, pickle.UnpicklingError):
                self._raise_died()
            if isinstance(message, BaseException):
                raise message
            if isinstance(message, FinishedBatch):
                return message
            logger = logging.getLogger(message.name)
            if logger.isEnabledFor(message.levelno):
                logger.handle(message)

    def _raise_died(self) -> NoReturn:
        try:
            code = self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:  # it has closed its end of the pipe, and nothing else
            code = None
        if code is None or code >= 0:
            reason = f"with code {code}; its last words are on stderr"
        else:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            reason = f"by {name}" + (": often the system's answer to too little memory" if name == "SIGKILL" else "")
        urls = ", ".join(dataset.url for dataset in self._stream.datasets)
        raise ReaderDiedError(
            f"the process that reads {urls} for worker {self._stream.rank} was ended {reason}. If it happens again, lower "
            f"data.prefetch ({self._stream.spec.prefetch}), or set data.reader=threads"
        )


class LentBuffers:
    """The reader's side of the buffers. Ends the process when the trainer closes the socket or has ended."""

    def __init__(self, trainer: socket.socket) -> None:
        self._socket, self._parent = trainer, os.getppid()
        self._waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._memory: dict[int, np.ndarray] = {}
        self._taken: deque[int] = deque()
        threading.Thread(target=self._receive, daemon=True, name="facscale-buffers").start()

    def take(self, size: int) -> Tensor:
        """Wait for a buffer, and return it, uint8 [size]."""
        number = self._waiting.get()
        self._taken.append(number)
        return lend(self._memory[number][:size], lambda: None)

    def pop_oldest(self) -> int:
        """Return the number of the buffer that was taken first; batches are finished in this order."""
        return self._taken.popleft()

    def _receive(self) -> NoReturn:
        while True:
            if not select.select([self._socket], [], [], PARENT_CHECK_S)[0]:
                if os.getppid() != self._parent:
                    os._exit(1)
                continue
            message, handles, *_ = socket.recv_fds(self._socket, NUMBER, 1)
            if not message:
                os._exit(0)  # at once, whatever the threads wait for: a reader writes nothing but its cache
            number = int.from_bytes(message, "little")
            for handle in handles:
                self._memory[number] = open_shared(handle)
                os.close(handle)
            self._waiting.put(number)


class Outbox:
    """The reader's end of the pipe. Safe for several threads."""

    def __init__(self, handle: int) -> None:
        self._file, self._lock = os.fdopen(handle, "wb"), threading.Lock()

    def send(self, message: Any) -> None:
        """Send a message. Raises what pickling it raises."""
        data = pickle.dumps(message)
        with self._lock:
            self._file.write(data)
            self._file.flush()

    def send_error(self, error: BaseException) -> None:
        """Send what ended the stream: itself where it can be pickled, else its text."""
        if not isinstance(error, DataError):
            error.add_note("in the process that reads the data:\n" + "".join(traceback.format_exception(error)))
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
        except Exception:  # noqa: BLE001 - whatever a class of errors does
            error = RuntimeError("".join(traceback.format_exception(error)))
        self.send(error)


class ForwardedLog(logging.handlers.QueueHandler):
    """Sends log records to the trainer, which logs them as its own."""

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send a record that `prepare` has made fit for it."""
        self.queue.send(record)


def read_stream(trainer: socket.socket, outbox: Outbox, request: int) -> None:
    """Read the requested stream until the trainer ends this process, or an error the stream."""
    try:
        with os.fdopen(request, "rb") as file:
            stream, start = pickle.load(file)  # noqa: S301 - from the trainer
        buffers, sent = LentBuffers(trainer), dict[str, int]()
        failures = len(stream.skipped)
        for _ in stream.read_batches(start=start, buffers=buffers):
            counts = stream.traffic.counts
            has_changed = len(stream.skipped) > failures
            outbox.send(
                FinishedBatch(
                    buffers.pop_oldest(),
                    {name: count - sent.get(name, 0) for name, count in counts.items()},
                    stream.failure_log if has_changed else None,
                )
            )
            sent, failures = counts, len(stream.skipped)
    except BaseException as error:  # noqa: BLE001 - the trainer raises it
        outbox.send_error(error)


def main() -> None:
    """Run a reader; arguments: the file descriptors of the socket, the pipe and the request."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the trainer, which then ends this process
    handles = list(map(int, sys.argv[1:]))
    outbox = Outbox(handles[1])
    logging.getLogger().addHandler(ForwardedLog(outbox))  # type: ignore[arg-type] # its `enqueue` needs no queue
    read_stream(socket.socket(fileno=handles[0]), outbox, handles[2])
    os._exit(0)  # threads may wait for a store
