"""Measures a budget: the object `budget` that a check receives, and the paired trials behind its ratios.

The clock is the CPU clock of the side that runs, read from outside while that side is frozen, so that what it does before its answer
is asked for or after it was given is charged to a trial too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from graders import expect
from graders.budgets import Budget
from graders.report import Evidence, Outcome
from graders.subject import StudentError, Subject
from graders.verdict import Limits, TieredVerdict

ENOUGH_PAIRS = 60
FEWEST_PAIRS = 12
NOISY_HOST = 0.5
MAX_KEPT_RATIOS = 400


class Sides(Protocol):
    """Gives the other side of a comparison, as a subject of the same kind as the student's."""

    def other(self, against: str) -> Subject: ...
    def quiet(self, *, exclusive: bool) -> Any: ...


@dataclass(frozen=True)
class BudgetOutcome:
    """What a budget came to: `fraction` of the points, in [0, 1], the sentence, and the evidence.

    `host_too_noisy` says that the other side alone, with the student's frozen, showed that nothing can be measured here now.
    """

    fraction: float
    message: str
    evidence: Evidence
    host_too_noisy: bool = False

    @property
    def outcome(self) -> Outcome:
        """pass at full credit, partial in between, fail at none; error where the host was to blame."""
        if self.host_too_noisy:
            return "error"
        return "pass" if self.fraction >= 1 else "fail" if self.fraction <= 0 else "partial"


class BudgetRun:
    """One budget of one submission while it is measured; a check calls exactly one of its methods and returns the result."""

    def __init__(self, name: str, budget: Budget, student: Subject, sides: Sides, seed: int) -> None:
        self.name = name
        self.budget = budget
        self.student = student
        self._sides = sides
        self._seed = seed

    def ratio(
        self,
        *,
        inputs: Callable[[np.random.Generator], tuple[Any, ...]],
        call: Callable[..., Any],
        verify: Callable[[tuple[Any, ...], Any], None],
        setup: Callable[[Subject, np.random.Generator], Any] | None = None,
        kernels: bool = False,
    ) -> BudgetOutcome:
        """Time `call` on the student's side and the other in random order on the same fresh inputs until the verdict stands.

        `inputs(rng)` gives one trial's inputs, `call(side, *inputs)` (with `setup`: `call(side, state, *inputs)`) runs it, and
        `verify(inputs, output)` raises if an output is wrong. One verified, untimed trial on each side comes first (compilation). Raises
        what a
        student's trial raises; a failure of the other side is a RuntimeError.
        """
        started = time.monotonic()
        against = self.budget.against or "baseline"
        with self._sides.quiet(exclusive=False):
            pair = PairedTrials(self.student, self._sides.other(against), inputs, call, verify, setup, self._seed)
            verdict = self._verdict(against)
            reason = None
            while reason is None and not verdict.update(pair.run()):
                elapsed = time.monotonic() - started
                if elapsed > self.budget.seconds and (verdict.pairs >= ENOUGH_PAIRS or elapsed > 2 * self.budget.seconds):
                    reason = "time"
            if reason == "time":
                verdict = self._at_the_end_of_time(verdict, against)
            found = self.student.kernels() if kernels else []
        return self._outcome_of_ratios(verdict, pair, against, found, time.monotonic() - started)

    def _at_the_end_of_time(self, verdict: TieredVerdict, against: str) -> TieredVerdict:
        """With a dozen pairs the estimate decides as it does at the cap; with fewer the verdict says who used the time up."""
        if verdict.pairs < FEWEST_PAIRS:
            verdict.conclude("time")
            return verdict
        shorter = self._verdict(against, cap=verdict.pairs)
        for ratio in verdict.ratios:
            shorter.update(ratio)
        return shorter

    def _verdict(self, against: str, cap: int | None = None) -> TieredVerdict:
        speedup = self.budget.kind == "speedup"
        tiers = [(tier.credit, 1 / tier.limit if speedup else tier.limit) for tier in self.budget.tiers]
        limits = Limits(alpha=self.budget.alpha, beta=self.budget.beta, cap=cap or self.budget.max_pairs)
        return TieredVerdict(tiers, limits, against=f"the {against}", speedup=speedup)

    def _outcome_of_ratios(
        self, verdict: TieredVerdict, pair: PairedTrials, against: str, kernels: list[dict[str, Any]], seconds: float
    ) -> BudgetOutcome:
        speedup = self.budget.kind == "speedup"
        interval = verdict.interval
        evidence = self._evidence(
            against=against,
            measured=1 / verdict.median if speedup else verdict.median,
            interval=(1 / interval[1], 1 / interval[0]) if interval and speedup else interval,
            unit="× as fast" if speedup else "× the time",
            verdict=verdict.sentence(),
            pairs=verdict.pairs,
            ratios=[round(ratio, 5) for ratio in verdict.ratios[:MAX_KEPT_RATIOS]],
            e_value_fail=min(verdict.deciding.e_value_fail, 1e300),
            e_value_pass=min(verdict.deciding.e_value_pass, 1e300),
            wall_ratio=round(float(np.median(pair.wall_ratios)), 4) if pair.wall_ratios else None,
            kernels=kernels,
            seconds=seconds,
        )
        if verdict.undecided and pair.other_share_of_core < NOISY_HOST:
            evidence.verdict = (
                f"the host was too busy to measure: the {against} alone got {pair.other_share_of_core:.0%} of a core; run again"
            )
            return BudgetOutcome(1.0, as_sentence(evidence.verdict), evidence, host_too_noisy=True)
        return BudgetOutcome(verdict.credit, as_sentence(verdict.sentence()), evidence)

    def recall(
        self,
        *,
        student: float,
        oracle: float,
        curve: dict[str, list[tuple[float, float]]] | None = None,
        curve_labels: tuple[str, str] = ("ef", "recall@k"),
    ) -> BudgetOutcome:
        """Judge recall@k against the oracle's: both in [0, 1], exact against brute force. `curve` holds lines to draw, by side."""
        shortfall = max(0.0, oracle - student)
        fraction = self._credit_at_most(shortfall)
        k = self.budget.k or 10
        best = self.budget.tiers[0].limit
        verdict = f"recall@{k} is {student:.3f}; the oracle reaches {oracle:.3f}; the budget is at most {best:g} below it"
        evidence = self._evidence(measured=shortfall, unit="below the oracle", verdict=verdict)
        evidence.curve = {name: [(float(x), float(y)) for x, y in points] for name, points in (curve or {}).items()}
        evidence.curve_labels = curve_labels if curve else None
        return BudgetOutcome(fraction, f"Your {verdict}.", evidence)

    def count(self, value: float, *, unit: str) -> BudgetOutcome:
        """Judge a number that the trusted side counted."""
        best = self.budget.tiers[0].limit
        verdict = f"{value:,.6g} {unit}; the budget is {best:,.6g}"
        return BudgetOutcome(self._credit_at_most(value), f"{verdict}.", self._evidence(measured=float(value), unit=unit, verdict=verdict))

    def p99(
        self,
        *,
        app: str,
        request: Callable[[np.random.Generator], dict[str, Any]],
        verify: Callable[[dict[str, Any], Any], None],
        rate: float | None = None,
    ) -> BudgetOutcome:
        """Judge the p99 latency of the served application `app` under open-loop load; see `graders.latency`."""
        from graders.latency import measure_p99

        with self._sides.quiet(exclusive=True):
            return measure_p99(
                self, self._sides.other(self.budget.against or "baseline"), app, request, verify, rate or self.budget.rate or 100.0
            )

    def _credit_at_most(self, value: float) -> float:
        return next((tier.credit for tier in self.budget.tiers if value <= tier.limit + 1e-12), 0.0)

    def _evidence(self, **fields: Any) -> Evidence:
        fields["seconds"] = round(fields.get("seconds", 0.0), 3)
        return Evidence(
            kind=self.budget.kind,
            workload=self.budget.workload,
            tiers=list(self.budget.tiers),
            load=round(os.getloadavg()[0], 2),
            **fields,
        )


