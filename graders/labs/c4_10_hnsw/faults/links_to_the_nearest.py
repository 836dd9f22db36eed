"""Links to the M nearest in place of the diverse ones: clusters lose the roads between them."""

FAILS = {"heuristic_keeps_diverse_neighbours", "layer_0_is_connected", "recall_at_10_is_close_to_hnswlib"}

# %% select_neighbors_heuristic
def select_neighbors_heuristic(candidates, M, vectors, distance=l2_squared):
    return [i for _, i in candidates[:M]]
