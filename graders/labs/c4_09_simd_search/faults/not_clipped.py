"""Forgets that rounding can carry a cosine beyond 1."""

FAILS = {"cosine_is_bounded_symmetric_and_scale_free"}
# %% cosine_batch
@njit(fastmath=FASTMATH)
def cosine_batch(Q, X):
    cosines = dot_batch(Q, X)
    for i in range(Q.shape[0]):
        for j in range(X.shape[0]):
            square = dot(Q[i], Q[i]) * dot(X[j], X[j])
            cosines[i, j] = cosines[i, j] / np.sqrt(square) if square > 0 else np.float32(0)
    return cosines
