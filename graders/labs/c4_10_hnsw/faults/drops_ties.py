"""Keeps a candidate only if it is strictly closer to the query: one exact copy then drops all other links."""

FAILS = {"copies_do_not_cut_the_graph"}

# %% select_neighbors_heuristic
def select_neighbors_heuristic(candidates, M, vectors, distance=l2_squared):
    ids = np.array([i for _, i in candidates], dtype=np.int64)
    to_query = np.array([d for d, _ in candidates], dtype=np.float32)
    chosen = []
    while len(ids) and len(chosen) < M:
        best, ids, to_query = ids[0], ids[1:], to_query[1:]
        chosen.append(int(best))
        if len(ids):
            diverse = to_query < distance(vectors[best], vectors[ids])
            ids, to_query = ids[diverse], to_query[diverse]
    return chosen
