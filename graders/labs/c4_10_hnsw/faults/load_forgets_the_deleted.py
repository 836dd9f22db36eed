"""Brings deleted ids back to life when an index is loaded."""

FAILS = {"load_restores_what_save_wrote"}

# %% save_load
import copy


def save(index):
    return {
        "dim": index.dim,
        "M": index.M,
        "ef_construction": index.ef_construction,
        "seed": index.seed,
        "vectors": index.vectors[: len(index.levels)].copy(),
        "levels": list(index.levels),
        "neighbors": copy.deepcopy(index.neighbors),
        "entry_point": index.entry_point,
        "deleted": sorted(index.deleted),
    }


def load(state, distance=l2_squared):
    index = HNSW(state["dim"], state["M"], state["ef_construction"], state["seed"], distance)
    for vector, level in zip(state["vectors"], state["levels"]):
        index.new_id(vector, level)
    index.neighbors = copy.deepcopy(state["neighbors"])
    index.entry_point = state["entry_point"]
    # A new stream of levels: the old one would be drawn a second time.
    index.rng = np.random.default_rng([state["seed"], len(index.levels)])
    return index
