"""Leaves the sums strict: every result is right, and no loop over floats is vectorised."""

FAILS = {"dot_batch_is_vectorised", "dot_batch_reuses_what_it_loads", "cosine_topk_is_blocked"}
# %% permission
FASTMATH = set()
# %% dot_batch
@njit(fastmath=FASTMATH)
def dot_batch(Q, X):
    scores = np.empty((Q.shape[0], X.shape[0]), np.float32)
    for j in range(X.shape[0]):
        for i in range(Q.shape[0]):
            scores[i, j] = dot(Q[i], X[j])
    return scores
