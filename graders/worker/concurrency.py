"""What runs beside the worker's main thread: one event loop for coroutines, one uvicorn server for an ASGI application."""

from __future__ import annotations

import asyncio
import gc
import inspect
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

START_SECONDS = 20.0


def loopback_listener() -> socket.socket:
    """Return a listening TCP socket on a free loopback port, with Nagle's algorithm off.

    Connections inherit the option; asyncio sets it only on sockets whose protocol number says TCP, and `create_server` leaves that at 0.
    With Nagle on, each answer waits some 40 ms for the client's delayed acknowledgement.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class BackgroundLoop:
    """One event loop kept between calls, so that an object with background tasks (a batcher) lives on from call to call."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def _run(self, coroutine: Any) -> Any:
        # In a thread of its own: a notebook's main thread already runs Jupyter's loop.
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, daemon=True).start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def finish(self, value: Any) -> Any:
        """Await `value` if it is awaitable, else return it; an async generator becomes a list."""
        if inspect.isawaitable(value):
            return self._run(_await(value))
        if inspect.isasyncgen(value):
            return self._run(_collect(value))
        return list(value) if inspect.isgenerator(value) else value

    def gather(
        self, calls: list[tuple[Callable[..., Any], list[Any], dict[str, Any], float]], describe: Callable[[BaseException], Any]
    ) -> list[list[Any]]:
        """Start each `(function, args, kwargs, delay_seconds)` on the loop; return `["ok", value]` or `["raised", …]` in order."""

        async def one(function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], delay: float) -> list[Any]:
            try:
                if delay:
                    await asyncio.sleep(delay)
                value = function(*args, **kwargs)
                return ["ok", await value if inspect.isawaitable(value) else value]
            except BaseException as error:  # noqa: BLE001 - whatever student code raises is that call's result
                return ["raised", describe(error)]

        async def everything() -> list[list[Any]]:
            return await asyncio.gather(*(one(*call) for call in calls))

        return self._run(everything())


async def _await(value: Any) -> Any:
    return await value


async def _collect(generator: Any) -> list[Any]:
    return [item async for item in generator]


class AsgiServer:
    """Serves one ASGI application with uvicorn in a thread, on a TCP socket that was bound before the sandbox closed."""

    def __init__(self, listener: socket.socket | None) -> None:
        self._listener = listener
        self._server: Any = None
        self._thread: threading.Thread | None = None

    def start(self, app: Any) -> int:
        """Serve `app`; return its TCP port once it accepts requests. Raises RuntimeError when start-up fails."""
        import uvicorn

        if self._listener is None:
            self._listener = loopback_listener()
        config = uvicorn.Config(app, log_level="critical", access_log=False, timeout_graceful_shutdown=5, lifespan="auto", ws="none")
        self._server = uvicorn.Server(config)
        # What was loaded before the first request need not be walked by collections while requests wait.
        gc.collect()
        gc.freeze()
        duplicate = self._listener.dup()
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [duplicate]}, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._server.started and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        if not self._server.started:
            raise RuntimeError("the application did not start: its lifespan handler failed or never finished")
        return int(self._listener.getsockname()[1])

    def stop(self) -> None:
        """Shut down as uvicorn does on SIGTERM: finish what was accepted, then run the application's shutdown."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(timeout=15)
            self._server = self._thread = None
