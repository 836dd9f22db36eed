"""When may noise be ruled out? Sequential verdicts on paired time ratios, valid however often one looks.

A budget says: the submission takes at most `limit` times as long as what it is paired with. Pair i yields one ratio
r_i = t_student / t_other, and after each pair the verdict is pass, fail, or "go on". An ordinary significance test that is looked
at after every pair errs far more often than its level says; a *test martingale* does not.

Why it is one. Bet on each pair before seeing it: with x_i = +1 if r_i > limit, else -1, and a stake λ in (0, 1), the wealth
W_n(λ) = Π (1 + λ x_i) starts at 1 and is never negative. If the submission keeps its limit at least half the time, whatever
happened before, then E[x_i | past] <= 0, so E[W_n | past] <= W_{n-1}: a supermartingale, and an average of such over a grid of λ
is one too. Ville's inequality then bounds the whole path: P(some W_n >= 1/α) <= α. So "fail when wealth reaches 1/α" fails a
submission that meets its budget with probability at most α, at any stopping time, for ratios of any distribution. What it
does need is that noise does not predict the next sign: x_i may not lean upwards given the past.

Signs alone can be gamed: who exceeds in 55 % of the pairs, by any factor, stays undecided for long. A second player bets
on the mean of y_i = min(r_i / limit, clip), against E[y_i | past] <= 1 + mean_margin: K_n = Π (1 + λ_i (y_i - 1 - mean_margin)),
whose stakes λ_i use the past only (predictable) and are small enough that K_n stays positive. A submission that meets its budget
meets both statements, so the average of the two wealths is a test martingale again; that is how α is shared between them.

This module holds numbers only: it reads no clock and starts no process. Three things rest with the caller: to divide `alpha` by the
number of official attempts, to feed every pair (a crash or a timeout as `math.inf`, never repeated), and to allow time for at least
60 pairs at the budget's own speed, so that whoever has fewer has them by being slow.

Sources: J. Ville, Étude critique de la notion de collectif (1939). A. Ramdas, P. Grünwald, V. Vovk, G. Shafer, Game-theoretic statistics
and safe anytime-valid inference, Statistical Science 38 (2023). I. Waudby-Smith, A. Ramdas, Estimating means of bounded random
variables by betting, JRSS B 86 (2024; read to the Society in 2023), arXiv 2010.09686.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Decision = Literal["pass", "fail", "undecided"]
Reason = Literal["cap", "time"]


@dataclass(frozen=True)
class Limits:
    """The rules of a verdict.

    - `alpha`: how often evidence may fail a submission that meets its budget (at 1/alpha), shared evenly by sign test and mean test.
    - `beta`: how often evidence may pass one that exceeds its budget in half its pairs or more (at 1/beta).
    - `cap`: pairs after which the verdict ends.
    - `noise_band`: how far, relative to the limit, the median may lie beyond it at the cap.
    - `mean_margin`: how far, relative to the limit, the mean may lie beyond it; noise pulls a mean of ratios upwards.
    - `clip`: the worst that one pair can count in the mean, in multiples of the limit.

    Raises ValueError for values outside their range.
    """

    alpha: float = 0.001
    beta: float = 0.01
    cap: int = 200
    noise_band: float = 0.05
    mean_margin: float = 0.05
    clip: float = 3.0

    def __post_init__(self) -> None:
        if not (0 < self.alpha < 1 and 0 < self.beta < 1):
            raise ValueError(f"alpha and beta are probabilities between 0 and 1, not {self.alpha} and {self.beta}.")
        if self.cap < 1:
            raise ValueError(f"cap must be at least 1 pair, not {self.cap}.")
        if not (self.noise_band >= 0 and self.mean_margin >= 0):
            raise ValueError(f"noise_band and mean_margin must not be negative, not {self.noise_band} and {self.mean_margin}.")
        if not 1 + self.mean_margin < self.clip < math.inf:
            raise ValueError(f"clip must be finite and above 1 + mean_margin, not {self.clip}: else the mean can never exceed the budget.")


class MixtureWealth:
    """The capital of a player who splits it evenly over constant stakes on outcomes of mean at most 0: mean over λ of Π (1 + λ x_i)."""

    def __init__(self, stakes: Sequence[float]) -> None:
        self._stakes = tuple(stakes)
        self._logs = [0.0] * len(self._stakes)

    def bet(self, outcome: float) -> None:
        """Multiply by 1 + λ `outcome`, which the caller keeps positive for every stake."""
        log1p = math.log1p
        self._logs = [log + log1p(stake * outcome) for log, stake in zip(self._logs, self._stakes, strict=True)]

    @property
    def log(self) -> float:
        """Natural logarithm of the capital, computed from the largest term so that neither end of the range is lost."""
        top = max(self._logs)
        return top + math.log(sum(math.exp(log - top) for log in self._logs) / len(self._logs))


class MeanWealth:
    """The capital of a player who bets that outcomes in [0, 1] have a mean above `mean`, by the predictable plug-in.

    Waudby-Smith & Ramdas, Theorem 3 (the upper half of the hedged capital process), truncated at 1/2: the stake grows as the variance
    seen so far shrinks, and never risks more than half of the capital.
    """

    def __init__(self, mean: float, level: float) -> None:
        self._mean = mean
        self._numerator = 2 * math.log(1 / level)
        self._count = 0
        self._sum = 0.5
        self._squares = 0.25
        self.log = 0.0

    def bet(self, outcome: float) -> None:
        """Stake on `outcome`, then learn from it."""
        turn = self._count + 1
        variance = self._squares / turn
        stake = min(math.sqrt(self._numerator / (variance * turn * math.log(turn + 1))), 0.5 / self._mean)
        self.log += math.log1p(stake * (outcome - self._mean))
        self._count = turn
        self._sum += outcome
        self._squares += (outcome - self._sum / (turn + 1)) ** 2


def median_interval(ratios: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the median of `ratios` from order statistics, or None for fewer than 6.

    (r_(j), r_(n+1-j)) with the largest j for which P(Binomial(n, 1/2) < j) <= 2.5 % (David & Nagaraja, Order Statistics, §7.1); free of any
    assumption on the distribution. The level holds for a fixed n; after a sequential stop it describes the data, it doesn't decide.
    """
    n = len(ratios)
    rank, below, term = 0, 0, 1
    while 40 * (below + term) <= 2**n:
        below += term
        term = term * (n - rank) // (rank + 1)
        rank += 1
    if rank == 0:
        return None
    ordered = sorted(ratios)
    return ordered[rank - 1], ordered[n - rank]


