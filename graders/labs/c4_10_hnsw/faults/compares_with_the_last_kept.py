"""Asks whether a candidate is closer to the query than to the last kept id, and forgets those before."""

FAILS = {"heuristic_keeps_diverse_neighbours"}


# %% select_neighbors_heuristic
def select_neighbors_heuristic(candidates, M, vectors, distance=l2_squared):
    chosen = []
    for d, i in candidates:
        if len(chosen) < M and (not chosen or d < distance(vectors[chosen[-1]], vectors[[i]])[0]):
            chosen.append(i)
    return chosen
