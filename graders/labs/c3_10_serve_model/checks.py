"""Public checks of c3_10_serve_model."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from graders import expect
from graders.checks import check
from graders.labs.c3_10_serve_model import oracle
from graders.labs.c3_10_serve_model.bodies import ODD_REQUESTS, bad_requests, iris_rows, text_body, text_requests
from graders.labs.c3_10_serve_model.oracle import Client, field, json_of
from graders.subject import StudentError, call

V1_PATHS = ("/v1/models", "/v1/predict", "/v1/completions", "/v1/chat/completions")
THREADS = 8
IRIS = [5.1, 3.5, 1.4, 0.2]

# Eighths: sums are exact, and an observation often lies on a bound.
eighths = st.integers(-80, 2000).map(lambda k: k / 8)


@check(max_examples=30)
@given(buckets=st.lists(eighths, unique=True, max_size=6).map(sorted), data=st.data())
def histogram_agrees_with_numpy(lab, buckets, data):
    """`Histogram` renders Prometheus text whose cumulative buckets, `_sum` and `_count` are NumPy's; unsorted bounds are a ValueError.

    A bound belongs to its own bucket (x ≤ le), every bucket counts all the observations below it, and `+Inf` comes last.
    """
    values = data.draw(st.lists(st.one_of(eighths, st.sampled_from(buckets)) if buckets else eighths, max_size=12))
    histogram = lab.Histogram(buckets)
    for value in values:
        histogram.observe(value)
    text = histogram.render("request_seconds")
    found = oracle.samples(text)
    expect.equal(oracle.metric_types(text).get("request_seconds"), "histogram", "The line `# TYPE request_seconds histogram` is missing.")
    bounds = [float(dict(labels)["le"]) for name, labels in found if name == "request_seconds_bucket" and "le" in dict(labels)]
    counts = [value for (name, _), value in found.items() if name == "request_seconds_bucket"]
    expect.equal(bounds, [*buckets, math.inf], "The `le` labels are not the bounds in ascending order with +Inf last.")
    expected = [int((np.asarray(values) <= bound).sum()) for bound in [*buckets, math.inf]]
    expect.equal(counts, expected, "The bucket counts are not #{x ≤ le}.")
    expect.equal(found.get(("request_seconds_count", ())), len(values), "`_count` is not the number of observations.")
    expect.equal(found.get(("request_seconds_sum", ())), math.fsum(values), "`_sum` is not the sum of the observations.")
    if len(buckets) > 1:
        with expect.raises("ValueError"):
            lab.Histogram(buckets[::-1])


class CountingModel:
    """A `predict` that stays on the grader's side: keeps each batch, answers 3x + 1 for a row [x], and fails where told to."""

    def __init__(self, poison: frozenset[int] = frozenset(), short: bool = False) -> None:
        self.batches: list[list[list[int]]] = []
        self.poison, self.short = poison, short

    def predict(self, rows: Any) -> list[int]:
        """Answer a list of rows."""
        if type(rows) is not list or not all(type(row) is list and len(row) == 1 and type(row[0]) is int for row in rows):
            raise TypeError("predict takes a list of the rows that it was given")
        self.batches.append(rows)
        outputs = [self.answer(row) for row in rows]
        if self.poison.isdisjoint(row[0] for row in rows):
            return outputs
        if self.short:
            return outputs[:-1]
        raise ValueError("poisoned row")

    @staticmethod
    def answer(row: list[int]) -> int:
        """The output of one row."""
        return 3 * row[0] + 1


def answer_all(lab: Any, model: CountingModel, rows: list[list[int]], delays: list[float], max_batch: int, max_wait_ms: float) -> list[Any]:
    """Send `rows` through a new batcher, each after its delay (ms); return what came back, StudentErrors included."""
    batcher = lab.MicroBatcher(model.predict, max_batch, max_wait_ms)
    return lab.gather([call(batcher.predict_one, row, delay_ms=delay) for row, delay in zip(rows, delays, strict=True)])


