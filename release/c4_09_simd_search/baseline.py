"""The naive search that this lab's budgets are measured against: right, and as slow as a strict sum must be.

Without `fastmath` the compiler has to add the products in the order of the program, one after the other, because floating-point
addition is not associative. Nothing here is blocked, and `topk` sorts everything to keep ten.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit
def dot(a, b):
    """Return the dot product of two float32 vectors (d,), summed strictly from left to right."""
    total = np.float32(0)
    for t in range(a.shape[0]):
        total += a[t] * b[t]
    return total


@njit
def dot_batch(Q, X):
    """Return the dot products (m, n) of queries (m, d) with rows (n, d), one strict sum after the other."""
    scores = np.empty((Q.shape[0], X.shape[0]), np.float32)
    for i in range(Q.shape[0]):
        for j in range(X.shape[0]):
            scores[i, j] = dot(Q[i], X[j])
    return scores


def cosine_batch(Q, X):
    """Return the cosines (m, n) of queries (m, d) with rows (n, d); 0 for a zero vector."""
    norms = np.outer(np.linalg.norm(Q, axis=1), np.linalg.norm(X, axis=1))
    scores = np.zeros(norms.shape, np.float32)
    np.divide(dot_batch(Q, X), norms, out=scores, where=norms > 0)
    return np.clip(scores, -1, 1)


def topk(scores, k):
    """Return ids and scores of the min(k, n) largest of `scores` (n,), best first, ties by the smaller id: by sorting all of them."""
    ids = np.argsort(-scores, kind="stable")[:k]
    return ids, scores[ids]


def cosine_topk(Q, X, k):
    """Return ids int64 and cosines float32, (m, min(k, n)) each, of the rows of `X` most similar to each query."""
    ids = np.empty((len(Q), min(k, len(X))), np.int64)
    best = np.empty(ids.shape, np.float32)
    for i, scores in enumerate(cosine_batch(Q, X)):
        ids[i], best[i] = topk(scores, k)
    return ids, best
