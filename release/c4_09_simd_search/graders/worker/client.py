"""The grader's end of the wire: starts a worker, asks, keeps the deadline, reads its CPU clock, and ends it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from graders.worker.concurrency import loopback_listener
from graders.worker.sandbox import MemoryGroup, Walls, command, make_group, probe
from graders.worker.wire import CallbackRef, Codec, HandleRef, WireClosed, WireError, WireTimeout, receive_frame, send_frame

START_SECONDS = 60.0
FREEZE_SECONDS = 0.2


class StudentError(Exception):
    """The student's code raised. `kind` is the exception's type name, `traceback` shows the student's own cells only."""

    def __init__(self, kind: str, message: str, traceback: str = "") -> None:
        super().__init__(f"{kind}: {message}" if message else kind)
        self.kind, self.message, self.traceback = kind, message, traceback


class WorkerLost(BaseException):
    """The worker died, hung, or broke the wire. Not an Exception: no check and no property driver may swallow it."""

    def __init__(self, sentence: str, timed_out: bool = False) -> None:
        super().__init__(sentence)
        self.sentence, self.timed_out = sentence, timed_out


class Transport(Protocol):
    """What a subject needs of the side that runs the student's code."""

    def request(self, operation: str, *arguments: Any, seconds: float) -> Any: ...
    def cpu_seconds(self) -> float: ...
    def run_delay_seconds(self) -> float: ...
    def is_alive(self) -> bool: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...


class TrustedCodec:
    """The codec of the grader's side: functions go out as callbacks, handles come in as whatever `wrap_handle` makes of them."""

    def __init__(self, wrap_handle: Callable[[HandleRef], Any]) -> None:
        self.callbacks: list[Callable[..., Any]] = []
        self.codec = Codec(self._refer, lambda reference: wrap_handle(reference) if isinstance(reference, HandleRef) else self._refuse())

    def _refer(self, value: Any) -> HandleRef | CallbackRef:
        reference = getattr(value, "_handle_ref", None)
        if isinstance(reference, HandleRef):
            return reference
        if callable(value):
            self.callbacks.append(value)
            return CallbackRef(len(self.callbacks) - 1)
        raise TypeError(f"a {type(value).__name__} can't be sent to the worker")

    @staticmethod
    def _refuse() -> Any:
        raise WireError("a callback that the grader did not lend")

    def call(self, number: int, args: Any, kwargs: Any) -> Any:
        """Run a lent function with what the worker sent; hostile numbers and arguments raise WireError."""
        if type(number) is not int or not 0 <= number < len(self.callbacks) or type(args) is not list or type(kwargs) is not dict:
            raise WireError("a callback that names nothing")
        return self.callbacks[number](*args, **{str(key): value for key, value in kwargs.items()})


