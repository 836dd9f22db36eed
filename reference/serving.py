"""A model server as bare ASGI: micro-batching, a Prometheus histogram, and OpenAI's completion routes.

`Histogram` and `MicroBatcher` stand alone. `app` needs no framework: one dictionary look-up for the route, msgspec to decode and
validate a body in one pass, fixed answers encoded once. It serves a toy (twelve weights, fourteen words), so that the server's own
cost is what one measures. It does no authentication, no TLS and no limiting of clients: a gateway does.

Sources: ASGI 3.0 and its lifespan protocol (asgi.readthedocs.io); Prometheus text exposition format 0.0.4
(prometheus.io/docs/instrumenting/exposition_formats); server-sent events (WHATWG HTML §9.2); OpenAI API reference
(platform.openai.com/docs/api-reference); adaptive batching: Crankshaw et al., Clipper, NSDI 2017.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import accumulate
from math import isfinite
from typing import Annotated, Any

import msgspec
import numpy as np

LABELS = ("setosa", "versicolor", "virginica")
# Multinomial logistic regression on scikit-learn's iris (sepal length, sepal width, petal length, petal width in cm), rounded to 3 digits.
WEIGHTS = np.array([[-0.424, 0.535, -0.11], [0.966, -0.32, -0.646], [-2.516, -0.207, 2.723], [-1.082, -0.943, 2.025]])
BIAS = np.array([9.855, 2.234, -12.089])
# Each line is a word and the words that may follow it. Every walk reaches "." within a dozen steps.
BIGRAMS = """
the model server batch request
a request model batch
model answers waits reads
server collects answers waits
batch waits fills .
request waits . arrives
answers a the .
waits for .
reads the a
collects the a
fills . and
arrives and .
for the a
and the a
"""
SUCCESSORS = {word: tuple(followers) for word, *followers in map(str.split, BIGRAMS.strip().splitlines())}
MAX_BODY_BYTES = 1 << 20
MAX_BATCH = 32
LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def classify(rows: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Predict `rows` (n × 4, centimetres) in one matrix product; return n dicts `{"label": str, "probabilities": [3 floats]}`."""
    logits = np.asarray(rows, dtype=np.float64) @ WEIGHTS + BIAS
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    best = probabilities.argmax(axis=1).tolist()
    return [{"label": LABELS[k], "probabilities": p} for k, p in zip(best, probabilities.tolist(), strict=True)]


def continue_text(prompt: str) -> Iterator[str]:
    """Yield the tokens that follow `prompt`, one word each, with a leading space on all but the first; the last word is "."."""
    words = prompt.split()
    word, n_words, space = words[-1] if words else "", len(words), ""
    while True:
        followers = SUCCESSORS.get(word, ("the",))
        word = followers[n_words % len(followers)]
        yield space + word
        if word == ".":
            return
        n_words, space = n_words + 1, " "


class Histogram:
    """Counts of observations by bucket, rendered as Prometheus reads them.

    `buckets` are the finite upper bounds, strictly ascending, in the unit of the observations; a bound belongs to its own bucket (x ≤ le).
    Raises ValueError for bounds that do not ascend or are not finite.
    """

    def __init__(self, buckets: Sequence[float]) -> None:
        self.buckets = [float(bound) for bound in buckets]
        ascending = all(low < high for low, high in itertools.pairwise(self.buckets))
        if not ascending or not all(map(isfinite, self.buckets)):
            raise ValueError(f"buckets must be finite and strictly ascending, got {list(buckets)}")
        self._counts = [0] * (len(self.buckets) + 1)
        self._sum = 0.0

    def observe(self, x: float) -> None:
        """Count `x`: O(log buckets), because it sits in every request's path; the cumulative sums wait for `render`."""
        self._counts[bisect_left(self.buckets, x)] += 1
        self._sum += x

    def render(self, name: str) -> str:
        """Return the text of the metric `name`: its TYPE line, cumulative `_bucket` samples up to `+Inf`, `_sum` and `_count`."""
        cumulative = list(accumulate(self._counts))
        bounds = [*map(repr, self.buckets), "+Inf"]
        lines = [f"# TYPE {name} histogram"]
        lines += [f'{name}_bucket{{le="{bound}"}} {count}' for bound, count in zip(bounds, cumulative, strict=True)]
        lines += [f"{name}_sum {self._sum!r}", f"{name}_count {cumulative[-1]}"]
        return "\n".join(lines) + "\n"