def expect_own_answers(results: list[Any], rows: list[list[int]]) -> None:
    """Fail unless each result is the model's answer to its row."""
    for result in results:
        if isinstance(result, StudentError):
            raise result
    expect.equal(results, [CountingModel.answer(row) for row in rows], "A request did not get the answer to its own row.")


arrivals = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), min_size=1, max_size=16)


@check(max_examples=25)
@given(arrivals=arrivals, max_batch=st.integers(1, 6), max_wait_ms=st.integers(0, 4))
def batcher_answers_each_request_with_its_own(lab, arrivals, max_batch, max_wait_ms):
    """However requests arrive, `predict_one(row)` returns the output of its own row.

    Several rows may be equal, and requests may arrive while a batch is being collected.
    """
    rows = [[value] for value, _ in arrivals]
    results = answer_all(lab, CountingModel(), rows, [delay for _, delay in arrivals], max_batch, max_wait_ms)
    expect_own_answers(results, rows)


@check(max_examples=25)
@given(arrivals=arrivals, max_batch=st.integers(1, 6), max_wait_ms=st.integers(0, 4))
def batcher_sends_each_row_once(lab, arrivals, max_batch, max_wait_ms):
    """Every request's row reaches `predict` exactly once, in a batch of 1 to `max_batch` rows.

    Equal rows are separate requests: each has its own place in a batch.
    """
    model = CountingModel()
    answer_all(lab, model, [[value] for value, _ in arrivals], [delay for _, delay in arrivals], max_batch, max_wait_ms)
    expect.that(all(model.batches), "`predict` was called with no rows.")
    largest = max((len(batch) for batch in model.batches), default=0)
    expect.that(largest <= max_batch, f"`predict` was called with {largest} rows; `max_batch` is {max_batch}.")
    seen = sorted(row[0] for batch in model.batches for row in batch)
    expect.equal(seen, sorted(value for value, _ in arrivals), "The rows that reached `predict` are not those of the requests.")


@check(after="batcher_sends_each_row_once", budget="model_calls")
def batcher_fills_its_batches(lab, budget):
    """200 requests at the same time with `max_batch=16` cost about ⌈200 / 16⌉ = 13 calls of the model.

    The model of this check is the grader's, and so is the counter.
    """
    model = CountingModel()
    rows = [[int(value)] for value in lab.rng().integers(0, 1000, 200)]
    results = answer_all(lab, model, rows, [0.0] * len(rows), 16, 20)
    for result in results:
        if isinstance(result, StudentError):
            raise result
    expect.equal(sum(map(len, model.batches)), len(rows), "The model did not see one row for each request.")
    return budget.count(len(model.batches), unit="model calls")


@check
def batcher_waits_no_longer_than_it_must(lab):
    """A full batch leaves at once; an unfinished one leaves when its oldest row has waited `max_wait_ms`, and not before.

    Later arrivals do not restart the clock: under steady traffic nobody would ever be answered.
    """
    started = time.monotonic()
    rows = [[k] for k in range(8)]
    answer_all(lab, CountingModel(), rows, [0.0] * 8, 4, 3000)
    took = time.monotonic() - started
    expect.that(took < 1.5, f"Two full batches of 4 were answered after {took:.1f} s: they waited out `max_wait_ms`=3000.")

    together = CountingModel()
    answer_all(lab, together, rows[:5], [0, 5, 10, 15, 20], 64, 500)
    n_calls = len(together.batches)
    expect.that(n_calls <= 2, f"Five requests within 20 ms cost {n_calls} calls, although `max_wait_ms`=500 lets them share one.")

    steady = CountingModel()
    answer_all(lab, steady, [[k] for k in range(12)], [50.0 * k for k in range(12)], 64, 120)
    message = "Requests every 50 ms for 600 ms all waited for the last one: the oldest must leave after `max_wait_ms`=120."
    expect.that(len(steady.batches) > 1, message)


