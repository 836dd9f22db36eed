"""The reference HNSW keeps the algorithm's promises, and finds what hnswlib finds."""

from __future__ import annotations

import hnswlib
import numpy as np
import pytest

from graders.checks import load_checks, run_check
from graders.labs.c4_10_hnsw.checks import clustered, recall, squared_distances
from graders.subject import LocalTransport, Subject
from reference import hnsw

CHECKS = {name: check for name, check in load_checks("c4_10_hnsw").items() if check.budget is None}


def own_distance(query: np.ndarray, X: np.ndarray) -> np.ndarray:
    return ((X - query) ** 2).sum(axis=1)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    X, Q = clustered(np.random.default_rng(0), (700, 60), 32, 20, 0.4)
    return X, Q


@pytest.mark.parametrize("name", CHECKS)
def test_passes_the_checks_of_its_lab(name: str) -> None:
    namespace = {key: value for key, value in vars(hnsw).items() if not key.startswith("__")}
    result = run_check(CHECKS[name], Subject(LocalTransport(namespace), 1), seed=1, max_points=1)
    assert result.outcome == "pass", result.message


def test_finds_as_much_as_hnswlib_with_the_same_parameters() -> None:
    X, Q = clustered(np.random.default_rng(1), (4000, 200), 64, 40, 0.5)
    distances = squared_distances(Q, X)
    oracle = hnswlib.Index(space="l2", dim=64)
    oracle.init_index(max_elements=len(X), M=12, ef_construction=60, random_seed=1)
    oracle.add_items(X, num_threads=1)
    oracle.set_ef(24)
    theirs = oracle.knn_query(Q, 10)[0].astype(np.int64)
    ours = hnsw.search_batch(hnsw.build(X, 12, 60, 1), Q, 10, 24)
    expected = recall([theirs, np.zeros(theirs.shape, np.float32)], distances, 10)
    assert recall(list(ours), distances, 10) >= expected - 0.01


def test_python_distance_builds_the_same_graph(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, Q = np.round(data[0] * 64) / 64, np.round(data[1] * 64) / 64  # exact in float32, so that both round alike
    compiled, plain = hnsw.build(X, 8, 40, 2), hnsw.build(X, 8, 40, 2, own_distance)
    assert plain.levels == compiled.levels
    assert plain.entry_point == compiled.entry_point
    same = [set(a) == set(b) for a, b in zip(plain.neighbors[0], compiled.neighbors[0], strict=True)]
    assert np.mean(same) > 0.97  # ties may be broken either way
    np.testing.assert_allclose(hnsw.search_batch(plain, Q, 5, 300)[1], hnsw.search_batch(compiled, Q, 5, 300)[1], rtol=1e-5)


def test_one_by_one_equals_a_batch(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, Q = data
    one_by_one, batch = hnsw.HNSW(32, 8, 40, 3), hnsw.build(X, 8, 40, 3)
    assert [one_by_one.add(x) for x in X] == list(range(len(X)))
    assert one_by_one.neighbors == batch.neighbors
    ids, distances = batch.search_batch(Q, 5, 20)
    for query, row, lengths in zip(Q, ids, distances, strict=True):
        assert batch.search(query, 5, 20) == (row.tolist(), lengths.tolist())


def test_distances_ascend_and_belong_to_their_ids(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, Q = data
    ids, distances = hnsw.build(X, 8, 40, 4).search_batch(Q, 10, 40)
    assert (np.diff(distances, axis=1) >= 0).all()
    np.testing.assert_allclose(distances, np.take_along_axis(squared_distances(Q, X), ids, axis=1), rtol=1e-4)


@pytest.mark.parametrize("distance", [hnsw.l2_squared, own_distance])
def test_few_vectors_give_what_there_is(distance: hnsw.Distance) -> None:
    index = hnsw.HNSW(2, 4, 10, distance=distance)
    assert index.search(np.zeros(2), 3, 3) == ([], [])
    index.add(np.array([3.0, 4.0]))
    assert index.search(np.zeros(2), 3, 3) == ([0], [25.0])
    ids, distances = index.search_batch(np.zeros((1, 2), np.float32), 3, 3)
    assert ids.tolist() == [[0, -1, -1]]
    assert distances.tolist() == [[25.0, np.inf, np.inf]]


def test_loaded_index_can_grow(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, _ = data
    index = hnsw.load(hnsw.build(X[:300], 8, 40, 5).save())
    index.add_batch(X[300:])
    assert index.search(X[650], 1, 40)[0] == [650]


@pytest.mark.parametrize(("dim", "M", "ef_construction"), [(0, 4, 4), (3, 1, 4), (3, 4, 0)])
def test_parameters_out_of_range_are_refused(dim: int, M: int, ef_construction: int) -> None:
    with pytest.raises(ValueError, match="need dim >= 1"):
        hnsw.HNSW(dim, M, ef_construction)


def test_wrong_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match="dimension 3"):
        hnsw.HNSW(3).add(np.zeros(4))