def wealth(log: float) -> float:
    """Return exp(log), held below the largest float so that no run of luck overflows."""
    return math.exp(min(log, 700.0))


def times(value: float) -> str:
    """Write a ratio for people: three digits and a multiplication sign."""
    if math.isinf(value):
        return "∞×"
    return f"{value:.0f}×" if value >= 100 else f"{value:.3g}×"


def chance(level: float) -> str:
    """Write a probability for people: `< 1 in 1000`."""
    return f"< 1 in {round(1 / level)}"


class SequentialVerdict:
    """Decides whether t_student / t_other keeps `limit` at least half the time (sign test) and in its clipped mean (mean test).

    `limit` is a ratio of times, > 0; r <= limit keeps it. `against` and `speedup` only choose the words: with `speedup`,
    ratios are told as their inverse ("9.3× as fast as the baseline"). `decision` is None while more pairs are wanted; once it is set,
    later ratios change nothing.
    """

    def __init__(self, limit: float, limits: Limits = Limits(), *, against: str = "the reference", speedup: bool = False) -> None:
        if not 0 < limit < math.inf:
            raise ValueError(f"A limit is a finite ratio of times above 0, not {limit}.")
        self.limit = limit
        self.limits = limits
        self.decision: Decision | None = None
        self.ratios: list[float] = []
        self._against = against
        self._speedup = speedup
        self._ended_by: Literal["evidence"] | Reason = "evidence"
        stakes = [k / 20 for k in range(1, 20)]
        self._exceeds = MixtureWealth(stakes)
        self._keeps = MixtureWealth(stakes)
        self._mean = MeanWealth((1 + limits.mean_margin) / limits.clip, limits.alpha / 2)
        self._clipped_sum = 0.0

    def update(self, ratio: float) -> Decision | None:
        """Take the ratio of one more pair (`math.inf`: crashed or timed out, the worst) and return the decision, None to go on.

        At the cap the verdict concludes by itself. Raises ValueError for NaN, zero or a negative ratio.
        """
        if not ratio > 0:
            raise ValueError(f"A ratio of two times is a number above 0, not {ratio}.")
        if self.decision is not None:
            return self.decision
        self.ratios.append(ratio)
        sign = 1.0 if ratio > self.limit else -1.0
        clipped = min(ratio / self.limit, self.limits.clip)
        self._exceeds.bet(sign)
        self._keeps.bet(-sign)
        self._mean.bet(clipped / self.limits.clip)
        self._clipped_sum += clipped
        if self.e_value_fail >= 1 / self.limits.alpha:
            self.decision = "fail"
        elif self.e_value_pass >= 1 / self.limits.beta and self._mean_is_kept:
            self.decision = "pass"
        elif self.pairs >= self.limits.cap:
            self.conclude("cap")
        return self.decision

    @property
    def e_value_fail(self) -> float:
        """Evidence against "meets its budget": the mean wealth of the sign test and the mean test, 1 before the first pair."""
        return (wealth(self._exceeds.log) + wealth(self._mean.log)) / 2

    @property
    def e_value_pass(self) -> float:
        """Evidence against "exceeds its budget at least half the time": the wealth of the mirrored sign test."""
        return wealth(self._keeps.log)

    @property
    def pairs(self) -> int:
        """How many pairs have counted."""
        return len(self.ratios)

    @property
    def median(self) -> float:
        """Median ratio (dimensionless); NaN before the first pair, infinite when half the trials or more crashed."""
        return statistics.median(self.ratios) if self.ratios else math.nan

    @property
    def clipped_mean(self) -> float:
        """Mean of min(r / limit, clip), in multiples of the limit; NaN before the first pair."""
        return self._clipped_sum / self.pairs if self.ratios else math.nan

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the median ratio (`median_interval`), None before the sixth pair."""
        return median_interval(self.ratios)

    @property
    def _mean_is_kept(self) -> bool:
        return self.clipped_mean <= 1 + self.limits.mean_margin

    def conclude(self, reason: Reason) -> tuple[Decision, str]:
        """End the verdict without further pairs; return the decision and the sentence that the student reads.

        `cap`: pass as "within noise of the budget" if the median is within `noise_band` of the limit and the clipped mean within
        `mean_margin`, else fail; an estimate, whose errors alpha does not bound, met only by those whom the evidence left open.
        `time`: fail if the submission used the time up, its mean (unclipped) ratio being `clip` times the limit or
        more, or if the evidence against it has reached 1/beta; else undecided. Undecided is never a pass: being undecided on purpose must
        not pay, and a submission may idle without spending CPU time. Whether the host was at fault, so that the measurement is repeated, is
        seen on the reference alone, by the caller. A decision that stands is returned as it is. Raises ValueError for
        `cap` before the cap.
        """
        if self.decision is None:
            if reason == "cap":
                if self.pairs < self.limits.cap:
                    raise ValueError(f"The cap is {self.limits.cap} pairs and only {self.pairs} have been measured.")
                near = self.median <= self.limit * (1 + self.limits.noise_band)
                self.decision = "pass" if near and self._mean_is_kept else "fail"
            else:
                used_up = sum(self.ratios) >= self.limits.clip * self.limit * max(self.pairs, 1)
                self.decision = "fail" if used_up or self.e_value_fail >= 1 / self.limits.beta else "undecided"
            self._ended_by = reason
        return self.decision, self.sentence()

    def sentence(self) -> str:
        """What was measured, against which budget, from how many pairs, and how sure it is, in one line for students."""
        runs = f"{self.pairs} paired run{'' if self.pairs == 1 else 's'}"
        return "; ".join([self._measure(), f"the budget is {self.budget}", runs, self._certainty()])

    @property
    def budget(self) -> str:
        """The limit in the words of the student: a ratio of times, or with `speedup` its inverse."""
        return self._in_words(self.limit)

    def _in_words(self, ratio: float) -> str:
        return times(1 / ratio if self._speedup else ratio)

    def _measure(self) -> str:
        if not self.ratios:
            return "nothing measured yet"
        if math.isinf(self.median):
            return "at least half of the runs crashed or ran out of time"
        measure = f"{self._in_words(self.median)} {'as fast as' if self._speedup else 'the time of'} {self._against}"
        if not self._mean_is_kept and self.median <= self.limit * (1 + self.limits.noise_band):
            mean = f"{times(self.clipped_mean)} the time that the budget allows"
            measure += f" in the median, but slow runs raise the mean to {mean} (one run counts at most {times(self.limits.clip)})"
        return measure

    def _certainty(self) -> str:
        if self.decision is None:
            return "not decided yet"
        if self._ended_by == "evidence":
            return f"chance that noise decided: {chance(self.limits.alpha if self.decision == 'fail' else self.limits.beta)}"
        if self._ended_by == "cap":
            beyond = "beyond the budget by more than is allowed for noise"
            return "within noise of the budget, which counts as keeping it" if self.decision == "pass" else beyond
        if self.decision == "fail":
            return "the time allowance ran out because the submission is slow"
        return "the time allowance ran out before noise could be ruled out, so this is neither a pass nor a fail"


class TieredVerdict:
    """Feeds one stream of ratios to a SequentialVerdict for each tier, best first, and stops as soon as the credit is settled.

    `limits_by_tier` holds (credit, limit): credits in (0, 1] falling, limits (ratios of times) rising; else ValueError. The student earns
    the credit of the best tier that passes. Keeping a tier implies keeping those below it, so these are no longer fed; each tier by itself
    errs at most with `limits.alpha`, and so does the whole: a tier that the student keeps is lost only if that tier fails.
    """

    def __init__(
        self,
        limits_by_tier: Sequence[tuple[float, float]],
        limits: Limits = Limits(),
        *,
        against: str = "the reference",
        speedup: bool = False,
    ) -> None:
        credits = [credit for credit, _ in limits_by_tier]
        bounds = [limit for _, limit in limits_by_tier]
        if not credits or not all(0 < credit <= 1 for credit in credits):
            raise ValueError(f"A budget needs at least one tier, and each credit lies in (0, 1]; here they are {credits}.")
        if any(a <= b for a, b in pairwise(credits)) or any(a >= b for a, b in pairwise(bounds)):
            raise ValueError(f"Tiers stand best first: credits fall and ratio limits rise; here they are {list(limits_by_tier)}.")
        self.credits = tuple(credits)
        self.tiers = tuple(SequentialVerdict(limit, limits, against=against, speedup=speedup) for limit in bounds)
        self.ratios: list[float] = []

    def update(self, ratio: float) -> bool:
        """Take the ratio of one more pair; return whether the credit is settled. Raises ValueError as SequentialVerdict does."""
        if self.settled:
            return True
        for tier in self.tiers:
            if tier.update(ratio) == "pass":
                break
        self.ratios.append(ratio)
        return self.settled

    @property
    def deciding(self) -> SequentialVerdict:
        """The tier on which the credit hangs: the best one that has not failed, or the last."""
        return next((tier for tier in self.tiers if tier.decision != "fail"), self.tiers[-1])

    @property
    def settled(self) -> bool:
        """Whether no further pair can change the credit."""
        return self.deciding.decision is not None

    @property
    def undecided(self) -> bool:
        """Whether time ran out with a tier above the earned credit still open."""
        return self.deciding.decision == "undecided"

    @property
    def credit(self) -> float:
        """Credit earned so far, in [0, 1]: that of the best tier which has passed."""
        return next((credit for credit, tier in zip(self.credits, self.tiers, strict=True) if tier.decision == "pass"), 0.0)

    @property
    def pairs(self) -> int:
        """How many pairs have counted."""
        return len(self.ratios)

    @property
    def median(self) -> float:
        """Median ratio of all pairs (dimensionless); NaN before the first."""
        return statistics.median(self.ratios) if self.ratios else math.nan

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the median of all pairs (`median_interval`)."""
        return median_interval(self.ratios)

    def conclude(self, reason: Reason) -> tuple[float, str]:
        """End all open tiers as SequentialVerdict does; return the credit and the sentence."""
        for tier in self.tiers:
            if tier.conclude(reason)[0] == "pass":
                break
        return self.credit, self.sentence()

    def sentence(self) -> str:
        """The sentence of the deciding tier; with several tiers, led by the credit earned and closed by the best tier's budget."""
        sentence = self.deciding.sentence()
        if len(self.tiers) == 1:
            return sentence
        best = "" if self.deciding is self.tiers[0] else f"; {self.credits[0]:.0%} needs {self.tiers[0].budget}"
        return f"{self.credit:.0%} of the points: {sentence}{best}"


