"""The reference HNSW next to hnswlib on one thread: `python -m bench.hnsw`.

Both index the same clustered vectors with the same M and ef_construction. Build is CPU time; queries a second are given at the smallest
ef where the index reaches recall@10 of 0.95 against brute force. Rounds alternate between the two, and the best of each counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

N, DIM, QUERIES, K = 20_000, 64, 1_000, 10
M, EF_CONSTRUCTION = 16, 100
EFS = (10, 12, 14, 16, 20, 24, 32, 48, 64, 96, 128)
WANTED_RECALL = 0.95
BUILDS, ROUNDS = 2, 7

Search = Callable[[int], NDArray[Any]]


def clustered(seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors, (N, DIM), and queries, (QUERIES, DIM), float32, around 200 random centers."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((200, DIM))
    X, Q = (centers[rng.integers(200, size=size)] + 0.5 * rng.standard_normal((size, DIM)) for size in (N, QUERIES))
    return X.astype(np.float32), Q.astype(np.float32)


def recall(ids: NDArray[Any], X: NDArray[np.float32], Q: NDArray[np.float32], kth: NDArray[Any]) -> float:
    """Share of neighbours no farther than the true k-th."""
    found = ((X[ids.astype(np.int64)] - Q[:, None]) ** 2).sum(axis=2)
    return float((found <= kth[:, None] + 1e-3).mean())


def kth_distances(X: NDArray[np.float32], Q: NDArray[np.float32]) -> NDArray[Any]:
    """Exact squared distance of the K-th neighbour of each query."""
    wide, queries = X.astype(np.float64), Q.astype(np.float64)
    distances = (queries**2).sum(axis=1)[:, None] + (wide**2).sum(axis=1) - 2 * queries @ wide.T
    return np.partition(distances, K - 1, axis=1)[:, K - 1]


def build_reference(X: NDArray[np.float32]) -> Any:
    """Build the reference's index."""
    from reference import hnsw

    return hnsw.build(X, M, EF_CONSTRUCTION, 1)


def build_hnswlib(X: NDArray[np.float32]) -> Any:
    """Build hnswlib's index, on one thread."""
    import hnswlib

    index = hnswlib.Index(space="l2", dim=X.shape[1])
    index.init_index(max_elements=len(X), M=M, ef_construction=EF_CONSTRUCTION, random_seed=1)
    index.set_num_threads(1)
    index.add_items(X)
    return index


def searches(reference: Any, hnswlib: Any, Q: NDArray[np.float32]) -> dict[str, Search]:
    """Functions ef -> ids, one for each index."""

    def search_hnswlib(ef: int) -> NDArray[Any]:
        hnswlib.set_ef(ef)
        return hnswlib.knn_query(Q, K)[0]

    return {"reference": lambda ef: reference.search_batch(Q, K, ef)[0], "hnswlib": search_hnswlib}


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU time of one call and what it returned."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def main() -> None:
    """Print both, and the ratios."""
    X, Q = clustered()
    build_reference(X[:200]).search_batch(Q[:1], K, K)  # compiles
    builders: dict[str, Callable[[NDArray[np.float32]], Any]] = {"reference": build_reference, "hnswlib": build_hnswlib}
    build_seconds, indexes = dict.fromkeys(builders, np.inf), {}
    for _ in range(BUILDS):
        for name, build in builders.items():
            seconds, indexes[name] = cpu_seconds(lambda build=build: build(X))
            build_seconds[name] = min(build_seconds[name], seconds)
    kth = kth_distances(X, Q)
    run = searches(indexes["reference"], indexes["hnswlib"], Q)
    recalls = {name: {ef: recall(search(ef), X, Q, kth) for ef in EFS} for name, search in run.items()}
    chosen = {name: next((ef for ef, value in curve.items() if value >= WANTED_RECALL), EFS[-1]) for name, curve in recalls.items()}
    seconds = dict.fromkeys(run, np.inf)
    for _ in range(ROUNDS):
        for name, search in run.items():
            seconds[name] = min(seconds[name], cpu_seconds(lambda search=search, name=name: search(chosen[name]))[0])
    print(f"{N:,} clustered vectors, d = {DIM}, M = {M}, ef_construction = {EF_CONSTRUCTION}, one thread, CPU time")
    for name in run:
        rate, ef = QUERIES / seconds[name], chosen[name]
        print(f"{name:9}  build {build_seconds[name]:6.2f} s   {rate:8,.0f} queries/s at recall@{K} {recalls[name][ef]:.3f} (ef = {ef})")
    build_ratio = build_seconds["hnswlib"] / build_seconds["reference"]
    print(f"reference / hnswlib: build {build_ratio:.2f}× as fast, search {seconds['hnswlib'] / seconds['reference']:.2f}× as fast")


if __name__ == "__main__":
    main()
