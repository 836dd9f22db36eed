"""The p99 of a served application, measured as its callers feel it: open loop over real HTTP on loopback.

Requests leave on a schedule, whatever the answers do, and each latency counts from the scheduled time, so a stalled server can't
hide behind the requests that it kept from being sent (G. Tene, "coordinated omission"). Blocks of the student's server alternate with
blocks of the reference's while the other one is frozen. A pair of blocks is dropped for both sides when the host disturbed one of them:
when its server and our client, ready to run, waited for a processor more than `DISTURBED_MS` a request, as the kernel counts it.
The student can't bring that about alone: a server that kept the processors busy itself is not excused.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from graders.measure import BudgetOutcome, BudgetRun, as_sentence
from graders.report import Tier
from graders.subject import Subject
from graders.verdict import BernoulliVerdict, Decision, Limits, chance
from graders.worker.client import run_delay_seconds

BLOCK_REQUESTS = 100
WARM_UP_REQUESTS = 50
CALIBRATION_BLOCKS = 3
MAX_BLOCKS = 24
DISTURBED_MS = 1.0
BUSY_SERVER = 0.5
TIMEOUT_SECONDS = 5.0
FLOOR_MS = 5.0
ALLOWED_SHARE = 0.01


def measure_p99(
    run: BudgetRun,
    other: Subject,
    app: str,
    request: Callable[[np.random.Generator], dict[str, Any]],
    verify: Callable[[dict[str, Any], Any], None],
    rate: float,
) -> BudgetOutcome:
    """Alternate blocks until the credit is settled; `rate` is in requests a second.

    The budget in milliseconds is `limit` × the reference's p99 over its undisturbed blocks *before* the one that is judged (so that
    each bet is placed on a threshold that was known), but at least `FLOOR_MS`: below that, one wake-up of the operating system is
    the measurement. The first blocks calibrate the reference only.
    """
    started = time.monotonic()
    rng = np.random.default_rng(run._seed)
    order = np.random.default_rng([run._seed, 2])
    tiers = _Tiers(run)
    gc.collect()
    with run.student.serve(app) as student_url, other.serve(app) as other_url:
        student, reference = (run.student, other, student_url), (other, run.student, other_url)
        _block(student, request, verify, rng, rate, WARM_UP_REQUESTS)
        _block(reference, request, verify, rng, rate, WARM_UP_REQUESTS)
        tiers.calibrate(lambda: _block(reference, request, verify, rng, rate, BLOCK_REQUESTS))
        for _ in range(MAX_BLOCKS):
            student_first = order.random() < 0.5
            sides = (student, reference) if student_first else (reference, student)
            blocks = [_block(side, request, verify, rng, rate, BLOCK_REQUESTS) for side in sides]
            if tiers.judge(*(blocks if student_first else reversed(blocks))) or time.monotonic() - started > run.budget.seconds:
                break
    return tiers.outcome(rate, time.monotonic() - started)


@dataclass(frozen=True)
class Block:
    """The latencies (ms) of one block, and whether the host disturbed it."""

    latencies: list[float]
    disturbed: bool


class _Tier:
    """The verdict of one tier.

    A stall delays a run of neighbouring requests, so these are not independent. Against the student, therefore, each bet is on the share
    of a whole block that exceeded the budget, which is valid however requests hang together within a block. For the student, the bets
    are on single requests, which decide sooner.
    """

    def __init__(self, run: BudgetRun, tier: Tier) -> None:
        limits = Limits(alpha=run.budget.alpha, beta=run.budget.beta, cap=10 * MAX_BLOCKS * BLOCK_REQUESTS)
        self.tier = tier
        self.against = BernoulliVerdict(ALLOWED_SHARE, limits)
        self.for_it = BernoulliVerdict(ALLOWED_SHARE, limits)
        self._shares: list[float] = []

    def judge(self, latencies: list[float], allowed_ms: float) -> None:
        """Take one block."""
        self._shares.append(sum(latency > allowed_ms for latency in latencies) / len(latencies))
        self.against.update(self._shares[-1])
        for latency in latencies:
            self.for_it.update(latency > allowed_ms)

    @property
    def decision(self) -> Decision | None:
        """pass, fail, or None while neither is sure."""
        if self.against.decision == "fail":
            return "fail"
        return "pass" if self.for_it.decision == "pass" else None

    @property
    def share(self) -> float:
        """The share of requests beyond the budget so far."""
        return float(np.mean(self._shares)) if self._shares else 1.0

    @property
    def estimate_keeps_it(self) -> bool:
        """Whether the share lies at or below what is allowed, or above it by less than the blocks differ (2.33 standard errors: 1 %)."""
        spread = float(np.std(self._shares, ddof=1)) if len(self._shares) > 1 else 0.0
        return self.share - 2.33 * spread / max(1, len(self._shares)) ** 0.5 <= ALLOWED_SHARE

    def sentence(self, beta: float, alpha: float) -> str:
        """What was seen and how sure it is."""
        requests = BLOCK_REQUESTS * len(self._shares)
        seen = f"{self.share:.2%} of {requests} requests took longer; {ALLOWED_SHARE:.0%} may"
        if self.decision is None:
            return f"{seen}; {'within noise of the budget' if self.estimate_keeps_it else 'beyond the budget by more than noise'}"
        return f"{seen}; chance that noise decided: {chance(alpha if self.decision == 'fail' else beta)}"


class _Tiers:
    """One verdict for each tier over the same blocks of latencies (ms)."""

    def __init__(self, run: BudgetRun) -> None:
        self._run = run
        self._tiers = [_Tier(run, tier) for tier in run.budget.tiers]
        self.student_blocks: list[list[float]] = []
        self.other_blocks: list[list[float]] = []
        self.dropped = 0

    def calibrate(self, measure: Callable[[], Block]) -> None:
        """Take the reference's first blocks: undisturbed ones, or after three times as many tries the quickest there were."""
        tried: list[Block] = []
        while len(self.other_blocks) < CALIBRATION_BLOCKS and len(tried) < 3 * CALIBRATION_BLOCKS:
            tried.append(measure())
            if not tried[-1].disturbed:
                self.other_blocks.append(tried[-1].latencies)
        left = sorted((block.latencies for block in tried if block.disturbed), key=lambda latencies: np.percentile(latencies, 99))
        self.other_blocks += left[: CALIBRATION_BLOCKS - len(self.other_blocks)]

    def judge(self, mine: Block, theirs: Block) -> bool:
        """Take one pair of blocks, or drop it when the host disturbed one of them; return whether the credit is settled."""
        if mine.disturbed or theirs.disturbed:
            self.dropped += 1
            return False
        for tier in self._tiers:
            tier.judge(mine.latencies, self.allowed_ms(tier.tier.limit))
        self.student_blocks.append(mine.latencies)
        self.other_blocks.append(theirs.latencies)
        return self._deciding().decision is not None

    def allowed_ms(self, limit: float) -> float:
        """The budget of a tier in milliseconds, from the reference's blocks so far."""
        return max(FLOOR_MS, limit * float(np.percentile(np.concatenate(self.other_blocks), 99)))

    def _deciding(self) -> _Tier:
        """The best tier that has not failed, or the last."""
        return next((tier for tier in self._tiers if tier.decision != "fail"), self._tiers[-1])

    def _earned(self) -> tuple[float, _Tier]:
        """The credit at the end, and the tier that it hangs on."""
        for tier in self._tiers:
            if tier.decision == "pass" or (tier.decision is None and self.student_blocks and tier.estimate_keeps_it):
                return tier.tier.credit, tier
        return 0.0, self._tiers[-1]

    def outcome(self, rate: float, seconds: float) -> BudgetOutcome:
        """Say what was measured; a host on which most blocks were disturbed is to blame, and nobody else."""
        budget, against = self._run.budget, self._run.budget.against or "baseline"
        noisy = self.dropped > len(self.student_blocks)
        credit, tier = self._earned()
        theirs = float(np.percentile(np.concatenate(self.other_blocks), 99))
        mine = float(np.percentile(np.concatenate(self.student_blocks), 99)) if self.student_blocks else float("nan")
        allowed = self.allowed_ms(tier.tier.limit)
        words = f"the {against}'s p99 is {theirs:.1f} ms at {rate:.0f} requests a second, so the budget is {allowed:.1f} ms"
        sentence = f"your p99 is {mine:.1f} ms; {words}; {tier.sentence(budget.beta, budget.alpha)}"
        if len(self._tiers) > 1:
            sentence = f"{credit:.0%} of the points: {sentence}"
        if self.dropped:
            sentence += f"; {self.dropped} pairs of blocks dropped because the host was busy"
        if noisy:
            blocks = self.dropped + len(self.student_blocks)
            sentence = f"the host was too busy to measure: {self.dropped} of {blocks} pairs of blocks were disturbed; run again"
        evidence = self._run._evidence(
            against=against,
            measured=mine / theirs if self.student_blocks else None,
            unit=f"× the {against}'s p99",
            verdict=sentence,
            pairs=len(self.student_blocks),
            seconds=seconds,
            e_value_fail=min(tier.against.e_value_fail, 1e300),
            e_value_pass=min(tier.for_it.e_value_pass, 1e300),
        )
        evidence.latencies_ms = {"yours": _rounded(self.student_blocks), f"the {against}'s": _rounded(self.other_blocks)}
        return BudgetOutcome(1.0 if noisy else credit, as_sentence(sentence), evidence, host_too_noisy=noisy)


