"""Checks of `c4_10_hnsw` that run in official grading only."""

from __future__ import annotations

import numpy as np

from graders import expect
from graders.checks import check
from graders.labs.c4_10_hnsw.checks import clustered, recall, squared_distances


@check(after=("heuristic_keeps_diverse_neighbours", "ef_of_n_is_exact"))
def copies_do_not_cut_the_graph(lab):
    """Where each vector was added ten times, searches still find the nearest: exact copies don't crowd out all other links.

    What does your heuristic do with a candidate that is as close to a kept id as to the query?
    """
    rng = lab.rng()
    originals, Q = clustered(rng, (48, 50), 16, 12, 0.3)
    X = np.repeat(originals, 10, axis=0)[rng.permutation(480)]
    index = lab.build(X, 8, 48, 11)
    reached = recall(lab.search_batch(index, Q, 10, 40), squared_distances(Q, X), 10)
    expect.that(reached >= 0.7, f"Recall@10 is {reached:.3f} on an index where each vector stands ten times; at least 0.7 is asked for.")
