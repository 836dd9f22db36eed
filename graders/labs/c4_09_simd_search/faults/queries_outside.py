"""Vectorised, but one query at a time and the queries in the outer loop: 24 MiB of rows pass through the core once for each query."""

FAILS = {"dot_batch_reuses_what_it_loads"}
# %% dot_batch
@njit(fastmath=FASTMATH)
def dot_batch(Q, X):
    scores = np.empty((Q.shape[0], X.shape[0]), np.float32)
    for i in range(Q.shape[0]):
        for j in range(X.shape[0]):
            scores[i, j] = dot(Q[i], X[j])
    return scores
