"""Checks of `c4_09_simd_search` that run in official grading only."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from graders.checks import check
from graders.labs.c4_09_simd_search.checks import _exact_cosines, _expect_nearest


@check(after="cosine_topk_finds_the_nearest", max_examples=15)
@given(d=st.sampled_from([64, 384, 1537]), k=st.sampled_from([1, 10, 100]), worst_first=st.booleans(), seed=st.integers(0, 2**32 - 1))
def cosine_topk_finds_neighbours_in_clusters(lab, d, k, worst_first, seed):
    """`cosine_topk` is right on clustered vectors of very different lengths too, also if every row is nearer than the one before it."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((5, d), dtype=np.float32)
    X = centres[rng.integers(5, size=2500)] + np.float32(0.2) * rng.standard_normal((2500, d), dtype=np.float32)
    Q = centres[:3] + np.float32(0.1) * rng.standard_normal((3, d), dtype=np.float32)
    X *= np.exp(rng.uniform(-5, 5, 2500)).astype(np.float32)[:, None]
    if worst_first:
        X = np.ascontiguousarray(X[np.argsort(_exact_cosines(Q[:1], X)[0])])
    _expect_nearest(lab.cosine_topk(Q, X, k), _exact_cosines(Q, X), k)
