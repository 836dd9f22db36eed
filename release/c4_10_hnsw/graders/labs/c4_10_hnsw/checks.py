"""Public checks of `c4_10_hnsw`.

Data comes in clusters, as embeddings do: on independent noise all distances are nearly equal, and recall says little about an index.
The truth is brute force in float64, and a neighbour counts by its distance, so that ties never cost a point. What is random in an
honest index (levels, the odd vector that no link leads to) gets a margin that honest indexes were never seen to reach.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graders import expect
from graders.checks import check

TOLERANCE = 1e-3
EFS = (10, 14, 20, 40, 80)
MEASURED_EF = 20


def clustered(rng: np.random.Generator, sizes: tuple[int, ...], dim: int, clusters: int, spread: float) -> list[np.ndarray]:
    """Arrays of shape (size, dim), float32, one for each of `sizes`, all around the same random centers."""
    centers = rng.standard_normal((clusters, dim))
    return [(centers[rng.integers(clusters, size=size)] + spread * rng.standard_normal((size, dim))).astype(np.float32) for size in sizes]


def squared_distances(Q: np.ndarray, X: np.ndarray) -> np.ndarray:
    """Exact squared distances of each row of `Q` to each of `X`, (m, n) float64."""
    return np.stack([((X.astype(np.float64) - q) ** 2).sum(axis=1) for q in Q.astype(np.float64)])


def recall(value: Any, distances: np.ndarray, k: int) -> float:
    """Share of the `k` true neighbours that an answer of `search_batch` holds, by distance; fails where ids repeat or leave the range."""
    ids = _batch(value, distances.shape[0], k)[0]
    expect.that(bool(((ids >= 0) & (ids < distances.shape[1])).all()), f"Every search must return {k} ids of the index.", actual=ids)
    ordered = np.sort(ids, axis=1)
    expect.that(bool((ordered[:, 1:] != ordered[:, :-1]).all()), "An id came twice among the neighbours of one query.", actual=ids)
    kth = np.partition(distances, k - 1, axis=1)[:, k - 1 : k]
    return float((np.take_along_axis(distances, ids, axis=1) <= kth + TOLERANCE).mean())


def _batch(value: Any, m: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    expect.that(isinstance(value, list) and len(value) == 2, "`search_batch` returns ids and distances.", actual=value)
    ids = expect.array(value[0], shape=(m, k), dtype=np.int64, name="the ids")
    return ids, expect.array(value[1], shape=(m, k), name="the distances")


def _pair(value: Any, what: str) -> tuple[list[int], list[float]]:
    """Two lists of one length, of ints and of finite numbers."""
    expect.that(isinstance(value, list) and len(value) == 2, f"{what} must return two lists: ids and distances.", actual=value)
    columns = [part.tolist() if isinstance(part, np.ndarray) else part for part in value]
    expect.that(all(isinstance(part, list) for part in columns), f"{what} must return two lists: ids and distances.", actual=value)
    ids, distances = columns
    expect.that(len(ids) == len(distances), f"{what} must return as many distances as ids.", actual=value)
    expect.that(all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in ids), "Ids must be ints.", actual=ids)
    numbers = all(isinstance(d, (int, float, np.number)) and math.isfinite(d) for d in distances)
    expect.that(numbers, "Distances must be finite numbers.", actual=distances)
    return [int(i) for i in ids], [float(d) for d in distances]


def _expect_nearest(ids: list[int], found: list[float], distances: np.ndarray, alive: list[int], k: int) -> None:
    """Fail unless an answer holds the `k` nearest of the ids `alive` by distance, nearest first."""
    expect.that(len(set(ids)) == len(ids), "An id came twice.", actual=ids)
    expect.that(set(ids) <= set(alive), "An id came that is not (or no more) in the index.", expected=alive, actual=ids)
    expected = np.sort(distances[alive])[:k]
    expect.that(len(ids) == len(expected), f"Expected {len(expected)} neighbours, got {len(ids)}.", actual=ids)
    expect.close(np.array(found), distances[ids], rtol=1e-4, atol=TOLERANCE, why="A distance is not that of the id beside it.")
    expect.close(distances[ids], expected, rtol=1e-4, atol=TOLERANCE, why="Nearer ids were left out, or the order is wrong.")


def _levels(lab: Any, index: Any, n: int) -> list[int]:
    levels = lab.attribute(index, "levels")
    whole = isinstance(levels, list) and len(levels) == n and all(type(level) is int and 0 <= level < 64 for level in levels)
    expect.that(whole, f"`levels` must be a list of {n} ints, one for each id.", actual=levels)
    return levels


def _neighbors(lab: Any, index: Any, n: int) -> list[list[list[int]]]:
    layers = lab.attribute(index, "neighbors")
    shaped = isinstance(layers, list) and all(isinstance(layer, list) and len(layer) == n for layer in layers)
    expect.that(shaped and len(layers) > 0, f"`neighbors[layer]` must hold {n} lists, one for each id.")
    ids = range(n)
    for layer in layers:
        for links in layer:
            expect.that(isinstance(links, list) and all(type(i) is int and i in ids for i in links), "A link names no id.", actual=links)
    return layers


# Grids of small whole numbers: full of ties and duplicates, and exact in float32.
def _grid(n: int | st.SearchStrategy[int], dim: int) -> st.SearchStrategy[np.ndarray]:
    sizes = st.just(n) if isinstance(n, int) else n
    return sizes.flatmap(lambda n: hnp.arrays(np.float32, (n, dim), elements=st.integers(-4, 4).map(float)))


@st.composite
def _layers(draw: st.DrawFn) -> tuple[list[list[int]], list[float], list[int], set[int]]:
    """A graph as link lists, distances of its nodes to a query, entry points, and deleted nodes."""
    n = draw(st.integers(1, 12))
    node = st.integers(0, n - 1)
    links = [sorted(draw(st.sets(node, max_size=4)) - {i}) for i in range(n)]
    distances = draw(st.lists(st.integers(0, 20).map(float), min_size=n, max_size=n))
    return links, distances, sorted(draw(st.sets(node, min_size=1, max_size=2))), draw(st.sets(node, max_size=n // 2))


def _reachable(links: list[list[int]], entries: list[int]) -> set[int]:
    seen, queue = set(entries), deque(entries)
    while queue:
        fresh = set(links[queue.popleft()]) - seen
        seen |= fresh
        queue.extend(fresh)
    return seen


@check
@given(u=st.floats(1e-12, 1.0), M=st.integers(2, 64))
def random_level_follows_the_formula(lab, u, M):
    """`random_level(u, M)` is floor(−ln(u) / ln(M)): 0 for u = 1, one more each time that u is divided by M."""
    exact = -math.log(u) / math.log(M)
    level = lab.random_level(u, M)
    # On the border between two levels, either may come out of the rounding.
    allowed = {math.floor(exact * (1 - 1e-12) - 1e-12), math.floor(exact), math.floor(exact * (1 + 1e-12) + 1e-12)} - {-1}
    fits = isinstance(level, (int, np.integer)) and not isinstance(level, bool) and int(level) in allowed
    expect.that(fits, f"Expected {math.floor(exact)}, an int.", expected=math.floor(exact), actual=level)


def _pairs(value: Any) -> tuple[list[int], list[float]]:
    """The list of (distance, id) that `search_layer` returns, as ids and distances."""
    shaped = isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)
    expect.that(shaped, "`search_layer` must return a list of pairs (distance, id).", actual=value)
    return _pair([[i for _, i in value], [d for d, _ in value]], "`search_layer`")


@check(max_examples=100)
@given(layer=_layers(), ef=st.integers(1, 14))
@example(layer=([[1], [2], []], [3.0, 2.0, 1.0], [0], {1}), ef=3)
@example(layer=([[1], [2], [3], []], [1.0, 4.0, 3.0, 0.0], [0], set()), ef=4)
def search_layer_finds_the_nearest(lab, layer, ef):
    """`search_layer` returns (distance, id) nearest first, at most `ef`, none deleted; with `ef` ≥ n, all that can be reached.

    A deleted id is walked through like any other; it only never enters the answer. Entry points belong to the answer too.
    """
    links, distances, entries, deleted = layer
    ids, found = _pairs(
        lab.search_layer(lambda ids: np.array([distances[i] for i in ids], np.float32), entries, ef, links, sorted(deleted))
    )
    alive = _reachable(links, entries) - deleted
    expect.that(set(ids) <= alive and len(set(ids)) == len(ids), "An id came twice, is deleted, or can't be reached.", actual=ids)
    expect.equal(found, [distances[i] for i in ids], "A distance is not that of the id beside it.")
    expect.equal(found, sorted(found), "The answer must be sorted by distance.")
    expect.that(len(ids) <= ef, f"At most {ef} ids may come back.", actual=ids)
    expect.that(
        len(ids) == min(ef, len(alive)), f"{len(alive)} live ids can be reached, so {min(ef, len(alive))} must come back.", actual=ids
    )
    if ef >= len(links):
        expect.equal(found, sorted(distances[i] for i in alive), "With ef >= n nothing that can be reached may be missing.")


@check(after="search_layer_finds_the_nearest")
def search_layer_asks_once_for_all_links_of_a_node(lab):
    """`search_layer` measures all unseen links of a node in one call of `distance_to`, and no id twice."""
    rng = lab.rng()
    n = 60
    distances = rng.permutation(n).astype(np.float32)
    links = [[int(j) for j in rng.permutation(n) if j != i] for i in range(n)]
    asked: list[list[int]] = []

    def distance_to(ids: Any) -> np.ndarray:
        asked.append([int(i) for i in ids])
        return distances[asked[-1]]

    lab.search_layer(distance_to, [0], 8, links, [])
    measured = [i for ids in asked for i in ids]
    expect.that(len(set(measured)) == len(measured), "An id was measured twice: mark an id as visited when you measure it.")
    calls = sum(1 for ids in asked if ids)
    message = f"Every node links to every other, so two calls measure all: the entry point, then its {n - 1} links. There were {calls}."
    expect.that(calls <= 2, message, expected=2, actual=calls)


@check
@given(X=_grid(st.integers(0, 12), 2), q=_grid(1, 2), M=st.integers(1, 8))
def heuristic_keeps_diverse_neighbours(lab, X, q, M):
    """No id that `select_neighbors_heuristic` keeps is closer to an id kept before it than to the query; every id that it drops is.

    Candidates are looked at nearest first, until `M` are kept. At a tie (as close to a kept id as to the query) both count as right here.
    """
    to_query = squared_distances(q, X)[0] if len(X) else np.empty(0)
    candidates = sorted((float(d), i) for i, d in enumerate(to_query))
    kept = lab.select_neighbors_heuristic(candidates, M, X)
    kept = kept.tolist() if isinstance(kept, np.ndarray) else kept
    whole = isinstance(kept, list) and all(isinstance(i, (int, np.integer)) and 0 <= i < len(X) for i in kept)
    expect.that(whole, "Return the list of kept ids.", actual=kept)
    expect.that(len(set(kept)) == len(kept) <= M, f"At most {M} different ids may be kept.", actual=kept)
    between = squared_distances(X, X) if len(X) else np.empty((0, 0))
    remaining = list(kept)
    before: list[int] = []
    for length, i in candidates:
        if len(before) == M:
            break
        closest = min((between[i, r] for r in before), default=math.inf)
        if remaining and remaining[0] == i:
            expect.that(
                length <= closest, f"{i} was kept, but it is closer to a kept id ({closest:g}) than to the query ({length:g}).", actual=kept
            )
            before.append(remaining.pop(0))
        else:
            message = f"{i} was dropped, but it is closer to the query ({length:g}) than to every id kept before it ({closest:g})."
            expect.that(length >= closest, message, actual=kept)
    expect.that(not remaining, "The kept ids must come in the order in which they were looked at: nearest first.", actual=kept)


@check(after="random_level_follows_the_formula")
def levels_of_an_index_are_geometric(lab):
    """In an index of n vectors with M = 4, a layer holds a quarter of the vectors of the layer below, within 5 standard deviations."""
    n, M = 800, 4
    index = lab.build(lab.rng().standard_normal((n, 4)).astype(np.float32), M, 8, 1)
    levels = np.array(_levels(lab, index, n))
    for layer in (1, 2, 3):
        share = M**-layer
        expected, deviation = n * share, math.sqrt(n * share * (1 - share))
        count = int((levels >= layer).sum())
        message = f"{count} of {n} vectors reach layer {layer}; expected {expected:.0f} ± {5 * deviation:.0f}."
        expect.that(abs(count - expected) <= 5 * deviation, message, expected=round(expected), actual=count)


@check(after="search_layer_finds_the_nearest")
def degrees_are_bounded(lab):
    """No id has more than M links on an upper layer or 2·M on layer 0; links join different ids of the same layer, each at most once."""
    M, n = 4, 250
    (X,) = clustered(lab.rng(), (n,), 8, 12, 0.3)
    index = lab.build(X, M, 24, 2)
    levels, layers = _levels(lab, index, n), _neighbors(lab, index, n)
    for number, layer in enumerate(layers):
        limit = M if number else 2 * M
        for i, links in enumerate(layer):
            where = f"Id {i} on layer {number}"
            expect.that(len(links) <= limit, f"{where} has {len(links)} links; the limit is {limit}.", actual=links)
            expect.that(len(set(links)) == len(links) and i not in links, f"{where} links to itself, or twice to another.", actual=links)
            expect.that(levels[i] >= number or not links, f"{where} has links, but it reaches only to layer {levels[i]}.", actual=links)
            expect.that(all(levels[j] >= number for j in links), f"{where} links to an id that does not reach up to there.", actual=links)


@check(after="search_layer_finds_the_nearest", seconds=60)
def layer_0_is_connected(lab):
    """The links of layer 0 lead from the entry point to every id (one in a hundred may be missed), on clustered data.

    If whole clusters are cut off: do links go both ways, and does the heuristic keep the ones that lead out of a cluster?
    """
    rng, n, missed = lab.rng(), 600, 0
    for seed in range(3):
        (X,) = clustered(rng, (n,), 32, 20, 0.2)
        index = lab.build(X, 8, 48, seed)
        entry = lab.attribute(index, "entry_point")
        expect.that(type(entry) is int and 0 <= entry < n, "`entry_point` must be an id.", actual=entry)
        missed += n - len(_reachable(_neighbors(lab, index, n)[0], [entry]))
        lab.drop(index)
    expect.that(
        missed <= 3 * n // 100, f"{missed} of {3 * n} ids can't be reached from the entry point on layer 0.", expected=0, actual=missed
    )


@check(after="search_layer_finds_the_nearest", max_examples=40)
@given(X=_grid(st.sampled_from([0, 1, 2, 3, 7, 8, 9, 17]), 3), q=_grid(1, 3), k=st.integers(1, 20))
def ef_of_n_is_exact(lab, X, q, k):
    """With `ef` ≥ n a search finds the true neighbours, duplicates or not; with fewer than `k` vectors it returns all there are.

    Up to 17 vectors at M = 8 never overfill a list of links on layer 0, so nothing is lost. An empty index answers with two empty lists.
    """
    n = len(X)
    index = lab.build(X, 8, 32, 3)
    ids, found = _pair(index.search(q[0], k, max(n, 1)), "`search`")
    _expect_nearest(ids, found, squared_distances(q, X)[0] if n else np.empty(0), list(range(n)), k)


@check(after=("heuristic_keeps_diverse_neighbours", "ef_of_n_is_exact"), seconds=60)
def recall_grows_with_ef(lab):
    """On average over many queries, a larger `ef` never finds fewer of the true neighbours, and finds nearly all at `ef` = 160."""
    X, Q = clustered(lab.rng(), (1000, 100), 64, 5, 0.5)
    index = lab.build(X, 8, 48, 4)
    distances = squared_distances(Q, X)
    curve = {ef: recall(lab.search_batch(index, Q, 10, ef), distances, 10) for ef in (10, 20, 40, 80, 160)}
    values = list(curve.values())
    shown = ", ".join(f"{value:.3f} at ef = {ef}" for ef, value in curve.items())
    for smaller, larger in pairwise(values):
        expect.that(larger >= smaller - 0.01, f"Recall@10 falls as ef grows: {shown}.")
    expect.that(values[-1] >= 0.97, f"Recall@10 is {shown}.")


@check(after="ef_of_n_is_exact")
def deleted_ids_never_come_back(lab):
    """After `delete(id)` no search returns that id, and the others are still found; unknown or deleted ids raise `KeyError`."""
    rng, n = lab.rng(), 300
    X, Q = clustered(rng, (n, 30), 8, 1, 1.0)
    index = lab.build(X, 8, 48, 5)
    dead = rng.permutation(n)[: n // 2].tolist()
    for i in dead:
        index.delete(i)
    distances = squared_distances(Q, X)
    distances[:, dead] = np.inf
    found = _batch(lab.search_batch(index, Q, 10, 60), len(Q), 10)[0]
    returned = sorted(set(found.ravel().tolist()) & set(dead))
    expect.that(not returned, f"Deleted ids came back: {returned[:5]}.")
    reached = recall([found, np.zeros(found.shape, np.float32)], distances, 10)
    expect.that(reached >= 0.95, f"Half of the ids are deleted; of the true 10 nearest live ones only {reached:.1%} were found.")
    for i in (n, -1, dead[0]):
        with expect.raises("KeyError"):
            index.delete(i)
    for i in set(range(n)) - set(dead):
        index.delete(i)
    expect.equal(_pair(index.search(Q[0], 3, 20), "`search`"), ([], []), "Everything is deleted, so nothing may come back.")


@check(after="ef_of_n_is_exact")
def load_restores_what_save_wrote(lab):
    """`load(save(index))` has the same levels, links and entry point and answers every search the same; what is added later stays apart."""
    X, Q = clustered(lab.rng(), (300, 40), 16, 12, 0.3)
    index = lab.build(X, 8, 32, 6)
    for i in range(0, 60, 3):
        index.delete(i)
    state = lab.save(index)
    expect.that(isinstance(state, dict), "`save` must return a dict of plain values.", actual=state)
    twin = lab.load(state)
    for name in ("levels", "neighbors", "entry_point"):
        same = lab.attribute(twin, name) == lab.attribute(index, name)
        expect.that(same, f"`{name}` is not the same after `load(save(index))`.")
    for ef in (3, 40):
        before, after = (_batch(lab.search_batch(each, Q, 3, ef), len(Q), 3) for each in (index, twin))
        expect.equal(after[0], before[0], f"The ids found are not the same after `load(save(index))`, at ef = {ef}.")
        expect.close(after[1], before[1], rtol=1e-6, why="The distances found are not the same after `load(save(index))`.")
    expect.equal(twin.add(Q[0]), len(X), "The next id of the loaded index must be the number of vectors in it.")
    expect.equal(len(lab.attribute(index, "levels")), len(X), "Adding to the loaded index changed the saved one.")


def _hnswlib_curve(X: np.ndarray, Q: np.ndarray, distances: np.ndarray, M: int, ef_construction: int) -> dict[int, float]:
    """Recall@10 of hnswlib for each ef; where it is not installed (a student's machine), that of brute force, which is 1."""
    try:
        import hnswlib
    except ImportError:
        return dict.fromkeys(EFS, 1.0)
    oracle = hnswlib.Index(space="l2", dim=X.shape[1])
    oracle.init_index(max_elements=len(X), M=M, ef_construction=ef_construction, random_seed=7)
    oracle.set_num_threads(1)
    oracle.add_items(X)
    curve = {}
    for ef in EFS:
        oracle.set_ef(ef)
        found = oracle.knn_query(Q, 10)[0].astype(np.int64)
        curve[ef] = recall([found, np.zeros(found.shape, np.float32)], distances, 10)
    return curve


@check(after="ef_of_n_is_exact", budget="recall_at_10", seconds=60)
def recall_at_10_is_close_to_hnswlib(lab, budget):
    """Recall@10 is at most 0.03 below that of hnswlib with the same M, `ef_construction` and `ef`, on clustered data."""
    X, Q = clustered(lab.rng(), (2000, 200), 64, 20, 0.5)
    distances = squared_distances(Q, X)
    index = lab.build(X, 8, 48, 7)
    mine = {ef: recall(lab.search_batch(index, Q, 10, ef), distances, 10) for ef in EFS}
    oracle = _hnswlib_curve(X, Q, distances, 8, 48)
    curve = {"yours": list(mine.items()), "hnswlib": list(oracle.items())}
    return budget.recall(student=mine[MEASURED_EF], oracle=oracle[MEASURED_EF], curve=curve)


@check(after=("heuristic_keeps_diverse_neighbours", "ef_of_n_is_exact"), budget="distance_evaluations", seconds=60)
def searches_measure_few_distances(lab, budget):
    """A search among 400 vectors measures at most 100 distances on average, and still finds 9 of the 10 nearest.

    The index gets tokens in place of vectors here; only the grader's `distance` knows what they stand for, and it counts.
    """
    n, m = 400, 60
    hidden = np.concatenate(clustered(lab.rng(), (n, m), 16, 20, 0.3))
    tokens = np.arange(n + m, dtype=np.float32)[:, None]
    rows = 0

    def distance(query: Any, X: Any) -> np.ndarray:
        nonlocal rows
        wanted = _token_rows(X, n + m)
        rows += len(wanted)
        (origin,) = _token_rows(np.reshape(query, (1, -1)), n + m)
        return ((hidden[wanted] - hidden[origin]) ** 2).sum(axis=1)

    index = lab.HNSW(1, 8, 24, 8, distance)
    for token in tokens[:n]:
        index.add(token)
    rows = 0
    answer = lab.search_batch(index, tokens[n:], 10, 16)
    measured = rows / m
    reached = recall(answer, squared_distances(hidden[n:], hidden[:n]), 10)
    expect.that(reached >= 0.9, f"Recall@10 is {reached:.3f}; at least 0.9 is asked for.")
    return budget.count(measured, unit="distances measured by a search")


def _token_rows(X: Any, count: int) -> np.ndarray:
    """The numbers of the hidden vectors that an array of tokens, (n, 1), stands for."""
    tokens = expect.array(X, name="what `distance` is given")
    expect.that(tokens.ndim == 2 and tokens.shape[1] == 1, "`distance` takes one vector and an array of vectors, (n, dim).", actual=X)
    rows = tokens[:, 0].astype(np.int64)
    valid = bool(((rows >= 0) & (rows < count) & (rows == tokens[:, 0])).all())
    expect.that(valid, "`distance` may only be given vectors that were added, and the query.", actual=X)
    return rows


@check(after=("heuristic_keeps_diverse_neighbours", "ef_of_n_is_exact"), budget="search_slowdown", seconds=120)
def search_is_fast(lab, budget):
    """200 searches among 1,000 vectors take at most 70 times as long as the expert's compiled ones.

    What costs is the number of calls: one call of the distance for each node that you expand, Python floats in the heaps.
    """
    (X, Q) = clustered(lab.rng(), (1000, 20_000), 64, 20, 0.5)

    def verify(inputs: tuple[Any, ...], output: Any) -> None:
        reached = recall(output, squared_distances(inputs[0], X), 10)
        expect.that(reached >= 0.9, f"Recall@10 is {reached:.3f} among the timed searches; at least 0.9 is asked for.")

    return budget.ratio(
        setup=lambda side, rng: side.build(X, 16, 48, 9),
        inputs=lambda rng: (Q[rng.integers(len(Q), size=200)],),
        call=lambda side, index, queries: side.search_batch(index, queries, 10, 20),
        verify=verify,
    )


@check(after=("heuristic_keeps_diverse_neighbours", "ef_of_n_is_exact"), budget="build_slowdown", seconds=120)
def build_is_fast(lab, budget):
    """Building an index of 400 vectors and searching it takes at most 70 times as long as the expert's compiled code.

    Choosing links costs more than searching for them: one call of the distance for each id that the heuristic keeps.
    """

    def inputs(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        return tuple(clustered(rng, (400, 20), 64, 20, 0.3))

    def call(side: Any, X: np.ndarray, Q: np.ndarray) -> Any:
        index = side.build(X, 16, 32, 10)
        answer = side.search_batch(index, Q, 10, 60)
        side.drop(index)
        return answer

    def verify(inputs: tuple[Any, ...], output: Any) -> None:
        X, Q = inputs
        reached = recall(output, squared_distances(Q, X), 10)
        expect.that(reached >= 0.85, f"Recall@10 is {reached:.3f} in the index just built; at least 0.85 is asked for.")

    return budget.ratio(inputs=inputs, call=call, verify=verify)