@check(max_examples=15)
@given(n=st.integers(1, 12), poison=st.frozensets(st.integers(0, 11), min_size=1, max_size=2), short=st.booleans())
def batcher_contains_a_failure(lab, n, poison, short):
    """When `predict` raises, or returns too few outputs, exactly the requests of that batch raise; later batches are answered.

    An exception of `predict` keeps its message, so that the caller can read what was wrong.
    """
    model = CountingModel(poison, short)
    batcher = lab.MicroBatcher(model.predict, 4, 5)
    rows = [[k] for k in range(n)]
    results = lab.gather([call(batcher.predict_one, row) for row in rows])
    failed = {row[0] for batch in model.batches if any(row[0] in poison for row in batch) for row in batch}
    for row, result in zip(rows, results, strict=True):
        if row[0] not in failed:
            expect_own_answers([result], [row])
            continue
        expect.that(isinstance(result, StudentError), f"The batch of row {row} failed, but its request got {result!r}.")
        expect.that(short or "poisoned row" in result.message, "The message of the exception of `predict` got lost.", actual=str(result))
    expect_own_answers(lab.gather([call(batcher.predict_one, [100])]), [[100]])


@check
def batcher_drains(lab):
    """`drain()` answers what was accepted without waiting out the window, and from then on `predict_one` raises RuntimeError."""
    model = CountingModel()
    batcher = lab.MicroBatcher(model.predict, 10, 6000)
    rows = [[1], [2], [3]]
    started = time.monotonic()
    calls = [call(batcher.predict_one, row) for row in rows]
    *answers, _, late = lab.gather([*calls, call(batcher.drain, delay_ms=30), call(batcher.predict_one, [4], delay_ms=100)])
    took = time.monotonic() - started
    expect_own_answers(answers, rows)
    expect.that(took < 3, f"`drain()` took {took:.1f} s: it waited out `max_wait_ms`=6000.")
    refused = isinstance(late, StudentError) and late.kind == "RuntimeError"
    expect.that(refused, "A request after `drain()` must raise RuntimeError.", expected="RuntimeError", actual=late)


def together(requests: list[Callable[[], Any]]) -> list[Any]:
    """Run `requests` in THREADS threads; return their results in order."""
    with ThreadPoolExecutor(THREADS) as pool:
        return [future.result() for future in [pool.submit(request) for request in requests]]


def expect_predictions(answer: Any, rows: list[list[float]]) -> None:
    """Fail unless `answer` is the body of a right answer to `rows`."""
    expected = oracle.probabilities(rows)
    predictions = field(answer, "predictions")
    expect.that(type(predictions) is list and len(predictions) == len(rows), f"Expected {len(rows)} predictions.", actual=predictions)
    for k in range(len(rows)):
        got = [expect.number(field(answer, "predictions", k, "probabilities", j), "a probability") for j in range(3)]
        expect.close(np.array(got), expected[k], rtol=0, atol=1e-6, why=f"Row {k} has other probabilities.")
        label = field(answer, "predictions", k, "label")
        likely = [oracle.LABELS[j] for j in range(3) if expected[k, j] >= expected[k].max() - 1e-9]
        expect.that(label in likely, f"Row {k} has the wrong label.", expected=likely[0], actual=label)


@check(max_examples=6)
@given(rows=iris_rows)
def predict_route_agrees_with_the_model(lab, rows):
    """`POST /v1/predict` gives softmax(xW + b) and its label: many rows at once in their order, or row by row from concurrent clients."""
    with lab.serve("app") as url, Client(lab, url) as client:
        health = client.get("/health")
        expect.equal(health.status_code, 200, f"GET /health has status {health.status_code}.")
        expect_predictions(json_of(client.post("/v1/predict", {"rows": rows})), rows)
        answers = together([lambda row=row: client.post("/v1/predict", {"row": row}) for row in rows])
        for row, answer in zip(rows, answers, strict=True):
            expect_predictions(json_of(answer), [row])