class MicroBatcher:
    """Answers concurrent requests with few calls of `predict(rows) -> outputs` (as many outputs as rows, in their order).

    A batch goes out when it holds `max_batch` (≥ 1) rows or when its oldest row has waited `max_wait_ms` (≥ 0) milliseconds. With a wait of
    0 it goes out at the end of the event loop's current turn: what arrived together is still batched, and nobody waits.
    An exception of `predict`, or a wrong number of outputs, reaches the requests of that batch and no other.
    Belongs to one event loop at a time.
    """

    def __init__(self, predict: Callable[[list[Any]], Sequence[Any]], max_batch: int, max_wait_ms: float) -> None:
        if max_batch < 1 or not max_wait_ms >= 0:
            raise ValueError(f"max_batch must be at least 1 and max_wait_ms at least 0, got {max_batch} and {max_wait_ms}")
        self._predict = predict
        self._max_batch = max_batch
        self._max_wait_s = max_wait_ms / 1000
        self._waiting: list[tuple[Any, asyncio.Future[Any]]] = []
        self._timer: asyncio.Handle | None = None
        self._draining = False

    def enqueue(self, row: Any) -> asyncio.Future[Any]:
        """Accept `row` and return the future of its output; raise RuntimeError once draining."""
        if self._draining:
            raise RuntimeError("the batcher is draining and takes no new requests")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((row, future))
        if len(self._waiting) >= self._max_batch:
            self._flush()
        elif self._timer is None:
            self._timer = loop.call_later(self._max_wait_s, self._flush) if self._max_wait_s else loop.call_soon(self._flush)
        return future

    async def predict_one(self, row: Any) -> Any:
        """Return the output of `row`, computed in a batch with its contemporaries."""
        return await self.enqueue(row)

    async def drain(self) -> None:
        """Refuse new requests and answer at once the ones accepted before."""
        self._draining = True
        self._flush()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # A future that is already done belongs to a client that went away: its row needs no prediction.
        batch = [(row, future) for row, future in self._waiting if not future.done()]
        self._waiting = []
        if not batch:
            return
        try:
            outputs = self._predict([row for row, _ in batch])
            if len(outputs) != len(batch):
                raise ValueError(f"predict returned {len(outputs)} outputs for {len(batch)} rows")
        except Exception as error:  # noqa: BLE001 - whatever the model raises is its batch's answer
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), output in zip(batch, outputs, strict=True):
            future.set_result(output)


Row = Annotated[list[Annotated[float, msgspec.Meta(ge=0, le=100)]], msgspec.Meta(min_length=4, max_length=4)]
MaxTokens = Annotated[int, msgspec.Meta(ge=1, le=4096)]


class PredictBody(msgspec.Struct):
    """Exactly one of `rows` (1 to 256 rows) and `row`."""

    rows: Annotated[list[Row], msgspec.Meta(min_length=1, max_length=256)] | None = None
    row: Row | None = None


class CompletionBody(msgspec.Struct):
    """The fields of POST /v1/completions that this server knows; others are ignored, as OpenAI's clients expect."""

    model: str
    prompt: str
    max_tokens: MaxTokens = 16
    stream: bool = False


class Message(msgspec.Struct):
    """One turn of a chat."""

    role: str
    content: str


class ChatBody(msgspec.Struct):
    """The fields of POST /v1/chat/completions that this server knows."""

    model: str
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    max_tokens: MaxTokens = 16
    stream: bool = False


class Refusal(Exception):
    """A request that is answered with `status` and an OpenAI-shaped error body."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


class Metrics:
    """Requests by path and status, their durations, and the sizes of the model's batches."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.seconds = Histogram(LATENCY_BUCKETS_S)
        self.batch_sizes = Histogram(BATCH_BUCKETS)

    def render(self) -> str:
        """Return the page of /metrics."""
        lines = ["# TYPE requests_total counter"]
        lines += [f'requests_total{{path="{path}",status="{status}"}} {n}' for (path, status), n in sorted(self.requests.items())]
        page = "\n".join(lines) + "\n"
        return page + self.seconds.render("request_duration_seconds") + self.batch_sizes.render("predict_batch_size")


JSON_HEADERS = [(b"content-type", b"application/json")]
SSE_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
TEXT_HEADERS = [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]
HEALTHY = b'{"status":"ok"}'
MODELS = msgspec.json.encode(
    {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "course"} for name in ("bigram", "iris")],
    }
)
decode_predict = msgspec.json.Decoder(PredictBody).decode
decode_completion = msgspec.json.Decoder(CompletionBody).decode
decode_chat = msgspec.json.Decoder(ChatBody).decode
encode = msgspec.json.Encoder().encode


