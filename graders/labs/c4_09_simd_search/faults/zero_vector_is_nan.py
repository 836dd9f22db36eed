"""Divides by the norms of all vectors: a zero vector becomes NaN."""

FAILS = {"zero_vectors_have_cosine_zero"}
# %% cosine_batch
@njit
def cosine_batch(Q, X):
    cosines = dot_batch(Q, X)
    for i in range(Q.shape[0]):
        for j in range(X.shape[0]):
            lengths = np.sqrt(dot(Q[i], Q[i])) * np.sqrt(dot(X[j], X[j]))
            cosine = cosines[i, j] / lengths if lengths > 0 else np.nan
            cosines[i, j] = cosine if np.isnan(cosine) else min(max(cosine, -1.0), 1.0)
    return cosines
