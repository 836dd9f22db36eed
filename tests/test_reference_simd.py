"""The reference search is exact: against float64 NumPy, at odd sizes, with ties, zero vectors and in the order that is worst for a heap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import simd

SIZES = (0, 1, 7, 8, 9, 127, 128, 129)


def rows(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d), dtype=np.float32)


def exact_cosines(Q: np.ndarray, X: np.ndarray) -> np.ndarray:
    Q, X = Q.astype(np.float64), X.astype(np.float64)
    lengths = np.outer(np.linalg.norm(Q, axis=1), np.linalg.norm(X, axis=1))
    return np.divide(Q @ X.T, lengths, out=np.zeros_like(lengths), where=lengths > 0)


@pytest.mark.parametrize("m", [0, 1, 3, 4, 5, 16, 17])
@pytest.mark.parametrize("n", SIZES)
def test_dot_batch_equals_float64_for_every_shape_on_both_sides_of_the_switch_to_blas(m: int, n: int) -> None:
    for d in (0, 1, 7, 8, 9, 129):
        Q, X = rows(m, d), rows(n, d, seed=1)
        np.testing.assert_allclose(simd.dot_batch(Q, X), Q.astype(np.float64) @ X.T.astype(np.float64), rtol=0, atol=1e-4)


@pytest.mark.parametrize("d", SIZES)
def test_dot_equals_float64(d: int) -> None:
    a, b = rows(2, d)
    assert simd.dot(a, b) == pytest.approx(float(a.astype(np.float64) @ b), abs=1e-4)


def test_strided_and_read_only_inputs_are_accepted_and_left_alone() -> None:
    X = rows(64, 32)[::2, ::2]
    X.flags.writeable = False
    before = X.copy()
    np.testing.assert_allclose(simd.dot_batch(X[:3], X), before[:3] @ before.T, atol=1e-4)
    simd.cosine_topk(X[:3], X, 5)
    simd.quantize_int8(X)
    np.testing.assert_array_equal(X, before)


def test_cosines_are_bounded_and_zero_vectors_have_cosine_zero() -> None:
    X = rows(129, 33)
    X[[0, 64, 128]] = 0
    cosines = simd.cosine_batch(np.float32(3) * X, X)
    np.testing.assert_allclose(cosines, exact_cosines(X, X), rtol=0, atol=1e-6)
    assert np.abs(cosines).max() <= 1
    assert not cosines[[0, 64, 128]].any() and not cosines[:, [0, 64, 128]].any()


@settings(deadline=None, max_examples=100)
@given(n=st.sampled_from([*SIZES, 500, 3000]), k=st.integers(0, 150), values=st.integers(1, 300), seed=st.integers(0, 2**32 - 1))
def test_topk_is_a_stable_descending_sort_cut_off(n: int, k: int, values: int, seed: int) -> None:
    scores = np.random.default_rng(seed).integers(values, size=n).astype(np.float32)
    ids, best = simd.topk(scores, k)
    expected = np.argsort(-scores, kind="stable")[:k]
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(best, scores[expected])
    assert (ids.dtype, best.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize("order", ["ascending", "descending", "equal"])
def test_topk_is_right_in_the_orders_that_are_worst_for_a_heap(order: str) -> None:
    scores = {"ascending": np.arange(5000), "descending": np.arange(5000)[::-1], "equal": np.zeros(5000)}[order].astype(np.float32)
    np.testing.assert_array_equal(simd.topk(scores, 40)[0], np.argsort(-scores, kind="stable")[:40])


@pytest.mark.parametrize("m", [1, 5, 20])
@pytest.mark.parametrize("n", [0, 1, 9, 129, 5003])
def test_cosine_topk_finds_the_rows_of_highest_cosine(m: int, n: int) -> None:
    Q, X = rows(m, 33), rows(n, 33, seed=1)
    X[1::7] = X[: len(X[1::7])]
    X[3::50] = 0
    exact = exact_cosines(Q, X)
    for k in (0, 1, 10, 200):
        ids, scores = simd.cosine_topk(Q, X, k)
        kept = min(k, n)
        assert ids.shape == scores.shape == (m, kept)
        assert all(len(set(row)) == kept for row in ids.tolist())
        np.testing.assert_allclose(scores, np.take_along_axis(exact, ids, axis=1), rtol=0, atol=1e-6)
        np.testing.assert_allclose(scores, -np.sort(-exact, axis=1)[:, :kept], rtol=0, atol=1e-6)


def test_dot_topk_ranks_by_the_plain_dot_product() -> None:
    Q, X = rows(3, 16), rows(2000, 16, seed=1)
    np.testing.assert_array_equal(simd.dot_topk(Q, X, 10)[0], np.argsort(-(Q @ X.T), axis=1)[:, :10])


def test_int8_codes_are_within_half_a_step_and_their_dot_product_does_not_overflow() -> None:
    X = rows(129, 4096)
    X[5] = 0
    codes, scales = simd.quantize_int8(X)
    assert (np.abs(codes * scales[:, None].astype(np.float64) - X) <= scales[:, None] * 0.5001).all()
    assert not codes[5].any() and scales[5] == 0
    extreme = np.full((3, 4096), 127, np.int8)
    np.testing.assert_allclose(simd.dot_int8(extreme[0], 0.5, extreme, np.ones(3, np.float32)), 0.5 * 4096 * 127**2)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: simd.dot_batch(rows(2, 3), rows(2, 4)), "queries have 3 dimensions, the rows have 4"),
        (lambda: simd.cosine_topk(rows(2, 3), rows(2, 4), 1), "queries have 3 dimensions, the rows have 4"),
        (lambda: simd.topk(np.zeros(3, np.float32), -1), "k must not be negative, got -1"),
        (lambda: simd.cosine_topk(rows(2, 3), rows(2, 3), -1), "k must not be negative, got -1"),
    ],
)
def test_mistakes_are_told_in_a_sentence(call, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()