class Server:
    """The ASGI application. Each lifespan (one start and stop of uvicorn) has its own batcher, drained at the stop."""

    def __init__(self, max_wait_ms: float = 0.0) -> None:
        self.metrics = Metrics()
        self.max_wait_ms = max_wait_ms
        self.batcher = self._new_batcher()
        self._serial = itertools.count(1)
        self._routes: dict[str, tuple[str, Callable[[bytes, Send], Awaitable[int]]]] = {
            "/health": ("GET", self._health),
            "/metrics": ("GET", self._metrics),
            "/v1/models": ("GET", self._models),
            "/v1/predict": ("POST", self._predict),
            "/v1/completions": ("POST", self._completions),
            "/v1/chat/completions": ("POST", self._chat),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection: an HTTP request or the lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        started = time.perf_counter()
        path = scope["path"]
        method, handler = self._routes.get(path, ("", None))
        if handler is None:
            await respond(send, 404, encode(Refusal(404, "no such route").body))
            return
        try:
            if scope["method"] != method:
                raise Refusal(405, f"use {method}")
            status = await handler(await read_body(receive), send)
        except Refusal as refusal:
            status = await respond(send, refusal.status, encode(refusal.body))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            status = await respond(send, 422, encode(Refusal(422, f"the body is not valid: {error}").body))
        if path.startswith("/v1/"):
            self.metrics.requests[path, status] += 1
            self.metrics.seconds.observe(time.perf_counter() - started)

    def _new_batcher(self) -> MicroBatcher:
        def predict(rows: list[list[float]]) -> list[dict[str, Any]]:
            self.metrics.batch_sizes.observe(len(rows))
            return classify(rows)

        return MicroBatcher(predict, MAX_BATCH, self.max_wait_ms)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self.batcher = self._new_batcher()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.batcher.drain()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _health(self, body: bytes, send: Send) -> int:
        return await respond(send, 200, HEALTHY)

    async def _metrics(self, body: bytes, send: Send) -> int:
        return await respond(send, 200, self.metrics.render().encode(), TEXT_HEADERS)

    async def _models(self, body: bytes, send: Send) -> int:
        return await respond(send, 200, MODELS)

    async def _predict(self, body: bytes, send: Send) -> int:
        request = decode_predict(body)
        if (request.rows is None) == (request.row is None):
            raise Refusal(422, "give exactly one of `row` and `rows`")
        rows = request.rows if request.rows is not None else [request.row]
        futures = [self.batcher.enqueue(row) for row in rows]
        return await respond(send, 200, encode({"predictions": [await future for future in futures]}))

    async def _completions(self, body: bytes, send: Send) -> int:
        request = decode_completion(body)
        head = {"id": f"cmpl-{next(self._serial)}", "object": "text_completion", "created": int(time.time()), "model": request.model}

        def choice(text: str, finish_reason: str | None, whole: bool) -> dict[str, Any]:
            return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}

        return await answer_text(send, request, request.prompt, head, head, choice)

    async def _chat(self, body: bytes, send: Send) -> int:
        request = decode_chat(body)
        prompt = " ".join(message.content for message in request.messages)
        head = {"id": f"chatcmpl-{next(self._serial)}", "object": "chat.completion", "created": int(time.time()), "model": request.model}

        def choice(text: str, finish_reason: str | None, whole: bool) -> dict[str, Any]:
            message = {"role": "assistant", "content": text} if text or whole else {}
            return {"index": 0, "message" if whole else "delta": message, "finish_reason": finish_reason}

        return await answer_text(send, request, prompt, head, {**head, "object": "chat.completion.chunk"}, choice)


async def answer_text(
    send: Send,
    request: CompletionBody | ChatBody,
    prompt: str,
    head: dict[str, Any],
    chunk_head: dict[str, Any],
    choice: Callable[[str, str | None, bool], dict[str, Any]],
) -> int:
    """Send the continuation of `prompt` as one JSON body or, if the request says `stream`, as server-sent events; return the status."""
    if request.model != "bigram":
        raise Refusal(404, "there is no such model; see /v1/models", "model_not_found")
    tokens = list(itertools.islice(continue_text(prompt), request.max_tokens))
    finish_reason = "stop" if tokens[-1].endswith(".") else "length"
    if not request.stream:
        n_prompt = len(prompt.split())
        usage = {"prompt_tokens": n_prompt, "completion_tokens": len(tokens), "total_tokens": n_prompt + len(tokens)}
        return await respond(send, 200, encode({**head, "choices": [choice("".join(tokens), finish_reason, True)], "usage": usage}))
    await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
    for text, reason in [*((token, None) for token in tokens), ("", finish_reason)]:
        event = b"data: " + encode({**chunk_head, "choices": [choice(text, reason, False)]}) + b"\n\n"
        await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
    return 200


async def read_body(receive: Receive) -> bytes:
    """Return the request's body; raise Refusal 413 beyond MAX_BODY_BYTES."""
    message = await receive()
    if not message.get("more_body"):
        return message.get("body", b"")
    parts = [message.get("body", b"")]
    size = len(parts[0])
    while message.get("more_body"):
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            raise Refusal(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    return b"".join(parts)


async def respond(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]] = JSON_HEADERS) -> int:
    """Send a whole response and return its status."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
    return status


app = Server()
