"""Hierarchical navigable small world graphs (Malkov & Yashunin 2016, arXiv 1603.09320), compiled with numba.

Follows the paper's Algorithms 1 to 5 with hnswlib's choices: at most M links on the upper layers and 2M on layer 0, the heuristic
of Algorithm 4 without extended candidates and without refilling, ties kept (else one exact copy would drop all other links), and
tombstones for deletion. Vectors are float32, the distance is the squared Euclidean one. Single-threaded; no filters, no update in
place, no reuse of deleted ids.

Two things make it fast. The graph is a table: row i of `links` holds the degree of node i and then its neighbours, sorted by
distance, with the distances in a parallel table, so that shrinking a full list measures only neighbour against neighbour. And the
two heaps of Algorithm 2 are one sorted pool: an entry that falls out of the best ef would never be expanded, so nothing is lost.

Any other distance, `distance(query, X) -> (n,)`, runs on the same tables in plain Python, one call for each expanded node.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

Distance = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]


@intrinsic
def _prefetch(typing_context: Any, array: Any, row: Any) -> Any:
    """Ask for the first four cache lines of `array[row]` before they are needed."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        table = context.make_array(signature.args[0])(context, builder, arguments[0])
        stride = cgutils.unpack_tuple(builder, table.strides, 2)[0]
        offset = builder.mul(stride, builder.sext(arguments[1], stride.type) if arguments[1].type != stride.type else arguments[1])
        address = builder.add(builder.ptrtoint(table.data, stride.type), offset)
        byte_pointer, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        function_type = ir.FunctionType(ir.VoidType(), [byte_pointer, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
        for line in (0, 64, 128, 192):
            pointer = builder.inttoptr(builder.add(address, ir.Constant(stride.type, line)), byte_pointer)
            builder.call(function, [pointer, word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(array, row), emit


@njit(fastmath=True, cache=True)
def _between(a, b):
    total = np.float32(0)
    for j in range(a.shape[0]):
        difference = a[j] - b[j]
        total += difference * difference
    return total


@njit(cache=True)
def _row(first_upper, node, layer):
    return node if layer == 0 else first_upper[node] + layer - 1


@njit(cache=True)
def _offer(pool_length, pool_node, size, ef, length, node):
    """Insert a node into the sorted pool of at most `ef`; return (new size, its position, or ef if it is too far away)."""
    if size < ef:
        place = size
        size += 1
    elif length < pool_length[size - 1]:
        place = size - 1
    else:
        return size, ef
    while place > 0 and pool_length[place - 1] > length:
        pool_length[place] = pool_length[place - 1]
        pool_node[place] = pool_node[place - 1]
        place -= 1
    pool_length[place] = length
    pool_node[place] = node << 1
    return size, place


@njit(cache=True)
def _search_layer(vectors, links, first_upper, layer, query, ef, pool_length, pool_node, size, fresh, visited, epoch):
    """Algorithm 2, from the `size` entry points in the sorted pool; returns its new size. Bit 0 of a pool entry: already expanded."""
    at = 0
    while at < size:
        if pool_node[at] & 1:
            at += 1
            continue
        row = _row(first_upper, pool_node[at] >> 1, layer)
        pool_node[at] |= 1
        at += 1
        count = 0
        for t in range(1, links[row, 0] + 1):
            node = links[row, t]
            if visited[node] != epoch:
                visited[node] = epoch
                _prefetch(vectors, node)
                fresh[count] = node
                count += 1
        if at < size:
            _prefetch(links, _row(first_upper, pool_node[at] >> 1, layer))
        for t in range(count):
            size, place = _offer(pool_length, pool_node, size, ef, _between(query, vectors[fresh[t]]), fresh[t])
            at = min(at, place)
    return size


@njit(cache=True)
def _select(vectors, lengths, nodes, size, M, kept):
    """Algorithm 4 on `size` candidates sorted by distance: writes the places of the chosen into `kept`, returns how many."""
    count = 0
    for c in range(size):
        diverse = True
        for t in range(count):
            if _between(vectors[nodes[c]], vectors[nodes[kept[t]]]) < lengths[c]:
                diverse = False
                break
        if diverse:
            kept[count] = c
            count += 1
            if count == M:
                break
    return count


@njit(cache=True)
def _link(vectors, links, lengths, row, node, length, capacity, kept):
    """Put a link into its sorted place of a row, and shrink the row by Algorithm 4 if that makes it too long."""
    place = links[row, 0] + 1
    while place > 1 and lengths[row, place - 1] > length:
        links[row, place] = links[row, place - 1]
        lengths[row, place] = lengths[row, place - 1]
        place -= 1
    links[row, place] = node
    lengths[row, place] = length
    links[row, 0] += 1
    if links[row, 0] > capacity:
        links[row, 0] = _select(vectors, lengths[row, 1:], links[row, 1:], capacity + 1, capacity, kept)
        for t in range(links[row, 0]):
            links[row, t + 1] = links[row, kept[t] + 1]
            lengths[row, t + 1] = lengths[row, kept[t] + 1]


@njit(cache=True)
def _insert(vectors, levels, base, base_lengths, upper, upper_lengths, first_upper, start, stop, entry, M, ef, visited, epoch):
    """Algorithm 1 for the stored vectors start … stop-1; returns (entry point, epoch)."""
    pool_length, pool_node = np.empty(ef, np.float32), np.empty(ef, np.int32)
    found, fresh = np.empty(ef, np.int32), np.empty(2 * M, np.int32)
    kept, shrunk = np.empty(M, np.int32), np.empty(2 * M, np.int32)
    for new in range(start, stop):
        if entry < 0:
            entry = new
            continue
        found[0], size = entry, 1
        pool_length[0] = _between(vectors[new], vectors[entry])
        top = levels[entry]
        for layer in range(top, -1, -1):
            epoch += 1
            insert_here = layer <= levels[new]
            size = size if insert_here else 1
            for t in range(size):
                pool_node[t] = found[t] << 1
                visited[found[t]] = epoch
            links, lengths = (base, base_lengths) if layer == 0 else (upper, upper_lengths)
            width = ef if insert_here else 1
            size = _search_layer(
                vectors, links, first_upper, layer, vectors[new], width, pool_length, pool_node, size, fresh, visited, epoch
            )
            for t in range(size):
                found[t] = pool_node[t] >> 1
            if insert_here:
                chosen = _select(vectors, pool_length, found, size, M, kept)
                row = _row(first_upper, new, layer)
                links[row, 0] = chosen
                for t in range(chosen):
                    node, length = found[kept[t]], pool_length[kept[t]]
                    links[row, t + 1], lengths[row, t + 1] = node, length
                    capacity = M if layer else 2 * M
                    _link(vectors, links, lengths, _row(first_upper, node, layer), new, length, capacity, shrunk)
        if levels[new] > top:
            entry = new
    return entry, epoch


@njit(cache=True)
def _search(vectors, levels, base, upper, first_upper, entry, queries, ef, k, gone, visited, epoch, ids, distances):
    """Algorithm 5 for each query: fills `ids` and `distances`, leaving out tombstones; returns the epoch."""
    pool_length, pool_node, fresh = np.empty(ef, np.float32), np.empty(ef, np.int32), np.empty(base.shape[1], np.int32)
    for q in range(queries.shape[0]):
        query, nearest = queries[q], entry
        pool_length[0] = _between(query, vectors[entry])
        size = 1
        for layer in range(levels[entry], -1, -1):
            epoch += 1
            pool_node[0] = nearest << 1
            visited[nearest] = epoch
            links, width = (upper, 1) if layer else (base, ef)
            size = _search_layer(vectors, links, first_upper, layer, query, width, pool_length, pool_node, 1, fresh, visited, epoch)
            nearest = pool_node[0] >> 1
        found = 0
        for t in range(size):
            node = pool_node[t] >> 1
            if found < k and not gone[node]:
                ids[q, found], distances[q, found] = node, pool_length[t]
                found += 1
    return epoch


@njit(fastmath=True, cache=True)
def _l2_squared(query, X):
    out = np.empty(X.shape[0], np.float32)
    for i in range(X.shape[0]):
        out[i] = _between(query, X[i])
    return out


def l2_squared(query: NDArray[np.float32], X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared Euclidean distances of `query`, (d,), to the rows of `X`, (n, d): (n,) float32."""
    return _l2_squared(np.ascontiguousarray(query, np.float32), np.ascontiguousarray(X, np.float32))


def random_level(u: float, M: int) -> int:
    """Top layer of a new element, floor(−ln(u) / ln(M)), for `u` uniform in (0, 1] and `M` ≥ 2 (Algorithm 1, line 4)."""
    return math.floor(-math.log(u) / math.log(M))


def search_layer(
    distance_to: Callable[[list[int]], Any],
    entry_points: Sequence[int],
    ef: int,
    neighbors: Any,
    deleted: Collection[int] = frozenset(),
) -> list[tuple[float, int]]:
    """Algorithm 2: the `ef` nearest ids that are found from `entry_points`, as (distance, id), nearest first.

    `distance_to(ids)` measures several ids in one call, `neighbors[id]` lists the links of this layer. Ids in `deleted` are walked
    through and never returned.
    """
    visited, gone = set(entry_points), set(deleted)
    candidates = sorted(zip(map(float, distance_to(list(entry_points))), entry_points, strict=True))
    nearest = [(-length, node) for length, node in candidates if node not in gone][:ef]
    heapq.heapify(nearest)
    while candidates:
        length, node = heapq.heappop(candidates)
        if len(nearest) == ef and length > -nearest[0][0]:
            break
        fresh = [other for other in neighbors[node] if other not in visited]
        if not fresh:
            continue
        visited.update(fresh)
        for length, node in zip(map(float, distance_to(fresh)), fresh, strict=True):
            if len(nearest) < ef or length < -nearest[0][0]:
                heapq.heappush(candidates, (length, node))
                if node not in gone:
                    heapq.heappush(nearest, (-length, node))
                    if len(nearest) > ef:
                        heapq.heappop(nearest)
    return sorted((-length, node) for length, node in nearest)


def select_neighbors_heuristic(
    candidates: Sequence[Sequence[Any]], M: int, vectors: NDArray[np.float32], distance: Distance = l2_squared
) -> list[int]:
    """Algorithm 4: of `candidates`, (distance to the query, id) nearest first, at most `M` ids, none of them closer to an id kept
    before than to the query. One call of `distance` for each id kept."""
    ids = np.array([node for _, node in candidates], np.int64)
    to_query = np.array([length for length, _ in candidates], np.float32)
    kept: list[int] = []
    while len(ids) and len(kept) < M:
        kept.append(int(ids[0]))
        ids, to_query, nearest = ids[1:], to_query[1:], ids[0]
        if len(ids):
            diverse = to_query <= np.asarray(distance(vectors[nearest], vectors[ids]))
            ids, to_query = ids[diverse], to_query[diverse]
    return kept


class _Layer:
    """The links of one layer of an index, `layer[id] -> list of ids`."""

    def __init__(self, index: HNSW, number: int) -> None:
        self.index, self.number = index, number

    def __getitem__(self, node: int) -> list[int]:
        index = self.index
        if self.number > index._levels[node]:
            return []
        links = index._upper if self.number else index._base
        row = links[index._first_upper[node] + self.number - 1 if self.number else node]
        return row[1 : 1 + row[0]].tolist()

    def write(self, node: int, ids: list[int]) -> None:
        index = self.index
        links = index._upper if self.number else index._base
        links[index._first_upper[node] + self.number - 1 if self.number else node, : 1 + len(ids)] = [len(ids), *ids]


class HNSW:
    """An index of float32 vectors of dimension `dim`; ids count from 0 in the order of insertion.

    `M` ≥ 2 links on the upper layers and twice as many on layer 0; `ef_construction` ≥ 1 candidates at insertion. With another
    `distance` than `l2_squared` everything runs in plain Python. Raises ValueError for parameters out of range.
    """

    def __init__(self, dim: int, M: int = 16, ef_construction: int = 100, seed: int = 0, distance: Distance = l2_squared) -> None:
        if dim < 1 or M < 2 or ef_construction < 1:
            raise ValueError(f"need dim >= 1, M >= 2 and ef_construction >= 1, got {dim}, {M} and {ef_construction}")
        self.dim, self.M, self.ef_construction, self.seed, self.distance = dim, M, ef_construction, seed, distance
        self.entry_point: int | None = None
        self._rng = np.random.default_rng(seed)
        self._size = self._upper_size = self._epoch = 0
        self._vectors = np.empty((0, dim), np.float32)
        self._levels = self._first_upper = self._visited = np.empty(0, np.int32)
        self._gone = np.empty(0, np.bool_)
        self._base, self._upper = np.empty((0, 2 * M + 2), np.int32), np.empty((0, 2 * M + 2), np.int32)
        self._base_lengths, self._upper_lengths = self._base.astype(np.float32), self._upper.astype(np.float32)

    def __len__(self) -> int:
        return self._size

    @property
    def levels(self) -> list[int]:
        """Top layer of each id."""
        return self._levels[: self._size].tolist()

    @property
    def neighbors(self) -> list[list[list[int]]]:
        """`neighbors[layer][id]`: the ids that `id` links to on `layer`, [] where `id` does not reach up to it."""
        layers = map(_Layer, [self] * (1 + max(self.levels, default=0)), range(1 + max(self.levels, default=0)))
        return [[layer[node] for node in range(self._size)] for layer in layers]

    def add(self, vector: NDArray[np.float32]) -> int:
        """Insert one vector, (dim,), and return its id."""
        self.add_batch(np.asarray(vector, np.float32)[None])
        return self._size - 1

    def add_batch(self, X: NDArray[np.float32]) -> None:
        """Insert the rows of `X`, (n, dim), in order. Raises ValueError for another dimension."""
        if X.ndim != 2 or X.shape[1] != self.dim:
            raise ValueError(f"expected vectors of dimension {self.dim}, got an array of shape {X.shape}")
        start, stop = self._size, self._size + len(X)
        levels = [random_level(1.0 - u, self.M) for u in self._rng.random(len(X))]
        self._reserve(stop, self._upper_size + sum(levels))
        self._vectors[start:stop], self._levels[start:stop] = X, levels
        self._first_upper[start:stop] = self._upper_size + np.cumsum(levels) - levels
        self._size, self._upper_size = stop, self._upper_size + sum(levels)
        if self.distance is not l2_squared:
            for new in range(start, stop):
                self._insert_by_calls(new)
        elif start < stop:
            entry = -1 if self.entry_point is None else self.entry_point
            tables = self._base, self._base_lengths, self._upper, self._upper_lengths, self._first_upper
            self.entry_point, self._epoch = _insert(
                self._vectors, self._levels, *tables, start, stop, entry, self.M, self.ef_construction, self._visited, self._epoch
            )

    def _reserve(self, size: int, upper_size: int) -> None:
        names = ("_vectors", "_levels", "_first_upper", "_visited", "_gone", "_base", "_base_lengths")
        for name, wanted in [*((name, size) for name in names), ("_upper", upper_size), ("_upper_lengths", upper_size)]:
            table = getattr(self, name)
            if len(table) < wanted:
                grown = np.zeros((max(wanted, 2 * len(table)), *table.shape[1:]), table.dtype)
                grown[: len(table)] = table
                setattr(self, name, grown)

    def _measure(self, query: NDArray[np.float32]) -> Callable[[list[int]], Any]:
        return lambda ids: self.distance(query, self._vectors[ids])

    def _descend(self, distance_to: Callable[[list[int]], Any], level: int) -> list[int]:
        """Greedy search from the entry point down to the layer above `level`."""
        nearest = [self.entry_point or 0]
        for layer in range(int(self._levels[nearest[0]]), level, -1):
            nearest = [search_layer(distance_to, nearest, 1, _Layer(self, layer))[0][1]]
        return nearest

    def _insert_by_calls(self, new: int) -> None:
        """Algorithm 1 with a distance that is a Python function."""
        if self.entry_point is None:
            self.entry_point = new
            return
        level, top = int(self._levels[new]), int(self._levels[self.entry_point])
        distance_to = self._measure(self._vectors[new])
        nearest = self._descend(distance_to, level)
        for number in range(min(level, top), -1, -1):
            layer, capacity = _Layer(self, number), self.M if number else 2 * self.M
            found = search_layer(distance_to, nearest, self.ef_construction, layer)
            chosen = select_neighbors_heuristic(found, self.M, self._vectors, self.distance)
            layer.write(new, chosen)
            for node in chosen:
                links = [*layer[node], new]
                if len(links) > capacity:
                    lengths = map(float, self._measure(self._vectors[node])(links))
                    links = select_neighbors_heuristic(sorted(zip(lengths, links, strict=True)), capacity, self._vectors, self.distance)
                layer.write(node, links)
            nearest = [node for _, node in found]
        if level > top:
            self.entry_point = new

    def search(self, query: NDArray[np.float32], k: int, ef: int) -> tuple[list[int], list[float]]:
        """The `k` nearest ids of `query`, (dim,), and their distances, nearest first. An `ef` below k counts as k."""
        ids, distances = self.search_batch(np.asarray(query, np.float32)[None], k, ef)
        found = int((ids[0] >= 0).sum())
        return ids[0, :found].tolist(), distances[0, :found].tolist()

    def search_batch(self, Q: NDArray[np.float32], k: int, ef: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """`search` for each row of `Q`, (m, dim): ids, (m, k) int64, and distances, (m, k); −1 and inf where there are fewer than k."""
        ids, distances = np.full((len(Q), k), -1, np.int64), np.full((len(Q), k), np.inf, np.float32)
        if self.entry_point is None:
            return ids, distances
        if self.distance is l2_squared:
            # Tombstones take places in the pool, so it has one more for each: ef live ids still fit.
            width = min(max(ef, k) + int(self._gone.sum()), self._size)
            tables = self._vectors, self._levels, self._base, self._upper, self._first_upper
            Q = np.ascontiguousarray(Q, np.float32)
            self._epoch = _search(*tables, self.entry_point, Q, width, k, self._gone, self._visited, self._epoch, ids, distances)
            return ids, distances
        deleted = set(np.flatnonzero(self._gone).tolist())
        for i, query in enumerate(Q):
            distance_to = self._measure(query)
            found = search_layer(distance_to, self._descend(distance_to, 0), max(ef, k), _Layer(self, 0), deleted)[:k]
            for j, (length, node) in enumerate(found):
                ids[i, j], distances[i, j] = node, length
        return ids, distances

    def delete(self, id: int) -> None:
        """Never return `id` again; searches still walk through it. Raises KeyError if it is not there, or no more."""
        if not 0 <= id < self._size or self._gone[id]:
            raise KeyError(id)
        self._gone[id] = True

    def save(self) -> dict[str, Any]:
        """The index as a dict of ints, lists and arrays, for `load`."""
        tables = {name: getattr(self, name)[: self._size].copy() for name in _TABLES}
        upper = {name: getattr(self, name)[: self._upper_size].copy() for name in ("_upper", "_upper_lengths")}
        scalars = {name: getattr(self, name) for name in ("dim", "M", "ef_construction", "seed", "entry_point")}
        return scalars | tables | upper


_TABLES = ("_vectors", "_levels", "_first_upper", "_gone", "_base", "_base_lengths")


def load(state: dict[str, Any], distance: Distance = l2_squared) -> HNSW:
    """The index that `save` wrote, with the same answers to every search. Levels drawn later come from a new stream."""
    index = HNSW(state["dim"], state["M"], state["ef_construction"], state["seed"], distance)
    for name in (*_TABLES, "_upper", "_upper_lengths"):
        setattr(index, name, np.array(state[name]))
    index.entry_point = state["entry_point"]
    index._size, index._upper_size = len(index._vectors), len(index._upper)
    index._visited = np.zeros(index._size, np.int32)
    index._rng = np.random.default_rng([index.seed, index._size])
    return index


def save(index: HNSW) -> dict[str, Any]:
    """`index.save()`."""
    return index.save()


def build(X: NDArray[np.float32], M: int, ef_construction: int, seed: int, distance: Distance = l2_squared) -> HNSW:
    """An index of the rows of `X`, (n, d)."""
    index = HNSW(X.shape[1], M, ef_construction, seed, distance)
    index.add_batch(X)
    return index


def search_batch(index: HNSW, Q: NDArray[np.float32], k: int, ef: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """`index.search_batch(Q, k, ef)`."""
    return index.search_batch(Q, k, ef)
