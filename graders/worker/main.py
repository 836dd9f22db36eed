"""The worker: runs a notebook's cells, then answers the grader's calls. Untrusted: nothing decided here is believed.

Started as `python -m graders.worker.main FD`, where FD is one end of a socketpair. A request is `[nonce, operation, *arguments]`;
every reply begins with the same nonce. Only this package is visible inside the sandbox, so it imports nothing else of the grader.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from graders.worker.cells import NotebookNamespace, describe_exception
from graders.worker.concurrency import AsgiServer, BackgroundLoop
from graders.worker.kernels import kernel_instructions
from graders.worker.wire import CallbackRef, Codec, HandleRef, receive_frame, send_frame


class Worker:
    """Holds one namespace and the objects lent out as handles; answers requests.

    `call_back(worker, number, args, kwargs)` runs a function that the grader lent.
    """

    def __init__(
        self,
        namespace: NotebookNamespace,
        call_back: Callable[[Worker, int, Any, Any], Any],
        listener: socket.socket | None = None,
    ) -> None:
        self.codec = Codec(self._refer, self._resolve)
        self.namespace = namespace
        self._call_back = call_back
        self.loop = BackgroundLoop()
        self.server = AsgiServer(listener)
        self._handles: dict[int, Any] = {}
        self.nonce: Any = None
        self._operations: dict[str, Callable[..., Any]] = {
            "run_cells": self.namespace.run_cells,
            "load_module": self.namespace.load_module,
            "has": self.namespace.__contains__,
            "call": self._call,
            "gather": self._gather,
            "attribute": lambda target, name: getattr(self._target(target), name),
            "length": lambda target: len(self._target(target)),
            "put": _Kept,
            "drop": self._drop,
            "serve": lambda app: self.server.start(self.namespace[app]),
            "stop_serving": self.server.stop,
            "kernels": lambda: kernel_instructions(self.namespace.values()),
        }

    def _refer(self, value: Any) -> HandleRef:
        number = len(self._handles) + 1
        self._handles[number] = value.value if isinstance(value, _Kept) else value
        return HandleRef(number, type(self._handles[number]).__name__)

    def _resolve(self, reference: HandleRef | CallbackRef) -> Any:
        if isinstance(reference, HandleRef):
            return self._handles[reference.number]
        return lambda *args, **kwargs: self._call_back(self, reference.number, args, kwargs)

    def _target(self, target: Any) -> Any:
        return self.namespace[target] if isinstance(target, str) else target

    def _call(self, target: Any, method: str | None, args: list[Any], kwargs: dict[str, Any]) -> Any:
        function = self._target(target)
        if method is not None:
            function = getattr(function, method)
        return self.loop.finish(function(*args, **kwargs))

    def _gather(self, calls: list[list[Any]]) -> list[list[Any]]:
        bound = []
        for target, method, args, kwargs, delay_seconds in calls:
            function = self._target(target)
            bound.append((function if method is None else getattr(function, method), args, kwargs, delay_seconds))
        return self.loop.gather(bound, describe_exception)

    def _drop(self, numbers: list[int]) -> None:
        # Numbers are never reused: a dropped slot keeps its key, so that a late handle names nothing instead of something else.
        for number in numbers:
            self._handles[number] = None

    def answer(self, request: list[Any]) -> bytes:
        """Run one request and return the encoded reply; what the student's code raises becomes part of the reply."""
        self.nonce, operation, *arguments = request
        try:
            return self.codec.encode([self.nonce, "ok", self._operations[operation](*arguments)])
        except BaseException as error:  # noqa: BLE001 - SystemExit and KeyboardInterrupt from student code are results too
            return self.codec.encode([self.nonce, "raised", describe_exception(error)])


class _Kept:
    """Marks a value that stays in the worker although it could cross the wire."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Connection:
    """The worker's end of the socketpair: one request at a time, with callbacks in between."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._callback_lock = threading.Lock()

    def call_back(self, worker: Worker, number: int, args: Any, kwargs: Any) -> Any:
        """Ask the grader to run a function that it lent, and return its value; RuntimeError where it refused."""
        with self._callback_lock:
            send_frame(self._stream, worker.codec.encode([worker.nonce, "callback", number, args, kwargs]))
            _, status, value = worker.codec.decode(receive_frame(self._stream))
        if status == "raised":
            raise RuntimeError(value)
        return value

    def serve(self, worker: Worker) -> None:
        """Answer requests until the grader closes the connection (WireClosed)."""
        send_frame(self._stream, worker.codec.encode("ready"))
        while True:
            send_frame(self._stream, worker.answer(worker.codec.decode(receive_frame(self._stream))))


def main(arguments: list[str]) -> None:
    """Connect to the grader on the file descriptors given: the wire, and optionally a bound TCP listener."""
    connection = Connection(socket.socket(fileno=int(arguments[0])))
    listener = socket.socket(fileno=int(arguments[1])) if len(arguments) > 1 else None
    quiet = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(quiet, descriptor)
    try:
        connection.serve(Worker(NotebookNamespace.fresh(), connection.call_back, listener))
    except Exception:  # noqa: BLE001 - the grader is gone or the wire is broken: there is nobody left to tell
        os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
