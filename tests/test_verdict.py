"""The sequential verdict: exact on enumerated games, then on simulated noise with fixed seeds."""

from __future__ import annotations

import itertools
import math
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graders.verdict import BernoulliVerdict, Decision, Limits, SequentialVerdict, TieredVerdict, median_interval

ENDLESS = Limits(alpha=1e-200, beta=1e-200, cap=10**6)
RATIOS = st.floats(min_value=1e-6, max_value=1e6) | st.just(math.inf)
LIMIT = 1.5

Noise = Callable[[random.Random], float]


def lognormal(rng: random.Random) -> float:
    """Noise of one pair: sd of the log 0.19."""
    return math.exp(rng.gauss(0, 0.19))


def tailed(rng: random.Random) -> float:
    """The same sd with a narrow core and wide tails, as memory-bound neighbours make it."""
    return math.exp(rng.gauss(0, 0.06 if rng.random() < 0.85 else 0.47))


def judge(ratio: Noise, seed: int) -> SequentialVerdict:
    """Run one verdict to its end on multiples of the limit drawn by `ratio`."""
    rng = random.Random(seed)
    verdict = SequentialVerdict(LIMIT)
    while verdict.update(LIMIT * ratio(rng)) is None:
        pass
    return verdict


def tally(ratio: Noise, runs: int) -> tuple[Counter[Decision | None], float]:
    """Count the decisions of `runs` verdicts and give their median number of pairs."""
    verdicts = [judge(ratio, seed) for seed in range(runs)]
    return Counter(verdict.decision for verdict in verdicts), statistics.median(verdict.pairs for verdict in verdicts)


def feed(verdict: SequentialVerdict, ratios: Sequence[float]) -> SequentialVerdict:
    """Give `ratios` to `verdict`, in order."""
    for ratio in ratios:
        verdict.update(ratio)
    return verdict


def peaks(
    games: Sequence[Sequence[float]], weights: Sequence[float], fair: Callable[[], SequentialVerdict]
) -> list[tuple[float, float, float]]:
    """For each game give its probability, the last e-value and the largest one on the way."""
    rows = []
    for game, weight in zip(games, weights, strict=True):
        verdict, path = fair(), [1.0]
        for ratio in game:
            verdict.update(ratio)
            path.append(verdict.e_value_fail)
        rows.append((weight, path[-1], max(path)))
    return rows


class TestExactly:
    """Statements of probability, checked over every possible game, without simulation."""

    # Both null hypotheses hold with equality: half the pairs exceed, and the mean multiple of the limit is 1.05.
    @pytest.mark.parametrize("outcomes", [(0.1, 2.0), (0.9, 1.2), (0.6, 1.5)])
    def test_the_wealth_is_a_martingale_and_obeys_ville(self, outcomes: tuple[float, float]) -> None:
        games = list(itertools.product(outcomes, repeat=10))
        rows = peaks(games, [1 / len(games)] * len(games), lambda: SequentialVerdict(1.0, ENDLESS))
        assert sum(weight * last for weight, last, _ in rows) == pytest.approx(1, abs=1e-9)
        for level in (0.5, 0.2, 0.1, 0.05, 0.02, 0.01):
            assert sum(weight for weight, _, peak in rows if peak >= 1 / level) <= level

    def test_crashes_obey_ville_when_the_mean_sits_on_its_boundary(self) -> None:
        games = list(itertools.product((1e-12, math.inf), repeat=10))
        weights = [0.35 ** game.count(math.inf) * 0.65 ** game.count(1e-12) for game in games]
        rows = peaks(games, weights, lambda: SequentialVerdict(1.0, ENDLESS))
        for level in (0.5, 0.2, 0.1, 0.05, 0.02, 0.01):
            assert sum(weight for weight, _, peak in rows if peak >= 1 / level) <= level

    def test_the_bernoulli_wealths_are_martingales(self) -> None:
        fail = passed = 0.0
        for game in itertools.product((False, True), repeat=10):
            weight = math.prod(0.1 if exceeded else 0.9 for exceeded in game)
            verdict = BernoulliVerdict(0.1, ENDLESS)
            for exceeded in game:
                verdict.update(exceeded)
            fail += weight * verdict.e_value_fail
            passed += weight * verdict.e_value_pass
        assert fail == pytest.approx(1, abs=1e-9)
        assert passed == pytest.approx(1, abs=1e-9)

    @pytest.mark.parametrize("n", [6, 7, 15, 40, 41, 200])
    def test_the_median_interval_is_the_narrowest_that_covers_95_percent(self, n: int) -> None:
        interval = median_interval(list(range(1, n + 1)))
        assert interval is not None
        rank = int(interval[0])
        assert interval[1] == n + 1 - rank
        missed = [2 * sum(math.comb(n, k) for k in range(j)) / 2**n for j in (rank, rank + 1)]
        assert missed[0] <= 0.05 < missed[1]


