"""The reference server beside plain FastAPI + scikit-learn, under the same open-loop load: `python -m bench.serving`.

Both run under uvicorn in processes of their own, on loopback. Blocks of load alternate in random order, so that a busy host disturbs both.
Requests leave on a schedule and each latency counts from the scheduled time: a server that stalls can't hide the requests it delayed.
Takes about 30 seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import random
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from pydantic import BaseModel

CONNECTIONS = 16
BODY = b'{"row": [5.1, 3.5, 1.4, 0.2]}'
REQUEST = b"POST /v1/predict HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)
START_SECONDS = 30.0


class PlainBody(BaseModel):
    """One row of four features."""

    row: list[float]


def plain_app() -> Any:
    """Return what one writes first: FastAPI with response models and a scikit-learn classifier, one `predict_proba` a request."""
    from fastapi import FastAPI
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    data = load_iris()
    model = LogisticRegression(max_iter=1000).fit(data.data, data.target)
    app = FastAPI()

    @app.post("/v1/predict")
    async def predict(body: PlainBody) -> dict[str, Any]:
        probabilities = model.predict_proba([body.row])[0]
        return {"predictions": [{"label": str(data.target_names[probabilities.argmax()]), "probabilities": probabilities.tolist()}]}

    return app


@contextlib.contextmanager
def serving(*application: str) -> Iterator[int]:
    """Run uvicorn with the words `application` in a process that ends with this block; yield its port once it answers."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    # asyncio disables Nagle's algorithm only on sockets made with an explicit protocol; accepted sockets inherit it from this one.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    command = [sys.executable, "-m", "uvicorn", "--fd", str(listener.fileno()), "--log-level", "error", "--no-access-log", *application]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(command, pass_fds=[listener.fileno()], env=environment)
    port = listener.getsockname()[1]
    try:
        listener.close()
        await_answer(process, port)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_answer(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until the server answers a prediction; raise RuntimeError if it ends or takes longer than START_SECONDS."""
    with socket.create_connection(("127.0.0.1", port), timeout=START_SECONDS) as connection:
        connection.sendall(REQUEST)
        answer = connection.recv(4096)
    if process.poll() is not None or b" 200 " not in answer[:32]:
        raise RuntimeError(f"the server on port {port} does not predict: {answer[:200]!r}")


class Connection:
    """One keep-alive HTTP/1.1 connection; reads the two forms of answer that uvicorn sends with a content-length."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def predict(self) -> None:
        """Send the request and read its answer to the end."""
        self._writer.write(REQUEST)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        if b" 200 " not in head[:20]:
            raise RuntimeError(f"an answer that is not 200: {head[:100]!r}")
        length = head.split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0]
        await self._reader.readexactly(int(length))

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


async def block(port: int, rate: float, count: int) -> list[float]:
    """Send `count` requests at `rate` a second over a pool of connections; return their latencies in ms from the scheduled times."""
    pool: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
    for _ in range(CONNECTIONS):
        connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
        await connection.predict()
        pool.put_nowait(connection)
    first = time.perf_counter() + 0.02

    async def one(number: int) -> float:
        scheduled = first + number / rate
        await asyncio.sleep(scheduled - time.perf_counter())
        connection = await pool.get()
        await connection.predict()
        pool.put_nowait(connection)
        return (time.perf_counter() - scheduled) * 1000

    latencies = await asyncio.gather(*(one(number) for number in range(count)))
    while not pool.empty():
        pool.get_nowait().close()
    return latencies


def precise_loop() -> asyncio.AbstractEventLoop:
    """An event loop on select(2): epoll rounds every timer up to a whole millisecond, more than a request takes."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def measure(ports: dict[str, int], rate: float, n_blocks: int, count: int) -> dict[str, np.ndarray]:
    """Interleave blocks of load on the servers; return latencies in ms, shape (n_blocks, count), by server."""
    order = random.Random(0)
    latencies: dict[str, list[list[float]]] = {name: [] for name in ports}
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        for name in ports:
            runner.run(block(ports[name], rate, count))
        for _ in range(n_blocks):
            for name in order.sample(sorted(ports), len(ports)):
                latencies[name].append(runner.run(block(ports[name], rate, count)))
    return {name: np.array(rows) for name, rows in latencies.items()}


def main() -> None:
    """Measure and print p50 and p99 of both servers, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=100, help="requests a second")
    parser.add_argument("--blocks", type=int, default=8, help="blocks for each server")
    parser.add_argument("--seconds", type=float, default=1.5, help="seconds a block")
    arguments = parser.parse_args()
    applications = {
        "reference": ["reference.serving:app"],
        "FastAPI + scikit-learn": ["--factory", "bench.serving:plain_app"],
    }
    with contextlib.ExitStack() as stack:
        ports = {name: stack.enter_context(serving(*words)) for name, words in applications.items()}
        latencies = measure(ports, arguments.rate, arguments.blocks, int(arguments.rate * arguments.seconds))
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}, {arguments.rate:g} requests a second"
    )
    for name, values in latencies.items():
        p50, p99 = np.percentile(values, [50, 99])
        print(f"{name:24s} p50 {p50:6.3f} ms   p99 {p99:6.3f} ms   ({values.size} requests)")
    plain, reference = latencies["FastAPI + scikit-learn"], latencies["reference"]
    for quantile in (50, 99):
        ratio = np.percentile(plain, quantile) / np.percentile(reference, quantile)
        each = np.percentile(plain, quantile, axis=1) / np.percentile(reference, quantile, axis=1)
        print(f"plain / reference, p{quantile}: {ratio:.2f} (median of block pairs {np.median(each):.2f})")


if __name__ == "__main__":
    main()