class BernoulliVerdict:
    """Decides whether a request exceeds its latency budget with probability at most `probability` (0.01 for a p99).

    With e_i = 1 if request i exceeded, the stake λ = (q - p) / (p (1 - p)) on e_i - p makes 1 + λ (e_i - p) the likelihood ratio of q
    against p; averaged over a grid of q > p it is a test martingale under P(exceed | past) <= p, and mirrored, over q < p, under >= p. The
    same bets are valid on any e_i in [0, 1] of conditional mean p. Latencies in one queue come in bursts, so single
    requests are *not* independent: feed the exceeding fraction of one short block of requests, whose inside may then depend as it likes.

    `limits.cap` counts outcomes; `noise_band`, `mean_margin` and `clip` have no part here.
    """

    def __init__(self, probability: float = 0.01, limits: Limits = Limits(cap=5000)) -> None:
        if not 0 < probability < 0.5:
            raise ValueError(f"The exceedance probability must lie between 0 and 0.5, not {probability}.")
        self.probability = probability
        self.limits = limits
        self.decision: Decision | None = None
        self.trials = 0
        self.exceeded = 0.0
        self._ended_by: Literal["evidence"] | Reason = "evidence"
        self._squares = 0.0
        # Odds at most 10-fold: a higher alternative would let two slow requests in a row, one hiccup, settle the verdict.
        self._more = MixtureWealth([self._stake(odds) for odds in (1.25, 1.5, 2, 3, 5, 10)])
        self._fewer = MixtureWealth([-self._stake(odds) for odds in (0.01, 0.25, 0.5, 0.75)])

    def _stake(self, odds: float) -> float:
        """The stake that makes the bet a likelihood ratio of the alternative whose odds are `odds` times those of the budget."""
        p = self.probability
        q = odds * p / (1 + (odds - 1) * p)
        return (q - p) / (p * (1 - p))

    def update(self, exceeded: float) -> Decision | None:
        """Take one request (True or False) or the exceeding fraction of one block; return the decision, None to go on.

        A request without a valid answer counts as exceeding. Raises ValueError outside [0, 1].
        """
        if not 0 <= exceeded <= 1:
            raise ValueError(f"Exceeded is True, False or a fraction between 0 and 1, not {exceeded}.")
        if self.decision is not None:
            return self.decision
        self.trials += 1
        self.exceeded += exceeded
        self._squares += exceeded * exceeded
        self._more.bet(exceeded - self.probability)
        self._fewer.bet(self.probability - exceeded)
        if self.e_value_fail >= 1 / self.limits.alpha:
            self.decision = "fail"
        elif self.e_value_pass >= 1 / self.limits.beta:
            self.decision = "pass"
        elif self.trials >= self.limits.cap:
            self.conclude("cap")
        return self.decision

    @property
    def e_value_fail(self) -> float:
        """Evidence against P(exceed) <= probability, 1 before the first outcome."""
        return wealth(self._more.log)

    @property
    def e_value_pass(self) -> float:
        """Evidence against P(exceed) >= probability."""
        return wealth(self._fewer.log)

    @property
    def rate(self) -> float:
        """Share of exceedances so far; NaN before the first outcome."""
        return self.exceeded / self.trials if self.trials else math.nan

    def conclude(self, reason: Reason) -> tuple[Decision, str]:
        """End the verdict; return the decision and the sentence.

        `cap`: fail if the rate lies beyond the budget by more than its standard error explains at level beta (normal approximation),
        else pass as "within noise of the budget". `time`: fail if the evidence against it has reached 1/beta, else undecided. A
        decision that stands is returned as it is. Raises ValueError for `cap` before the cap.
        """
        if self.decision is None:
            if reason == "cap":
                if self.trials < self.limits.cap:
                    raise ValueError(f"The cap is {self.limits.cap} outcomes and only {self.trials} have been measured.")
                variance = max(self._squares / self.trials - self.rate**2, 0.0)
                noise = statistics.NormalDist().inv_cdf(1 - self.limits.beta) * math.sqrt(variance / self.trials)
                self.decision = "fail" if self.rate > self.probability + noise else "pass"
            else:
                self.decision = "fail" if self.e_value_fail >= 1 / self.limits.beta else "undecided"
            self._ended_by = reason
        return self.decision, self.sentence()

    def sentence(self) -> str:
        """The share of requests over the budget, the share allowed, and how sure it is, in one line for students."""
        if not self.trials:
            return "nothing measured yet"
        measured = f"{self.rate:.2%} of the requests took longer than the budget; {self.probability:.2%} may; {self.trials} measurements"
        return f"{measured}; {self._certainty()}"

    def _certainty(self) -> str:
        if self.decision is None:
            return "not decided yet"
        if self.decision == "undecided":
            return "the time allowance ran out before noise could be ruled out, so this is neither a pass nor a fail"
        if self.decision == "pass" and self._ended_by == "cap":
            return "within noise of the budget, which counts as keeping it"
        failed_by = self.limits.alpha if self._ended_by == "evidence" else self.limits.beta
        return f"chance that noise decided: {chance(failed_by if self.decision == 'fail' else self.limits.beta)}"
