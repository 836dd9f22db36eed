"""Divides its caller's vectors by their norms: the cosines are right, and the caller's data is gone."""

FAILS = {"inputs_are_left_alone"}
# %% cosine_batch
@njit(fastmath=FASTMATH)
def inverse_norms(X):
    inverse = np.zeros(X.shape[0], np.float32)
    for j in range(X.shape[0]):
        square = dot(X[j], X[j])
        if square > 0:
            inverse[j] = np.float32(1) / np.sqrt(square)
    return inverse


@njit(fastmath=FASTMATH)
def cosine_batch(Q, X):
    of_queries, of_rows = inverse_norms(Q), inverse_norms(X)
    for i in range(Q.shape[0]):
        Q[i] *= of_queries[i]
    for j in range(X.shape[0]):
        X[j] *= of_rows[j]
    cosines = dot_batch(Q, X)
    for i in range(Q.shape[0]):
        for j in range(X.shape[0]):
            cosines[i, j] = min(max(cosines[i, j], np.float32(-1)), np.float32(1))
    return cosines
