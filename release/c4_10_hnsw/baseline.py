"""The naive index that this lab's budgets are measured against on your machine: right, and quadratic.

`build` links each vector to its `M` nearest by comparing every pair, and `search_batch` compares each query with every vector: one
call of the distance for each pair. There are no layers here, and no walking: what the links are for is your part.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit("float32(float32[::1], float32[::1])")
def squared_distance(a, b):
    """Return the squared Euclidean distance of two float32 vectors (d,), summed strictly from left to right."""
    total = np.float32(0)
    for t in range(len(a)):
        total += (a[t] - b[t]) * (a[t] - b[t])
    return total


class FlatIndex:
    """Vectors, (n, d) float32, and for each the list of its nearest others."""

    def __init__(self, vectors: np.ndarray, links: list[list[int]]) -> None:
        self.vectors, self.links = vectors, links


def build(X: np.ndarray, M: int, ef_construction: int, seed: int) -> FlatIndex:
    """Return an index of the rows of `X`, (n, d) float32, each with its `M` nearest others. `ef_construction` and `seed` are not used."""
    X = np.ascontiguousarray(X, dtype=np.float32)
    lengths = [[(squared_distance(x, y), j) for j, y in enumerate(X) if j != i] for i, x in enumerate(X)]
    return FlatIndex(X, [[j for _, j in sorted(row)[:M]] for row in lengths])


def search_batch(index: FlatIndex, Q: np.ndarray, k: int, ef: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact `k` nearest of each row of `Q`, (m, d): ids, (m, k) int64, and squared distances, (m, k) float32."""
    vectors = list(index.vectors)
    answers = [sorted((squared_distance(q, x), i) for i, x in enumerate(vectors))[:k] for q in np.ascontiguousarray(Q, dtype=np.float32)]
    ids = np.array([[i for _, i in answer] for answer in answers], dtype=np.int64)
    return ids, np.array([[distance for distance, _ in answer] for answer in answers], dtype=np.float32)
