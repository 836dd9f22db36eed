"""The subject: the object through which a check calls the student's code, in a notebook or behind the sandbox's wire.

Both ways values cross through the same codec, so a check sees the same thing: copies, lists for tuples, handles for objects.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from graders.worker.client import StudentError, Transport, TrustedCodec, student_error
from graders.worker.wire import HandleRef

CALL_SECONDS = 20.0
__all__ = ["Handle", "LocalTransport", "StudentError", "Subject", "call"]


class Handle:
    """An object that stays with the student's code; attribute access gives its methods. It can be passed to other calls."""

    def __init__(self, reference: HandleRef, transport: Transport) -> None:
        self._handle_ref = reference
        self._transport = transport
        self._subject: Subject | None = None

    def __getattr__(self, name: str) -> BoundMethod:
        if name.startswith("_"):
            raise AttributeError(name)
        return BoundMethod(self, name)

    def __len__(self) -> int:
        length = _ask(self, "length", self)
        if type(length) is not int or not 0 <= length < 2**62:
            raise AssertionError("its length is not a whole number")
        return length

    def __repr__(self) -> str:
        return f"<{self._handle_ref.type_name}>"


def _ask(handle: Handle, operation: str, *arguments: Any) -> Any:
    subject = handle._subject
    seconds = subject.call_seconds if subject else CALL_SECONDS
    return handle._transport.request(operation, *arguments, seconds=seconds)


class BoundMethod:
    """A method of a Handle, called with `()` or scheduled with `call`."""

    def __init__(self, handle: Handle, name: str) -> None:
        self._target: Handle | str = handle
        self._name: str | None = name
        self._subject = handle._subject

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        assert isinstance(self._target, Handle)
        if self._subject is not None:
            return self._subject._call(self._target, self._name, args, kwargs)
        return self._target._transport.request("call", self._target, self._name, args, kwargs, seconds=CALL_SECONDS)


class BoundFunction:
    """A function of the student's notebook, by name."""

    def __init__(self, subject: Subject, name: str) -> None:
        self._subject, self._target, self._name = subject, name, None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._subject._call(self._target, None, args, kwargs)


class ScheduledCall(msgspec.Struct, frozen=True):
    """One call for `Subject.gather`: what to call, with what, how many milliseconds after the start."""

    target: Any
    method: str | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    delay_ms: float


def call(function: BoundMethod | BoundFunction, *args: Any, delay_ms: float = 0.0, **kwargs: Any) -> ScheduledCall:
    """Describe a call for `Subject.gather`; nothing runs yet."""
    return ScheduledCall(function._target, function._name, args, kwargs, delay_ms)


class CallRecord(msgspec.Struct):
    """A call that a check made: for showing the counterexample. `result` is the value or the StudentError."""

    target: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any = None