@check(max_examples=10)
@given(requests=bad_requests)
def bad_bodies_are_refused(lab, requests):
    """A body that breaks the schema gets 422 or 400, no body gets a 500, and the server answers the next good request.

    Look at what your 422 quotes: `NaN` and half a surrogate pair can be read but not written.
    """
    with lab.serve("app") as url, Client(lab, url) as client:
        for path, body in requests:
            lab.begin_example()
            status = client.post(path, body.encode()).status_code
            shown = body if len(body) < 100 else body[:100] + "…"
            expect.that(status in (400, 422), f"POST {path} with {shown!r} has status {status}.", expected="422 or 400", actual=status)
        for path, odd in ODD_REQUESTS:
            lab.begin_example()
            status = client.post(path, odd).status_code
            expect.that(status < 500, f"POST {path} with {odd!r} has status {status}.", expected="less than 500", actual=status)
        expect_predictions(json_of(client.post("/v1/predict", {"row": IRIS})), [IRIS])


def metrics_page(client: Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples of GET /metrics."""
    response = client.get("/metrics")
    expect.equal(response.status_code, 200, f"GET /metrics has status {response.status_code}.")
    expect.that(response.headers["content-type"].startswith("text/plain"), "/metrics is not text/plain.")
    return oracle.samples(response.text)


def request_counts(page: dict[tuple[str, tuple[tuple[str, str], ...]], float]) -> Counter[tuple[str, str]]:
    """The counter `requests_total` by (path, status)."""
    found = [(dict(labels), value) for (name, labels), value in page.items() if name == "requests_total"]
    for labels, _ in found:
        expect.equal(sorted(labels), ["path", "status"], "`requests_total` must have the labels path and status.")
    return Counter({(labels["path"], labels["status"]): int(value) for labels, value in found})


@check(seconds=60)
def metrics_count_every_request_once(lab):
    """`/metrics` counts each request to a `/v1/` route once under its path and status, and its histograms agree with the counter.

    Refused and streamed requests count too; `/health`, `/metrics` and unknown paths do not. Durations are in seconds.
    """
    rng = lab.rng()
    sizes = rng.integers(1, 6, size=int(rng.integers(8, 16))).tolist()
    chat = {"model": "bigram", "messages": [{"role": "user", "content": "the"}]}
    requests: list[tuple[str, Any]] = [("/v1/predict", {"rows": [IRIS] * size}) for size in sizes]
    requests += [("/v1/predict", {"rows": "?"})] * int(rng.integers(1, 5))
    requests += [("/v1/completions", {"model": "bigram", "prompt": "a"})] * int(rng.integers(1, 5))
    requests += [("/v1/completions", {"model": "nobody", "prompt": "a"})] * int(rng.integers(1, 5))
    requests += [("/v1/chat/completions", {**chat, "stream": True})] * int(rng.integers(1, 5))
    requests += [("/v1/models", None)] * int(rng.integers(1, 5)) + [("/health", None), (f"/v1/{rng.integers(1 << 30)}", None)]
    requests = [requests[k] for k in rng.permutation(len(requests))]
    with lab.serve("app") as url, Client(lab, url) as client:
        before, started = metrics_page(client), time.monotonic()
        send = [lambda p=path, b=body: client.get(p) if b is None else client.post(p, b) for path, body in requests]
        responses = together(send)
        elapsed = time.monotonic() - started
        expected = Counter((path, str(got.status_code)) for (path, _), got in zip(requests, responses, strict=True) if path in V1_PATHS)
        after = settled_page(client, request_counts(before) + expected)
    expect.equal(
        dict(request_counts(after) - request_counts(before)), dict(expected), "`requests_total` did not grow by the requests sent."
    )
    falling = [name for name, labels in before if after.get((name, labels), -1.0) < before[name, labels]]
    expect.that(not falling, f"A counter fell: {falling[:1]}.")

    def grown(name: str) -> float:
        expect.that((name, ()) in after, f"/metrics has no `{name}`.")
        return after[name, ()] - before.get((name, ()), 0.0)

    message = "`request_duration_seconds` did not observe each request once."
    expect.equal(grown("request_duration_seconds_count"), sum(expected.values()), message)
    seconds = grown("request_duration_seconds_sum")
    message = f"{sum(expected.values())} requests took {seconds:.3f} s in all, says the histogram; is it in seconds?"
    expect.that(0 < seconds <= THREADS * elapsed + 0.5, message)
    message = "The sum of `predict_batch_size` did not grow by the rows predicted."
    expect.equal(grown("predict_batch_size_sum"), sum(sizes), message)
    expect.that(1 <= grown("predict_batch_size_count") <= sum(sizes), "The count of `predict_batch_size` is not a number of model calls.")


def settled_page(client: Client, expected: Counter[tuple[str, str]]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The metrics once the last request is counted: a server may count after its answer has left. Waits at most 2 s."""
    deadline = time.monotonic() + 2
    page = metrics_page(client)
    while sum(request_counts(page).values()) < sum(expected.values()) and time.monotonic() < deadline:
        time.sleep(0.02)
        page = metrics_page(client)
    return page


def expect_head(answer: Any, kind: str, prefix: str) -> str:
    """Check the fields that every OpenAI answer has; return its id."""
    expect.equal(field(answer, "object"), kind, f'`object` must be "{kind}".')
    expect.equal(field(answer, "model"), "bigram", "`model` must be the model's name.")
    created = field(answer, "created")
    expect.that(
        type(created) is int and abs(created - time.time()) < 86_400, "`created` must be Unix time in whole seconds.", actual=created
    )
    identity = field(answer, "id")
    expect.that(type(identity) is str and identity.startswith(prefix), f'`id` must be a text that begins with "{prefix}".', actual=identity)
    expect.equal(field(answer, "choices", 0, "index"), 0, "The choice's `index` must be 0.")
    return identity


@check(max_examples=6)
@example(requests=[("the", 1), ("the", None)])  # cut by max_tokens, and ended by the full stop
@given(requests=text_requests)
def text_routes_speak_openai(lab, requests):
    """`/v1/models`, `/v1/completions` and `/v1/chat/completions` answer in OpenAI's shape: fields, types, `finish_reason`, `usage`, 404.

    The text is the tokens of `continue_text`, `finish_reason` is "stop" only after the full stop, and the usage adds up.
    """
    with lab.serve("app") as url, Client(lab, url) as client:
        models = json_of(client.get("/v1/models"))
        expect.equal(field(models, "object"), "list", '`object` of /v1/models must be "list".')
        data = field(models, "data")
        ids = [field(model, "id") for model in data] if isinstance(data, list) else []
        expect.that("bigram" in ids, "/v1/models does not list `bigram`.", actual=ids)
        for model in data:
            shape = (field(model, "object"), type(field(model, "created")), type(field(model, "owned_by")))
            expect.equal(shape, ("model", int, str), "A model needs `object`, `created` (int) and `owned_by`.")
        identities = [expect_whole(client, prompt, limit, chat) for prompt, limit in requests for chat in (False, True)]
        expect.equal(len(set(identities)), len(identities), "Two answers have the same `id`.")
        for path in V1_PATHS[2:]:
            error = json_of(client.post(path, text_body("a", 3, "chat" in path) | {"model": "nobody", "stream": True}), 404)
            expect.equal(field(error, "error", "code"), "model_not_found", "The error's `code` is not model_not_found.")
            expect.that(type(field(error, "error", "message")) is str, "The error needs a `message`.")


def expect_whole(client: Client, prompt: str, max_tokens: int | None, chat: bool) -> str:
    """Send one request without `stream`, compare with the oracle, and return the answer's id."""
    tokens = oracle.tokens_after(prompt, max_tokens or 16)
    path = V1_PATHS[3 if chat else 2]
    answer = json_of(client.post(path, text_body(prompt, max_tokens, chat)))
    identity = expect_head(answer, "chat.completion" if chat else "text_completion", "chatcmpl-" if chat else "cmpl-")
    if chat:
        expect.equal(field(answer, "choices", 0, "message"), {"role": "assistant", "content": "".join(tokens)}, "The message is not right.")
    else:
        expect.equal(field(answer, "choices", 0, "text"), "".join(tokens), "The text is not the model's.")
    expect.equal(field(answer, "choices", 0, "finish_reason"), "stop" if tokens[-1].endswith(".") else "length", "Wrong `finish_reason`.")
    n_prompt = len(prompt.split())
    usage = {"prompt_tokens": n_prompt, "completion_tokens": len(tokens), "total_tokens": n_prompt + len(tokens)}
    expect.equal({name: field(answer, "usage", name) for name in usage}, usage, "The `usage` is not right.")
    return identity


@check(max_examples=6)
@example(requests=[("the", 1), ("the", None)])
@given(requests=text_requests)
def stream_equals_the_whole(lab, requests):
    """With `"stream": true` the pieces, glued together, are the text of the same request without it; the stream ends with `[DONE]`.

    One event for each token, one for the `finish_reason` (null until then), all with one id, then `data: [DONE]`.
    """
    with lab.serve("app") as url, Client(lab, url) as client:
        for prompt, max_tokens in requests:
            for chat in (False, True):
                expect_stream(client, prompt, max_tokens, chat)


def expect_stream(client: Client, prompt: str, max_tokens: int | None, chat: bool) -> None:
    """Send one request with `stream` and compare its events with the oracle."""
    tokens = oracle.tokens_after(prompt, max_tokens or 16)
    path = V1_PATHS[3 if chat else 2]
    *events, last = oracle.sse_events(client.post(path, text_body(prompt, max_tokens, chat) | {"stream": True}))
    expect.equal(last, "[DONE]", "The stream does not end with `data: [DONE]`.")
    try:
        chunks = [json.loads(event) for event in events]
    except (ValueError, RecursionError):
        raise expect.Mismatch("An event's data is not JSON.", "JSON", events) from None
    ids = {expect_head(chunk, "chat.completion.chunk" if chat else "text_completion", "chatcmpl-" if chat else "cmpl-") for chunk in chunks}
    expect.equal(len(ids), 1, "The events of one stream must share one `id`.")
    if chat:
        deltas = [field(chunk, "choices", 0, "delta") for chunk in chunks]
        pieces = [(delta.get("content") or "") if isinstance(delta, dict) else "" for delta in deltas]
    else:
        pieces = [field(chunk, "choices", 0, "text") for chunk in chunks]
    expect.equal([piece for piece in pieces if piece != ""], tokens, "The pieces are not the tokens of the text, one an event.")
    reasons = [field(chunk, "choices", 0, "finish_reason") for chunk in chunks]
    finish = "stop" if tokens[-1].endswith(".") else "length"
    expect.equal(reasons, [None] * (len(reasons) - 1) + [finish], "`finish_reason` must be null until the last event, which says why.")


@check(after="predict_route_agrees_with_the_model", budget="predict_p99", seconds=90)
def predict_p99_is_near_the_reference(lab, budget):
    """At 300 requests a second, counted from when each should have left, the p99 of `/v1/predict` is at most three times the reference's.

    An unneeded wait for company, a slow middleware or doing again what could be done once: that is where the time goes.
    """

    def request(rng: np.random.Generator) -> dict[str, Any]:
        return {"method": "POST", "path": "/v1/predict", "json": {"row": rng.uniform(0, 8, 4).round(2).tolist()}}

    def verify(request: dict[str, Any], response: Any) -> None:
        expect_predictions(json_of(response), [request["json"]["row"]])

    return budget.p99(app="app", request=request, verify=verify)
