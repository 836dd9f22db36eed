"""Public checks of `c4_09_simd_search`.

Tolerances follow the error of a float32 sum: whatever its order, it stays within a small multiple of Σ|q_t·x_t|, and not of the
result, which may cancel to nothing. A neighbour counts by its score, so that equal rows never cost a point.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graders import expect
from graders.checks import check
from graders.strategies import ODD_SIZES, matrices, queries_and_rows, sizes, vectors

SCORE_TOLERANCE = 1e-5


def _without_tiny(array: np.ndarray) -> np.ndarray:
    """Underflow is not this lab's subject: values whose squares leave float32 become 0."""
    return np.where(np.abs(array) < 1e-6, np.float32(0), array)


def _pair_without_tiny(pair: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return _without_tiny(pair[0]), _without_tiny(pair[1])


def _exact_dots(Q: np.ndarray, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Float64 dot products (m, n), and the error that a float32 sum in any order may have."""
    Q, X = Q.astype(np.float64), X.astype(np.float64)
    return Q @ X.T, 1e-5 * (np.abs(Q) @ np.abs(X).T) + 1e-30


def _exact_cosines(Q: np.ndarray, X: np.ndarray) -> np.ndarray:
    """Float64 cosines (m, n); 0 for a zero vector."""

    def unit(A: np.ndarray) -> np.ndarray:
        A = A.astype(np.float64)
        norms = np.linalg.norm(A, axis=1, keepdims=True)
        return np.divide(A, norms, out=np.zeros_like(A), where=norms > 0)

    return unit(Q) @ unit(X).T


def _ids_and_scores(value: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    expect.that(isinstance(value, (list, tuple)) and len(value) == 2, "Return two arrays: the ids and the scores.", actual=value)
    ids = expect.array(value[0], shape=shape, dtype=np.int64, name="the ids")
    return ids, expect.array(value[1], shape=shape, dtype=np.float32, name="the scores")


def _expect_nearest(value: Any, cosines: np.ndarray, k: int) -> None:
    """Fail unless `value` holds the k best of the exact `cosines` (m, n), a neighbour counting by its score."""
    m, n = cosines.shape
    k = min(k, n)
    ids, scores = _ids_and_scores(value, (m, k))
    expect.that(bool(((ids >= 0) & (ids < n)).all()), f"Every id must be a row of X, from 0 to {n - 1}.", actual=ids)
    ordered = np.sort(ids, axis=1)
    expect.that(bool((ordered[:, 1:] != ordered[:, :-1]).all()), "A row of X came twice among one query's neighbours.", actual=ids)
    expect.close(
        scores, np.take_along_axis(cosines, ids, axis=1), rtol=0, atol=SCORE_TOLERANCE, why="A score is not the cosine of the row it names."
    )
    expect.that(bool((scores[:, 1:] <= scores[:, :-1]).all()), "The scores of a query must descend.", actual=scores)
    best = -np.partition(-cosines, np.arange(k), axis=1)[:, :k] if k else scores
    expect.close(scores, best, rtol=0, atol=SCORE_TOLERANCE, why="A row with a higher cosine was left out.")


@check
@given(pair=sizes().flatmap(lambda d: st.tuples(vectors(d), vectors(d))).map(_pair_without_tiny))
def dot_agrees_with_float64(lab, pair):
    """`dot(a, b)` is the float64 dot product up to float32 rounding, for every length, also 0, 1 and odd ones.

    Lengths 7, 9, 127 and 129 end in the middle of a vector register.
    """
    a, b = pair
    expected, error = _exact_dots(a[None], b[None])
    expect.close(lab.dot(a, b), float(expected[0, 0]), rtol=0, atol=float(error[0, 0]))


@check
@given(pair=queries_and_rows(sizes(largest=9), sizes(largest=9), sizes()).map(_pair_without_tiny))
def dot_batch_agrees_with_float64(lab, pair):
    """`dot_batch(Q, X)` holds all m × n dot products as float32, up to float32 rounding, for every m, n and d, also 0 and 1.

    If you compute four queries at a time: what happens to the last m % 4?
    """
    Q, X = pair
    expected, error = _exact_dots(Q, X)
    scores = expect.array(lab.dot_batch(Q, X), shape=expected.shape, dtype=np.float32)
    expect.close(scores, expected, rtol=0, atol=error)


def _measure_dot_batch(budget: Any, lab: Any, n: int, d: int) -> Any:
    """Time `dot_batch` on 16 fresh queries a trial; the n rows of d numbers are sent once."""
    X = lab.rng().standard_normal((n, d), dtype=np.float32)

    def verify(inputs: tuple[np.ndarray], output: Any) -> None:
        # BLAS in float32 has the same error bound, and is fast enough to check every trial.
        scores = expect.array(output, shape=(16, n), dtype=np.float32)
        expect.close(scores, inputs[0] @ X.T, rtol=0, atol=2e-3)

    return budget.ratio(
        setup=lambda side, rng: side.put(X),
        inputs=lambda rng: (rng.standard_normal((16, d), dtype=np.float32),),
        call=lambda side, rows, Q: side.dot_batch(Q, rows),
        verify=verify,
        kernels=True,
    )


@check(after="dot_batch_agrees_with_float64", budget="dot_batch_speedup")
def dot_batch_is_vectorised(lab, budget):
    """`dot_batch` is at least 5 times as fast as the strict scalar loop of `baseline.py`; half the points at 4 times.

    If it is not: does the compiler have your permission to reorder the sum? Look for packed instructions.
    """
    return _measure_dot_batch(budget, lab, n=4096, d=384)


@check(after="dot_batch_agrees_with_float64", budget="dot_batch_slowdown")
def dot_batch_reuses_what_it_loads(lab, budget):
    """`dot_batch` takes at most 1.5 times the reference's time on 16 queries and 24 MiB of rows; half the points at 2.5 times.

    Pass over the rows once, and let each number that you loaded serve several queries.
    """
    # Few queries and long vectors: then the answer that crosses the wire is small beside the arithmetic.
    return _measure_dot_batch(budget, lab, n=8192, d=768)


@check(after="dot_batch_agrees_with_float64")
@given(
    pair=queries_and_rows(sizes(largest=5), sizes(largest=9), sizes(smallest=1)).map(_pair_without_tiny),
    factor=st.sampled_from([0.25, 3.0, 40.0]),
)
def cosine_is_bounded_symmetric_and_scale_free(lab, pair, factor):
    """`cosine_batch(Q, X)` is the float64 cosine to 1e-5, lies in [−1, 1], is symmetric, and ignores the lengths of the vectors."""
    Q, X = (A[np.abs(A).max(axis=1, initial=0) > 0] for A in pair)
    cosines = expect.array(lab.cosine_batch(Q, X), shape=(len(Q), len(X)), dtype=np.float32)
    expect.close(cosines, _exact_cosines(Q, X), rtol=0, atol=SCORE_TOLERANCE)
    expect.that(bool((np.abs(cosines) <= 1).all()), "A cosine lies outside [−1, 1].", actual=cosines)
    expect.close(lab.cosine_batch(X, Q), cosines.T, rtol=0, atol=SCORE_TOLERANCE, why="cos(a, b) and cos(b, a) differ.")
    rows = np.concatenate([Q, X])
    scaled = expect.array(lab.cosine_batch(np.float32(factor) * rows, rows), shape=(len(rows), len(rows)), dtype=np.float32)
    expect.close(scaled, _exact_cosines(rows, rows), rtol=0, atol=SCORE_TOLERANCE, why="Longer queries have other cosines.")
    expect.that(bool((np.abs(scaled) <= 1).all()), "The cosine of a vector and a multiple of it lies outside [−1, 1].", actual=scaled)


@check(after="cosine_is_bounded_symmetric_and_scale_free")
@given(pair=queries_and_rows(sizes(smallest=1, largest=5), sizes(smallest=1, largest=5), sizes(largest=9)), data=st.data())
def zero_vectors_have_cosine_zero(lab, pair, data):
    """A zero vector has cosine 0 with everything, as a query and as a row: no NaN, no division by zero."""
    Q, X = _pair_without_tiny(pair)
    query, row = data.draw(st.integers(0, len(Q) - 1), label="query"), data.draw(st.integers(0, len(X) - 1), label="row")
    Q[query], X[row] = 0, 0
    cosines = expect.array(lab.cosine_batch(Q, X), shape=(len(Q), len(X)), dtype=np.float32)
    expect.equal(cosines[query], np.zeros(len(X), np.float32), "A zero query must have cosine 0 with every row.")
    expect.equal(cosines[:, row], np.zeros(len(Q), np.float32), "A zero row must have cosine 0 with every query.")


def _tied_scores(n: int | st.SearchStrategy[int]) -> st.SearchStrategy[np.ndarray]:
    """Few distinct values, so that most scores have an equal."""
    return hnp.arrays(np.float32, n, elements=st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0]))


def _ranked(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.argsort(-scores, kind="stable")[:k].astype(np.int64)
    return ids, scores[ids]


@check
@given(scores=st.one_of(_tied_scores(sizes()), vectors(sizes())), k=st.integers(0, 20))
def topk_ranks_with_ties_by_id(lab, scores, k):
    """`topk(scores, k)` returns the ids (int64) and scores of the min(k, n) largest, best first; of equal scores the smaller id first."""
    expected_ids, expected = _ranked(scores, k)
    ids, best = _ids_and_scores(lab.topk(scores, k), expected_ids.shape)
    expect.equal(best, expected, "These are not the largest scores, best first.")
    expect.equal(ids, expected_ids, "The ids don't belong to these scores, or a tie was not broken by the smaller id.")


@check(after="topk_ranks_with_ties_by_id")
@given(left=_tied_scores(sizes()), right=_tied_scores(sizes()), k=st.integers(0, 20))
def topk_of_parts_merges_to_topk_of_all(lab, left, right, k):
    """The best k of two blocks are among the best k of each: merging `topk(left)` and `topk(right)` gives `topk` of both together."""
    left_ids, left_best = _ids_and_scores(lab.topk(left, k), (min(k, len(left)),))
    right_ids, right_best = _ids_and_scores(lab.topk(right, k), (min(k, len(right)),))
    ids, best = np.concatenate([left_ids, right_ids + len(left)]), np.concatenate([left_best, right_best])
    order, merged = _ranked(best, k)
    expect.equal(
        lab.topk(np.concatenate([left, right]), k), [ids[order], merged], "The top-k of the whole is not the merged top-k of its parts."
    )


@check(after=("zero_vectors_have_cosine_zero", "topk_ranks_with_ties_by_id"), max_examples=40)
@given(
    m=st.integers(0, 5),
    n=st.sampled_from([*ODD_SIZES, 1000, 5003]),
    d=st.sampled_from([1, 2, 7, 8, 9, 33]),
    k=st.integers(0, 20),
    seed=st.integers(0, 2**32 - 1),
)
def cosine_topk_finds_the_nearest(lab, m, n, d, k, seed):
    """`cosine_topk(Q, X, k)` finds the min(k, n) rows of highest cosine: distinct ids, true cosines to 1e-5, descending.

    5003 rows span several blocks and end in the middle of one. Some rows are equal, some are zero.
    """
    rng = np.random.default_rng(seed)
    Q, X = rng.standard_normal((m, d), dtype=np.float32), rng.standard_normal((n, d), dtype=np.float32)
    X[rng.random(n) < 0.02] = 0
    if n > 1:
        X[rng.integers(n, size=n // 8)] = X[rng.integers(n, size=n // 8)]
    _expect_nearest(lab.cosine_topk(Q, X, k), _exact_cosines(Q, X), k)


@check(after="cosine_topk_finds_the_nearest", budget="cosine_topk_slowdown")
def cosine_topk_is_blocked(lab, budget):
    """`cosine_topk` of 16 queries over 32,768 rows takes at most 1.5 times the reference's time; half the points at 3 times.

    Read each block of rows once, and never sort what can't be among the best k.
    """
    n, d, m, k = 32_768, 128, 16, 10
    X = lab.rng().standard_normal((n, d), dtype=np.float32)
    norms = np.linalg.norm(X, axis=1)

    def verify(inputs: tuple[np.ndarray], output: Any) -> None:
        cosines = (inputs[0] @ X.T) / (np.linalg.norm(inputs[0], axis=1)[:, None] * norms)
        _expect_nearest(output, cosines, k)

    return budget.ratio(
        setup=lambda side, rng: side.put(X),
        inputs=lambda rng: (rng.standard_normal((m, d), dtype=np.float32),),
        call=lambda side, rows, Q: side.cosine_topk(Q, rows, k),
        verify=verify,
        kernels=True,
    )


@check(after="cosine_topk_finds_the_nearest", max_examples=20)
@given(pair=queries_and_rows(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)).map(_pair_without_tiny))
def inputs_are_left_alone(lab, pair):
    """No function changes the arrays it is given: an index that normalises its caller's vectors in place corrupts them."""
    Q, X = pair
    expected, error = _exact_dots(Q, X)
    queries, rows = lab.put(Q), lab.put(X)
    lab.cosine_batch(queries, rows)
    lab.cosine_topk(queries, rows, 2)
    lab.quantize_int8(rows)
    scores = expect.array(lab.dot_batch(queries, rows), shape=expected.shape, dtype=np.float32)
    expect.close(
        scores, expected, rtol=0, atol=error, why="After cosine_batch, cosine_topk and quantize_int8 the vectors are not what they were."
    )
    lab.drop(queries, rows)


@check
@given(X=matrices(sizes(largest=9), sizes()).map(_without_tiny))
def quantize_int8_keeps_half_a_step(lab, X):
    """`quantize_int8(X)` gives int8 codes and a float32 scale max|x|/127 a row; `codes * scale` is within half a scale of X."""
    value = lab.quantize_int8(X)
    expect.that(isinstance(value, list) and len(value) == 2, "Return two arrays: the codes and the scales.", actual=value)
    codes = expect.array(value[0], shape=X.shape, dtype=np.int8, name="the codes")
    scales = expect.array(value[1], shape=(len(X),), dtype=np.float32, name="the scales").astype(np.float64)
    largest = np.abs(X).max(axis=1, initial=0).astype(np.float64)
    nonzero = largest > 0
    expect.that(bool(np.isfinite(scales).all()), "A scale is not finite (a row of zeros?).", actual=scales)
    expect.close(scales[nonzero], largest[nonzero] / 127, rtol=1e-5, why="The scale of a row is max|x| / 127.")
    error = np.abs(codes * scales[:, None] - X)
    bound = np.broadcast_to((0.5 + 1e-4) * largest[:, None] / 127, X.shape)
    expect.that(
        bool((error <= bound).all()),
        "A value is more than half a step away from its code: round, don't cut off.",
        expected=bound,
        actual=error,
    )


@check
@given(
    d=st.one_of(sizes(), st.just(4096)),
    n=st.integers(0, 9),
    seed=st.integers(0, 2**32 - 1),
    extreme=st.booleans(),
    q_scale=st.floats(0.0009765625, 8, width=32),
)
def dot_int8_is_exact(lab, d, n, seed, extreme, q_scale):
    """`dot_int8(q_codes, q_scale, codes, scales)` sums the products of codes exactly, then scales.

    The sum of 4096 products of 127 · 127 must not overflow.
    """
    rng = np.random.default_rng(seed)
    low = 127 if extreme else -127
    q_codes, codes = rng.integers(low, 128, d, dtype=np.int8), rng.integers(low, 128, (n, d), dtype=np.int8)
    scales = rng.uniform(0.01, 1, n).astype(np.float32)
    expected = codes.astype(np.int64) @ q_codes.astype(np.int64) * (np.float64(q_scale) * scales)
    expect.close(lab.dot_int8(q_codes, q_scale, codes, scales), expected, rtol=1e-5, atol=1e-6)