class TestUnderNoise:
    """Simulated submissions; every seed is fixed. The noise has the measured sd, the mixture's core the measured tails."""

    @pytest.mark.parametrize("noise", [lognormal, tailed])
    @pytest.mark.parametrize("speed", [0.9, 0.97])
    def test_noise_never_fails_who_meets_the_budget(self, noise: Noise, speed: float) -> None:
        decisions, _ = tally(lambda rng: speed * noise(rng), 1000)
        assert set(decisions) == {"pass"}

    @pytest.mark.parametrize(
        ("noise", "speed", "at_most"), [(lognormal, 1.1, 130), (tailed, 1.1, 30), (lognormal, 1.25, 35), (tailed, 1.25, 20)]
    )
    def test_who_exceeds_the_budget_fails(self, noise: Noise, speed: float, at_most: int) -> None:
        decisions, pairs = tally(lambda rng: speed * noise(rng), 250)
        assert decisions["fail"] == 250
        assert pairs <= at_most

    def test_pairs_to_a_decision(self) -> None:
        assert 10 <= tally(lambda rng: 0.9 * tailed(rng), 200)[1] <= 24
        assert 40 <= tally(lambda rng: 1.05 * tailed(rng), 100)[1] <= 80

    def test_a_median_within_the_budget_does_not_hide_a_slow_mean(self) -> None:
        decisions, pairs = tally(lambda rng: (4 if rng.random() < 0.55 else 0.5) * tailed(rng), 300)
        assert decisions["fail"] >= 299
        assert pairs <= 45
        decisions, _ = tally(lambda rng: (1e9 if rng.random() < 0.45 else 0.01) * tailed(rng), 200)
        assert decisions["fail"] >= 190
        decisions, _ = tally(lambda rng: (1.3 if rng.random() < 0.5 else 1) * tailed(rng), 200)
        assert decisions["fail"] >= 198

    def test_exactly_at_the_budget_is_rarely_failed_and_never_by_evidence(self) -> None:
        verdicts = [judge(lognormal, seed) for seed in range(200)]
        failed = [verdict for verdict in verdicts if verdict.decision == "fail"]
        assert len(failed) <= 8
        assert all(verdict.pairs == Limits().cap for verdict in failed)

    def test_ville_bounds_a_noise_that_reacts_to_the_wealth(self) -> None:
        """Bursts of tame, wide and crashing noise, chosen by what the wealth is: fair at each step, dependent over time."""
        limits = Limits(alpha=0.05, beta=1e-200, cap=10**6)
        failed = 0
        for seed in range(600):
            rng = random.Random(seed)
            verdict = SequentialVerdict(1.0, limits)
            for turn in range(150):
                if verdict.e_value_fail > 5:
                    ratio = math.inf if rng.random() < 0.35 else 1e-9
                else:
                    ratio = rng.choice((0.1, 2.0) if turn // 20 % 2 else (0.9, 1.2))
                if verdict.update(ratio) is not None:
                    failed += verdict.decision == "fail"
                    break
        assert failed <= 600 * 0.05 + 3 * math.sqrt(600 * 0.05 * 0.95)


class TestSequentialVerdict:
    @settings(deadline=None)
    @given(ratios=st.lists(RATIOS, max_size=60), limit=st.floats(min_value=0.01, max_value=100))
    def test_a_decision_stands(self, ratios: list[float], limit: float) -> None:
        verdict = feed(SequentialVerdict(limit), [*ratios, *[2 * limit] * 200])
        before = (verdict.decision, verdict.pairs, verdict.e_value_fail, verdict.sentence())
        assert before[0] in ("pass", "fail")
        verdict.update(limit / 2)
        assert verdict.conclude("time") == (verdict.decision, verdict.sentence())
        assert (verdict.decision, verdict.pairs, verdict.e_value_fail, verdict.sentence()) == before

    @settings(deadline=None)
    @given(ratios=st.lists(RATIOS, max_size=60), slower=st.floats(min_value=1, max_value=10))
    def test_being_slower_never_raises_the_evidence_for_a_pass(self, ratios: list[float], slower: float) -> None:
        verdict, slowed = feed(SequentialVerdict(1.0, ENDLESS), ratios), feed(SequentialVerdict(1.0, ENDLESS), [slower * r for r in ratios])
        assert slowed.e_value_pass <= verdict.e_value_pass * (1 + 1e-9)
        assert verdict.pairs == 0 or slowed.clipped_mean >= verdict.clipped_mean * (1 - 1e-9)

    @settings(deadline=None)
    @given(ratios=st.lists(RATIOS, min_size=1, max_size=60), scale=st.sampled_from([0.25, 0.5, 2.0, 8.0]))
    def test_only_multiples_of_the_limit_matter(self, ratios: list[float], scale: float) -> None:
        verdict, scaled = feed(SequentialVerdict(1.0), ratios), feed(SequentialVerdict(scale), [scale * ratio for ratio in ratios])
        assert (verdict.decision, verdict.pairs, verdict.e_value_fail) == (scaled.decision, scaled.pairs, scaled.e_value_fail)
        assert scaled.median == scale * verdict.median

    @settings(deadline=None)
    @given(ratios=st.lists(RATIOS, min_size=6, max_size=60))
    def test_the_interval_holds_the_median(self, ratios: list[float]) -> None:
        verdict = feed(SequentialVerdict(1.0, ENDLESS), ratios)
        assert verdict.interval is not None
        assert verdict.interval[0] <= verdict.median <= verdict.interval[1]

    def test_a_crash_is_the_worst_ratio(self) -> None:
        crashed, slow = feed(SequentialVerdict(1.5), [math.inf] * 30), feed(SequentialVerdict(1.5), [4.5] * 30)
        assert crashed.decision == slow.decision == "fail"
        assert (crashed.pairs, crashed.e_value_fail) == (slow.pairs, slow.e_value_fail)
        assert crashed.pairs <= 12
        assert "crashed" in crashed.sentence()
        assert feed(SequentialVerdict(1.5), [math.inf] + [0.5] * 40).decision == "pass"

    def test_a_ratio_on_the_limit_keeps_it(self) -> None:
        assert feed(SequentialVerdict(1.5), [1.5] * 20).decision == "pass"

    @pytest.mark.parametrize("ratio", [math.nan, 0.0, -1.0, -math.inf])
    def test_what_is_no_ratio_is_refused_and_not_counted(self, ratio: float) -> None:
        verdict = SequentialVerdict(1.5)
        with pytest.raises(ValueError, match="number above 0"):
            verdict.update(ratio)
        assert verdict.pairs == 0

    @pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, math.inf])
    def test_what_is_no_limit_is_refused(self, limit: float) -> None:
        with pytest.raises(ValueError, match="limit"):
            SequentialVerdict(limit)

    @pytest.mark.parametrize("wrong", [{"alpha": 0}, {"beta": 1}, {"cap": 0}, {"noise_band": -1}, {"mean_margin": math.nan}, {"clip": 1.0}])
    def test_limits_out_of_range_are_refused(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Limits(**wrong)  # type: ignore[arg-type]

    def test_nothing_measured(self) -> None:
        verdict = SequentialVerdict(1.5)
        assert (verdict.decision, verdict.pairs, verdict.e_value_fail, verdict.e_value_pass) == (None, 0, 1.0, 1.0)
        assert math.isnan(verdict.median)
        assert verdict.interval is None
        assert verdict.conclude("time")[0] == "undecided"

    def test_a_long_streak_does_not_overflow(self) -> None:
        verdict = feed(SequentialVerdict(1.0, Limits(alpha=1e-320, beta=1e-320, cap=5000)), [2.0] * 4000)
        assert math.isfinite(verdict.e_value_fail)
        assert verdict.e_value_pass == pytest.approx(0)

    def test_an_update_is_quick(self) -> None:
        verdict = SequentialVerdict(1.0, ENDLESS)
        start = time.process_time()
        feed(verdict, [0.9, 1.1] * 1000)
        assert (time.process_time() - start) / 2000 < 200e-6, "measured 14 to 27 µs on 2 quiet cores; the bound leaves room for a busy host"


class TestConclude:
    def test_at_the_cap_within_noise_is_a_pass(self) -> None:
        verdict = feed(SequentialVerdict(1.0), [0.97, 1.04] * 100)
        assert verdict.decision == "pass"
        assert "within noise of the budget" in verdict.sentence()

    def test_at_the_cap_beyond_the_band_is_a_fail(self) -> None:
        verdict = feed(SequentialVerdict(1.0), [0.99, 1.15] * 100)
        assert (verdict.decision, verdict.pairs) == ("fail", 200)
        assert "more than is allowed for noise" in verdict.sentence()

    def test_the_cap_cannot_be_claimed_early(self) -> None:
        with pytest.raises(ValueError, match="only 3"):
            feed(SequentialVerdict(1.0), [1.0] * 3).conclude("cap")

    @pytest.mark.parametrize("ratios", [[50.0], [4.0, 4.0], [math.inf], [0.5, 0.5, 90.0], [1.6] * 11])
    def test_time_that_ran_out_because_of_slowness_is_a_fail(self, ratios: list[float]) -> None:
        decision, sentence = feed(SequentialVerdict(1.0), ratios).conclude("time")
        assert decision == "fail"
        assert "time allowance ran out because the submission is slow" in sentence

    @pytest.mark.parametrize("ratios", [[0.5] * 3, [1.0], [1.02, 0.98] * 20, [1.2, 0.9]])
    def test_time_that_ran_out_otherwise_neither_pays_nor_costs(self, ratios: list[float]) -> None:
        decision, sentence = feed(SequentialVerdict(1.0), ratios).conclude("time")
        assert decision == "undecided"
        assert "neither a pass nor a fail" in sentence


class TestSentences:
    def test_a_slowdown_that_failed(self) -> None:
        verdict = feed(SequentialVerdict(1.5), [1.8] * 50)
        runs = f"{verdict.pairs} paired runs"
        assert verdict.sentence() == f"1.8× the time of the reference; the budget is 1.5×; {runs}; chance that noise decided: < 1 in 1000"

    def test_a_speedup_that_passed(self) -> None:
        verdict = feed(SequentialVerdict(1 / 4, against="the baseline", speedup=True), [0.1] * 50)
        runs = f"{verdict.pairs} paired runs"
        assert verdict.sentence() == f"10× as fast as the baseline; the budget is 4×; {runs}; chance that noise decided: < 1 in 100"

    def test_a_good_median_with_a_bad_mean_says_so(self) -> None:
        verdict = feed(SequentialVerdict(1.5), [0.5, 9.0, 0.5] * 70)
        assert verdict.decision == "fail"
        assert "0.5× the time of the reference in the median, but slow runs raise the mean" in verdict.sentence()


class TestTieredVerdict:
    TIERS = ((1.0, 1.5), (0.5, 3.0))

    @pytest.mark.parametrize(("ratio", "credit"), [(1.2, 1.0), (2.1, 0.5), (4.0, 0.0), (math.inf, 0.0)])
    def test_credit(self, ratio: float, credit: float) -> None:
        verdict = TieredVerdict(self.TIERS)
        rng = random.Random(1)
        while not verdict.update(ratio * tailed(rng)):
            pass
        assert verdict.credit == credit
        assert verdict.pairs == len(verdict.ratios) < 60
        assert verdict.sentence().startswith(f"{credit:.0%} of the points")
        assert verdict.update(1.0) and verdict.pairs == len(verdict.ratios) < 60

    def test_a_speedup_is_told_in_its_own_words(self) -> None:
        verdict = TieredVerdict([(1.0, 1 / 4), (0.5, 1 / 2)], against="the baseline", speedup=True)
        while not verdict.update(1 / 3):
            pass
        assert verdict.credit == 0.5
        assert "3× as fast as the baseline; the budget is 2×" in verdict.sentence()
        assert verdict.sentence().endswith("100% needs 4×")

    def test_a_pass_of_a_lower_tier_survives_the_end_of_time(self) -> None:
        verdict = TieredVerdict(self.TIERS)
        for _ in range(10):
            verdict.update(1.49)
            verdict.update(1.51)
        assert not verdict.settled
        assert verdict.conclude("time")[0] == 0.5
        assert verdict.settled and verdict.undecided

    def test_the_cap_settles_every_tier(self) -> None:
        verdict = TieredVerdict(self.TIERS)
        assert [verdict.update(ratio) for ratio in [1.47, 1.53] * 100][-1]
        assert verdict.credit == 1.0

    @settings(deadline=None)
    @given(ratios=st.lists(RATIOS, max_size=80))
    def test_a_single_tier_is_the_plain_verdict(self, ratios: list[float]) -> None:
        tiered, plain = TieredVerdict([(1.0, 1.5)]), feed(SequentialVerdict(1.5), ratios)
        for ratio in ratios:
            tiered.update(ratio)
        assert tiered.settled == (plain.decision is not None)
        assert tiered.credit == (1.0 if plain.decision == "pass" else 0.0)
        assert (tiered.pairs, tiered.interval, tiered.sentence()) == (plain.pairs, plain.interval, plain.sentence())

    @pytest.mark.parametrize("tiers", [[], [(0.0, 1.0)], [(1.5, 1.0)], [(0.5, 1.5), (1.0, 3.0)], [(1.0, 3.0), (0.5, 1.5)]])
    def test_tiers_that_make_no_ladder_are_refused(self, tiers: list[tuple[float, float]]) -> None:
        with pytest.raises(ValueError, match="tier|Tiers"):
            TieredVerdict(tiers)


class TestBernoulliVerdict:
    @staticmethod
    def judge(probability: float, seed: int) -> BernoulliVerdict:
        rng = random.Random(seed)
        verdict = BernoulliVerdict()
        while verdict.update(rng.random() < probability) is None:
            pass
        return verdict

    @pytest.mark.parametrize(("probability", "decision"), [(0.0, "pass"), (0.005, "pass"), (0.02, "fail"), (0.05, "fail"), (1.0, "fail")])
    def test_decisions(self, probability: float, decision: Decision) -> None:
        assert {self.judge(probability, seed).decision for seed in range(12)} == {decision}

    def test_exactly_at_the_budget_passes_as_noise(self) -> None:
        assert sum(self.judge(0.01, seed).decision == "fail" for seed in range(12)) <= 1

    def test_one_hiccup_does_not_settle_it(self) -> None:
        verdict = BernoulliVerdict()
        assert [verdict.update(True) for _ in range(3)] == [None] * 3

    def test_a_block_counts_by_its_fraction_whatever_its_inside(self) -> None:
        """Half the blocks exceed wholly or not at all, as bursts do: the rate is kept, and so is the verdict's level."""
        limits = Limits(alpha=0.05, beta=1e-200, cap=10**6)
        failed = 0
        for seed in range(200):
            rng = random.Random(seed)
            verdict = BernoulliVerdict(0.1, limits)
            while (
                verdict.trials < 150 and verdict.update(rng.choice((0.0, 0.2)) if rng.random() < 0.5 else float(rng.random() < 0.1)) is None
            ):
                pass
            failed += verdict.decision == "fail"
        assert failed <= 200 * 0.05 + 3 * math.sqrt(200 * 0.05 * 0.95)

    def test_time_that_ran_out(self) -> None:
        few, many = BernoulliVerdict(), BernoulliVerdict()
        assert few.conclude("time")[0] == "undecided"
        while many.e_value_fail < 100:
            many.update(many.trials % 25 == 0)
        assert many.decision is None
        assert many.conclude("time")[0] == "fail"
        with pytest.raises(ValueError, match="only 0"):
            BernoulliVerdict().conclude("cap")

    def test_the_sentence_names_rate_and_allowance(self) -> None:
        assert self.judge(1.0, 0).sentence().startswith("100.00% of the requests took longer than the budget; 1.00% may; ")

    @pytest.mark.parametrize("exceeded", [math.nan, -0.1, 1.1])
    def test_what_is_no_outcome_is_refused(self, exceeded: float) -> None:
        with pytest.raises(ValueError, match="fraction"):
            BernoulliVerdict().update(exceeded)

    @pytest.mark.parametrize("probability", [0.0, 0.5, math.nan])
    def test_what_is_no_probability_is_refused(self, probability: float) -> None:
        with pytest.raises(ValueError, match="between 0 and 0.5"):
            BernoulliVerdict(probability)
