"""Exact similarity search on one core: dot products, cosine, top-k, and an int8 code.

Matrix products go to BLAS where that wins, block by block: a block of rows is read from memory once, and its norms, its products and
its selection all happen while it is still in the L2 cache. Selection keeps one bounded heap a query, whose root is the score to beat;
on data in random order almost every score fails that one comparison, so selecting costs a scan and not a sort.

It does not: run on several threads, keep an index between calls, or accept NaN.

Sources: Goto & van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (ACM TOMS 34(3), 2008) for the blocking; IEEE 754-2019
§10.4 for why a compiler may not reorder a sum; Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference" (CVPR 2018) for int8 products with int32 sums.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Int8 = NDArray[np.int8]

# A block of rows and its scores stay about within the L2 cache. The optimum is flat: half or twice as much measures within 5 %.
BLOCK_BYTES = 768 * 1024
# BLAS first copies its operands into its own layout. Up to 16 queries that copy costs more than its faster inner loop saves.
OWN_KERNEL = range(17)


def dot(a: Float32, b: Float32) -> np.float32:
    """Return the dot product of two float32 vectors of shape (d,); 0 for d = 0."""
    _same_width(a[None], b[None])
    return np.float32(_dot(np.ascontiguousarray(a), np.ascontiguousarray(b)))


def dot_batch(Q: Float32, X: Float32) -> Float32:
    """Return the dot products of the queries `Q` (m, d) with the rows of `X` (n, d), as float32 of shape (m, n).

    Raises ValueError if the two widths differ.
    """
    _same_width(Q, X)
    out = np.empty((len(Q), len(X)), np.float32)
    _products(np.ascontiguousarray(Q), np.ascontiguousarray(X), out)
    return out


def cosine_batch(Q: Float32, X: Float32) -> Float32:
    """Return the cosines of the queries `Q` (m, d) with the rows of `X` (n, d), as float32 of shape (m, n) in [-1, 1].

    A zero vector has cosine 0 with everything. Raises ValueError if the two widths differ.
    """
    scores = dot_batch(Q, X)
    scores *= inverse_norms(Q)[:, None]
    scores *= inverse_norms(X)
    return np.clip(scores, -1, 1, out=scores)


def inverse_norms(X: Float32) -> Float32:
    """Return 1 / ‖x‖ of each row of `X` (n, d), as float32 (n,); 0 for a zero row."""
    return _inverse_norms(np.ascontiguousarray(X))


def topk(scores: Float32, k: int) -> tuple[Int64, Float32]:
    """Return the ids (int64) and scores (float32) of the min(k, n) largest of `scores` (n,), best first, ties by the smaller id.

    Raises ValueError for a negative k.
    """
    if k < 0:
        raise ValueError(f"k must not be negative, got {k}")
    scores = np.ascontiguousarray(scores, dtype=np.float32)
    k = min(k, len(scores))
    if 8 * k > len(scores):  # a heap of nearly everything is slower than a sort
        ids = np.argsort(-scores, kind="stable")[:k]
        return ids, scores[ids]
    heap = _Heaps(1, k)
    _scan(scores[None], np.ones(len(scores), np.float32), 0, *heap.arrays)
    ids, best = heap.sorted()
    return ids[0], best[0]


def cosine_topk(Q: Float32, X: Float32, k: int) -> tuple[Int64, Float32]:
    """Return the min(k, n) rows of `X` (n, d) most similar to each query of `Q` (m, d): ids int64 and cosines float32, (m, k) each.

    Best first, ties by the smaller id. Raises ValueError if the widths differ or k is negative.
    """
    ids, scores = _blocked_topk(_unit_rows(Q), X, k, cosine=True)
    return ids, np.clip(scores, -1, 1, out=scores)


def dot_topk(Q: Float32, X: Float32, k: int) -> tuple[Int64, Float32]:
    """Return the same as `cosine_topk`, ranked by the plain dot product (maximum inner product search)."""
    return _blocked_topk(Q, X, k, cosine=False)


def quantize_int8(X: Float32) -> tuple[Int8, Float32]:
    """Return codes int8 (n, d) and one scale a row float32 (n,) with `codes * scale` within scale / 2 of `X` (n, d).

    Symmetric: scale = max |x| / 127, codes in [-127, 127], rounded to nearest. A zero row has scale 0 and codes 0.
    """
    scales = (np.abs(X).max(axis=1, initial=0) / np.float32(127)).astype(np.float32)
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    return np.clip(np.rint(X * inverse[:, None]), -127, 127).astype(np.int8), scales


def dot_int8(q_codes: Int8, q_scale: float, codes: Int8, scales: Float32) -> Float32:
    """Return the dot products of one quantised query (codes (d,), one scale) with quantised rows (codes (n, d), scales (n,)), float32 (n,).

    The sum over codes is exact, in int32. Raises ValueError if the widths differ.
    """
    _same_width(q_codes[None], codes)
    return _dot_int8(np.ascontiguousarray(q_codes), np.ascontiguousarray(codes)) * (np.float32(q_scale) * scales)


def _same_width(Q: NDArray[np.generic], X: NDArray[np.generic]) -> None:
    if Q.shape[1] != X.shape[1]:
        raise ValueError(f"queries have {Q.shape[1]} dimensions, the rows have {X.shape[1]}")


def _products(Q: Float32, X: Float32, out: Float32) -> None:
    if len(Q) in OWN_KERNEL:
        _dot_batch(Q, X, out)
    else:
        np.matmul(Q, X.T, out=out)


def _unit_rows(Q: Float32) -> Float32:
    return Q * inverse_norms(Q)[:, None]


def _blocked_topk(Q: Float32, X: Float32, k: int, *, cosine: bool) -> tuple[Int64, Float32]:
    _same_width(Q, X)
    if k < 0:
        raise ValueError(f"k must not be negative, got {k}")
    Q, X = np.ascontiguousarray(Q), np.ascontiguousarray(X)
    m, (n, d) = len(Q), X.shape
    heaps = _Heaps(m, min(k, n))
    if heaps.k == 0:
        return heaps.sorted()
    rows = max(64, BLOCK_BYTES // (4 * (d + m + 1)))
    scores = np.empty((m, rows), np.float32)
    factors = np.ones(rows, np.float32)
    for start in range(0, n, rows):
        block = X[start : start + rows]
        if cosine:
            factors = _inverse_norms(block)
        _products(Q, block, scores[:, : len(block)])
        _scan(scores[:, : len(block)], factors, start, *heaps.arrays)
    return heaps.sorted()


class _Heaps:
    """One bounded min-heap a query: `ids` and `scores` (m, k), and how many entries each holds."""

    def __init__(self, m: int, k: int) -> None:
        self.k = k
        self.arrays = np.zeros((m, k), np.int64), np.empty((m, k), np.float32), np.zeros(m, np.int64)

    def sorted(self) -> tuple[Int64, Float32]:
        ids, scores, _ = self.arrays
        order = np.lexsort((ids, -scores), axis=1)
        return np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)


@njit(fastmath=True, nogil=True)
def _dot(a: Float32, b: Float32) -> np.float32:
    total = np.float32(0)
    for t in range(len(a)):
        total += a[t] * b[t]
    return total


@njit(fastmath=True, nogil=True)
def _inverse_norms(X: Float32) -> Float32:
    n, d = X.shape
    out = np.zeros(n, np.float32)
    for j in range(n):
        total = np.float32(0)
        for t in range(d):
            total += X[j, t] * X[j, t]
        if total > 0:
            out[j] = np.float32(1) / np.sqrt(total)
    return out


@njit(fastmath=True, nogil=True)
def _dot_batch(Q: Float32, X: Float32, out: Float32) -> None:
    m, d = Q.shape
    n = len(X)
    m4, n2 = m // 4 * 4, n // 2 * 2
    for j in range(0, n2, 2):
        for i in range(0, m4, 4):
            # Eight sums for six loads: the arithmetic units, not the load ports, are what is full.
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = np.float32(0)
            for t in range(d):
                x, y = X[j, t], X[j + 1, t]
                q0, q1, q2, q3 = Q[i, t], Q[i + 1, t], Q[i + 2, t], Q[i + 3, t]
                a0 += q0 * x
                a1 += q1 * x
                a2 += q2 * x
                a3 += q3 * x
                b0 += q0 * y
                b1 += q1 * y
                b2 += q2 * y
                b3 += q3 * y
            out[i, j], out[i + 1, j], out[i + 2, j], out[i + 3, j] = a0, a1, a2, a3
            out[i, j + 1], out[i + 1, j + 1], out[i + 2, j + 1], out[i + 3, j + 1] = b0, b1, b2, b3
        for i in range(m4, m):
            out[i, j] = _dot(Q[i], X[j])
            out[i, j + 1] = _dot(Q[i], X[j + 1])
    for j in range(n2, n):
        for i in range(m):
            out[i, j] = _dot(Q[i], X[j])


@njit(nogil=True)
def _dot_int8(q: Int8, codes: Int8) -> NDArray[np.int32]:
    n, d = codes.shape
    out = np.empty(n, np.int32)
    for j in range(n):
        total = np.int32(0)
        for t in range(d):
            # Numba widens int32 arithmetic to int64; the cast back lets LLVM keep eight 32-bit lanes and not four 64-bit ones.
            total = np.int32(total + np.int32(q[t]) * np.int32(codes[j, t]))
        out[j] = total
    return out


@njit(nogil=True)
def _worse(ids: Int64, scores: Float32, a: int, b: int) -> bool:
    return scores[a] < scores[b] or (scores[a] == scores[b] and ids[a] > ids[b])


@njit(nogil=True)
def _sift_down(ids: Int64, scores: Float32, root: int, size: int) -> None:
    while True:
        worst = root
        for child in (2 * root + 1, 2 * root + 2):
            if child < size and _worse(ids, scores, child, worst):
                worst = child
        if worst == root:
            return
        ids[root], ids[worst] = ids[worst], ids[root]
        scores[root], scores[worst] = scores[worst], scores[root]
        root = worst


@njit(fastmath={"nnan", "nsz", "reassoc"}, nogil=True)
def _largest(scores: Float32, factors: Float32, start: int, stop: int) -> float:
    largest = scores[start] * factors[start]
    for j in range(start, stop):
        score = scores[j] * factors[j]
        largest = max(largest, score)
    return largest


@njit(nogil=True)
def _scan(scores: Float32, factors: Float32, first_id: int, ids: Int64, best: Float32, filled: Int64) -> None:
    """Offer `scores[i, j] * factors[j]` (m, b) with id `first_id + j` to heap i, for all i and j, ids ascending."""
    m, b = scores.shape
    k = ids.shape[1]
    for i in range(m):
        j = 0
        while j < b and filled[i] < k:
            ids[i, filled[i]], best[i, filled[i]] = first_id + j, scores[i, j] * factors[j]
            filled[i] += 1
            j += 1
            if filled[i] == k:
                for root in range(k // 2, -1, -1):
                    _sift_down(ids[i], best[i], root, k)
        while j < b:
            stop = min(j + 64, b)
            if _largest(scores[i], factors, j, stop) > best[i, 0]:
                for candidate in range(j, stop):
                    score = scores[i, candidate] * factors[candidate]
                    if score > best[i, 0]:  # an equal score has the larger id: it loses
                        ids[i, 0], best[i, 0] = first_id + candidate, score
                        _sift_down(ids[i], best[i], 0, k)
            j = stop