def as_sentence(words: str) -> str:
    """Return `words` with a capital letter and a full stop."""
    return f"{words[:1].upper()}{words[1:]}."


class PairedTrials:
    """Runs pairs of trials; while one side runs, the other is frozen."""

    def __init__(
        self,
        student: Subject,
        other: Subject,
        inputs: Callable[[np.random.Generator], tuple[Any, ...]],
        call: Callable[..., Any],
        verify: Callable[[tuple[Any, ...], Any], None],
        setup: Callable[[Subject, np.random.Generator], Any] | None,
        seed: int,
    ) -> None:
        self._sides = (student, other)
        self._inputs, self._call, self._verify = inputs, call, verify
        self._rng = np.random.default_rng([seed, 1])
        self._order = np.random.default_rng([seed, 2])
        self.wall_ratios: list[float] = []
        self._other_totals = np.zeros(2)
        # The same rng for both: they must be set up on the same data.
        self._states = [() if setup is None else (setup(side, np.random.default_rng([seed, 3])),) for side in self._sides]
        warm_up = inputs(self._rng)
        for index in (1, 0):
            self._verify_trial(index, warm_up, self._run(index, warm_up)[2])

    def run(self) -> float:
        """Run one pair and return t_student / t_other in CPU seconds."""
        inputs = self._inputs(self._rng)
        cpu, wall = [0.0, 0.0], [0.0, 0.0]
        for index in (0, 1) if self._order.random() < 0.5 else (1, 0):
            cpu[index], wall[index], output = self._run(index, inputs)
            self._verify_trial(index, inputs, output)
        self.wall_ratios.append(wall[0] / wall[1])
        self._other_totals += cpu[1], wall[1]
        return max(cpu[0], 1e-9) / max(cpu[1], 1e-9)

    @property
    def other_share_of_core(self) -> float:
        """CPU seconds over wall seconds of the other side's trials: how much of a core this host gave it."""
        cpu, wall = self._other_totals
        return float(cpu / wall) if wall else 1.0

    def _run(self, index: int, inputs: tuple[Any, ...]) -> tuple[float, float, Any]:
        side = self._sides[index]
        side.begin_example()
        self._sides[1 - index].freeze()
        cpu_before, wall_before = side.cpu_seconds(), time.perf_counter()
        side.thaw()
        try:
            output = self._call(side, *self._states[index], *inputs)
        except StudentError as error:
            if index == 0:
                raise
            raise RuntimeError(f"the other side of the comparison raised {error}") from None
        finally:
            wall = time.perf_counter() - wall_before
            side.freeze()
            self._sides[1 - index].thaw()
        cpu = side.cpu_seconds() - cpu_before
        side.thaw()
        return cpu, wall, output

    def _verify_trial(self, index: int, inputs: tuple[Any, ...], output: Any) -> None:
        try:
            self._verify(inputs, output)
        except AssertionError as error:
            if index == 1:
                raise RuntimeError(f"the other side of the comparison gave a wrong answer: {error}") from None
            if isinstance(error, expect.Mismatch):
                error.message = f"The timed answer is wrong. {error.message}"
            raise