class WorkerProcess:
    """One sandboxed worker process. Use as a context manager, or call `close`."""

    def __init__(self, walls: Walls, wrap_handle: Callable[[HandleRef, Transport], Any]) -> None:
        self._walls = walls
        self._trusted = TrustedCodec(lambda reference: wrap_handle(reference, self))
        self._group: MemoryGroup | None = None
        self._lost = False
        self._connection, theirs = socket.socketpair()
        # Bound here, in this network namespace, before the worker starts: it can accept on it and reach nothing else.
        self._listener = loopback_listener()
        info_read, info_write = os.pipe()
        try:
            self._group = make_group(walls.memory_mb)
            descriptors = [theirs.fileno(), self._listener.fileno()]
            words, environment = command(walls, [str(number) for number in descriptors], self._group, info_write)
            sandboxed = probe().level != "none"
            self._process = subprocess.Popen(
                words,
                env=environment,
                pass_fds=[*descriptors, *([info_write] if sandboxed else [])],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            os.close(info_write)
            info_write = -1
            theirs.close()
            self.pid = self._read_pid(info_read) if sandboxed else self._process.pid
            self._await_ready()
        except BaseException:
            self.close()
            raise
        finally:
            os.close(info_read)
            if info_write >= 0:
                os.close(info_write)

    def _read_pid(self, info_read: int) -> int:
        with os.fdopen(os.dup(info_read)) as file:
            text = file.read()
        if not text:
            raise RuntimeError(f"the sandbox did not start: {self._stderr()}")
        return int(json.loads(text)["child-pid"])

    def _stderr(self) -> str:
        assert self._process.stderr is not None
        self._process.wait(timeout=10)
        return self._process.stderr.read().decode(errors="replace").strip()[-1000:]

    def _await_ready(self) -> None:
        try:
            receive_frame(self._connection, time.monotonic() + START_SECONDS, max_bytes=64)
        except WireClosed:
            raise RuntimeError(f"the worker did not start: {self._stderr()}") from None
        except WireTimeout:
            raise RuntimeError(f"the worker was not ready after {START_SECONDS:.0f} s") from None
        assert self._process.stderr is not None
        self._process.stderr.close()

    def request(self, operation: str, *arguments: Any, seconds: float) -> Any:
        """Ask and wait; raise StudentError when the student's code raised, WorkerLost when there is no usable answer."""
        deadline = time.monotonic() + seconds
        nonce = secrets.randbits(63)
        lost, self._lost = self._lost, True
        if lost:
            raise WorkerLost("It had already ended its process.")
        try:
            send_frame(self._connection, self._trusted.codec.encode([nonce, operation, *arguments]), deadline)
            while True:
                status, *rest = self._reply(nonce, deadline)
                if status == "ok" and len(rest) == 1:
                    self._lost = False
                    return rest[0]
                if status == "raised" and len(rest) == 1:
                    error = student_error(rest[0])
                    self._lost = False
                    raise error
                if status != "callback" or len(rest) != 3:
                    raise WireError("an answer of an unknown kind")
                send_frame(self._connection, self._run_callback(nonce, *rest), deadline)
        except WireTimeout:
            self.kill()
            raise WorkerLost(f"It did not finish within {seconds:.0f} s and was stopped.", timed_out=True) from None
        except WireClosed:
            raise WorkerLost(self._how_it_died()) from None
        except WireError as error:
            self.kill()
            raise WorkerLost(f"It broke the connection to the grader by sending {error}, and was stopped.") from None

    def _reply(self, nonce: int, deadline: float) -> list[Any]:
        reply = self._trusted.codec.decode(receive_frame(self._connection, deadline))
        if type(reply) is not list or len(reply) < 2 or type(reply[0]) is not int or reply[0] != nonce or type(reply[1]) is not str:
            raise WireError("an answer to a question that was not asked")
        return reply[1:]

    def _run_callback(self, nonce: int, number: Any, args: Any, kwargs: Any) -> bytes:
        try:
            value = self._trusted.call(number, args, kwargs)
        except WireError:
            raise
        except Exception as error:  # noqa: BLE001 - a lent function that refuses bad arguments tells the student's code so
            return self._trusted.codec.encode([nonce, "raised", f"{type(error).__name__}: {error}"])
        return self._trusted.codec.encode([nonce, "ok", value])

    def _how_it_died(self) -> str:
        if self._group is not None and self._group.ran_out():
            return f"It used more than {self._walls.memory_mb} MB of memory and was stopped."
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.kill()
            return "It closed its connection to the grader."
        if self._group is not None and self._group.ran_out():
            return f"It used more than {self._walls.memory_mb} MB of memory and was stopped."
        return f"It ended the process (exit status {code}) instead of returning."

    def is_alive(self) -> bool:
        """Whether the worker can still be asked; it can't after any WorkerLost."""
        return not self._lost

    def cpu_seconds(self) -> float:
        """CPU time of all the worker's threads so far, read from outside (the kernel's per-process clock)."""
        try:
            return time.clock_gettime_ns((~self.pid << 3) | 2) / 1e9
        except OSError:
            raise WorkerLost(self._how_it_died()) from None

    def run_delay_seconds(self) -> float:
        """How long the worker's threads have been ready to run but had no processor (the kernel's schedstat)."""
        return run_delay_seconds(self.pid)

    def freeze(self) -> None:
        """Stop the worker's threads until `thaw`; returns when the kernel says that it stands still."""
        self._signal(signal.SIGSTOP)
        deadline = time.monotonic() + FREEZE_SECONDS
        while self._state() not in "TtZX" and time.monotonic() < deadline:
            pass

    def thaw(self) -> None:
        """Let the worker run again."""
        self._signal(signal.SIGCONT)

    def _state(self) -> str:
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            return "X"

    def _signal(self, number: int) -> None:
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            raise WorkerLost(self._how_it_died()) from None

    def kill(self) -> None:
        """End the worker and everything it started (its pid namespace ends with it)."""
        process = getattr(self, "_process", None)
        if process is None:
            return
        for pid in {getattr(self, "pid", process.pid), process.pid}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)

    def close(self) -> None:
        """End the worker and free what it held on this machine."""
        self.kill()
        self._connection.close()
        self._listener.close()
        if self._group is not None:
            self._group.remove()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run_delay_seconds(pid: int) -> float:
    """Seconds that the threads of process `pid` have waited for a processor; 0 where the kernel doesn't count it."""
    total = 0
    for schedstat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(schedstat.read_text().split()[1])
        except (OSError, ValueError, IndexError):
            continue  # a thread that has just ended
    return total / 1e9


def student_error(description: Any) -> StudentError:
    """Build a StudentError from what a worker sent, believing nothing about its shape."""
    if type(description) is not dict:
        raise WireError("an exception in an unknown form")
    kind, message, traceback = (str(description.get(key, ""))[:4000] for key in ("kind", "message", "traceback"))
    return StudentError(kind, message, traceback)
