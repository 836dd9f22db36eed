"""Exact top-k over 100,000 × 128 float32: `reference.simd` against NumPy's matrix product and argpartition, on one thread.

The two run in turns, in random order within a pair, on the same fresh queries; what counts is the median of the paired ratios of CPU
time. Run it with `python -m bench.simd`; it takes some seconds.
"""

from __future__ import annotations

import os

for _variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"  # read when NumPy is imported: a second thread would count as CPU time and not as speed

import time  # noqa: E402
from collections.abc import Callable  # noqa: E402

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from reference import simd  # noqa: E402

N, D, K, PAIRS = 100_000, 128, 10, 25
Search = Callable[[NDArray[np.float32], NDArray[np.float32], int], tuple[NDArray[np.int64], NDArray[np.float32]]]


def numpy_dot_topk(Q: NDArray[np.float32], X: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The usual NumPy search: all scores, `argpartition`, then the k found ones sorted. Shapes as `reference.simd.dot_topk`."""
    return _select(Q @ X.T, k)


def numpy_cosine_topk(Q: NDArray[np.float32], X: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The same on cosines; the norms of the rows are computed too, as `reference.simd.cosine_topk` does."""
    scores = Q @ X.T
    scores /= np.linalg.norm(Q, axis=1)[:, None]
    scores /= np.sqrt(np.einsum("ij,ij->i", X, X))
    return _select(scores, k)


def _select(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    found = np.argpartition(scores, scores.shape[1] - k, axis=1)[:, -k:]
    best = np.take_along_axis(scores, found, axis=1)
    order = np.argsort(-best, axis=1)
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(best, order, axis=1)


def _timed(search: Search, Q: NDArray[np.float32], X: NDArray[np.float32]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    search(Q, X, K)
    return time.process_time() - cpu, time.perf_counter() - wall


def compare(name: str, ours: Search, theirs: Search, queries: int, X: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Print the medians of both sides in milliseconds, and of the paired ratios ours / theirs; below 1 is faster than NumPy."""
    sides = (ours, theirs)
    Q = rng.standard_normal((queries, D), dtype=np.float32)
    (ids, scores), (_, expected) = (search(Q, X, K) for search in sides)
    assert ids.shape == (queries, K), ids.shape
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    times = np.empty((PAIRS, 2, 2))
    for pair in times:
        Q = rng.standard_normal((queries, D), dtype=np.float32)
        for side in rng.permutation(2):
            pair[side] = _timed(sides[side], Q, X)
    cpu, wall = np.median(times, axis=0).T * 1000
    cpu_ratio, wall_ratio = np.median(times[:, 0] / times[:, 1], axis=0)
    print(
        f"{name:7s}{queries:8d}{cpu[0]:14.2f}{cpu[1]:10.2f}{cpu_ratio:9.2f}{wall[0]:17.2f}{wall[1]:10.2f}{wall_ratio:9.2f}",
    )


def main() -> None:
    """Print one line for each kind of score and number of queries."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, D), dtype=np.float32)
    print(f"top-{K} of {N:,} × {D} float32, one thread, medians of {PAIRS} pairs, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("score   queries   CPU ms: ours     NumPy    ratio    wall ms: ours     NumPy    ratio")
    for queries in (32, 8, 1):
        compare("dot", simd.dot_topk, numpy_dot_topk, queries, X, rng)
        compare("cosine", simd.cosine_topk, numpy_cosine_topk, queries, X, rng)


if __name__ == "__main__":
    main()