def _block(
    side: tuple[Subject, Subject, str],
    request: Callable[[np.random.Generator], dict[str, Any]],
    verify: Callable[[dict[str, Any], Any], None],
    rng: np.random.Generator,
    rate: float,
    count: int,
) -> Block:
    mine, frozen, url = side
    requests = [request(rng) for _ in range(count)]
    frozen.freeze()
    delay, cpu, wall = _delay(mine), mine.cpu_seconds(), time.monotonic()
    gc.disable()  # a collection of the grader's own heap takes tens of milliseconds
    try:
        latencies, responses = asyncio.run(_open_loop(url, requests, rate))
    finally:
        gc.enable()
        frozen.thaw()
    wall = time.monotonic() - wall
    disturbed = _delay(mine) - delay > DISTURBED_MS / 1000 * count and mine.cpu_seconds() - cpu < BUSY_SERVER * wall
    for sent, response in zip(requests, responses, strict=True):
        if response is not None:
            verify(sent, response)
    return Block(latencies, disturbed)


def _delay(server: Subject) -> float:
    return max(server.run_delay_seconds(), 0.0) + run_delay_seconds(os.getpid())


async def _open_loop(url: str, requests: list[dict[str, Any]], rate: float) -> tuple[list[float], list[Any]]:
    """Send on schedule; return latencies in ms from the scheduled time (a lost answer counts `TIMEOUT_SECONDS`) and responses."""
    import aiohttp
    import httpx

    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as client:
        async with client.get("/health") as opened:
            await opened.read()
        loop = asyncio.get_running_loop()
        first = loop.time() + 0.02

        async def send(number: int, sent: dict[str, Any]) -> tuple[float, Any]:
            scheduled = first + number / rate
            await asyncio.sleep(scheduled - loop.time())
            try:
                async with client.request(sent["method"], sent["path"], json=sent.get("json")) as response:
                    content = await response.read()
            except (aiohttp.ClientError, TimeoutError):
                return TIMEOUT_SECONDS * 1000, None
            latency = (loop.time() - scheduled) * 1000
            return latency, httpx.Response(response.status, headers=list(response.headers.items()), content=content)

        answers = await asyncio.gather(*(send(number, sent) for number, sent in enumerate(requests)))
    return [latency for latency, _ in answers], [response for _, response in answers]


def _rounded(blocks: list[list[float]]) -> list[float]:
    return [round(float(latency), 3) for block in blocks for latency in block]
