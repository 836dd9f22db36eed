"""The p99 of a served application, measured as its callers feel it: open loop over real HTTP on loopback.

Requests leave on a schedule, whatever the answers do, and each latency counts from the scheduled time, so a stalled server can't
hide behind the requests that it kept from being sent (G. Tene, "coordinated omission"). Blocks of the student's server alternate with
blocks of the reference's while the other one is frozen; a pair of blocks in which the *reference* was disturbed is dropped for
both sides, which the student's code can't bring about, being frozen then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from graders.measure import BudgetOutcome, BudgetRun
from graders.subject import Subject
from graders.verdict import BernoulliVerdict, Limits

BLOCK_REQUESTS = 100
WARM_UP_REQUESTS = 50
MAX_BLOCKS = 24
DISTURBED = 3.0
TIMEOUT_SECONDS = 5.0
FLOOR_MS = 2.0


def measure_p99(
    run: BudgetRun,
    other: Subject,
    app: str,
    request: Callable[[np.random.Generator], dict[str, Any]],
    verify: Callable[[dict[str, Any], Any], None],
    rate: float,
) -> BudgetOutcome:
    """Alternate blocks until each tier's verdict stands; `rate` is in requests a second.

    The budget in milliseconds is `limit` × the reference's p99 over its undisturbed blocks so far, but at least `FLOOR_MS`:
    below that, one wake-up of the operating system is the measurement.
    """
    started = time.monotonic()
    rng = np.random.default_rng(run._seed)
    order = np.random.default_rng([run._seed, 2])
    student_ms: list[list[float]] = []
    other_ms: list[list[float]] = []
    dropped = 0
    with run.student.serve(app) as student_url, other.serve(app) as other_url:
        sides = {"student": (run.student, other, student_url), "other": (other, run.student, other_url)}
        for name in sides:
            _block(sides[name], request, verify, rng, rate, WARM_UP_REQUESTS)
        while len(student_ms) + dropped < MAX_BLOCKS and time.monotonic() - started < run.budget.seconds:
            names = ("student", "other") if order.random() < 0.5 else ("other", "student")
            block = {name: _block(sides[name], request, verify, rng, rate, BLOCK_REQUESTS) for name in names}
            if other_ms and np.percentile(block["other"], 90) > DISTURBED * np.median([np.percentile(each, 90) for each in other_ms]):
                dropped += 1
                continue
            student_ms.append(block["student"])
            other_ms.append(block["other"])
            if len(student_ms) >= 3 and _credit(run, student_ms, other_ms)[1]:
                break
    return _outcome(run, student_ms, other_ms, dropped, rate, time.monotonic() - started)


def _block(
    side: tuple[Subject, Subject, str],
    request: Callable[[np.random.Generator], dict[str, Any]],
    verify: Callable[[dict[str, Any], Any], None],
    rng: np.random.Generator,
    rate: float,
    count: int,
) -> list[float]:
    mine, frozen, url = side
    requests = [request(rng) for _ in range(count)]
    frozen.freeze()
    try:
        latencies, responses = asyncio.run(_open_loop(url, requests, rate))
    finally:
        frozen.thaw()
    for sent, response in zip(requests, responses, strict=True):
        if response is not None:
            verify(sent, response)
    return latencies


async def _open_loop(url: str, requests: list[dict[str, Any]], rate: float) -> tuple[list[float], list[Any]]:
    """Send on schedule; return latencies in ms from the scheduled time (a lost answer counts `TIMEOUT_SECONDS`) and responses."""
    import httpx

    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_SECONDS, limits=limits, trust_env=False) as client:
        await client.get("/health")
        loop = asyncio.get_running_loop()
        first = loop.time() + 0.02

        async def send(number: int, sent: dict[str, Any]) -> tuple[float, Any]:
            scheduled = first + number / rate
            await asyncio.sleep(scheduled - loop.time())
            try:
                response = await client.request(sent["method"], sent["path"], json=sent.get("json"))
            except httpx.HTTPError:
                return TIMEOUT_SECONDS * 1000, None
            return (loop.time() - scheduled) * 1000, response

        answers = await asyncio.gather(*(send(number, sent) for number, sent in enumerate(requests)))
    return [latency for latency, _ in answers], [response for _, response in answers]


def _budget_ms(other_ms: list[list[float]], limit: float) -> float:
    return max(FLOOR_MS, limit * float(np.percentile(np.concatenate(other_ms), 99)))


def _credit(run: BudgetRun, student_ms: list[list[float]], other_ms: list[list[float]]) -> tuple[float, bool, BernoulliVerdict]:
    """Return the credit, whether it is settled, and the verdict of the tier on which it hangs.

    Replayed over all blocks each time, because the reference's p99 sharpens as its blocks come in.
    """
    limits = Limits(alpha=run.budget.alpha, beta=run.budget.beta, cap=10 * MAX_BLOCKS * BLOCK_REQUESTS)
    verdict = BernoulliVerdict(0.01, limits)
    for tier in run.budget.tiers:
        verdict = BernoulliVerdict(0.01, limits)
        allowed = _budget_ms(other_ms, tier.limit)
        for latency in np.concatenate(student_ms):
            verdict.update(bool(latency > allowed))
        if verdict.decision == "pass":
            return tier.credit, True, verdict
        if verdict.decision is None:
            # At the end of the allowance the estimate speaks: at most 1 % of the requests over the budget keeps it.
            return (tier.credit if verdict.rate <= 0.01 else 0.0), False, verdict
    return 0.0, True, verdict


def _outcome(
    run: BudgetRun, student_ms: list[list[float]], other_ms: list[list[float]], dropped: int, rate: float, seconds: float
) -> BudgetOutcome:
    if len(student_ms) < 3:
        raise AssertionError("Fewer than three undisturbed blocks of requests fitted into the time allowance.")
    credit, settled, verdict = _credit(run, student_ms, other_ms)
    mine, theirs = (float(np.percentile(np.concatenate(blocks), 99)) for blocks in (student_ms, other_ms))
    against = run.budget.against or "baseline"
    allowed = _budget_ms(other_ms, run.budget.tiers[0].limit)
    sentence = (
        f"p99 is {mine:.1f} ms at {rate:.0f} requests a second, the {against}'s {theirs:.1f} ms; the budget is {allowed:.1f} ms; {verdict.sentence()}"
        if settled
        else f"p99 is {mine:.1f} ms at {rate:.0f} requests a second, the {against}'s {theirs:.1f} ms; the budget is {allowed:.1f} ms; "
        f"{verdict.rate:.2%} of the requests took longer, within noise of the 1 % that may"
    )
    if dropped:
        sentence += f"; {dropped} block pairs dropped because the {against} was disturbed"
    evidence = run._evidence(
        against=against, measured=mine / theirs, unit=f"× the {against}'s p99", verdict=sentence, pairs=len(student_ms), seconds=seconds
    )
    evidence.latencies_ms = {"yours": _rounded(student_ms), f"the {against}'s": _rounded(other_ms)}
    evidence.e_value_fail, evidence.e_value_pass = min(verdict.e_value_fail, 1e300), min(verdict.e_value_pass, 1e300)
    return BudgetOutcome(credit, sentence[:1].upper() + sentence[1:] + ".", evidence)


def _rounded(blocks: list[list[float]]) -> list[float]:
    return [round(float(latency), 3) for latency in np.concatenate(blocks)]