class Subject:
    """The student's notebook (or the reference, or the baseline) as an object: `subject.f(x)` calls its function `f`."""

    def __init__(self, transport: Transport, rng_seed: int = 0, call_seconds: float = CALL_SECONDS) -> None:
        self._transport = transport
        self._rng_seed = rng_seed
        self._handle_names: dict[int, str] = {}
        self.call_seconds = call_seconds
        self.calls: list[CallRecord] = []

    def __getattr__(self, name: str) -> BoundFunction:
        if name.startswith("_"):
            raise AttributeError(name)
        return BoundFunction(self, name)

    def begin_example(self) -> None:
        """Forget the calls recorded so far; a property driver says so before each example."""
        self.calls.clear()

    def rng(self) -> np.random.Generator:
        """A NumPy Generator from the secret seed: the same sequence in each example, and in a replay."""
        return np.random.default_rng(self._rng_seed)

    def _call(self, target: Handle | str, method: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if isinstance(target, Handle):
            shown = f"{self._handle_names.get(target._handle_ref.number, target._handle_ref.type_name.lower())}.{method}"
        else:
            shown = target
        record = CallRecord(shown, args, kwargs)
        self.calls.append(record)
        try:
            record.result = self._adopt(self._transport.request("call", target, method, args, kwargs, seconds=self.call_seconds))
        except StudentError as error:
            record.result = error
            raise
        return record.result

    def _adopt(self, value: Any) -> Any:
        """Let the handles in `value` share this subject's deadline and call record."""
        if isinstance(value, Handle):
            value._subject = self
            self._handle_names.setdefault(value._handle_ref.number, value._handle_ref.type_name.lower())
        elif isinstance(value, list):
            for item in value:
                self._adopt(item)
        elif isinstance(value, dict):
            for item in value.values():
                self._adopt(item)
        return value

    def has(self, name: str) -> bool:
        """Whether the notebook defines `name`."""
        return self._transport.request("has", name, seconds=self.call_seconds) is True

    def attribute(self, handle: Handle, name: str) -> Any:
        """Read an attribute of a student's object."""
        return self._adopt(self._transport.request("attribute", handle, name, seconds=self.call_seconds))

    def put(self, value: Any) -> Handle:
        """Send `value` once and return a handle that stands for it in later calls."""
        return self._adopt(self._transport.request("put", value, seconds=self.call_seconds))

    def drop(self, *handles: Handle) -> None:
        """Free objects that no later call needs."""
        self._transport.request("drop", [handle._handle_ref.number for handle in handles], seconds=self.call_seconds)

    def gather(self, calls: list[ScheduledCall]) -> list[Any]:
        """Run `calls` concurrently on one event loop; return their results in order, a StudentError where one raised."""
        self.calls += [CallRecord(str(item.method or item.target), item.args, item.kwargs) for item in calls]
        wire = [[item.target, item.method, item.args, item.kwargs, item.delay_ms / 1000] for item in calls]
        replies = self._transport.request("gather", wire, seconds=self.call_seconds)
        if type(replies) is not list or len(replies) != len(calls):
            raise AssertionError("the calls did not all come back")
        return [self._adopt(_unwrap(reply)) for reply in replies]

    @contextlib.contextmanager
    def serve(self, app: str) -> Iterator[str]:
        """Serve the ASGI application named `app` with uvicorn on loopback; yields its base URL, shuts it down at the end."""
        port = self._transport.request("serve", app, seconds=self.call_seconds + 20)
        if type(port) is not int or not 0 < port < 65536:
            raise AssertionError("the server did not start")
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            self._transport.request("stop_serving", seconds=self.call_seconds + 20)

    def kernels(self) -> list[dict[str, Any]]:
        """Packed and scalar instruction counts of the compiled numba kernels; an explanation, not a proof."""
        kernels = self._transport.request("kernels", seconds=self.call_seconds)
        return [row for row in kernels if type(row) is dict][:40] if type(kernels) is list else []

    def run_delay_seconds(self) -> float:
        """How long its process has waited for a processor so far, seconds."""
        return self._transport.run_delay_seconds()

    def is_alive(self) -> bool:
        """Whether its process can still be asked."""
        return self._transport.is_alive()

    def cpu_seconds(self) -> float:
        """The CPU clock of the process that runs this subject, seconds."""
        return self._transport.cpu_seconds()

    def freeze(self) -> None:
        """Stop its process until `thaw`."""
        self._transport.freeze()

    def thaw(self) -> None:
        """Let its process run."""
        self._transport.thaw()


def _unwrap(reply: Any) -> Any:
    if type(reply) is not list or len(reply) != 2:
        raise AssertionError("a call came back in an unknown form")
    return student_error(reply[1]) if reply[0] == "raised" else reply[1]


class LocalTransport:
    """Runs the student's functions in this process, through the same codec as the wire. For notebooks: no sandbox, no deadline."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        from graders.worker.cells import NotebookNamespace
        from graders.worker.main import Worker

        self._trusted = TrustedCodec(lambda reference: Handle(reference, self))
        self._worker = Worker(NotebookNamespace(namespace), self._call_back)

    def _call_back(self, worker: Any, number: int, args: Any, kwargs: Any) -> Any:
        args, kwargs = self._trusted.codec.decode(worker.codec.encode([args, kwargs]))
        return worker.codec.decode(self._trusted.codec.encode(self._trusted.call(number, args, kwargs)))

    def request(self, operation: str, *arguments: Any, seconds: float) -> Any:
        """Answer like a worker would; `seconds` is not enforced here (a notebook has an interrupt button)."""
        question = self._trusted.codec.encode([0, operation, *arguments])
        _, status, value = self._trusted.codec.decode(self._worker.answer(self._worker.codec.decode(question)))
        if status == "raised":
            if value["kind"] == "KeyboardInterrupt":
                raise KeyboardInterrupt
            raise student_error(value)
        return value

    def run_delay_seconds(self) -> float:
        """Not told apart from the notebook's own: 0."""
        return 0.0

    def is_alive(self) -> bool:
        """Always: it is this process."""
        return True

    def cpu_seconds(self) -> float:
        """CPU time of this process, all threads."""
        return time.process_time()

    def freeze(self) -> None:
        """Nothing to stop: both sides share this process and take turns."""

    def thaw(self) -> None:
        """Nothing to resume."""
