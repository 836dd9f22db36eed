"""The reference server: its histogram against prometheus-client's, its batcher under drawn arrivals, its routes over ASGI."""

from __future__ import annotations

import asyncio
import json
import runpy
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import prometheus_client
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from graders.labs.c3_10_serve_model import oracle
from reference import serving

ROOT = Path(__file__).parents[1]
LAB = ROOT / "source" / "c3_10_serve_model"
IRIS = [5.1, 3.5, 1.4, 0.2]


def samples(text: str) -> dict[tuple[str, str], float]:
    """Samples by name and `le`, without the creation times that prometheus-client adds."""
    families = text_string_to_metric_families(text)
    found = [sample for family in families for sample in family.samples if not sample.name.endswith("_created")]
    return {(sample.name, sample.labels.get("le", "")): sample.value for sample in found}


@given(
    buckets=st.lists(st.integers(-40, 40).map(lambda k: k / 8), unique=True, min_size=1, max_size=8).map(sorted),
    values=st.lists(st.integers(-60, 60).map(lambda k: k / 8), max_size=30),
)
def test_histogram_renders_what_prometheus_client_renders(buckets: list[float], values: list[float]) -> None:
    registry = prometheus_client.CollectorRegistry()
    theirs = prometheus_client.Histogram("h", "", buckets=buckets, registry=registry)
    mine = serving.Histogram(buckets)
    for value in values:
        theirs.observe(value)
        mine.observe(value)
    expected = samples(prometheus_client.generate_latest(registry).decode())
    if buckets[0] < 0:
        # OpenMetrics forbids a sum beside negative bounds, and prometheus-client leaves it out.
        expected["h_sum", ""], expected["h_count", ""] = sum(values), len(values)
    assert samples(mine.render("h")) == expected


