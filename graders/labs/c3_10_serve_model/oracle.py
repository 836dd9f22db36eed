"""What an honest server answers: the given models once more, and readers of the three wire formats that believe nothing.

The constants repeat those of the notebook's read-only cell: a submission's copy of them is the student's to change.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from graders import expect
from graders.subject import CallRecord, Subject

LABELS = ("setosa", "versicolor", "virginica")
WEIGHTS = np.array([[-0.424, 0.535, -0.11], [0.966, -0.32, -0.646], [-2.516, -0.207, 2.723], [-1.082, -0.943, 2.025]])
BIAS = np.array([9.855, 2.234, -12.089])
SUCCESSORS = {
    "the": ("model", "server", "batch", "request"),
    "a": ("request", "model", "batch"),
    "model": ("answers", "waits", "reads"),
    "server": ("collects", "answers", "waits"),
    "batch": ("waits", "fills", "."),
    "request": ("waits", ".", "arrives"),
    "answers": ("a", "the", "."),
    "waits": ("for", "."),
    "reads": ("the", "a"),
    "collects": ("the", "a"),
    "fills": (".", "and"),
    "arrives": ("and", "."),
    "for": ("the", "a"),
    "and": ("the", "a"),
}
MAX_RESPONSE_BYTES = 1 << 20
RESPONSE_SECONDS = 10.0


def probabilities(rows: list[list[float]]) -> np.ndarray:
    """Class probabilities of `rows` (n × 4), float64 of shape (n, 3)."""
    logits = np.asarray(rows, dtype=np.float64) @ WEIGHTS + BIAS
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def tokens_after(prompt: str, max_tokens: int = 16) -> list[str]:
    """The tokens that follow `prompt`, at most `max_tokens`."""

    def walk() -> Iterator[str]:
        words = prompt.split()
        for position in itertools.count():
            options = SUCCESSORS.get(words[-1] if words else "", ("the",))
            words.append(options[len(words) % len(options)])
            yield words[-1] if position == 0 else " " + words[-1]
            if words[-1] == ".":
                return

    return list(itertools.islice(walk(), max_tokens))


class Client:
    """An HTTP client for one served application; each request is noted for the counterexample. Safe to share between threads."""

    def __init__(self, lab: Subject, url: str) -> None:
        self._lab = lab
        self._http = httpx.Client(base_url=url, timeout=RESPONSE_SECONDS, trust_env=False)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str) -> httpx.Response:
        """GET `path`."""
        return self._request("GET", path, {})

    def post(self, path: str, body: Any) -> httpx.Response:
        """POST `body` to `path`: bytes as they are, anything else as JSON."""
        sent = {"content": body} if isinstance(body, bytes) else {"json": body}
        return self._request("POST", path, sent)

    def _request(self, method: str, path: str, sent: dict[str, Any]) -> httpx.Response:
        self._lab.calls.append(CallRecord(f"client.{method.lower()}", (path,), sent))
        deadline = time.monotonic() + RESPONSE_SECONDS
        headers = {"content-type": "application/json"} if sent else {}
        try:
            with self._http.stream(method, path, headers=headers, **sent) as response:
                body = b""
                for piece in response.iter_bytes():
                    body += piece
                    if len(body) > MAX_RESPONSE_BYTES or time.monotonic() > deadline:
                        raise expect.Mismatch(f"{method} {path}: the answer did not end within {RESPONSE_SECONDS:.0f} s and 1 MB.")
        except httpx.HTTPError as error:
            raise expect.Mismatch(f"{method} {path} got no answer ({type(error).__name__}).") from None
        headers = {"content-type": response.headers.get("content-type", "")}
        return httpx.Response(response.status_code, headers=headers, content=body)


def json_of(response: httpx.Response, status: int = 200) -> Any:
    """The JSON body of a response with `status`; a Mismatch says what came instead."""
    expect.equal(response.status_code, status, f"Expected status {status}, got {response.status_code}: {response.text[:300]!r}")
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        raise expect.Mismatch("The body is not JSON.", "JSON", response.text[:300]) from None


def field(value: Any, *path: str | int) -> Any:
    """`value[path[0]][path[1]]…`, or a Mismatch that names what is missing."""
    for depth, key in enumerate(path):
        fits = isinstance(value, dict) and key in value if isinstance(key, str) else isinstance(value, list) and len(value) > key
        if not fits:
            where = ".".join(map(str, path[: depth + 1]))
            raise expect.Mismatch(f"The answer has no `{where}`.", f"a value at {where}", value)
        value = value[key]
    return value


def samples(text: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Parse a Prometheus page into `{(name, sorted labels): value}`; a Mismatch where its reference parser refuses it."""
    if not isinstance(text, str):
        raise expect.Mismatch("Expected the Prometheus text as a str.", "a str", text)
    try:
        families = list(text_string_to_metric_families(text))
    except Exception as error:  # noqa: BLE001 - the parser raises whatever its parts raise on bad text
        raise expect.Mismatch(f"Prometheus can't read this text: {error}", "the text exposition format", text[:1000]) from None
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for sample in itertools.chain.from_iterable(family.samples for family in families):
        key = (sample.name, tuple(sorted(sample.labels.items())))
        expect.that(key not in found, f"The sample {sample.name}{sample.labels} occurs twice.")
        found[key] = float(sample.value)
    return found


def metric_types(text: str) -> dict[str, str]:
    """The types that the TYPE lines of a page declare, by metric name."""
    words = [line.split() for line in text.splitlines() if line.startswith("# TYPE ")]
    return {line[2]: line[3] for line in words if len(line) == 4}


def sse_events(response: httpx.Response) -> list[str]:
    """The data of each server-sent event; a Mismatch for anything but `data: …` and an empty line."""
    kind = response.headers["content-type"]
    expect.equal(response.status_code, 200, f"Expected status 200, got {response.status_code}: {response.text[:300]!r}")
    expect.that(kind.startswith("text/event-stream"), f"Expected the content type text/event-stream, got {kind!r}.")
    text = response.text.replace("\r\n", "\n")
    expect.that(text.endswith("\n\n"), "The last event of the stream does not end with an empty line.", actual=text[-200:])
    events = text[:-2].split("\n\n")
    for event in events:
        single = event.startswith("data: ") and "\n" not in event
        expect.that(single, "An event is not one line `data: …` followed by an empty line.", expected="data: …", actual=event[:300])
    return [event.removeprefix("data: ") for event in events]