@pytest.mark.parametrize("buckets", [[1, 1], [2, 1], [float("nan")], [float("inf")], [0, float("inf")]])
def test_histogram_refuses_bounds_that_do_not_ascend(buckets: list[float]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        serving.Histogram(buckets)


class Model:
    """Doubles its rows and keeps the batches; fails on a batch with a negative row."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __call__(self, rows: list[int]) -> list[int]:
        self.batches.append(rows)
        if min(rows) < 0:
            raise ValueError("a negative row")
        return [2 * row for row in rows]


async def send(batcher: serving.MicroBatcher, arrivals: list[tuple[int, int]]) -> list[Any]:
    """Send each (row, delay in ms); return outputs or exceptions in order."""

    async def one(row: int, delay_ms: int) -> Any:
        await asyncio.sleep(delay_ms / 1000)
        return await batcher.predict_one(row)

    return await asyncio.gather(*(one(*arrival) for arrival in arrivals), return_exceptions=True)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=20), st.integers(1, 6), st.integers(0, 3))
def test_each_request_gets_the_answer_to_its_own_row(arrivals: list[tuple[int, int]], max_batch: int, max_wait_ms: int) -> None:
    model = Model()
    answers = asyncio.run(send(serving.MicroBatcher(model, max_batch, max_wait_ms), arrivals))
    assert answers == [2 * row for row, _ in arrivals]
    assert sorted(row for batch in model.batches for row in batch) == sorted(row for row, _ in arrivals)
    assert all(1 <= len(batch) <= max_batch for batch in model.batches)


@pytest.mark.parametrize("max_wait_ms", [0, 20])
@pytest.mark.parametrize(("n", "calls"), [(1, 1), (8, 1), (9, 2), (64, 8), (65, 9)])
def test_simultaneous_requests_cost_as_few_calls_as_possible(max_wait_ms: float, n: int, calls: int) -> None:
    model = Model()
    asyncio.run(send(serving.MicroBatcher(model, 8, max_wait_ms), [(k, 0) for k in range(n)]))
    assert len(model.batches) == calls


def test_a_failure_reaches_its_own_batch_only() -> None:
    model = Model()
    answers = asyncio.run(send(serving.MicroBatcher(model, 2, 1), [(1, 0), (2, 0), (-1, 0), (3, 0), (4, 0)]))
    assert [type(answer) for answer in answers] == [int, int, ValueError, ValueError, int]


def test_too_few_outputs_are_a_failure_not_a_hang() -> None:
    answers = asyncio.run(send(serving.MicroBatcher(lambda rows: rows[:-1], 3, 1), [(1, 0), (2, 0), (3, 0)]))
    assert [type(answer) for answer in answers] == [ValueError] * 3


def test_a_client_that_went_away_costs_no_prediction_and_harms_nobody() -> None:
    model = Model()

    async def scenario() -> int:
        batcher = serving.MicroBatcher(model, 8, 20)
        leaving = asyncio.create_task(batcher.predict_one(1))
        staying = asyncio.create_task(batcher.predict_one(2))
        await asyncio.sleep(0)
        leaving.cancel()
        return await staying

    assert asyncio.run(scenario()) == 4
    assert model.batches == [[2]]


def test_drain_answers_at_once_and_then_refuses() -> None:
    async def scenario() -> list[int]:
        batcher = serving.MicroBatcher(Model(), 8, 60_000)
        waiting = [asyncio.create_task(batcher.predict_one(row)) for row in (1, 2)]
        await asyncio.sleep(0)
        await batcher.drain()
        with pytest.raises(RuntimeError, match="draining"):
            await batcher.predict_one(3)
        return await asyncio.wait_for(asyncio.gather(*waiting), timeout=1)

    assert asyncio.run(scenario()) == [2, 4]


def exchange(*requests: tuple[str, str, Any], server: serving.Server | None = None) -> list[httpx.Response]:
    """Send (method, path, body) concurrently to one server, in process; bytes go as they are, other bodies as JSON."""

    async def scenario() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=server or serving.Server())
        async with httpx.AsyncClient(transport=transport, base_url="http://reference") as client:

            def one(method: str, path: str, body: Any) -> Any:
                sent = {} if body is None else {"content": body} if isinstance(body, bytes) else {"json": body}
                return client.request(method, path, **sent)

            return list(await asyncio.gather(*(one(*request) for request in requests)))

    return asyncio.run(scenario())


def test_predictions_match_the_oracle_and_share_a_call() -> None:
    rng = np.random.default_rng(0)
    rows = rng.uniform(0, 10, size=(20, 4)).round(3).tolist()
    server = serving.Server()
    responses = exchange(*[("POST", "/v1/predict", {"row": row}) for row in rows], server=server)
    predictions = [response.json()["predictions"][0] for response in responses]
    np.testing.assert_allclose([p["probabilities"] for p in predictions], oracle.probabilities(rows), atol=1e-12)
    assert [p["label"] for p in predictions] == [oracle.LABELS[k] for k in oracle.probabilities(rows).argmax(axis=1)]
    assert samples(server.metrics.render())["predict_batch_size_count", ""] == 1


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/predict", b"", 422),
        ("/v1/predict", b"[" * 100_000, 422),
        ("/v1/predict", b'{"row": [NaN, 1, 1, 1]}', 422),
        ("/v1/predict", b'{"row": [1e999, 1, 1, 1]}', 422),
        ("/v1/predict", b'{"row": [1, 1, 1, 1], "rows": [[1, 1, 1, 1]]}', 422),
        ("/v1/predict", b"\xff\xfe", 422),
        ("/v1/predict", b" " * (1 << 21), 413),
        ("/v1/completions", b'{"model": "bigram", "prompt": "a", "max_tokens": 0}', 422),
        ("/v1/chat/completions", b'{"model": "bigram", "messages": []}', 422),
        ("/v1/completions", b'{"model": "nobody", "prompt": "a", "stream": true}', 404),
        ("/nowhere", b"{}", 404),
        ("/metrics", b"{}", 405),
    ],
)
def test_mistakes_of_the_client_are_named_so(path: str, body: bytes, status: int) -> None:
    [response] = exchange(("POST", path, body))
    assert response.status_code == status
    if status != 413:
        assert response.json()["error"]["message"]


@settings(max_examples=30, deadline=None)
@given(words=st.lists(st.sampled_from([*serving.SUCCESSORS, ".", "why"]), max_size=5), max_tokens=st.integers(1, 12))
def test_a_stream_glues_to_the_whole(words: list[str], max_tokens: int) -> None:
    body = {"model": "bigram", "prompt": " ".join(words), "max_tokens": max_tokens}
    whole, stream = exchange(("POST", "/v1/completions", body), ("POST", "/v1/completions", body | {"stream": True}))
    *events, done = oracle.sse_events(stream)
    chunks = [json.loads(event) for event in events]
    choice = whole.json()["choices"][0]
    assert done == "[DONE]"
    assert (
        "".join(chunk["choices"][0]["text"] for chunk in chunks)
        == choice["text"]
        == "".join(oracle.tokens_after(body["prompt"], max_tokens))
    )
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + [choice["finish_reason"]]
    assert whole.json()["usage"]["completion_tokens"] == len(chunks) - 1


def test_every_text_ends() -> None:
    for word in [*serving.SUCCESSORS, "unknown"]:
        for position in range(12):
            assert len(oracle.tokens_after("x " * position + word, 100)) <= 12


def test_metrics_count_each_v1_request_once() -> None:
    server = serving.Server()
    good, bad = ("POST", "/v1/predict", {"row": IRIS}), ("POST", "/v1/predict", b"?")
    exchange(good, good, bad, ("GET", "/health", None), ("GET", "/v1/scanner", None), server=server)
    page = server.metrics.render()
    assert 'requests_total{path="/v1/predict",status="200"} 2\n' in page
    assert 'requests_total{path="/v1/predict",status="422"} 1\n' in page
    assert "health" not in page and "scanner" not in page
    assert samples(page)["request_duration_seconds_count", ""] == 3


def test_shutdown_answers_what_was_accepted() -> None:
    async def scenario() -> list[dict[str, Any]]:
        server = serving.Server(max_wait_ms=60_000)
        messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        replies: list[dict[str, Any]] = []

        async def reply(message: dict[str, Any]) -> None:
            replies.append(message)

        lifespan = asyncio.create_task(server({"type": "lifespan"}, messages.get, reply))
        await messages.put({"type": "lifespan.startup"})
        await asyncio.sleep(0.01)
        transport = httpx.ASGITransport(app=server)
        async with httpx.AsyncClient(transport=transport, base_url="http://reference") as client:
            waiting = asyncio.create_task(client.post("/v1/predict", json={"row": IRIS}))
            await asyncio.sleep(0.05)
            await messages.put({"type": "lifespan.shutdown"})
            response = await asyncio.wait_for(waiting, timeout=2)
        await lifespan
        assert response.json()["predictions"][0]["label"] == "setosa"
        return replies

    assert [message["type"] for message in asyncio.run(scenario())] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_the_models_given_in_the_notebook_are_everywhere_the_same() -> None:
    cells = json.loads((LAB / "c3_10_serve_model.ipynb").read_text())["cells"]
    [source] = ["".join(cell["source"]) for cell in cells if cell["id"] == "given-models"]
    notebook: dict[str, Any] = {}
    exec("import itertools\nimport numpy as np\n" + source, notebook)
    baseline = runpy.run_path(str(LAB / "baseline.py"))
    for names in (notebook, baseline, vars(serving), vars(oracle)):
        np.testing.assert_array_equal(names["WEIGHTS"], serving.WEIGHTS)
        np.testing.assert_array_equal(names["BIAS"], serving.BIAS)
        assert tuple(names["LABELS"]) == serving.LABELS
    assert notebook["SUCCESSORS"] == serving.SUCCESSORS == oracle.SUCCESSORS
    for prompt in ("", "the", "why not", "a ."):
        assert list(notebook["continue_text"](prompt)) == list(serving.continue_text(prompt)) == oracle.tokens_after(prompt)
